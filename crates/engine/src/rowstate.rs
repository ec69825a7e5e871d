//! Everything that is known of one row, with its values and in memory: what a server tells of rows that it has another
//! opinion about, and what adoption weighs. Row states travel as a changeset of their own kind, which no merge takes.

use crate::catalog::{KeyKind, Table};
use crate::changeset::wire;
use crate::checked::RowKey;
use crate::core::{Core, Header, Sites, Work};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target};
use crate::names::{Called, TABLES};
use crate::parked::Parked;
use crate::value::{from_sql, shown_key};
use crate::{SiteId, Value};
use rejoin_crdt::merge::{SentinelRef, Verdict, by_value, by_version, sentinel};
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};
use rejoin_wire::{EmptyRange, GroupRecord, Naming, RowRecord, Transaction, Writer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Where a cell belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Column(u32),
    /// One that is not here, or not any more.
    Waits(u32),
}

impl Place {
    pub fn of(t: &Table, column: u32) -> Place {
        if t.column_by_id(column).is_some() { Place::Column(column) } else { Place::Waits(column) }
    }

    pub fn column(&self) -> u32 {
        match self {
            Place::Column(id) | Place::Waits(id) => *id,
        }
    }
}

/// A cell with its value; `stamp` has local ordinals and db_versions.
#[derive(Clone, Debug, PartialEq)]
pub struct StateCell {
    pub stamp: Stamp,
    pub seq: i64,
    pub val: Value,
}

/// A row, whether it stands in the table or waits. `cl` 0: nothing is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowState {
    pub cl: u32,
    pub sentinel: Option<Sentinel>,
    pub spelling: Option<Rc<[u8]>>,
    pub cells: BTreeMap<Place, StateCell>,
    /// Values that the table refuses, beside those that it shows.
    pub held: Vec<Parked>,
    /// It stands in the table.
    pub visible: bool,
}

/// What decides between equals.
pub struct Ties<'a> {
    pub sites: &'a Sites,
    pub merge_equal: bool,
    /// The key in identity form.
    pub identity: &'a [u8],
}

