//! Many rows of one table on their way from a changeset into blocks.
//!
//! A row that is merged once, at a rowid above all rows merged before it, need not wait in the map of works: its record
//! goes to the end of a list that is written into the blocks in one pass. Other rows of the table go the ordinary way;
//! what the list holds is written before one of them is looked for.

use crate::block::{SHIFT, StoredRow};
use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Work};
use crate::digest::work_at;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::{TableList, union};
use crate::merge::{Incoming, merge_fresh, merge_work};
use crate::store::{Loc, Record};
use crate::value;
use rejoin_crdt::meta::RowMeta;
use rejoin_sqlite::Db;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Fewer rows go the ordinary way.
pub const ROWS_MIN: u64 = 64;
/// So many records wait at most.
const CHUNK: usize = 1 << 16;

pub struct Stream {
    table: Rc<Table>,
    /// No trigger of the user's writes elsewhere when a row is merged.
    alone: bool,
    /// Gone before the statements of others are prepared again.
    _quiet: Option<Quiet>,
    rows: Vec<(i64, StoredRow)>,
    /// The largest rowid so far.
    last: Option<i64>,
    /// Blocks that each db_version changed.
    lists: BTreeMap<i64, Vec<(i64, i64)>>,
    scratch: Vec<u8>,
    /// Rows that were thought to be new and stood in the table, less those that did not.
    misses: i32,
}

/// After so many a row by key is looked for before it is inserted.
const MISSES_MAX: i32 = 16;

/// While it lives, no trigger of the connection fires. A merge is not captured, and a statement that may fire
/// triggers journals the pages that it touches. Each switch makes SQLite prepare all statements anew, which a few rows are
/// not worth.
struct Quiet(Db);

impl Quiet {
    fn new(db: Db) -> Result<Option<Quiet>> {
        if !db.trigger_enabled()? {
            return Ok(None);
        }
        db.set_triggers_enabled(false)?;
        Ok(Some(Quiet(db)))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // It was on, and the option knows no way to fail.
        let _ = self.0.set_triggers_enabled(true);
    }
}

fn has_temp_triggers(db: Db) -> Result<bool> {
    let mut q =
        db.prepare_transient("SELECT EXISTS (SELECT 1 FROM temp.sqlite_schema WHERE type = 'trigger')")?;
    q.step()?;
    Ok(q.column_int(0) != 0)
}

impl Stream {
    /// None: the rows of this table cannot be streamed.
    pub fn new(core: &mut Core, table: &Rc<Table>, rows: u64) -> Result<Option<Stream>> {
        if rows < ROWS_MIN || table.kind == KeyKind::Keyed {
            return Ok(None);
        }
        // What the overlay has of a row must not hide what is written into the blocks.
        core.fold()?;
        let alone = !table.user_triggers && !has_temp_triggers(core.db)?;
        let quiet = if alone && !core.cfg.owned { Quiet::new(core.db)? } else { None };
        let table = Rc::clone(table);
        Ok(Some(Stream {
            table,
            alone,
            _quiet: quiet,
            rows: Vec::new(),
            last: None,
            lists: BTreeMap::new(),
            scratch: Vec::new(),
            misses: 0,
        }))
    }

    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Merges a row if it can be streamed; how many changes were accepted.
    pub fn merge(
        &mut self,
        engine: &Engine,
        core: &mut Core,
        key: &[u8],
        inc: &Incoming<'_>,
    ) -> Result<Option<i64>> {
        if inc.cl & 1 == 0 || inc.cells.is_empty() {
            return Ok(None);
        }
        match self.table.kind {
            KeyKind::RowId => self.by_rowid(engine, core, key, inc),
            KeyKind::Hashed => self.by_key(engine, core, key, inc),
            KeyKind::Keyed => Ok(None),
        }
    }

