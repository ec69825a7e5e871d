//! What the checker knows by itself: who committed what, on top of which value, and whether that may be gone.
//!
//! Each transaction has a number that it also writes into the table `receipt`, so whether it survived stands in the
//! database itself. A cell's values are numbers of transactions, so what a value replaced is known, too.

use std::collections::{BTreeMap, BTreeSet};

/// A cell of the table `own`: key and column.
pub type Cell = (i64, &'static str);

#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub node: usize,
    /// The cells that it wrote, and what they showed before.
    pub cells: Vec<(Cell, Option<i64>)>,
    /// Rows of `mark`, which are made once and never again.
    pub born: Vec<i64>,
    pub died: Vec<i64>,
    pub changed: Vec<i64>,
    /// Site and version under which it was committed.
    pub place: Option<([u8; 16], u64)>,
    /// The client was green after it.
    pub acknowledged: bool,
    /// It stood in `crsql_rejected`.
    pub rejected: bool,
    /// The application wrote it again.
    pub retried: bool,
    /// Two files had it before the server judged it: each copy is judged by itself.
    pub copied: bool,
    /// The only file that had it is gone.
    pub excused: bool,
}

#[derive(Default)]
pub struct Ledger {
    pub all: BTreeMap<i64, Transaction>,
    /// The transactions in each client's file that were committed there, in order.
    pub logs: Vec<Vec<i64>>,
    last: i64,
    /// What the room has acknowledged since it was copied.
    since_backup: BTreeSet<i64>,
}

