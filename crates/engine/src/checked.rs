//! Taking a changeset from somebody who is not trusted: each transaction is judged whole, and if one fails nothing of
//! the changeset is applied.
//!
//! Three things refuse a transaction: the [`Checker`], asked about the transaction and about each row before and
//! after; the table, whose CHECKs, NOT NULLs and types a merge would park; and a missing value of a required column.
//! Storage keeps no overwritten values, so of a changeset of many transactions all that wrote cells of an offending
//! row are blamed.

use crate::apply::{self, Merged, Options, Watch, told};
use crate::catalog::{KeyKind, Table};
use crate::changeset::wire;
use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target};
use crate::parked::Reason;
use crate::value::from_sql;
use crate::{Applied, SiteId, Value, VersionVector};
use rejoin_wire::{Reader, Row, limits::BYTES_MAX};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// A transaction of a changeset, as its sender tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionFacts {
    /// Who committed it, and its place in that site's count.
    pub site: SiteId,
    pub version: u64,
    /// Its hybrid logical clock value; 0 where versions are counted.
    pub clock: i64,
    /// The sender says that it is made of cells that came in row by row.
    pub relay: bool,
}

/// What a row goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

/// A row that a changeset changes, before and after.
#[derive(Debug)]
#[non_exhaustive]
pub struct RowFacts<'a> {
    pub table: &'a str,
    /// The packed key (`crsql_pack_columns`) as its sender spells it.
    pub key: &'a [u8],
    pub op: Op,
    /// The columns of the table in their order, those of the key too, without generated ones.
    pub columns: &'a [String],
    /// The row as it stands here, one value per column; None: it does not.
    pub old: Option<&'a [Value]>,
    /// The row as it would stand here.
    pub new: Option<&'a [Value]>,
    /// The transactions that wrote what the changeset has of the row.
    pub transactions: &'a [TransactionFacts],
}

/// Why a transaction is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A short word for programs.
    pub code: String,
    /// A sentence for people.
    pub reason: String,
}

/// Judges what a changeset does. Everything is allowed unless a method says otherwise.
///
/// It is called inside the transaction that applies the changeset and must not use the replica's connection. Changes that
/// lose against what is here change nothing and are not asked about.
pub trait Checker {
    /// Larger changesets, as they are or decompressed, are an error.
    fn bytes_max(&self) -> usize {
        BYTES_MAX
    }

    /// Changesets of more rows and transactions together are an error: each takes memory until all are applied.
    fn items_max(&self) -> u64 {
        u64::MAX
    }

    /// A transaction that is new here; asked before any row is looked at.
    fn transaction(&mut self, _transaction: &TransactionFacts) -> Result<(), Refusal> {
        Ok(())
    }

    /// The sender says that everybody has acknowledged what is below this horizon, which goes beyond the one here; believed, what was
    /// deleted below it is forgotten here, too. Not believed (the default), the changeset is an error. Who hands back what a
    /// server lost may have forgotten more than the server's backup.
    fn horizon(&mut self, _horizon: &VersionVector) -> bool {
        false
    }

    /// Versions of a site that are new here and of which nothing is left; asked before any row is looked at.
    fn empty(&mut self, _site: SiteId, _from: u64, _to: u64) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether [`Checker::row`] is to be asked about the rows of a table. Reading them has its price.
    fn looks_at(&mut self, _table: &str) -> bool {
        true
    }

    /// A row that changes here.
    fn row(&mut self, _row: &RowFacts<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// A transaction brings cells of another site than its own that are new here.
    fn foreign(&mut self, _transaction: &TransactionFacts, _author: SiteId) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A row by table and packed key (`crsql_pack_columns`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    pub table: String,
    pub pk: Vec<u8>,
}

/// One refused transaction, and the first row that it was refused for, if it was a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub site: SiteId,
    pub version: u64,
    pub code: String,
    pub reason: String,
    pub row: Option<RowKey>,
}

/// A table, or a column of it, that a changeset names and this replica lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub table: String,
    /// None: the table itself.
    pub column: Option<String>,
}

/// What came of a changeset that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    Applied(Applied),
    /// Nothing was applied.
    Rejected {
        /// Every failing transaction.
        rejections: Vec<Rejection>,
        /// Every row that one of them touches: its sender needs their state here ([`crate::Replica::row_states`]).
        rows: Vec<RowKey>,
    },
    /// It is of a later schema: nothing was applied, and it can be taken when these are here.
    Ahead(Vec<Missing>),
}

/// The code of a rejection by a constraint of the table.
pub const CODE_CONSTRAINT: &str = "constraint";
/// The code of a rejection for a missing value.
pub const CODE_INCOMPLETE: &str = "incomplete";

