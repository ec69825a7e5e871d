//! Local writes: what an INSERT, UPDATE or DELETE stamps (rules 3.1, 3.5, 3.6, the clocks).

use crate::replica::{Clock, NewRow, OpError, Replica};
use crate::row::{Cell, ColId, Row, Stamp};
use crate::schema::{self, ColumnDef, Table};
use rejoin_crdt::{Value, hlc};
use std::collections::BTreeMap;

type Key = Vec<Value>;
type Set = [(String, Value)];

impl Replica {
    /// Runs `write` on a copy of the table, which replaces it if the statement succeeds.
    fn write(
        &mut self,
        table: &str,
        key: &[Value],
        write: impl FnOnce(&mut Replica, &mut Table) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let id = self.table_id(table)?;
        let mut t = self.tables.get(&id).cloned().ok_or(OpError::NoTable)?;
        if t.state.live().is_none_or(|live| live.key.len() != key.len()) {
            return Err(OpError::KeyWidth);
        }
        write(self, &mut t)?;
        self.tables.insert(id, t);
        Ok(())
    }

    pub(crate) fn insert(
        &mut self,
        table: &str,
        key: &Key,
        values: &Set,
        replace: bool,
    ) -> Result<(), OpError> {
        self.write(table, key, |r, t| {
            let values = whole_row(t, values)?;
            let id = t.identity(key);
            let old = t.rows.get(&id).cloned().unwrap_or_default();
            let visible = t.is_visible(&old);
            if visible && !replace {
                return Err(OpError::Unique);
            }
            let mut row = old;
            if row.is_alive() && row.key == *key {
                // An update of all columns, also of a row that waits invisibly for its NOT NULL columns.
                if visible && !values.is_empty() {
                    r.next_seq();
                }
            } else {
                r.revive(&mut row, key, t.is_canonical(key) && !values.is_empty());
            }
            for (col, value) in values {
                r.set(&mut row, col, value, 0);
            }
            t.rows.insert(id, row);
            Ok(())
        })
    }

    pub(crate) fn update(&mut self, table: &str, key: &Key, set: &Set) -> Result<(), OpError> {
        self.write(table, key, |r, t| {
            let set = columns(t, set)?;
            r.update_row(t, t.identity(key), &set)
        })
    }

    fn update_row(&mut self, t: &mut Table, id: Key, set: &BTreeMap<ColId, Value>) -> Result<(), OpError> {
        let Some(mut row) = t.rows.get(&id).filter(|row| t.is_visible(row)).cloned() else {
            return Ok(());
        };
        check_not_null(t, set)?;
        for (col, def) in t.live_columns() {
            if let Some(value) = set.get(&col).filter(|value| *value != t.shown(&row, col, def)) {
                self.set(&mut row, col, value.clone(), 0);
            }
        }
        t.rows.insert(id, row);
        Ok(())
    }

    pub(crate) fn delete(&mut self, table: &str, key: &Key) -> Result<(), OpError> {
        self.write(table, key, |r, t| {
            let id = t.identity(key);
            if let Some(mut row) = t.rows.get(&id).filter(|row| t.is_visible(row)).cloned() {
                r.kill(&mut row);
                t.rows.insert(id, row);
            }
            Ok(())
        })
    }

    pub(crate) fn set_key(
        &mut self,
        table: &str,
        key: &Key,
        to: &Key,
        set: &Set,
        replace: bool,
    ) -> Result<(), OpError> {
        if key.len() != to.len() {
            return Err(OpError::KeyWidth);
        }
        self.write(table, key, |r, t| {
            let named = columns(t, set)?;
            let (id, target) = (t.identity(key), t.identity(to));
            let Some(old) = t.rows.get(&id).filter(|row| t.is_visible(row)).cloned() else {
                return Ok(());
            };
            check_not_null(t, &named)?;
            if *to == old.key {
                return r.update_row(t, id, &named);
            }
            let onto = if id == target { None } else { t.rows.get(&target).cloned() };
            if !replace && onto.as_ref().is_some_and(|row| t.is_visible(row)) {
                return Err(OpError::Unique);
            }
            let mut dead = old.clone();
            let mut moved = onto.unwrap_or_default();
            let hit = moved.is_alive() && moved.key == *to;
            if id == target {
                moved = Row { cl: old.cl + 1, ..Row::default() };
            }
            let cl = if hit { moved.cl } else { next_life(moved.cl) };
            if !hit {
                moved.enter(cl, to);
            }
            r.move_cells(t, &old, &mut moved, &named, hit);
            r.kill(&mut dead);
            if moved.sentinel.is_none() {
                moved.sentinel = Some(r.stamp());
            }
            t.rows.insert(id, dead);
            t.rows.insert(target, moved);
            Ok(())
        })
    }

    /// All cells of the row under the new key; every column where the new key is a living row's.
    fn move_cells(&mut self, t: &Table, old: &Row, moved: &mut Row, set: &BTreeMap<ColId, Value>, hit: bool) {
        let defs: BTreeMap<ColId, &ColumnDef> = t.live_columns().into_iter().collect();
        let mut order: Vec<ColId> = t.live_columns().iter().map(|(id, _)| *id).collect();
        order.extend(old.cells.keys().filter(|id| !defs.contains_key(id)));
        for col in order {
            let cell = old.cells.get(&col);
            let shown = defs.get(&col).map(|def| t.shown(old, col, def));
            let changed = set.get(&col).filter(|value| Some(*value) != shown);
            let value = match (changed, cell, shown) {
                (Some(value), _, _) => value.clone(),
                (None, Some(cell), _) => cell.value.clone(),
                (None, None, Some(shown)) if hit => shown.clone(),
                _ => continue,
            };
            let carried = cell.map_or(0, |c| c.col_version) + i64::from(changed.is_some());
            self.set(moved, col, value, carried);
        }
    }

