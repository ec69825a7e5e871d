//! Many rows' metadata as one blob.
//!
//! Row block (64 consecutive rowids):   `metas  hashes`
//! Key block (ordered keys):            `count  (shared << 1 | spelled, suffix, [spelling])*  metas`
//!
//! ```text
//! metas   count of rows, table, runs
//! table   count, then per stamp: col_version db_version site         (varints)
//! run     (rows << 1 | present)                                      absent rows: nothing more
//!         (cl << 1 | has_sentinel)  [stamp, seq]  groups, then per group: columns stamp seq
//! seq     first (zigzag); for runs of several rows: (zigzag(stride) << 1) where it grows evenly,
//!         else 1 and the differences (zigzag) row by row
//! hashes  8 bytes little-endian per present row, in tables whose key is not the rowid
//! ```
//! Rows that differ only in their sequence numbers make one run: a bulk insert takes a few bytes per block.

use crate::codec::{Damaged, Dec, Decoded, put, put_bytes, put_cols, put_i, unzigzag, zigzag};
use rejoin_crdt::meta::{Group, RowMeta, Sentinel, Stamp};
use smallvec::SmallVec;

/// Rowids per block: `rowid >> SHIFT` is the block, the low bits are the slot.
pub const SHIFT: u32 = 6;
pub const SLOTS: usize = 1 << SHIFT;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredRow {
    pub meta: RowMeta,
    /// Keyed hash of the row's key, 0 where the key is the rowid.
    pub hash: u64,
}

/// The rows of one block by ascending slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowBlock {
    pub rows: Vec<(u8, StoredRow)>,
}

impl RowBlock {
    pub fn get(&self, slot: u8) -> Option<&StoredRow> {
        let i = self.rows.binary_search_by_key(&slot, |r| r.0).ok()?;
        self.rows.get(i).map(|r| &r.1)
    }

    pub fn get_mut(&mut self, slot: u8) -> Option<&mut StoredRow> {
        let last = self.rows.last().map_or(0, |r| r.0);
        let i = match slot == last {
            true => self.rows.len().checked_sub(1)?,
            false => self.rows.binary_search_by_key(&slot, |r| r.0).ok()?,
        };
        self.rows.get_mut(i).filter(|r| r.0 == slot).map(|r| &mut r.1)
    }

    pub fn set(&mut self, slot: u8, row: Option<StoredRow>) {
        if let Some(row) = row {
            if self.rows.last().is_none_or(|r| r.0 < slot) {
                self.rows.push((slot, row));
                return;
            }
            match self.rows.binary_search_by_key(&slot, |r| r.0) {
                Ok(i) => self.rows[i].1 = row,
                Err(i) => self.rows.insert(i, (slot, row)),
            }
        } else if let Ok(i) = self.rows.binary_search_by_key(&slot, |r| r.0) {
            self.rows.remove(i);
        }
    }

    pub fn encode(&self, hashed: bool, out: &mut Vec<u8>) {
        let metas: Vec<(u64, &RowMeta)> = self.rows.iter().map(|(s, r)| (u64::from(*s), &r.meta)).collect();
        put_metas(out, &metas);
        if hashed {
            for (_, row) in &self.rows {
                out.extend_from_slice(&row.hash.to_le_bytes());
            }
        }
    }

    pub fn decode(bytes: &[u8], hashed: bool) -> Decoded<RowBlock> {
        let mut dec = Dec::new(bytes);
        let rows = get_metas(&mut dec, SLOTS as u64)?;
        let mut block = RowBlock { rows: Vec::with_capacity(rows.len()) };
        for (slot, meta) in rows {
            let hash = if hashed { read_hash(&mut dec)? } else { 0 };
            block.rows.push((slot as u8, StoredRow { meta, hash }));
        }
        if dec.is_empty() { Ok(block) } else { Err(Damaged) }
    }
}

