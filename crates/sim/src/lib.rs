//! Executable model of Rejoin: the merge rules over maps, without SQLite; the oracle of the tests.
//!
//! A [`Replica`] is one database. Local writes and schema changes go in through [`Replica::apply`], a
//! transaction ends with [`Replica::commit`]. Two replicas meet row-wise ([`Replica::changes`] and
//! [`Replica::insert_change`], which is what `crsql_changes` does) or natively ([`Replica::cut_for`] and
//! [`Replica::apply_cut`], which is what changesets do). Nothing here reads a clock or makes random numbers.
//!
//! It is written to be read: maps all through, whole scans, no storage, no limits. Where it departs from the
//! design's first rules, `docs/model-findings.md` says why.

#![forbid(unsafe_code)]

mod copies;
mod exchange;
pub mod program;
mod replica;
mod row;
mod schema;
mod writes;

pub use copies::{Meeting, Side};
pub use exchange::{Change, Cut, Naming, NativeChange, Refused, Tx};
pub use replica::{Clock, Meta, NewRow, Op, OpError, Replica};
pub use row::{Cell, Row, Stamp};
pub use schema::{ColumnDef, KeyColumn, Name, TableDef};
