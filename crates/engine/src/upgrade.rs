//! `crsql_upgrade()`: makes a database of cr-sqlite (0.15, 0.16, Fly's 0.17) one of Rejoin, whole or not at all.
//!
//! `docs/compat-notes.md` describes the old files, `docs/upgrade.md` says what becomes of what. In short: metadata is
//! taken over to the digit, so `crsql_changes` gives what the old engine gave, and peers that still run cr-sqlite
//! go on from the versions that they know. In the log all of it is one transaction of this site that spans all old
//! db_versions: which transactions made it, the old files do not say.

use crate::block::StoredRow;
use crate::catalog::{KeyKind, Table, describe, text};
use crate::core::{Core, KeyRanges};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::functions::bad;
use crate::log::Changes;
use crate::store::{Loc, Record};
use crate::value::{from_sql, hash, identity_of_foreign, packed_rowid};
use rejoin_crdt::limits::{check_cl, check_version};
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};
use rejoin_crdt::site::SiteId;
use rejoin_sqlite::{Args, Context, Db, Result as SqlResult, Stmt, ValueRef};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

const NAME: &str = "crsql_upgrade";
const CLOCK: &str = "__crsql_clock";
const PKS: &str = "__crsql_pks";
/// The versions that this build knows: 0.15.0 to before 0.18.
const KNOWN: std::ops::Range<i64> = 150_000..180_000;

pub fn upgrade(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    if exists(e.db, "crsql_meta")? {
        return Err(bad(NAME, "this database is Rejoin's already").into());
    }
    let old = Old::read(e.db)?;
    let done = e.scoped(NAME, || old.convert(e))?;
    ctx.set_text(done.as_bytes());
    Ok(())
}

fn exists(db: Db, table: &str) -> Result<bool> {
    let mut q =
        db.prepare_transient("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")?;
    q.bind_text(1, table.as_bytes())?;
    Ok(q.step()?)
}

fn damaged(table: &str, why: impl std::fmt::Display) -> Error {
    bad(NAME, format!("the metadata of table \"{table}\" is damaged: {why}; nothing was changed"))
}

/// The largest of a set of versions, 0 if there is none.
fn largest(db: Db, sql: &str) -> Result<i64> {
    let mut q = db.prepare_transient(sql)?;
    q.step()?;
    Ok(q.column_int(0))
}

/// What a file of cr-sqlite says about itself.
struct Old {
    version: i64,
    sites: HashMap<i64, SiteId>,
    merge_equal: bool,
    /// No version of this database was larger.
    db_version: i64,
    tables: Vec<OldTable>,
}

struct OldTable {
    name: String,
    /// Keys are numbered in a table of their own, as from 0.16 on.
    numbered: bool,
}

impl OldTable {
    fn clock(&self) -> String {
        format!("main.{}", quote(&format!("{}{CLOCK}", self.name)))
    }

    fn pks(&self) -> String {
        format!("main.{}", quote(&format!("{}{PKS}", self.name)))
    }

    fn db_versions(&self) -> &'static str {
        if self.numbered { "db_version" } else { "__crsql_db_version" }
    }

    /// Reads key columns, then column name, version, db_version, site and seq, key by key.
    fn query(&self, t: &Table) -> String {
        let clock = self.clock();
        if self.numbered {
            let keys = t.key_list("p.");
            return format!(
                "SELECT {keys}, c.col_name, c.col_version, c.db_version, c.site_id, c.seq FROM {clock} AS c \
                 JOIN {} AS p ON p.__crsql_key = c.key ORDER BY c.key",
                self.pks()
            );
        }
        let keys = t.key_list("c.");
        format!(
            "SELECT {keys}, c.__crsql_col_name, c.__crsql_col_version, c.__crsql_db_version, \
             coalesce(c.__crsql_site_id, 0), c.__crsql_seq FROM {clock} AS c ORDER BY {keys}"
        )
    }
}

impl Old {
    fn read(db: Db) -> Result<Old> {
        if !exists(db, "crsql_master")? {
            return Err(bad(NAME, "this database was not written by cr-sqlite; there is nothing to convert"));
        }
        let mut old = Old {
            version: master(db, "crsqlite_version")?,
            sites: sites(db)?,
            merge_equal: master(db, "config.merge-equal-values")? != 0,
            db_version: master(db, "pre_compact_dbversion")?,
            tables: tables(db)?,
        };
        // Files of a time before versions were written are told by their tables.
        if old.version != 0 && !KNOWN.contains(&old.version) {
            let why =
                format!("cr-sqlite {} is not known to this build (0.15 to 0.17 are)", old.shown_version());
            return Err(bad(NAME, why));
        }
        if exists(db, "crsql_db_versions")? {
            let sql = "SELECT max(db_version) FROM main.crsql_db_versions";
            old.db_version = old.db_version.max(largest(db, sql)?);
        }
        for t in &old.tables {
            let sql = format!("SELECT max({}) FROM {}", t.db_versions(), t.clock());
            old.db_version = old.db_version.max(largest(db, &sql)?);
        }
        Ok(old)
    }

