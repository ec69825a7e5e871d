//! The engine through its Rust API and SQL surface, on real files.

mod adopt;
mod changeset;
mod checked;
mod conformance;
mod cut;
mod faults;
mod fixture;
mod horizon;
mod lives;
mod properties;
mod relation;
mod replica;
mod restamp;
mod rowwise;
mod snapshot;
mod sql;
mod surface;
mod upgrade;
mod util;
mod verify;
