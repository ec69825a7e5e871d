//! What a changeset says, in memory.

use rejoin_crdt::SiteId;
use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};
use smallvec::SmallVec;

/// Who made the changeset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub site: SiteId,
    /// None: the sender has never synced with a room.
    pub lineage: Option<[u8; 16]>,
}

/// One transaction of the cut. Rows name it by its index in the changeset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Index of the site that committed it.
    pub origin: u32,
    /// Place in the dense count of that site's transactions, from 1.
    pub version: u64,
    pub clock: i64,
    pub nonce: u64,
    pub chain: u64,
    /// Made of cells that came in row by row and kept their own stamps.
    pub relay: bool,
    /// The sender's local version of it; informative.
    pub db_version: i64,
}

/// Versions `from..=to` of a site that are held but have no visible cell any more; also a part of the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmptyRange {
    pub site: u32,
    pub from: u64,
    pub to: u64,
    /// The chain hash of version `to`.
    pub chain: u64,
}

/// Columns written together. The n-th column of `cols` has sequence number `seq + n`; the changeset carries
/// the cells of `live`, the others were overwritten later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRecord {
    pub cols: ColSet,
    /// Not empty, within `cols`, apart from the `live` of every other group of the row.
    pub live: ColSet,
    pub stamp: Stamp,
    pub seq: i64,
}

/// What a changeset says of one row: in `stamp`s and sentinel, `db_version` is the index of the transaction and
/// `site` that of the site in the changeset; columns are indexes into the table's list of columns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowRecord {
    /// Causal length: odd = alive, even = deleted; never 0.
    pub cl: u32,
    /// Only if a transaction of this changeset wrote it.
    pub sentinel: Option<Sentinel>,
    pub groups: SmallVec<[GroupRecord; 2]>,
}

impl RowRecord {
    /// The columns whose cells the changeset carries; the values follow in this order.
    pub fn live(&self) -> ColSet {
        let mut all = ColSet::EMPTY;
        self.groups.iter().for_each(|g| all.union_with(&g.live));
        all
    }

    /// The stamp and sequence number of a cell that the changeset carries.
    pub fn cell(&self, col: u32) -> Option<(Stamp, i64)> {
        let group = self.groups.iter().find(|g| g.live.contains(col))?;
        Some((group.stamp, group.seq + i64::from(group.cols.rank(col))))
    }

    pub(crate) fn same_shape(&self, other: &RowRecord) -> bool {
        self.cl == other.cl
            && self.sentinel.is_some() == other.sentinel.is_some()
            && self.groups.len() == other.groups.len()
            && self.groups.iter().zip(&other.groups).all(|(a, b)| a.cols == b.cols && a.live == b.live)
    }
}
