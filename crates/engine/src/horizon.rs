//! Collection: forgetting what was deleted, and log rows of which nothing is left.
//!
//! The horizon is a version vector that everybody who matters has acknowledged. A tombstone goes when all that is known of
//! its row was written below the horizon; log rows below it of which nothing is left become ranges. Who is below somebody's
//! horizon (holds a part of it and lacks another) may know rows whose tombstones are gone: nothing is exchanged with it
//! ([`Error::BelowHorizon`]), it starts over from a snapshot. Who holds nothing of it has nothing that was deleted.
//!
//! The last row of the log stays: its id is where the next one counts on.

use crate::core::{Core, Header, LogRow, cached, read_log_head};
use crate::cut::{LOG, first_version};
use crate::error::{Error, Result};
use crate::log::Changes;
use crate::replica::Replica;
use crate::session::{Position, settled};
use crate::store::Loc;
use crate::{SiteId, VersionVector};
use rejoin_crdt::meta::RowMeta;
use rejoin_sqlite::{Db, ValueRef};
use rejoin_wire::Reader;
use std::collections::HashSet;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Deleted rows that are not remembered any more.
    pub tombstones: u64,
    /// Log rows that went into ranges.
    pub log_rows: u64,
}

/// A replica that syncs with this one, as its server notes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaNote {
    pub site: SiteId,
    /// It has acknowledged everything up to here.
    pub upto: Position,
    /// When it was last there, Unix milliseconds.
    pub seen_ms: i64,
}

impl Replica {
    /// Below this everything has been acknowledged by everybody who matters, and what was deleted is forgotten.
    pub fn horizon(&self) -> Result<VersionVector> {
        self.reading(|e| Ok(e.core()?.cfg.horizon.clone()))
    }

    /// Raises the horizon and forgets what is below it now. The caller answers for it that every replica whose changes are
    /// still to be taken has all of it. [`Error::BelowHorizon`] if this one has not.
    ///
    /// It reads all metadata of the file. Peers that exchange changes row by row are known to no vector: see
    /// [`Replica::exchanged_row_wise`].
    pub fn collect(&self, horizon: &VersionVector) -> Result<Collected> {
        if !self.engine.db.is_autocommit() {
            return Err(Error::State {
                why: "collection takes a transaction of its own: COMMIT first".into(),
            });
        }
        settled(&self.engine, |core| core.collect(horizon))
    }

    /// Whether changes were ever inserted into `crsql_changes` here, or the file came from cr-sqlite: somebody may pull
    /// changes by a cursor of its own, and would never hear of a deletion that is forgotten first.
    pub fn exchanged_row_wise(&self) -> Result<bool> {
        self.reading(|e| {
            let core = e.core()?;
            Ok(core.cfg.row_wise)
        })
    }

    /// Notes how much a replica has acknowledged, for [`Replica::acknowledged`].
    pub fn remember_replica(&self, note: &ReplicaNote) -> Result<()> {
        settled(&self.engine, |core| {
            if !has_replicas(core.db)? {
                core.db.exec(
                    "CREATE TABLE main.crsql_replicas(site BLOB PRIMARY KEY, upto INTEGER NOT NULL, \
                     seen_ms INTEGER NOT NULL) WITHOUT ROWID",
                )?;
                core.settle()?;
            }
            let mut put = core.db.prepare_transient(
                "REPLACE INTO main.crsql_replicas(site, upto, seen_ms) VALUES (?1, ?2, ?3)",
            )?;
            Ok(put.run(&[
                ValueRef::Blob(note.site.as_bytes()),
                ValueRef::Integer(note.upto.0),
                ValueRef::Integer(note.seen_ms),
            ])?)
        })
    }

    /// This replica will not be heard of again.
    pub fn forget_replica(&self, site: SiteId) -> Result<()> {
        settled(&self.engine, |core| {
            if !has_replicas(core.db)? {
                return Ok(());
            }
            let mut del = core.db.prepare_transient("DELETE FROM main.crsql_replicas WHERE site = ?1")?;
            Ok(del.run(&[ValueRef::Blob(site.as_bytes())])?)
        })
    }

