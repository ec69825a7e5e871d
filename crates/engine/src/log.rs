//! The rows of `crsql_log`: one per local db_version and transaction, naming what it changed.
//!
//! `changes` is a row of sections, each `table id, kind, count, items`:
//!
//! ```text
//! 0 rows, inline   rowid (zigzag difference), 0 removed | 1 stored, metadata (codec::put_row)
//! 5 the same with  the key's hash, 8 bytes, before the metadata
//! 1 keys, inline   key (length, bytes), 0 removed | 1 stored | 2 stored with spelling, [spelling], metadata
//! 2 row blocks     difference to the end of the last range (zigzag), length
//! 3 key ranges     first key, last key (length, bytes each)
//! ```
//! followed by nothing. Section kind 4 with table 0 and count 0: some of these changes are parked. Section kind 6 with
//! table 0 and count 0, then a version: the row stands for all versions from that one to its own; nothing is left of them.
//! Inline metadata is the truth as long as the log row is above `folded`; later it only names the rows.

use crate::block::{SHIFT, StoredRow};
use crate::codec::{Base, Damaged, Dec, Decoded, get_row, put, put_bytes, put_i, put_row};
use crate::store::{Loc, Record};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A range of packed keys, ends inclusive.
pub type KeyRange = (Rc<[u8]>, Rc<[u8]>);

/// What one log row lists of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableList {
    /// Rows and keys with their metadata as this transaction left it.
    pub inline: BTreeMap<Loc, Option<Record>>,
    /// Row blocks, as ranges of block numbers, ends inclusive.
    pub blocks: Vec<(i64, i64)>,
    /// Ranges of keys, ends inclusive.
    pub keys: Vec<KeyRange>,
}

/// So many single keys are named; more become the ranges that were written.
const KEYS_NAMED_MAX: usize = 256;

impl TableList {
    /// Whether a block or range names the place.
    pub fn covers(&self, loc: &Loc) -> bool {
        match loc {
            Loc::Row(row) => self.blocks.iter().any(|&(from, to)| (from..=to).contains(&(row >> SHIFT))),
            Loc::Key(key) => self.keys.iter().any(|(from, to)| from <= key && key <= to),
        }
    }

    /// Names a row by its block, or a key.
    pub fn name(&mut self, loc: &Loc) {
        match loc {
            Loc::Row(row) => {
                let block = row >> SHIFT;
                match self.blocks.last_mut() {
                    Some(end) if end.0 <= block && block <= end.1.saturating_add(1) => {
                        end.1 = end.1.max(block)
                    }
                    _ => self.blocks.push((block, block)),
                }
            }
            Loc::Key(key) => self.keys.push((Rc::clone(key), Rc::clone(key))),
        }
    }
}

impl TableList {
    /// No row is named twice by blocks, and none by keys.
    pub fn tidy(&mut self) {
        self.blocks = union(std::mem::take(&mut self.blocks));
        self.keys = union_keys(std::mem::take(&mut self.keys));
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub tables: BTreeMap<u32, TableList>,
    pub parked: bool,
    /// The first of the versions that an empty log row stands for; its header has the last.
    pub empty_from: Option<u64>,
}

impl Changes {
    pub fn inline_count(&self) -> usize {
        self.tables.values().map(|t| t.inline.len()).sum()
    }

    /// How many rows these changes name, at most.
    pub fn row_estimate(&self) -> u64 {
        let blocks = |t: &TableList| t.blocks.iter().map(|b| (b.1.abs_diff(b.0) + 1) << SHIFT).sum::<u64>();
        self.tables.values().map(|t| t.inline.len() as u64 + blocks(t) + t.keys.len() as u64).sum()
    }

    pub fn encode(&self, base: &Base) -> Vec<u8> {
        let mut out = Vec::new();
        for (&tbl, list) in &self.tables {
            put_inline(&mut out, tbl, list, base);
            if !list.blocks.is_empty() {
                head(&mut out, tbl, 2, list.blocks.len());
                let mut at = 0i64;
                for &(from, to) in &list.blocks {
                    put_i(&mut out, from.wrapping_sub(at));
                    put(&mut out, to.wrapping_sub(from) as u64);
                    at = to;
                }
            }
            if !list.keys.is_empty() {
                head(&mut out, tbl, 3, list.keys.len());
                for (from, to) in &list.keys {
                    put_bytes(&mut out, from);
                    put_bytes(&mut out, to);
                }
            }
        }
        if self.parked {
            head(&mut out, 0, 4, 0);
        }
        if let Some(first) = self.empty_from {
            head(&mut out, 0, 6, 0);
            put(&mut out, first);
        }
        out
    }

    pub fn decode(bytes: &[u8], base: &Base) -> Decoded<Changes> {
        let mut dec = Dec::new(bytes);
        let mut changes = Changes::default();
        while !dec.is_empty() {
            let tbl = dec.u32()?;
            let kind = dec.byte()?;
            let count = dec.count()?;
            if kind == 4 {
                changes.parked = true;
                continue;
            }
            if kind == 6 {
                changes.empty_from = Some(dec.u()?);
                continue;
            }
            let list = changes.tables.entry(tbl).or_default();
            match kind {
                0 | 5 => get_inline_rows(&mut dec, count, list, base, kind == 5)?,
                1 => get_inline_keys(&mut dec, count, list, base)?,
                2 => {
                    let mut at = 0i64;
                    for _ in 0..count {
                        let from = at.wrapping_add(dec.i()?);
                        at = from.wrapping_add(dec.u()? as i64);
                        list.blocks.push((from, at));
                    }
                }
                3 => {
                    for _ in 0..count {
                        list.keys.push((dec.bytes()?.into(), dec.bytes()?.into()));
                    }
                }
                _ => return Err(Damaged),
            }
        }
        Ok(changes)
    }

