//! Making a changeset: one cut of the log, up to its end.
//!
//! A changeset holds all log rows that the reader lacks, and of the rows that they name the cells whose db_version is
//! one of theirs. Transactions of which nothing is left travel as empty ranges. What the sender took the reader to hold
//! is the base; a reader that lacks part of it must ask again. Tables and columns travel with all the names that they had
//! (`names.rs`), those of parked changes, too.

use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Header, LogRow};
use crate::cut::{Cut, Part, Reader, count};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::image::{RowReader, Target};
use crate::log::{KeyRange, union};
use crate::names::Called;
use crate::parked::Parked;
use crate::store::Loc;
use crate::value::{from_sql, shown_key};
use rejoin_crdt::ValueRef;
use rejoin_crdt::meta::{ColSet, Group, RowMeta, Sentinel, Stamp};
use rejoin_crdt::site::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::Stmt;
use rejoin_wire::{EmptyRange, GroupRecord, Naming, RowRecord, Transaction, Writer};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// Larger changesets are not compressed: it would take a fifth of the time, and what sends so much compresses by frames
/// or files anyway.
const COMPRESSED_MAX: usize = 1 << 20;

/// No changeset is larger.
pub const BYTES_MAX: u64 = rejoin_wire::limits::BYTES_MAX as u64;

/// The next row is found by stepping when it is at most this far.
const STEP_MAX: i64 = 12;

pub fn wire(e: rejoin_wire::Error) -> Error {
    Error::Changeset { why: e.to_string() }
}

/// A changeset, and how many transactions and empty versions it brings: 0 is nothing new.
#[derive(Default)]
pub struct Made {
    pub bytes: Vec<u8>,
    pub versions: u64,
    pub brings: VersionVector,
    /// The end of the log that it was made of.
    pub upto: i64,
    /// It tells of a horizon.
    pub horizon: bool,
}

/// Makes a changeset of what is committed.
pub fn make(engine: &Engine, reader: Reader<'_>) -> Result<Made> {
    make_telling(engine, reader, None)
}

/// The same, which tells again of void versions that the reader holds.
pub fn make_telling(engine: &Engine, reader: Reader<'_>, voids: Option<&VersionVector>) -> Result<Made> {
    engine.before_read()?;
    // One read transaction: a state that never was must not leave.
    engine.scoped("crsql_changeset", || {
        let mut core = engine.core()?;
        core.refresh(false)?;
        if !core.ready {
            return Ok(Made::default());
        }
        core.settle_rows()?;
        if !core.txn.rows.is_empty() {
            return Err(Error::State {
                why: "a changeset cannot be made while this transaction has written to replicated tables: commit first"
                    .into(),
            });
        }
        let cut = core.cut(reader)?;
        let again = voids.map(|voids| voids.common(&cut.base)).unwrap_or_default();
        export(&mut core, cut, &again)
    })
}

/// A transaction of the cut; it is written into the changeset when the first of its cells is.
struct Txn {
    header: Header,
    db_version: i64,
    index: Option<u32>,
    relay: bool,
}

struct Export {
    writer: Writer,
    txns: Vec<Txn>,
    by_name: HashMap<(u32, u64), u32>,
    /// Which transaction a local db_version is of, ascending.
    versions: Vec<(i64, u32)>,
    /// The last answer of `txn_of`.
    last: (i64, Option<u32>),
    /// None: all rows.
    part: Option<Part>,
    /// Local ordinals to indexes in the changeset.
    sites: HashMap<u32, u32>,
    last_site: (u32, u32),
    record: RowRecord,
    /// What `record` was made of, if that was one group and nothing else.
    last_group: Option<(u32, Group)>,
    live: ColSet,
    key: Vec<u8>,
}

/// A table as it stands in the changeset.
struct Listed {
    table: Rc<Table>,
    /// Column ids, ascending, as listed.
    ids: Vec<u32>,
    /// The ids are 0, 1, 2 ...
    dense: bool,
    called: Called,
    /// Those of `ids`.
    columns_called: Vec<Called>,
    begun: bool,
}

