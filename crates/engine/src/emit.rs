//! What local writes do to the metadata of a row (rules 3.1 to 3.3), with the numbers that they take.

use crate::catalog::Table;
use rejoin_crdt::hlc;
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};

/// The numbers of the open transaction.
#[derive(Clone, Copy, Debug)]
pub struct Emit {
    pub db_version: i64,
    pub site: u32,
    pub clock: i64,
    pub lamport: bool,
    /// The next sequence number.
    pub seq: i64,
    /// The largest col_version given out or merged.
    pub high: i64,
}

impl Emit {
    fn sentinel(&mut self) -> Sentinel {
        let s = Sentinel { db_version: self.db_version, site: self.site, seq: self.seq };
        self.seq += 1;
        s
    }

    /// A row was inserted, or (`replaced`) put in the place of a living one. `spelled`: its key is not spelled in the
    /// identity form; that must travel, and a sentinel carries it.
    pub fn born(&mut self, t: &Table, meta: &mut RowMeta, spelled: bool, replaced: bool) {
        if replaced {
            if t.cols.is_empty() {
                return;
            }
            // cr-sqlite counts a sentinel that it does not write; programs compare the numbers.
            self.seq += 1;
        } else {
            let known = meta.cl > 0;
            meta.cl += 1;
            meta.groups.clear();
            meta.sentinel = (known || t.cols.is_empty() || spelled).then(|| self.sentinel());
        }
        self.wrote(t, meta, &t.col_set);
    }

    /// A row was deleted. False: it was dead already.
    pub fn died(&mut self, meta: &mut RowMeta) -> bool {
        if meta.cl > 0 && !meta.is_alive() {
            return false;
        }
        meta.cl = if meta.cl == 0 { 2 } else { meta.cl + 1 };
        meta.groups.clear();
        meta.sentinel = Some(self.sentinel());
        true
    }

    /// Cells were written.
    pub fn wrote(&mut self, t: &Table, meta: &mut RowMeta, cols: &ColSet) {
        if cols.is_empty() {
            return;
        }
        let (db_version, site) = (self.db_version, self.site);
        let fresh = meta.groups.is_empty();
        // Every version in a group is the group's: no need to look at the columns one by one.
        let newest = meta.groups.iter().map(|g| g.stamp.col_version).max().unwrap_or(0);
        if t.ordered && (fresh || (!self.lamport && newest < self.clock)) {
            let col_version = if self.lamport { 1 } else { self.clock };
            meta.write(cols.clone(), Stamp { col_version, db_version, site }, self.seq);
            self.seq += i64::from(cols.len());
            self.high = self.high.max(col_version);
            return;
        }
        for col in t.cols.iter().filter(|c| cols.contains(c.id)) {
            let previous = meta.cell(col.id).map_or(0, |c| c.0.col_version);
            let col_version = if self.lamport { previous + 1 } else { hlc::for_cell(previous, self.clock) };
            meta.write(ColSet::single(col.id), Stamp { col_version, db_version, site }, self.seq);
            self.seq += 1;
            self.high = self.high.max(col_version);
        }
    }
}