    /// Adds what a later flush of the same transaction changed.
    pub fn merge(&mut self, later: Changes) {
        self.parked |= later.parked;
        for (tbl, list) in later.tables {
            let mine = self.tables.entry(tbl).or_default();
            mine.inline.extend(list.inline);
            if !list.blocks.is_empty() {
                mine.blocks.extend(list.blocks);
                mine.blocks = union(std::mem::take(&mut mine.blocks));
            }
            if !list.keys.is_empty() {
                mine.keys.extend(list.keys);
                mine.keys = union_keys(std::mem::take(&mut mine.keys));
            }
        }
    }

    /// Whether no row is named by block or range.
    pub fn is_inline(&self) -> bool {
        self.tables.values().all(|t| t.blocks.is_empty() && t.keys.is_empty())
    }

    /// Replaces long lists of keys by the ranges that were written.
    pub fn shorten(&mut self, ranges: &crate::core::KeyRanges) {
        for (tbl, list) in &mut self.tables {
            list.blocks = union(std::mem::take(&mut list.blocks));
            if list.keys.len() > KEYS_NAMED_MAX
                && let Some(written) = ranges.get(tbl)
            {
                list.keys.clone_from(written);
            }
        }
    }

    /// Turns inline entries into mere names of rows.
    pub fn spill(&mut self) {
        for list in self.tables.values_mut() {
            for loc in std::mem::take(&mut list.inline).into_keys() {
                list.name(&loc);
            }
            list.tidy();
        }
    }
}

/// Ranges sorted, overlapping and adjoining ones joined.
pub fn union(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut out: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match out.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

fn union_keys(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.sort_unstable();
    let mut out: Vec<KeyRange> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match out.last_mut() {
            Some(last) if from <= last.1 => {
                if last.1 < to {
                    last.1 = to;
                }
            }
            _ => out.push((from, to)),
        }
    }
    out
}

fn head(out: &mut Vec<u8>, tbl: u32, kind: u8, count: usize) {
    put(out, u64::from(tbl));
    out.push(kind);
    put(out, count as u64);
}

fn put_inline(out: &mut Vec<u8>, tbl: u32, list: &TableList, base: &Base) {
    let hashed = list.inline.values().flatten().any(|r| r.row.hash != 0);
    let rows = list.inline.keys().filter(|l| matches!(l, Loc::Row(_))).count();
    if rows > 0 {
        head(out, tbl, if hashed { 5 } else { 0 }, rows);
    }
    let mut last = 0i64;
    for (loc, record) in &list.inline {
        let Loc::Row(row) = loc else { continue };
        put_i(out, row.wrapping_sub(last));
        last = *row;
        out.push(u8::from(record.is_some()));
        if let Some(r) = record {
            if hashed {
                out.extend_from_slice(&r.row.hash.to_le_bytes());
            }
            put_row(out, &r.row.meta, base);
        }
    }
    if list.inline.len() > rows {
        head(out, tbl, 1, list.inline.len() - rows);
    }
    for (loc, record) in &list.inline {
        let Loc::Key(key) = loc else { continue };
        put_bytes(out, key);
        match record {
            None => out.push(0),
            Some(r) => {
                out.push(1 + u8::from(r.spelling.is_some()));
                if let Some(s) = &r.spelling {
                    put_bytes(out, s);
                }
                put_row(out, &r.row.meta, base);
            }
        }
    }
}

fn get_inline_rows(
    dec: &mut Dec,
    count: usize,
    list: &mut TableList,
    base: &Base,
    hashed: bool,
) -> Decoded<()> {
    let mut row = 0i64;
    for _ in 0..count {
        row = row.wrapping_add(dec.i()?);
        let record = match dec.byte()? {
            0 => None,
            1 => {
                let hash = if hashed {
                    u64::from_le_bytes(dec.take(8)?.try_into().map_err(|_| Damaged)?)
                } else {
                    0
                };
                Some(Record { row: StoredRow { meta: get_row(dec, base)?, hash }, spelling: None })
            }
            _ => return Err(Damaged),
        };
        list.inline.insert(Loc::Row(row), record);
    }
    Ok(())
}

fn get_inline_keys(dec: &mut Dec, count: usize, list: &mut TableList, base: &Base) -> Decoded<()> {
    for _ in 0..count {
        let key = Loc::Key(dec.bytes()?.into());
        let record = match dec.byte()? {
            0 => None,
            kind @ (1 | 2) => {
                let spelling = if kind == 2 { Some(dec.bytes()?.into()) } else { None };
                Some(Record { row: StoredRow { meta: get_row(dec, base)?, hash: 0 }, spelling })
            }
            _ => return Err(Damaged),
        };
        list.inline.insert(key, record);
    }
    Ok(())
}