    /// 160300 is 0.16.3.
    fn shown_version(&self) -> String {
        let v = self.version;
        format!("{}.{}.{}", v / 1_000_000, v / 10_000 % 100, v / 100 % 100)
    }

    fn convert(&self, engine: &Engine) -> Result<String> {
        let own = self.sites.get(&0).ok_or_else(|| bad(NAME, "the file names no site id of its own"))?;
        {
            let mut core = engine.core()?;
            core.create_metadata(own.0)?;
            // Peers that run cr-sqlite count versions up from what they have seen; a clock that stamps the time of day
            // would win over all of their edits from now on. `crsql_config_set('clock', 'hlc')` when the last is gone.
            core.set_meta("clock", ValueRef::Text(b"lamport"))?;
            core.set_meta("row-wise", ValueRef::Integer(1))?;
            core.set_meta("merge-equal-values", ValueRef::Integer(i64::from(self.merge_equal)))?;
            core.stale = true;
            core.refresh(true)?;
        }
        engine.join()?;
        let mut core = engine.core()?;
        let mut ordinals = HashMap::new();
        for (old, id) in &self.sites {
            ordinals.insert(*old, core.intern_site(*id)?);
        }
        core.txn.base_db_version = self.db_version;
        let mut log = Log::default();
        let mut tables = 0;
        for old in &self.tables {
            drop_triggers(core.db, &old.name)?;
            if describe(core.db, &old.name)?.is_some() {
                Conversion::new(&mut core, old, &ordinals)?.run(&mut log)?;
                tables += 1;
            }
            core.db.exec(&format!("DROP TABLE {}; DROP TABLE IF EXISTS {}", old.clock(), old.pks()))?;
        }
        for name in ["crsql_master", "crsql_site_id", "__crsql_siteid", "crsql_db_versions"] {
            core.db.exec(&format!("DROP TABLE IF EXISTS main.{name}"))?;
        }
        log.write(&mut core, self.db_version)?;
        core.settle()?;
        drop(core);
        engine.reload_catalog()?;
        let s = if tables == 1 { "" } else { "s" };
        Ok(format!("converted {tables} replicated table{s} of cr-sqlite {}", self.shown_version()))
    }
}

fn master(db: Db, key: &str) -> Result<i64> {
    let mut q = db.prepare_transient("SELECT value FROM main.crsql_master WHERE key = ?1")?;
    q.bind_text(1, key.as_bytes())?;
    Ok(if q.step()? { q.column_int(0) } else { 0 })
}

/// Site ids by ordinal. A file of 0.15.0 that 0.15.1 opened has two tables; the newer one counts.
fn sites(db: Db) -> Result<HashMap<i64, SiteId>> {
    let mut sites = HashMap::new();
    for table in ["__crsql_siteid", "crsql_site_id"] {
        if !exists(db, table)? {
            continue;
        }
        let mut q = db.prepare_transient(&format!("SELECT ordinal, site_id FROM main.{table}"))?;
        while q.step()? {
            // cr-sqlite took shorter ids from its users; zeros behind them keep their order.
            let (mut id, given) = ([0u8; 16], q.column_blob(1));
            match id.get_mut(..given.len()) {
                Some(part) if !given.is_empty() => part.copy_from_slice(given),
                _ => {
                    return Err(bad(NAME, format!("a site id of {} bytes in {table}", given.len())));
                }
            }
            sites.insert(q.column_int(0), SiteId(id));
        }
    }
    Ok(sites)
}

fn tables(db: Db) -> Result<Vec<OldTable>> {
    let mut q = db.prepare_transient(
        "SELECT name, EXISTS (SELECT 1 FROM pragma_table_info(s.name, 'main') WHERE name = 'col_name') \
         FROM main.sqlite_schema AS s WHERE type = 'table' AND name LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\' ORDER BY name",
    )?;
    let mut tables = Vec::new();
    while q.step()? {
        let name = text(q.column_text(0));
        let name = name.get(..name.len() - CLOCK.len()).unwrap_or("").to_owned();
        tables.push(OldTable { name, numbered: q.column_int(1) != 0 });
    }
    Ok(tables)
}

