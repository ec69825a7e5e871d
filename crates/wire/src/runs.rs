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

use std::collections::HashMap;

use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};

use crate::error::{Error, Result};
use crate::limits::{CL_MAX, SHAPE_BYTES_MAX, VERSION_MAX};
use crate::record::{GroupRecord, RowRecord};
use crate::varint::{self, Input};

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
    Slot {
        transaction: s.db_version,
        site: i64::from(s.site),
        version: 0,
        seq: s.seq,
    }
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
    sentinel.chain(
        record
            .groups
            .iter()
            .enumerate()
            .map(|(i, g)| (i + 1, group_slot(g))),
    )
}

#[derive(Debug, Default)]
pub(crate) struct RunWriter {
    out: Vec<u8>,
    shapes: HashMap<Box<[u8]>, u64>,
    /// The slots and the stride as a reader has them after the runs written so far.
    state: Vec<Slot>,
    stride: i64,
    /// The first row of the run being gathered.
    first: RowRecord,
    shape_is_new: bool,
    count: u64,
    run_stride: i64,
    live: Vec<u32>,
}

impl RunWriter {
    /// The live columns of the row pushed last, ascending.
    pub(crate) fn live(&self) -> &[u32] {
        &self.live
    }

    #[inline]
    pub(crate) fn push(&mut self, record: &RowRecord, bounds: &Bounds) -> Result<()> {
        let same_shape = self.count > 0 && record.same_shape(&self.first);
        if !same_shape {
            check_shape(record, bounds)?;
        }
        let fault = slots(record).find_map(|(i, slot)| {
            let cells = i
                .checked_sub(1)
                .and_then(|g| record.groups.get(g))
                .map_or(1, |g| g.cols.len());
            bounds.fault(&slot, slot.seq, cells)
        });
        if let Some(what) = fault {
            return Err(Error::Invalid { what });
        }
        if same_shape && self.extends_run(record) {
            self.count += 1;
            return Ok(());
        }
        self.flush();
        self.count = 1;
        if same_shape {
            self.shape_is_new = false;
            self.first.sentinel = record.sentinel;
            for (mine, new) in self.first.groups.iter_mut().zip(&record.groups) {
                (mine.stamp, mine.seq) = (new.stamp, new.seq);
            }
        } else {
            self.shape_is_new = true;
            self.first.clone_from(record);
            self.live.clear();
            self.live.extend(record.live().iter());
        }
        Ok(())
    }

    /// Whether the row is the next of the run; the second row sets the stride.
    #[inline]
    fn extends_run(&mut self, record: &RowRecord) -> bool {
        let mut stride = (self.count > 1).then_some(self.run_stride);
        for ((_, a), (_, b)) in slots(&self.first).zip(slots(record)) {
            if (a.transaction, a.site, a.version) != (b.transaction, b.site, b.version) {
                return false;
            }
            let grown = b.seq - a.seq;
            let step = *stride.get_or_insert(grown);
            if step.checked_mul(self.count as i64) != Some(grown) {
                return false;
            }
        }
        self.run_stride = stride.unwrap_or(0);
        true
    }

    fn flush(&mut self) {
        if self.count == 2 && self.run_stride != self.stride {
            // Two rows that merely follow one another; a stride of their own would not pay.
            self.count = 1;
            self.flush_run();
            self.first
                .sentinel
                .iter_mut()
                .for_each(|s| s.seq += self.run_stride);
            self.first
                .groups
                .iter_mut()
                .for_each(|g| g.seq += self.run_stride);
            self.shape_is_new = false;
            self.count = 1;
        }
        if self.count > 0 {
            self.flush_run();
        }
    }

