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

pub use config::{Config, Options};
pub use error::StartError;
pub use server::Server;
