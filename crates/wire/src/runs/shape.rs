//! The shape of a row record and its definition in the stream.

use std::collections::HashMap;

use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};

use super::Bounds;
use crate::error::{Error, Result};
use crate::limits::SHAPE_BYTES_MAX;
use crate::record::{GroupRecord, RowRecord};
use crate::varint::{self, Input};

pub(super) fn check_shape(record: &RowRecord, bounds: &Bounds) -> Result<()> {
    let mut seen = ColSet::EMPTY;
    for group in &record.groups {
        if let Some(what) = group_fault(group, &mut seen, bounds) {
            return Err(Error::Invalid { what });
        }
    }
    if !bounds.allows(u64::from(record.cl), record.sentinel.is_none() && record.groups.is_empty()) {
        return Err(Error::Invalid { what: "a causal length out of range" });
    }
    Ok(())
}

/// What is wrong with the sets of a group, given the live columns of the groups before it.
fn group_fault(group: &GroupRecord, seen: &mut ColSet, bounds: &Bounds) -> Option<&'static str> {
    if group.cols.iter().last().is_none_or(|id| id as usize >= bounds.columns) {
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

pub(super) fn put_shape(record: &RowRecord, shapes: &mut HashMap<Box<[u8]>, u64>, out: &mut Vec<u8>) {
    let mut definition = Vec::with_capacity(16);
    varint::put(&mut definition, u64::from(record.cl));
    let sentinel = u64::from(record.sentinel.is_some());
    varint::put(&mut definition, (record.groups.len() as u64) << 1 | sentinel);
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
    let len = bits.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    varint::put_bytes(out, bits.get(..len).unwrap_or_default());
}

fn read_set(input: &mut Input<'_>) -> Result<ColSet> {
    let bits = input.sized()?;
    if bits.last() == Some(&0) || bits.len() > ColSet::ID_LIMIT as usize / 8 {
        return Err(Error::Malformed { what: "a column set is too long" });
    }
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
    if bits.len() <= 8 {
        return Ok(ColSet::from_low(word(bits)));
    }
    let words: Vec<u64> = bits.chunks(8).map(word).collect();
    Ok(ColSet::from_words(&words))
}

/// Reads a definition into the record; its numbers are left to be filled in.
pub(super) fn read_shape(input: &mut Input<'_>, bounds: &Bounds, record: &mut RowRecord) -> Result<()> {
    const STAMP: Stamp = Stamp { col_version: 0, db_version: 0, site: 0 };
    let cl = input.varint()?;
    let head = input.varint()?;
    if !bounds.allows(cl, head == 0) {
        return Err(Error::Malformed { what: "a causal length out of range" });
    }
    record.cl = cl as u32;
    record.sentinel = (head & 1 == 1).then_some(Sentinel { db_version: 0, site: 0, seq: 0 });
    record.groups.clear();
    let mut seen = ColSet::EMPTY;
    // Each group adds at least one column of the table to `seen`, so there are never more than columns.
    for _ in 0..head >> 1 {
        let cols = read_set(input)?;
        let live = read_set(input)?;
        let live = if live.is_empty() { cols.clone() } else { live };
        let group = GroupRecord { cols, live, stamp: STAMP, seq: 0 };
        if let Some(what) = group_fault(&group, &mut seen, bounds) {
            return Err(Error::Malformed { what });
        }
        record.groups.push(group);
    }
    Ok(())
}