    /// The replicas that were noted.
    pub fn replicas(&self) -> Result<Vec<ReplicaNote>> {
        self.reading(|e| e.core()?.replicas())
    }

    /// What all noted replicas have acknowledged that were seen since a time (Unix milliseconds); None: there are none.
    pub fn acknowledged(&self, seen_since_ms: i64) -> Result<Option<VersionVector>> {
        self.reading(|e| {
            let mut core = e.core()?;
            let seen = core.replicas()?.into_iter().filter(|r| r.seen_ms >= seen_since_ms);
            let Some(upto) = seen.map(|r| r.upto).min() else { return Ok(None) };
            let later = core.rows_after(upto.0)?;
            Ok(Some(core.vector.missing_from(&core.brought(&later))))
        })
    }
}

fn has_replicas(db: Db) -> Result<bool> {
    let mut q = db.prepare_transient("SELECT 1 FROM main.sqlite_schema WHERE name = 'crsql_replicas'")?;
    Ok(q.step()?)
}

/// One of the two is below the horizon of the other.
fn below(held: &VersionVector, horizon: &VersionVector, here: bool) -> Result<()> {
    let missing = horizon.missing_from(held);
    let first = missing.iter().find_map(|(site, r)| Some((site.to_string(), r.iter().next()?)));
    match first {
        Some((site, range)) if !held.common(horizon).is_empty() => {
            Err(Error::BelowHorizon { here, site, from: *range.start(), to: *range.end() })
        }
        _ => Ok(()),
    }
}

/// Neither side of a changeset may be below the horizon of the other.
pub fn check(core: &Core, reader: &Reader<'_>) -> Result<()> {
    below(&core.vector, reader.horizon(), true)?;
    if reader.is_tail() || core.cfg.horizon.is_empty() {
        return Ok(());
    }
    below(&reader.holds(), &core.cfg.horizon, false)
}

/// After a changeset to a replica that held nothing below its horizon.
pub fn take(core: &mut Core, horizon: &VersionVector) -> Result<()> {
    if core.vector.covers(horizon) { core.raise_horizon(horizon) } else { Ok(()) }
}

/// Which db_versions are below the horizon.
struct Below {
    /// Of all log rows, ascending.
    logged: Vec<i64>,
    /// Of those that stand for something above it.
    above: Vec<i64>,
}

impl Below {
    fn read(core: &Core, horizon: &VersionVector) -> Result<Below> {
        let mut below = Below { logged: Vec::new(), above: Vec::new() };
        let mut q = core.db.prepare_transient(&format!("{LOG} ORDER BY id"))?;
        while q.step()? {
            let row = read_log_head(&q)?;
            if row.header.version == 0 {
                continue;
            }
            if below.logged.last() != Some(&row.db_version) {
                below.logged.push(row.db_version);
            }
            let site = core.sites.id(row.header.site).unwrap_or_default();
            if !horizon.contains(&site, row.header.version) {
                below.above.push(row.db_version);
            }
        }
        Ok(below)
    }

    fn has(&self, db_version: i64) -> bool {
        self.logged.binary_search(&db_version).is_ok() && self.above.binary_search(&db_version).is_err()
    }

    /// Nobody needs this row's tombstone.
    fn is_done(&self, meta: &RowMeta) -> bool {
        !meta.is_alive()
            && meta.sentinel.is_none_or(|s| self.has(s.db_version))
            && meta.groups.iter().all(|g| self.has(g.stamp.db_version))
    }
}

/// The db_versions of which something is left.
#[derive(Default)]
struct Living {
    versions: HashSet<i64>,
    last: Option<i64>,
}

impl Living {
    fn add(&mut self, db_version: i64) {
        // Rows that were written together stand together.
        if self.last.replace(db_version) != Some(db_version) {
            self.versions.insert(db_version);
        }
    }

    fn add_row(&mut self, meta: &RowMeta) {
        meta.sentinel.iter().for_each(|s| self.add(s.db_version));
        meta.groups.iter().for_each(|g| self.add(g.stamp.db_version));
    }
}

