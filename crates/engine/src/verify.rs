//! `verify`: whether the metadata agrees with the tables and with itself; `repair` lets it agree again.
//!
//! What is compared:
//!
//! - SQLite's own structure (`PRAGMA integrity_check`);
//! - the log: every row decodes, db_versions do not fall, origins are known, the chain of each origin holds;
//! - the version vector against the log;
//! - per table: every living record has its row, or waits for values; every row has its record; key hashes fit;
//!   nothing stands in two places; every stamp names a known site and a log row that lists the place; what has no
//!   stamp has the column's default; the capture triggers stand;
//! - parked changes: known sites, and log rows that say so.
//!
//! Memory: two dozen bytes per log row, and one block of records at a time. Tables are read once, in the order of
//! their rowids, or point by point where the key is the place.

mod log;
mod repair;
mod table;

use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::value::from_sql;
use rejoin_crdt::{Value, ValueRef};
use rejoin_sqlite::Db;
use std::collections::{BTreeMap, BTreeSet};

pub use repair::repair;

/// So many problems are told one by one; the rest is counted.
const LISTED_MAX: usize = 1000;

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Replicated tables that were compared.
    pub tables: u64,
    /// Records of rows, tombstones included, that were compared.
    pub rows: u64,
    /// Log rows that were read.
    pub transactions: u64,
    pub problems: Vec<Problem>,
    /// Problems beyond those listed.
    pub more: u64,
    /// Problems that `repair` found and that are gone now.
    pub repaired: u64,
}

impl Report {
    /// Metadata and tables agree.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// One contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    pub table: Option<String>,
    /// The row's packed key (`crsql_pack_columns`), where one row is meant.
    pub key: Option<Vec<u8>>,
    /// What contradicts what.
    pub what: String,
    /// What to do about it, and what that costs.
    pub advice: String,
    /// `repair` can do it.
    pub repairable: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(table) = &self.table {
            write!(f, "table \"{table}\"")?;
            if let Some(key) = &self.key {
                write!(f, ", key {}", key_text(key))?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}; {}", self.what, self.advice)
    }
}

/// The values of a packed key; None: it is none.
pub fn unpack_key(packed: &[u8]) -> Option<Vec<Value>> {
    let values = rejoin_crdt::key::unpack(packed).ok()?;
    Some(values.map(|v| v.to_owned()).collect())
}

/// A packed key for people: `7` or `('a', 7)`.
pub fn key_text(packed: &[u8]) -> String {
    let Ok(values) = rejoin_crdt::key::unpack(packed) else {
        return "(not a key)".into();
    };
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let one = |v: ValueRef<'_>| match v {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Int(i) => i.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => crate::format::literal(&String::from_utf8_lossy(t)),
        ValueRef::Blob(b) => format!("x'{}'", hex(b)),
    };
    let all: Vec<String> = values.map(one).collect();
    match all.as_slice() {
        [one] => one.clone(),
        all => format!("({})", all.join(", ")),
    }
}

/// What is to be mended, beside the report.
#[derive(Default)]
struct Findings {
    report: Report,
    /// Log rows that cannot be decoded.
    log: Vec<i64>,
    /// Ordinals that something names and that no site has.
    sites: BTreeSet<u32>,
    vector: bool,
    parked: bool,
    /// Row blocks and key blocks that cannot be decoded: table, block or id.
    row_blocks: Vec<(u32, i64)>,
    key_blocks: Vec<(u32, i64)>,
    /// Tables whose rows and records must be compared anew.
    resync: BTreeSet<u32>,
    /// Tables whose records must be stored and listed anew.
    rewrite: BTreeSet<u32>,
    triggers: BTreeSet<u32>,
}

impl Findings {
    fn add(&mut self, problem: Problem) {
        if self.report.problems.len() < LISTED_MAX {
            self.report.problems.push(problem);
        } else {
            self.report.more += 1;
        }
    }

    /// A problem of the file as a whole that `repair` can mend.
    fn file(&mut self, what: impl Into<String>, advice: &str) {
        self.problem(what, advice, true);
    }

    fn hopeless(&mut self, what: impl Into<String>, advice: &str) {
        self.problem(what, advice, false);
    }

    fn problem(&mut self, what: impl Into<String>, advice: &str, repairable: bool) {
        self.add(Problem { table: None, key: None, what: what.into(), advice: advice.into(), repairable });
    }
}

/// Compares everything; changes nothing.
pub fn verify(engine: &Engine) -> Result<Report> {
    engine.scoped("crsql_verify", || {
        if engine.is_joined() {
            engine.flush()?;
        }
        let mut core = engine.core()?;
        Ok(examine(&mut core)?.report)
    })
}

