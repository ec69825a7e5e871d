//! Local writes and reads.

use crate::lab::{INSERT, Lab, Side, close, insert_all, insert_row};
use crate::rows::Random;
use crate::{Result, cpu};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::hint::black_box;

pub fn insert_one_transaction(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.empty(side)?;
    Ok(cpu::ms(|| insert_all(&db, &lab.rows))?.0)
}

/// A twentieth of the rows, each committed alone, through a statement that stays prepared.
pub fn insert_many_transactions(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.empty(side)?;
    let rows = &lab.rows[..lab.rows.len() / 20];
    let run = || {
        let mut q = db.prepare(INSERT)?;
        rows.iter().try_for_each(|r| insert_row(&mut q, r))
    };
    Ok(cpu::ms(run)?.0)
}

fn one_statement(db: &Connection, sql: &str) -> Result<f64> {
    let run = || {
        db.execute_batch("BEGIN")?;
        db.execute(sql, [])?;
        Ok(db.execute_batch("COMMIT")?)
    };
    Ok(cpu::ms(run)?.0)
}

pub const UPDATE: &str = "UPDATE article SET stock = stock + 1";

pub fn update_column(lab: &Lab, side: Side) -> Result<f64> {
    one_statement(&lab.filled(side)?.0, UPDATE)
}

/// Without a WHERE that looks at each row SQLite would drop the plain table's pages unread.
pub const DELETE: &str = "DELETE FROM article WHERE stock >= 0";

pub fn delete_all(lab: &Lab, side: Side) -> Result<f64> {
    one_statement(&lab.filled(side)?.0, DELETE)
}

/// Reads every column of every row; returns how many rows there were.
pub fn drain(db: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
    let mut q = db.prepare(sql)?;
    let columns = q.column_count();
    let mut rows = q.query(params)?;
    let mut n = 0;
    while let Some(row) = rows.next()? {
        for c in 0..columns {
            match row.get_ref(c)? {
                ValueRef::Text(b) | ValueRef::Blob(b) => black_box(b.len()),
                other => black_box(usize::from(other == ValueRef::Null)),
            };
        }
        n += 1;
    }
    Ok(n)
}

pub const ALL_CHANGES: &str =
    "SELECT [table], pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes";

pub fn read_changes(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.filled(side)?;
    let (sql, want) = match side {
        Side::Plain => ("SELECT * FROM article", lab.rows.len()),
        _ => (ALL_CHANGES, lab.rows.len() * 4),
    };
    let (ms, n) = cpu::ms(|| drain(&db, sql, []))?;
    assert_eq!(n, want, "rows read");
    Ok(ms)
}

pub fn read_changeset(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.filled(side)?;
    if side == Side::Plain {
        return Ok(cpu::ms(|| drain(&db, "SELECT * FROM article", []))?.0);
    }
    let run =
        || Ok(black_box(db.query_row("SELECT crsql_changeset(0)", [], |r| r.get::<_, Vec<u8>>(0))?).len());
    Ok(cpu::ms(run)?.0)
}

/// Every row once by its key, in random order.
pub fn point_reads(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.filled(side)?;
    let mut random = Random::new(7);
    let picks: Vec<usize> = lab.rows.iter().map(|_| random.below(lab.rows.len())).collect();
    let run = || {
        let mut q = db.prepare("SELECT * FROM article WHERE id = ?1")?;
        for &i in &picks {
            let sum = q.query_row([&lab.rows[i].id], |r| r.get::<_, f64>(4))?;
            black_box(sum);
        }
        Ok(())
    };
    Ok(cpu::ms(run)?.0)
}

/// Bytes of the closed file.
pub fn file_size(lab: &Lab, side: Side) -> Result<f64> {
    let (db, path) = lab.filled(side)?;
    close(db)?;
    Ok(std::fs::metadata(path)?.len() as f64)
}

/// Bytes of the file when all rows are gone, after VACUUM.
pub fn deleted_size(lab: &Lab, side: Side) -> Result<f64> {
    let (db, path) = lab.filled(side)?;
    db.execute(DELETE, [])?;
    db.execute_batch("VACUUM")?;
    close(db)?;
    Ok(std::fs::metadata(path)?.len() as f64)
}