impl RowState {
    /// A row as it is here.
    pub fn local(core: &mut Core, work: &Work) -> Result<RowState> {
        let t = Rc::clone(&work.table);
        let visible = core.is_visible(work)?;
        let meta = &work.meta;
        let mut state = RowState {
            cl: meta.cl,
            sentinel: meta.sentinel,
            spelling: work.spelling.clone(),
            visible,
            ..RowState::default()
        };
        if visible && !meta.groups.is_empty() {
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
                if let Some((stamp, seq)) = meta.cell(col.id) {
                    let cell = StateCell { stamp, seq, val: from_sql(reader.column(n)).to_owned() };
                    state.cells.insert(Place::Column(col.id), cell);
                }
            }
        }
        let pk = Core::parked_key(&t, work.row, work.key.as_deref());
        for p in core.parked_of_row(t.id, &pk)?.into_iter().filter(|p| p.cl == meta.cl) {
            match p.col.map(|col| Place::of(&t, col)) {
                None => state.held.push(p),
                Some(Place::Column(_)) if visible => state.held.push(p),
                Some(place) => drop(state.cells.insert(place, StateCell::parked(&p))),
            }
        }
        Ok(state)
    }

    /// A row of a table that is not here: what waits for it.
    fn unknown(parked: Vec<Parked>) -> RowState {
        let mut state = RowState::default();
        for p in parked.into_iter().filter(|p| p.cl & 1 == 1 || p.col.is_none()) {
            state.cl = state.cl.max(p.cl);
            match p.col {
                None => {
                    state.sentinel = Some(Sentinel { db_version: p.db_version, site: p.site, seq: p.seq });
                }
                Some(col) => drop(state.cells.insert(Place::Waits(col), StateCell::parked(&p))),
            }
        }
        state
    }

    /// Merges another replica's row by the rules of merging (3.1 to 3.3).
    pub fn merge(&mut self, other: RowState, ties: &Ties<'_>) {
        if other.cl < self.cl {
            return;
        }
        if other.cl > self.cl {
            self.cl = other.cl;
            self.sentinel = None;
            self.spelling.clone_from(&other.spelling);
            self.cells.clear();
        }
        let site = |ordinal| ties.sites.id(ordinal).unwrap_or_default();
        if let Some(new) = other.sentinel {
            let mine = self.spelling.as_deref().unwrap_or(ties.identity);
            let theirs = other.spelling.as_deref().unwrap_or(ties.identity);
            let (my_site, their_site) = (self.sentinel.map(|s| site(s.site)), site(new.site));
            let local = my_site.as_ref().map(|site| SentinelRef { key: mine, site });
            let incoming = SentinelRef { key: theirs, site: &their_site };
            if sentinel(local, incoming, ties.merge_equal) != Verdict::Lose {
                self.sentinel = Some(new);
                self.spelling = other.spelling;
            }
        }
        if self.cl & 1 == 0 {
            return;
        }
        for (place, cell) in other.cells {
            match self.cells.get(&place) {
                Some(mine) if !cell.beats(mine, ties) => {}
                _ => drop(self.cells.insert(place, cell)),
            }
        }
    }

    /// The metadata of the cells that stand in the table.
    pub fn meta(&self, shown: bool) -> RowMeta {
        let mut meta = RowMeta { cl: self.cl, sentinel: self.sentinel, ..RowMeta::default() };
        let column = |(place, cell)| match place {
            &Place::Column(id) => Some((id, cell)),
            Place::Waits(_) => None,
        };
        let mut cells: Vec<(u32, &StateCell)> =
            self.cells.iter().filter(|_| shown).filter_map(column).collect();
        cells.sort_by_key(|(id, c)| (c.stamp.db_version, c.seq, *id));
        for (id, cell) in cells {
            meta.write(ColSet::single(id), cell.stamp, cell.seq);
        }
        meta
    }

    /// Every db_version that wrote something of the row.
    pub fn versions(&self) -> BTreeSet<i64> {
        let cells = self.cells.values().map(|c| c.stamp.db_version);
        let held = self.held.iter().map(|p| p.db_version);
        self.sentinel.map(|s| s.db_version).into_iter().chain(cells).chain(held).collect()
    }
}

impl StateCell {
    pub fn parked(p: &Parked) -> StateCell {
        let stamp = Stamp { col_version: p.col_version, db_version: p.db_version, site: p.site };
        StateCell { stamp, seq: p.seq, val: p.val.clone() }
    }

    /// Whether it is the same write, wherever it is attributed to.
    pub fn says_as(&self, other: &StateCell) -> bool {
        let write = |c: &StateCell| (c.stamp.col_version, c.stamp.site);
        write(self) == write(other) && self.val == other.val
    }

    pub fn beats(&self, mine: &StateCell, ties: &Ties<'_>) -> bool {
        let site = |ordinal| ties.sites.id(ordinal).unwrap_or_default();
        let verdict = by_version(Some(mine.stamp.col_version), self.stamp.col_version).unwrap_or_else(|| {
            let (mine_site, my_site) = (site(mine.stamp.site), site(self.stamp.site));
            by_value(mine.val.as_ref(), &mine_site, self.val.as_ref(), &my_site, ties.merge_equal)
        });
        verdict != Verdict::Lose
    }
}

impl Core {
    /// The transaction that a db_version belongs to; None: there is none.
    pub fn header_of(&mut self, db_version: i64) -> Result<Option<Header>> {
        let first = self.first_log_row(db_version)?;
        let Some((rows, _)) = self.log_unit(first)? else { return Ok(None) };
        let of = |r: &&crate::core::LogRow| {
            r.db_version == db_version && r.header.version > 0 && r.changes.empty_from.is_none()
        };
        Ok(rows.iter().rfind(of).map(|r| r.header))
    }
}

/// A row with the key that it shows.
struct Listed {
    key: Vec<u8>,
    state: RowState,
}

