//! One row and the merge of a change into it (rules 3.1 to 3.4).

use rejoin_crdt::merge::{self, Causal, SentinelRef, Verdict};
use rejoin_crdt::{SiteId, Value, key};
use std::collections::BTreeMap;

pub type ColId = u32;

/// Who wrote it and where it stands in the local order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Which local commit (or part of one) it came with: the log says whose transaction that is.
    pub batch: u64,
    pub db_version: i64,
    pub site: SiteId,
    pub seq: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    pub value: Value,
    pub col_version: i64,
    pub stamp: Stamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Row {
    /// The spelling of the key: the sentinel's, or as the first change of this life came.
    pub key: Vec<Value>,
    /// 0: unknown; odd: alive; even: deleted.
    pub cl: u32,
    pub sentinel: Option<Stamp>,
    /// Written cells, those of parked columns included.
    pub cells: BTreeMap<ColId, Cell>,
}

impl Row {
    pub fn is_alive(&self) -> bool {
        self.cl & 1 == 1
    }

    /// A new causal length: everything of older lives is forgotten.
    pub fn enter(&mut self, cl: u32, key: &[Value]) {
        *self = Row { key: key.to_vec(), cl, ..Row::default() };
    }

    /// Merges a sentinel; true if it was stored.
    pub fn merge_sentinel(&mut self, cl: u32, key: &[Value], stamp: Stamp, equal: bool) -> bool {
        match merge::causal(self.cl, cl) {
            Causal::Stale => return false,
            Causal::Same => {
                let (mine, theirs) = (packed(&self.key), packed(key));
                let local = self.sentinel.as_ref().map(|s| SentinelRef { key: &mine, site: &s.site });
                let incoming = SentinelRef { key: &theirs, site: &stamp.site };
                if merge::sentinel(local, incoming, equal) == Verdict::Lose {
                    return false;
                }
                self.key = key.to_vec();
            }
            Causal::Delete | Causal::Create | Causal::Resurrect => self.enter(cl, key),
        }
        self.sentinel = Some(stamp);
        true
    }

    /// Merges a cell; true if it was stored.
    pub fn merge_cell(&mut self, cl: u32, key: &[Value], col: ColId, cell: Cell, equal: bool) -> bool {
        match merge::causal(self.cl, cl) {
            Causal::Stale => return false,
            Causal::Same => {}
            // A cell says that the row lives, but not who revived it: that is the sentinel's.
            Causal::Delete | Causal::Create | Causal::Resurrect => self.enter(cl, key),
        }
        let old = self.cells.get(&col);
        let verdict = merge::by_version(old.map(|c| c.col_version), cell.col_version).or_else(|| {
            let old = old?;
            let (local, incoming) = (old.value.as_ref(), cell.value.as_ref());
            Some(merge::by_value(local, &old.stamp.site, incoming, &cell.stamp.site, equal))
        });
        let stored = matches!(verdict, Some(Verdict::Win | Verdict::TakeStamp));
        if stored {
            self.cells.insert(col, cell);
        }
        stored
    }

    /// Merges everything of `other`, whose columns are called by `rename` here.
    pub fn absorb(&mut self, other: &Row, rename: &dyn Fn(ColId) -> ColId, equal: bool) {
        if let Some(stamp) = other.sentinel {
            self.merge_sentinel(other.cl, &other.key, stamp, equal);
        }
        for (col, cell) in &other.cells {
            self.merge_cell(other.cl, &other.key, rename(*col), cell.clone(), equal);
        }
    }

    /// Two columns turned out to be one.
    pub fn unite(&mut self, from: ColId, to: ColId, equal: bool) {
        if let Some(cell) = self.cells.remove(&from) {
            let (cl, key) = (self.cl, self.key.clone());
            self.merge_cell(cl, &key, to, cell, equal);
        }
    }

    /// A column was dropped here. A row that loses its last cell keeps that cell's stamp as sentinel, or a new
    /// peer would never hear of it.
    pub fn forget(&mut self, col: ColId) {
        let Some(cell) = self.cells.remove(&col) else {
            return;
        };
        if self.cells.is_empty() && self.sentinel.is_none() {
            self.sentinel = Some(cell.stamp);
        }
    }
}

pub fn packed(key: &[Value]) -> Vec<u8> {
    key::pack(key.iter().map(Value::as_ref)).expect("a key of the model has few columns")
}
