//! Why something could not be begun, or a first sync not be ended. A running client has states instead.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database.
    Database(rejoin::Error),
    /// No address of a room.
    Url { url: String, why: String },
    /// A file other than a database: the token, a certificate, the part of a download.
    File { path: PathBuf, error: std::io::Error },
    /// The file that is to be made is there already.
    Exists { path: PathBuf },
    /// The server was not reached, or the connection ended.
    Unreachable { why: String },
    /// The server answered, and refuses; `status` is that of HTTP, `code` the one of the protocol.
    Refused { status: u16, code: String, message: String },
    /// The room has nothing to download; a plain sync into a new file gets everything.
    NoSnapshot,
    /// What was downloaded is not what the server sent.
    Damaged { why: String },
    /// The operating system gives no thread or no socket.
    System(std::io::Error),
    /// The client has been stopped.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Database(e) => e.fmt(f),
            Error::Url { url, why } => {
                write!(f, "{url:?} is no address of a room: {why}; one is ws://HOST:PORT/ROOM")
            }
            Error::File { path, error } => write!(f, "{}: {error}", path.display()),
            Error::Exists { path } => write!(f, "{} is there already", path.display()),
            Error::Unreachable { why } => f.write_str(why),
            Error::Refused { status, message, .. } if message.is_empty() => {
                write!(f, "the server answers with HTTP status {status}")
            }
            Error::Refused { message, .. } => write!(f, "the server refuses: {message}"),
            Error::NoSnapshot => f.write_str("the server has no snapshot of the room"),
            Error::Damaged { why } => f.write_str(why),
            Error::System(e) => e.fmt(f),
            Error::Stopped => f.write_str("the sync client has been stopped"),
        }
    }
}

impl std::error::Error for Error {}

impl From<rejoin::Error> for Error {
    fn from(e: rejoin::Error) -> Error {
        Error::Database(e)
    }
}