/// Makes the row states of some rows, as they are committed here.
pub fn make(engine: &Engine, rows: &[RowKey]) -> Result<Vec<u8>> {
    engine.make_ready()?;
    engine.before_read()?;
    engine.scoped("crsql_rows", || {
        let mut core = engine.core()?;
        core.refresh(false)?;
        let header = rejoin_wire::Header { site: core.own_site(), lineage: core.cfg.lineage };
        let mut out = States { writer: Writer::new(header).row_states(), txns: HashMap::new() };
        let mut tables: BTreeMap<String, BTreeSet<&[u8]>> = BTreeMap::new();
        for row in rows {
            tables.entry(row.table.to_ascii_lowercase()).or_default().insert(&row.pk);
        }
        for (name, keys) in tables {
            let keys: Vec<&[u8]> = keys.into_iter().collect();
            out.table(&mut core, &name, &keys)?;
        }
        let held = core.vector.clone();
        for (id, ranges) in held.iter() {
            let site = out.writer.site(id);
            for r in ranges.iter() {
                let chain = core.chain_of(id, *r.end());
                out.writer.base_range(EmptyRange { site, from: *r.start(), to: *r.end(), chain });
            }
        }
        out.writer.finish(true).map_err(wire)
    })
}

struct States {
    writer: Writer,
    /// Transactions by db_version.
    txns: HashMap<i64, i64>,
}

impl States {
    fn table(&mut self, core: &mut Core, name: &str, keys: &[&[u8]]) -> Result<()> {
        let met = core.by_text(TABLES, name)?;
        let table = met.and_then(|met| core.catalog.get(met.id)).cloned();
        let mut listed: Vec<Listed> = Vec::new();
        for key in keys {
            let one = match (&table, met) {
                (Some(t), _) => core.listed(t, key)?,
                (None, Some(met)) => {
                    let state = RowState::unknown(core.parked_of_row(met.id, key)?);
                    Listed { key: key.to_vec(), state }
                }
                (None, None) => Listed { key: key.to_vec(), state: RowState::default() },
            };
            listed.push(one);
        }
        listed.dedup_by(|a, b| a.key == b.key);
        let mut places: BTreeMap<Place, u32> = BTreeMap::new();
        let here = table.iter().flat_map(|t| t.cols.iter().map(|c| Place::Column(c.id)));
        for place in here.chain(listed.iter().flat_map(|l| l.state.cells.keys().cloned())) {
            let next = places.len() as u32;
            places.entry(place).or_insert(next);
        }
        let (called, mut columns_called) = match met {
            Some(met) => (Some(core.table_called(met.id)?), core.columns_called(met.id)?),
            None => (None, BTreeMap::new()),
        };
        let mut order: Vec<(&u32, &Place)> = places.iter().map(|(place, n)| (n, place)).collect();
        order.sort();
        let of = |p: &Place| columns_called.remove(&p.column()).unwrap_or_default();
        let columns: Vec<Called> = order.iter().map(|(_, place)| *place).map(of).collect();
        let columns: Vec<Naming<'_>> = columns.iter().map(Called::naming).collect();
        let shown = called.as_ref().map_or_else(|| Naming::new(name), Called::naming);
        // Nobody here knows what the key columns of an unknown table are called.
        let keys = table.as_ref().map(|t| t.keys.iter().map(|k| k.name.as_str()).collect());
        let keys: Vec<&str> = keys.unwrap_or_else(|| vec!["?1"]);
        let waiting = places.keys().any(|place| matches!(place, Place::Waits(_)));
        self.writer.begin_table(&shown, &keys, &columns, waiting).map_err(wire)?;
        for one in &listed {
            self.row(core, one, &places)?;
            self.held(core, table.as_ref(), one, &places)?;
        }
        Ok(())
    }

