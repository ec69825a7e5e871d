//! A clock that was wrong: what its replica wrote and nobody has seen is stamped anew.
//!
//! Once the server has told its time, the transactions that it lacks are unsent by definition. Their stamps move by
//! the offset, in order, but to no time that is still to come, and stay above all that the file had seen before them, so
//! that a cell stays above what it overwrote. What they won against under the wrong clock is gone from here: the rows
//! are to be read again from the server and merged ([`crate::Replica::merge_rows`]); until then the file remembers them
//! (`crsql_wanted`).

use crate::SiteId;
use crate::VersionVector;
use crate::checked::RowKey;
use crate::core::{Core, Header, LogRow, read_log_head};
use crate::cut::{LOG, only};
use crate::engine::Engine;
use crate::error::Result;
use crate::listing::Filter;
use crate::log::Changes;
use crate::schema::random_nonce;
use crate::store::Loc;
use crate::told::{At, identity};
use rejoin_crdt::limits::VERSION_MAX;
use rejoin_crdt::{chain, hlc};
use rejoin_sqlite::ValueRef;
use std::collections::{BTreeMap, BTreeSet};

/// Adds to the offset of the clock, which is kept in the file.
pub fn set_offset(core: &mut Core, offset_ms: i64) -> Result<()> {
    core.set_meta("clock-offset", ValueRef::Integer(offset_ms))?;
    core.cfg.clock_offset_ms = offset_ms;
    Ok(())
}

/// Stamps what `acknowledged` lacks of the own site anew, `shift_ms` later.
pub fn restamp(engine: &Engine, acknowledged: &VersionVector, shift_ms: i64) -> Result<Vec<RowKey>> {
    engine.make_ready()?;
    engine.flush()?;
    engine.scoped("crsql_restamp", || {
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.refresh(true)?;
        core.next_txn();
        let offset = core.cfg.clock_offset_ms.saturating_add(shift_ms);
        set_offset(&mut core, offset)?;
        let own = core.own_site();
        let unsent = only(&core.vector.missing_from(acknowledged), &own);
        if !unsent.is_empty() {
            core.fold()?;
            core.restamp_all(own, &unsent, shift_ms)?;
        }
        core.next_txn();
        core.rows_wanted()
    })
}

/// The old and the new clock value of a transaction.
#[derive(Clone, Copy)]
struct Moved {
    from: i64,
    to: i64,
}

impl Moved {
    /// What a cell with this version gets. Less than the clock have rows that were found, and they keep it.
    fn col_version(self, old: i64) -> i64 {
        if old < self.from { old } else { (self.to + (old - self.from)).min(VERSION_MAX) }
    }
}

/// A clock value some time later, and no later than now.
fn shifted(value: i64, shift_ms: i64, now_ms: i64) -> i64 {
    hlc::pack(hlc::unix_ms(value).saturating_add(shift_ms).min(now_ms), hlc::counter(value))
}

impl Core {
    fn restamp_all(&mut self, own: SiteId, unsent: &VersionVector, shift_ms: i64) -> Result<()> {
        let rows = self.rows_from(own, unsent)?;
        let first = rows.first().map_or(0, |r| r.lsn);
        let (mut moved, mut after) = (BTreeMap::new(), Vec::new());
        let mut high = self.high_before(first)?;
        let mut last: Option<Header> = None;
        for mut row in rows {
            let h = row.header;
            let mine = h.site == self.cfg.own && unsent.contains(&own, h.version);
            if mine {
                row.header = match last.filter(|l| l.version == h.version) {
                    Some(same) => Header { clock: if h.clock == 0 { 0 } else { same.clock }, ..same },
                    None => self.new_header(&row, last, own, high, shift_ms)?,
                };
                last = Some(row.header);
                if h.clock > 0 && row.changes.empty_from.is_none() {
                    moved.insert(row.db_version, Moved { from: h.clock, to: row.header.clock });
                }
            }
            // What is void was never seen, whatever its clock said.
            if mine || row.changes.empty_from.is_none() {
                high = high.max(row.header.clock);
            }
            row.high = high;
            // Its metadata stands in the blocks, so it need only name the rows.
            row.changes.spill();
            after.push((row, mine));
        }
        let touched = self.restamp_rows(&after, &moved)?;
        for (row, _) in &after {
            let bytes = row.changes.encode(&row.base());
            self.write_log_row(row, &bytes)?;
            if row.lsn == self.tail.lsn {
                self.tail.chain = row.header.chain;
            }
        }
        self.tail.high = high;
        if let Some(h) = last {
            self.saw_chain(h.site, h.version, h.chain);
        }
        self.save_whole_vector()?;
        self.mark_rewritten()?;
        touched.iter().try_for_each(|at| self.want(at))
    }

