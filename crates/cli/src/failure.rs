//! Why a command failed: the sentence and the exit code.

use std::fmt::Display;
use std::path::Path;

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Kinds of failure; the numbers are documented in `rejoin --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Differs,
    Usage,
    File,
    Foreign,
    Refused,
    Busy,
    Damaged,
    System,
    Incompatible,
    Rejected,
    Behind,
    Offline,
    Interrupted,
    Pipe,
}

impl Kind {
    pub fn code(self) -> u8 {
        match self {
            Kind::Pipe => 0,
            Kind::Differs => 1,
            Kind::Usage => 2,
            Kind::File => 3,
            Kind::Foreign => 4,
            Kind::Refused => 5,
            Kind::Busy => 6,
            Kind::Damaged => 7,
            Kind::System => 8,
            Kind::Incompatible => 9,
            Kind::Rejected => 10,
            Kind::Behind => 11,
            Kind::Offline => 12,
            Kind::Interrupted => 130,
        }
    }
}

#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    /// Names the file that it is about.
    pub fn at(self, place: impl Display) -> Failure {
        Failure { message: format!("{place}: {}", self.message), ..self }
    }

    pub fn io(path: &Path, e: std::io::Error) -> Failure {
        use std::io::ErrorKind as E;
        let kind = match e.kind() {
            E::NotFound | E::PermissionDenied | E::IsADirectory | E::AlreadyExists => Kind::File,
            E::NotADirectory | E::ReadOnlyFilesystem => Kind::File,
            E::BrokenPipe => Kind::Pipe,
            _ => Kind::System,
        };
        Failure::new(kind, format!("{}: {e}", path.display()))
    }
}

pub fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

pub fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Refused, message)
}

/// By SQLite's primary result code.
fn sqlite(code: i32, message: &str) -> Failure {
    let (kind, advice) = match code & 0xff {
        5 | 6 => (Kind::Busy, "; another program is writing to it: try again, or wait longer with --wait"),
        9 => (Kind::Interrupted, ""),
        3 | 8 | 14 | 23 => (Kind::File, "; are the file and its folder there, and may you write to them?"),
        26 => (Kind::File, "; it is no SQLite database"),
        11 => (Kind::Damaged, ""),
        7 | 10 | 13 => (Kind::System, ""),
        _ => (Kind::Refused, ""),
    };
    Failure::new(kind, format!("{message}{advice}"))
}

impl From<rejoin::Error> for Failure {
    fn from(e: rejoin::Error) -> Failure {
        use rejoin::Error as E;
        match &e {
            E::Sqlite(e) => sqlite(e.code, &e.message),
            E::Damaged { .. } => Failure::new(Kind::Damaged, e.to_string()),
            E::NeedsUpgrade | E::TooNew { .. } => Failure::new(Kind::Foreign, e.to_string()),
            _ => refused(e.to_string()),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Failure {
        match &e {
            rusqlite::Error::SqliteFailure(code, message) => {
                let text = message.clone().unwrap_or_else(|| e.to_string());
                sqlite(code.extended_code, &text)
            }
            rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
                let near = usize::try_from(*offset).ok().and_then(|at| sql.get(at..));
                let near: String = near.unwrap_or("").chars().take(40).collect();
                let near = near.lines().next().unwrap_or("").trim();
                if near.is_empty() { refused(msg.clone()) } else { refused(format!("{msg}, at: {near}")) }
            }
            _ => refused(e.to_string()),
        }
    }
}