    fn flush_run(&mut self) {
        let slots_len = self.first.groups.len() + 1;
        if self.state.len() < slots_len {
            self.state.resize(slots_len, Slot::default());
        }
        let mut flags = if self.shape_is_new { SHAPE } else { 0 };
        if self.count > 1 {
            flags |= RUN;
            if self.run_stride != self.stride {
                self.stride = self.run_stride;
                flags |= STRIDE;
            }
        }
        let (mut differences, mut itself) = (0, 0);
        for (i, new) in slots(&self.first) {
            let old = self.state.get(i).copied().unwrap_or_default();
            flags |= if new.transaction != old.transaction {
                TRANSACTION
            } else {
                0
            };
            flags |= if new.site != old.site { SITE } else { 0 };
            flags |= if new.version != old.version {
                VERSION
            } else {
                0
            };
            let expected = old.seq.wrapping_add(self.stride);
            flags |= if new.seq != expected { SEQ } else { 0 };
            differences += varint::size(varint::zigzag(new.seq.wrapping_sub(expected)));
            itself += varint::size(new.seq as u64);
        }
        if flags & SEQ != 0 && itself < differences {
            flags ^= SEQ | SEQ_ITSELF;
        }
        self.put_run(flags);
        let grown = self.stride * (self.count as i64 - 1);
        for (i, mut slot) in slots(&self.first) {
            slot.seq += if flags & RUN != 0 { grown } else { 0 };
            if let Some(old) = self.state.get_mut(i) {
                *old = slot;
            }
        }
        self.count = 0;
    }

    fn put_run(&mut self, flags: u8) {
        self.out.push(flags);
        if flags & SHAPE != 0 {
            put_shape(&self.first, &mut self.shapes, &mut self.out);
        }
        let out = &mut self.out;
        let (first, state) = (&self.first, &self.state);
        let pairs =
            || slots(first).map(|(i, new)| (i, new, state.get(i).copied().unwrap_or_default()));
        if flags & TRANSACTION != 0 {
            pairs().for_each(|(_, new, old)| {
                varint::put_signed(out, new.transaction - old.transaction)
            });
        }
        if flags & SITE != 0 {
            pairs().for_each(|(_, new, old)| varint::put_signed(out, new.site - old.site));
        }
        if flags & VERSION != 0 {
            let groups = pairs().filter(|(i, _, _)| *i > 0);
            groups.for_each(|(_, new, old)| varint::put_signed(out, new.version - old.version));
        }
        if flags & STRIDE != 0 {
            varint::put_signed(out, self.stride);
        }
        if flags & SEQ != 0 {
            let stride = self.stride;
            pairs().for_each(|(_, new, old)| {
                varint::put_signed(out, new.seq.wrapping_sub(old.seq.wrapping_add(stride)));
            });
        }
        if flags & SEQ_ITSELF != 0 {
            pairs().for_each(|(_, new, _)| varint::put(out, new.seq as u64));
        }
        if flags & RUN != 0 {
            varint::put(out, self.count - 2);
        }
    }

    pub(crate) fn finish(&mut self) -> &[u8] {
        self.flush();
        &self.out
    }
}

fn check_shape(record: &RowRecord, bounds: &Bounds) -> Result<()> {
    let mut seen = ColSet::EMPTY;
    for group in &record.groups {
        if let Some(what) = group_fault(group, &mut seen, bounds) {
            return Err(Error::Invalid { what });
        }
    }
    if !(1..=CL_MAX).contains(&i64::from(record.cl)) {
        return Err(Error::Invalid {
            what: "a causal length out of range",
        });
    }
    Ok(())
}

/// What is wrong with the sets of a group, given the live columns of the groups before it.
fn group_fault(group: &GroupRecord, seen: &mut ColSet, bounds: &Bounds) -> Option<&'static str> {
    if group
        .cols
        .iter()
        .last()
        .is_none_or(|id| id as usize >= bounds.columns)
    {
        return Some("a group without columns, or of a column that is not listed");
    }
    if group.live.is_empty() || !group.live.minus(&group.cols).is_empty() {
        return Some("live columns outside their group, or none");
    }
    if !seen.intersect(&group.live).is_empty() {
        return Some("a cell in two groups");
    }
    seen.union_with(&group.live);
    None
}

fn put_shape(record: &RowRecord, shapes: &mut HashMap<Box<[u8]>, u64>, out: &mut Vec<u8>) {
    let mut definition = Vec::with_capacity(16);
    varint::put(&mut definition, u64::from(record.cl));
    let sentinel = u64::from(record.sentinel.is_some());
    varint::put(
        &mut definition,
        (record.groups.len() as u64) << 1 | sentinel,
    );
    for group in &record.groups {
        put_set(&group.cols, &mut definition);
        if group.live == group.cols {
            definition.push(0);
        } else {
            put_set(&group.live, &mut definition);
        }
    }
    if let Some(&number) = shapes.get(definition.as_slice()) {
        varint::put(out, number);
        return;
    }
    out.push(0);
    out.extend_from_slice(&definition);
    if definition.len() <= SHAPE_BYTES_MAX {
        let number = shapes.len() as u64 + 1;
        shapes.insert(definition.into_boxed_slice(), number);
    }
}

