//! Writing what the open transaction owes: works become records, the log names them, the overlay is folded.

use crate::core::{Core, Header, KeyRanges, LogRow, Tail, Work, cached, read_log_head};
use crate::error::Result;
use crate::log::{Changes, KeyRange};
use crate::store::{Loc, Record};
use rejoin_crdt::meta::RowMeta;
use rejoin_sqlite::ValueRef;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Up to this many rows, a transaction keeps its metadata in its log row.
const INLINE_ROWS_MAX: usize = 16;
const INLINE_BYTES_MAX: usize = 1500;
/// When the overlay has this many entries it is folded into the blocks.
const OVERLAY_MAX: usize = 256;

impl Core {
    /// Writes the metadata of all changed rows and the log rows that name them.
    pub fn write_out(&mut self) -> Result<()> {
        self.close_blocks()?;
        let txn = &self.txn;
        if txn.works.is_empty() && txn.parked.is_empty() && txn.due.is_empty() && txn.listed.is_empty() {
            return Ok(());
        }
        self.settle_rows()?;
        let mut works: Vec<Work> = std::mem::take(&mut self.txn.works).into_values().collect();
        works.retain(|w| !w.touched.is_empty() || w.stored.is_some() && w.stored != w.loc());
        if self.observing {
            let own = self.cfg.own;
            works.iter().for_each(|w| self.txn.notes.note(w, own));
        }
        for (tbl, loc, meta) in works.iter().filter_map(moved_with_past).collect::<Vec<_>>() {
            let mut versions: Vec<i64> = meta.groups.iter().map(|g| g.stamp.db_version).collect();
            versions.extend(meta.sentinel.map(|s| s.db_version));
            versions.sort_unstable();
            versions.dedup();
            self.name_in_past(tbl, &loc, &versions)?;
        }
        self.settle_past(&mut works)?;
        works.sort_unstable_by(|a, b| (a.table.id, a.row, &a.key).cmp(&(b.table.id, b.row, &b.key)));
        let mut lists: BTreeMap<i64, Changes> = std::mem::take(&mut self.txn.listed);
        let spilled = !lists.is_empty();
        for db_version in std::mem::take(&mut self.txn.parked) {
            if self.is_past(db_version) {
                continue;
            }
            lists.entry(db_version).or_default().parked = true;
        }
        let due = std::mem::take(&mut self.txn.due);
        for &db_version in works.iter().flat_map(|w| &w.touched).chain(&due) {
            lists.entry(db_version).or_default();
        }
        let rows = &self.txn.rows;
        let earlier: usize = rows.iter().map(|r| r.changes.inline_count()).sum();
        let inline = !spilled
            && lists.len() == 1
            && works.len() + earlier <= INLINE_ROWS_MAX
            && rows.iter().all(|r| {
                lists.contains_key(&r.db_version) && r.changes.is_inline() && r.lsn > self.cfg.folded
            });
        if inline && let Some((db_version, mut changes)) = lists.pop_first() {
            self.list_inline(works, &mut changes);
            let entries = changes.clone();
            if self.put_log(db_version, changes, Some(INLINE_BYTES_MAX))? {
                for (tbl, list) in entries.tables {
                    for (loc, record) in list.inline {
                        self.overlay.set(tbl, loc, record);
                    }
                }
                return if self.overlay.len > OVERLAY_MAX { self.fold() } else { Ok(()) };
            }
            let all = entries.tables.into_iter().map(|(tbl, l)| (tbl, l.inline.into_iter().collect()));
            return self.spill(all.collect()).map(drop);
        }
        let mut updates: HashMap<u32, Vec<(Loc, Option<Record>)>> = HashMap::new();
        for work in works {
            list_work(work, &mut lists, &mut updates);
        }
        let ranges = self.spill(updates)?;
        for (db_version, mut changes) in lists {
            changes.shorten(&ranges);
            self.put_log(db_version, changes, None)?;
        }
        // Rows that an earlier flush of this transaction kept in its log row are in the blocks now.
        self.fold()
    }

    /// What waited and is applied now keeps the version under which it came: the log rows are in order of versions,
    /// so that of an earlier transaction names the row.
    fn settle_past(&mut self, works: &mut [Work]) -> Result<()> {
        for work in works {
            let past: Vec<i64> = work.touched.iter().copied().filter(|v| self.is_past(*v)).collect();
            if past.is_empty() {
                continue;
            }
            work.touched.retain(|v| !past.contains(v));
            if let Some(loc) = work.loc() {
                self.name_in_past(work.table.id, &loc, &past)?;
            }
        }
        Ok(())
    }

