//! Writing a changeset. The layout of the whole:
//!
//! ```text
//! offset  bytes  content
//!      0      4  magic "RJCS"
//!      4      1  format version, 1
//!      5      1  flags: 1 = payload compressed with LZ4 (block format), 2 = row states
//!      6      *  payload; compressed: varint of its length, then the LZ4 block
//!   n-16     16  first 16 bytes of the BLAKE3 hash of everything before
//!
//! payload:
//!   16 bytes     site id of the sender
//!   1 byte       marks: 1 = a lineage of 16 bytes follows, 2 = there is a horizon, 4 = a tail
//!   sites        varint count, 16 bytes each
//!   transactions varint count, each: varint (origin << 1 | relay); signed difference of the version to the last
//!                version named for that origin (from 0); signed differences of clock and db_version to
//!                the transaction before (from 0); nonce and chain, 8 bytes each, little-endian
//!   empty ranges varint count, each: varint site; varint from; varint (to - from); chain, 8 bytes
//!   base         as the empty ranges
//!   horizon      if marked: varint count, each: varint site; varint from; varint (to - from)
//!   tables       varint count, each: name; varint count of key columns, their names; varint count of other
//!                columns, their names; further names (naming.rs); varint count of rows; varint length of the body
//!   bodies       of the tables in the same order, up to the end
//!
//! body:
//!   head         varint length of the row records; 1 byte form of the key stream, varint its length; per
//!                column: varint length of types, and if not 0: varint length of integers [1 byte form], varint
//!                length of reals [1 byte form], varint length of lengths, varint length of bytes; a form
//!                follows only a length that is not 0
//!   streams      row records (runs.rs), keys (keys.rs), then per column types, integers, reals, lengths,
//!                bytes (column.rs)
//! ```
//!
//! A varint is LEB128 in its shortest form; a signed number is a varint of its zigzag form; a name is varint
//! length and UTF-8. Why a hash and not a CRC: a changeset may lie in a file for years or pass through hosts
//! that rewrite it, and 16 bytes of BLAKE3 cost less than reading the rows does.

use std::collections::HashMap;

use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, ValueRef};

use crate::column::ColumnWriter;
use crate::error::{Error, Result};
use crate::keys::KeyWriter;
use crate::limits::{BYTES_MAX, COLUMNS_MAX, NAME_BYTES_MAX, TABLES_MAX, VERSION_MAX};
use crate::naming::{self, Name, Naming};
use crate::record::{EmptyRange, Header, RowRecord, Transaction};
use crate::runs::{Bounds, RunWriter};
use crate::varint;

pub(crate) const MAGIC: [u8; 4] = *b"RJCS";
pub(crate) const FORMAT: u8 = 1;
pub(crate) const COMPRESSED: u8 = 1;
pub(crate) const ROW_STATES: u8 = 2;
pub(crate) const HAS_LINEAGE: u8 = 1;
pub(crate) const HAS_HORIZON: u8 = 2;
pub(crate) const TAIL: u8 = 4;
pub(crate) const HEAD_BYTES: usize = 6;
pub(crate) const HASH_BYTES: usize = 16;

pub(crate) fn checksum(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let hash = blake3::hash(bytes);
    let mut short = [0; HASH_BYTES];
    short.iter_mut().zip(hash.as_bytes()).for_each(|(s, h)| *s = *h);
    short
}

/// Gathers a changeset. After an error of any call it is good for nothing more: `finish` repeats the error.
#[derive(Debug)]
pub struct Writer {
    header: Header,
    row_states: bool,
    sites: Vec<SiteId>,
    site_index: HashMap<SiteId, u32>,
    transactions: Vec<Transaction>,
    empty_ranges: Vec<EmptyRange>,
    base: Vec<EmptyRange>,
    /// Site, first and last version.
    horizon: Vec<(u32, u64, u64)>,
    tail: bool,
    tables: usize,
    directory: Vec<u8>,
    bodies: Vec<u8>,
    table: Option<Table>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Table {
    rows: u64,
    value_bytes: usize,
    runs: RunWriter,
    keys: KeyWriter,
    columns: Vec<ColumnWriter>,
}

impl Writer {
    pub fn new(header: Header) -> Writer {
        Writer {
            header,
            row_states: false,
            sites: Vec::new(),
            site_index: HashMap::new(),
            transactions: Vec::new(),
            empty_ranges: Vec::new(),
            base: Vec::new(),
            horizon: Vec::new(),
            tail: false,
            tables: 0,
            directory: Vec::new(),
            bodies: Vec::new(),
            table: None,
            failed: None,
        }
    }

