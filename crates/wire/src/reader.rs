//! Reading a changeset; the layout is at the head of `writer.rs`.
//!
//! Opening checks the checksum, the log and the list of tables; rows are decoded one at a time from slices
//! of the payload, into buffers that are used again for the next. An error inside a table ends that table.

use std::borrow::Cow;
use std::ops::Range;

use rejoin_crdt::{SiteId, ValueRef};

use crate::column::{ColumnHead, ColumnReader};
use crate::error::{Error, Result};
use crate::keys::KeyReader;
use crate::limits::{BYTES_MAX, COLUMNS_MAX, NAME_BYTES_MAX, TABLES_MAX, VERSION_MAX};
use crate::record::{EmptyRange, Header, RowRecord, Transaction, has_duplicates};
use crate::runs::{Bounds, RunReader};
use crate::varint::Input;
use crate::writer::{COMPRESSED, FORMAT, HASH_BYTES, HEAD_BYTES, MAGIC, checksum};

/// An LZ4 block cannot stand for more than this many times its length.
const LZ4_RATIO_MAX: u64 = 255;

/// A changeset, intact and with a well-formed front; its rows are checked as they are read.
#[derive(Debug)]
pub struct Reader<'a> {
    payload: Cow<'a, [u8]>,
    header: Header,
    sites: Vec<SiteId>,
    transactions: Vec<Transaction>,
    empty_ranges: Vec<EmptyRange>,
    tables: Vec<Entry>,
    next: usize,
}

/// One table of the directory, as places in the payload.
#[derive(Clone, Debug)]
struct Entry {
    name: Names,
    keys: Names,
    columns: Names,
    rows: u64,
    body: Range<usize>,
}

/// Names behind one another, each with its length: kept as a place, for a `&str` each would take
/// sixteen times what the input pays for.
#[derive(Clone, Copy, Debug)]
struct Names {
    start: usize,
    count: usize,
}

/// What the list of tables says of one.
#[derive(Clone, Debug)]
pub struct TableInfo<'r> {
    pub name: &'r str,
    pub keys: Vec<&'r str>,
    pub columns: Vec<&'r str>,
    pub rows: u64,
}

impl<'a> Reader<'a> {
    /// Opens a changeset whose payload has at most [`BYTES_MAX`] bytes.
    pub fn open(bytes: &'a [u8]) -> Result<Reader<'a>> {
        Reader::open_bounded(bytes, BYTES_MAX)
    }

    /// Opens a changeset that has at most `bytes_max` bytes, as it is and after decompression.
    pub fn open_bounded(bytes: &'a [u8], bytes_max: usize) -> Result<Reader<'a>> {
        let bytes_max = bytes_max.min(BYTES_MAX);
        let payload = payload(bytes, bytes_max)?;
        let mut input = Input::new(&payload);
        let header = read_header(&mut input)?;
        let sites = read_sites(&mut input)?;
        let transactions = read_transactions(&mut input, sites.len())?;
        let empty_ranges = read_empty_ranges(&mut input, sites.len())?;
        let tables = read_tables(&mut input, payload.len())?;
        Ok(Reader {
            payload,
            header,
            sites,
            transactions,
            empty_ranges,
            tables,
            next: 0,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }

    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    pub fn empty_ranges(&self) -> &[EmptyRange] {
        &self.empty_ranges
    }

    pub fn table_count(&self) -> usize {
        self.tables.len()
    }

    /// The tables in the order of `next_table`, to compare schemas before any row is read.
    pub fn tables(&self) -> impl Iterator<Item = TableInfo<'_>> {
        self.tables.iter().map(|entry| self.info(entry))
    }

    /// The rows of the next table; None after the last.
    pub fn next_table(&mut self) -> Result<Option<TableReader<'_>>> {
        let index = self.next;
        if index >= self.tables.len() {
            return Ok(None);
        }
        self.next += 1;
        self.table(index).map(Some)
    }

    /// The rows of a table by its place in `tables`, from the first row on.
    pub fn table(&self, index: usize) -> Result<TableReader<'_>> {
        let entry = self.tables.get(index).ok_or(Error::Invalid {
            what: "a table that is not there",
        })?;
        let bounds = Bounds {
            transactions: self.transactions.len(),
            sites: self.sites.len(),
            columns: entry.columns.count,
        };
        let body = self.payload.get(entry.body.clone()).unwrap_or_default();
        TableReader::open(self.info(entry), body, bounds)
    }

    fn info(&self, entry: &Entry) -> TableInfo<'_> {
        let names = |names: &Names| {
            let mut input = Input::new(self.payload.get(names.start..).unwrap_or_default());
            // They were read once when the changeset was opened: the fallback is never taken.
            (0..names.count)
                .map(|_| read_name(&mut input).unwrap_or_default())
                .collect::<Vec<_>>()
        };
        TableInfo {
            name: names(&entry.name).first().copied().unwrap_or_default(),
            keys: names(&entry.keys),
            columns: names(&entry.columns),
            rows: entry.rows,
        }
    }
}

