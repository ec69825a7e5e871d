//! The state of one connection: what the file says, cached, and what the open transaction adds.

use crate::catalog::{Catalog, KeyKind, Table};
use crate::codec::Base;
use crate::error::{Error, Result};
use crate::hasher::{ByRow, Seeded};
use crate::hook::Hook;
use crate::log::{Changes, KeyRange};
use crate::openblock::OpenBlock;
use crate::store::{Loc, Overlay, Record, TableStore};
use crate::writers::Writers;
use rejoin_crdt::meta::RowMeta;
use rejoin_crdt::site::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::{Db, Stmt, ValueRef};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// The settings in `crsql_meta`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub file_id: i64,
    pub hash_key: (u64, u64),
    pub owned: bool,
    pub lamport: bool,
    pub merge_equal: bool,
    pub folded: i64,
    pub own: u32,
    pub lineage: Option<[u8; 16]>,
    /// What was deleted below it is forgotten.
    pub horizon: VersionVector,
    /// The end of the log when the horizon was raised last.
    pub horizon_at: i64,
    /// Changes came in row by row at some time.
    pub row_wise: bool,
    /// Nobody writes under the site id of this file yet.
    pub snapshot: bool,
    pub drift_ms: i64,
    /// What is added to the machine's clock: how far a server's is ahead of it.
    pub clock_offset_ms: i64,
    /// The ids under which this replica wrote before it was rolled back.
    pub former: Vec<SiteId>,
    /// The schema version that the metadata was last reconciled with.
    pub schema: i64,
}

#[derive(Default)]
pub struct Sites {
    ids: HashMap<u32, SiteId, Seeded>,
    ordinals: HashMap<SiteId, u32, Seeded>,
}

impl Sites {
    pub fn id(&self, ordinal: u32) -> Option<SiteId> {
        self.ids.get(&ordinal).copied()
    }

    pub fn ordinal(&self, id: &SiteId) -> Option<u32> {
        self.ordinals.get(id).copied()
    }

    pub fn insert(&mut self, ordinal: u32, id: SiteId) {
        self.ids.insert(ordinal, id);
        self.ordinals.insert(id, ordinal);
    }

    /// Another id for an ordinal under which nothing was written.
    pub fn replace(&mut self, ordinal: u32, id: SiteId) {
        self.ordinals.retain(|_, o| *o != ordinal);
        self.insert(ordinal, id);
    }

    pub fn next(&self) -> u32 {
        self.ids.keys().max().map_or(0, |m| m + 1)
    }
}

/// Who committed a transaction and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub site: u32,
    pub version: u64,
    pub clock: i64,
    pub nonce: u64,
    pub chain: u64,
}

#[derive(Clone, Debug, Default)]
pub struct LogRow {
    pub lsn: i64,
    pub db_version: i64,
    pub header: Header,
    /// The largest column version that the file has seen with this row.
    pub high: i64,
    pub changes: Changes,
}

impl LogRow {
    pub fn base(&self) -> Base {
        Base { db_version: self.db_version, clock: self.header.clock, site: self.header.site }
    }
}

/// The end of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    pub lsn: i64,
    pub db_version: i64,
    pub high: i64,
    pub chain: u64,
}

/// A row that the open transaction changed; its metadata is not written yet.
pub struct Work {
    pub table: Rc<Table>,
    /// Where the record belongs while the row lives (rowid tables).
    pub row: Option<i64>,
    /// The packed key identity (tables whose key is not the rowid).
    pub key: Option<Rc<[u8]>>,
    /// The packed key as it is spelled, where that differs.
    pub spelling: Option<Rc<[u8]>>,
    pub hash: u64,
    /// cl 0: the row is unknown.
    pub meta: RowMeta,
    /// Where the record was read or written before.
    pub stored: Option<Loc>,
    /// The db_versions under which this transaction changed the row.
    pub touched: smallvec::SmallVec<[i64; 1]>,
}

impl Work {
    pub fn touch(&mut self, db_version: i64) {
        if self.touched.last() != Some(&db_version) && !self.touched.contains(&db_version) {
            self.touched.push(db_version);
        }
    }