impl Listed {
    fn new(core: &mut Core, table: &Rc<Table>) -> Result<Listed> {
        let mut ids: Vec<u32> = table.cols.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        let dense = ids.iter().enumerate().all(|(i, id)| i == *id as usize);
        let mut all = core.columns_called(table.id)?;
        let columns_called = ids.iter().map(|id| all.remove(id).unwrap_or_default()).collect();
        let called = core.table_called(table.id)?;
        Ok(Listed { table: Rc::clone(table), ids, dense, called, columns_called, begun: false })
    }

    fn names(&self) -> Vec<&str> {
        self.ids.iter().filter_map(|id| self.table.column_by_id(*id)).map(|c| c.name.as_str()).collect()
    }

    fn index(&self, id: u32) -> Option<u32> {
        self.ids.binary_search(&id).ok().map(|i| i as u32)
    }

    fn indexes(&self, ids: &ColSet) -> ColSet {
        if self.dense { ids.clone() } else { ids.iter().filter_map(|id| self.index(id)).collect() }
    }

    /// The columns in the order of the changeset, those of the key where the rowid does not tell it, and the rowid.
    fn select(&self) -> (String, usize) {
        let t = &self.table;
        let keys = if t.kind == KeyKind::RowId { &[] } else { t.keys.as_slice() };
        let names = self.names().into_iter().chain(keys.iter().map(|k| k.name.as_str())).map(quote);
        let names: Vec<String> = names.chain([t.rowid.to_owned()]).collect();
        (names.join(", "), keys.len())
    }
}

fn export(core: &mut Core, cut: Cut, again: &VersionVector) -> Result<Made> {
    let header = rejoin_wire::Header { site: core.own_site(), lineage: core.cfg.lineage };
    let mut e = Export {
        writer: Writer::new(header),
        txns: Vec::new(),
        by_name: HashMap::new(),
        versions: Vec::new(),
        last: (-1, None),
        part: cut.part,
        sites: HashMap::new(),
        last_site: (u32::MAX, 0),
        record: RowRecord::default(),
        last_group: None,
        live: ColSet::EMPTY,
        key: Vec::new(),
    };
    let mut plans: BTreeMap<u32, Plan> = BTreeMap::new();
    let mut parked: BTreeSet<i64> = BTreeSet::new();
    let mut chains: HashMap<(SiteId, u64), u64> = HashMap::new();
    for row in cut.rows {
        chains.insert(
            (core.sites.id(row.header.site).unwrap_or_default(), row.header.version),
            row.header.chain,
        );
        if row.changes.empty_from.is_none() {
            e.add_txn(&row);
        }
        if row.changes.parked {
            parked.insert(row.db_version);
        }
        for (tbl, list) in row.changes.tables {
            let plan = plans.entry(tbl).or_default();
            plan.single.extend(list.inline.into_keys());
            plan.blocks.extend(list.blocks);
            plan.keys.extend(list.keys);
        }
    }
    e.versions.sort_by_key(|v| v.0);
    e.versions.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 = later.1;
        }
        same
    });
    for (tbl, plan) in plans {
        if let Some(table) = core.catalog.get(tbl).cloned() {
            e.table(core, &table, plan)?;
        }
        let bytes = e.writer.bytes_estimate() as u64;
        if bytes > BYTES_MAX {
            return Err(Error::TooLarge { bytes, bytes_max: BYTES_MAX });
        }
    }
    if cut.part != Some(Part::Whole) {
        e.parked(core, &parked)?;
    }
    e.writer.horizon(&cut.horizon);
    if cut.tail {
        e.writer.mark_tail();
    }
    let (versions, upto) = (count(&cut.brings) + count(again), core.tail.lsn);
    e.ranges(core, &cut.brings, &cut.base, &chains);
    for (id, ranges) in again.iter() {
        let site = e.writer.site(id);
        for (from, to) in ranges.iter().map(|r| (*r.start(), *r.end())) {
            let chain = core.chains_at(&[(*id, to)])?.get(&(*id, to)).copied().unwrap_or(0);
            e.writer.empty_range(EmptyRange { site, from, to, chain });
        }
    }
    let compress = e.writer.bytes_estimate() <= COMPRESSED_MAX;
    let bytes = e.writer.finish(compress).map_err(wire)?;
    Ok(Made { bytes, versions, brings: cut.brings, upto, horizon: !cut.horizon.is_empty() })
}