    /// What follows is all that is known of some rows, and no cut: the base says what their sender holds.
    pub fn row_states(mut self) -> Writer {
        self.row_states = true;
        self
    }

    /// The index of a site, which is listed at its first mention.
    pub fn site(&mut self, site: &SiteId) -> u32 {
        let next = self.sites.len() as u32;
        let index = *self.site_index.entry(*site).or_insert(next);
        if index == next {
            self.sites.push(*site);
        }
        index
    }

    /// Adds a transaction; the answer is its index, which rows name it by.
    pub fn transaction(&mut self, transaction: Transaction) -> u32 {
        self.transactions.push(transaction);
        (self.transactions.len() - 1) as u32
    }

    /// Marks a transaction as one of cells that kept the stamps of others.
    pub fn mark_relay(&mut self, transaction: u32) {
        if let Some(t) = self.transactions.get_mut(transaction as usize) {
            t.relay = true;
        }
    }

    pub fn empty_range(&mut self, range: EmptyRange) {
        self.empty_ranges.push(range);
    }

    /// Versions that the sender took the receiver to hold; `chain` of the last one, 0 if it is not known.
    pub fn base_range(&mut self, range: EmptyRange) {
        self.base.push(range);
    }

    /// Below it the sender has forgotten what was deleted.
    pub fn horizon(&mut self, horizon: &VersionVector) {
        for (site, ranges) in horizon.iter() {
            let site = self.site(site);
            self.horizon.extend(ranges.iter().map(|r| (site, *r.start(), *r.end())));
        }
    }

    /// The base names only what the last changeset of the same stream ended with.
    pub fn mark_tail(&mut self) {
        self.tail = true;
    }

    /// About how many bytes `finish` would give without compression: to know when to end a cut.
    pub fn bytes_estimate(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |t| t.value_bytes + t.rows as usize * 4);
        self.bodies.len() + self.directory.len() + self.transactions.len() * 24 + table
    }

    /// Begins the rows of a table; the one before it is ended. `waiting`: the sender does not have these columns itself.
    pub fn begin_table(
        &mut self,
        name: &Naming<'_>,
        keys: &[&str],
        columns: &[Naming<'_>],
        waiting: bool,
    ) -> Result<()> {
        self.end_table();
        let result = self.check_table(name, keys, columns);
        if result.is_ok() {
            self.tables += 1;
            let out = &mut self.directory;
            varint::put_bytes(out, name.current.text.as_bytes());
            varint::put(out, keys.len() as u64);
            keys.iter().for_each(|n| varint::put_bytes(out, n.as_bytes()));
            varint::put(out, columns.len() as u64);
            columns.iter().for_each(|n| varint::put_bytes(out, n.current.text.as_bytes()));
            naming::put(out, name, columns, waiting);
            self.table = Some(Table {
                rows: 0,
                value_bytes: 0,
                runs: RunWriter::default(),
                keys: KeyWriter::default(),
                columns: columns.iter().map(|_| ColumnWriter::default()).collect(),
            });
        }
        self.note(result)
    }

    fn check_table(&self, name: &Naming<'_>, keys: &[&str], columns: &[Naming<'_>]) -> Result<()> {
        if self.tables >= TABLES_MAX {
            return Err(Error::TooLarge { what: "tables", limit: TABLES_MAX as u64 });
        }
        if keys.len() + columns.len() > COLUMNS_MAX {
            return Err(Error::TooLarge { what: "columns of a table", limit: COLUMNS_MAX as u64 });
        }
        if keys.is_empty() {
            return Err(Error::Invalid { what: "a table without a key" });
        }
        if keys.iter().any(|n| n.len() > NAME_BYTES_MAX) {
            return Err(Error::TooLarge { what: "bytes of a name", limit: NAME_BYTES_MAX as u64 });
        }
        if naming::has_duplicates(keys.iter().map(|text| Name { text, life: 0 })) {
            return Err(Error::Invalid { what: "two key columns of one name" });
        }
        naming::check(name, columns)
    }

