//! What a program may choose.

use crate::error::Error;
use rejoin::Commit;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where the token comes from that says who this is.
#[derive(Clone, Debug, Default)]
pub enum Token {
    /// The server asks for none.
    #[default]
    None,
    /// This one; [`crate::SyncClient::set_token`] renews it.
    Fixed(String),
    /// What is in a file, which is read again when it changes.
    File(PathBuf),
}

impl Token {
    pub(crate) fn read(&self) -> Result<Option<String>, Error> {
        match self {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => match std::fs::read_to_string(path) {
                Ok(token) => Ok(Some(token.trim().to_owned())),
                Err(error) => Err(Error::File { path: path.clone(), error }),
            },
        }
    }
}

/// Hears of transactions; on the thread that owns the database, so let it send a message.
pub type OnCommit = Box<dyn Fn(&Commit) + Send>;

/// How to sync.
pub struct Options {
    pub token: Token,
    /// Program and version, for the server's log.
    pub agent: String,
    /// How the database is opened.
    pub replica: rejoin::Options,
    /// How long to wait for other writers of the file.
    pub busy_timeout: Duration,
    /// Certificates (PEM) of authorities to trust beside those of the system, for `wss`.
    pub ca_file: Option<PathBuf>,
    /// Hears of each transaction that comes from the server, and of those made through [`crate::SyncClient::with`].
    pub on_commit: Option<OnCommit>,
    /// The clock of this machine, Unix milliseconds; another one only in tests.
    #[doc(hidden)]
    pub now_ms: fn() -> i64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            token: Token::None,
            agent: concat!("rejoin-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            replica: rejoin::Options::default(),
            busy_timeout: Duration::from_secs(5),
            ca_file: None,
            on_commit: None,
            now_ms: rejoin::ambient::now_ms,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("agent", &self.agent)
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}