    /// Where the record is to stand now.
    pub fn loc(&self) -> Option<Loc> {
        match self.table.kind {
            KeyKind::RowId => self.row.map(Loc::Row),
            KeyKind::Hashed if self.meta.is_alive() && self.row.is_some() => self.row.map(Loc::Row),
            _ => self.key.clone().map(Loc::Key),
        }
    }
}

/// What the open write transaction has done so far.
#[derive(Default)]
pub struct Txn {
    /// The capture table has joined: this connection holds the write lock.
    pub joined: bool,
    pub works: ByRow<Work>,
    /// Blocks that row-wise changes are in, one of a table at most.
    pub open: Vec<OpenBlock>,
    pub seq: i64,
    /// The db_version that the transaction will get at least (it sticks).
    pub pending: Option<i64>,
    pub clock: Option<i64>,
    pub high: i64,
    pub rows_impacted: i64,
    /// The largest col_version that was found to be no more than the drift ahead.
    pub checked: i64,
    /// The log as it was at the start, and after each applied changeset.
    pub base_db_version: i64,
    pub committed_lsn: i64,
    /// Origin version of the local transaction, once it has a log row.
    pub local: Option<Header>,
    /// The log rows written by this transaction so far.
    pub rows: Vec<LogRow>,
    /// The largest db_version among them.
    pub newest: i64,
    /// They must be read again: some were rolled back.
    pub rows_stale: bool,
    /// Headers of the transactions of an applied changeset, by db_version.
    pub applied: BTreeMap<i64, Header>,
    /// What log rows are still to list of rows whose metadata is written.
    pub listed: BTreeMap<i64, Changes>,
    /// Db_versions that get a log row even if nothing of them is left.
    pub due: Vec<i64>,
    pub notes: crate::observe::Notes,
    /// Changes that were parked since the counter was last read.
    pub parks: u64,
    /// Db_versions with changes among the parked.
    pub parked: HashSet<i64>,
    /// Records of rows whose rowids moved, by key hash (see `resync`).
    pub orphans: HashMap<(u32, u64), Record>,
    /// The next stamps go to the current db_version (commit_alter).
    pub at_current: bool,
}

#[derive(Default)]
pub struct Queries {
    cookie: Option<Stmt>,
    pub log_put: Option<Stmt>,
    meta_put: Option<Stmt>,
    pub log_after: Option<Stmt>,
    pub log_at: Option<Stmt>,
    pub log_one: Option<Stmt>,
    pub log_before: Option<Stmt>,
    outside: Option<Stmt>,
    pub lives: Option<Stmt>,
    pub life: Option<Stmt>,
    pub names_of_table: Option<Stmt>,
    pub names_of_column: Option<Stmt>,
    pub names_of_columns: Option<Stmt>,
    pub all_names: Option<Stmt>,
    /// The last statement that read a table of the user's for a changeset, with its text.
    pub rows: Option<(String, Stmt)>,
}

/// Per table: ranges of keys.
pub type KeyRanges = HashMap<u32, Vec<KeyRange>>;

