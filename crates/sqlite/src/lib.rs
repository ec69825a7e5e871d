//! FFI safety layer over SQLite: statements, functions, virtual tables that join transactions, hooks.
//!
//! This crate is the room for `unsafe`: what is above it (the engine) is written in safe Rust over [`Db`],
//! [`Stmt`], [`Arg`], [`VTab`] and friends. It knows no word of replication.
//!
//! **Invariant:** every `extern "C"` function here is a trampoline: catch the panic, convert, call safe code,
//! convert back. A panic becomes an SQL error (`internal error: ...`); it never unwinds into SQLite.
//!
//! **Invariant:** a [`Db`] enters safe code through [`Db::with`], [`Db::of`] and [`Db::from_raw`] only (and what is
//! registered through it is given it again). Whoever calls one of them vouches that neither that `Db`, nor a copy,
//! nor anything made from it is used after the connection has closed. State that SQLite itself owns (of functions,
//! of virtual tables) meets this by itself.
//!
//! Why not rusqlite's own functions and virtual tables: its virtual tables neither catch panics nor have
//! savepoint callbacks, and its statements allocate and look up where this layer calls straight through.
//!
//! Feature sets: `bundled` (default), `bundled` + `hooks` (the preupdate hook), and `loadable` alone (every
//! function is the host's; see `load_extension`). Nothing newer than SQLite 3.40 is called.
#![allow(unsafe_code)]

#[cfg(all(feature = "loadable", feature = "hooks"))]
compile_error!("`hooks` needs an SQLite of our own; `loadable` uses the host's: take one of them");

mod close;
mod db;
#[cfg(feature = "test-vfs")]
pub mod disk;
mod error;
#[cfg(feature = "loadable")]
mod extension;
mod function;
mod memory;
mod panic;
#[cfg(feature = "hooks")]
mod preupdate;
mod stmt;
mod value;
mod vtab;

pub use rusqlite::ffi;
pub use rusqlite::types::ValueRef;

pub use db::{ColumnMeta, Db, TxnState};
pub use error::{CODES, Error, Result, code_name};
#[cfg(feature = "loadable")]
pub use extension::load_extension;
pub use function::{Context, FnFlags};
#[cfg(feature = "hooks")]
pub use preupdate::{Preupdate, PreupdateGuard, PreupdateOp};
pub use stmt::{Bound, Stmt};
pub use value::{Arg, Args};
pub use vtab::{
    Change, Conflict, Constraint, ConstraintOp, IndexInfo, ModuleKind, OrderBy, Risk, VTab, VTabCursor,
};