    /// Begins the next life of a row; `plain`: its first life needs no sentinel.
    fn revive(&mut self, row: &mut Row, key: &Key, plain: bool) {
        let cl = next_life(row.cl);
        row.enter(cl, key);
        if cl > 1 || !plain {
            row.sentinel = Some(self.stamp());
        }
    }

    fn kill(&mut self, row: &mut Row) {
        let key = std::mem::take(&mut row.key);
        row.enter(row.cl + 1, &key);
        row.sentinel = Some(self.stamp());
    }

    /// Writes one cell; `carried` is the version that a moved cell had under its old key.
    fn set(&mut self, row: &mut Row, col: ColId, value: Value, carried: i64) {
        let previous = row.cells.get(&col).map_or(0, |c| c.col_version);
        let col_version = match self.clock {
            Clock::Lamport => (previous + 1).max(carried),
            Clock::Hlc => hlc::for_cell(previous, self.transaction_clock()),
        };
        self.largest = self.largest.max(col_version);
        let stamp = self.stamp();
        row.cells.insert(col, Cell { value, col_version, stamp });
    }

    fn transaction_clock(&mut self) -> i64 {
        let minted = hlc::mint(self.largest, self.now_ms);
        *self.open.clock.get_or_insert(minted)
    }

    pub(crate) fn next_seq(&mut self) -> i64 {
        self.open.seq += 1;
        self.open.seq - 1
    }

    fn stamp(&mut self) -> Stamp {
        self.open.touched = true;
        if self.clock == Clock::Hlc {
            // A transaction has one clock value, whether or not it writes a cell.
            self.largest = self.transaction_clock().max(self.largest);
        }
        let db_version = self.next_db_version(0);
        self.open.last = self.open.last.max(db_version);
        Stamp { batch: self.batches + 2, db_version, site: self.site, seq: self.next_seq() }
    }

    /// Rows found and missed by crsql_commit_alter: stamped at the current db_version, col_version 1.
    pub(crate) fn commit_alter(
        &mut self,
        table: &str,
        inserted: &[NewRow],
        vanished: &[Key],
    ) -> Result<(), OpError> {
        let id = self.table_id(table)?;
        let mut t = self.tables.get(&id).cloned().ok_or(OpError::NoTable)?;
        let width = t.state.live().map_or(0, |live| live.key.len());
        if inserted.iter().any(|(key, _)| key.len() != width) {
            return Err(OpError::KeyWidth);
        }
        vanished.iter().for_each(|key| _ = t.rows.remove(&t.identity(key)));
        let (batch, db_version, site) = (self.batches + 1, self.db_version, self.site);
        let mut seq = 0;
        for (key, values) in inserted {
            let identity = t.identity(key);
            let values = whole_row(&t, values)?;
            let plain = t.is_canonical(key) && !values.is_empty();
            let row = t.rows.entry(identity).or_default();
            if row.is_alive() {
                return Err(OpError::Unique);
            }
            let cl = next_life(row.cl);
            row.enter(cl, key);
            let mut stamp = || {
                seq += 1;
                Stamp { batch, db_version, site, seq: seq - 1 }
            };
            if cl > 1 || !plain {
                row.sentinel = Some(stamp());
            }
            for (col, value) in values {
                row.cells.insert(col, Cell { value, col_version: 1, stamp: stamp() });
            }
        }
        self.open.altered |= !inserted.is_empty();
        self.tables.insert(id, t);
        Ok(())
    }
}

/// The next odd causal length above `cl`; of a living row the one after its death.
fn next_life(cl: u32) -> u32 {
    cl + 1 + (cl & 1)
}

fn columns(t: &Table, set: &Set) -> Result<BTreeMap<ColId, Value>, OpError> {
    let one = |(name, value): &(String, Value)| {
        Ok((schema::find(&t.columns, name).ok_or(OpError::NoColumn)?, value.clone()))
    };
    set.iter().map(one).collect()
}

fn check_not_null(t: &Table, set: &BTreeMap<ColId, Value>) -> Result<(), OpError> {
    let null = |(id, def): (ColId, &ColumnDef)| def.not_null && set.get(&id).is_some_and(Value::is_null);
    if t.live_columns().into_iter().any(null) { Err(OpError::NotNull) } else { Ok(()) }
}

/// The values of all live columns of a new row, in order.
fn whole_row(t: &Table, values: &Set) -> Result<Vec<(ColId, Value)>, OpError> {
    let mut given = columns(t, values)?;
    check_not_null(t, &given)?;
    let one = |(id, def): (ColId, &ColumnDef)| match given.remove(&id) {
        Some(value) => Ok((id, value)),
        None if def.not_null => Err(OpError::NotNull),
        None => Ok((id, def.default.clone())),
    };
    t.live_columns().into_iter().map(one).collect()
}
