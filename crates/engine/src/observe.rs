//! What a committed transaction changed: for live queries and servers.
//!
//! Changes are noted when metadata is written, and only while somebody observes. A ROLLBACK TO takes back what was
//! noted since the savepoint.

use crate::catalog::{KeyKind, Table};
use crate::core::{Txn, Work};
use rejoin_crdt::ValueRef;
use rejoin_crdt::meta::ColSet;
use std::collections::BTreeMap;
use std::rc::Rc;

/// One committed transaction. A changeset brings as many as it has transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    pub db_version: i64,
    /// Written here; merged changes are not, however they came.
    pub local: bool,
    pub tables: Vec<TableChange>,
}

/// What changed in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableChange {
    pub name: String,
    /// Packed keys (`crsql_pack_columns`) of the rows that changed, came or went, ascending.
    pub keys: Vec<Vec<u8>>,
    /// The columns that changed, in the order of the table; where rows came or went, all of them, the key's too.
    pub columns: Vec<String>,
}

/// One changed row.
pub struct Noted {
    db_version: i64,
    foreign: bool,
    table: Rc<Table>,
    key: Vec<u8>,
    columns: ColSet,
    life: bool,
}

/// What the open transaction has changed so far, with marks for savepoints.
#[derive(Default)]
pub struct Notes {
    noted: Vec<Noted>,
    /// The `base_db_version` at first, and after each step to another transaction of the log.
    bases: Vec<i64>,
    marks: Vec<Mark>,
    /// Rows are told as a whole: which changes they have now came with other transactions.
    whole: bool,
}

struct Mark {
    level: i32,
    noted: usize,
    bases: usize,
}

impl Notes {
    pub fn savepoint(&mut self, level: i32) {
        self.release(level);
        self.marks.push(Mark { level, noted: self.noted.len(), bases: self.bases.len() });
    }

    /// From `before` on, versions are counted from `now`.
    pub fn step(&mut self, before: i64, now: i64) {
        if self.bases.is_empty() {
            self.bases.push(before);
        }
        self.bases.push(now);
        self.whole = false;
    }

    pub fn base(&self) -> Option<i64> {
        self.bases.last().copied()
    }

    pub fn release(&mut self, level: i32) {
        self.marks.retain(|m| m.level < level);
    }

    /// Without a mark of the level the savepoint is older than all notes.
    pub fn rollback_to(&mut self, level: i32) {
        let mark = self.marks.iter().find(|m| m.level == level);
        let (noted, bases) = mark.map_or((0, 0), |m| (m.noted, m.bases));
        self.marks.retain(|m| m.level <= level);
        self.noted.truncate(noted);
        // The first is the one before any step.
        self.bases.truncate(bases.max(1));
    }

    /// A row that came into another state, whoever wrote what it has now.
    pub fn note_whole(&mut self, work: &Work, db_version: i64) {
        let (table, key) = (Rc::clone(&work.table), shown(work));
        let noted = Noted { db_version, foreign: true, table, key, columns: ColSet::EMPTY, life: true };
        self.noted.push(noted);
        self.whole = true;
    }

    pub fn note(&mut self, work: &Work, own: u32) {
        if self.whole {
            return;
        }
        for &db_version in &work.touched {
            let meta = &work.meta;
            let sentinel = meta.sentinel.filter(|s| s.db_version == db_version);
            let mut foreign = sentinel.is_some_and(|s| s.site != own);
            let mut columns = ColSet::EMPTY;
            for (col, stamp, _) in meta.cells().filter(|c| c.1.db_version == db_version) {
                columns.insert(col);
                foreign |= stamp.site != own;
            }
            let life = sentinel.is_some() || (work.stored.is_none() && !columns.is_empty());
            if !life && columns.is_empty() {
                continue;
            }
            let key = shown(work);
            let table = Rc::clone(&work.table);
            self.noted.push(Noted { db_version, foreign, table, key, columns, life });
        }
    }
}

/// The packed key that a row shows.
fn shown(work: &Work) -> Vec<u8> {
    match (&work.spelling, &work.key, work.row) {
        (Some(key), _, _) | (None, Some(key), _) if work.table.kind != KeyKind::RowId => key.to_vec(),
        (_, _, Some(row)) => rejoin_crdt::key::pack([ValueRef::Int(row)]).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The notes of a committed transaction, by db_version.
pub fn commits(txn: Txn) -> Vec<Commit> {
    let mut versions: BTreeMap<i64, (bool, BTreeMap<u32, Vec<Noted>>)> = BTreeMap::new();
    for n in txn.notes.noted {
        let (local, tables) = versions.entry(n.db_version).or_insert((true, BTreeMap::new()));
        *local &= !n.foreign && !txn.applied.contains_key(&n.db_version);
        tables.entry(n.table.id).or_default().push(n);
    }
    let commit = |(db_version, (local, tables)): (i64, (bool, BTreeMap<u32, Vec<Noted>>))| {
        let tables = tables.into_values().filter_map(table_change).collect();
        Commit { db_version, local, tables }
    };
    versions.into_iter().map(commit).collect()
}

fn table_change(notes: Vec<Noted>) -> Option<TableChange> {
    // The youngest knows the table as it is now.
    let table = Rc::clone(&notes.last()?.table);
    let life = notes.iter().any(|n| n.life);
    let mut changed = ColSet::EMPTY;
    notes.iter().for_each(|n| changed.union_with(&n.columns));
    let mut columns: Vec<(usize, &str)> = table
        .cols
        .iter()
        .filter(|c| life || changed.contains(c.id))
        .map(|c| (c.pos, c.name.as_str()))
        .collect();
    if life {
        columns.extend(table.keys.iter().map(|k| (k.pos, k.name.as_str())));
    }
    columns.sort_unstable();
    let mut keys: Vec<Vec<u8>> = notes.into_iter().map(|n| n.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let columns = columns.into_iter().map(|c| c.1.to_owned()).collect();
    Some(TableChange { name: table.name.clone(), keys, columns })
}
