//! Gathering rows into runs and writing them.

use std::collections::HashMap;

use super::shape::{check_shape, put_shape};
use super::{Bounds, RUN, SEQ, SEQ_ITSELF, SHAPE, SITE, STRIDE, Slot, TRANSACTION, VERSION, slots};
use crate::error::{Error, Result};
use crate::record::RowRecord;
use crate::varint;

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
            let cells = i.checked_sub(1).and_then(|g| record.groups.get(g)).map_or(1, |g| g.cols.len());
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
            self.first.sentinel.iter_mut().for_each(|s| s.seq += self.run_stride);
            self.first.groups.iter_mut().for_each(|g| g.seq += self.run_stride);
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
            flags |= if new.transaction != old.transaction { TRANSACTION } else { 0 };
            flags |= if new.site != old.site { SITE } else { 0 };
            flags |= if new.version != old.version { VERSION } else { 0 };
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
        let pairs = || slots(first).map(|(i, new)| (i, new, state.get(i).copied().unwrap_or_default()));
        if flags & TRANSACTION != 0 {
            pairs().for_each(|(_, new, old)| varint::put_signed(out, new.transaction - old.transaction));
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