pub fn apply(engine: &Engine, bytes: &[u8], checker: &mut dyn Checker) -> Result<Checked> {
    let reader = Reader::open_bounded(bytes, checker.bytes_max()).map_err(wire)?;
    let items = reader.transactions().len() as u64 + reader.tables().map(|t| t.rows).sum::<u64>();
    if items > checker.items_max() {
        return Err(Error::TooMany { items, items_max: checker.items_max() });
    }
    let mut checking = Checking::new(checker, &reader)?;
    let done = apply::apply_watched(engine, &reader, Options::default(), Some(&mut checking));
    let Checking { rejected, missing, fresh, ended, .. } = checking;
    if !ended {
        return done.map(Checked::Applied);
    }
    if !missing.is_empty() {
        return Ok(Checked::Ahead(missing.into_iter().collect()));
    }
    let rows = touched(&reader, |txn| {
        let facts = fresh.get(txn).copied().flatten();
        facts.is_some_and(|f: TransactionFacts| rejected.contains_key(&(f.site, f.version)))
    })?;
    Ok(Checked::Rejected { rejections: rejected.into_values().collect(), rows })
}

/// The rows with cells of some transactions of a changeset.
fn touched(reader: &Reader<'_>, of: impl Fn(usize) -> bool) -> Result<Vec<RowKey>> {
    let mut all = BTreeSet::new();
    for index in 0..reader.table_count() {
        let mut rows = reader.table(index).map_err(wire)?;
        let table = rows.name().current.text.to_owned();
        while let Some(row) = rows.next_row().map_err(wire)? {
            if transactions_of(&row).any(&of) {
                all.insert(RowKey { table: table.clone(), pk: row.key.to_vec() });
            }
        }
    }
    Ok(all.into_iter().collect())
}

fn transactions_of<'r>(row: &Row<'r>) -> impl Iterator<Item = usize> + 'r {
    let groups = row.meta.groups.iter().map(|g| g.stamp.db_version);
    row.meta.sentinel.map(|s| s.db_version).into_iter().chain(groups).map(|txn| txn as usize)
}

/// How a table is read for the checker.
struct Watched {
    reader: RowReader,
    columns: Vec<String>,
    /// For each of `columns` its place among the reader's.
    places: Vec<usize>,
}

impl Watched {
    fn new(core: &Core, t: &Rc<Table>) -> Result<Watched> {
        let mut all: Vec<(usize, &str, usize)> =
            t.cols.iter().enumerate().map(|(n, c)| (c.pos, c.name.as_str(), n)).collect();
        all.extend(t.keys.iter().enumerate().map(|(n, k)| (k.pos, k.name.as_str(), t.cols.len() + n)));
        all.sort_unstable();
        let columns = all.iter().map(|a| a.1.to_owned()).collect();
        let places = all.iter().map(|a| a.2).collect();
        Ok(Watched { reader: RowReader::new(core.db, t)?, columns, places })
    }

    fn read(&mut self, core: &Core, at: (u32, u64)) -> Result<Option<Vec<Value>>> {
        let Some(work) = core.txn.works.get(&at) else { return Ok(None) };
        let there = match (&work.key, work.row) {
            (Some(key), _) if work.table.kind == KeyKind::Keyed => self.reader.seek(Target::Key(key))?,
            (_, Some(row)) => self.reader.seek(Target::Row(row))?,
            _ => false,
        };
        let width = self.reader.table.cols.len();
        let value = |n: &usize| match n.checked_sub(width) {
            Some(key) => from_sql(self.reader.key(key)).to_owned(),
            None => from_sql(self.reader.column(*n)).to_owned(),
        };
        let row = there.then(|| self.places.iter().map(value).collect());
        self.reader.done();
        Ok(row)
    }
}

/// A row between the look before and the look after.
struct Open {
    at: (u32, u64),
    old: Option<Vec<Value>>,
}

struct Checking<'c> {
    checker: &'c mut dyn Checker,
    /// Per transaction of the changeset its facts if it is new here.
    fresh: Vec<Option<TransactionFacts>>,
    sites: Vec<SiteId>,
    rejected: BTreeMap<(SiteId, u64), Rejection>,
    missing: BTreeSet<Missing>,
    looks_at: HashMap<u32, bool>,
    tables: HashMap<u32, Watched>,
    open: Option<Open>,
    /// All was seen that had to be, and it must not stand.
    ended: bool,
}

fn malformed() -> Error {
    Error::Changeset { why: "it names a site that it does not list".into() }
}