/// What of a table is listed.
#[derive(Default)]
struct Plan {
    single: Vec<Loc>,
    blocks: Vec<(i64, i64)>,
    keys: Vec<KeyRange>,
}

/// Parked changes by packed key and causal length.
type ParkedRows = BTreeMap<(Vec<u8>, u32), Vec<Parked>>;

impl Plan {
    fn settle(&mut self) {
        self.blocks = union(std::mem::take(&mut self.blocks));
        self.keys.sort();
        let mut keys: Vec<KeyRange> = Vec::with_capacity(self.keys.len());
        for (from, to) in std::mem::take(&mut self.keys) {
            match keys.last_mut() {
                Some(last) if from <= last.1 => {
                    if last.1 < to {
                        last.1 = to;
                    }
                }
                _ => keys.push((from, to)),
            }
        }
        self.keys = keys;
        let mut single = std::mem::take(&mut self.single);
        single.retain(|loc| !self.has_block_of(loc));
        single.sort_unstable();
        single.dedup();
        self.single = single;
    }

    /// Whether a place is in the blocks or the ranges of keys, once they are settled.
    fn has_block_of(&self, loc: &Loc) -> bool {
        match loc {
            Loc::Row(row) => {
                let block = row >> crate::block::SHIFT;
                let i = self.blocks.partition_point(|b| b.1 < block);
                self.blocks.get(i).is_some_and(|b| b.0 <= block)
            }
            Loc::Key(key) => {
                let i = self.keys.partition_point(|k| k.1 < *key);
                self.keys.get(i).is_some_and(|k| k.0 <= *key)
            }
        }
    }
}

/// Reads rows of the user's table by ascending rowid.
struct Rows {
    sql: String,
    stmt: Stmt,
    columns: usize,
    keys: usize,
    at: Option<i64>,
}

impl Rows {
    fn new(core: &mut Core, listed: &Listed) -> Result<Rows> {
        let t = &listed.table;
        let (columns, keys) = listed.select();
        let (from, rowid) = (t.quoted(), t.rowid);
        let sql = format!("SELECT {columns} FROM {from} WHERE {rowid} >= ?1 ORDER BY {rowid}");
        // Mostly it is the same table again.
        let stmt = match core.q.rows.take() {
            Some((kept, stmt)) if kept == sql => stmt,
            _ => core.db.prepare(&sql)?,
        };
        Ok(Rows { sql, stmt, columns: listed.ids.len(), keys, at: None })
    }

    fn give_back(mut self, core: &mut Core) {
        self.stmt.reset();
        core.q.rows = Some((self.sql, self.stmt));
    }

    /// Stands on the row afterwards, if it is there.
    fn seek(&mut self, row: i64) -> Result<bool> {
        if self.at.is_none_or(|at| row < at || row - at > STEP_MAX) {
            self.stmt.reset();
            self.stmt.bind_int(1, row)?;
            self.at = Some(i64::MIN);
            self.step()?;
        }
        while self.at.is_some_and(|at| at < row) {
            self.step()?;
        }
        Ok(self.at == Some(row))
    }

    fn step(&mut self) -> Result<()> {
        let there = self.stmt.step()?;
        self.at = there.then(|| self.stmt.column_int((self.columns + self.keys) as i32));
        Ok(())
    }