pub struct Core {
    pub db: Db,
    pub hook: Rc<Hook>,
    pub ready: bool,
    /// What is cached of the file no longer holds.
    pub stale: bool,
    /// The catalog must be checked against the schema, whatever the schema version says.
    pub catalog_stale: bool,
    pub catalog: Rc<Catalog>,
    pub cfg: Config,
    pub sites: Sites,
    pub tail: Tail,
    pub vector: VersionVector,
    /// Chain hash at the largest version of each site (ordinal).
    pub chains: HashMap<u32, (u64, u64)>,
    pub vector_dirty: HashSet<u32>,
    pub overlay: Overlay,
    pub txn: Txn,
    pub stores: HashMap<u32, TableStore, Seeded>,
    pub q: Queries,
    /// The data version that the cached state was read at. None: it is to be read again.
    pub seen_data_version: Option<u32>,
    /// What the connection last saw of the commits of others.
    seen_outside: Option<i64>,
    pub now_ms: fn() -> i64,
    /// Whether any row is parked, as far as is known.
    pub parked_rows: Option<bool>,
    /// The schema version at which parked changes were last tried.
    pub parked_tried: Option<i64>,
    /// Tables that were seen to be dropped, by a call that could not write.
    pub seen_gone: HashSet<u32>,
    /// Tables whose rows and metadata must be compared: they were rebuilt.
    pub rebuilt: Vec<u32>,
    /// Whether rowids were given out anew, looked up once for each connection.
    pub moved: Option<bool>,
    pub writers: Writers,
    /// The table that the last row-wise change named: the next one mostly names it, too.
    pub merged: Option<Rc<Table>>,
    /// For keys on their way.
    pub scratch: Vec<u8>,
    /// Tables between begin_alter and commit_alter.
    pub suspended: HashSet<u32>,
    /// The names that what is made now gets.
    pub given: crate::names::Given,
    /// The table that `commit_alter` looks at.
    pub ending_alter: Option<u32>,
    /// Somebody wants to hear of commits.
    pub observing: bool,
    /// How often this connection has written names, also where that was rolled back.
    pub names_written: u64,
    pub schema_text: Option<crate::relation::SchemaText>,
}

pub fn cached<'a>(slot: &'a mut Option<Stmt>, db: Db, sql: &str) -> Result<&'a mut Stmt> {
    if slot.is_none() {
        *slot = Some(db.prepare(sql)?);
    }
    slot.as_mut().ok_or_else(|| Error::damaged("statement slot"))
}

/// So much later than what is from the future itself may be what builds on it: each transaction needs 1/2048 ms.
const AFTER_MS: i64 = 1_000;

impl Core {
    pub fn new(db: Db, hook: Rc<Hook>) -> Core {
        Core {
            db,
            hook,
            ready: false,
            stale: true,
            catalog_stale: true,
            catalog: Rc::default(),
            cfg: Config::default(),
            sites: Sites::default(),
            tail: Tail::default(),
            vector: VersionVector::new(),
            chains: HashMap::new(),
            vector_dirty: HashSet::new(),
            overlay: Overlay::default(),
            txn: Txn::default(),
            stores: HashMap::default(),
            q: Queries::default(),
            seen_data_version: None,
            seen_outside: None,
            now_ms: crate::ambient::now_ms,
            parked_rows: None,
            parked_tried: None,
            seen_gone: HashSet::new(),
            rebuilt: Vec::new(),
            moved: None,
            writers: Writers::new(db),
            merged: None,
            scratch: Vec::new(),
            suspended: HashSet::new(),
            given: crate::names::Given::default(),
            ending_alter: None,
            names_written: 0,
            schema_text: None,
            observing: false,
        }
    }

    /// Lets go of every statement: the connection is about to close.
    pub fn close(&mut self) {
        self.q = Queries::default();
        self.stores.clear();
        self.writers.clear();
        self.stale = true;
    }

    pub fn cookie(&mut self) -> Result<i64> {
        let q = cached(&mut self.q.cookie, self.db, "PRAGMA main.schema_version")?;
        q.step()?;
        let cookie = q.column_int(0);
        q.reset();
        Ok(cookie)
    }

    /// Whether another connection has committed since this was last asked.
    pub fn changed_outside(&mut self) -> Result<bool> {
        let now = self.outside()?;
        Ok(std::mem::replace(&mut self.seen_outside, now) != now)
    }

    /// A number that is another one after a commit of another connection.
    pub fn outside(&mut self) -> Result<Option<i64>> {
        let q = cached(&mut self.q.outside, self.db, "PRAGMA main.data_version")?;
        Ok(q.query_row(&[], |q| Ok(q.column_int(0)))?)
    }

