//! The sync server: rooms, each a SQLite file with the engine, behind WebSocket and HTTP.
//!
//! It trusts nobody: who a client is says its token, what it may write say the room's policies, and how much of anything
//! it gets say the limits. It makes no merge decisions; the sessions are `rejoin-sync`, the changes the engine's.
//!
//! Each room has a thread that owns its file; connections are Tokio tasks, which never block.
#![forbid(unsafe_code)]

mod app;
mod auth;
mod check;
pub mod config;
mod crypto;
mod download;
mod driver;
mod error;
mod exchange;
mod http;
mod limits;
mod listener;
mod live;
mod members;
mod metrics;
mod names;
mod owner;
mod patience;
mod policy;
mod room;
mod rooms;
mod schema;
mod server;
mod snapshot;
mod socket;
mod tail;
mod tls;

/// A room without threads and sockets, for the simulation.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod inside {
    pub use crate::auth::Grant;
    pub use crate::driver::Told;
    pub use crate::names::RoomName;
    pub use crate::owner::Owner;
    pub use crate::room::{Client, Head, Shared};
    pub use crate::rooms::Common;
    pub use crate::snapshot::write as write_snapshot;
}

pub use config::{Config, Options};
pub use error::StartError;
pub use server::Server;