    fn key(&self, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let values = (0..self.keys).map(|n| from_sql(self.stmt.column((self.columns + n) as i32)));
        rejoin_crdt::key::pack_into(out, values).map_err(|e| Error::damaged(e.to_string()))
    }
}

impl Export {
    fn add_txn(&mut self, row: &LogRow) {
        let next = self.txns.len() as u32;
        let i = *self.by_name.entry((row.header.site, row.header.version)).or_insert(next);
        if i == next {
            self.txns.push(Txn { header: row.header, db_version: row.db_version, index: None, relay: false });
        }
        self.versions.push((row.db_version, i));
    }

    fn txn_of(&mut self, db_version: i64) -> Option<u32> {
        if self.last.0 != db_version {
            let found = self.versions.binary_search_by_key(&db_version, |v| v.0).ok();
            self.last = (db_version, found.and_then(|i| self.versions.get(i)).map(|v| v.1));
        }
        self.last.1
    }

    fn site(&mut self, core: &Core, ordinal: u32) -> u32 {
        if self.last_site.0 != ordinal {
            let writer = &mut self.writer;
            let id = || core.sites.id(ordinal).unwrap_or_default();
            let index = *self.sites.entry(ordinal).or_insert_with(|| writer.site(&id()));
            self.last_site = (ordinal, index);
        }
        self.last_site.1
    }

    /// The index in the changeset of the transaction that wrote at `db_version`, if it is part of the cut.
    fn written(&mut self, core: &Core, db_version: i64, site: u32) -> Option<i64> {
        let n = self.txn_of(db_version)?;
        let t = self.txns.get(n as usize)?;
        let (header, relay) = (t.header, t.relay || t.header.site != site);
        let index = match t.index {
            Some(index) => index,
            None => self.begin_txn(core, header, t.db_version),
        };
        let t = self.txns.get_mut(n as usize)?;
        t.index = Some(index);
        if relay && !t.relay {
            t.relay = true;
            self.writer.mark_relay(index);
        }
        Some(i64::from(index))
    }

    fn begin_txn(&mut self, core: &Core, h: Header, db_version: i64) -> u32 {
        let origin = self.site(core, h.site);
        let Header { version, clock, nonce, chain, .. } = h;
        self.writer.transaction(Transaction {
            origin,
            version,
            clock,
            nonce,
            chain,
            relay: false,
            db_version,
        })
    }

    /// Makes the record of a row; false if it has nothing of the cut.
    fn record(&mut self, core: &Core, listed: &Listed, meta: &RowMeta) -> bool {
        if self.is_like_last(meta) {
            return true;
        }
        self.last_group = None;
        let any = self.new_record(core, listed, meta);
        if let ([group], [_], None) = (meta.groups.as_slice(), self.record.groups.as_slice(), meta.sentinel) {
            self.last_group = Some((meta.cl, group.clone()))
                .filter(|(_, g)| self.record.groups[0].cols.len() == g.cols.len());
        }
        any
    }

    /// Rows that one statement inserted differ in their sequence numbers alone.
    #[inline]
    fn is_like_last(&mut self, meta: &RowMeta) -> bool {
        let Some((cl, last)) = &self.last_group else { return false };
        let [group] = meta.groups.as_slice() else { return false };
        let alike =
            *cl == meta.cl && meta.sentinel.is_none() && group.stamp == last.stamp && group.cols == last.cols;
        if alike && let Some(record) = self.record.groups.first_mut() {
            record.seq = group.seq;
        }
        alike
    }

