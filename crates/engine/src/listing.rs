//! The changes of one db_version, read back from the log's lists and the rows' metadata.

use crate::catalog::{KeyKind, Table};
use crate::core::{Core, LogRow, cached, read_log_head};
use crate::error::Result;
use crate::log::Changes;
use crate::names::TABLES;
use crate::parked::{Parked, SENTINEL};
use crate::store::{Loc, Record};
use rejoin_crdt::meta::{RowMeta, Sentinel};
use rejoin_sqlite::{Stmt, ValueRef};
use std::collections::HashSet;
use std::rc::Rc;

/// A row with changes in the listed version.
pub struct ListedRow {
    pub table: Rc<Table>,
    pub loc: Loc,
    pub meta: RowMeta,
    pub spelling: Option<Rc<[u8]>>,
}

/// Where a listed change comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Sentinel,
    /// Index into the table's columns.
    Cell(u32),
    /// Index into the unit's parked changes.
    Parked,
}

#[derive(Clone, Copy, Debug)]
pub struct Listed {
    pub seq: i64,
    /// Index into the unit's rows, or into its parked changes.
    pub row: u32,
    pub what: What,
    pub col_version: i64,
    pub site: u32,
}

/// All changes of one db_version, by seq.
#[derive(Default)]
pub struct Unit {
    pub db_version: i64,
    pub rows: Vec<ListedRow>,
    pub parked: Vec<ListedParked>,
    pub changes: Vec<Listed>,
}

/// A parked change.
pub struct ListedParked {
    /// Table and column as it would come back under them. None: their names mean something else to who is not told their
    /// lives, and the change is not listed.
    pub names: Option<(String, String)>,
    pub change: Parked,
}

/// What a reader does not want to see.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub table: Option<u32>,
}

/// The sentinel that a row lists: its own, or one made of its oldest change. That is so for a living row all of
/// whose columns were dropped, lest nobody hears of it, and for one that a cell brought to a later life, as
/// cr-sqlite does. A made-up sentinel is not stored and stands in no changeset.
pub fn listed_sentinel(table: &Table, meta: &RowMeta) -> Option<Sentinel> {
    if meta.sentinel.is_some() || !meta.is_alive() {
        return meta.sentinel;
    }
    if meta.cl == 1 && table.cols.iter().any(|c| meta.cell(c.id).is_some()) {
        return None;
    }
    let g = meta.groups.last()?;
    Some(Sentinel { db_version: g.stamp.db_version, site: g.stamp.site, seq: g.seq })
}

impl Unit {
    pub fn add_row(&mut self, row: ListedRow) {
        let index = self.rows.len() as u32;
        let before = self.changes.len();
        if let Some(s) = listed_sentinel(&row.table, &row.meta)
            && s.db_version == self.db_version
        {
            let col_version = i64::from(row.meta.cl);
            self.changes.push(Listed {
                seq: s.seq,
                row: index,
                what: What::Sentinel,
                col_version,
                site: s.site,
            });
        }
        if row.meta.groups.iter().any(|g| g.stamp.db_version == self.db_version) {
            for (n, col) in row.table.cols.iter().enumerate() {
                let Some((stamp, seq)) = row.meta.cell(col.id) else {
                    continue;
                };
                if stamp.db_version == self.db_version {
                    let (col_version, site) = (stamp.col_version, stamp.site);
                    self.changes.push(Listed {
                        seq,
                        row: index,
                        what: What::Cell(n as u32),
                        col_version,
                        site,
                    });
                }
            }
        }
        if self.changes.len() > before {
            self.rows.push(row);
        }
    }

    fn finish(&mut self) {
        if !self.changes.is_sorted_by_key(|c| c.seq) {
            self.changes.sort_by_key(|c| c.seq);
        }
    }
}

/// The log from a row on, with the columns that `read_log_head` reads and the changes.
pub const LOG_FROM: &str = "SELECT id, db_version, site, version, clock, nonce, chain, high, changes \
     FROM main.crsql_log WHERE id >= ?1 ORDER BY id";