/// The capture triggers of a table; 0.15 also had one for each key column.
fn drop_triggers(db: Db, table: &str) -> Result<()> {
    let mut q = db.prepare_transient(
        "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
         AND name LIKE '%\\_\\_crsql\\__trig' ESCAPE '\\'",
    )?;
    q.bind_text(1, table.as_bytes())?;
    let mut names = Vec::new();
    while q.step()? {
        names.push(text(q.column_text(0)));
    }
    drop(q);
    for name in names {
        db.exec(&format!("DROP TRIGGER main.{}", quote(&name)))?;
    }
    Ok(())
}

/// What is to be listed under each db_version.
#[derive(Default)]
struct Log {
    lists: BTreeMap<i64, Changes>,
    ranges: KeyRanges,
    /// Tables whose rows and metadata disagree.
    uneven: Vec<Rc<Table>>,
}

impl Log {
    /// Writes the log rows, and whatever the old engine had missed.
    fn write(self, core: &mut Core, db_version: i64) -> Result<()> {
        for (v, mut changes) in self.lists {
            changes.shorten(&self.ranges);
            core.put_log(v, changes, None)?;
            // The next one must not search all of them; they are read again when somebody asks.
            core.txn.rows.clear();
        }
        if core.tail.db_version < db_version {
            core.put_log(db_version, Changes::default(), None)?;
        }
        core.txn.rows_stale = true;
        core.fold()?;
        for t in self.uneven {
            core.txn.at_current = true;
            let done = core.resync(&t);
            core.txn.at_current = false;
            done?;
        }
        Ok(())
    }
}

/// One table on its way.
struct Conversion<'a> {
    core: &'a mut Core,
    t: Rc<Table>,
    old: &'a OldTable,
    ordinals: &'a HashMap<i64, u32>,
    /// The row of a key; the key as it stands there.
    find: Stmt,
    /// By key identity: where a record belongs and what it is.
    records: HashMap<Rc<[u8]>, (Loc, Record)>,
    living: i64,
    uneven: bool,
}

/// The clock rows of one key.
struct Group {
    packed: Vec<u8>,
    /// Of the sentinel: version, i.e. causal length.
    sentinel: Option<(i64, Sentinel)>,
    cells: Vec<(u32, Stamp, i64)>,
}

impl<'a> Conversion<'a> {
    fn new(core: &'a mut Core, old: &'a OldTable, ordinals: &'a HashMap<i64, u32>) -> Result<Conversion<'a>> {
        let t = core.adopt(&old.name)?;
        let rowid = if t.kind == KeyKind::Keyed { "0" } else { t.rowid };
        let keys = t.key_list("");
        let find = format!("SELECT {rowid}, {keys} FROM {} WHERE {}", t.quoted(), t.key_where(1));
        let find = core.db.prepare_transient(&find)?;
        Ok(Conversion { core, t, old, ordinals, find, records: HashMap::new(), living: 0, uneven: false })
    }

    fn run(mut self, log: &mut Log) -> Result<()> {
        let mut q = self.core.db.prepare_transient(&self.old.query(&self.t))?;
        let mut group: Option<Group> = None;
        while q.step()? {
            let packed = pack(&q, 0, self.t.keys.len())?;
            if let Some(done) = group.take_if(|g| g.packed != packed) {
                self.keep(done)?;
            }
            let group = group.get_or_insert(Group { packed, sentinel: None, cells: Vec::new() });
            self.take(&q, group)?;
        }
        drop(q);
        if let Some(last) = group {
            self.keep(last)?;
        }
        let rows = largest(self.core.db, &format!("SELECT count(*) FROM {}", self.t.quoted()))?;
        if self.uneven || rows != self.living {
            log.uneven.push(Rc::clone(&self.t));
        }
        self.store(log)
    }

    /// One clock row.
    fn take(&self, q: &Stmt, group: &mut Group) -> Result<()> {
        let n = self.t.keys.len() as i32;
        let wrong = |why: String| damaged(&self.old.name, why);
        let number = |i: i32, what: &'static str| match q.column(n + i) {
            ValueRef::Integer(v) => check_version(what, v).map_err(|p| wrong(p.to_string())),
            _ => Err(wrong(format!("{what} is no number"))),
        };
        let (col_version, db_version) = (number(1, "col_version")?, number(2, "db_version")?);
        let (site, seq) = (q.column_int(n + 3), number(4, "seq")?);
        let site =
            self.ordinals.get(&site).ok_or_else(|| wrong(format!("no site has the ordinal {site}")))?;
        let name = text(q.column_text(n));
        if name == crate::parked::SENTINEL {
            group.sentinel = Some((col_version, Sentinel { db_version, site: *site, seq }));
        } else if let Some(col) = self.t.column(&name) {
            group.cells.push((col.id, Stamp { col_version, db_version, site: *site }, seq));
        }
        Ok(())
    }