/// The payload of a changeset whose checksum is right.
fn payload(bytes: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>> {
    const TOO_LARGE: &str = "bytes of a changeset";
    if bytes.len() > bytes_max {
        return Err(Error::TooLarge {
            what: TOO_LARGE,
            limit: bytes_max as u64,
        });
    }
    let magic = bytes.first_chunk::<4>().ok_or(Error::NotAChangeset)?;
    // One bit off is a changeset that was damaged there.
    if (u32::from_le_bytes(*magic) ^ u32::from_le_bytes(MAGIC)).count_ones() > 1 {
        return Err(Error::NotAChangeset);
    }
    let (content, hash) = bytes
        .split_last_chunk::<HASH_BYTES>()
        .ok_or(Error::Corrupt)?;
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
    if flags & !COMPRESSED != 0 {
        return Err(Error::Malformed {
            what: "unknown flags",
        });
    }
    if flags & COMPRESSED == 0 {
        return Ok(Cow::Borrowed(input.take(input.len())?));
    }
    let len = input.varint()?;
    if len > bytes_max as u64 {
        return Err(Error::TooLarge {
            what: TOO_LARGE,
            limit: bytes_max as u64,
        });
    }
    if len > input.len() as u64 * LZ4_RATIO_MAX {
        return Err(Error::Malformed {
            what: "more is promised than the compressed bytes can hold",
        });
    }
    let mut out = vec![0; len as usize];
    match lz4_flex::block::decompress_into(input.take(input.len())?, &mut out) {
        Ok(n) if n == out.len() => Ok(Cow::Owned(out)),
        _ => Err(Error::Malformed {
            what: "the compressed bytes cannot be read",
        }),
    }
}

fn read_header(input: &mut Input<'_>) -> Result<Header> {
    let site = SiteId(input.array()?);
    let lineage = match input.byte()? {
        0 => None,
        1 => Some(input.array()?),
        _ => {
            return Err(Error::Malformed {
                what: "a lineage that is neither there nor not",
            });
        }
    };
    Ok(Header { site, lineage })
}

fn read_sites(input: &mut Input<'_>) -> Result<Vec<SiteId>> {
    (0..input.count(16)?)
        .map(|_| Ok(SiteId(input.array()?)))
        .collect()
}

fn site_index(index: u64, sites: usize) -> Result<u32> {
    if index >= sites as u64 {
        return Err(Error::Malformed {
            what: "a site that is not listed",
        });
    }
    Ok(index as u32)
}

fn version(v: u64) -> Result<u64> {
    if !(1..=VERSION_MAX as u64).contains(&v) {
        return Err(Error::Malformed {
            what: "a version out of range",
        });
    }
    Ok(v)
}

fn read_transactions(input: &mut Input<'_>, sites: usize) -> Result<Vec<Transaction>> {
    let count = input.count(20)?;
    let mut versions = vec![0u64; sites];
    let (mut clock, mut db_version) = (0i64, 0i64);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let head = input.varint()?;
        let origin = site_index(head >> 1, sites)?;
        let grown = input.signed()?;
        let last = versions.get_mut(origin as usize).ok_or(Error::Malformed {
            what: "a site that is not listed",
        })?;
        *last = version(last.wrapping_add(grown as u64))?;
        clock = clock.wrapping_add(input.signed()?);
        db_version = db_version.wrapping_add(input.signed()?);
        if !(0..=VERSION_MAX).contains(&db_version) {
            return Err(Error::Malformed {
                what: "a db_version out of range",
            });
        }
        let nonce = u64::from_le_bytes(input.array()?);
        let chain = u64::from_le_bytes(input.array()?);
        let relay = head & 1 == 1;
        out.push(Transaction {
            origin,
            version: *last,
            clock,
            nonce,
            chain,
            relay,
            db_version,
        });
    }
    Ok(out)
}

