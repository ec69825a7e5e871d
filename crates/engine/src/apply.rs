//! Taking a changeset: whole, in one SQLite transaction, or not at all.
//!
//! Each foreign transaction that is new here gets a db_version and a log row of its own under the header that it came
//! with; of those that are held, cells are skipped. What this connection wrote before in the same SQLite transaction
//! is written out first, as a transaction of its own; what it writes later gets the next version.
//!
//! A changeset that builds on what is missing here proves nothing about the transactions that it brings: what is left of
//! them at the sender is all only together with what overwrote the rest. Who can ask again is told so
//! ([`Error::Gap`]). `crsql_apply_changeset` takes the cells as it would take them row by row: in a relay transaction
//! of this replica, and the vector says what it said.

use crate::catalog::Table;
use crate::changeset::wire;
use crate::copies;
use crate::core::{Core, Header};
use crate::cut::Part;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::merge::{Cell, Incoming, merge_taken, park_refused};
use crate::names::{Met, State, TABLES};
use crate::parked::{Parked, Reason};
use crate::stream::Stream;
use rejoin_crdt::limits::{VERSION_MAX, check_col_version, check_version};
use rejoin_crdt::meta::{Sentinel, Stamp};
use rejoin_crdt::site::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{ValueRef, chain};
use rejoin_wire::{Reader, Row, TableReader, Transaction};
use std::collections::HashMap;
use std::rc::Rc;

/// What came of a changeset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Transactions that were new here, those of which nothing was left included.
    pub transactions: u64,
    /// Rows of the changeset that were looked at.
    pub rows: u64,
    /// Changes (cells and sentinels) that were accepted.
    pub cells_won: u64,
    /// Changes that lost against what is here.
    pub cells_lost: u64,
    /// Accepted changes that wait: for a table, a column, a required value, or because a constraint refuses them.
    pub parked: u64,
    /// Transactions that were held already.
    pub skipped: u64,
    /// The cells were taken over a gap: no transaction counts as held for it.
    pub over_gap: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Options {
    /// Take changesets of databases that have nothing to do with this one.
    pub any_lineage: bool,
    /// Take the cells although something that they build on is missing.
    pub over_gap: bool,
    /// The cells are what a replica had that started over from here: they are taken as this replica's own changes, those
    /// of [`Part::Rest`] only where the row is known.
    pub replay: Option<Part>,
}

fn malformed(why: &str) -> Error {
    Error::Changeset { why: why.into() }
}

