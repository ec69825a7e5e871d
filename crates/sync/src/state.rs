//! The one state that a client reports.

use std::fmt;

/// What a program shows to its user. Exactly one holds at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected; why, and when (Unix milliseconds) it is tried again, if it is.
    Offline { why: String, retry_at_ms: Option<u64> },
    /// A connection is being made, or its first frames are under way.
    Connecting,
    /// Connected, schemas compatible, nothing pending, everything that the server has is here.
    Synced,
    /// `pending` own transactions are not applied and acknowledged by the server; `bytes` are known to be still to
    /// travel, in both directions.
    Syncing { pending: u64, bytes: u64 },
    /// All that both sides can take is exchanged, but one of them lacks something: a schema, or transactions that only
    /// another may hand in.
    Behind { pending: u64, reason: String },
    /// The server does not take this database, or cannot: somebody must do something.
    Incompatible { reason: String },
    /// The server has rejected transactions that the application has not dealt with; the rest goes on syncing.
    Rejected { pending: u64, transactions: u64, reason: String },
}

impl State {
    /// The name by which programs know it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Offline { .. } => "offline",
            State::Connecting => "connecting",
            State::Synced => "synced",
            State::Syncing { .. } => "syncing",
            State::Behind { .. } => "behind",
            State::Incompatible { .. } => "incompatible",
            State::Rejected { .. } => "rejected",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            State::Connecting | State::Synced => Ok(()),
            State::Offline { why, .. } if why.is_empty() => Ok(()),
            State::Offline { why, .. } => write!(f, ": {why}"),
            State::Syncing { pending, bytes } => write!(f, ": {pending} pending, {bytes} bytes"),
            State::Behind { reason, .. } | State::Incompatible { reason } => write!(f, ": {reason}"),
            State::Rejected { transactions, reason, .. } => {
                write!(f, ": {transactions} transactions, the last: {reason}")
            }
        }
    }
}