/// A log row of which nothing is left.
struct Empty {
    lsn: i64,
    site: u32,
    first: u64,
    last: u64,
    /// It says so itself already.
    is_range: bool,
}

impl Core {
    /// Raises the horizon, which must be held here, and forgets what is below it.
    pub fn collect(&mut self, horizon: &VersionVector) -> Result<Collected> {
        let missing = horizon.missing_from(&self.vector);
        if let Some((site, range)) = missing.iter().find_map(|(s, r)| Some((s, r.iter().next()?))) {
            let (site, from, to) = (site.to_string(), *range.start(), *range.end());
            return Err(Error::BelowHorizon { here: true, site, from, to });
        }
        self.raise_horizon(horizon)?;
        // Metadata stands in the blocks from here on, and log rows only name rows.
        self.fold()?;
        let below = Below::read(self, &self.cfg.horizon)?;
        let mut living = Living::default();
        let mut collected = Collected::default();
        for t in self.catalog.sorted() {
            let mut gone = Vec::new();
            let mut look = |loc: Loc, meta: &RowMeta| {
                if below.is_done(meta) {
                    gone.push((loc, None));
                } else {
                    living.add_row(meta);
                }
            };
            let store = self.store(&t);
            if t.kind.has_rows() {
                store.scan_rows(i64::MIN, i64::MAX, |row, stored| {
                    look(Loc::Row(row), &stored.meta);
                    Ok(())
                })?;
            }
            if t.kind.has_keys() {
                store.scan_keys(&[], None, |entry| {
                    look(Loc::Key(entry.key.as_slice().into()), &entry.meta);
                    Ok(())
                })?;
            }
            collected.tombstones += gone.len() as u64;
            self.apply_to_blocks(t.id, gone)?;
        }
        collected.tombstones += self.collect_parked(&below, &mut living)?;
        collected.log_rows = self.collect_log(&living)?;
        Ok(collected)
    }

    /// Changes come in that are of no transaction of their writer's.
    pub fn note_row_wise(&mut self) -> Result<()> {
        if !self.cfg.row_wise {
            self.set_meta("row-wise", ValueRef::Integer(1))?;
            self.cfg.row_wise = true;
        }
        Ok(())
    }

    /// Notes a horizon; what is below it is the caller's affair.
    pub fn raise_horizon(&mut self, horizon: &VersionVector) -> Result<()> {
        if self.cfg.horizon.covers(horizon) {
            return Ok(());
        }
        self.cfg.horizon.merge(horizon);
        self.cfg.horizon_at = self.tail.lsn;
        let bytes = self.cfg.horizon.encode();
        self.set_meta("horizon", ValueRef::Blob(&bytes))?;
        self.set_meta("horizon_at", ValueRef::Integer(self.cfg.horizon_at))
    }

    /// What is not held any more is not below the horizon either; what was deleted there stays forgotten.
    pub fn lower_horizon(&mut self, gone: &VersionVector) -> Result<()> {
        let horizon = self.cfg.horizon.missing_from(gone);
        if horizon == self.cfg.horizon {
            return Ok(());
        }
        self.set_meta("horizon", ValueRef::Blob(&horizon.encode()))?;
        self.cfg.horizon = horizon;
        Ok(())
    }

    /// Deletions that wait for their table, and what else waits.
    fn collect_parked(&mut self, below: &Below, living: &mut Living) -> Result<u64> {
        let mut q = self.db.prepare_transient("SELECT id, col, cl, db_version FROM main.crsql_waiting")?;
        let mut gone = Vec::new();
        while q.step()? {
            let tombstone = q.column_int(1) < 0 && q.column_int(2) & 1 == 0;
            let db_version = q.column_int(3);
            if tombstone && below.has(db_version) {
                gone.push(q.column_int(0));
            } else {
                living.add(db_version);
            }
        }
        drop(q);
        gone.iter().try_for_each(|id| self.unpark(*id))?;
        Ok(gone.len() as u64)
    }

