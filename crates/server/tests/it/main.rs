//! The server over real sockets, with clients that speak frames by hand.

mod auth;
mod config;
mod drain;
mod exchange;
mod hostile;
mod limits;
mod policies;
mod reload;
mod schema;
mod snapshot;
mod sync;
mod tls;
mod util;