    /// Brings the cached state up to what this connection sees of the file now.
    pub fn refresh(&mut self, may_write: bool) -> Result<()> {
        let cookie = self.cookie()?;
        let seen = self.db.data_version()?;
        let moved = self.seen_data_version != Some(seen);
        // Metadata that was made inside a savepoint goes with its ROLLBACK TO.
        if self.ready && cookie != self.catalog.cookie && !self.find_format(cookie)? {
            self.stale = true;
        }
        if self.stale || moved || !self.ready {
            self.load_state(cookie)?;
            self.seen_data_version = Some(seen);
            if self.ready {
                self.settle_rows()?;
            }
        }
        if self.ready && self.moved.is_none() {
            self.moved = Some(self.rowids_moved()?);
        }
        let outdated = self.catalog_stale || cookie != self.catalog.cookie;
        if self.ready && (outdated || (may_write && self.cfg.schema != cookie)) {
            self.load_catalog(cookie, may_write)?;
        }
        Ok(())
    }

    fn load_state(&mut self, cookie: i64) -> Result<()> {
        if !self.ready || self.stale {
            self.ready = self.find_format(cookie)?;
            self.catalog_stale = true;
            self.overlay.clear();
            self.tail = Tail::default();
            self.stores.clear();
            if !self.ready {
                self.catalog = Rc::default();
                self.stale = false;
                return Ok(());
            }
        }
        let folded = self.cfg.folded;
        self.load_config()?;
        self.parked_rows = None;
        for store in self.stores.values_mut() {
            store.forget();
        }
        if self.stale || self.cfg.folded != folded || !self.tail_still_there()? {
            self.overlay.clear();
            self.tail = Tail::default();
            self.load_vector()?;
        }
        self.load_log()?;
        self.stale = false;
        Ok(())
    }

    /// Whether the file has Rejoin's metadata; an error if it has a foreign or newer one.
    fn find_format(&mut self, _cookie: i64) -> Result<bool> {
        let mut q = self.db.prepare_transient(
            "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND (name IN ('crsql_meta', 'crsql_master') \
             OR name LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\') ORDER BY name = 'crsql_meta' DESC LIMIT 1",
        )?;
        if !q.step()? {
            return Ok(false);
        }
        if q.column_text(0) != b"crsql_meta" {
            return Err(Error::NeedsUpgrade);
        }
        Ok(true)
    }

    fn load_config(&mut self) -> Result<()> {
        let mut q = self.db.prepare_transient("SELECT name, value FROM main.crsql_meta")?;
        let mut c = Config { drift_ms: rejoin_crdt::limits::DRIFT_MS, ..Config::default() };
        let mut format = None;
        let mut altering = String::new();
        while q.step()? {
            let name = q.column_text(0).to_vec();
            let int = q.column_int(1);
            match name.as_slice() {
                b"format" => format = Some(int),
                b"file_id" => c.file_id = int,
                b"hash_key_0" => c.hash_key.0 = int as u64,
                b"hash_key_1" => c.hash_key.1 = int as u64,
                b"mode" => c.owned = q.column_text(1) == b"owned",
                b"clock" => c.lamport = q.column_text(1) == b"lamport",
                b"merge-equal-values" => c.merge_equal = int != 0,
                b"folded" => c.folded = int,
                b"site" => c.own = u32::try_from(int).map_err(|_| Error::damaged("site ordinal"))?,
                b"former-sites" => {
                    c.former = q.column_blob(1).chunks_exact(16).filter_map(SiteId::from_slice).collect();
                }
                b"lineage" => c.lineage = q.column_blob(1).try_into().ok(),
                b"horizon" => {
                    let read = VersionVector::decode(q.column_blob(1));
                    c.horizon = read.map_err(|_| Error::damaged("the horizon"))?;
                }
                b"row-wise" => c.row_wise = int != 0,
                b"horizon_at" => c.horizon_at = int,
                b"snapshot" => c.snapshot = int != 0,
                b"drift-ms" => c.drift_ms = int,
                b"clock-offset" => c.clock_offset_ms = int,
                b"schema" => c.schema = int,
                b"altering" => altering = crate::catalog::text(q.column_text(1)),
                _ => {}
            }
        }
        match format {
            Some(f) if f <= crate::format::FORMAT => {}
            Some(format) => return Err(Error::TooNew { format }),
            None => return Err(Error::damaged("crsql_meta names no format")),
        }
        self.cfg = c;
        self.suspended = altering.split(',').filter_map(|id| id.parse().ok()).collect();
        let mut q = self.db.prepare_transient("SELECT ordinal, site_id FROM main.crsql_sites")?;
        let mut sites = Sites::default();
        while q.step()? {
            let ordinal = u32::try_from(q.column_int(0)).map_err(|_| Error::damaged("site ordinal"))?;
            let id = SiteId::from_slice(q.column_blob(1)).ok_or_else(|| Error::damaged("site id"))?;
            sites.insert(ordinal, id);
        }
        if sites.id(self.cfg.own).is_none() {
            return Err(Error::damaged("this replica has no site id"));
        }
        self.sites = sites;
        Ok(())
    }