    /// Whether a version belongs to an earlier transaction, whose log rows stand.
    pub fn is_past(&self, db_version: i64) -> bool {
        let txn = &self.txn;
        let base = txn.base_db_version - i64::from(txn.at_current);
        db_version <= base && !txn.rows.iter().any(|r| r.db_version == db_version)
    }

    /// Names a row at its place now in the log rows of earlier changes. Empty versions may stand under the same
    /// db_version, and what is named by them would not leave with its transaction.
    fn name_in_past(&mut self, tbl: u32, loc: &Loc, versions: &[i64]) -> Result<()> {
        for &db_version in versions {
            let of = |r: &LogRow| r.db_version == db_version && r.changes.empty_from.is_none();
            if let Some(at) = self.txn.rows.iter().rposition(of) {
                // An earlier flush of this transaction wrote it.
                let mut row = self.txn.rows.swap_remove(at);
                let list = row.changes.tables.entry(tbl).or_default();
                list.name(loc);
                list.tidy();
                let bytes = row.changes.encode(&row.base());
                self.write_log_row(&row, &bytes)?;
                self.txn.rows.push(row);
                continue;
            }
            let first = self.first_log_row(db_version)?;
            let Some((rows, _)) = self.log_unit(first)? else { continue };
            let Some(mut row) = rows.into_iter().rfind(of) else { continue };
            let list = row.changes.tables.entry(tbl).or_default();
            list.name(loc);
            list.tidy();
            let bytes = row.changes.encode(&row.base());
            self.write_log_row(&row, &bytes)?;
        }
        Ok(())
    }

    fn list_inline(&self, works: Vec<Work>, changes: &mut Changes) {
        for work in works {
            let now = work.loc();
            let list = changes.tables.entry(work.table.id).or_default();
            if let Some(old) = work.stored.filter(|old| Some(old) != now.as_ref()) {
                // Another row may stand there by now.
                list.inline.entry(old).or_insert(None);
            }
            if let Some(loc) = now {
                let row = crate::block::StoredRow { meta: work.meta, hash: work.hash };
                list.inline.insert(loc, Some(Record { row, spelling: work.spelling }));
            }
        }
    }

    /// Writes records into the blocks, after those that the overlay still holds. Returns, per table, the ranges
    /// of keys that were written.
    fn spill(&mut self, updates: HashMap<u32, Vec<(Loc, Option<Record>)>>) -> Result<KeyRanges> {
        self.fold()?;
        let mut ranges = KeyRanges::new();
        for (tbl, list) in updates {
            ranges.insert(tbl, self.apply_to_blocks(tbl, list)?);
        }
        Ok(ranges)
    }

    /// After a ROLLBACK TO: which log rows of this transaction are still in the file, and what they say of its state.
    pub fn settle_rows(&mut self) -> Result<()> {
        if !self.txn.rows_stale {
            return Ok(());
        }
        self.txn.rows_stale = false;
        let mut q = self.db.prepare_transient(
            "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log \
             WHERE id > ?1 ORDER BY id",
        )?;
        q.bind_int(1, self.txn.committed_lsn)?;
        let mut rows: Vec<LogRow> = Vec::new();
        while q.step()? {
            let mut row = read_log_head(&q)?;
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            rows.push(row);
        }
        drop(q);
        let (own, txn) = (self.cfg.own, &mut self.txn);
        txn.base_db_version = txn.notes.base().unwrap_or(txn.base_db_version);
        let there: HashSet<(i64, u32, u64)> =
            rows.iter().map(|r| (r.db_version, r.header.site, r.header.version)).collect();
        txn.applied.retain(|version, h| there.contains(&(*version, h.site, h.version)));
        let (base, applied) = (txn.base_db_version, &txn.applied);
        let mine =
            |r: &&LogRow| r.header.site == own && r.db_version > base && !applied.contains_key(&r.db_version);
        txn.local = rows.iter().rfind(mine).map(|r| r.header);
        txn.newest = rows.iter().map(|r| r.db_version).max().unwrap_or(0);
        txn.rows = rows;
        Ok(())
    }

