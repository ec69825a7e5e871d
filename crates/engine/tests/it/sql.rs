//! Connections with the engine, and results as text.

use rejoin_sqlite::Db;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::path::Path;

pub fn memory() -> Connection {
    with_engine(Connection::open_in_memory().unwrap())
}

pub fn file(path: &Path) -> Connection {
    with_engine(Connection::open(path).unwrap())
}

fn with_engine(conn: Connection) -> Connection {
    Db::with(&conn, rejoin::register).unwrap();
    conn
}

/// The rows of a query, columns joined by `|`; blobs in hexadecimal.
pub fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    try_rows(conn, sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

pub fn row(conn: &Connection, sql: &str) -> String {
    rows(conn, sql).join("\n")
}

/// The message of the error that a statement must give.
pub fn error(conn: &Connection, sql: &str) -> String {
    match try_rows(conn, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => e.to_string(),
    }
}

fn try_rows(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut stmt = conn.prepare(sql)?;
    let columns = stmt.column_count();
    let mut found = stmt.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        let shown: Vec<String> =
            (0..columns).map(|i| row.get_ref(i).map(show)).collect::<rusqlite::Result<_>>()?;
        all.push(shown.join("|"));
    }
    Ok(all)
}

fn show(v: ValueRef<'_>) -> String {
    match v {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
        ValueRef::Blob(b) => b.iter().map(|b| format!("{b:02X}")).collect(),
    }
}