    fn by_rowid(
        &mut self,
        engine: &Engine,
        core: &mut Core,
        key: &[u8],
        inc: &Incoming<'_>,
    ) -> Result<Option<i64>> {
        let t = Rc::clone(&self.table);
        let row = value::packed_rowid(&t, key)?;
        if self.last.is_some_and(|last| row <= last) || core.txn.works.contains_key(&work_at(&t, row, 0)) {
            return Ok(None);
        }
        let (slot, store) = ((row & 63) as u8, core.store(&t));
        let stored = store.row_block(row >> SHIFT)?.get(slot).map(|r| r.meta.clone());
        let mut work = Work {
            table: t,
            row: Some(row),
            key: None,
            spelling: None,
            hash: 0,
            stored: stored.is_some().then_some(Loc::Row(row)),
            meta: stored.unwrap_or_default(),
            touched: smallvec::SmallVec::new(),
        };
        match merge_work(engine, core, &mut work, inc) {
            Ok(accepted) => {
                self.take(core, row, work)?;
                Ok(Some(accepted))
            }
            // The ordinary way knows what to do; nothing has changed yet.
            Err(Error::Constraint { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A row that is new here, metadata and all.
    fn by_key(
        &mut self,
        engine: &Engine,
        core: &mut Core,
        key: &[u8],
        inc: &Incoming<'_>,
    ) -> Result<Option<i64>> {
        let t = Rc::clone(&self.table);
        if self.misses > MISSES_MAX || !value::is_own_identity(&t, key, &mut self.scratch)? {
            return Ok(None);
        }
        let hash = value::hash(core.cfg.hash_key, key);
        let at = work_at(&t, 0, hash);
        if core.txn.works.contains_key(&at) || core.txn.orphans.contains_key(&at) {
            return Ok(None);
        }
        let key: Rc<[u8]> = key.into();
        let loc = Loc::Key(key);
        if core.store(&t).load(&loc)?.is_some() {
            return Ok(None);
        }
        let Loc::Key(key) = loc else { return Ok(None) };
        let mut work = Work {
            table: t,
            row: None,
            key: Some(key),
            spelling: None,
            hash,
            meta: RowMeta::default(),
            stored: None,
            touched: smallvec::SmallVec::new(),
        };
        let accepted = match merge_fresh(engine, core, &mut work, inc) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => {
                self.misses += 1;
                return Ok(None);
            }
            Err(Error::Constraint { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        self.misses = (self.misses - 1).max(0);
        match work.row {
            Some(row) if self.last.is_none_or(|last| row > last) => self.take(core, row, work)?,
            _ => drop(core.txn.works.insert(at, work)),
        }
        Ok(Some(accepted))
    }

    fn take(&mut self, core: &mut Core, row: i64, work: Work) -> Result<()> {
        let block = row >> SHIFT;
        for db_version in &work.touched {
            let blocks = self.lists.entry(*db_version).or_default();
            match blocks.last_mut() {
                Some(end) if end.0 <= block && block <= end.1.saturating_add(1) => end.1 = end.1.max(block),
                _ => blocks.push((block, block)),
            }
        }
        if !work.touched.is_empty() {
            if core.observing {
                let own = core.cfg.own;
                core.txn.notes.note(&work, own);
            }
            self.rows.push((row, StoredRow { meta: work.meta, hash: work.hash }));
            self.last = Some(row);
        }
        if self.rows.len() >= CHUNK {
            self.flush(core)?;
        }
        Ok(())
    }

    /// Writes what waits: afterwards the blocks know all rows.
    pub fn flush(&mut self, core: &mut Core) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows).into_iter();
        let records = rows.map(|(row, stored)| (Loc::Row(row), Some(Record { row: stored, spelling: None })));
        core.apply_to_blocks(self.table.id, records.collect())?;
        for (db_version, blocks) in std::mem::take(&mut self.lists) {
            let list = TableList { blocks: union(blocks), ..TableList::default() };
            let changes = core.txn.listed.entry(db_version).or_default();
            let mine = changes.tables.entry(self.table.id).or_default();
            mine.blocks.extend(list.blocks);
            mine.blocks = union(std::mem::take(&mut mine.blocks));
        }
        Ok(())
    }
}
