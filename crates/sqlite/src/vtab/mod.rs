//! Virtual tables in safe Rust, with the transaction callbacks that rusqlite's lack.
//!
//! A table with [`VTab::TRANSACTIONAL`] joins a transaction with its first write (`DELETE ... WHERE 0` is enough) and
//! is then called, in this order:
//! - `begin`, and `savepoint(n)` for the innermost savepoint that is open then, if any: what has not been told of
//!   the outer ones is that they are open too, with nothing of this table in them;
//! - `savepoint(n)` for later ones, the implicit ones of multi-row statements included;
//! - `release(n)`, which closes savepoint n and those above it; `rollback_to(n)`, which closes those above it and goes
//!   back to the state at n. `rollback_to(-1)` goes back to the start of a transaction that SAVEPOINT opened;
//! - at COMMIT `sync`. If it fails with SQLITE_BUSY, or the commit does later, an explicit transaction stays open: more
//!   writes, then `sync` again. If it fails otherwise, SQLite rolls the transaction back. `sync` may write to ordinary
//!   tables; writes to virtual tables fail there with SQLITE_LOCKED;
//! - `commit` or `rollback`. They cannot fail: what they return is lost.

mod index;
mod module;

use std::rc::Rc;

use rusqlite::ffi;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::function::Context;
use crate::value::{Arg, Args};

pub use index::{Constraint, ConstraintOp, IndexInfo, OrderBy};

/// Where a module's tables come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModuleKind {
    /// There is a table of the module's name, and `CREATE VIRTUAL TABLE` makes more.
    Eponymous,
    /// There is exactly one table, of the module's name.
    EponymousOnly,
}

/// From where a table may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Risk {
    /// From triggers and views only in a trusted schema.
    Normal,
    /// From everywhere.
    Innocuous,
    /// Never from triggers and views.
    DirectOnly,
}

/// What the statement wants to happen on a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    Rollback,
    Ignore,
    Fail,
    Abort,
    Replace,
}

/// One change of a row. `values` has one entry per declared column, hidden ones included.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    Insert { rowid: Option<Arg<'a>>, values: Args<'a>, conflict: Conflict },
    Update { old_rowid: Arg<'a>, new_rowid: Arg<'a>, values: Args<'a>, conflict: Conflict },
    Delete { rowid: Arg<'a> },
}

/// A table over shared state `S`. It is dropped when SQLite disconnects it.
pub trait VTab<S: 'static>: Sized + 'static {
    type Cursor: VTabCursor + 'static;
    /// Whether INSERT, UPDATE and DELETE are possible at all.
    const WRITABLE: bool = false;
    /// Whether the transaction callbacks are wanted.
    const TRANSACTIONAL: bool = false;
    const RISK: Risk = Risk::Normal;

    /// Makes the table; the string is its `CREATE TABLE` statement (any name).
    fn connect(db: Db, state: &Rc<S>) -> Result<(String, Self)>;

    /// Chooses a plan. An error with code SQLITE_CONSTRAINT and no message says only that these constraints cannot be
    /// used so. Of other errors SQLite keeps the message and makes the code SQLITE_ERROR.
    fn best_index(&self, info: &mut IndexInfo<'_>) -> Result<()>;

    fn open(&self) -> Result<Self::Cursor>;

    /// Makes a change; returns the rowid of an inserted row (any number otherwise).
    fn update(&self, _change: Change<'_>) -> Result<i64> {
        Err(Error::new(ffi::SQLITE_READONLY, "the table is read-only"))
    }

    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }

    fn rollback(&self) -> Result<()> {
        Ok(())
    }

    fn savepoint(&self, _n: i32) -> Result<()> {
        Ok(())
    }

    fn release(&self, _n: i32) -> Result<()> {
        Ok(())
    }

    /// May get -1: see the head of the module.
    fn rollback_to(&self, _n: i32) -> Result<()> {
        Ok(())
    }
}

/// One scan over a table.
pub trait VTabCursor {
    /// Starts the scan that `best_index` planned, at its first row.
    fn filter(&mut self, idx_num: i32, idx_str: Option<&str>, args: Args<'_>) -> Result<()>;
    fn next(&mut self) -> Result<()>;
    /// Asked once after each `filter` and `next`.
    fn eof(&self) -> bool;
    fn column(&self, ctx: &mut Context, i: i32) -> Result<()>;
    fn rowid(&self) -> Result<i64>;
}
