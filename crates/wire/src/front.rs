//! Everything of a changeset before its rows: the envelope, the log and the list of tables.

use std::borrow::Cow;
use std::ops::Range;

use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;

use crate::error::{Error, Result};
use crate::limits::{COLUMNS_MAX, NAME_BYTES_MAX, TABLES_MAX, VERSION_MAX};
use crate::naming::{self, Entries, Name};
use crate::record::{EmptyRange, Header, Transaction};
use crate::varint::Input;
use crate::writer::{
    COMPRESSED, FORMAT, HAS_HORIZON, HAS_LINEAGE, HASH_BYTES, HEAD_BYTES, MAGIC, ROW_STATES, TAIL, checksum,
};

/// An LZ4 block cannot stand for more than this many times its length.
const LZ4_RATIO_MAX: u64 = 255;

/// One table of the directory, as places in the payload.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Names,
    pub(crate) keys: Names,
    pub(crate) columns: Names,
    pub(crate) more: Entries,
    pub(crate) rows: u64,
    pub(crate) body: Range<usize>,
}

/// Names behind one another, each with its length: kept as a place, for a `&str` each would take
/// sixteen times what the input pays for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) start: usize,
    pub(crate) count: usize,
}

/// The payload of a changeset whose checksum is right, and whether it is one of row states.
pub(crate) fn payload(bytes: &[u8], bytes_max: usize) -> Result<(Cow<'_, [u8]>, bool)> {
    const TOO_LARGE: &str = "bytes of a changeset";
    if bytes.len() > bytes_max {
        return Err(Error::TooLarge { what: TOO_LARGE, limit: bytes_max as u64 });
    }
    let magic = bytes.first_chunk::<4>().ok_or(Error::NotAChangeset)?;
    // One bit off is a changeset that was damaged there.
    if (u32::from_le_bytes(*magic) ^ u32::from_le_bytes(MAGIC)).count_ones() > 1 {
        return Err(Error::NotAChangeset);
    }
    let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(Error::Corrupt)?;
    if content.len() < HEAD_BYTES || checksum(content) != *hash {
        return Err(Error::Corrupt);
    }
    // Version and hash stay in their places in every version to come, so the order of the checks is safe.
    let mut input = Input::new(content);
    input.take(MAGIC.len())?;
    let version = input.byte()?;
    if version != FORMAT {
        return Err(Error::UnsupportedVersion { version });
    }
    let flags = input.byte()?;
    if flags & !(COMPRESSED | ROW_STATES) != 0 {
        return Err(Error::Malformed { what: "unknown flags" });
    }
    let row_states = flags & ROW_STATES != 0;
    if flags & COMPRESSED == 0 {
        return Ok((Cow::Borrowed(input.take(input.len())?), row_states));
    }
    let len = input.varint()?;
    if len > bytes_max as u64 {
        return Err(Error::TooLarge { what: TOO_LARGE, limit: bytes_max as u64 });
    }
    if len > input.len() as u64 * LZ4_RATIO_MAX {
        return Err(Error::Malformed { what: "more is promised than the compressed bytes can hold" });
    }
    let mut out = vec![0; len as usize];
    match lz4_flex::block::decompress_into(input.take(input.len())?, &mut out) {
        Ok(n) if n == out.len() => Ok((Cow::Owned(out), row_states)),
        _ => Err(Error::Malformed { what: "the compressed bytes cannot be read" }),
    }
}

/// How many bytes a changeset says that it is when it is unpacked; nothing of it is checked.
pub fn unpacked_bytes(bytes: &[u8]) -> u64 {
    let said = || {
        let mut input = Input::new(bytes);
        input.take(MAGIC.len() + 1).ok()?;
        let compressed = input.byte().ok()? & COMPRESSED != 0;
        compressed.then(|| input.varint().ok()).flatten()
    };
    said().unwrap_or(bytes.len() as u64)
}

/// The header, and the marks that say what else is there.
pub(crate) fn read_header(input: &mut Input<'_>) -> Result<(Header, u8)> {
    let site = SiteId(input.array()?);
    let marks = input.byte()?;
    if marks & !(HAS_LINEAGE | HAS_HORIZON | TAIL) != 0 {
        return Err(Error::Malformed { what: "unknown marks" });
    }
    let lineage = if marks & HAS_LINEAGE != 0 { Some(input.array()?) } else { None };
    Ok((Header { site, lineage }, marks))
}

pub(crate) fn read_sites(input: &mut Input<'_>) -> Result<Vec<SiteId>> {
    (0..input.count(16)?).map(|_| Ok(SiteId(input.array()?))).collect()
}

fn site_index(index: u64, sites: usize) -> Result<u32> {
    if index >= sites as u64 {
        return Err(Error::Malformed { what: "a site that is not listed" });
    }
    Ok(index as u32)
}

fn version(v: u64) -> Result<u64> {
    if !(1..=VERSION_MAX as u64).contains(&v) {
        return Err(Error::Malformed { what: "a version out of range" });
    }
    Ok(v)
}

