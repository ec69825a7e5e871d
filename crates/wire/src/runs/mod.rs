//! The stream of row records of one table: who wrote which cells, as runs.
//!
//! A record has a *shape* (causal length, whether there is a sentinel, and the column sets of its groups) and one
//! *slot* of numbers for the sentinel (slot 0) and for each group (slots 1, 2 ...): transaction, site, column
//! version, sequence number. A run is a number of rows of one shape that differ only in their sequence
//! numbers, which all grow by one *stride* from row to row. Each run says what is different from the run before:
//!
//! ```text
//! flags      one byte: 1 shape, 2 transactions, 4 sites, 8 column versions, 16 stride, 32 or 128 sequence (not
//!            both), 64 run
//! shape      if 1:  varint 0 and a definition, or n for the n-th numbered definition of this table
//! deltas     if 2, 4, 8: per slot in use the signed difference to the slot's last number; first all
//!            transactions, then all sites, then all column versions (the sentinel has none)
//! stride     if 16: signed, the new stride
//! sequence   per slot in use; if 32: the signed difference to (the slot's last number + stride); if 128: the
//!            number itself as a varint; if neither: the slot's last number + stride
//! count      if 64: rows of the run, less two; else the run is one row
//! ```
//!
//! A definition is varint cl, varint (groups << 1 | sentinel), and per group the set of its columns and the set
//! of its live ones, empty: all. A set is varint n and n bytes, bit i of byte b for column 8 * b + i, the
//! last byte not zero. Definitions of at most `SHAPE_BYTES_MAX` bytes are numbered, from 1. All slots and the stride start at 0.

mod read;
mod shape;
mod write;

pub(crate) use read::RunReader;
pub(crate) use write::RunWriter;

use rejoin_crdt::meta::Sentinel;

use crate::limits::{CL_MAX, VERSION_MAX};
use crate::record::{GroupRecord, RowRecord};

const SHAPE: u8 = 1;
const TRANSACTION: u8 = 2;
const SITE: u8 = 4;
const VERSION: u8 = 8;
const STRIDE: u8 = 16;
const SEQ: u8 = 32;
const RUN: u8 = 64;
/// Rows of a transaction that wrote them in no order: their numbers are shorter than the differences.
const SEQ_ITSELF: u8 = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Slot {
    transaction: i64,
    site: i64,
    version: i64,
    seq: i64,
}

/// What the numbers of a row may refer to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) transactions: usize,
    pub(crate) sites: usize,
    pub(crate) columns: usize,
    /// Rows may be absent: of cl 0, and with nothing else.
    pub(crate) absent: bool,
}

impl Bounds {
    /// Whether a row of this shape may have this causal length.
    fn allows(&self, cl: u64, is_bare: bool) -> bool {
        (1..=CL_MAX as u64).contains(&cl) || (cl == 0 && self.absent && is_bare)
    }
}

impl Bounds {
    /// What is wrong with the numbers of a slot; `cells` is how many sequence numbers it takes.
    #[inline]
    fn fault(&self, slot: &Slot, last_seq: i64, cells: u32) -> Option<&'static str> {
        let version = 0..=VERSION_MAX;
        let seqs = 0..=VERSION_MAX - i64::from(cells.max(1)) + 1;
        if usize::try_from(slot.transaction).map_or(true, |t| t >= self.transactions) {
            Some("a row of a transaction that is not listed")
        } else if usize::try_from(slot.site).map_or(true, |s| s >= self.sites) {
            Some("a row of a site that is not listed")
        } else if !version.contains(&slot.version) {
            Some("a column version out of range")
        } else if !seqs.contains(&slot.seq) || !seqs.contains(&last_seq) {
            Some("a sequence number out of range")
        } else {
            None
        }
    }
}

#[inline]
fn sentinel_slot(s: &Sentinel) -> Slot {
    Slot { transaction: s.db_version, site: i64::from(s.site), version: 0, seq: s.seq }
}

#[inline]
fn group_slot(g: &GroupRecord) -> Slot {
    Slot {
        transaction: g.stamp.db_version,
        site: i64::from(g.stamp.site),
        version: g.stamp.col_version,
        seq: g.seq,
    }
}

/// The slots in use with their numbers.
#[inline]
fn slots(record: &RowRecord) -> impl Iterator<Item = (usize, Slot)> + '_ {
    let sentinel = record.sentinel.iter().map(|s| (0, sentinel_slot(s)));
    sentinel.chain(record.groups.iter().enumerate().map(|(i, g)| (i + 1, group_slot(g))))
}