    pub fn apply_to_blocks(&mut self, tbl: u32, list: Vec<(Loc, Option<Record>)>) -> Result<Vec<KeyRange>> {
        self.close_blocks()?;
        let Some(table) = self.catalog.get(tbl).cloned() else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        let mut keys = Vec::new();
        for (loc, record) in list {
            match loc {
                Loc::Row(row) => rows.push((row, record.map(|r| r.row))),
                Loc::Key(key) => keys.push((key, record)),
            }
        }
        // One row may have left a place that another took: removals first.
        rows.sort_by_key(|r| (r.0, r.1.is_some()));
        keys.sort_by(|a, b| (&a.0, a.1.is_some()).cmp(&(&b.0, b.1.is_some())));
        let store = self.store(&table);
        store.apply_rows(rows)?;
        let (keys, records): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        store.apply_keys(keys.iter().map(AsRef::as_ref).zip(records))
    }

    /// Moves the overlay into the blocks: log rows up to now are folded.
    pub fn fold(&mut self) -> Result<()> {
        self.close_blocks()?;
        for (tbl, list) in self.overlay.take() {
            self.apply_to_blocks(tbl, list.into_iter().collect())?;
        }
        let lsn = self.tail.lsn;
        if self.cfg.folded != lsn {
            self.set_meta("folded", ValueRef::Integer(lsn))?;
            self.cfg.folded = lsn;
        }
        self.save_vector()
    }

    /// Writes the vector of every site.
    pub fn save_whole_vector(&mut self) -> Result<()> {
        let sites: Vec<u32> = self.vector.iter().filter_map(|(s, _)| self.sites.ordinal(s)).collect();
        self.vector_dirty.extend(sites);
        self.save_vector()
    }