fn read_empty_ranges(input: &mut Input<'_>, sites: usize) -> Result<Vec<EmptyRange>> {
    let count = input.count(11)?;
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let site = site_index(input.varint()?, sites)?;
        let from = version(input.varint()?)?;
        let to = version(from.saturating_add(input.varint()?))?;
        let chain = u64::from_le_bytes(input.array()?);
        out.push(EmptyRange {
            site,
            from,
            to,
            chain,
        });
    }
    Ok(out)
}

fn read_name<'a>(input: &mut Input<'a>) -> Result<&'a str> {
    let bytes = input.sized()?;
    if bytes.len() > NAME_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "bytes of a name",
            limit: NAME_BYTES_MAX as u64,
        });
    }
    str::from_utf8(bytes).map_err(|_| Error::Malformed {
        what: "a name is not UTF-8",
    })
}

/// The directory; `payload_len` says where `input` stands in the payload.
fn read_tables(input: &mut Input<'_>, payload_len: usize) -> Result<Vec<Entry>> {
    let count = input.count(7)?;
    if count > TABLES_MAX {
        return Err(Error::TooLarge {
            what: "tables",
            limit: TABLES_MAX as u64,
        });
    }
    let mut tables = Vec::with_capacity(count);
    let mut bodies_len = 0usize;
    for _ in 0..count {
        let start = payload_len - input.len();
        read_name(input)?;
        let (keys, columns) = read_columns(input, payload_len)?;
        let rows = input.varint()?;
        let body_len = input.count(1)?;
        // Every row has at least one byte in the key stream.
        if rows > body_len as u64 {
            return Err(Error::Malformed {
                what: "more rows than bytes",
            });
        }
        let body = bodies_len..bodies_len + body_len;
        bodies_len = body.end;
        tables.push(Entry {
            name: Names { start, count: 1 },
            keys,
            columns,
            rows,
            body,
        });
    }
    if bodies_len != input.len() {
        return Err(Error::Malformed {
            what: "the tables do not fill the changeset",
        });
    }
    let bodies_start = payload_len - input.len();
    tables
        .iter_mut()
        .for_each(|t| t.body = t.body.start + bodies_start..t.body.end + bodies_start);
    Ok(tables)
}

fn read_columns(input: &mut Input<'_>, payload_len: usize) -> Result<(Names, Names)> {
    let mut all = Vec::new();
    let mut places = [Names { start: 0, count: 0 }; 2];
    for place in &mut places {
        let count = input.count(1)?;
        if all.len() + count > COLUMNS_MAX {
            return Err(Error::TooLarge {
                what: "columns of a table",
                limit: COLUMNS_MAX as u64,
            });
        }
        *place = Names {
            start: payload_len - input.len(),
            count,
        };
        for _ in 0..count {
            all.push(read_name(input)?);
        }
    }
    let [keys, columns] = places;
    if keys.count == 0 || has_duplicates(all.into_iter()) {
        return Err(Error::Malformed {
            what: "a table without a key, or with two columns of one name",
        });
    }
    Ok((keys, columns))
}

