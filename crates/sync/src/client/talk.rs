//! What passes between the machine and its driver.

use crate::Relation;
use crate::state::State;
use crate::transfer::MadeCut;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::{Id, Rejection, RowName, Void};

/// What the machine needs to know of the database; asked for with [`Request::Describe`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub site: Id,
    /// Every id under which this replica has written.
    pub mine: Vec<Id>,
    pub lineage: Option<Id>,
    pub schema: Vec<u8>,
    pub vector: VersionVector,
    /// The last own version and the chain hash there.
    pub head: Option<(u64, u64)>,
    /// The latest time that anything in the database carries, Unix milliseconds.
    pub clock_ms: i64,
    pub horizon: VersionVector,
    /// What the server had acknowledged, as the file remembers it.
    pub acknowledged: VersionVector,
    /// Milliseconds that are added to the clock of this machine.
    pub clock_offset_ms: i64,
    /// Transactions in `crsql_rejected`, and the reason of the last.
    pub rejected: u64,
    pub rejected_reason: String,
    /// Rows of which the server's state is to be asked for and merged; perhaps not all of them at once.
    pub wanted: Vec<RowName>,
}

/// What must be done before anything is merged.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    TakeLineage(Id),
    /// The server knows more of this site than the database does, which was rolled back: go on under a new id, also with
    /// what came after this version, which may be something else there.
    NewSite(u64),
    /// Two histories of this site: what came after this version goes on under a new id.
    GiveWay(u64),
    /// This clock is wrong: stamp the transactions that the server lacks anew.
    Restamp {
        acknowledged: VersionVector,
        offset_ms: i64,
    },
    /// Note whose room this is.
    Remember {
        server: Id,
        vector: VersionVector,
        relay: bool,
    },
}

/// What the machine asks of the storage.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Describe,
    /// How the server's schema stands to this one, and the chain hashes of an own version and of one of the server's.
    Compare {
        schema: Vec<u8>,
        version: Option<u64>,
        server: Option<(Id, u64)>,
    },
    /// All steps, in order.
    Prepare(Vec<Step>),
    /// A cut for one who holds `theirs`; None if there is nothing.
    MakeCut {
        theirs: VersionVector,
        own_only: bool,
        /// Versions of other sites that the server does not take from here.
        without: VersionVector,
        bytes_max: u64,
    },
    Apply(Vec<u8>),
    Adopt {
        rejections: Vec<Rejection>,
        rows: Vec<Vec<u8>>,
    },
    MergeRows(Vec<u8>),
    /// The server holds this.
    Acknowledge(VersionVector),
    /// Replace the database by a snapshot of the room, with the unsent transactions replayed on it.
    StartOver,
}

/// Why a cut was not applied.
#[derive(Clone, Debug, PartialEq)]
pub enum NotApplied {
    Gap(String),
    Fork(String),
    /// What is held of another site is not what the room has of it: one of them was restored, and wrote on under its old
    /// numbers.
    OtherHistory(String),
    OtherLineage(String),
    BelowHorizon(String),
    /// It is from the future: one of the clocks is wrong.
    Clock(String),
    /// The bytes are no honest changeset.
    Bad(String),
}

/// The answers of the storage. Those that changed the database, or may have, bring its facts.
#[derive(Clone, Debug)]
pub enum Reply {
    Described(Box<Facts>),
    Compared {
        relation: Relation,
        chain: Option<u64>,
        server: Option<u64>,
    },
    Prepared(Box<Facts>),
    Made(Option<MadeCut>),
    /// `holds`: what the cut says that its sender holds, `rejoin_wire::Reader::holds`.
    Applied {
        holds: VersionVector,
        facts: Box<Facts>,
    },
    NotApplied {
        why: NotApplied,
        facts: Box<Facts>,
    },
    /// `wanted` is not empty: nothing was done, the server's state of these rows is needed too.
    Adopted {
        voids: Vec<Void>,
        wanted: Vec<RowName>,
        facts: Box<Facts>,
    },
    Merged(Box<Facts>),
    /// With what was acknowledged.
    Acknowledged(VersionVector),
    StartedOver(Box<Facts>),
    /// It could not be done just now (locked, disk full); the database is as before.
    Failed(String),
    /// It cannot be done until somebody does something.
    Impossible(String),
}

#[derive(Clone, Debug)]
pub enum Event {
    Start,
    Stop,
    Connected,
    Frame(Vec<u8>),
    /// The connection is gone, or could not be made.
    Closed {
        why: String,
    },
    /// The database was written to, by this program or another.
    Changed,
    /// A newer token.
    Token(String),
    Reply(Reply),
    /// Time has passed; also given when `wake_at` has come.
    Tick,
}

#[derive(Clone, Debug)]
pub enum Effect {
    Connect,
    Send(Vec<u8>),
    Disconnect,
    Ask(Request),
    State(State),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub token: Option<String>,
    /// Program and version, for the server's log.
    pub agent: String,
    /// Clocks that differ by less are right.
    pub clock_tolerance_ms: i64,
    pub cut_bytes_max: u64,
    /// Seeds the jitter of the back-off.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            token: None,
            agent: String::new(),
            clock_tolerance_ms: 30_000,
            cut_bytes_max: 1 << 30,
            seed: 0,
        }
    }
}

impl Reply {
    pub(super) fn facts(&self) -> Option<&Facts> {
        match self {
            Reply::Described(facts)
            | Reply::Prepared(facts)
            | Reply::Applied { facts, .. }
            | Reply::NotApplied { facts, .. }
            | Reply::Adopted { facts, .. }
            | Reply::Merged(facts)
            | Reply::StartedOver(facts) => Some(facts),
            _ => None,
        }
    }
}