    fn tail_still_there(&self) -> Result<bool> {
        if self.tail.lsn == 0 {
            return Ok(false);
        }
        let mut q = self.db.prepare_transient("SELECT chain FROM main.crsql_log WHERE id = ?1")?;
        q.bind_int(1, self.tail.lsn)?;
        Ok(q.step()? && q.column_int(0) as u64 == self.tail.chain)
    }

    fn load_vector(&mut self) -> Result<()> {
        self.vector = VersionVector::new();
        self.chains.clear();
        let mut q = self.db.prepare_transient("SELECT site, first, last, chain FROM main.crsql_vector")?;
        while q.step()? {
            let ordinal = u32::try_from(q.column_int(0)).map_err(|_| Error::damaged("vector"))?;
            let site = self.sites.id(ordinal).ok_or_else(|| Error::damaged("vector names no site"))?;
            let (first, last) = (q.column_int(1) as u64, q.column_int(2) as u64);
            if first == 0 || first > last {
                return Err(Error::damaged("vector range"));
            }
            self.vector.insert_range(site, first..=last);
            self.saw_chain(ordinal, last, q.column_int(3) as u64);
        }
        Ok(())
    }

    pub fn saw_chain(&mut self, site: u32, version: u64, chain: u64) {
        let head = self.chains.entry(site).or_default();
        if version >= head.0 {
            *head = (version, chain);
        }
    }

    /// Reads the log rows above the known tail; those above `folded` feed the overlay.
    fn load_log(&mut self) -> Result<()> {
        let from = self.tail.lsn.max(if self.tail.lsn == 0 { self.cfg.folded } else { 0 });
        let q = cached(
            &mut self.q.log_after,
            self.db,
            "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log \
             WHERE id >= ?1 ORDER BY id",
        )?;
        q.bind_int(1, from)?;
        let mut rows = Vec::new();
        let read = (|| {
            while q.step()? {
                rows.push((read_log_head(q)?, q.column_blob(8).to_vec()));
            }
            Ok::<(), Error>(())
        })();
        q.reset();
        read?;
        for (mut row, bytes) in rows {
            if row.lsn <= self.tail.lsn && self.tail.lsn != 0 {
                continue;
            }
            if row.lsn > self.cfg.folded {
                row.changes = Changes::decode(&bytes, &row.base())?;
                self.count_in(&row)?;
                let changes = std::mem::take(&mut row.changes);
                for (tbl, list) in changes.tables {
                    for (loc, record) in list.inline {
                        self.overlay.set(tbl, loc, record);
                    }
                }
            }
            self.tail = Tail {
                lsn: row.lsn,
                db_version: row.db_version.max(self.tail.db_version),
                high: row.high,
                chain: row.header.chain,
            };
        }
        Ok(())
    }

    /// The time by which it is judged whether a version is from the future. Where the file has some itself that it would never
    /// have taken, its clock was ahead and was set right, as a server's may be for everybody who syncs with it. What builds
    /// on those is taken, but little more: nobody is to go on from there into the future.
    pub fn now_to_judge(&self) -> i64 {
        let (now, drift_ms) = (self.now(), self.cfg.drift_ms);
        let high_ms = rejoin_crdt::hlc::unix_ms(self.tail.high);
        let taken_once = now.saturating_add(drift_ms.saturating_mul(2));
        if high_ms > taken_once { high_ms.saturating_sub(drift_ms).saturating_add(AFTER_MS) } else { now }
    }