impl<'c> Checking<'c> {
    fn new(checker: &'c mut dyn Checker, reader: &Reader<'_>) -> Result<Checking<'c>> {
        Ok(Checking {
            checker,
            fresh: Vec::new(),
            sites: reader.sites().to_vec(),
            rejected: BTreeMap::new(),
            missing: BTreeSet::new(),
            looks_at: HashMap::new(),
            tables: HashMap::new(),
            open: None,
            ended: false,
        })
    }

    /// Ends what is refused, by an error that is not told.
    fn settle(&mut self) -> Result<()> {
        self.ended = !self.rejected.is_empty() || !self.missing.is_empty();
        if self.ended { Err(Error::State { why: "the changeset is refused".into() }) } else { Ok(()) }
    }

    fn reject(&mut self, site: SiteId, version: u64, why: &Refusal, row: Option<RowKey>) {
        let Refusal { code, reason } = why.clone();
        let rejection = Rejection { site, version, code, reason, row };
        self.rejected.entry((site, version)).or_insert(rejection);
    }

    /// Refuses everybody who wrote what came of a row.
    fn reject_row(&mut self, row: &Merged<'_>, why: &Refusal) {
        let key = RowKey { table: row.t.name.clone(), pk: row.row.key.to_vec() };
        for facts in self.facts(row.by) {
            self.reject(facts.site, facts.version, why, Some(key.clone()));
        }
    }

    fn facts(&self, by: &[(usize, i64)]) -> Vec<TransactionFacts> {
        by.iter().filter_map(|(i, _)| self.fresh.get(*i).copied().flatten()).collect()
    }

    fn looks_at(&mut self, id: u32, name: &str) -> bool {
        let checker = &mut self.checker;
        *self.looks_at.entry(id).or_insert_with(|| checker.looks_at(name))
    }

    /// Every version comes after one that is held or comes with it.
    fn check_unbroken(core: &Core, reader: &Reader<'_>) -> Result<()> {
        let told = told(reader)?;
        let mut comes = VersionVector::new();
        for t in &told {
            comes.insert_range(t.site, t.from..=t.to);
        }
        for t in told.iter().filter(|t| t.from > 1 && !core.vector.contains(&t.site, t.from)) {
            if core.vector.contains(&t.site, t.from - 1) || comes.contains(&t.site, t.from - 1) {
                continue;
            }
            let mut below = VersionVector::new();
            below.insert_range(t.site, 1..=t.from - 1);
            let missing = below.missing_from(&core.vector).missing_from(&comes);
            let last = missing.ranges(&t.site).and_then(|r| r.iter().last());
            let (from, to) = last.map_or((1, t.from - 1), |r| (*r.start(), *r.end()));
            return Err(Error::Gap { site: t.site.to_string(), from, to });
        }
        Ok(())
    }

    fn ask_about_log(&mut self, core: &Core, reader: &Reader<'_>) -> Result<()> {
        for t in reader.transactions() {
            let site = *reader.sites().get(t.origin as usize).ok_or_else(malformed)?;
            let facts = TransactionFacts { site, version: t.version, clock: t.clock, relay: t.relay };
            let new = !core.vector.contains(&site, t.version);
            self.fresh.push(new.then_some(facts));
            if new && let Err(why) = self.checker.transaction(&facts) {
                self.reject(site, t.version, &why, None);
            }
        }
        for r in reader.empty_ranges() {
            let site = *reader.sites().get(r.site as usize).ok_or_else(malformed)?;
            let mut all = VersionVector::new();
            all.insert_range(site, r.from..=r.to);
            let fresh = all.missing_from(&core.vector);
            for range in fresh.ranges(&site).into_iter().flat_map(|r| r.iter()) {
                if let Err(why) = self.checker.empty(site, *range.start(), *range.end()) {
                    self.reject(site, *range.end(), &why, None);
                }
            }
        }
        Ok(())
    }

    /// Cells that are not their transaction's own and stand here now.
    fn ask_about_foreign(&mut self, core: &mut Core, row: &Merged<'_>, at: (u32, u64)) -> Result<()> {
        let Some(work) = core.txn.works.get(&at) else { return Ok(()) };
        let cells = work.meta.cells().map(|c| (c.1.db_version, c.1.site));
        let mut written: Vec<(i64, u32)> =
            work.meta.sentinel.map(|s| (s.db_version, s.site)).into_iter().chain(cells).collect();
        if row.parked {
            let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
            let parked = core.parked_of_row(row.t.id, &pk)?;
            written.extend(parked.iter().map(|p| (p.db_version, p.site)));
        }
        let mut asked = BTreeSet::new();
        for (db_version, author) in written {
            let Some((txn, _)) = row.by.iter().find(|b| b.1 == db_version) else { continue };
            let Some(facts) = self.fresh.get(*txn).copied().flatten() else { continue };
            let author = core.sites.id(author).unwrap_or_default();
            if author == facts.site || !asked.insert((*txn, author)) {
                continue;
            }
            if let Err(why) = self.checker.foreign(&facts, author) {
                let key = RowKey { table: row.t.name.clone(), pk: row.row.key.to_vec() };
                self.reject(facts.site, facts.version, &why, Some(key));
            }
        }
        Ok(())
    }

    /// What a merge would park because the table cannot take it.
    fn ask_table(&mut self, core: &mut Core, row: &Merged<'_>) -> Result<()> {
        let (at, work) = core.take_foreign(row.t, row.row.key)?;
        let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
        core.txn.works.insert(at, work);
        let waits = |name: &str| name == Reason::Incomplete.name() || name == Reason::Constraint.name();
        let parked = core.parked_of_row(row.t.id, &pk)?;
        let mine = parked.iter().any(|p| waits(&p.reason) && row.by.iter().any(|b| b.1 == p.db_version));
        if !mine && row.refusal.is_none() {
            return Ok(());
        }
        let why = match &row.refusal {
            Some(Error::Constraint { table, why, .. }) => Refusal {
                code: CODE_CONSTRAINT.into(),
                reason: format!("the values do not fit table \"{table}\": {why}"),
            },
            _ => Refusal {
                code: CODE_INCOMPLETE.into(),
                reason: format!("a required column of table \"{}\" has no value", row.t.name),
            },
        };
        self.reject_row(row, &why);
        Ok(())
    }

    fn ask_about_row(&mut self, core: &Core, row: &Merged<'_>, open: &Open) -> Result<()> {
        let transactions = self.facts(row.by);
        let Some(watched) = self.tables.get_mut(&row.t.id) else { return Ok(()) };
        let new = watched.read(core, open.at)?;
        let op = match (&open.old, &new) {
            (None, Some(_)) => Op::Insert,
            (Some(_), Some(_)) => Op::Update,
            _ if row.row.meta.cl & 1 == 0 => Op::Delete,
            (Some(_), None) => Op::Delete,
            (None, None) => Op::Insert,
        };
        let facts = RowFacts {
            table: &row.t.name,
            key: row.row.key,
            op,
            columns: &watched.columns,
            old: open.old.as_deref(),
            new: new.as_deref(),
            transactions: &transactions,
        };
        if let Err(why) = self.checker.row(&facts) {
            self.reject_row(row, &why);
        }
        Ok(())
    }
}

