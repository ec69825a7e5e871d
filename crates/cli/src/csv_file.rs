//! CSV as it is found in the wild: with a byte order mark, odd quoting, gaps in the header, other encodings.

use crate::failure::{Failure, Kind, Result, refused};
use crate::stop;
use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use std::cell::Cell;
use std::io::{Cursor, Read};
use std::path::Path;
use std::rc::Rc;

/// A record longer than this is a quote that is never closed.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// What the parser has read, as the layer below it sees it.
#[derive(Default)]
struct Seen {
    since_record: Cell<u64>,
    quotes: Cell<u64>,
}

/// Counts what goes by, and stops a record that never ends.
struct Guard {
    inner: Box<dyn Read>,
    seen: Rc<Seen>,
}

const ENDLESS: &str = "a record of more than 64 MiB";

impl Read for Guard {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        let since = self.seen.since_record.get() + n as u64;
        if since > RECORD_BYTES_MAX {
            return Err(std::io::Error::other(ENDLESS));
        }
        self.seen.since_record.set(since);
        let quotes = buf.iter().take(n).filter(|b| **b == b'"').count() as u64;
        self.seen.quotes.set(self.seen.quotes.get() + quotes);
        Ok(n)
    }
}

/// A column of the file.
pub struct Header {
    pub name: String,
    /// Position in each record.
    pub at: usize,
}

pub struct CsvFile {
    name: String,
    reader: csv::Reader<Guard>,
    seen: Rc<Seen>,
    record: ByteRecord,
    /// The columns that have a name.
    pub headers: Vec<Header>,
    /// Positions (from 1) of those that have none.
    pub unnamed: Vec<usize>,
    pub bytes: u64,
    line: u64,
    /// The last record has a line break, as when a quote swallows what follows.
    spans: bool,
}

/// Where the text comes from; it can be read twice.
pub enum Source {
    File(std::path::PathBuf),
    Memory(Rc<[u8]>),
}

impl Source {
    /// `-` is stdin. What is no ordinary file can be read only once.
    pub fn new(path: &Path) -> Result<Source> {
        let fail = |e| Failure::io(path, e);
        if path == Path::new("-") {
            return Ok(Source::Memory(stop::read_all(std::io::stdin()).map_err(fail)?.into()));
        }
        let found = std::fs::metadata(path).map_err(fail)?;
        if found.is_dir() {
            return Err(Failure::new(Kind::File, format!("{} is a folder, not a CSV file", path.display())));
        }
        if found.is_file() {
            return Ok(Source::File(path.to_owned()));
        }
        let file = std::fs::File::open(path).map_err(fail)?;
        Ok(Source::Memory(stop::read_all(file).map_err(fail)?.into()))
    }

    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Memory(_) => "the input".into(),
        }
    }

    fn open(&self) -> Result<(Box<dyn Read>, u64)> {
        match self {
            Source::Memory(bytes) => {
                let length = bytes.len() as u64;
                Ok((Box::new(Cursor::new(Rc::clone(bytes))), length))
            }
            Source::File(path) => {
                let file = std::fs::File::open(path).map_err(|e| Failure::io(path, e))?;
                let found = file.metadata().map_err(|e| Failure::io(path, e))?;
                Ok((Box::new(file), found.len()))
            }
        }
    }
}

const ICONV: &str = "convert it first, for example with iconv -f WINDOWS-1252 -t UTF-8";

impl CsvFile {
    pub fn open(source: &Source, delimiter: u8) -> Result<CsvFile> {
        let name = source.name();
        let (mut inner, bytes) = source.open()?;
        let mut head = Vec::new();
        let read = inner.by_ref().take(3).read_to_end(&mut head);
        read.map_err(|e| Failure::io(Path::new(&name), e))?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(refused(format!("{name} is UTF-16; convert it to UTF-8 first")));
        }
        if head == [0xef, 0xbb, 0xbf] {
            head.clear();
        }
        let seen = Rc::new(Seen::default());
        let guard = Guard { inner: Box::new(Cursor::new(head).chain(inner)), seen: Rc::clone(&seen) };
        let reader = ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(guard);
        let mut file = CsvFile {
            name,
            reader,
            seen,
            record: ByteRecord::new(),
            headers: Vec::new(),
            unnamed: Vec::new(),
            bytes,
            line: 1,
            spans: false,
        };
        file.read_headers()?;
        Ok(file)
    }

    fn read_headers(&mut self) -> Result<()> {
        if !self.next()? {
            return Err(refused(format!(
                "{} is empty: it must begin with a line of column names",
                self.name
            )));
        }
        for at in 0..self.record.len() {
            let name = self.text(at)?.trim().to_owned();
            if name.is_empty() {
                self.unnamed.push(at + 1);
                continue;
            }
            if let Some(twin) = self.headers.iter().find(|h| h.name.eq_ignore_ascii_case(&name)) {
                let (a, b) = (twin.at + 1, at + 1);
                let message =
                    format!("{}: columns {a} and {b} are both named \"{name}\"; rename one", self.name);
                return Err(refused(message));
            }
            self.headers.push(Header { name, at });
        }
        if self.headers.is_empty() {
            return Err(refused(format!("{}: no column of the first line has a name", self.name)));
        }
        Ok(())
    }

    /// Reads the next record; false at the end.
    pub fn next(&mut self) -> Result<bool> {
        stop::check()?;
        self.seen.since_record.set(0);
        let line = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.record);
        let more = read.map_err(|e| self.failure(&e))?;
        self.line = self.record.position().map_or(line, csv::Position::line);
        if !more && self.seen.quotes.get() % 2 == 1 && self.spans {
            return Err(self.refuse("a quote is opened and never closed"));
        }
        self.spans = self.reader.position().line() > self.line + 1;
        Ok(more)
    }

    fn failure(&self, e: &csv::Error) -> Failure {
        match e.kind() {
            ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let line = pos.as_ref().map_or(self.line, csv::Position::line);
                let quote = if self.seen.quotes.get() % 2 == 1 { " (is a quote not closed?)" } else { "" };
                let text = format!("it has {len} fields, the first line has {expected_len}{quote}");
                refused(format!("{}, line {line}: {text}", self.name))
            }
            ErrorKind::Io(io) if io.to_string() == ENDLESS => {
                let line = self.reader.position().line();
                refused(format!("{}, line {line}: {ENDLESS}; a quote is opened and never closed", self.name))
            }
            ErrorKind::Io(io) => Failure::new(Kind::System, format!("{}: {io}", self.name)),
            _ => refused(format!("{}: {e}", self.name)),
        }
    }

    /// An error about the record that was read last.
    pub fn refuse(&self, why: impl std::fmt::Display) -> Failure {
        refused(format!("{}, line {}: {why}", self.name, self.line))
    }

    /// A field of the record that was read last.
    pub fn text(&self, at: usize) -> Result<&str> {
        let field = self.record.get(at).unwrap_or_default();
        std::str::from_utf8(field).map_err(|e| {
            let (column, byte) = (at + 1, field.get(e.valid_up_to()).copied().unwrap_or(0));
            self.refuse(format!("column {column} is not UTF-8 (byte {byte:#04x}); {ICONV}"))
        })
    }

    /// How far the reader has come.
    pub fn position(&self) -> u64 {
        self.reader.position().byte()
    }
}