pub(crate) fn read_transactions(input: &mut Input<'_>, sites: usize) -> Result<Vec<Transaction>> {
    let count = input.count(20)?;
    let mut versions = vec![0u64; sites];
    let (mut clock, mut db_version) = (0i64, 0i64);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let head = input.varint()?;
        let origin = site_index(head >> 1, sites)?;
        let grown = input.signed()?;
        let last = versions
            .get_mut(origin as usize)
            .ok_or(Error::Malformed { what: "a site that is not listed" })?;
        *last = version(last.wrapping_add(grown as u64))?;
        clock = clock.wrapping_add(input.signed()?);
        db_version = db_version.wrapping_add(input.signed()?);
        if !(0..=VERSION_MAX).contains(&db_version) {
            return Err(Error::Malformed { what: "a db_version out of range" });
        }
        let nonce = u64::from_le_bytes(input.array()?);
        let chain = u64::from_le_bytes(input.array()?);
        let relay = head & 1 == 1;
        out.push(Transaction { origin, version: *last, clock, nonce, chain, relay, db_version });
    }
    Ok(out)
}

/// Empty ranges, and those of the base.
pub(crate) fn read_ranges(input: &mut Input<'_>, sites: usize) -> Result<Vec<EmptyRange>> {
    let count = input.count(11)?;
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let site = site_index(input.varint()?, sites)?;
        let from = version(input.varint()?)?;
        let to = version(from.saturating_add(input.varint()?))?;
        let chain = u64::from_le_bytes(input.array()?);
        out.push(EmptyRange { site, from, to, chain });
    }
    Ok(out)
}

/// Ranges in any order as a vector. Ascending ones only grow it at its end: others could make it a long work.
pub(crate) fn vector(mut ranges: Vec<(SiteId, u64, u64)>) -> VersionVector {
    ranges.sort_unstable();
    let mut vector = VersionVector::new();
    ranges.into_iter().for_each(|(site, from, to)| vector.insert_range(site, from..=to));
    vector
}

/// Below a horizon there is nothing to compare: no hashes.
pub(crate) fn read_horizon(input: &mut Input<'_>, sites: &[SiteId]) -> Result<VersionVector> {
    let mut ranges: Vec<(SiteId, u64, u64)> = Vec::new();
    for _ in 0..input.count(3)? {
        let site = site_index(input.varint()?, sites.len())?;
        let from = version(input.varint()?)?;
        let to = version(from.saturating_add(input.varint()?))?;
        ranges.extend(sites.get(site as usize).map(|site| (*site, from, to)));
    }
    if ranges.is_empty() {
        return Err(Error::Malformed { what: "a horizon without a range" });
    }
    Ok(vector(ranges))
}

pub(crate) fn read_name<'a>(input: &mut Input<'a>) -> Result<&'a str> {
    let bytes = input.sized()?;
    if bytes.len() > NAME_BYTES_MAX {
        return Err(Error::TooLarge { what: "bytes of a name", limit: NAME_BYTES_MAX as u64 });
    }
    str::from_utf8(bytes).map_err(|_| Error::Malformed { what: "a name is not UTF-8" })
}

/// The directory; `payload_len` says where `input` stands in the payload.
pub(crate) fn read_tables(input: &mut Input<'_>, payload_len: usize) -> Result<Vec<Entry>> {
    let count = input.count(8)?;
    if count > TABLES_MAX {
        return Err(Error::TooLarge { what: "tables", limit: TABLES_MAX as u64 });
    }
    let mut tables = Vec::with_capacity(count);
    let mut bodies_len = 0usize;
    for _ in 0..count {
        let start = payload_len - input.len();
        let name = read_name(input)?;
        let (keys, columns, more) = read_columns(input, payload_len, name)?;
        let rows = input.varint()?;
        let body_len = input.count(1)?;
        // Every row has at least one byte in the key stream.
        if rows > body_len as u64 {
            return Err(Error::Malformed { what: "more rows than bytes" });
        }
        let body = bodies_len..bodies_len + body_len;
        bodies_len = body.end;
        tables.push(Entry { name: Names { start, count: 1 }, keys, columns, more, rows, body });
    }
    if bodies_len != input.len() {
        return Err(Error::Malformed { what: "the tables do not fill the changeset" });
    }
    let bodies_start = payload_len - input.len();
    tables.iter_mut().for_each(|t| t.body = t.body.start + bodies_start..t.body.end + bodies_start);
    Ok(tables)
}

/// Key columns, other columns, and further names.
fn read_columns(input: &mut Input<'_>, payload_len: usize, table: &str) -> Result<(Names, Names, Entries)> {
    let mut lists = [Vec::new(), Vec::new()];
    let mut places = [Names { start: 0, count: 0 }; 2];
    let mut left = COLUMNS_MAX;
    for (list, place) in lists.iter_mut().zip(&mut places) {
        let count = input.count(1)?;
        left = left
            .checked_sub(count)
            .ok_or(Error::TooLarge { what: "columns of a table", limit: COLUMNS_MAX as u64 })?;
        *place = Names { start: payload_len - input.len(), count };
        for _ in 0..count {
            list.push(read_name(input)?);
        }
    }
    let [keys, columns] = lists;
    let key = |text| Name { text, life: 0 };
    if keys.is_empty() || naming::has_duplicates(keys.into_iter().map(key)) {
        return Err(Error::Malformed { what: "a table without a key, or with two key columns of one name" });
    }
    let more = naming::check_more(input, payload_len, table, &columns)?;
    let [keys, columns] = places;
    Ok((keys, columns, more))
}