    fn new_record(&mut self, core: &Core, listed: &Listed, meta: &RowMeta) -> bool {
        let mut record = std::mem::take(&mut self.record);
        record.cl = meta.cl;
        record.groups.clear();
        record.sentinel = None;
        self.live = ColSet::EMPTY;
        if self.part.is_some_and(|part| part != self.part_of(meta)) {
            self.record = record;
            return false;
        }
        record.sentinel = sentinel(&listed.table, meta).and_then(|s| {
            let db_version = self.written(core, s.db_version, s.site)?;
            Some(Sentinel { db_version, site: self.site(core, s.site), seq: s.seq })
        });
        let mut seen = ColSet::EMPTY;
        for g in meta.groups.iter().filter(|_| meta.is_alive()) {
            let live = listed.table.col_set.intersect(&g.cols.minus(&seen));
            seen.union_with(&g.cols);
            if live.is_empty() {
                continue;
            }
            let Some(db_version) = self.written(core, g.stamp.db_version, g.stamp.site) else { continue };
            let stamp = Stamp { db_version, site: self.site(core, g.stamp.site), ..g.stamp };
            if g.cols.minus(&listed.table.col_set).is_empty() {
                let (cols, live) = (listed.indexes(&g.cols), listed.indexes(&live));
                self.live.union_with(&live);
                record.groups.push(GroupRecord { cols, live, stamp, seq: g.seq });
                continue;
            }
            // Sequence numbers count the columns that were dropped since, too.
            for id in live.iter() {
                let Some(index) = listed.index(id) else { continue };
                let seq = g.seq + i64::from(g.cols.rank(id));
                let one = ColSet::single(index);
                self.live.union_with(&one);
                record.groups.push(GroupRecord { cols: one.clone(), live: one, stamp, seq });
            }
        }
        let any = record.sentinel.is_some() || !record.groups.is_empty();
        self.record = record;
        any
    }

    fn part_of(&mut self, meta: &RowMeta) -> Part {
        let sentinel = meta.sentinel.iter().map(|s| s.db_version);
        let mut versions = meta.groups.iter().map(|g| g.stamp.db_version).chain(sentinel);
        let whole = meta.is_alive() && versions.all(|v| self.txn_of(v).is_some());
        if whole { Part::Whole } else { Part::Rest }
    }

    fn begin(&mut self, listed: &mut Listed) -> Result<()> {
        if !listed.begun {
            listed.begun = true;
            let keys: Vec<&str> = listed.table.keys.iter().map(|k| k.name.as_str()).collect();
            let columns: Vec<Naming<'_>> = listed.columns_called.iter().map(Called::naming).collect();
            self.writer.begin_table(&listed.called.naming(), &keys, &columns, false).map_err(wire)?;
        }
        Ok(())
    }

    fn table(&mut self, core: &mut Core, table: &Rc<Table>, mut plan: Plan) -> Result<()> {
        plan.settle();
        self.last_group = None;
        let mut listed = Listed::new(core, table)?;
        let has_rows = table.kind.has_rows();
        let mut rows = if has_rows { Some(Rows::new(core, &listed)?) } else { None };
        let mut reader = if has_rows { None } else { Some(RowReader::new(core.db, table)?) };
        core.store(table);
        // What is newer than the blocks.
        let later = core.overlay.table(table.id).map(|(loc, _)| loc).filter(|loc| plan.has_block_of(loc));
        let later: Vec<Loc> = later.cloned().collect();
        if let (Some(store), Some(rows)) = (core.stores.get(&table.id), &mut rows) {
            let overlaid: HashSet<&Loc> = later.iter().collect();
            for &(from, to) in &plan.blocks {
                store.scan_rows(from, to, |row, stored| {
                    if !overlaid.is_empty() && overlaid.contains(&Loc::Row(row)) {
                        return Ok(());
                    }
                    self.row_by_rowid(core, &mut listed, rows, row, &stored.meta)
                })?;
            }
        }
        let mut keyed: Vec<(Loc, crate::store::Record)> = Vec::new();
        if let Some(store) = core.stores.get(&table.id) {
            for (from, to) in &plan.keys {
                store.scan_keys(from, Some(to), |entry| {
                    keyed.push((Loc::Key(entry.key.as_slice().into()), crate::store::record_of(entry)));
                    Ok(())
                })?;
            }
        }
        keyed.retain(|(loc, _)| core.overlay.get(table.id, loc).is_none());
        for loc in later.iter().chain(&plan.single) {
            if let Some(record) = core.load(table, loc)? {
                keyed.push((loc.clone(), record));
            }
        }
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        keyed.dedup_by(|a, b| a.0 == b.0);
        for (loc, record) in keyed {
            match (&loc, &mut rows) {
                (Loc::Row(row), Some(rows)) => {
                    self.row_by_rowid(core, &mut listed, rows, *row, &record.row.meta)?;
                }
                (Loc::Key(key), _) => {
                    let spelling = record.spelling.as_deref();
                    self.row_by_key(core, &mut listed, reader.as_mut(), key, spelling, &record.row.meta)?;
                }
                _ => {}
            }
        }
        if let Some(rows) = rows {
            rows.give_back(core);
        }
        Ok(())
    }

