//! The engine through its Rust API and SQL surface, on real files.

mod properties;
mod replica;
mod conformance;
mod fixture;
mod sql;
mod surface;
mod upgrade;
mod util;
mod verify;
