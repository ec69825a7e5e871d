//! The one error type of this layer: an extended SQLite result code and a sentence.

use std::fmt;

use rusqlite::ffi;

/// What SQLite refused, or what a callback refuses towards SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Extended result code (`SQLITE_CONSTRAINT_UNIQUE`, not only `SQLITE_CONSTRAINT`).
    pub code: i32,
    /// The sentence for people. May be empty: then the code speaks for itself.
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    #[cold]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A plain `SQLITE_ERROR` with a sentence.
    #[cold]
    pub fn msg(message: impl Into<String>) -> Self {
        Self::new(ffi::SQLITE_ERROR, message)
    }

    /// The low byte of the code: its family.
    pub fn primary_code(&self) -> i32 {
        self.code & 0xff
    }

    pub fn is_busy(&self) -> bool {
        self.primary_code() == ffi::SQLITE_BUSY
    }

    pub fn is_constraint(&self) -> bool {
        self.primary_code() == ffi::SQLITE_CONSTRAINT
    }

    /// Nothing is wrong with what was asked for: the disk, the memory, another connection or an interruption stood in its way.
    pub fn is_outside(&self) -> bool {
        matches!(
            self.primary_code(),
            ffi::SQLITE_NOMEM
                | ffi::SQLITE_IOERR
                | ffi::SQLITE_FULL
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_CORRUPT
                | ffi::SQLITE_PROTOCOL
                | ffi::SQLITE_BUSY
                | ffi::SQLITE_LOCKED
                | ffi::SQLITE_INTERRUPT
                | ffi::SQLITE_ABORT
        )
    }

    /// The code as SQLite must see it: a callback that failed never reports success.
    pub(crate) fn code_for_sqlite(&self) -> i32 {
        if matches!(self.primary_code(), ffi::SQLITE_OK | ffi::SQLITE_ROW | ffi::SQLITE_DONE) {
            return ffi::SQLITE_ERROR;
        }
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            return f.write_str(&self.message);
        }
        match code_name(self.code) {
            Some(name) => f.write_str(name),
            None => write!(f, "SQLite result code {}", self.code),
        }
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(e, Some(message)) => Self::new(e.extended_code, message),
            rusqlite::Error::SqliteFailure(e, None) => Self::new(e.extended_code, e.to_string()),
            other => Self::msg(other.to_string()),
        }
    }
}

impl From<Error> for rusqlite::Error {
    fn from(error: Error) -> Self {
        Self::SqliteFailure(ffi::Error::new(error.code), Some(error.message))
    }
}

/// The name of a result code; of its primary code if the extended one has none here.
pub fn code_name(code: i32) -> Option<&'static str> {
    let find = |wanted: i32| CODES.iter().find(|(c, _)| *c == wanted).map(|(_, name)| *name);
    find(code).or_else(|| find(code & 0xff))
}

/// Result codes and their names: every primary code, and the extended ones that applications tell apart.
pub const CODES: &[(i32, &str)] = &[
    (ffi::SQLITE_OK, "SQLITE_OK"),
    (ffi::SQLITE_ERROR, "SQLITE_ERROR"),
    (ffi::SQLITE_INTERNAL, "SQLITE_INTERNAL"),
    (ffi::SQLITE_PERM, "SQLITE_PERM"),
    (ffi::SQLITE_ABORT, "SQLITE_ABORT"),
    (ffi::SQLITE_BUSY, "SQLITE_BUSY"),
    (ffi::SQLITE_LOCKED, "SQLITE_LOCKED"),
    (ffi::SQLITE_NOMEM, "SQLITE_NOMEM"),
    (ffi::SQLITE_READONLY, "SQLITE_READONLY"),
    (ffi::SQLITE_INTERRUPT, "SQLITE_INTERRUPT"),
    (ffi::SQLITE_IOERR, "SQLITE_IOERR"),
    (ffi::SQLITE_CORRUPT, "SQLITE_CORRUPT"),
    (ffi::SQLITE_NOTFOUND, "SQLITE_NOTFOUND"),
    (ffi::SQLITE_FULL, "SQLITE_FULL"),
    (ffi::SQLITE_CANTOPEN, "SQLITE_CANTOPEN"),
    (ffi::SQLITE_PROTOCOL, "SQLITE_PROTOCOL"),
    (ffi::SQLITE_EMPTY, "SQLITE_EMPTY"),
    (ffi::SQLITE_SCHEMA, "SQLITE_SCHEMA"),
    (ffi::SQLITE_TOOBIG, "SQLITE_TOOBIG"),
    (ffi::SQLITE_CONSTRAINT, "SQLITE_CONSTRAINT"),
    (ffi::SQLITE_MISMATCH, "SQLITE_MISMATCH"),
    (ffi::SQLITE_MISUSE, "SQLITE_MISUSE"),
    (ffi::SQLITE_NOLFS, "SQLITE_NOLFS"),
    (ffi::SQLITE_AUTH, "SQLITE_AUTH"),
    (ffi::SQLITE_FORMAT, "SQLITE_FORMAT"),
    (ffi::SQLITE_RANGE, "SQLITE_RANGE"),
    (ffi::SQLITE_NOTADB, "SQLITE_NOTADB"),
    (ffi::SQLITE_NOTICE, "SQLITE_NOTICE"),
    (ffi::SQLITE_WARNING, "SQLITE_WARNING"),
    (ffi::SQLITE_ROW, "SQLITE_ROW"),
    (ffi::SQLITE_DONE, "SQLITE_DONE"),
    (ffi::SQLITE_BUSY_RECOVERY, "SQLITE_BUSY_RECOVERY"),
    (ffi::SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"),
    (ffi::SQLITE_LOCKED_SHAREDCACHE, "SQLITE_LOCKED_SHAREDCACHE"),
    (ffi::SQLITE_READONLY_DBMOVED, "SQLITE_READONLY_DBMOVED"),
    (ffi::SQLITE_CONSTRAINT_CHECK, "SQLITE_CONSTRAINT_CHECK"),
    (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "SQLITE_CONSTRAINT_FOREIGNKEY"),
    (ffi::SQLITE_CONSTRAINT_NOTNULL, "SQLITE_CONSTRAINT_NOTNULL"),
    (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "SQLITE_CONSTRAINT_PRIMARYKEY"),
    (ffi::SQLITE_CONSTRAINT_ROWID, "SQLITE_CONSTRAINT_ROWID"),
    (ffi::SQLITE_CONSTRAINT_TRIGGER, "SQLITE_CONSTRAINT_TRIGGER"),
    (ffi::SQLITE_CONSTRAINT_UNIQUE, "SQLITE_CONSTRAINT_UNIQUE"),
    (ffi::SQLITE_CONSTRAINT_VTAB, "SQLITE_CONSTRAINT_VTAB"),
    (ffi::SQLITE_CONSTRAINT_DATATYPE, "SQLITE_CONSTRAINT_DATATYPE"),
];
