//! What must not grow with the database: pulling the last changes, adding a column.

use crate::lab::{COLUMNS, Lab, Side};
use crate::rows::Row;
use crate::scenarios::drain;
use crate::{Result, cpu};
use rusqlite::{Connection, params};
use std::path::PathBuf;

fn name(i: usize) -> String {
    format!("article_{i}")
}

/// `rows` rows spread over `tables` tables, then ten transactions of one change each.
fn spread(lab: &Lab, side: Side, tables: usize, rows: usize) -> Result<(Connection, PathBuf)> {
    let path = lab.path();
    let db = lab.open(side, &path)?;
    if side == Side::Owned {
        db.query_row("SELECT crsql_config_set('mode', 'owned')", [], |_| Ok(()))?;
    }
    db.execute_batch("BEGIN")?;
    for i in 0..tables {
        let table = name(i);
        db.execute_batch(&lab.ddl(&table))?;
        if side != Side::Plain {
            db.query_row("SELECT crsql_as_crr(?1)", [&table], |_| Ok(()))?;
        }
    }
    db.execute_batch("COMMIT; BEGIN")?;
    let data = crate::rows::rows(rows, lab.uuid);
    for (i, chunk) in data.chunks(rows.div_ceil(tables)).enumerate() {
        insert(&db, i, chunk)?;
    }
    db.execute_batch("COMMIT")?;
    for (n, r) in data.iter().step_by((rows / 10).max(1)).take(10).enumerate() {
        let table = name(n * (rows / 10) / rows.div_ceil(tables));
        db.execute(&format!("UPDATE {table} SET stock = stock + 1 WHERE id = ?1"), [&r.id])?;
    }
    Ok((db, path))
}

fn insert(db: &Connection, table: usize, rows: &[Row]) -> Result<()> {
    let mut q = db.prepare(&format!("INSERT INTO {} VALUES (?1, ?2, ?3, ?4, ?5)", name(table)))?;
    for r in rows {
        q.execute(params![r.id, r.title, r.author, r.stock, r.price])?;
    }
    Ok(())
}

/// The median of many pulls, each by a statement prepared anew.
fn pull(lab: &Lab, side: Side, key: &'static str, tables: usize, rows: usize) -> Result<f64> {
    let (db, _) = lab.copy(side, key, || spread(lab, side, tables, rows))?;
    let since: i64 = db.query_row("SELECT crsql_db_version() - 10", [], |r| r.get(0))?;
    let sql = format!("{} WHERE db_version > ?1 ORDER BY db_version, seq", crate::scenarios::ALL_CHANGES);
    let mut times = Vec::new();
    for _ in 0..201 {
        let (ms, n) = cpu::ms(|| drain(&db, &sql, [since]))?;
        assert_eq!(n, 10, "changes pulled");
        times.push(ms);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

pub fn pull_1_table(lab: &Lab, side: Side) -> Result<f64> {
    pull(lab, side, "1 table", 1, lab.rows.len() / 10)
}

pub fn pull_1000_tables(lab: &Lab, side: Side) -> Result<f64> {
    pull(lab, side, "1000 tables", 1000, lab.rows.len() / 10)
}

pub fn pull_1_table_big(lab: &Lab, side: Side) -> Result<f64> {
    pull(lab, side, "1 table, big", 1, lab.rows.len() * 10)
}

pub fn pull_1000_tables_big(lab: &Lab, side: Side) -> Result<f64> {
    pull(lab, side, "1000 tables, big", 1000, lab.rows.len() * 10)
}

/// ADD COLUMN and the engine's next look at the schema, which finds no change to tell.
pub fn add_column(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.copy(side, "1 table, big", || spread(lab, side, 1, lab.rows.len() * 10))?;
    let version = "SELECT crsql_db_version()";
    let changes = "SELECT count(*) FROM crsql_changes WHERE db_version >= ?1";
    let replicated = side != Side::Plain;
    let before: (i64, i64) = if replicated {
        let v = db.query_row(version, [], |r| r.get(0))?;
        (v, db.query_row(changes, [v], |r| r.get(0))?)
    } else {
        (0, 0)
    };
    let run = || {
        db.execute_batch("ALTER TABLE article_0 ADD COLUMN shelf TEXT NOT NULL DEFAULT 'A1'")?;
        if !replicated {
            return Ok(before);
        }
        let v = db.query_row(version, [], |r| r.get(0))?;
        Ok((v, db.query_row(changes, [before.0], |r| r.get(0))?))
    };
    let (ms, after) = cpu::ms(run)?;
    assert_eq!(before, after, "no change is emitted ({COLUMNS})");
    Ok(ms)
}