    fn row_by_rowid(
        &mut self,
        core: &Core,
        listed: &mut Listed,
        rows: &mut Rows,
        row: i64,
        meta: &RowMeta,
    ) -> Result<()> {
        if !self.record(core, listed, meta) {
            return Ok(());
        }
        self.begin(listed)?;
        let hashed = listed.table.kind == KeyKind::Hashed;
        let there = (hashed || !self.live.is_empty()) && rows.seek(row)?;
        if hashed {
            if !there {
                return Ok(());
            }
            rows.key(&mut self.key)?;
        } else {
            self.key.clear();
            let packed = rejoin_crdt::key::pack_into(&mut self.key, [ValueRef::Int(row)]);
            packed.map_err(|e| Error::damaged(e.to_string()))?;
        }
        if !there {
            return self.bare_row();
        }
        if self.live.len() as usize == rows.columns {
            let values = (0..rows.columns as i32).map(|c| from_sql(rows.stmt.column(c)));
            return self.writer.row(&self.key, &self.record, values).map_err(wire);
        }
        let values = self.live.iter().map(|c| from_sql(rows.stmt.column(c as i32)));
        self.writer.row(&self.key, &self.record, values).map_err(wire)
    }

    fn row_by_key(
        &mut self,
        core: &Core,
        listed: &mut Listed,
        reader: Option<&mut RowReader>,
        key: &[u8],
        spelling: Option<&[u8]>,
        meta: &RowMeta,
    ) -> Result<()> {
        if !self.record(core, listed, meta) {
            return Ok(());
        }
        self.begin(listed)?;
        self.key = shown_key(&listed.table, key, spelling);
        let Some(reader) = reader.filter(|_| !self.live.is_empty()) else { return self.bare_row() };
        if !reader.seek(Target::Key(key))? {
            reader.done();
            return self.bare_row();
        }
        let t = &listed.table;
        let place = |c: u32| t.cols.iter().position(|col| Some(&col.id) == listed.ids.get(c as usize));
        let values =
            self.live.iter().map(|c| place(c).map_or(ValueRef::Null, |n| from_sql(reader.column(n))));
        let done = self.writer.row(&self.key, &self.record, values).map_err(wire);
        reader.done();
        done
    }

    /// A row that does not stand in the table: its causal length and sentinel.
    fn bare_row(&mut self) -> Result<()> {
        self.last_group = None;
        self.record.groups.clear();
        self.writer.row(&self.key, &self.record, []).map_err(wire)
    }

    /// Parked changes, by the names of what they wait for.
    fn parked(&mut self, core: &mut Core, versions: &BTreeSet<i64>) -> Result<()> {
        let mut tables: BTreeMap<u32, ParkedRows> = BTreeMap::new();
        for db_version in versions {
            for mut p in core.parked_at(*db_version)? {
                core.respell_parked(&mut p)?;
                let rows = tables.entry(p.table).or_default();
                rows.entry((p.pk.clone(), p.cl)).or_default().push(p);
            }
        }
        for (table, rows) in tables {
            self.parked_table(core, table, rows)?;
        }
        Ok(())
    }

