//! Replicated SQLite: ordinary tables that every device writes at once and that become equal when devices meet.
#![forbid(unsafe_code)]

mod alter;
mod automigrate;
mod block;
mod capture;
mod catalog;
mod changes;
mod codec;
mod config;
mod core;
mod digest;
mod engine;
pub mod error;
mod format;
mod fract;
mod functions;
mod image;
mod journal;
mod listing;
mod log;
mod merge;
mod observe;
mod parked;
mod rowwise;
mod schema;
mod store;
mod tokens;
mod unpack;
mod upgrade;
mod value;
mod vtab;

pub use error::{Error, Result};

/// For hosts that bring a raw connection (the loadable extension).
pub fn register(db: rejoin_sqlite::Db) -> Result<()> {
    engine::Engine::register(db).map(drop)
}
