//! Row-wise changes in the order of rowids, as most transactions have them.
//!
//! After so many rows that the transaction is a large one, a table whose key is the rowid keeps the block of rows open
//! that its changes are in, and they go straight into it. A row of a later block closes it; a row of an earlier one goes
//! by way of a work, as those of small transactions do, and so does every row that has a work already.
//!
//! **Invariant:** an open block is newer than the stored one. It is closed before the stored one is read, before works
//! are written, and with every savepoint; a rollback forgets it.

use crate::block::{RowBlock, SHIFT, StoredRow};
use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Work};
use crate::engine::Engine;
use crate::error::Result;
use crate::log::TableList;
use crate::merge::{Incoming, Known, decide, merge_work, set_by_row, takes};
use crate::store::{Loc, TableStore};
use crate::writers::Place;
use rejoin_crdt::meta::RowMeta;
use smallvec::SmallVec;
use std::rc::Rc;

/// Smaller transactions keep their metadata in the log row.
const ROWS_MIN: usize = 64;

pub struct OpenBlock {
    table: Rc<Table>,
    number: i64,
    rows: RowBlock,
    /// The db_versions of what changed in it.
    touched: SmallVec<[i64; 2]>,
}

fn slot(row: i64) -> u8 {
    (row & 63) as u8
}

impl OpenBlock {
    fn touch(&mut self, db_version: i64) {
        if self.touched.last() != Some(&db_version) && !self.touched.contains(&db_version) {
            self.touched.push(db_version);
        }
    }
}

impl Core {
    /// The open block of a row; None: its changes go by way of a work.
    fn open_block(&mut self, t: &Rc<Table>, row: i64) -> Result<Option<usize>> {
        let number = row >> SHIFT;
        let at = self.txn.open.iter().position(|o| o.table.id == t.id);
        if let Some(i) = at
            && let Some(open) = self.txn.open.get(i)
            && Rc::ptr_eq(&open.table, t)
        {
            if open.number == number {
                return Ok(Some(i));
            }
            if open.number > number {
                return Ok(None);
            }
            self.close_block(i)?;
        }
        // What the overlay has of a row would hide what is in the blocks.
        if self.overlay.len > 0 {
            self.fold()?;
        }
        let rows = self.store(t).take_block(number)?;
        self.txn.open.push(OpenBlock { table: Rc::clone(t), number, rows, touched: SmallVec::new() });
        Ok(Some(self.txn.open.len() - 1))
    }

    /// Writes an open block, and says which versions changed it.
    fn close_block(&mut self, at: usize) -> Result<()> {
        let Some(open) = self.txn.open.get(at) else { return Ok(()) };
        if !open.touched.is_empty() {
            let (db, t) = (self.db, &open.table);
            let store = self.stores.entry(t.id).or_insert_with(|| TableStore::new(db, t));
            store.write_rows(open.number, &open.rows, &mut self.scratch)?;
        }
        let open = self.txn.open.swap_remove(at);
        for db_version in open.touched {
            let changes = self.txn.listed.entry(db_version).or_default();
            let list: &mut TableList = changes.tables.entry(open.table.id).or_default();
            list.name(&Loc::Row(open.number << SHIFT));
        }
        Ok(())
    }

    pub fn close_blocks(&mut self) -> Result<()> {
        while !self.txn.open.is_empty() {
            self.close_block(self.txn.open.len() - 1)?;
        }
        Ok(())
    }

    /// Before a record at a place is read.
    pub fn close_block_of(&mut self, t: &Table, loc: &Loc) -> Result<()> {
        let Loc::Row(row) = loc else { return Ok(()) };
        let here = |o: &OpenBlock| o.table.id == t.id && o.number == row >> SHIFT;
        match self.txn.open.iter().position(here) {
            Some(at) => self.close_block(at),
            None => Ok(()),
        }
    }
}

/// Merges a change into an open block; None: it is to go the ordinary way.
pub fn merge(
    engine: &Engine,
    core: &mut Core,
    t: &Rc<Table>,
    at: (u32, u64),
    inc: &Incoming<'_>,
) -> Result<Option<i64>> {
    let large = core.txn.works.len() >= ROWS_MIN && !core.observing && !core.txn.at_current;
    if !large || t.kind != KeyKind::RowId || core.txn.works.contains_key(&at) {
        return Ok(None);
    }
    let row = at.1 as i64;
    let Some(i) = engine.note_broken(core.open_block(t, row))? else { return Ok(None) };
    let alone = !core.has_parked()?;
    let Some(open) = core.txn.open.get_mut(i) else { return Ok(None) };
    if alone
        && let [cell] = inc.cells
        && let Some(meta) = open.rows.get_mut(slot(row)).map(|r| &mut r.meta)
    {
        match decide(meta, inc.cl, cell) {
            Known::Loses => return Ok(Some(0)),
            Known::Wins => {
                let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
                set_by_row(engine, &mut core.writers, &place, t, row, cell)?;
                takes(meta, cell);
                open.touch(cell.stamp.db_version);
                core.txn.high = core.txn.high.max(cell.stamp.col_version);
                return Ok(Some(1));
            }
            Known::Open => {}
        }
    }
    let stored: Option<RowMeta> = open.rows.get_mut(slot(row)).map(|r| r.meta.clone());
    merge_as_work(engine, core, t, row, (stored, inc)).map(Some)
}

/// All that is not one cell of a row that is shown.
fn merge_as_work(
    engine: &Engine,
    core: &mut Core,
    t: &Rc<Table>,
    row: i64,
    (stored, inc): (Option<RowMeta>, &Incoming<'_>),
) -> Result<i64> {
    let mut work = Work {
        table: Rc::clone(t),
        row: Some(row),
        key: None,
        spelling: None,
        hash: 0,
        stored: stored.is_some().then_some(Loc::Row(row)),
        meta: stored.unwrap_or_default(),
        touched: SmallVec::new(),
    };
    let accepted = merge_work(engine, core, &mut work, inc)?;
    if work.touched.is_empty() {
        return Ok(accepted);
    }
    // What waited since an earlier transaction is named in that one's log row, which is the works' way.
    let past = work.touched.iter().any(|v| core.is_past(*v));
    let open = if past { None } else { engine.note_broken(core.open_block(t, row))? };
    match open.and_then(|i| core.txn.open.get_mut(i)) {
        Some(open) => {
            work.touched.iter().for_each(|v| open.touch(*v));
            open.rows.set(slot(row), Some(StoredRow { meta: work.meta, hash: 0 }));
        }
        None => drop(core.txn.works.insert((t.id, row as u64), work)),
    }
    Ok(accepted)
}