    fn save_vector(&mut self) -> Result<()> {
        for ordinal in std::mem::take(&mut self.vector_dirty) {
            let Some(site) = self.sites.id(ordinal) else {
                continue;
            };
            let mut del = self.db.prepare_transient("DELETE FROM main.crsql_vector WHERE site = ?1")?;
            del.run(&[ValueRef::Integer(i64::from(ordinal))])?;
            let mut put = self.db.prepare_transient(
                "INSERT INTO main.crsql_vector(site, first, last, chain) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let head = self.chains.get(&ordinal).copied().unwrap_or_default();
            for range in self.vector.ranges(&site).into_iter().flat_map(|r| r.iter()) {
                let chain = if *range.end() == head.0 { head.1 as i64 } else { 0 };
                put.run(&[
                    ValueRef::Integer(i64::from(ordinal)),
                    ValueRef::Integer(*range.start() as i64),
                    ValueRef::Integer(*range.end() as i64),
                    ValueRef::Integer(chain),
                ])?;
            }
        }
        Ok(())
    }

    /// The header of the local transaction, made with its first log row.
    pub fn local_header(&mut self) -> Result<Header> {
        if let Some(h) = self.txn.local {
            return Ok(h);
        }
        self.leave_snapshot()?;
        let own = self.cfg.own;
        let version = self.vector.max(&self.own_site()) + 1;
        let mut nonce = [0u8; 8];
        crate::ambient::fill(&mut nonce)?;
        let nonce = u64::from_le_bytes(nonce);
        let previous = self.chains.get(&own).map_or(0, |c| c.1);
        let chain = rejoin_crdt::chain::next(previous, version, nonce);
        let h = Header { site: own, version, clock: self.txn.clock.unwrap_or(0), nonce, chain };
        self.txn.local = Some(h);
        Ok(h)
    }

    /// Writes or extends the log row of `db_version`; false (and only names in it) if its inline records would
    /// take more than `inline_max` bytes.
    pub fn put_log(&mut self, db_version: i64, changes: Changes, inline_max: Option<usize>) -> Result<bool> {
        let header = match self.txn.applied.get(&db_version) {
            Some(h) => *h,
            None => self.local_header()?,
        };
        // Most rows are new: those of a long changeset would be searched for in vain.
        let known = db_version <= self.txn.newest;
        let rows = if known { self.txn.rows.as_slice() } else { &[] };
        let found = rows.iter().position(|r| r.db_version == db_version && same_txn(&r.header, &header));
        let mut row = match found {
            Some(i) => self.txn.rows.swap_remove(i),
            None => LogRow { lsn: self.tail.lsn + 1, db_version, header, ..LogRow::default() },
        };
        row.changes.merge(changes);
        // The clock is minted with the first write, which may come after the log row was begun.
        if row.header.clock == 0 {
            row.header.clock =
                self.txn.clock.filter(|_| !self.txn.applied.contains_key(&db_version)).unwrap_or(0);
        }
        // What a peer minted for cells of which none came here is not merged.
        let minted = if self.txn.applied.contains_key(&db_version) { 0 } else { row.header.clock };
        row.high = self.tail.high.max(minted).max(self.txn.high);
        if inline_max.is_none() {
            row.changes.spill();
        }
        let mut bytes = row.changes.encode(&row.base());
        let fits = inline_max.is_none_or(|max| bytes.len() <= max);
        if !fits {
            row.changes.spill();
            bytes = row.changes.encode(&row.base());
        }
        self.write_log_row(&row, &bytes)?;
        self.count_in(&row)?;
        self.tail.high = self.tail.high.max(row.high);
        if row.lsn > self.tail.lsn {
            let (lsn, high, chain) = (row.lsn, self.tail.high, row.header.chain);
            let db_version = row.db_version.max(self.tail.db_version);
            self.tail = Tail { lsn, db_version, high, chain };
        }
        self.txn.newest = self.txn.newest.max(db_version);
        self.txn.rows.push(row);
        Ok(fits)
    }

    pub fn write_log_row(&mut self, row: &LogRow, bytes: &[u8]) -> Result<()> {
        let q = cached(
            &mut self.q.log_put,
            self.db,
            "REPLACE INTO main.crsql_log(id, db_version, site, version, clock, nonce, chain, high, changes) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let h = &row.header;
        let high = if row.high == h.clock { ValueRef::Null } else { ValueRef::Integer(row.high) };
        Ok(q.run(&[
            ValueRef::Integer(row.lsn),
            ValueRef::Integer(row.db_version),
            ValueRef::Integer(i64::from(h.site)),
            ValueRef::Integer(h.version as i64),
            ValueRef::Integer(h.clock),
            ValueRef::Integer(h.nonce as i64),
            ValueRef::Integer(h.chain as i64),
            high,
            ValueRef::Blob(bytes),
        ])?)
    }

    /// A log row for versions, from `first` to the header's, of which nothing is left.
    pub fn log_range(&mut self, db_version: i64, header: Header, first: u64) -> Result<()> {
        let changes = Changes { empty_from: Some(first), ..Changes::default() };
        let (lsn, high) = (self.tail.lsn + 1, self.tail.high);
        let row = LogRow { lsn, db_version, header, high, changes };
        let bytes = row.changes.encode(&row.base());
        self.write_log_row(&row, &bytes)?;
        self.count_in(&row)?;
        let db_version = db_version.max(self.tail.db_version);
        self.tail = Tail { lsn, db_version, high, chain: row.header.chain };
        self.txn.newest = self.txn.newest.max(db_version);
        self.txn.rows.push(row);
        Ok(())
    }
}

fn same_txn(a: &Header, b: &Header) -> bool {
    a.site == b.site && a.version == b.version
}

/// A row that goes to another place and keeps changes of earlier versions: their log rows must name the new place.
fn moved_with_past(work: &Work) -> Option<(u32, Loc, RowMeta)> {
    let (old, now) = (work.stored.as_ref()?, work.loc()?);
    let past = |v: i64| !work.touched.contains(&v);
    let meta = &work.meta;
    let keeps = meta.sentinel.is_some_and(|s| past(s.db_version))
        || meta.groups.iter().any(|g| past(g.stamp.db_version));
    (*old != now && keeps).then(|| (work.table.id, now, meta.clone()))
}

/// Names a changed row in the lists of its db_versions and says what is to be stored where.
fn list_work(
    work: Work,
    lists: &mut BTreeMap<i64, Changes>,
    updates: &mut HashMap<u32, Vec<(Loc, Option<Record>)>>,
) {
    let tbl = work.table.id;
    let now = work.loc();
    let updates = updates.entry(tbl).or_default();
    if let Some(old) = work.stored.filter(|old| Some(old) != now.as_ref()) {
        updates.push((old, None));
    }
    let Some(loc) = now else { return };
    for db_version in work.touched {
        let list = lists.entry(db_version).or_default().tables.entry(tbl).or_default();
        list.name(&loc);
    }
    let row = crate::block::StoredRow { meta: work.meta, hash: work.hash };
    updates.push((loc, Some(Record { row, spelling: work.spelling })));
}
