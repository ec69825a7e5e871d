//! Keeps a database equal to its room on a server.
//!
//! [`SyncClient`] runs beside a program and reports one [`State`]; [`sync_once`] brings both sides up to date and returns;
//! [`clone_room`] makes a new replica from a snapshot of the room. What they say to each other decide the state machines
//! of `rejoin-sync`; here are sockets, clocks and threads.
//!
//! ```text
//!   program  <-- Report, Commit --  SyncClient  -- commands -->  driver (thread, one-thread Tokio)  <-- frames --> server
//!                                       |                          |   ^
//!                                       +-- with(|replica| ..) --> storage (thread, owns the Replica)
//! ```
#![forbid(unsafe_code)]

mod client;
mod connection;
mod dial;
mod download;
mod driver;
mod error;
mod options;
mod storage;
mod swap;
mod url;

/// The storage without threads, for the simulation.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod inside {
    pub use crate::storage::Storage;
}

pub use client::{Ending, Notifier, Report, SyncClient, Waited, Watch, sync_once};
pub use download::{Cloned, Transfer, clone_room, start_over};
pub use error::Error;
pub use options::{OnCommit, Options, Token};
pub use rejoin_sync::State;
pub use url::RoomUrl;

/// The example of the manual compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/sync.md")]
struct Manual;
