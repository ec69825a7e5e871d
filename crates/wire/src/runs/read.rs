//! Reading runs, row by row.

use rejoin_crdt::meta::{Sentinel, Stamp};

use super::shape::read_shape;
use super::{Bounds, RUN, SEQ, SEQ_ITSELF, SHAPE, SITE, STRIDE, Slot, TRANSACTION, VERSION, slots};
use crate::error::{Error, Result};
use crate::limits::SHAPE_BYTES_MAX;
use crate::record::RowRecord;
use crate::varint::Input;

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
    /// There was a run before.
    shaped: bool,
    live: Vec<u32>,
}

impl<'a> RunReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], bounds: Bounds) -> RunReader<'a> {
        let input = Input::new(bytes);
        RunReader { whole: input, input, bounds, ..RunReader::default() }
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
            return Err(Error::Malformed { what: "a run with two kinds of sequence numbers" });
        }
        if flags & SHAPE != 0 {
            self.shape()?;
        } else if !self.shaped {
            return Err(Error::Malformed { what: "the first run of a table has no shape" });
        }
        self.numbers(flags)?;
        let count = if flags & RUN != 0 { self.input.varint()?.saturating_add(2) } else { 1 };
        if count > rows_left {
            return Err(Error::Malformed { what: "a run of more rows than the table has" });
        }
        self.fill(count)?;
        self.left = count - 1;
        Ok(())
    }

    fn shape(&mut self) -> Result<()> {
        let number = self.input.varint()?;
        if let Some(index) = number.checked_sub(1) {
            let start = usize::try_from(index).ok().and_then(|i| self.shapes.get(i));
            let start = start.ok_or(Error::Malformed { what: "a shape that was not defined" })?;
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
        self.shaped = true;
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
        let used = self.state.get_mut(first..=self.record.groups.len()).unwrap_or_default();
        if flags & TRANSACTION != 0 {
            used.iter_mut().try_for_each(|slot| add(&mut slot.transaction, self.input.signed()?))?;
        }
        if flags & SITE != 0 {
            used.iter_mut().try_for_each(|slot| add(&mut slot.site, self.input.signed()?))?;
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
        let grown = i64::try_from(count - 1).ok().and_then(|n| self.stride.checked_mul(n));
        let checked = |i: usize, cells: u32| {
            let slot = state.get(i).copied().unwrap_or_default();
            let last = grown.and_then(|g| slot.seq.checked_add(g)).ok_or(OVERFLOW)?;
            match bounds.fault(&slot, last, cells) {
                Some(what) => Err(Error::Malformed { what }),
                None => Ok(slot),
            }
        };
        if let Some(s) = &mut self.record.sentinel {
            let slot = checked(0, 1)?;
            *s = Sentinel { db_version: slot.transaction, site: slot.site as u32, seq: slot.seq };
        }
        for (i, g) in self.record.groups.iter_mut().enumerate() {
            let slot = checked(i + 1, g.cols.len())?;
            g.stamp =
                Stamp { col_version: slot.version, db_version: slot.transaction, site: slot.site as u32 };
            g.seq = slot.seq;
        }
        Ok(())
    }
}

const OVERFLOW: Error = Error::Malformed { what: "a number of a run overflows" };

#[inline]
fn add(number: &mut i64, delta: i64) -> Result<()> {
    *number = number.checked_add(delta).ok_or(OVERFLOW)?;
    Ok(())
}