fn put_set(set: &ColSet, out: &mut Vec<u8>) {
    let bits: Vec<u8> = set.words().flat_map(u64::to_le_bytes).collect();
    let len = bits
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    varint::put_bytes(out, bits.get(..len).unwrap_or_default());
}

fn read_set(input: &mut Input<'_>) -> Result<ColSet> {
    let bits = input.sized()?;
    if bits.last() == Some(&0) || bits.len() > ColSet::ID_LIMIT as usize / 8 {
        return Err(Error::Malformed {
            what: "a column set is too long",
        });
    }
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
    if bits.len() <= 8 {
        return Ok(ColSet::from_low(word(bits)));
    }
    let words: Vec<u64> = bits.chunks(8).map(word).collect();
    Ok(ColSet::from_words(&words))
}

#[derive(Debug, Default)]
pub(crate) struct RunReader<'a> {
    whole: Input<'a>,
    input: Input<'a>,
    bounds: Bounds,
    /// Where in `whole` the numbered definitions are.
    shapes: Vec<u32>,
    state: Vec<Slot>,
    stride: i64,
    /// Rows of the run that are still to come.
    left: u64,
    record: RowRecord,
    live: Vec<u32>,
}

impl<'a> RunReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], bounds: Bounds) -> RunReader<'a> {
        let input = Input::new(bytes);
        RunReader {
            whole: input,
            input,
            bounds,
            ..RunReader::default()
        }
    }

    pub(crate) fn record(&self) -> &RowRecord {
        &self.record
    }

    /// The columns of the row that carry a value, ascending.
    pub(crate) fn live(&self) -> &[u32] {
        &self.live
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.left == 0 && self.input.is_empty()
    }

    /// Goes to the next row, of at most `rows_left` that are still to come.
    #[inline]
    pub(crate) fn advance(&mut self, rows_left: u64) -> Result<()> {
        if self.left == 0 {
            return self.run(rows_left);
        }
        self.left -= 1;
        // The ends of the run were checked when it began, so nothing overflows on the way.
        if let Some(s) = &mut self.record.sentinel {
            s.seq += self.stride;
        }
        for g in &mut self.record.groups {
            g.seq += self.stride;
        }
        if self.left == 0 {
            self.save_seqs();
        }
        Ok(())
    }

    fn save_seqs(&mut self) {
        for (i, slot) in slots(&self.record) {
            if let Some(old) = self.state.get_mut(i) {
                old.seq = slot.seq;
            }
        }
    }

    /// Reads a run up to its first row.
    fn run(&mut self, rows_left: u64) -> Result<()> {
        let flags = self.input.byte()?;
        if flags & SEQ != 0 && flags & SEQ_ITSELF != 0 {
            return Err(Error::Malformed {
                what: "a run with two kinds of sequence numbers",
            });
        }
        if flags & SHAPE != 0 {
            self.shape()?;
        } else if self.record.cl == 0 {
            return Err(Error::Malformed {
                what: "the first run of a table has no shape",
            });
        }
        self.numbers(flags)?;
        let count = if flags & RUN != 0 {
            self.input.varint()?.saturating_add(2)
        } else {
            1
        };
        if count > rows_left {
            return Err(Error::Malformed {
                what: "a run of more rows than the table has",
            });
        }
        self.fill(count)?;
        self.left = count - 1;
        Ok(())
    }

    fn shape(&mut self) -> Result<()> {
        let number = self.input.varint()?;
        if let Some(index) = number.checked_sub(1) {
            let start = usize::try_from(index).ok().and_then(|i| self.shapes.get(i));
            let start = start.ok_or(Error::Malformed {
                what: "a shape that was not defined",
            })?;
            let mut definition = self.whole;
            definition.take(*start as usize)?;
            read_shape(&mut definition, &self.bounds, &mut self.record)?;
        } else {
            let before = self.input.len();
            read_shape(&mut self.input, &self.bounds, &mut self.record)?;
            if before - self.input.len() <= SHAPE_BYTES_MAX {
                self.shapes.push((self.whole.len() - before) as u32);
            }
        }
        self.live.clear();
        self.live.extend(self.record.live().iter());
        let slots_len = self.record.groups.len() + 1;
        if self.state.len() < slots_len {
            self.state.resize(slots_len, Slot::default());
        }
        Ok(())
    }

    /// Brings the slots in use up to the first row of the run.
    fn numbers(&mut self, flags: u8) -> Result<()> {
        let first = usize::from(self.record.sentinel.is_none());
        let used = self
            .state
            .get_mut(first..=self.record.groups.len())
            .unwrap_or_default();
        if flags & TRANSACTION != 0 {
            used.iter_mut()
                .try_for_each(|slot| add(&mut slot.transaction, self.input.signed()?))?;
        }
        if flags & SITE != 0 {
            used.iter_mut()
                .try_for_each(|slot| add(&mut slot.site, self.input.signed()?))?;
        }
        if flags & VERSION != 0 {
            let mut groups = used.iter_mut().skip(1 - first);
            groups.try_for_each(|slot| add(&mut slot.version, self.input.signed()?))?;
        }
        if flags & STRIDE != 0 {
            self.stride = self.input.signed()?;
        }
        for slot in used {
            if flags & SEQ_ITSELF != 0 {
                slot.seq = i64::try_from(self.input.varint()?).map_err(|_| OVERFLOW)?;
                continue;
            }
            add(&mut slot.seq, self.stride)?;
            if flags & SEQ != 0 {
                add(&mut slot.seq, self.input.signed()?)?;
            }
        }
        Ok(())
    }

    /// Puts the numbers of the slots into the record, once first and last row of the run are seen to be right.
    fn fill(&mut self, count: u64) -> Result<()> {
        let (bounds, state) = (self.bounds, &self.state);
        let grown = i64::try_from(count - 1)
            .ok()
            .and_then(|n| self.stride.checked_mul(n));
        let checked = |i: usize, cells: u32| {
            let slot = state.get(i).copied().unwrap_or_default();
            let last = grown
                .and_then(|g| slot.seq.checked_add(g))
                .ok_or(OVERFLOW)?;
            match bounds.fault(&slot, last, cells) {
                Some(what) => Err(Error::Malformed { what }),
                None => Ok(slot),
            }
        };
        if let Some(s) = &mut self.record.sentinel {
            let slot = checked(0, 1)?;
            *s = Sentinel {
                db_version: slot.transaction,
                site: slot.site as u32,
                seq: slot.seq,
            };
        }
        for (i, g) in self.record.groups.iter_mut().enumerate() {
            let slot = checked(i + 1, g.cols.len())?;
            g.stamp = Stamp {
                col_version: slot.version,
                db_version: slot.transaction,
                site: slot.site as u32,
            };
            g.seq = slot.seq;
        }
        Ok(())
    }
}