    fn parked_table(&mut self, core: &mut Core, table: u32, rows: ParkedRows) -> Result<()> {
        let all = || rows.values().flatten();
        let columns: BTreeSet<u32> = all().filter_map(|p| p.col).collect();
        let index = |col: u32| columns.iter().position(|c| *c == col).map(|i| i as u32);
        let keys: Vec<String> = match core.catalog.get(table) {
            Some(t) => t.keys.iter().map(|k| k.name.clone()).collect(),
            // Nobody here knows what they are called.
            None => {
                let width =
                    all().next().and_then(|p| rejoin_crdt::key::unpack(&p.pk).ok()).map(Iterator::count);
                (1..=width.unwrap_or(1).max(1)).map(|i| format!("?{i}")).collect()
            }
        };
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let (called, mut names) = (core.table_called(table)?, core.columns_called(table)?);
        let names: Vec<Called> = columns.iter().map(|c| names.remove(c).unwrap_or_default()).collect();
        let names: Vec<Naming<'_>> = names.iter().map(Called::naming).collect();
        self.writer.begin_table(&called.naming(), &keys, &names, true).map_err(wire)?;
        for ((pk, cl), changes) in &rows {
            let mut record = RowRecord { cl: *cl, ..RowRecord::default() };
            let mut cells: BTreeMap<u32, &Parked> = BTreeMap::new();
            for p in changes {
                let Some(db_version) = self.written(core, p.db_version, p.site) else { continue };
                let site = self.site(core, p.site);
                let Some(i) = p.col.and_then(index) else {
                    record.sentinel = Some(Sentinel { db_version, site, seq: p.seq });
                    continue;
                };
                if cells.insert(i, p).is_none() {
                    let stamp = Stamp { col_version: p.col_version, db_version, site };
                    let one = ColSet::single(i);
                    record.groups.push(GroupRecord { cols: one.clone(), live: one, stamp, seq: p.seq });
                }
            }
            if record.sentinel.is_some() || !record.groups.is_empty() {
                let values = cells.values().map(|p| p.val.as_ref());
                self.writer.row(pk, &record, values).map_err(wire)?;
            }
        }
        Ok(())
    }

    /// Versions of which nothing is left, and the base.
    fn ranges(
        &mut self,
        core: &Core,
        brings: &VersionVector,
        base: &VersionVector,
        chains: &HashMap<(SiteId, u64), u64>,
    ) {
        let mut carried = VersionVector::new();
        for t in self.txns.iter().filter(|t| t.index.is_some()) {
            carried.insert(core.sites.id(t.header.site).unwrap_or_default(), t.header.version);
        }
        let empty = brings.missing_from(&carried);
        for (vector, is_base) in [(&empty, false), (base, true)] {
            for (id, ranges) in vector.iter() {
                let site = self.writer.site(id);
                for range in ranges.iter() {
                    let (from, to) = (*range.start(), *range.end());
                    let known = chains.get(&(*id, to)).copied();
                    let chain = known.unwrap_or_else(|| core.chain_of(id, to));
                    let range = EmptyRange { site, from, to, chain };
                    if is_base {
                        self.writer.base_range(range);
                    } else {
                        self.writer.empty_range(range);
                    }
                }
            }
        }
    }
}

/// The sentinel that a row tells others: its own, or, if nothing else is left of a living row, one made of its change.
fn sentinel(table: &Table, meta: &RowMeta) -> Option<Sentinel> {
    if meta.sentinel.is_some() || !meta.is_alive() || meta.groups.is_empty() {
        return meta.sentinel;
    }
    if table.cols.iter().any(|c| meta.cell(c.id).is_some()) {
        return None;
    }
    crate::listing::listed_sentinel(table, meta)
}
