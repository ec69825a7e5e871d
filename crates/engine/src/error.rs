//! Every way in which the engine can refuse, and the SQLite code that a host sees for it.

use rejoin_sqlite as sqlite;
use rejoin_sqlite::ffi;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// SQLite itself refused; its extended code and message.
    Sqlite(sqlite::Error),
    /// The metadata in the file contradicts itself or cannot be decoded.
    Damaged { what: String },
    /// The file was written by cr-sqlite and has not been converted.
    NeedsUpgrade,
    /// The file was written by a newer Rejoin.
    TooNew { format: i64 },
    /// The table has something that cannot be replicated.
    Unsupported { table: String, what: String, advice: String },
    /// No such table, or it is not replicated.
    NoTable { table: String, why: &'static str },
    /// An argument of an SQL function or API call does not fit.
    BadArgument { function: &'static str, why: String },
    /// A row inserted into `crsql_changes`, or a row of a changeset, is malformed.
    BadChange { why: String },
    /// A change that would poison the versions of everybody (rule 3.10).
    Poison { why: String },
    /// A change that is stamped further in the future than clocks may differ (rule 3.10).
    Clock { why: String },
    /// A replicated row whose key is NULL or that a capture trigger of another file named.
    Capture { why: String },
    /// The bytes of a changeset.
    Changeset { why: String },
    /// The changeset builds on transactions that this replica lacks.
    Gap { site: String, from: u64, to: u64 },
    /// One of the two replicas holds a part of what is below the other's horizon and lacks another part: what was deleted
    /// there is forgotten, so it must start over from a snapshot. `here`: it is this one.
    BelowHorizon { here: bool, site: String, from: u64, to: u64 },
    /// Two histories under one site id.
    Fork { site: String, version: u64 },
    /// What is one table, or one column of `table`, on one side is two on the other: the schemas came apart.
    Incompatible { table: Option<String>, one: String, two: [String; 2], two_here: bool },
    /// The changeset belongs to another database.
    OtherLineage { ours: String, theirs: String },
    /// The other replica has transactions that its server has not acknowledged, which it gives to nobody else.
    Unsent { transactions: u64 },
    /// More is to be sent than a changeset may hold.
    TooLarge { bytes: u64, bytes_max: u64 },
    /// A changeset of more rows and transactions than are taken at once.
    TooMany { items: u64, items_max: u64 },
    /// The call cannot be made at this point of a transaction.
    State { why: String },
    /// A constraint of the user's table refuses merged values; nothing was applied.
    Constraint { table: String, why: String, code: i32 },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Sqlite(e) => write!(f, "{}", e.message),
            Error::Damaged { what } => {
                write!(f, "the replication metadata is damaged: {what}; run `rejoin verify --repair`")
            }
            Error::NeedsUpgrade => write!(
                f,
                "this database was written by cr-sqlite; convert it with `rejoin upgrade DB` or SELECT crsql_upgrade()"
            ),
            Error::TooNew { format } => write!(
                f,
                "this database has Rejoin format {format}, newer than this build reads ({}); update Rejoin",
                crate::format::FORMAT
            ),
            Error::Unsupported { table, what, advice } => {
                write!(f, "table \"{table}\" cannot be replicated: {what}; {advice}")
            }
            Error::NoTable { table, why } => write!(f, "table \"{table}\" {why}"),
            Error::BadArgument { function, why } => write!(f, "{function}: {why}"),
            Error::BadChange { why } => write!(f, "crsql_changes: {why}"),
            Error::Poison { why } | Error::Clock { why } => write!(f, "change refused: {why}"),
            Error::Capture { why } => write!(f, "write refused: {why}"),
            Error::Changeset { why } => write!(f, "changeset refused: {why}"),
            Error::Gap { site, from, to } => write!(
                f,
                "changeset refused: it builds on versions {from} to {to} of site {site}, which this replica lacks; \
                 apply what brings them first, or ask for a changeset made for this replica's version vector"
            ),
            Error::BelowHorizon { here, site, from, to } => write!(
                f,
                "{} lacks versions {from} to {to} of site {site}, and the other one has forgotten what was deleted up to there: it must \
                 start over from a snapshot of the other; what only it has can be replayed onto that",
                if *here { "this replica" } else { "the replica that made the changeset" }
            ),
            Error::Fork { site, version } => write!(
                f,
                "site {site} has two histories at version {version}: two copies of one file wrote under one id; \
                 give one of them a new id with SELECT crsql_new_site_id()"
            ),
            Error::Incompatible { table, one, two: [a, b], two_here } => {
                let what = if table.is_some() { "column" } else { "table" };
                table.iter().try_for_each(|table| write!(f, "table \"{table}\": "))?;
                if *two_here {
                    write!(f, "what the peer calls {what} {one} is two here, {a} and {b}")?;
                } else {
                    write!(f, "what is one {what} here, {one}, is two at the peer, {a} and {b}")?;
                }
                write!(
                    f,
                    ": the schemas were changed in different ways; start one of the replicas over from a copy of the other. \
                     Nothing was applied"
                )
            }
            Error::OtherLineage { ours, theirs } => {
                write!(f, "the changeset comes from another database (lineage {theirs}, this one is {ours})")
            }
            Error::Unsent { transactions } => write!(
                f,
                "the other replica has {transactions} transactions that its server has not acknowledged, and changes that cannot \
                 be told without them; let it sync first"
            ),
            Error::TooLarge { bytes, bytes_max } => write!(
                f,
                "a changeset of {bytes} bytes or more would be needed, and {bytes_max} is the limit; \
                 start the other replica from a snapshot"
            ),
            Error::TooMany { items, items_max } => {
                write!(f, "a changeset of {items} rows and transactions; {items_max} are taken at once")
            }
            Error::State { why } => write!(f, "{why}"),
            Error::Constraint { table, why, .. } => {
                write!(f, "merged values do not fit table \"{table}\": {why}; nothing was applied")
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The SQLite result code for a host.
    pub fn code(&self) -> i32 {
        match self {
            Error::Sqlite(e) => e.code,
            Error::Damaged { .. } => ffi::SQLITE_CORRUPT,
            Error::NeedsUpgrade | Error::TooNew { .. } => ffi::SQLITE_CANTOPEN,
            Error::BadChange { .. } | Error::BadArgument { .. } => ffi::SQLITE_ERROR,
            Error::Poison { .. } | Error::Changeset { .. } => ffi::SQLITE_ERROR,
            Error::Constraint { code, .. } => *code,
            _ => ffi::SQLITE_ERROR,
        }
    }

    /// See [`sqlite::Error::is_outside`].
    pub(crate) fn is_outside(&self) -> bool {
        matches!(self, Error::Sqlite(e) if e.is_outside())
    }

    pub fn damaged(what: impl Into<String>) -> Error {
        Error::Damaged { what: what.into() }
    }
}

impl From<sqlite::Error> for Error {
    fn from(e: sqlite::Error) -> Error {
        Error::Sqlite(e)
    }
}

impl From<rejoin_crdt::limits::Poison> for Error {
    fn from(e: rejoin_crdt::limits::Poison) -> Error {
        match e {
            rejoin_crdt::limits::Poison::Drift { .. } => Error::Clock { why: e.to_string() },
            _ => Error::Poison { why: e.to_string() },
        }
    }
}

impl From<crate::codec::Damaged> for Error {
    fn from(_: crate::codec::Damaged) -> Error {
        Error::damaged("a metadata record cannot be decoded")
    }
}

impl From<Error> for sqlite::Error {
    fn from(e: Error) -> sqlite::Error {
        match e {
            Error::Sqlite(e) => e,
            other => sqlite::Error::new(other.code(), other.to_string()),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Error {
        Error::Sqlite(e.into())
    }
}