impl Ledger {
    pub fn next(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    pub fn committed(&mut self, number: i64, transaction: Transaction) {
        self.logs[transaction.node].push(number);
        self.all.insert(number, transaction);
    }

    /// A client was green, and held its site up to this version.
    pub fn acknowledged(&mut self, node: usize, site: &[u8; 16], version: u64) {
        for number in self.logs[node].iter().rev() {
            let Some(t) = self.all.get_mut(number) else { continue };
            if t.acknowledged {
                break;
            }
            if t.place.is_some_and(|(of, at)| of == *site && at <= version) {
                t.acknowledged = true;
                self.since_backup.insert(*number);
            }
        }
    }

    /// The transaction that was committed in that place.
    pub fn number_of(&self, site: &[u8; 16], version: u64) -> Option<i64> {
        let found = self.all.iter().find(|(_, t)| t.place == Some((*site, version)));
        found.map(|(number, _)| *number)
    }

    /// A client's file was replaced by one in which these are.
    pub fn replaced(&mut self, node: usize, log: Vec<i64>) {
        for number in &log {
            if let Some(t) = self.all.get_mut(number) {
                t.copied |= !t.acknowledged;
            }
        }
        let lost = std::mem::replace(&mut self.logs[node], log);
        self.excuse(&lost);
    }

    pub fn backed_up(&mut self) {
        self.since_backup.clear();
    }

    /// The room's file was replaced by its copy.
    pub fn room_restored(&mut self) {
        let lost: Vec<i64> = std::mem::take(&mut self.since_backup).into_iter().collect();
        for number in &lost {
            if let Some(t) = self.all.get_mut(number) {
                t.acknowledged = false;
            }
        }
        self.excuse(&lost);
    }

    /// What nobody has acknowledged and no file has may be gone.
    fn excuse(&mut self, lost: &[i64]) {
        let kept: BTreeSet<i64> = self.logs.iter().flatten().copied().collect();
        for number in lost.iter().filter(|n| !kept.contains(n)) {
            if let Some(t) = self.all.get_mut(number) {
                t.excused |= !t.acknowledged;
            }
        }
    }

    /// Holds the tables, as they are everywhere in the end, against what was committed. `row_wise`: transactions were
    /// copied without their borders.
    /// `started_over`: somebody replayed what it had on a snapshot that has forgotten deletions.
    pub fn check(&self, end: &End, row_wise: bool, started_over: bool) {
        for (number, t) in &self.all {
            let there = end.receipts.contains(number);
            let must = !t.rejected && !t.excused;
            assert!(there || !must, "transaction {number} of client {} is lost: {t:?}", t.node);
            let given_up = t.rejected && !t.retried && !t.copied && !row_wise;
            assert!(
                !there || !given_up,
                "transaction {number} of client {} was rejected and is there",
                t.node
            );
        }
        for number in &end.receipts {
            assert!(self.all.contains_key(number), "nobody made transaction {number}");
        }
        self.check_marks(end, row_wise, started_over);
        self.check_cells(end, row_wise);
    }

    fn check_marks(&self, end: &End, row_wise: bool, started_over: bool) {
        let survived = |n: &&i64| end.receipts.contains(n);
        let mut died: BTreeMap<i64, i64> = BTreeMap::new();
        for (number, t) in self.all.iter().filter(|(n, _)| survived(n)) {
            died.extend(t.died.iter().map(|d| (*d, *number)));
        }
        // A row of which every value is new looks like a new row.
        let as_new: BTreeSet<i64> = self.all.values().flat_map(|t| t.changed.iter().copied()).collect();
        let taken_back: BTreeSet<i64> = self
            .all
            .values()
            .filter(|t| t.rejected)
            .flat_map(|t| t.died.iter().chain(&t.changed).copied())
            .collect();
        for (number, t) in &self.all {
            for mark in &t.born {
                match died.get(mark) {
                    Some(_) if started_over && as_new.contains(mark) => {}
                    Some(by) => assert!(!end.marks.contains(mark), "mark {mark} is back, which {by} deleted"),
                    // Who gave up what it did to a row has what the server has, perhaps nothing yet.
                    None if survived(&number) && !t.retried && !row_wise && !taken_back.contains(mark) => {
                        assert!(end.marks.contains(mark), "mark {mark} is gone, and nobody deleted it");
                    }
                    None => {}
                }
            }
        }
    }

    fn check_cells(&self, end: &End, row_wise: bool) {
        let mut writers: BTreeMap<Cell, Vec<(i64, Option<i64>)>> = BTreeMap::new();
        for (number, t) in &self.all {
            for (cell, before) in &t.cells {
                writers.entry(*cell).or_default().push((*number, *before));
            }
        }
        for (cell, writes) in &writers {
            let shown = end.cells.get(cell).copied().flatten();
            if let Some(shown) = shown {
                let good = end.receipts.contains(&shown) || row_wise;
                assert!(good, "cell {cell:?} shows {shown}, which did not survive");
            }
            let before: BTreeMap<i64, Option<i64>> = writes.iter().copied().collect();
            // What was overwritten by what was given up is not known any more. Row by row a later write gets to where the earlier
            // one is without what it knew, and takes its place before it is rejected there.
            if row_wise && writes.iter().any(|(n, _)| self.all[n].rejected) {
                continue;
            }
            let mut given_up = BTreeSet::new();
            for (number, _) in writes.iter().filter(|(n, _)| self.all[n].rejected) {
                let mut at = before.get(number).copied().flatten();
                while let Some(n) = at.filter(|n| given_up.insert(*n)) {
                    at = before.get(&n).copied().flatten();
                }
            }
            for (number, _) in writes {
                let t = &self.all[number];
                if !end.receipts.contains(number) || t.retried || given_up.contains(number) {
                    continue;
                }
                let mut at = Some(*number);
                let mut older = BTreeSet::new();
                while let Some(n) = at {
                    at = before.get(&n).copied().flatten().filter(|n| older.insert(*n));
                }
                let lost = shown.is_none_or(|s| older.contains(&s) && s != *number);
                assert!(!lost, "cell {cell:?} shows {shown:?}, but {number} was written on top of that");
            }
        }
    }
}

/// What the tables of a replica say.
pub struct End {
    pub receipts: BTreeSet<i64>,
    pub marks: BTreeSet<i64>,
    pub cells: BTreeMap<Cell, Option<i64>>,
}
