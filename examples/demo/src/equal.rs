//! Whether replicas hold the same rows.

use crate::Result;
use rejoin::Replica;
use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::Path;

/// The number of rows if all tables are equal; else an error that names the first differing row.
pub fn compare(replicas: &[(&str, Replica)]) -> Result<usize> {
    let Some(((first, one), others)) = replicas.split_first() else { return Ok(0) };
    let mut count = 0;
    for table in ["books", "sales"] {
        let left = rows(one, table)?;
        for (name, other) in others {
            let right = rows(other, table)?;
            if let Some((x, y)) = left.iter().zip(&right).find(|(x, y)| x != y) {
                return Err(format!("{table} differ: {x:?} in {first}, {y:?} in {name}").into());
            }
            if left.len() != right.len() {
                let (here, there) = (left.len(), right.len());
                return Err(format!("{table}: {here} rows in {first}, {there} in {name}").into());
            }
        }
        count += left.len();
    }
    Ok(count)
}

fn rows(shop: &Replica, table: &str) -> Result<Vec<Vec<Value>>> {
    all(shop.connection(), &format!("SELECT * FROM {table} ORDER BY 1"))
}

fn all(conn: &Connection, sql: &str) -> Result<Vec<Vec<Value>>> {
    let mut q = conn.prepare(sql)?;
    let width = q.column_count();
    let rows = q.query_map([], |row| (0..width).map(|i| row.get(i)).collect())?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Every byte that a room's file holds: tables, metadata, and what the server keeps for itself.
pub fn contents(room: &Path) -> Result<Vec<(String, Vec<Vec<Value>>)>> {
    let conn = Connection::open(room)?;
    let tables = all(
        &conn,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name",
    )?;
    let mut found = Vec::new();
    for table in tables {
        let [Value::Text(name)] = table.as_slice() else { continue };
        let mut rows = all(&conn, &format!("SELECT * FROM \"{}\"", name.replace('"', "\"\"")))?;
        rows.sort_by_cached_key(|row| format!("{row:?}"));
        found.push((name.clone(), rows));
    }
    Ok(found)
}