/// Looks at what a changeset does while it is taken; an error of its ends the whole.
pub trait Watch {
    /// Nothing is taken yet, and the changeset builds on what is here.
    fn begin(&mut self, core: &mut Core, reader: &Reader<'_>) -> Result<()>;
    /// Whether the sender is believed that everybody has acknowledged what is below its horizon.
    fn heeds(&mut self, horizon: &VersionVector) -> bool;
    /// A row is to be merged that these transactions (by index, with their local db_versions) write. True: its work must
    /// be found in its place afterwards.
    fn wants(&mut self, t: &Table, row: &Row<'_>, by: &[(usize, i64)]) -> bool;
    /// The row that it wants, before it is merged.
    fn before(&mut self, core: &mut Core, t: &Rc<Table>, row: &Row<'_>) -> Result<()>;
    /// Each row, after it was merged: how many changes were accepted, or why not.
    fn after(&mut self, core: &mut Core, row: &Merged<'_>, accepted: Result<i64>) -> Result<i64>;
    /// A table, or a column of one, is not here.
    fn missing(&mut self, table: &str, column: Option<&str>);
    /// All is merged, and not written yet.
    fn end(&mut self) -> Result<()>;
}

/// A row of a watched changeset.
pub struct Merged<'r> {
    pub t: &'r Rc<Table>,
    pub row: &'r Row<'r>,
    pub by: &'r [(usize, i64)],
    /// It was parked, or something of it.
    pub parked: bool,
    /// What the table said of its values.
    pub refusal: Option<Error>,
}

pub fn apply(engine: &Engine, bytes: &[u8], options: Options) -> Result<Applied> {
    let reader = Reader::open(bytes).map_err(wire)?;
    let done = apply_watched(engine, &reader, options, None);
    match &done {
        Err(Error::Fork { site, .. }) => copies::heed(engine, &reader, Some(site))?,
        Ok(Applied { over_gap: true, .. }) | Err(Error::Gap { .. }) => copies::heed(engine, &reader, None)?,
        _ => {}
    }
    done
}

/// The same under somebody's eyes; what the changeset says of this replica's own site is not heeded.
pub fn apply_watched(
    engine: &Engine,
    reader: &Reader<'_>,
    options: Options,
    watch: Option<&mut dyn Watch>,
) -> Result<Applied> {
    if reader.is_row_states() {
        return Err(malformed("these are row states, which are adopted or merged as such"));
    }
    engine.make_ready()?;
    // What this transaction wrote before is not undone with a refused changeset.
    engine.flush()?;
    engine.scoped("crsql_apply", || {
        engine.join()?;
        engine.flush()?;
        let rowid = engine.db.last_insert_rowid();
        let mut core = engine.core()?;
        core.refresh(true)?;
        let done = whole(engine, &mut core, reader, options, watch);
        engine.db.set_last_insert_rowid(rowid);
        done
    })
}

impl Core {
    /// The open SQLite transaction goes on with another transaction of the log.
    pub fn next_txn(&mut self) {
        let newest = self.txn.rows.iter().map(|r| r.db_version).max().unwrap_or(0);
        let base = self.tail.db_version.max(self.txn.base_db_version).max(newest);
        let txn = &mut self.txn;
        txn.notes.step(txn.base_db_version, base);
        txn.local = None;
        txn.base_db_version = base;
        txn.pending = txn.pending.filter(|p| *p > base);
        txn.seq = 0;
        txn.clock = None;
    }

    pub fn take_new_site(&mut self) -> Result<SiteId> {
        let id = SiteId(crate::schema::random_id()?);
        let ordinal = self.intern_site(id)?;
        self.set_meta("site", rejoin_sqlite::ValueRef::Integer(i64::from(ordinal)))?;
        self.cfg.own = ordinal;
        Ok(id)
    }
}

fn whole(
    engine: &Engine,
    core: &mut Core,
    reader: &Reader<'_>,
    options: Options,
    mut watch: Option<&mut dyn Watch>,
) -> Result<Applied> {
    if let (Some(ours), Some(theirs)) = (core.cfg.lineage, reader.header().lineage)
        && ours != theirs
        && !options.any_lineage
    {
        let hex = |id: [u8; 16]| SiteId(id).to_string();
        return Err(Error::OtherLineage { ours: hex(ours), theirs: hex(theirs) });
    }
    // What is replayed is one transaction, in two parts.
    if options.replay != Some(Part::Rest) {
        core.next_txn();
    }
    check_chains(core, reader)?;
    let gap = check_base(core, reader);
    if let (Err(e), false) = (&gap, options.over_gap) {
        return Err(e.clone());
    }
    if options.replay.is_none() {
        crate::horizon::check(core, reader)?;
    }
    if let Some(watch) = &mut watch {
        watch.begin(core, reader)?;
    }
    let fresh = options.replay.is_none() && !core.cfg.horizon.covers(reader.horizon());
    if fresh && watch.as_mut().is_some_and(|w| !w.heeds(reader.horizon())) {
        return Err(malformed("its sender has forgotten what was deleted, and is not one to say so for all"));
    }
    let heeded = core.vector.covers(reader.horizon());
    if fresh && heeded {
        // A row that was deleted and made again there must not meet its tombstone here.
        core.collect(reader.horizon())?;
    }
    let mut a = Applying::new(engine, core, reader);
    // As it is, it would have to live as long as all else.
    a.watch = match watch {
        Some(watch) => Some(watch as &mut dyn Watch),
        None => None,
    };
    a.applied.over_gap = gap.is_err() || options.replay.is_some();
    a.known_only = options.replay == Some(Part::Rest);
    a.take_ranges()?;
    a.take_transactions()?;
    if a.versions.iter().all(Option::is_none) && a.empty.is_empty() {
        return Ok(a.applied);
    }
    for index in 0..reader.table_count() {
        a.table(index)?;
    }
    let applied = a.finish()?;
    if options.replay != Some(Part::Whole) {
        core.next_txn();
    }
    if fresh && !heeded {
        crate::horizon::take(core, reader.horizon())?;
    }
    Ok(applied)
}

fn site_of(reader: &Reader<'_>, index: u32) -> Result<SiteId> {
    reader
        .sites()
        .get(index as usize)
        .copied()
        .ok_or_else(|| malformed("it names a site that it does not list"))
}

/// What the sender took for granted must be here.
fn check_base(core: &Core, reader: &Reader<'_>) -> Result<()> {
    let missing = reader.builds_on().missing_from(&core.vector);
    let first = missing.iter().find_map(|(site, ranges)| ranges.iter().next().map(|r| (site.to_string(), r)));
    match first {
        None => Ok(()),
        Some((site, range)) => Err(Error::Gap { site, from: *range.start(), to: *range.end() }),
    }
}

/// A run of versions with the hash of its last, as the changeset tells it.
pub struct Told {
    pub site: SiteId,
    pub from: u64,
    pub to: u64,
    pub chain: u64,
    /// Of a transaction.
    pub nonce: Option<u64>,
}

/// Everything that a changeset brings, by site and version.
pub fn told(reader: &Reader<'_>) -> Result<Vec<Told>> {
    let mut told: Vec<Told> = Vec::new();
    for t in reader.transactions() {
        let site = site_of(reader, t.origin)?;
        told.push(Told { site, from: t.version, to: t.version, chain: t.chain, nonce: Some(t.nonce) });
    }
    for r in reader.empty_ranges() {
        told.push(Told {
            site: site_of(reader, r.site)?,
            from: r.from,
            to: r.to,
            chain: r.chain,
            nonce: None,
        });
    }
    told.sort_by_key(|t| (t.site, t.from));
    Ok(told)
}

/// No version may have another history here than there.
fn check_chains(core: &mut Core, reader: &Reader<'_>) -> Result<()> {
    let mut told: Vec<Told> = Vec::new();
    for t in reader.transactions() {
        let site = site_of(reader, t.origin)?;
        told.push(Told { site, from: t.version, to: t.version, chain: t.chain, nonce: Some(t.nonce) });
    }
    for r in reader.empty_ranges() {
        told.push(Told {
            site: site_of(reader, r.site)?,
            from: r.from,
            to: r.to,
            chain: r.chain,
            nonce: None,
        });
    }
    told.sort_by_key(|t| (t.site, t.from));
    if told.windows(2).any(|w| w[0].site == w[1].site && w[1].from <= w[0].to) {
        return Err(malformed("it lists a transaction twice"));
    }
    let mut heads: Vec<(SiteId, u64, u64)> = told.iter().map(|t| (t.site, t.to, t.chain)).collect();
    for r in reader.base() {
        heads.push((site_of(reader, r.site)?, r.to, r.chain));
    }
    let mut wanted: Vec<(SiteId, u64)> = heads.iter().map(|h| (h.0, h.1)).collect();
    wanted.extend(told.iter().filter(|t| t.from > 1).map(|t| (t.site, t.from - 1)));
    let ours = core.chains_at(&wanted)?;
    let fork = |site: SiteId, version| Err(Error::Fork { site: site.to_string(), version });
    for (site, version, chain) in heads {
        if chain != 0 && ours.get(&(site, version)).is_some_and(|c| *c != chain) {
            return fork(site, version);
        }
    }
    let mut before: Option<&Told> = None;
    for t in &told {
        let previous = match before.filter(|b| b.site == t.site && b.to + 1 == t.from) {
            Some(b) => Some(b.chain).filter(|c| *c != 0),
            None if t.from == 1 => Some(0),
            None => ours.get(&(t.site, t.from - 1)).copied(),
        };
        if let (Some(previous), Some(nonce)) = (previous, t.nonce)
            && chain::next(previous, t.from, nonce) != t.chain
        {
            return fork(t.site, t.from);
        }
        before = Some(t);
    }
    Ok(())
}

impl Core {
    /// The chain hashes that are known of these versions.
    pub fn chains_at(&mut self, wanted: &[(SiteId, u64)]) -> Result<HashMap<(SiteId, u64), u64>> {
        let mut found = HashMap::new();
        let mut left: HashMap<(u32, u64), SiteId> = HashMap::new();
        for (site, version) in wanted.iter().filter(|(s, v)| self.vector.contains(s, *v)) {
            let Some(ordinal) = self.sites.ordinal(site) else { continue };
            match self.chains.get(&ordinal) {
                Some((v, chain)) if v == version => drop(found.insert((*site, *version), *chain)),
                _ => drop(left.insert((ordinal, *version), *site)),
            }
        }
        if !left.is_empty() {
            let mut q = self
                .db
                .prepare_transient("SELECT site, version, chain FROM main.crsql_log ORDER BY id DESC")?;
            while !left.is_empty() && q.step()? {
                let at = (q.column_int(0) as u32, q.column_int(1) as u64);
                if let Some(site) = left.remove(&at) {
                    found.insert((site, at.1), q.column_int(2) as u64);
                }
            }
        }
        // 0: it was not known when the version came as part of an empty range.
        found.retain(|_, chain| *chain != 0);
        Ok(found)
    }
}

/// What a table of the changeset is here.
struct Here<'r> {
    table: Option<Rc<Table>>,
    met: Met,
    columns: Vec<Met>,
    /// What its sender calls it, and its columns.
    name: &'r str,
    names: Vec<&'r str>,
}

impl Here<'_> {
    /// What was never here, rather than dropped.
    fn missing(&self, waiting: &[(usize, Cell<'_>)], watch: &mut dyn Watch) {
        if self.table.is_none() && self.met.state != State::Ended {
            watch.missing(self.name, None);
        }
        for (col, _) in waiting.iter().filter(|_| self.table.is_some()) {
            if self.columns.get(*col).is_some_and(|met| met.state == State::Waits) {
                watch.missing(self.name, self.names.get(*col).copied());
            }
        }
    }

    fn is_here(&self, column: Met) -> bool {
        self.table.as_ref().is_some_and(|t| t.column_by_id(column.id).is_some())
    }

    fn parked(&self, pk: &[u8], cell: &Cell<'_>, col: Option<u32>, cl: u32) -> Parked {
        Parked {
            id: 0,
            table: self.met.id,
            pk: pk.to_vec(),
            col,
            val: cell.val.to_owned(),
            col_version: cell.stamp.col_version,
            db_version: cell.stamp.db_version,
            site: cell.stamp.site,
            cl,
            seq: cell.seq,
            reason: String::new(),
        }
    }
}

struct Applying<'a> {
    engine: &'a Engine,
    core: &'a mut Core,
    reader: &'a Reader<'a>,
    /// Per transaction of the changeset its local db_version; None: it is held already.
    versions: Vec<Option<i64>>,
    /// Ranges of which nothing is left and which are new here.
    empty: Vec<(SiteId, u64, u64, u64)>,
    sites: Vec<Option<u32>>,
    now: i64,
    /// Column versions up to here are known to be good.
    good: i64,
    applied: Applied,
    stream: Option<Stream>,
    watch: Option<&'a mut dyn Watch>,
    /// What the table said of the values of the row merged last.
    refusal: Option<Error>,
    /// Rows that are unknown here were deleted, and that is forgotten.
    known_only: bool,
}

impl<'a> Applying<'a> {
    fn new(engine: &'a Engine, core: &'a mut Core, reader: &'a Reader<'a>) -> Applying<'a> {
        let now = core.now_to_judge();
        Applying {
            versions: vec![None; reader.transactions().len()],
            empty: Vec::new(),
            sites: vec![None; reader.sites().len()],
            applied: Applied::default(),
            stream: None,
            watch: None,
            refusal: None,
            known_only: false,
            good: 0,
            now,
            engine,
            core,
            reader,
        }
    }

    fn site(&mut self, index: u32) -> Result<u32> {
        if let Some(Some(ordinal)) = self.sites.get(index as usize) {
            return Ok(*ordinal);
        }
        let ordinal = self.core.intern_site(site_of(self.reader, index)?)?;
        if let Some(slot) = self.sites.get_mut(index as usize) {
            *slot = Some(ordinal);
        }
        Ok(ordinal)
    }

    fn take_ranges(&mut self) -> Result<()> {
        if self.applied.over_gap {
            return Ok(());
        }
        for r in self.reader.empty_ranges() {
            let site = site_of(self.reader, r.site)?;
            let mut all = VersionVector::new();
            all.insert_range(site, r.from..=r.to);
            let fresh = all.missing_from(&self.core.vector);
            let held = crate::cut::count(&all) - crate::cut::count(&fresh);
            self.applied.skipped += held;
            for range in fresh.ranges(&site).into_iter().flat_map(|r| r.iter()) {
                let (from, to) = (*range.start(), *range.end());
                self.applied.transactions += to - from + 1;
                self.empty.push((site, from, to, if to == r.to { r.chain } else { 0 }));
            }
        }
        Ok(())
    }

    /// Gives each transaction that is new here its db_version, in the sender's order.
    fn take_transactions(&mut self) -> Result<()> {
        let mut fresh: Vec<(usize, &Transaction)> = Vec::new();
        for (i, t) in self.reader.transactions().iter().enumerate() {
            if self.core.vector.contains(&site_of(self.reader, t.origin)?, t.version) {
                self.applied.skipped += 1;
            } else {
                fresh.push((i, t));
            }
        }
        fresh.sort_by_key(|(i, t)| (t.db_version, *i));
        let own = self.core.own_site();
        let mine = fresh.iter().any(|(_, t)| site_of(self.reader, t.origin).is_ok_and(|s| s == own));
        if mine || self.empty.iter().any(|r| r.0 == own) {
            self.core.take_new_site()?;
        }
        if self.applied.over_gap {
            return self.take_as_relay(&fresh);
        }
        let mut db_version = self.core.txn.base_db_version;
        for (i, t) in fresh {
            db_version += 1;
            check_version("db_version", db_version)?;
            check_col_version(t.clock, self.now, self.core.cfg.drift_ms)?;
            let site = self.site(t.origin)?;
            let Transaction { version, clock, nonce, chain, .. } = *t;
            self.core.txn.applied.insert(db_version, Header { site, version, clock, nonce, chain });
            self.core.txn.due.push(db_version);
            if let Some(slot) = self.versions.get_mut(i) {
                *slot = Some(db_version);
            }
            self.applied.transactions += 1;
        }
        self.core.txn.pending = Some(db_version.max(self.core.txn.pending.unwrap_or(0)));
        Ok(())
    }

    /// All new cells become one transaction of this replica, if any is accepted.
    fn take_as_relay(&mut self, fresh: &[(usize, &Transaction)]) -> Result<()> {
        self.core.note_row_wise()?;
        let db_version = self.core.txn.base_db_version + 1;
        check_version("db_version", db_version)?;
        for (i, _) in fresh {
            if let Some(slot) = self.versions.get_mut(*i) {
                *slot = Some(db_version);
            }
        }
        Ok(())
    }

    #[inline]
    fn local(&self, transaction: i64) -> Option<i64> {
        self.versions.get(transaction as usize).copied().flatten()
    }

    fn table(&mut self, index: usize) -> Result<()> {
        let reader: &'a Reader<'a> = self.reader;
        let rows = reader.table(index).map_err(wire)?;
        let met = self.core.meet(TABLES, rows.name())?;
        let columns = self.core.meet_columns(met.id, rows.columns(), rows.is_waiting())?;
        // What waited may have found its place by the names.
        crate::rowwise::apply_parked(self.engine, self.core)?;
        let table = self.core.catalog.get(met.id).cloned();
        if let Some(t) = table.as_ref().filter(|_| !self.known_only) {
            self.stream = Stream::new(self.core, t, rows.row_count())?;
        }
        let names = rows.columns().iter().map(|n| n.current.text).collect();
        let here = Here { table, met, columns, name: rows.name().current.text, names };
        let engine = self.engine;
        // In an owned file the hook would be called for each row, to find that it is a merge.
        if self.stream.as_ref().is_some_and(Stream::is_alone) {
            engine.hook.paused(|| self.rows(&here, rows))?;
        } else {
            self.rows(&here, rows)?;
        }
        match self.stream.take() {
            Some(mut stream) => stream.flush(self.core),
            None => Ok(()),
        }
    }

    fn rows(&mut self, here: &Here<'_>, mut rows: TableReader<'_>) -> Result<()> {
        let mut cells: Vec<Cell<'_>> = Vec::new();
        while let Some(row) = rows.next_row().map_err(wire)? {
            // The values borrow from the reader's buffer, which is used again for the next row.
            let mut these = reuse(cells);
            let done = self.row(here, &row, &mut these);
            cells = reuse(these);
            done?;
        }
        Ok(())
    }

    fn row<'r>(&mut self, here: &Here<'_>, row: &Row<'r>, cells: &mut Vec<Cell<'r>>) -> Result<()> {
        let meta = row.meta;
        let sentinel = match meta.sentinel.and_then(|s| Some((s, self.local(s.db_version)?))) {
            Some((s, db_version)) => Some(Sentinel { db_version, site: self.site(s.site)?, seq: s.seq }),
            None => None,
        };
        let mut waiting: Vec<(usize, Cell<'r>)> = Vec::new();
        if meta.cl & 1 == 1 {
            for (&col, &val) in row.columns.iter().zip(row.values) {
                let Some((stamp, seq)) = meta.cell(col) else { continue };
                let Some(db_version) = self.local(stamp.db_version) else { continue };
                if stamp.col_version > self.good {
                    let drift_ms = self.core.cfg.drift_ms;
                    self.good = check_col_version(stamp.col_version, self.now, drift_ms)?;
                }
                let stamp = Stamp { db_version, site: self.site(stamp.site)?, ..stamp };
                let Some(met) = here.columns.get(col as usize).copied() else {
                    return Err(malformed("a row names a column that is not listed"));
                };
                let cell = Cell { col: met.id, stamp, seq, val };
                if here.is_here(met) { cells.push(cell) } else { waiting.push((col as usize, cell)) }
            }
        }
        let offered = cells.len() + waiting.len() + usize::from(sentinel.is_some());
        if offered == 0 {
            return Ok(());
        }
        self.applied.rows += 1;
        if let Some(watch) = &mut self.watch {
            here.missing(&waiting, *watch);
        }
        let accepted = match &here.table {
            Some(t) if self.watch.is_some() => self.watched(t, here, row, sentinel, cells, &waiting)?,
            Some(t) => self.merge(t, here, row, sentinel, cells, &waiting)?,
            None => self.park_unknown(here, row, sentinel, &waiting)?,
        };
        self.applied.cells_won += accepted as u64;
        self.applied.cells_lost += offered.saturating_sub(accepted as usize) as u64;
        Ok(())
    }

    /// Merges a row under the eyes of `watch`.
    fn watched(
        &mut self,
        t: &Rc<Table>,
        here: &Here<'_>,
        row: &Row<'_>,
        sentinel: Option<Sentinel>,
        cells: &[Cell<'_>],
        waiting: &[(usize, Cell<'_>)],
    ) -> Result<i64> {
        let Some(watch) = self.watch.take() else { return Ok(0) };
        let writes = |txn: i64| Some((txn as usize, self.local(txn)?));
        let groups = row.meta.groups.iter().filter(|_| row.meta.cl & 1 == 1).map(|g| g.stamp.db_version);
        let mut by: Vec<(usize, i64)> =
            row.meta.sentinel.map(|s| s.db_version).into_iter().chain(groups).filter_map(writes).collect();
        by.sort_unstable();
        by.dedup();
        let (parks, wanted) = (self.core.txn.parks, watch.wants(t, row, &by));
        if wanted {
            if let Some(stream) = &mut self.stream {
                stream.flush(self.core)?;
            }
            watch.before(self.core, t, row)?;
        }
        let accepted = self.merge(t, here, row, sentinel, cells, waiting);
        let (parked, refusal) = (self.core.txn.parks != parks, self.refusal.take());
        let merged = Merged { t, row, by: &by, parked, refusal };
        let accepted = watch.after(self.core, &merged, accepted);
        self.watch = Some(watch);
        accepted
    }

    fn merge(
        &mut self,
        t: &Rc<Table>,
        here: &Here<'_>,
        row: &Row<'_>,
        sentinel: Option<Sentinel>,
        cells: &[Cell<'_>],
        waiting: &[(usize, Cell<'_>)],
    ) -> Result<i64> {
        let cl = row.meta.cl;
        let newest = cells.first().or_else(|| waiting.first().map(|w| &w.1)).map(|c| (c.stamp, c.seq));
        let mark = newest.map(|(s, seq)| Sentinel { db_version: s.db_version, site: s.site, seq });
        let Some(mark) = sentinel.or(mark) else { return Ok(0) };
        if let Some(stream) = &mut self.stream {
            if waiting.is_empty() && t.plain {
                let incoming = Incoming { cl, sentinel, mark, cells, spelling: None };
                if let Some(accepted) = stream.merge(self.engine, self.core, row.key, &incoming)? {
                    return Ok(accepted);
                }
            }
            stream.flush(self.core)?;
        }
        let (at, work) = self.core.take_foreign(t, row.key)?;
        if self.known_only && work.meta.cl == 0 {
            return Ok(0);
        }
        let spelling = crate::merge::spelling(&work, row.key, cl, sentinel.is_some())?;
        let incoming = Incoming { cl, sentinel, mark, cells, spelling };
        let mut accepted = match merge_taken(self.engine, self.core, at, work, &incoming) {
            Err(e @ Error::Constraint { .. }) => {
                self.refusal = Some(e.clone());
                park_refused(self.engine, self.core, at, &incoming, e)?
            }
            other => other?,
        };
        if waiting.is_empty() {
            return Ok(accepted);
        }
        let Some(work) = self.core.txn.works.get(&at) else { return Err(Error::damaged("work")) };
        if work.meta.cl != cl {
            return Ok(accepted);
        }
        let pk = Core::parked_key(t, work.row, work.key.as_deref());
        for (col, cell) in waiting {
            let state = here.columns.get(*col).map_or(State::Waits, |c| c.state);
            let p = here.parked(&pk, cell, Some(cell.col), cl);
            accepted += i64::from(self.core.park(&p, Reason::of(State::Here, state))?);
        }
        Ok(accepted)
    }

    /// A row of a table that this replica does not have.
    fn park_unknown(
        &mut self,
        here: &Here<'_>,
        row: &Row<'_>,
        sentinel: Option<Sentinel>,
        waiting: &[(usize, Cell<'_>)],
    ) -> Result<i64> {
        rejoin_crdt::key::unpack(row.key).map_err(|e| Error::Changeset { why: format!("a key: {e}") })?;
        let cl = row.meta.cl;
        let mut accepted = 0;
        // A table that is here but cannot be replicated any more waits as an unknown one.
        let reason = if here.met.state == State::Ended { Reason::TableDropped } else { Reason::NoTable };
        if let Some(s) = sentinel {
            let stamp = Stamp { col_version: i64::from(cl), db_version: s.db_version, site: s.site };
            let cell = Cell { col: 0, stamp, seq: s.seq, val: ValueRef::Null };
            let p = here.parked(row.key, &cell, None, cl);
            accepted += i64::from(self.core.park(&p, reason)?);
        }
        for (_, cell) in waiting {
            let p = here.parked(row.key, cell, Some(cell.col), cl);
            accepted += i64::from(self.core.park(&p, reason)?);
        }
        Ok(accepted)
    }

    /// Writes the metadata and the log rows.
    fn finish(mut self) -> Result<Applied> {
        if let Some(watch) = &mut self.watch {
            watch.end()?;
        }
        let core = self.core;
        let parked = std::mem::take(&mut core.txn.parks);
        // What lost was seen all the same: what is written here from now on comes after it.
        core.txn.high = core.txn.high.max(self.good);
        core.write_out()?;
        let db_version = core.tail.db_version.max(core.txn.base_db_version);
        for (site, from, to, chain) in self.empty {
            if to > VERSION_MAX as u64 {
                return Err(malformed("a version out of range"));
            }
            let site = core.intern_site(site)?;
            core.log_range(db_version, Header { site, version: to, clock: 0, nonce: 0, chain }, from)?;
        }
        core.txn.rows_impacted += self.applied.cells_won as i64;
        Ok(Applied { parked, ..self.applied })
    }
}

/// The allocation of a vector, for items that live shorter or longer.
fn reuse<'b>(mut cells: Vec<Cell<'_>>) -> Vec<Cell<'b>> {
    cells.clear();
    cells.into_iter().map(|c| Cell { val: ValueRef::Null, ..c }).collect()
}