    /// Adds a row to the table begun last. `values` gives one value per live column of the record, ascending.
    pub fn row<'v>(
        &mut self,
        key: &[u8],
        record: &RowRecord,
        values: impl IntoIterator<Item = ValueRef<'v>>,
    ) -> Result<()> {
        let result = match (&self.failed, &mut self.table) {
            (Some(error), _) => Err(error.clone()),
            (None, None) => Err(Error::Invalid { what: "a row before any table" }),
            (None, Some(table)) => {
                let bounds = Bounds {
                    transactions: self.transactions.len(),
                    sites: self.sites.len(),
                    columns: table.columns.len(),
                    absent: self.row_states,
                };
                table.row(key, record, values, &bounds)
            }
        };
        self.note(result)
    }

    #[inline]
    fn note(&mut self, result: Result<()>) -> Result<()> {
        if let Err(error) = &result
            && self.failed.is_none()
        {
            self.failed = Some(error.clone());
        }
        result
    }

    fn end_table(&mut self) {
        if let Some(mut table) = self.table.take() {
            varint::put(&mut self.directory, table.rows);
            let start = self.bodies.len();
            table.finish(&mut self.bodies);
            varint::put(&mut self.directory, (self.bodies.len() - start) as u64);
        }
    }

    /// The bytes. They are compressed only if that makes them smaller.
    pub fn finish(mut self, compress: bool) -> Result<Vec<u8>> {
        self.end_table();
        self.check_log()?;
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut front = Vec::with_capacity(self.directory.len() + 256);
        front.extend_from_slice(&MAGIC);
        front.extend_from_slice(&[FORMAT, if self.row_states { ROW_STATES } else { 0 }]);
        self.put_front(&mut front);
        let mut out = in_front(front, std::mem::take(&mut self.bodies));
        if out.len() + HASH_BYTES > BYTES_MAX {
            return Err(Error::TooLarge { what: "bytes of a changeset", limit: BYTES_MAX as u64 });
        }
        if compress {
            out = compressed(out);
        }
        let hash = checksum(&out);
        out.extend_from_slice(&hash);
        Ok(out)
    }

    fn check_log(&self) -> Result<()> {
        let sites = self.sites.len();
        let version = |v: u64| (1..=VERSION_MAX as u64).contains(&v);
        let good = self.transactions.iter().all(|t| {
            (t.origin as usize) < sites && version(t.version) && (0..=VERSION_MAX).contains(&t.db_version)
        });
        if !good {
            return Err(Error::Invalid { what: "a transaction with a number out of range" });
        }
        let good = self.empty_ranges.iter().chain(&self.base);
        if !good
            .clone()
            .all(|r| (r.site as usize) < sites && version(r.from) && version(r.to) && r.from <= r.to)
        {
            return Err(Error::Invalid { what: "an empty range with a number out of range" });
        }
        Ok(())
    }

    /// Everything of the payload before the bodies.
    fn put_front(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.site.as_bytes());
        let lineage = if self.header.lineage.is_some() { HAS_LINEAGE } else { 0 };
        let horizon = if self.horizon.is_empty() { 0 } else { HAS_HORIZON };
        out.push(lineage | horizon | if self.tail { TAIL } else { 0 });
        self.header.lineage.iter().for_each(|l| out.extend_from_slice(l));
        varint::put(out, self.sites.len() as u64);
        self.sites.iter().for_each(|s| out.extend_from_slice(s.as_bytes()));
        varint::put(out, self.transactions.len() as u64);
        let mut versions = vec![0u64; self.sites.len()];
        let (mut clock, mut db_version) = (0i64, 0i64);
        for t in &self.transactions {
            varint::put(out, u64::from(t.origin) << 1 | u64::from(t.relay));
            if let Some(last) = versions.get_mut(t.origin as usize) {
                varint::put_signed(out, t.version.wrapping_sub(*last) as i64);
                *last = t.version;
            }
            varint::put_signed(out, t.clock.wrapping_sub(clock));
            varint::put_signed(out, t.db_version - db_version);
            (clock, db_version) = (t.clock, t.db_version);
            out.extend_from_slice(&t.nonce.to_le_bytes());
            out.extend_from_slice(&t.chain.to_le_bytes());
        }
        for ranges in [&self.empty_ranges, &self.base] {
            varint::put(out, ranges.len() as u64);
            for r in ranges {
                varint::put(out, u64::from(r.site));
                varint::put(out, r.from);
                varint::put(out, r.to - r.from);
                out.extend_from_slice(&r.chain.to_le_bytes());
            }
        }
        if !self.horizon.is_empty() {
            varint::put(out, self.horizon.len() as u64);
            for (site, from, to) in &self.horizon {
                varint::put(out, u64::from(*site));
                varint::put(out, *from);
                varint::put(out, to - from);
            }
        }
        varint::put(out, self.tables as u64);
        out.extend_from_slice(&self.directory);
    }
}