fn read_hash(dec: &mut Dec) -> Decoded<u64> {
    let bytes = dec.take(8)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?))
}

/// A key; one of 16 bytes, as most are, needs no allocation.
pub type KeyBytes = SmallVec<[u8; 24]>;

/// One entry of a key block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyEntry {
    /// The packed key identity; entries ascend by it.
    pub key: KeyBytes,
    /// The packed key as it is shown, where it is spelled otherwise than the identity.
    pub spelling: Option<Vec<u8>>,
    pub meta: RowMeta,
}

pub fn encode_keys(entries: &[KeyEntry], out: &mut Vec<u8>) {
    put(out, entries.len() as u64);
    let mut last: &[u8] = &[];
    for e in entries {
        let shared = last.iter().zip(&e.key).take_while(|(a, b)| a == b).count();
        put(out, (shared as u64) << 1 | u64::from(e.spelling.is_some()));
        put_bytes(out, &e.key[shared..]);
        if let Some(spelling) = &e.spelling {
            put_bytes(out, spelling);
        }
        last = &e.key;
    }
    let metas: Vec<(u64, &RowMeta)> = entries.iter().enumerate().map(|(i, e)| (i as u64, &e.meta)).collect();
    put_metas(out, &metas);
}

pub fn decode_keys(bytes: &[u8]) -> Decoded<Vec<KeyEntry>> {
    let mut dec = Dec::new(bytes);
    let count = dec.count()?;
    let mut entries: Vec<KeyEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let head = dec.u()?;
        let last: &[u8] = entries.last().map_or(&[], |e| e.key.as_slice());
        let shared = last.get(..(head >> 1) as usize).ok_or(Damaged)?;
        let mut key = KeyBytes::from_slice(shared);
        key.extend_from_slice(dec.bytes()?);
        let spelling = if head & 1 == 1 { Some(dec.bytes()?.to_vec()) } else { None };
        entries.push(KeyEntry { key, spelling, meta: RowMeta::default() });
    }
    let rows = get_metas(&mut dec, count as u64)?;
    if rows.len() != count || !dec.is_empty() {
        return Err(Damaged);
    }
    for (entry, (_, meta)) in entries.iter_mut().zip(rows) {
        entry.meta = meta;
    }
    Ok(entries)
}

fn put_metas(out: &mut Vec<u8>, rows: &[(u64, &RowMeta)]) {
    let mut table: Vec<Stamp> = Vec::new();
    for (_, row) in rows {
        for stamp in stamps(row) {
            if table.last() != Some(&stamp) && !table.contains(&stamp) {
                table.push(stamp);
            }
        }
    }
    put(out, rows.len() as u64);
    put(out, table.len() as u64);
    for s in &table {
        put(out, s.col_version as u64);
        put(out, s.db_version as u64);
        put(out, u64::from(s.site));
    }
    let mut next_slot = 0;
    let mut i = 0;
    while i < rows.len() {
        let (slot, first) = rows[i];
        let same = |(j, r): (usize, &(u64, &RowMeta))| r.0 == slot + j as u64 && same_shape(r.1, first);
        let run = rows[i..].iter().enumerate().take_while(|&(j, r)| same((j, r))).count();
        if slot > next_slot {
            put(out, (slot - next_slot) << 1);
        }
        put_run(out, &rows[i..i + run], &table);
        next_slot = slot + run as u64;
        i += run;
    }
}

/// A sentinel's stamp stands in the table with column version 0: its own is the causal length.
fn sentinel_stamp(s: &Sentinel) -> Stamp {
    Stamp { col_version: 0, db_version: s.db_version, site: s.site }
}

fn stamps(row: &RowMeta) -> impl Iterator<Item = Stamp> + '_ {
    row.sentinel.iter().map(sentinel_stamp).chain(row.groups.iter().map(|g| g.stamp))
}