impl Watch for Checking<'_> {
    fn begin(&mut self, core: &mut Core, reader: &Reader<'_>) -> Result<()> {
        Checking::check_unbroken(core, reader)?;
        self.ask_about_log(core, reader)?;
        // What must not come at all is not tried.
        self.settle()
    }

    fn heeds(&mut self, horizon: &VersionVector) -> bool {
        self.checker.horizon(horizon)
    }

    fn wants(&mut self, t: &Table, row: &Row<'_>, by: &[(usize, i64)]) -> bool {
        let origin = |txn: i64| self.fresh.get(txn as usize).copied().flatten().map(|f| f.site);
        let foreign = |txn: i64, site: u32| {
            let author = self.sites.get(site as usize).copied();
            origin(txn).is_some_and(|origin| author != Some(origin))
        };
        let meta = row.meta;
        let relayed = meta.sentinel.is_some_and(|s| foreign(s.db_version, s.site))
            || meta.groups.iter().any(|g| foreign(g.stamp.db_version, g.stamp.site));
        !by.is_empty() && (relayed || self.looks_at(t.id, &t.name))
    }

    fn before(&mut self, core: &mut Core, t: &Rc<Table>, row: &Row<'_>) -> Result<()> {
        let at = core.work_foreign(t, row.key)?;
        let mut old = None;
        if self.looks_at(t.id, &t.name) {
            let watched = match self.tables.entry(t.id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(slot) => slot.insert(Watched::new(core, t)?),
            };
            old = watched.read(core, at)?;
        }
        self.open = Some(Open { at, old });
        Ok(())
    }

    fn after(&mut self, core: &mut Core, row: &Merged<'_>, accepted: Result<i64>) -> Result<i64> {
        let open = self.open.take();
        let accepted = match accepted {
            // A trigger of the table refuses a delete.
            Err(Error::Constraint { table, why, .. }) => {
                let reason = format!("table \"{table}\" refuses it: {why}");
                self.reject_row(row, &Refusal { code: CODE_CONSTRAINT.into(), reason });
                return Ok(0);
            }
            other => other?,
        };
        if accepted == 0 {
            return Ok(0);
        }
        if row.parked || row.refusal.is_some() {
            self.ask_table(core, row)?;
        }
        if let Some(open) = open {
            self.ask_about_foreign(core, row, open.at)?;
            if self.looks_at(row.t.id, &row.t.name) {
                self.ask_about_row(core, row, &open)?;
            }
        }
        Ok(accepted)
    }

    fn missing(&mut self, table: &str, column: Option<&str>) {
        self.missing.insert(Missing { table: table.to_owned(), column: column.map(str::to_owned) });
    }

    fn end(&mut self) -> Result<()> {
        self.settle()
    }
}
