//! Tables becoming replicated and plain again, and the repair after changes that nobody watched.

use crate::block::StoredRow;
use crate::catalog::{KeyKind, Table, check_replicable, describe, saved_tables};
use crate::core::{Core, Work, read_log_head};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::Changes;
use crate::store::{Loc, Record};
use crate::value::{from_sql, hash, identity_of_stored};
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};
use rejoin_sqlite::{Stmt, ValueRef};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// Rows whose records are written in one go.
const CHUNK: usize = 1 << 16;

/// `crsql_as_crr`.
pub fn as_crr(engine: &Engine, table: &str) -> Result<()> {
    engine.scoped("crsql_as_crr", || {
        engine.make_ready()?;
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.refresh(true)?;
        if let Some(t) = core.catalog.find(table).cloned() {
            return core.forget_unwatched(t.id);
        }
        let t = core.adopt(table)?;
        core.backfill(&t)?;
        core.settle()?;
        crate::rowwise::apply_parked(engine, &mut core)?;
        drop(core);
        engine.reload_catalog()
    })
}

/// `crsql_as_table`.
pub fn as_table(engine: &Engine, table: &str) -> Result<()> {
    engine.scoped("crsql_as_table", || {
        let known = {
            let mut core = engine.core()?;
            core.refresh(false)?;
            core.catalog.find(table).cloned()
        };
        let Some(t) = known else {
            let exists = describe(engine.db, table)?.is_some();
            return if exists {
                Ok(())
            } else {
                Err(Error::NoTable { table: table.into(), why: "does not exist" })
            };
        };
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.forget_table(t.id, false)?;
        core.settle()?;
        drop(core);
        engine.reload_catalog()
    })
}

/// `crsql_begin_alter`: from here to `commit_alter` writes to the table are not captured.
pub fn begin_alter(engine: &Engine, table: &str) -> Result<()> {
    engine.db.exec("SAVEPOINT crsql_alter")?;
    let done = (|| {
        engine.make_ready()?;
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.refresh(true)?;
        let Some(t) = core.catalog.find(table).cloned() else {
            if describe(core.db, table)?.is_none() {
                return Err(Error::NoTable { table: table.into(), why: "does not exist" });
            }
            return Ok(());
        };
        engine.suspend(&mut core, t.id, true)?;
        core.drop_triggers(t.id)
    })();
    if done.is_err() {
        engine.undo("crsql_alter");
    }
    done
}

/// `crsql_commit_alter`: capture goes on; what happened meanwhile is taken over at the current db_version.
pub fn commit_alter(engine: &Engine, table: &str) -> Result<()> {
    let done = end_alter(engine, table);
    if done.is_err() {
        engine.undo("crsql_alter");
    }
    done
}

fn end_alter(engine: &Engine, table: &str) -> Result<()> {
    {
        engine.make_ready()?;
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        let live = describe(core.db, table)?;
        let live = live.ok_or_else(|| Error::NoTable { table: table.into(), why: "does not exist" })?;
        let saved = saved_tables(core.db)?;
        let open =
            saved.iter().find(|s| s.name.eq_ignore_ascii_case(table) && core.suspended.contains(&s.id));
        let Some(open) = open else {
            // A table that is not replicated: the savepoint alone.
            drop(core);
            return Ok(engine.db.exec("RELEASE crsql_alter")?);
        };
        engine.suspend(&mut core, open.id, false)?;
        check_replicable(core.db, &live).map_err(|e| match e {
            e if e.is_outside() => e,
            e => Error::State { why: format!("failed compacting tables post alteration: {e}") },
        })?;
        core.cfg.schema = -1;
        core.ending_alter = Some(open.id);
        let done = core.settle();
        core.ending_alter = None;
        done?;
        let t = core.replicated(table)?;
        core.rebuilt.retain(|id| *id != t.id);
        // What happened meanwhile is taken over right here.
        core.forget_unwatched(t.id)?;
        core.txn.at_current = true;
        let done = core.resync(&t).and_then(|()| core.write_out());
        core.txn.at_current = false;
        done?;
        core.txn.local = None;
    }
    engine.reload_catalog()?;
    Ok(engine.db.exec("RELEASE crsql_alter")?)
}

/// What the comparison of a table with its metadata has found so far.
#[derive(Default)]
struct Met {
    /// Records and where they belong now.
    kept: Vec<(Loc, Option<Record>)>,
    moved: bool,
    /// Rows and cells that appeared unwatched; `stamped` names the columns, and whether the row was alive.
    works: Vec<((u32, u64), Work)>,
    stamped: Vec<((u32, u64), ColSet, bool)>,
}