    /// The log from the first unsent transaction on.
    fn rows_from(&mut self, own: SiteId, unsent: &VersionVector) -> Result<Vec<LogRow>> {
        let mut rows: Vec<LogRow> = Vec::new();
        let mut q = self.db.prepare_transient(&format!("{LOG} ORDER BY id"))?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            let mine = row.header.site == self.cfg.own && unsent.contains(&own, row.header.version);
            if mine || !rows.is_empty() {
                row.changes = Changes::decode(q.column_blob(8), &row.base())?;
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// The largest column version that the file had seen before a log row.
    fn high_before(&self, lsn: i64) -> Result<i64> {
        let mut q = self.db.prepare_transient(
            "SELECT coalesce(high, clock) FROM main.crsql_log WHERE id < ?1 ORDER BY id DESC LIMIT 1",
        )?;
        Ok(q.query_row(&[ValueRef::Integer(lsn)], |q| Ok(q.column_int(0)))?.unwrap_or(0))
    }

    fn new_header(
        &mut self,
        row: &LogRow,
        last: Option<Header>,
        own: SiteId,
        high: i64,
        shift_ms: i64,
    ) -> Result<Header> {
        let h = row.header;
        let first = row.changes.empty_from.unwrap_or(h.version);
        // The nonces of several versions at once are not known, and nothing is to be told apart about them.
        if first < h.version {
            return Ok(h);
        }
        let clock = match h.clock {
            0 => 0,
            old => shifted(old, shift_ms, self.now()).max(high.saturating_add(1)),
        };
        // Between two that are stamped anew may be one that the server has: a void one.
        let previous = match last.filter(|l| l.version + 1 == h.version) {
            Some(l) => Some(l.chain),
            None if h.version == 1 => Some(0),
            None => self.chains_at(&[(own, h.version - 1)])?.get(&(own, h.version - 1)).copied(),
        };
        let nonce = random_nonce()?;
        let chain = chain::next(previous.unwrap_or(0), h.version, nonce);
        // What is held but its hash is not known is followed by whatever follows.
        let chain = if previous.is_some() { chain } else { h.chain };
        Ok(Header { clock, nonce: if previous.is_some() { nonce } else { h.nonce }, chain, ..h })
    }

    /// Gives the cells of these transactions their new versions; answers which rows have any.
    fn restamp_rows(
        &mut self,
        rows: &[(LogRow, bool)],
        moved: &BTreeMap<i64, Moved>,
    ) -> Result<BTreeSet<At>> {
        let mut touched = BTreeSet::new();
        let mut places: BTreeSet<(u32, Loc)> = BTreeSet::new();
        for (row, _) in rows.iter().filter(|(_, mine)| *mine) {
            let unit = self.unit(std::slice::from_ref(row), &Filter::default())?;
            for listed in &unit.rows {
                touched.extend(self.place_of(listed)?);
                places.insert((listed.table.id, listed.loc.clone()));
            }
            for p in unit.parked.into_iter().map(|p| p.change) {
                if let Some(t) = self.catalog.get(p.table).cloned() {
                    touched.insert((t.id, identity(&t, &p.pk)?));
                }
                if let Some(m) = moved.get(&p.db_version) {
                    let mut put = self
                        .db
                        .prepare_transient("UPDATE main.crsql_waiting SET col_version = ?1 WHERE id = ?2")?;
                    put.run(&[ValueRef::Integer(m.col_version(p.col_version)), ValueRef::Integer(p.id)])?;
                }
            }
        }
        for (tbl, loc) in places {
            let Some(t) = self.catalog.get(tbl).cloned() else { continue };
            let Some(mut record) = self.load(&t, &loc)? else { continue };
            // By the transaction, not by who wrote a cell: what gave way to another history is under this site's
            // versions, and its cells are still the former site's.
            for g in &mut record.row.meta.groups {
                if let Some(m) = moved.get(&g.stamp.db_version) {
                    g.stamp.col_version = m.col_version(g.stamp.col_version);
                }
            }
            self.apply_to_blocks(tbl, vec![(loc, Some(record))])?;
        }
        Ok(touched)
    }

    /// A row without a version at the end of the log: other connections see that they must read all again.
    pub fn mark_rewritten(&mut self) -> Result<()> {
        let mark = LogRow {
            lsn: self.tail.lsn + 1,
            db_version: self.tail.db_version,
            high: self.tail.high,
            ..LogRow::default()
        };
        self.write_log_row(&mark, &[])?;
        (self.tail.lsn, self.tail.chain) = (mark.lsn, 0);
        self.fold()?;
        self.txn.rows_stale = true;
        self.settle_rows()
    }

    /// Remembers to ask the server for a row.
    pub fn want(&self, (tbl, pk): &At) -> Result<()> {
        let mut put =
            self.db.prepare_transient("INSERT OR IGNORE INTO main.crsql_wanted(tbl, pk) VALUES (?1, ?2)")?;
        Ok(put.run(&[ValueRef::Integer(i64::from(*tbl)), ValueRef::Blob(pk)])?)
    }

    /// The rows that the server is to be asked for.
    pub fn rows_wanted(&self) -> Result<Vec<RowKey>> {
        if !self.ready {
            return Ok(Vec::new());
        }
        let mut q = self.db.prepare_transient("SELECT tbl, pk FROM main.crsql_wanted ORDER BY tbl, pk")?;
        let mut all = Vec::new();
        while q.step()? {
            let table = u32::try_from(q.column_int(0)).ok().and_then(|id| self.catalog.get(id));
            let Some(t) = table else { continue };
            all.push(RowKey { table: t.name.clone(), pk: q.column_blob(1).to_vec() });
        }
        Ok(all)
    }

    pub fn no_longer_wanted(&self, (tbl, pk): &At) -> Result<()> {
        let mut del =
            self.db.prepare_transient("DELETE FROM main.crsql_wanted WHERE tbl = ?1 AND pk = ?2")?;
        Ok(del.run(&[ValueRef::Integer(i64::from(*tbl)), ValueRef::Blob(pk)])?)
    }
}