fn examine(core: &mut Core) -> Result<Findings> {
    let mut found = Findings::default();
    integrity(core.db, &mut found)?;
    let loaded = match core.refresh(false) {
        Ok(()) => None,
        Err(Error::Damaged { what }) => Some(what),
        Err(e) => return Err(e),
    };
    if !core.ready {
        return Ok(found);
    }
    sites(core.db, &mut found)?;
    let index = log::check(core.db, &mut found)?;
    parked(core.db, &mut found)?;
    if let Some(what) = loaded {
        if found.report.is_clean() {
            found.hopeless(what, log::FRESH);
        }
        return Ok(found);
    }
    log::check_vector(core, &index, &mut found)?;
    let triggers = triggers(core.db)?;
    let mut listed = log::Listed::new(index);
    for t in core.catalog.sorted() {
        check_triggers(core, &t, &triggers, &mut found);
        table::check(core, &t, &mut listed, &mut found)?;
    }
    Ok(found)
}

fn integrity(db: Db, found: &mut Findings) -> Result<()> {
    let mut q = db.prepare_transient("PRAGMA main.integrity_check(100)")?;
    while q.step()? {
        let line = crate::catalog::text(q.column_text(0));
        if line != "ok" {
            let advice = "this is SQLite's own structure: REINDEX mends indexes; for the rest restore a backup, or take \
                 the tables over with the sqlite3 shell's .recover and merge with a peer";
            found.hopeless(format!("SQLite's integrity check says: {line}"), advice);
        }
    }
    Ok(())
}

const UNKNOWN_SITE: &str =
    "`repair` gives the number a site id of its own: its writes stay, their author is lost";

/// Sites that the log, the vector or parked changes name, beside those that records name (see `table`).
fn sites(db: Db, found: &mut Findings) -> Result<()> {
    let mut q = db.prepare_transient(
        "SELECT site, origin FROM (SELECT DISTINCT site, 'the log' AS origin FROM main.crsql_log \
         UNION SELECT site, 'the version vector' FROM main.crsql_vector \
         UNION SELECT site, 'a parked change' FROM main.crsql_waiting \
         UNION SELECT CAST(value AS INTEGER), 'the file itself' FROM main.crsql_meta WHERE name = 'site') \
         WHERE site NOT IN (SELECT ordinal FROM main.crsql_sites)",
    )?;
    while q.step()? {
        let (site, origin) = (q.column_int(0), crate::catalog::text(q.column_text(1)));
        found.file(format!("{origin} names site number {site}, which has no id"), UNKNOWN_SITE);
        found.sites.extend(u32::try_from(site).ok());
    }
    Ok(())
}

/// Every parked change must be found by the log row of its db_version.
fn parked(db: Db, found: &mut Findings) -> Result<()> {
    let mut q = db.prepare_transient(
        "SELECT p.tbl, p.pk, p.db_version, l.id FROM main.crsql_parked AS p \
         LEFT JOIN main.crsql_log AS l ON l.db_version = p.db_version GROUP BY p.id",
    )?;
    let mut missing: BTreeMap<i64, Problem> = BTreeMap::new();
    while q.step()? {
        let version = q.column_int(2);
        if matches!(q.column(3), rejoin_sqlite::ValueRef::Null) {
            let key = match from_sql(q.column(1)) {
                ValueRef::Blob(b) => Some(b.to_vec()),
                _ => None,
            };
            missing.entry(version).or_insert_with(|| Problem {
                table: Some(crate::catalog::text(q.column_text(0))),
                key,
                what: format!("a parked change of db_version {version}, which the log does not have"),
                advice: "`repair` lists it under a new db_version".into(),
                repairable: true,
            });
        }
    }
    found.parked |= !missing.is_empty();
    missing.into_values().for_each(|p| found.add(p));
    Ok(())
}

/// Our triggers: name to the lower-case name of their table, and their text.
type Triggers = BTreeMap<String, (String, String)>;

fn triggers(db: Db) -> Result<Triggers> {
    let mut q = db.prepare_transient(
        "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND name GLOB 'crsql_*'",
    )?;
    let mut all = Triggers::new();
    while q.step()? {
        let text = |i| crate::catalog::text(q.column_text(i));
        all.insert(text(0), (text(1).to_ascii_lowercase(), text(2)));
    }
    Ok(all)
}

fn check_triggers(core: &Core, t: &crate::catalog::Table, triggers: &Triggers, found: &mut Findings) {
    let on = t.name.to_ascii_lowercase();
    let call = format!("{}({}, {},", crate::capture::FUNCTION, t.id, core.cfg.file_id);
    let stands =
        |name: &str| triggers.get(name).is_some_and(|(table, sql)| *table == on && sql.contains(&call));
    let names = crate::capture::triggers(t, core.cfg.file_id);
    let wrong: Vec<&str> = names
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !core.suspended.contains(&t.id) && stands(name) == core.cfg.owned)
        .collect();
    if wrong.is_empty() {
        return;
    }
    let state =
        if core.cfg.owned { "stand although the file is owned" } else { "are missing or not its own" };
    found.triggers.insert(t.id);
    if !core.cfg.owned {
        // Whatever was written meanwhile was not captured.
        found.resync.insert(t.id);
    }
    found.add(Problem {
        table: Some(t.name.clone()),
        key: None,
        what: format!("the capture triggers {} {state}", wrong.join(", ")),
        advice: "`repair` puts the triggers right and takes over rows that came and went meanwhile".into(),
        repairable: true,
    });
}