/// `plain` with its payload compressed; `plain` itself if that is not larger.
fn compressed(plain: Vec<u8>) -> Vec<u8> {
    let flags = plain.get(HEAD_BYTES - 1).copied().unwrap_or_default();
    let payload = plain.get(HEAD_BYTES..).unwrap_or_default();
    let block = lz4_flex::block::compress(payload);
    let mut out = Vec::with_capacity(block.len() + 32);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[FORMAT, flags | COMPRESSED]);
    varint::put(&mut out, payload.len() as u64);
    out.extend_from_slice(&block);
    if out.len() < plain.len() { out } else { plain }
}

impl Table {
    #[inline]
    fn row<'v>(
        &mut self,
        key: &[u8],
        record: &RowRecord,
        values: impl IntoIterator<Item = ValueRef<'v>>,
        bounds: &Bounds,
    ) -> Result<()> {
        self.runs.push(record, bounds)?;
        self.keys.push(key)?;
        self.rows += 1;
        self.value_bytes += key.len();
        let mut values = values.into_iter();
        for &col in self.runs.live() {
            let value = values.next().ok_or(Error::Invalid { what: "fewer values than live columns" })?;
            self.value_bytes += match value {
                ValueRef::Text(b) | ValueRef::Blob(b) => b.len() + 1,
                _ => 4,
            };
            let column = self.columns.get_mut(col as usize);
            column.ok_or(Error::Invalid { what: "a column that is not listed" })?.push(value)?;
        }
        if values.next().is_some() {
            return Err(Error::Invalid { what: "more values than live columns" });
        }
        if self.value_bytes > BYTES_MAX {
            return Err(Error::TooLarge { what: "bytes of a changeset", limit: BYTES_MAX as u64 });
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let mut head = Vec::new();
        let mut data = Vec::with_capacity(self.value_bytes);
        let runs = self.runs.finish();
        varint::put(&mut head, runs.len() as u64);
        data.extend_from_slice(runs);
        self.keys.finish(&mut head, &mut data);
        self.columns.iter().for_each(|c| c.finish(&mut head, &mut data));
        if out.is_empty() {
            *out = in_front(head, data);
            return;
        }
        out.reserve(head.len() + data.len());
        out.append(&mut head);
        out.append(&mut data);
    }
}

/// `head` and `body` behind one another, in the memory of `body`: fresh memory costs more than to move it.
fn in_front(head: Vec<u8>, mut body: Vec<u8>) -> Vec<u8> {
    body.splice(0..0, head);
    body
}
