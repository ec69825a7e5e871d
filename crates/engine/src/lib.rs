//! Replicated SQLite: ordinary tables that every device writes at once and that become equal when devices meet.
#![forbid(unsafe_code)]

mod adopt;
mod alter;
#[doc(hidden)]
pub mod ambient;
mod apply;
mod automigrate;
mod block;
mod bulk;
mod capture;
mod catalog;
mod changes;
mod changeset;
mod checked;
mod codec;
mod columns;
mod config;
mod copies;
mod core;
mod cut;
mod digest;
mod emit;
mod engine;
pub mod error;
mod exchange;
mod flush;
mod forgotten;
mod format;
mod fract;
mod functions;
mod hasher;
#[cfg(feature = "owned")]
mod hook;
#[cfg(not(feature = "owned"))]
#[path = "unhooked.rs"]
mod hook;
mod horizon;
mod image;
mod journal;
mod listing;
mod log;
mod merge;
mod mode;
mod names;
mod observe;
mod openblock;
mod parked;
mod peers;
mod place;
mod rejected;
mod relation;
mod replay;
mod replica;
mod restamp;
mod rowstate;
mod rowwise;
mod schema;
mod servers;
mod session;
mod snapshot;
mod status;
mod store;
mod stream;
mod tokens;
mod told;
mod unpack;
mod upgrade;
mod value;
mod verify;
mod void;
mod vtab;
mod writers;

pub use adopt::{Adopted, CODE_DEPENDS};
pub use apply::Applied;
pub use checked::{
    CODE_CONSTRAINT, CODE_INCOMPLETE, Checked, Checker, Missing, Op, Refusal, Rejection, RowFacts, RowKey,
    TransactionFacts,
};
pub use error::{Error, Result};
pub use horizon::{Collected, ReplicaNote};
pub use observe::{Commit, TableChange};
pub use rejected::RejectedCell;
pub use rejoin_crdt::Value;
pub use rejoin_crdt::site::SiteId;
pub use rejoin_crdt::vector::VersionVector;
pub use rejoin_wire::Relation;
pub use replay::Replayed;
pub use replica::{Options, Replica};
pub use servers::{Pending, ServerNote};
pub use session::{Cut, CutRequest, Head, Position};
pub use snapshot::Snapshot;
pub use status::{ParkedChanges, Status, TableStatus};
pub use verify::{Problem, Report, key_text, unpack_key};
pub use void::Void;

/// For hosts that bring a raw connection (the loadable extension). It reads nothing of the file: an owned one is
/// captured from the first call of a function on, so programs should use [`Replica::attach`], which makes it.
pub fn register(db: rejoin_sqlite::Db) -> Result<()> {
    engine::Engine::register(db).map(drop)
}