    /// Takes a log row into the version vector.
    pub fn count_in(&mut self, row: &LogRow) -> Result<()> {
        let h = row.header;
        if h.version > 0 {
            let site = self.sites.id(h.site).ok_or_else(|| Error::damaged("log row of no site"))?;
            let first = row.changes.empty_from.unwrap_or(h.version);
            self.vector.insert_range(site, first..=h.version);
            self.saw_chain(h.site, h.version, h.chain);
            self.vector_dirty.insert(h.site);
        }
        Ok(())
    }

    /// The time, Unix milliseconds, as the server tells it.
    pub fn now(&self) -> i64 {
        (self.now_ms)().saturating_add(self.cfg.clock_offset_ms)
    }

    pub fn own_site(&self) -> SiteId {
        self.sites.id(self.cfg.own).unwrap_or(SiteId([0; 16]))
    }

    /// Every id under which this replica has written, the present one last.
    pub fn own_sites(&self) -> Vec<SiteId> {
        self.cfg.former.iter().copied().chain([self.own_site()]).collect()
    }

    /// The ordinal of a site, given out if it is new.
    pub fn intern_site(&mut self, id: SiteId) -> Result<u32> {
        if let Some(ordinal) = self.sites.ordinal(&id) {
            return Ok(ordinal);
        }
        let ordinal = self.sites.next();
        let mut q =
            self.db.prepare_transient("INSERT INTO main.crsql_sites(ordinal, site_id) VALUES (?1, ?2)")?;
        q.run(&[ValueRef::Integer(i64::from(ordinal)), ValueRef::Blob(id.as_bytes())])?;
        self.sites.insert(ordinal, id);
        Ok(ordinal)
    }

    pub fn set_meta(&mut self, name: &str, value: ValueRef<'_>) -> Result<()> {
        let q = cached(
            &mut self.q.meta_put,
            self.db,
            "INSERT INTO main.crsql_meta(name, value) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value",
        )?;
        Ok(q.run(&[ValueRef::Text(name.as_bytes()), value])?)
    }

    pub fn store(&mut self, t: &Table) -> &mut TableStore {
        let db = self.db;
        self.stores.entry(t.id).or_insert_with(|| TableStore::new(db, t))
    }

    pub fn load(&mut self, t: &Table, loc: &Loc) -> Result<Option<Record>> {
        self.close_block_of(t, loc)?;
        if let Some(entry) = self.overlay.get(t.id, loc) {
            return Ok(entry.clone());
        }
        self.store(t).load(loc)
    }

    /// The version that the open transaction's next change gets.
    pub fn next_db_version(&mut self) -> i64 {
        if self.txn.at_current {
            // What this transaction wrote before is newer already, and versions in the log do not fall.
            return self.txn.base_db_version.max(self.txn.newest);
        }
        let base = if self.txn.joined { self.txn.base_db_version } else { self.tail.db_version };
        let next = (base + 1).max(self.txn.pending.unwrap_or(0));
        self.txn.pending = Some(next);
        next
    }
}

/// Reads id, db_version, site, version, clock, nonce, chain, high from the first columns.
pub fn read_log_head(q: &Stmt) -> Result<LogRow> {
    let clock = q.column_int(4);
    let header = Header {
        site: u32::try_from(q.column_int(2)).map_err(|_| Error::damaged("log row"))?,
        version: q.column_int(3) as u64,
        clock,
        nonce: q.column_int(5) as u64,
        chain: q.column_int(6) as u64,
    };
    let high = match q.column(7) {
        ValueRef::Integer(h) => h,
        _ => clock,
    };
    Ok(LogRow {
        lsn: q.column_int(0),
        db_version: q.column_int(1),
        header,
        high,
        changes: Changes::default(),
    })
}