/// The rows of one table.
#[derive(Debug)]
pub struct TableReader<'r> {
    info: TableInfo<'r>,
    rows_left: u64,
    runs: RunReader<'r>,
    keys: KeyReader<'r>,
    columns: Vec<ColumnReader<'r>>,
    values: Vec<ValueRef<'r>>,
    failed: Option<Error>,
}

/// One row. What it borrows is used again for the next.
#[derive(Clone, Copy, Debug)]
pub struct Row<'t> {
    /// The packed key. That it is well formed is for its decoder to check.
    pub key: &'t [u8],
    pub meta: &'t RowRecord,
    /// One value per live column of `meta`, by ascending column.
    pub values: &'t [ValueRef<'t>],
    /// The columns of `values`.
    pub columns: &'t [u32],
}

impl<'r> TableReader<'r> {
    fn open(info: TableInfo<'r>, body: &'r [u8], bounds: Bounds) -> Result<TableReader<'r>> {
        let mut input = Input::new(body);
        let runs_len = input.count(1)?;
        let key_mode = input.byte()?;
        let keys_len = input.count(1)?;
        let heads: Result<Vec<ColumnHead>> = (0..bounds.columns)
            .map(|_| ColumnHead::read(&mut input))
            .collect();
        let runs = RunReader::new(input.take(runs_len)?, bounds);
        let keys = KeyReader::open(key_mode, input.take(keys_len)?)?;
        let columns: Result<Vec<ColumnReader<'r>>> = heads?
            .iter()
            .map(|head| ColumnReader::open(head, &mut input))
            .collect();
        let columns = columns?;
        if info.rows > keys_len as u64 || !input.is_empty() {
            return Err(Error::Malformed {
                what: "the streams do not fill the table",
            });
        }
        let rows_left = info.rows;
        let reader = TableReader {
            info,
            rows_left,
            runs,
            keys,
            columns,
            values: Vec::new(),
            failed: None,
        };
        reader.check_end()?;
        Ok(reader)
    }

    pub fn name(&self) -> &'r str {
        self.info.name
    }

    /// The names of the key columns, in the order of the packed key.
    pub fn keys(&self) -> &[&'r str] {
        &self.info.keys
    }

    /// The names that the column sets of the records refer to.
    pub fn columns(&self) -> &[&'r str] {
        &self.info.columns
    }

    /// Rows of the whole table; never more than the changeset has bytes.
    pub fn row_count(&self) -> u64 {
        self.info.rows
    }

    /// The next row; None after the last. What was read before an error was well formed but is not all.
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.rows_left == 0 {
            return Ok(None);
        }
        if let Err(error) = self.decode() {
            self.failed = Some(error.clone());
            return Err(error);
        }
        let (meta, columns) = (self.runs.record(), self.runs.live());
        Ok(Some(Row {
            key: self.keys.current(),
            meta,
            values: &self.values,
            columns,
        }))
    }

    #[inline]
    fn decode(&mut self) -> Result<()> {
        self.runs.advance(self.rows_left)?;
        self.keys.advance()?;
        self.values.clear();
        for &col in self.runs.live() {
            let column = self.columns.get_mut(col as usize);
            let column = column.ok_or(Error::Malformed {
                what: "a column that is not listed",
            })?;
            self.values.push(column.next()?);
        }
        self.rows_left -= 1;
        self.check_end()
    }

    /// After the last row nothing may be left over.
    fn check_end(&self) -> Result<()> {
        if self.rows_left > 0 {
            return Ok(());
        }
        let drained = self.columns.iter().all(ColumnReader::is_drained);
        if !drained || !self.runs.is_drained() || !self.keys.is_drained() {
            return Err(Error::Malformed {
                what: "bytes left over behind the last row",
            });
        }
        Ok(())
    }
}