impl Met {
    fn row(
        &mut self,
        rows: &Rows,
        defaults: &[rejoin_crdt::Value],
        identity: Option<crate::value::Identity>,
        (row, h): (i64, u64),
        found: Option<(Loc, Record)>,
    ) {
        let t = &rows.table;
        let alive = found.as_ref().is_some_and(|(_, r)| r.row.meta.is_alive());
        let mut fresh = ColSet::EMPTY;
        for (n, col) in t.cols.iter().enumerate() {
            let unwritten = found.as_ref().is_none_or(|(_, r)| r.row.meta.cell(col.id).is_none());
            let differs = || defaults.get(n).is_none_or(|d| !d.as_ref().same(from_sql(rows.value(n))));
            if unwritten && differs() {
                fresh.insert(col.id);
            }
        }
        let now = match (&identity, t.kind) {
            (Some(i), KeyKind::Keyed) => Loc::Key(Rc::clone(&i.key)),
            _ => Loc::Row(row),
        };
        let found = match found {
            Some((loc, record)) if alive && fresh.is_empty() => {
                self.moved |= loc != now;
                self.kept.push((now, Some(record)));
                return;
            }
            other => other,
        };
        let (key, spelling) = identity.map_or((None, None), |i| (Some(i.key), i.spelling));
        let mut work = Work {
            table: Rc::clone(t),
            row: (t.kind != KeyKind::Keyed).then_some(row),
            key,
            spelling,
            hash: if t.kind == KeyKind::Hashed { h } else { 0 },
            meta: RowMeta::default(),
            stored: None,
            touched: smallvec::SmallVec::new(),
        };
        if let Some((loc, record)) = found {
            self.moved |= alive && now != loc;
            let stored = if alive { now } else { loc };
            work.meta = record.row.meta.clone();
            work.stored = Some(stored.clone());
            self.kept.push((stored, Some(record)));
        }
        self.works.push(((t.id, h), work));
        self.stamped.push(((t.id, h), fresh, alive));
    }
}

/// The rows of a table with rowid and packed key.
struct Rows {
    stmt: Stmt,
    table: Rc<Table>,
}

impl Rows {
    /// In key order; columns beside the key follow.
    fn new(core: &Core, t: &Rc<Table>) -> Result<Rows> {
        let rowid = if t.kind == KeyKind::Keyed { "0" } else { t.rowid };
        let cols: Vec<String> = t.cols.iter().map(|c| crate::format::quote(&c.name)).collect();
        let cols = if cols.is_empty() { String::new() } else { format!(", {}", cols.join(", ")) };
        let sql = format!(
            "SELECT {rowid}, {keys}{cols} FROM {} ORDER BY {keys}",
            t.quoted(),
            keys = t.key_list("")
        );
        Ok(Rows { stmt: core.db.prepare_transient(&sql)?, table: Rc::clone(t) })
    }

    fn packed(&self) -> Result<Vec<u8>> {
        let n = self.table.keys.len() as i32;
        let packed = rejoin_crdt::key::pack((1..=n).map(|i| from_sql(self.stmt.column(i))));
        let null = (1..=n).any(|i| matches!(self.stmt.column(i), ValueRef::Null));
        if null {
            return Err(Error::Unsupported {
                table: self.table.name.clone(),
                what: "a row has NULL in its primary key".into(),
                advice: "give it a value or delete it: NULL keys identify nothing".into(),
            });
        }
        packed.map_err(|e| Error::damaged(e.to_string()))
    }

    fn value(&self, n: usize) -> ValueRef<'_> {
        self.stmt.column((1 + self.table.keys.len() + n) as i32)
    }
}

impl Core {
    pub fn replicated(&self, table: &str) -> Result<Rc<Table>> {
        let found = self.catalog.find(table).cloned();
        found.ok_or_else(|| Error::NoTable { table: table.into(), why: "is not replicated" })
    }

