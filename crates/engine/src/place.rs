//! A row is put into a state, whatever stood there: table, metadata and what waits.

use crate::Value;
use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Work};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target};
use crate::merge::{Cell, PUT, delete_row, put_row, respell_row, set_cells};
use crate::names::State;
use crate::parked::{Parked, Reason};
use crate::rowstate::{Place, RowState, StateCell, Ties};
use crate::value::from_sql;
use rejoin_crdt::meta::Stamp;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Lets a row be what `target` says. `before` is the row as it was, `db_version` that of the open transaction, which
/// names the row.
pub fn place(
    engine: &Engine,
    core: &mut Core,
    mut work: Work,
    at: (u32, u64),
    before: &RowState,
    target: &RowState,
    db_version: i64,
) -> Result<()> {
    let t = Rc::clone(&work.table);
    let pk = Core::parked_key(&t, work.row, work.key.as_deref());
    for p in core.parked_of_row(t.id, &pk)?.iter().filter(|p| p.col.is_some()) {
        core.unpark(p.id)?;
    }
    let complete = target.cl & 1 == 1
        && t.cols.iter().all(|c| !c.required || target.cells.contains_key(&Place::Column(c.id)));
    let mut shown = false;
    if complete {
        let written = write(engine, core, &mut work, before, target);
        shown = !matches!(written, Err(Error::Constraint { .. }));
        if shown {
            written?;
        }
    }
    if !shown && before.visible {
        delete_row(engine, core, &mut work)?;
    }
    if target.cl == 0 {
        let (tbl, stored) = (t.id, work.stored.take());
        if let Some(loc) = stored {
            core.apply_to_blocks(tbl, vec![(loc, None)])?;
        }
    }
    let reason = if complete { Reason::Constraint } else { Reason::Incomplete };
    for (place, cell) in &target.cells {
        let reason = match place {
            Place::Column(_) if shown => continue,
            Place::Column(_) => reason,
            Place::Waits(id) => Reason::of(State::Here, core.column_state(t.id, *id)?),
        };
        keep_waiting(core, &parked(&t, &pk, place.column(), cell, target.cl), reason)?;
    }
    for p in &target.held {
        if still_waits(core, &t, &pk, p, target) {
            keep_waiting(core, p, Reason::Constraint)?;
        }
    }
    let high = target.cells.values().map(|c| c.stamp.col_version).max().unwrap_or(0);
    core.txn.high = core.txn.high.max(high);
    // Of what only waits the log says that something does, and names no row.
    let groups = work.meta.groups.iter().map(|g| g.stamp.db_version);
    let named: BTreeSet<i64> = groups.chain(work.meta.sentinel.map(|s| s.db_version)).collect();
    for version in target.versions().difference(&named) {
        work.touch(*version);
    }
    work.touch(db_version);
    work.spelling.clone_from(&target.spelling);
    work.meta = target.meta(shown);
    if core.observing {
        core.txn.notes.note_whole(&work, db_version);
    }
    if target.cl > 0 {
        core.txn.works.insert(at, work);
    }
    Ok(())
}

/// Writes the values into the table; nothing changes if it refuses them.
fn write(
    engine: &Engine,
    core: &mut Core,
    work: &mut Work,
    before: &RowState,
    target: &RowState,
) -> Result<()> {
    let t = Rc::clone(&work.table);
    let cells: Vec<Cell<'_>> = target.cells.iter().filter_map(|(place, c)| cell(place, c)).collect();
    if !before.visible {
        let spelling = std::mem::replace(&mut work.spelling, target.spelling.clone());
        let done = put_row(engine, core, work, &cells, &PUT);
        if done.is_err() {
            work.spelling = spelling;
        }
        return done;
    }
    let defaults = core.defaults(&t)?;
    let mut differs: Vec<Cell<'_>> = Vec::new();
    {
        let mut reader = RowReader::new(core.db, &t)?;
        let there = match (&work.key, work.row) {
            (Some(key), _) if t.kind == KeyKind::Keyed => reader.seek(Target::Key(key))?,
            (_, Some(row)) => reader.seek(Target::Row(row))?,
            _ => false,
        };
        if !there {
            return Err(Error::damaged("a living row is missing"));
        }
        for (n, col) in t.cols.iter().enumerate() {
            let written = cells.iter().find(|c| c.col == col.id);
            let val = match written {
                Some(c) => c.val,
                None => defaults.get(n).map_or(rejoin_crdt::ValueRef::Null, Value::as_ref),
            };
            if !from_sql(reader.column(n)).same(val) {
                let stamp = Stamp { col_version: 0, db_version: 0, site: 0 };
                differs.push(Cell { col: col.id, stamp, seq: 0, val });
            }
        }
    }
    set_cells(engine, core, work, &differs)?;
    if before.spelling != target.spelling
        && t.kind != KeyKind::RowId
        && let Some(key) = target.spelling.clone().or_else(|| work.key.clone())
    {
        respell_row(engine, core, work, &key)?;
    }
    Ok(())
}

fn cell<'s>(place: &Place, c: &'s StateCell) -> Option<Cell<'s>> {
    match place {
        Place::Column(col) => Some(Cell { col: *col, stamp: c.stamp, seq: c.seq, val: c.val.as_ref() }),
        Place::Waits(_) => None,
    }
}

fn parked(t: &Table, pk: &[u8], col: u32, c: &StateCell, cl: u32) -> Parked {
    Parked {
        id: 0,
        table: t.id,
        pk: pk.to_vec(),
        col: Some(col),
        val: c.val.clone(),
        col_version: c.stamp.col_version,
        db_version: c.stamp.db_version,
        site: c.stamp.site,
        cl,
        seq: c.seq,
        reason: String::new(),
    }
}

fn keep_waiting(core: &mut Core, p: &Parked, reason: Reason) -> Result<()> {
    core.put_parked(p, reason)?;
    core.list_parked(p.db_version)
}

/// Whether a refused value goes on waiting beside the values of the row.
fn still_waits(core: &Core, t: &Table, pk: &[u8], p: &Parked, target: &RowState) -> bool {
    let ties = Ties { sites: &core.sites, merge_equal: core.cfg.merge_equal, identity: pk };
    let Some(col) = p.col.and_then(|col| t.column_by_id(col)) else { return false };
    let mine = target.cells.get(&Place::Column(col.id));
    p.cl == target.cl && mine.is_none_or(|mine| StateCell::parked(p).beats(mine, &ties))
}

impl Core {
    /// Lets the log say that some changes of a db_version are parked.
    fn list_parked(&mut self, db_version: i64) -> Result<()> {
        if !self.is_past(db_version) {
            self.txn.parked.insert(db_version);
            return Ok(());
        }
        let first = self.first_log_row(db_version)?;
        let Some((rows, _)) = self.log_unit(first)? else { return Ok(()) };
        let of = |r: &crate::core::LogRow| r.db_version == db_version && r.changes.empty_from.is_none();
        let Some(mut row) = rows.into_iter().rfind(of).filter(|r| !r.changes.parked) else { return Ok(()) };
        row.changes.parked = true;
        let bytes = row.changes.encode(&row.base());
        self.write_log_row(&row, &bytes)
    }
}
