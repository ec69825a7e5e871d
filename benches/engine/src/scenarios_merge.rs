//! Merging: from one replica into another, row by row and as a changeset, against copying the same rows.

use crate::lab::{Lab, Side, close, insert_all};
use crate::scenarios::{ALL_CHANGES, UPDATE};
use crate::{Result, cpu};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use std::path::PathBuf;

type Change = [Value; 9];

/// The changes after a version, in memory.
fn fetch(db: &Connection, since: i64) -> Result<Vec<Change>> {
    let mut q = db.prepare(&format!("{ALL_CHANGES} WHERE db_version > ?1"))?;
    let mut rows = q.query([since])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let mut change: Change = std::array::from_fn(|_| Value::Null);
        for (i, value) in change.iter_mut().enumerate() {
            *value = row.get(i)?;
        }
        all.push(change);
    }
    Ok(all)
}

fn put(db: &Connection, changes: &[Change]) -> Result<()> {
    db.execute_batch("BEGIN")?;
    let mut q = db.prepare("INSERT INTO crsql_changes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for change in changes {
        q.execute(params_from_iter(change.iter()))?;
    }
    drop(q);
    Ok(db.execute_batch("COMMIT")?)
}

fn changeset(db: &Connection, since: i64) -> Result<Vec<u8>> {
    Ok(db.query_row("SELECT crsql_changeset(?1)", [since], |r| r.get(0))?)
}

fn apply(db: &Connection, bytes: &[u8]) -> Result<()> {
    Ok(db.query_row("SELECT crsql_apply_changeset(?1)", [bytes], |_| Ok(()))?)
}

fn stocked(db: &Connection) -> Result<i64> {
    Ok(db.query_row("SELECT sum(stock) FROM article", [], |r| r.get(0))?)
}

pub fn merge_rows(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.empty(side)?;
    if side == Side::Plain {
        return Ok(cpu::ms(|| insert_all(&db, &lab.rows))?.0);
    }
    let source = lab.filled(side)?.0;
    let changes = fetch(&source, 0)?;
    let ms = cpu::ms(|| put(&db, &changes))?.0;
    assert_eq!(stocked(&db)?, stocked(&source)?, "the peers are equal");
    Ok(ms)
}

pub fn merge_changeset(lab: &Lab, side: Side) -> Result<f64> {
    let (db, _) = lab.empty(side)?;
    if side == Side::Plain {
        return Ok(cpu::ms(|| insert_all(&db, &lab.rows))?.0);
    }
    let source = lab.filled(side)?.0;
    let bytes = changeset(&source, 0)?;
    let ms = cpu::ms(|| apply(&db, &bytes))?.0;
    assert_eq!(stocked(&db)?, stocked(&source)?, "the peers are equal");
    Ok(ms)
}

/// A peer that has merged the filled table.
fn peer(lab: &Lab, side: Side) -> Result<(Connection, PathBuf)> {
    lab.copy(side, "peer", || {
        let (db, path) = lab.empty(side)?;
        put(&db, &fetch(&lab.filled(side)?.0, 0)?)?;
        Ok((db, path))
    })
}

/// The filled table after one column of each row changed.
fn changed(lab: &Lab, side: Side) -> Result<(Connection, i64)> {
    let (db, _) = lab.copy(side, "changed", || {
        let (db, path) = lab.filled(side)?;
        db.execute(UPDATE, [])?;
        Ok((db, path))
    })?;
    let version: i64 = db.query_row("SELECT crsql_db_version()", [], |r| r.get(0))?;
    Ok((db, version - 1))
}

fn update_by_key(lab: &Lab) -> Result<f64> {
    let (db, _) = lab.filled(Side::Plain)?;
    let run = || {
        db.execute_batch("BEGIN")?;
        let mut q = db.prepare("UPDATE article SET stock = ?2 WHERE id = ?1")?;
        for r in &lab.rows {
            q.execute(params![r.id, r.stock + 1])?;
        }
        drop(q);
        Ok(db.execute_batch("COMMIT")?)
    };
    Ok(cpu::ms(run)?.0)
}

pub fn merge_newer_rows(lab: &Lab, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return update_by_key(lab);
    }
    let (source, since) = changed(lab, side)?;
    let changes = fetch(&source, since)?;
    assert_eq!(changes.len(), lab.rows.len(), "newer cells");
    let (db, _) = peer(lab, side)?;
    let ms = cpu::ms(|| put(&db, &changes))?.0;
    assert_eq!(stocked(&db)?, stocked(&source)?, "the peers are equal");
    close(db)?;
    Ok(ms)
}

pub fn merge_newer_changeset(lab: &Lab, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return update_by_key(lab);
    }
    let (source, since) = changed(lab, side)?;
    let bytes = changeset(&source, since)?;
    let (db, _) = lab.copy(side, "native peer", || {
        let (db, path) = lab.empty(side)?;
        apply(&db, &changeset(&lab.filled(side)?.0, 0)?)?;
        Ok((db, path))
    })?;
    let ms = cpu::ms(|| apply(&db, &bytes))?.0;
    assert_eq!(stocked(&db)?, stocked(&source)?, "the peers are equal");
    Ok(ms)
}