    /// Existing rows of a table that becomes replicated: one transaction, every col_version 1.
    fn backfill(&mut self, t: &Rc<Table>) -> Result<()> {
        let (db_version, site) = (self.next_db_version(), self.cfg.own);
        let before = self.txn.pending;
        let stamp = Stamp { col_version: 1, db_version, site };
        let mut rows = Rows::new(self, t)?;
        let mut changes = Changes::default();
        let list = changes.tables.entry(t.id).or_default();
        let mut updates: Vec<(Loc, Option<Record>)> = Vec::new();
        let mut any = false;
        self.fold()?;
        while rows.stmt.step()? {
            any = true;
            let mut record = Record { row: StoredRow::default(), spelling: None };
            let row = rows.stmt.column_int(0);
            let loc = if t.kind == KeyKind::RowId {
                Loc::Row(row)
            } else {
                let identity = identity_of_stored(t, &rows.packed()?)?;
                if t.kind == KeyKind::Hashed {
                    record.row.hash = hash(self.cfg.hash_key, &identity.key);
                    record.spelling.clone_from(&identity.spelling);
                    Loc::Row(row)
                } else {
                    record.spelling.clone_from(&identity.spelling);
                    Loc::Key(identity.key)
                }
            };
            let meta = &mut record.row.meta;
            meta.cl = 1;
            if t.cols.is_empty() || record.spelling.is_some() {
                meta.sentinel = Some(Sentinel { db_version, site, seq: self.txn.seq });
                self.txn.seq += 1;
            }
            if t.kind == KeyKind::Hashed {
                record.spelling = None;
            }
            meta.write(t.col_set.clone(), stamp, self.txn.seq);
            self.txn.seq += i64::from(t.col_set.len());
            list.name(&loc);
            updates.push((loc, Some(record)));
            if updates.len() >= CHUNK && t.kind != KeyKind::Hashed {
                self.apply_to_blocks(t.id, std::mem::take(&mut updates))?;
            }
        }
        if !any {
            self.txn.pending = before.filter(|p| *p != db_version);
            return Ok(());
        }
        self.apply_to_blocks(t.id, updates)?;
        let ranges = list.keys.first().zip(list.keys.last()).map(|(a, b)| (Rc::clone(&a.0), Rc::clone(&b.1)));
        changes.shorten(&[(t.id, ranges.into_iter().collect())].into_iter().collect());
        self.put_log(db_version, changes, None)?;
        self.fold()
    }

    /// Compares a table with its metadata: rows without get some, metadata without a row goes, cells of columns
    /// that have none yet are stamped where they differ from the default. Records follow rows whose rowid moved.
    pub fn resync(&mut self, t: &Rc<Table>) -> Result<()> {
        self.resync_table(t, &HashSet::new())
    }

    /// Rows among `touched` came and went while somebody watched.
    fn resync_table(&mut self, t: &Rc<Table>, touched: &HashSet<(u32, u64)>) -> Result<()> {
        self.write_out()?;
        self.fold()?;
        let mut known = self.all_records(t)?;
        let mut rows = Rows::new(self, t)?;
        let defaults = self.defaults(t)?;
        let mut met = Met::default();
        while rows.stmt.step()? {
            let row = rows.stmt.column_int(0);
            let identity = match t.kind {
                KeyKind::RowId => None,
                _ => Some(identity_of_stored(t, &rows.packed()?)?),
            };
            let h = identity.as_ref().map_or(row as u64, |i| hash(self.cfg.hash_key, &i.key));
            let found = known.remove(&h);
            let alive = found.as_ref().is_some_and(|(_, r)| r.row.meta.is_alive());
            if !alive && touched.contains(&(t.id, h)) {
                met.kept.extend(found.map(|(loc, record)| (loc, Some(record))));
                continue;
            }
            met.row(&rows, &defaults, identity, (row, h), found);
        }
        let Met { mut kept, moved, works, stamped } = met;
        // What is left has no row: tombstones stay, rows that wait for values too, others vanished.
        let required = t.cols.iter().any(|c| c.required);
        let mut vanished = Vec::new();
        for (h, (loc, record)) in known {
            let meta = &record.row.meta;
            if touched.contains(&(t.id, h)) {
                kept.push((loc, Some(record)));
                continue;
            }
            let waits = meta.groups.is_empty() && (required || self.is_parked(t, &loc, meta.cl)?);
            if !meta.is_alive() || waits {
                kept.push((loc, Some(record)));
            } else {
                vanished.push((loc, None));
            }
        }
        drop(rows);
        if moved {
            self.rewrite(t, kept)?;
        } else if !vanished.is_empty() {
            self.apply_to_blocks(t.id, vanished)?;
        }
        self.txn.works.extend(works);
        for (at, cols, alive) in stamped {
            self.stamp_found(at, &cols, alive);
        }
        self.write_out()
    }

    /// Whether something of this life of a row is parked.
    fn is_parked(&mut self, t: &Table, loc: &Loc, cl: u32) -> Result<bool> {
        let pk = match loc {
            Loc::Row(row) => Core::parked_key(t, Some(*row), None),
            Loc::Key(key) => key.to_vec(),
        };
        Ok(self.parked_of_row(t.id, &pk)?.iter().any(|p| p.cl == cl))
    }

    /// A row or cells that appeared unwatched: always col_version 1, so that it never beats an edit.
    fn stamp_found(&mut self, at: (u32, u64), cols: &ColSet, alive: bool) {
        let (db_version, site) = (self.next_db_version(), self.cfg.own);
        let txn = &mut self.txn;
        let Some(work) = txn.works.get_mut(&at) else {
            return;
        };
        work.touch(db_version);
        let mut cols = cols.clone();
        if !alive {
            cols = work.table.col_set.clone();
            let known = work.meta.cl > 0;
            work.meta = RowMeta { cl: work.meta.cl + 1, ..RowMeta::default() };
            if known || cols.is_empty() || work.spelling.is_some() {
                work.meta.sentinel = Some(Sentinel { db_version, site, seq: txn.seq });
                txn.seq += 1;
            }
        }
        for col in cols.iter() {
            work.meta.write(ColSet::single(col), Stamp { col_version: 1, db_version, site }, txn.seq);
            txn.seq += 1;
        }
    }

