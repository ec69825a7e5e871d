//! Reading a changeset; the layout is at the head of `writer.rs`.
//!
//! Opening checks the checksum, the log and the list of tables; rows are decoded one at a time from slices
//! of the payload, into buffers that are used again for the next. An error inside a table ends that table.

use std::borrow::Cow;

use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, ValueRef};

use crate::column::{ColumnHead, ColumnReader};
use crate::error::{Error, Result};
use crate::front::{self, Entry, Names};
use crate::keys::KeyReader;
use crate::limits::BYTES_MAX;
use crate::naming::{self, Naming};
use crate::record::{EmptyRange, Header, RowRecord, Transaction};
use crate::runs::{Bounds, RunReader};
use crate::varint::Input;
use crate::writer::{HAS_HORIZON, TAIL};

/// A changeset, intact and with a well-formed front; its rows are checked as they are read.
#[derive(Debug)]
pub struct Reader<'a> {
    payload: Cow<'a, [u8]>,
    row_states: bool,
    header: Header,
    sites: Vec<SiteId>,
    transactions: Vec<Transaction>,
    empty_ranges: Vec<EmptyRange>,
    base: Vec<EmptyRange>,
    horizon: VersionVector,
    tail: bool,
    tables: Vec<Entry>,
    next: usize,
}

/// What the list of tables says of one.
#[derive(Clone, Debug)]
pub struct TableInfo<'r> {
    pub name: Naming<'r>,
    pub keys: Vec<&'r str>,
    pub columns: Vec<Naming<'r>>,
    /// The sender does not have these columns itself.
    pub waiting: bool,
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
        let (payload, row_states) = front::payload(bytes, bytes_max)?;
        let mut input = Input::new(&payload);
        let (header, marks) = front::read_header(&mut input)?;
        let sites = front::read_sites(&mut input)?;
        let transactions = front::read_transactions(&mut input, sites.len())?;
        let empty_ranges = front::read_ranges(&mut input, sites.len())?;
        let base = front::read_ranges(&mut input, sites.len())?;
        let horizon = if marks & HAS_HORIZON == 0 {
            VersionVector::new()
        } else {
            front::read_horizon(&mut input, &sites)?
        };
        let tail = marks & TAIL != 0;
        let tables = front::read_tables(&mut input, payload.len())?;
        Ok(Reader {
            payload,
            row_states,
            header,
            sites,
            transactions,
            empty_ranges,
            base,
            horizon,
            tail,
            tables,
            next: 0,
        })
    }

    /// Whether this is no cut but all that is known of some rows.
    pub fn is_row_states(&self) -> bool {
        self.row_states
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

    /// What the sender took the receiver to hold; a receiver that does not must ask again.
    pub fn base(&self) -> &[EmptyRange] {
        &self.base
    }

    /// Below it, its sender has forgotten what was deleted; empty: nothing was forgotten, or the sender does not say.
    pub fn horizon(&self) -> &VersionVector {
        &self.horizon
    }

    /// It goes on where the last one ended: the base names only the end of that one, not all that the sender holds.
    pub fn is_tail(&self) -> bool {
        self.tail
    }

    /// The transactions that the changeset brings, those of which nothing is left included.
    pub fn brings(&self) -> VersionVector {
        let named = |t: &Transaction| Some((*self.sites.get(t.origin as usize)?, t.version, t.version));
        let all = self.transactions.iter().filter_map(named).chain(self.ranges(&self.empty_ranges));
        front::vector(all.collect())
    }

    /// The base as a vector.
    pub fn builds_on(&self) -> VersionVector {
        front::vector(self.ranges(&self.base).collect())
    }

    /// What its sender holds, as far as it says so: what it brings and what it builds on.
    pub fn holds(&self) -> VersionVector {
        let mut all = self.brings();
        all.merge(&self.builds_on());
        all
    }

    fn ranges<'r>(&'r self, ranges: &'r [EmptyRange]) -> impl Iterator<Item = (SiteId, u64, u64)> + 'r {
        ranges.iter().filter_map(|r| Some((*self.sites.get(r.site as usize)?, r.from, r.to)))
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
        let entry = self.tables.get(index).ok_or(Error::Invalid { what: "a table that is not there" })?;
        let bounds = Bounds {
            transactions: self.transactions.len(),
            sites: self.sites.len(),
            columns: entry.columns.count,
            absent: self.row_states,
        };
        let body = self.payload.get(entry.body.clone()).unwrap_or_default();
        TableReader::open(self.info(entry), body, bounds)
    }

    fn info(&self, entry: &Entry) -> TableInfo<'_> {
        let names = |names: &Names| {
            let mut input = Input::new(self.payload.get(names.start..).unwrap_or_default());
            // They were read once when the changeset was opened: the fallback is never taken.
            (0..names.count).map(|_| front::read_name(&mut input).unwrap_or_default()).collect::<Vec<_>>()
        };
        let mut name = Naming::new(names(&entry.name).first().copied().unwrap_or_default());
        let mut columns: Vec<Naming<'_>> = names(&entry.columns).into_iter().map(Naming::new).collect();
        let mut more = Input::new(self.payload.get(entry.more.start..).unwrap_or_default());
        naming::assign(&mut more, entry.more.count, &mut name, &mut columns);
        TableInfo { name, keys: names(&entry.keys), columns, waiting: entry.more.waiting, rows: entry.rows }
    }
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
        let heads: Result<Vec<ColumnHead>> =
            (0..bounds.columns).map(|_| ColumnHead::read(&mut input)).collect();
        let runs = RunReader::new(input.take(runs_len)?, bounds);
        let keys = KeyReader::open(key_mode, input.take(keys_len)?)?;
        let columns: Result<Vec<ColumnReader<'r>>> =
            heads?.iter().map(|head| ColumnReader::open(head, &mut input)).collect();
        let columns = columns?;
        if info.rows > keys_len as u64 || !input.is_empty() {
            return Err(Error::Malformed { what: "the streams do not fill the table" });
        }
        let rows_left = info.rows;
        let reader = TableReader { info, rows_left, runs, keys, columns, values: Vec::new(), failed: None };
        reader.check_end()?;
        Ok(reader)
    }

    pub fn name(&self) -> &Naming<'r> {
        &self.info.name
    }

    /// The names of the key columns, in the order of the packed key.
    pub fn keys(&self) -> &[&'r str] {
        &self.info.keys
    }

    /// The names that the column sets of the records refer to.
    pub fn columns(&self) -> &[Naming<'r>] {
        &self.info.columns
    }

    /// The sender does not have these columns itself: it hands on what others said of them.
    pub fn is_waiting(&self) -> bool {
        self.info.waiting
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
        Ok(Some(Row { key: self.keys.current(), meta, values: &self.values, columns }))
    }

    #[inline]
    fn decode(&mut self) -> Result<()> {
        self.runs.advance(self.rows_left)?;
        self.keys.advance()?;
        self.values.clear();
        for &col in self.runs.live() {
            let column = self.columns.get_mut(col as usize);
            let column = column.ok_or(Error::Malformed { what: "a column that is not listed" })?;
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
            return Err(Error::Malformed { what: "bytes left over behind the last row" });
        }
        Ok(())
    }
}
