//! The layer against a real SQLite: what it promises to safe callers.
#![allow(unsafe_code)]

mod close;
#[cfg(feature = "test-vfs")]
mod disk;
mod function;
#[cfg(feature = "hooks")]
mod hooks;
mod journal;
mod probe;
mod stmt;
mod transaction;
mod vtab;

use rejoin_sqlite::{Db, Result};
use rusqlite::Connection;

/// A connection in memory and its handle. The connection is dropped last by every test.
fn memory() -> (Connection, Db) {
    let conn = Connection::open_in_memory().expect("open");
    let db = handle(&conn);
    (conn, db)
}

fn handle(conn: &Connection) -> Db {
    // SAFETY: the tests keep `conn` open longer than they use the handle.
    unsafe { Db::of(conn) }
}

/// The first column of the first row as an integer.
fn int(db: Db, sql: &str) -> Result<i64> {
    let mut stmt = db.prepare_transient(sql)?;
    Ok(stmt.query_row(&[], |row| Ok(row.column_int(0)))?.expect("a row"))
}

/// The first column of the first row as text.
fn text(db: Db, sql: &str) -> Result<String> {
    let mut stmt = db.prepare_transient(sql)?;
    let read = |row: &rejoin_sqlite::Stmt| Ok(String::from_utf8_lossy(row.column_text(0)).into_owned());
    Ok(stmt.query_row(&[], read)?.expect("a row"))
}