    /// Log rows below the horizon of which nothing is left become ranges.
    fn collect_log(&mut self, living: &Living) -> Result<u64> {
        let mut empty: Vec<Empty> = Vec::new();
        let mut kept: HashSet<(u32, u64)> = HashSet::new();
        let mut gone: Vec<i64> = Vec::new();
        if self.tail.lsn == 0 {
            return Ok(0);
        }
        let newest = self.log_row(self.tail.lsn)?.header;
        kept.insert((newest.site, newest.version));
        let mut q = self.db.prepare_transient(&format!("{LOG} WHERE id < ?1 ORDER BY id"))?;
        q.bind_int(1, self.tail.lsn)?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            let Header { site, version, .. } = row.header;
            let is_range = row.changes.empty_from.is_some();
            let id = self.sites.id(site).unwrap_or_default();
            // A range can name rows, too: those that an earlier version of its number left behind.
            let names = !is_range || row.changes.parked || !row.changes.tables.is_empty();
            let left = names && living.versions.contains(&row.db_version);
            if version == 0 && !left {
                gone.push(row.lsn);
                continue;
            }
            let first = first_version(&row);
            let mut all = VersionVector::new();
            all.insert_range(id, first..=version);
            if left || version == 0 || !self.cfg.horizon.covers(&all) {
                kept.insert((site, version));
            } else {
                empty.push(Empty { lsn: row.lsn, site, first, last: version, is_range });
            }
        }
        drop(q);
        // Of a transaction of several rows one is enough.
        empty.retain(|e| {
            let twice = kept.contains(&(e.site, e.last));
            if twice {
                gone.push(e.lsn);
            }
            !twice
        });
        empty.sort_by_key(|e| (e.site, e.last, e.lsn));
        let mut runs: Vec<Vec<Empty>> = Vec::new();
        for e in empty {
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|l| l.site == e.site && e.first <= l.last + 1) => {
                    run.push(e)
                }
                _ => runs.push(vec![e]),
            }
        }
        for run in &runs {
            let (Some(first), Some((last, rest))) = (run.iter().map(|e| e.first).min(), run.split_last())
            else {
                continue;
            };
            gone.extend(rest.iter().map(|e| e.lsn));
            if !last.is_range || first < last.first {
                self.empty_log_row(last.lsn, first)?;
            }
        }
        let mut del = self.db.prepare_transient("DELETE FROM main.crsql_log WHERE id = ?1")?;
        for lsn in &gone {
            del.run(&[ValueRef::Integer(*lsn)])?;
        }
        Ok(gone.len() as u64)
    }

    /// A log row stands for all versions from one to its own from here on.
    fn empty_log_row(&mut self, lsn: i64, first: u64) -> Result<()> {
        let mut row = self.log_row(lsn)?;
        row.changes = Changes { empty_from: Some(first), ..Changes::default() };
        let bytes = row.changes.encode(&row.base());
        self.write_log_row(&row, &bytes)
    }

    /// A log row without its changes.
    fn log_row(&mut self, lsn: i64) -> Result<LogRow> {
        let q = cached(
            &mut self.q.log_one,
            self.db,
            "SELECT id, db_version, site, version, clock, nonce, chain, high, x'' FROM main.crsql_log WHERE id = ?1",
        )?;
        let row = q.query_row(&[ValueRef::Integer(lsn)], |q| Ok(read_log_head(q)))?;
        row.ok_or_else(|| Error::damaged("a log row that was there"))?
    }

    fn replicas(&self) -> Result<Vec<ReplicaNote>> {
        let mut all = Vec::new();
        if !self.ready || !has_replicas(self.db)? {
            return Ok(all);
        }
        let mut q =
            self.db.prepare_transient("SELECT site, upto, seen_ms FROM main.crsql_replicas ORDER BY site")?;
        while q.step()? {
            let site =
                SiteId::from_slice(q.column_blob(0)).ok_or_else(|| Error::damaged("a noted replica"))?;
            all.push(ReplicaNote { site, upto: Position(q.column_int(1)), seen_ms: q.column_int(2) });
        }
        Ok(all)
    }
}