fn read_unit(q: &mut Stmt, lsn: i64) -> Result<Option<(Vec<LogRow>, i64)>> {
    q.bind_int(1, lsn)?;
    let mut rows: Vec<LogRow> = Vec::new();
    let mut next = lsn;
    while q.step()? {
        let mut row = read_log_head(q)?;
        if rows.first().is_some_and(|r| r.db_version != row.db_version) {
            break;
        }
        row.changes = Changes::decode(q.column_blob(8), &row.base())?;
        next = row.lsn + 1;
        rows.push(row);
    }
    Ok((!rows.is_empty()).then_some((rows, next)))
}

impl Core {
    /// The first log row whose db_version is at least `db_version`, or one past the end.
    pub fn first_log_row(&mut self, db_version: i64) -> Result<i64> {
        let q = cached(
            &mut self.q.log_at,
            self.db,
            "SELECT id, db_version FROM main.crsql_log WHERE id >= ?1 ORDER BY id LIMIT 1",
        )?;
        let mut at = |id: i64| -> Result<Option<(i64, i64)>> {
            q.query_row(&[ValueRef::Integer(id)], |q| Ok((q.column_int(0), q.column_int(1))))
                .map_err(Into::into)
        };
        let (mut low, mut high) = (0i64, self.tail.lsn + 1);
        // Versions mostly grow by one a row: the first guess is mostly right.
        let guess = self.tail.lsn.saturating_sub(self.tail.db_version.saturating_sub(db_version));
        if (1..high).contains(&guess) {
            match at(guess)? {
                Some((_, v)) if v >= db_version => high = guess,
                _ => low = guess + 1,
            }
            if guess > 1
                && high == guess
                && at(guess - 1)?.is_some_and(|(id, v)| id < guess && v < db_version)
            {
                low = guess;
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match at(middle)? {
                Some((_, v)) if v >= db_version => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    /// The log rows of the first db_version at or after row `lsn`, and the row after them.
    pub fn log_unit(&mut self, lsn: i64) -> Result<Option<(Vec<LogRow>, i64)>> {
        let q = cached(&mut self.q.log_after, self.db, LOG_FROM)?;
        let read = read_unit(q, lsn);
        q.reset();
        read
    }

    /// The changes that these log rows (all of one db_version) list.
    pub fn unit(&mut self, rows: &[LogRow], filter: &Filter) -> Result<Unit> {
        let mut unit = Unit { db_version: rows.first().map_or(0, |r| r.db_version), ..Unit::default() };
        // One row can be named twice: by several log rows, or inline and by its block.
        let twice =
            rows.len() > 1 || rows.iter().any(|r| !r.changes.is_inline() && r.changes.inline_count() > 0);
        let mut seen = twice.then(HashSet::new);
        let mut parked = false;
        for row in rows {
            parked |= row.changes.parked;
            for (&tbl, list) in &row.changes.tables {
                if filter.table.is_some_and(|t| t != tbl) {
                    continue;
                }
                let Some(table) = self.catalog.get(tbl).cloned() else {
                    continue;
                };
                let mut add = |loc: Loc, record: Record| {
                    if seen.as_mut().is_none_or(|s| s.insert((tbl, loc.clone()))) {
                        let (meta, spelling) = (record.row.meta, record.spelling);
                        unit.add_row(ListedRow { table: Rc::clone(&table), loc, meta, spelling });
                    }
                };
                for loc in list.inline.keys() {
                    if let Some(record) = self.load(&table, loc)? {
                        add(loc.clone(), record);
                    }
                }
                self.blocks_and_ranges(&table, list, &mut add)?;
            }
        }
        if parked {
            for mut p in self.parked_at(unit.db_version)? {
                self.respell_parked(&mut p)?;
                let cid = match p.col {
                    Some(col) => self.text_of(p.table, col)?,
                    None => Some(SENTINEL.to_owned()),
                };
                let names = self.text_of(TABLES, p.table)?.zip(cid);
                let row = unit.parked.len() as u32;
                let listed =
                    Listed { seq: p.seq, row, what: What::Parked, col_version: p.col_version, site: p.site };
                unit.changes.extend(names.is_some().then_some(listed));
                unit.parked.push(ListedParked { names, change: p });
            }
        }
        unit.finish();
        Ok(unit)
    }

    fn blocks_and_ranges(
        &mut self,
        table: &Rc<Table>,
        list: &crate::log::TableList,
        add: &mut impl FnMut(Loc, Record),
    ) -> Result<()> {
        self.store(table);
        let (Some(store), overlay) = (self.stores.get(&table.id), &self.overlay) else {
            return Ok(());
        };
        // What the overlay says of a row is newer; some rows stand in the overlay alone.
        let mut only: std::collections::BTreeMap<&Loc, &Record> = overlay
            .table(table.id)
            .filter(|(loc, _)| list.covers(loc))
            .filter_map(|(loc, record)| record.as_ref().map(|r| (loc, r)))
            .collect();
        let mut take = |loc: Loc, stored: Record| match overlay.get(table.id, &loc) {
            Some(newer) => {
                only.remove(&loc);
                if let Some(newer) = newer {
                    add(loc, newer.clone());
                }
            }
            None => add(loc, stored),
        };
        for &(from, to) in &list.blocks {
            store.scan_rows(from, to, |row, stored| {
                let record = Record { row: stored.clone(), spelling: None };
                take(Loc::Row(row), record);
                Ok(())
            })?;
        }
        for (from, to) in &list.keys {
            store.scan_keys(from, Some(to), |e| {
                take(Loc::Key(e.key.as_slice().into()), crate::store::record_of(e));
                Ok(())
            })?;
        }
        for (loc, record) in only {
            add(loc.clone(), record.clone());
        }
        Ok(())
    }

    /// A parked change stands under the identity of its key; it is listed as its row is spelled.
    pub fn respell_parked(&mut self, p: &mut Parked) -> Result<()> {
        let Some(t) = self.catalog.get(p.table).cloned() else {
            return Ok(());
        };
        if t.kind == KeyKind::RowId || crate::value::one_spelling(&t, &p.pk) {
            return Ok(());
        }
        if let Some(row) = self.row_by_key(&t, &p.pk)? {
            let spelling = match row.loc {
                Loc::Row(id) => self.live_spelling(&t, Some(id), Some(&p.pk))?,
                Loc::Key(_) => row.spelling,
            };
            p.pk = crate::value::shown_key(&t, &p.pk, spelling.as_deref());
        }
        Ok(())
    }

    /// Whether something of the row that a packed key names is parked.
    pub fn is_parked_row(&mut self, t: &Rc<Table>, packed: &[u8]) -> Result<bool> {
        if !self.has_parked()? {
            return Ok(false);
        }
        let (row, key) = match t.kind {
            KeyKind::RowId => (crate::value::packed_rowid(t, packed).ok(), None),
            _ => (None, crate::value::identity_of_foreign(t, packed).ok().map(|i| i.key)),
        };
        let pk = Core::parked_key(t, row, key.as_deref());
        Ok(!self.parked_of_row(t.id, &pk)?.is_empty())
    }

    /// The metadata of the row that a packed key names.
    pub fn row_by_key(&mut self, table: &Rc<Table>, packed: &[u8]) -> Result<Option<ListedRow>> {
        let mut loc = match table.kind {
            KeyKind::RowId => match crate::value::packed_rowid(table, packed) {
                Ok(row) => Loc::Row(row),
                Err(_) => return Ok(None),
            },
            _ => match crate::value::identity_of_foreign(table, packed) {
                Ok(identity) => Loc::Key(identity.key),
                Err(_) => return Ok(None),
            },
        };
        let mut record = self.load(table, &loc)?;
        if record.is_none()
            && table.kind == KeyKind::Hashed
            && let Loc::Key(key) = &loc
            && let Some(row) = self.find_row(table, key)?
        {
            loc = Loc::Row(row);
            record = self.load(table, &loc)?;
        }
        Ok(record.map(|r| ListedRow { table: Rc::clone(table), loc, meta: r.row.meta, spelling: r.spelling }))
    }
}
