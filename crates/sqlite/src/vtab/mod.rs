//! Virtual tables in safe Rust, with the transaction callbacks that rusqlite's lack.
//!
//! A table with [`VTab::TRANSACTIONAL`] joins a transaction with its first write (`DELETE ... WHERE 0` is enough) and
//! is then called, in this order: `begin`; `savepoint(n)` for the savepoints open at that time and for later ones,
//! the implicit ones of multi-row statements included; `release(n)` and `rollback_to(n)`, which close all
//! savepoints above n; at COMMIT `sync` (again if the commit fails with SQLITE_BUSY and is repeated), then `commit`;
//! or `rollback`. `commit` and `rollback` cannot fail: what they return is lost.

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
    Insert {
        rowid: Option<Arg<'a>>,
        values: Args<'a>,
        conflict: Conflict,
    },
    Update {
        old_rowid: Arg<'a>,
        new_rowid: Arg<'a>,
        values: Args<'a>,
        conflict: Conflict,
    },
    Delete {
        rowid: Arg<'a>,
    },
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

    /// Chooses a plan. An error with code SQLITE_CONSTRAINT says only that these constraints cannot be used so.
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