    fn row(&mut self, core: &mut Core, one: &Listed, places: &BTreeMap<Place, u32>) -> Result<()> {
        let state = &one.state;
        let sentinel = match state.sentinel {
            Some(s) => {
                let db_version = self.transaction(core, s.db_version)?;
                Some(Sentinel { db_version, site: self.site(core, s.site), seq: s.seq })
            }
            None => None,
        };
        let mut record = RowRecord { cl: state.cl, sentinel, ..RowRecord::default() };
        let mut values: Vec<(u32, &Value)> = Vec::new();
        for (place, cell) in &state.cells {
            let Some(&col) = places.get(place) else { continue };
            values.push((col, &cell.val));
            let stamp = self.stamp(core, &cell.stamp)?;
            match record.groups.last_mut() {
                Some(g)
                    if g.stamp == stamp
                        && cell.seq == g.seq + i64::from(g.cols.len())
                        && g.cols.iter().last() < Some(col) =>
                {
                    g.cols.insert(col);
                    g.live.insert(col);
                }
                _ => {
                    let one = ColSet::single(col);
                    record.groups.push(GroupRecord { cols: one.clone(), live: one, stamp, seq: cell.seq });
                }
            }
        }
        values.sort_by_key(|v| v.0);
        self.writer.row(&one.key, &record, values.iter().map(|v| v.1.as_ref())).map_err(wire)
    }

    /// What the table refuses is listed too, as other cells of the same row.
    fn held(
        &mut self,
        core: &mut Core,
        t: Option<&Rc<Table>>,
        one: &Listed,
        places: &BTreeMap<Place, u32>,
    ) -> Result<()> {
        for p in &one.state.held {
            let place = t.zip(p.col).map(|(t, col)| Place::of(t, col));
            let Some(&col) = place.and_then(|place| places.get(&place)) else { continue };
            let cell = StateCell::parked(p);
            let (only, stamp) = (ColSet::single(col), self.stamp(core, &cell.stamp)?);
            let group = GroupRecord { cols: only.clone(), live: only, stamp, seq: cell.seq };
            let record = RowRecord { cl: p.cl, sentinel: None, groups: [group].into_iter().collect() };
            self.writer.row(&one.key, &record, [cell.val.as_ref()]).map_err(wire)?;
        }
        Ok(())
    }

    fn site(&mut self, core: &Core, ordinal: u32) -> u32 {
        self.writer.site(&core.sites.id(ordinal).unwrap_or_default())
    }

    fn stamp(&mut self, core: &mut Core, stamp: &Stamp) -> Result<Stamp> {
        let db_version = self.transaction(core, stamp.db_version)?;
        Ok(Stamp { db_version, site: self.site(core, stamp.site), ..*stamp })
    }

    fn transaction(&mut self, core: &mut Core, db_version: i64) -> Result<i64> {
        if let Some(known) = self.txns.get(&db_version) {
            return Ok(*known);
        }
        let h = core.header_of(db_version)?;
        let h = h.ok_or_else(|| Error::damaged(format!("no transaction has db_version {db_version}")))?;
        let origin = self.site(core, h.site);
        let Header { version, clock, nonce, chain, .. } = h;
        let txn = Transaction { origin, version, clock, nonce, chain, relay: false, db_version };
        let index = i64::from(self.writer.transaction(txn));
        self.txns.insert(db_version, index);
        Ok(index)
    }
}

impl Core {
    /// A row that a peer asks for.
    fn listed(&mut self, t: &Rc<Table>, packed: &[u8]) -> Result<Listed> {
        let (_, work) = self.take_foreign(t, packed)?;
        let state = RowState::local(self, &work)?;
        let key = match &work.key {
            Some(identity) if state.cl > 0 => shown_key(t, identity, state.spelling.as_deref()),
            _ => packed.to_vec(),
        };
        Ok(Listed { key, state })
    }
}

/// A cell of a row state as it was told.
#[derive(Clone, Debug)]
pub struct ToldCell {
    /// The column's names as they were told, the current one first.
    pub names: Rc<[(String, u32)]>,
    pub col_version: i64,
    pub origin: Origin,
    pub val: Value,
}

/// Who wrote a cell, and in which transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub site: SiteId,
    pub version: u64,
    pub author: SiteId,
    pub seq: i64,
}

/// A row of row states. A row may be told in several parts.
#[derive(Clone, Debug)]
pub struct ToldRow {
    pub key: Vec<u8>,
    pub cl: u32,
    pub sentinel: Option<Origin>,
    pub cells: Vec<ToldCell>,
}
