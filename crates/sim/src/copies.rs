//! Copies of a file, forks and rollbacks; collection of tombstones and peers that come too late for it.

use crate::exchange::NativeChange;
use crate::replica::{Entry, Replica};
use crate::row::{Row, Stamp};
use crate::schema::Named;
use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use std::collections::BTreeMap;

/// What two replicas learn from each other's handshakes before they exchange anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meeting {
    Fine,
    /// Two histories of `site` that part after version `common`; `gives_way` is the side that must yield.
    Fork {
        site: SiteId,
        common: u64,
        gives_way: Side,
    },
    /// The other knows more of this side's own site than it does itself.
    RolledBack(Side),
    /// This side's vector does not cover the other's horizon: it starts over from a snapshot.
    BelowHorizon(Side),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
}

impl Replica {
    /// A copy of this database under an id of its own.
    pub fn copy_as(&self, site: SiteId) -> Replica {
        Replica { site, ..self.clone() }
    }

    /// A new id for this replica, which keeps its data.
    pub fn take_new_id(&mut self, site: SiteId) {
        self.site = site;
    }

    pub fn meet(left: &Replica, right: &Replica) -> Meeting {
        for ((site, version), mine) in &left.hashes {
            if let Some(theirs) = right.hashes.get(&(*site, *version)).filter(|theirs| *theirs != mine) {
                let gives_way = if mine < theirs { Side::Left } else { Side::Right };
                return Meeting::Fork { site: *site, common: version - 1, gives_way };
            }
        }
        for (side, one, other) in [(Side::Left, left, right), (Side::Right, right, left)] {
            if other.vector.max(&one.site) > one.vector.max(&one.site) {
                return Meeting::RolledBack(side);
            }
            if !one.vector.covers(&other.horizon) {
                return Meeting::BelowHorizon(side);
            }
        }
        if left.site == right.site {
            // Copies that have not parted yet: either may go on as somebody else.
            return Meeting::RolledBack(Side::Right);
        }
        Meeting::Fine
    }

    /// Gives way in a fork (finding 13): what it has of `site` after `common` becomes a relay transaction of
    /// its own, under `new_id` if the site is its own. The caller then exchanges.
    pub fn give_way(&mut self, site: SiteId, common: u64, new_id: SiteId, nonce: u64) {
        if self.site == site {
            self.take_new_id(new_id);
        }
        let forked = |e: &Entry| e.site == site && e.version > common;
        let gone: Vec<Entry> = self.log.iter().copied().filter(forked).collect();
        self.log.retain(|e| !forked(e));
        let mut dropped = VersionVector::new();
        dropped.insert_range(site, common + 1..=u64::MAX);
        self.vector = self.vector.missing_from(&dropped);
        self.hashes.retain(|(s, version), _| *s != site || *version <= common);
        self.nonces.retain(|(s, version), _| *s != site || *version <= common);
        let db_version = self.db_version + 1;
        let mut moved = false;
        let batch = self.batches + 1;
        let mut restamp = |stamp: &mut Stamp| {
            if gone.iter().any(|e| e.batch == stamp.batch) {
                (stamp.batch, stamp.db_version) = (batch, db_version);
                moved = true;
            }
        };
        for row in self.tables.values_mut().flat_map(|t| t.rows.values_mut()) {
            row.sentinel.iter_mut().for_each(&mut restamp);
            row.cells.values_mut().for_each(|c| restamp(&mut c.stamp));
        }
        if moved {
            self.batches = batch;
            self.log_own(batch, nonce);
            self.db_version = db_version;
        }
    }

    pub fn horizon(&self) -> &VersionVector {
        &self.horizon
    }

    /// Forgets tombstones and log entries below a horizon that every known replica has acknowledged.
    pub fn collect(&mut self, horizon: &VersionVector) {
        if self.horizon.covers(horizon) {
            return;
        }
        self.horizon.merge(horizon);
        let kept: Vec<Entry> = self.log.iter().copied().filter(|e| !self.below(e)).collect();
        let needed = |row: &Row| {
            let at = row.sentinel.map_or(0, |s| s.batch);
            row.is_alive() || kept.iter().any(|e| e.batch == at)
        };
        self.tables.values_mut().for_each(|t| t.rows.retain(|_, row| needed(row)));
        self.log = kept;
    }

    fn below(&self, e: &Entry) -> bool {
        self.horizon.contains(&e.site, e.version)
    }

    /// A replica below the horizon of `snapshot` starts over from it under `new_id`; what it has that the
    /// snapshot lacks is replayed in one relay transaction (finding 12).
    pub fn start_over(&mut self, snapshot: &Replica, new_id: SiteId, nonce: u64) {
        let unsent = self.unsent(&snapshot.vector);
        let replay: Vec<NativeChange> = unsent.into_iter().filter(|c| self.survives(c, snapshot)).collect();
        let mut fresh = snapshot.copy_as(new_id);
        (fresh.clock, fresh.now_ms) = (self.clock, self.now_ms);
        fresh.largest = fresh.largest.max(self.largest);
        let db_version = fresh.db_version + 1;
        if replay.iter().filter(|c| fresh.merge_native(c, db_version)).count() > 0 {
            fresh.batches += 1;
            fresh.log_own(fresh.batches, nonce);
            fresh.db_version = db_version;
        }
        *self = fresh;
    }

    fn unsent(&self, theirs: &VersionVector) -> Vec<NativeChange> {
        self.cut_for(theirs).txs.into_iter().flat_map(|tx| tx.changes).collect()
    }

    /// An unsent change is replayed if the snapshot knows its row, or if the whole life of the row is unsent.
    fn survives(&self, change: &NativeChange, snapshot: &Replica) -> bool {
        let row = |r: &Replica| -> Option<(u32, Row)> {
            let t = r.tables.values().find(|t| !t.names().is_disjoint(&change.table.names))?;
            let row = t.rows.get(&t.identity(&change.key))?.clone();
            Some((row.cl, row))
        };
        if row(snapshot).is_some_and(|(cl, _)| cl > 0) {
            return true;
        }
        let sent = |at: u64| {
            let unsent = |e: &Entry| !snapshot.vector.contains(&e.site, e.version);
            !self.log.iter().any(|e| e.batch == at && unsent(e))
        };
        row(self).is_some_and(|(_, row)| {
            let sentinel = row.sentinel.map(|s| s.batch);
            let stamps: BTreeMap<u64, ()> =
                row.cells.values().map(|c| c.stamp.batch).chain(sentinel).map(|v| (v, ())).collect();
            row.is_alive() && !stamps.keys().any(|v| sent(*v))
        })
    }
}
