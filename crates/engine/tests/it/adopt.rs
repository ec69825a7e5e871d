//! Rejection and adoption: what a server refuses is taken back, and all end equal.

mod property;
pub mod room;
mod scenes;
mod voids;