    /// The value that each column has in a row that never set it.
    pub fn defaults(&self, t: &Table) -> Result<Vec<rejoin_crdt::Value>> {
        let mut all = Vec::new();
        for col in &t.cols {
            let Some(text) = &col.default else {
                all.push(rejoin_crdt::Value::Null);
                continue;
            };
            // The default is an expression of the schema's own; CAST gives it the column's affinity.
            let decl = col.decl.split('|').next().unwrap_or("");
            let cast =
                if decl.is_empty() { format!("({text})") } else { format!("CAST(({text}) AS {decl})") };
            let mut q = self.db.prepare_transient(&format!("SELECT {cast}"))?;
            q.step()?;
            all.push(from_sql(q.column(0)).to_owned());
        }
        Ok(all)
    }

    /// Every record of a table by rowid or key hash.
    pub fn all_records(&mut self, t: &Rc<Table>) -> Result<HashMap<u64, (Loc, Record)>> {
        let hash_key = self.cfg.hash_key;
        let kind = t.kind;
        let store = self.store(t);
        let mut all = HashMap::new();
        if kind.has_rows() {
            store.scan_rows(i64::MIN >> 6, i64::MAX >> 6, |row, stored| {
                let at = if kind == KeyKind::RowId { row as u64 } else { stored.hash };
                all.insert(at, (Loc::Row(row), Record { row: stored.clone(), spelling: None }));
                Ok(())
            })?;
        }
        if kind.has_keys() {
            store.scan_keys(&[], None, |e| {
                let loc = Loc::Key(e.key.as_slice().into());
                all.entry(hash(hash_key, &e.key)).or_insert((loc, crate::store::record_of(e)));
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// Stores a table's records anew and names them anew in the log: their places changed.
    pub fn rewrite(&mut self, t: &Rc<Table>, records: Vec<(Loc, Option<Record>)>) -> Result<()> {
        if t.kind.has_rows() {
            self.db.exec(&format!("DELETE FROM {}", t.rows_table()))?;
        }
        if t.kind.has_keys() {
            self.db.exec(&format!("DELETE FROM {}", t.keys_table()))?;
        }
        self.store(t).forget();
        let mut lists: BTreeMap<i64, crate::log::TableList> = BTreeMap::new();
        for (loc, record) in &records {
            let Some(record) = record else { continue };
            let meta = &record.row.meta;
            let mut versions: Vec<i64> = meta.groups.iter().map(|g| g.stamp.db_version).collect();
            versions.extend(meta.sentinel.map(|s| s.db_version));
            versions.sort_unstable();
            versions.dedup();
            for v in versions {
                lists.entry(v).or_default().name(loc);
            }
        }
        self.apply_to_blocks(t.id, records)?;
        self.relist(t.id, lists)
    }

    /// Replaces what the log lists of one table.
    fn relist(&mut self, tbl: u32, mut lists: BTreeMap<i64, crate::log::TableList>) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log ORDER BY id",
        )?;
        let mut rows = Vec::new();
        while q.step()? {
            let mut row = read_log_head(&q)?;
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            let had = row.changes.tables.remove(&tbl).is_some();
            let mut fresh = lists.remove(&row.db_version);
            if let Some(list) = &mut fresh {
                list.blocks = crate::log::union(std::mem::take(&mut list.blocks));
            }
            if had || fresh.is_some() {
                row.changes.tables.extend(fresh.map(|l| (tbl, l)));
                rows.push(row);
            }
        }
        drop(q);
        for row in rows {
            let bytes = row.changes.encode(&row.base());
            let mut put =
                self.db.prepare_transient("UPDATE main.crsql_log SET changes = ?2 WHERE id = ?1")?;
            put.run(&[ValueRef::Integer(row.lsn), ValueRef::Blob(&bytes)])?;
        }
        self.txn.rows_stale = true;
        Ok(())
    }

    /// Repairs tables that were rebuilt while nobody watched.
    pub fn resync_rebuilt(&mut self) -> Result<()> {
        self.resync_but(&HashSet::new())
    }

    /// The same, leaving to the journal the rows that it tells of.
    pub fn resync_but(&mut self, touched: &HashSet<(u32, u64)>) -> Result<()> {
        for id in std::mem::take(&mut self.rebuilt) {
            if let Some(t) = self.catalog.get(id).cloned() {
                self.resync_table(&t, touched)?;
            }
        }
        Ok(())
    }
}
