//! Binary changesets of Rejoin: layout, limits, golden bytes.
//!
//! A changeset is one cut of a sender's log: transactions, and the rows whose cells they wrote. [`Writer`] makes
//! one, [`Reader`] reads one that anybody may have sent: every count is held against the bytes behind it, every
//! number against its range, and nothing is allocated that the input does not pay for. The bytes are specified in
//! `docs/changeset-format.md` and at the heads of the modules: the whole in `writer.rs`, keys in `keys.rs`, row
//! records in `runs/mod.rs`, values in `column.rs`.

#![forbid(unsafe_code)]

mod column;
mod error;
pub mod frame;
mod front;
mod keys;
pub mod limits;
mod naming;
mod reader;
mod record;
mod relation;
mod runs;
mod schema_names;
mod varint;
mod writer;

pub use error::{Error, Result};
pub use front::unpacked_bytes;
pub use naming::{Name, Naming};
pub use reader::{Reader, Row, TableInfo, TableReader};
pub use record::{EmptyRange, GroupRecord, Header, RowRecord, Transaction};
pub use relation::Relation;
pub use schema_names::{SchemaNames, TableNames};
pub use writer::Writer;