/// Equal but for the sequence numbers.
fn same_shape(a: &RowMeta, b: &RowMeta) -> bool {
    a.cl == b.cl
        && a.sentinel.map(|s| (s.db_version, s.site)) == b.sentinel.map(|s| (s.db_version, s.site))
        && a.groups.len() == b.groups.len()
        && a.groups.iter().zip(&b.groups).all(|(x, y)| x.stamp == y.stamp && x.cols == y.cols)
}

fn put_run(out: &mut Vec<u8>, rows: &[(u64, &RowMeta)], table: &[Stamp]) {
    let index = |stamp: Stamp| table.iter().position(|s| *s == stamp).unwrap_or(0) as u64;
    let first = rows[0].1;
    put(out, (rows.len() as u64) << 1 | 1);
    put(out, u64::from(first.cl) << 1 | u64::from(first.sentinel.is_some()));
    if let Some(s) = &first.sentinel {
        put(out, index(sentinel_stamp(s)));
        put_seqs(out, rows, |row| row.sentinel.map_or(0, |s| s.seq));
    }
    put(out, first.groups.len() as u64);
    for (n, g) in first.groups.iter().enumerate() {
        put_cols(out, &g.cols);
        put(out, index(g.stamp));
        put_seqs(out, rows, |row| row.groups[n].seq);
    }
}

fn put_seqs(out: &mut Vec<u8>, rows: &[(u64, &RowMeta)], seq: impl Fn(&RowMeta) -> i64) {
    put_i(out, seq(rows[0].1));
    if rows.len() == 1 {
        return;
    }
    let step = |w: &[(u64, &RowMeta)]| seq(w[1].1).wrapping_sub(seq(w[0].1));
    let stride = step(&rows[..2]);
    // A stride so large that the shift would lose a bit is written out as a list.
    let even = stride.unsigned_abs() < 1 << 61 && rows.windows(2).all(|w| step(w) == stride);
    if even {
        put(out, zigzag(stride) << 1);
    } else {
        put(out, 1);
        for w in rows.windows(2) {
            put_i(out, step(w));
        }
    }
}

fn get_metas(dec: &mut Dec, slots: u64) -> Decoded<Vec<(u64, RowMeta)>> {
    let count = dec.u()?;
    if count > slots {
        return Err(Damaged);
    }
    let table = get_table(dec)?;
    let mut rows = Vec::with_capacity(count as usize);
    let mut slot = 0;
    while (rows.len() as u64) < count {
        slot = get_run(dec, &table, slot, slots, &mut rows)?;
    }
    if rows.len() as u64 == count { Ok(rows) } else { Err(Damaged) }
}

fn get_table(dec: &mut Dec) -> Decoded<Vec<Stamp>> {
    let count = dec.count()?;
    (0..count)
        .map(|_| Ok(Stamp { col_version: dec.version()?, db_version: dec.version()?, site: dec.u32()? }))
        .collect()
}

fn get_run(
    dec: &mut Dec,
    table: &[Stamp],
    slot: u64,
    slots: u64,
    rows: &mut Vec<(u64, RowMeta)>,
) -> Decoded<u64> {
    let head = dec.u()?;
    let (count, present) = (head >> 1, head & 1 == 1);
    let end = slot.checked_add(count).filter(|&e| count > 0 && e <= slots).ok_or(Damaged)?;
    if !present {
        return Ok(end);
    }
    let stamp = |i: u64| table.get(i as usize).copied().ok_or(Damaged);
    let shape = dec.u()?;
    let cl = u32::try_from(shape >> 1).map_err(|_| Damaged)?;
    let start = rows.len();
    rows.extend((slot..end).map(|s| (s, RowMeta { cl, ..RowMeta::default() })));
    if shape & 1 == 1 {
        let s = stamp(dec.u()?)?;
        get_seqs(dec, &mut rows[start..], |row, seq| {
            row.sentinel = Some(Sentinel { db_version: s.db_version, site: s.site, seq });
        })?;
    }
    for _ in 0..dec.count()? {
        let cols = dec.cols()?;
        let stamp = stamp(dec.u()?)?;
        get_seqs(dec, &mut rows[start..], |row, seq| {
            row.groups.push(Group { cols: cols.clone(), stamp, seq });
        })?;
    }
    Ok(end)
}