const OVERFLOW: Error = Error::Malformed {
    what: "a number of a run overflows",
};

#[inline]
fn add(number: &mut i64, delta: i64) -> Result<()> {
    *number = number.checked_add(delta).ok_or(OVERFLOW)?;
    Ok(())
}

/// Reads a definition into the record; its numbers are left to be filled in.
fn read_shape(input: &mut Input<'_>, bounds: &Bounds, record: &mut RowRecord) -> Result<()> {
    const STAMP: Stamp = Stamp {
        col_version: 0,
        db_version: 0,
        site: 0,
    };
    let cl = input.varint()?;
    if !(1..=CL_MAX as u64).contains(&cl) {
        return Err(Error::Malformed {
            what: "a causal length out of range",
        });
    }
    record.cl = cl as u32;
    let head = input.varint()?;
    record.sentinel = (head & 1 == 1).then_some(Sentinel {
        db_version: 0,
        site: 0,
        seq: 0,
    });
    record.groups.clear();
    let mut seen = ColSet::EMPTY;
    // Each group adds at least one column of the table to `seen`, so there are never more than columns.
    for _ in 0..head >> 1 {
        let cols = read_set(input)?;
        let live = read_set(input)?;
        let live = if live.is_empty() { cols.clone() } else { live };
        let group = GroupRecord {
            cols,
            live,
            stamp: STAMP,
            seq: 0,
        };
        if let Some(what) = group_fault(&group, &mut seen, bounds) {
            return Err(Error::Malformed { what });
        }
        record.groups.push(group);
    }
    Ok(())
}