    /// The metadata of one key is complete.
    fn keep(&mut self, mut group: Group) -> Result<()> {
        let mut meta = RowMeta { cl: 1, ..RowMeta::default() };
        if let Some((cl, sentinel)) = group.sentinel {
            meta.cl = check_cl(cl).map_err(|p| damaged(&self.old.name, p))?;
            meta.sentinel = Some(sentinel);
        }
        if meta.is_alive() {
            // The newest comes last and stands on top.
            group.cells.sort_unstable_by_key(|(col, stamp, seq)| (stamp.db_version, *seq, *col));
            for (col, stamp, seq) in group.cells {
                meta.write(ColSet::single(col), stamp, seq);
            }
        }
        let t = Rc::clone(&self.t);
        let (at, spelling) = if t.kind == KeyKind::RowId {
            (Rc::from(group.packed.as_slice()), None)
        } else {
            let identity = identity_of_foreign(&t, &group.packed)?;
            (identity.key, identity.spelling)
        };
        let shown = spelling.clone().unwrap_or_else(|| Rc::clone(&at));
        let row = self.row_of(&group.packed, &shown)?;
        let (alive, mut record) = (meta.is_alive(), Record { row: StoredRow { meta, hash: 0 }, spelling });
        // A row that is not there was lost by a program without the extension: its metadata goes too.
        if alive && row.is_none() {
            return Ok(());
        }
        self.living += i64::from(alive);
        self.uneven |= !alive && row.is_some();
        let loc = match (t.kind, row) {
            (KeyKind::RowId, _) => Loc::Row(packed_rowid(&t, &group.packed)?),
            (KeyKind::Hashed, Some(row)) if alive => {
                record.row.hash = hash(self.core.cfg.hash_key, &at);
                record.spelling = None;
                Loc::Row(row)
            }
            _ => Loc::Key(Rc::clone(&at)),
        };
        // Spellings that were several keys to cr-sqlite can be one to the table: the living row counts.
        match self.records.get(&at) {
            Some((_, other))
                if (other.row.meta.is_alive(), other.row.meta.cl) > (alive, record.row.meta.cl) => {}
            _ => drop(self.records.insert(at, (loc, record))),
        }
        Ok(())
    }

    /// The rowid (0 without) of the row with this key, if it is spelled so.
    fn row_of(&mut self, packed: &[u8], shown: &[u8]) -> Result<Option<i64>> {
        let values = rejoin_crdt::key::unpack_owned(packed).map_err(|e| damaged(&self.old.name, e))?;
        let values: Vec<ValueRef<'_>> = values.iter().map(|v| crate::value::to_sql(v.as_ref())).collect();
        let n = self.t.keys.len();
        let found = self.find.query_row(&values, |q| Ok((q.column_int(0), pack(q, 1, n))))?;
        let Some((row, stands)) = found else {
            return Ok(None);
        };
        if self.t.kind == KeyKind::RowId {
            return Ok(Some(row));
        }
        let identity = identity_of_foreign(&self.t, &stands?)?;
        Ok((*identity.spelling.unwrap_or(identity.key) == *shown).then_some(row))
    }

    fn store(self, log: &mut Log) -> Result<()> {
        let id = self.t.id;
        let mut all: Vec<(Loc, Record)> = self.records.into_values().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (loc, record) in &all {
            let meta = &record.row.meta;
            let txn = &mut self.core.txn;
            txn.high = meta.groups.iter().map(|g| g.stamp.col_version).fold(txn.high, i64::max);
            let mut versions: Vec<i64> = meta.groups.iter().map(|g| g.stamp.db_version).collect();
            versions.extend(meta.sentinel.map(|s| s.db_version));
            versions.sort_unstable();
            versions.dedup();
            for v in versions {
                log.lists.entry(v).or_default().tables.entry(id).or_default().name(loc);
            }
        }
        let records = all.into_iter().map(|(loc, record)| (loc, Some(record))).collect();
        log.ranges.insert(id, self.core.apply_to_blocks(id, records)?);
        Ok(())
    }
}

/// Packs columns of a statement's row as a key.
fn pack(q: &Stmt, from: i32, count: usize) -> rejoin_sqlite::Result<Vec<u8>> {
    let values = (from..from + count as i32).map(|i| from_sql(q.column(i)));
    rejoin_crdt::key::pack(values).map_err(|e| bad(NAME, e.to_string()).into())
}