fn get_seqs(
    dec: &mut Dec,
    rows: &mut [(u64, RowMeta)],
    mut set: impl FnMut(&mut RowMeta, i64),
) -> Decoded<()> {
    let mut seq = dec.i()?;
    let Some((first, rest)) = rows.split_first_mut() else {
        return Ok(());
    };
    set(&mut first.1, seq);
    if rest.is_empty() {
        return Ok(());
    }
    let mode = dec.u()?;
    for row in rest {
        let step = if mode == 1 { dec.i()? } else { unzigzag(mode >> 1) };
        seq = seq.wrapping_add(step);
        set(&mut row.1, seq);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rejoin_crdt::meta::ColSet;

    fn row() -> impl Strategy<Value = RowMeta> {
        let stamp = (0..4i64, 0..3i64, 0..2u32).prop_map(|(c, d, site)| Stamp {
            col_version: c * 1_000_000_007,
            db_version: d,
            site,
        });
        let group = (any::<u16>(), 0..70u32, stamp, -3..9i64).prop_map(|(low, high, stamp, seq)| {
            let mut cols = ColSet::from_low(u64::from(low));
            cols.insert(high);
            Group { cols, stamp, seq }
        });
        let sentinel = proptest::option::of(
            (0..3i64, 0..2u32, any::<i64>()).prop_map(|(db_version, site, seq)| Sentinel {
                db_version,
                site,
                seq,
            }),
        );
        (0..4u32, sentinel, proptest::collection::vec(group, 0..3))
            .prop_map(|(cl, sentinel, groups)| RowMeta { cl, sentinel, groups: groups.into_iter().collect() })
    }

    proptest! {
        #[test]
        fn row_blocks_round_trip(rows in proptest::collection::btree_map(0u8..64, (row(), any::<u64>()), 0..20), hashed: bool) {
            let mut block = RowBlock::default();
            for (slot, (meta, hash)) in rows {
                block.set(slot, Some(StoredRow { meta, hash: if hashed { hash } else { 0 } }));
            }
            let mut bytes = Vec::new();
            block.encode(hashed, &mut bytes);
            prop_assert_eq!(RowBlock::decode(&bytes, hashed).unwrap(), block);
        }

        #[test]
        fn key_blocks_round_trip(rows in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..6), row(), 0..20)) {
            let entries: Vec<KeyEntry> = rows
                .into_iter()
                .map(|(key, meta)| KeyEntry { spelling: (key.len() == 3).then(|| vec![7]), key: key.into(), meta })
                .collect();
            let mut bytes = Vec::new();
            encode_keys(&entries, &mut bytes);
            prop_assert_eq!(decode_keys(&bytes).unwrap(), entries);
        }

        #[test]
        fn damaged_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = RowBlock::decode(&bytes, true);
            let _ = RowBlock::decode(&bytes, false);
            let _ = decode_keys(&bytes);
        }
    }

    #[test]
    fn a_bulk_insert_takes_few_bytes() {
        let mut block = RowBlock::default();
        let stamp = Stamp { col_version: 450_000_000_000_000, db_version: 70_000, site: 0 };
        for slot in 0..64u8 {
            let mut meta = RowMeta { cl: 1, ..RowMeta::default() };
            meta.write(ColSet::from_low(0b1111), stamp, 1_000_000 + i64::from(slot) * 4);
            block.set(slot, Some(StoredRow { meta, hash: 0 }));
        }
        let mut bytes = Vec::new();
        block.encode(false, &mut bytes);
        assert!(bytes.len() < 28, "{} bytes", bytes.len());
    }
}
