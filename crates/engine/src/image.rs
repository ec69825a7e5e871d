//! A row as it was, column by column, to find out later what an UPDATE changed.

use crate::catalog::{KeyKind, Table};
use crate::error::{Error, Result};
use crate::format::quote;
use rejoin_crdt::meta::ColSet;
use rejoin_sqlite::{Db, Stmt, ValueRef};
use std::rc::Rc;

/// Longer texts and blobs are kept as a hash.
const INLINE_MAX: usize = 64;

/// A scan that stands at most so many rowids before the wanted one goes on instead of starting anew.
const GAP_MAX: i64 = 8;

/// Reads the columns of one row of a table by rowid or key.
pub struct RowReader {
    stmt: Stmt,
    reprepares: i32,
    pub table: Rc<Table>,
    /// Rows are looked for in the order of their rowids, mostly.
    scans: bool,
    /// The rowid that the scan stands on.
    at: Option<i64>,
}

/// Which row.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Row(i64),
    /// The packed key.
    Key(&'a [u8]),
}

impl RowReader {
    pub fn new(db: Db, table: &Rc<Table>) -> Result<RowReader> {
        RowReader::prepare(db, table, false)
    }

    /// For many rows, mostly in the order of their rowids.
    pub fn scanning(db: Db, table: &Rc<Table>) -> Result<RowReader> {
        RowReader::prepare(db, table, table.kind != KeyKind::Keyed)
    }

    fn prepare(db: Db, table: &Rc<Table>, scans: bool) -> Result<RowReader> {
        let mut cols: Vec<String> = table.cols.iter().map(|c| quote(&c.name)).collect();
        cols.extend(table.keys.iter().map(|k| quote(&k.name)));
        let rowid = table.rowid;
        let by = match table.kind {
            KeyKind::Keyed => table.key_where(1),
            _ if scans => {
                cols.push(rowid.to_owned());
                format!("{rowid} >= ?1 ORDER BY {rowid}")
            }
            _ => format!("{rowid} = ?1"),
        };
        let stmt = db.prepare(&format!("SELECT {} FROM {} WHERE {by}", cols.join(", "), table.quoted()))?;
        Ok(RowReader { reprepares: stmt.reprepares(), stmt, table: Rc::clone(table), scans, at: None })
    }

    /// Steps to the row; false: there is none. The caller reads columns and calls `done`, or, if it scans, looks for the
    /// next row.
    pub fn seek(&mut self, target: Target<'_>) -> Result<bool> {
        match target {
            Target::Row(row) if self.scans => return self.scan(row),
            Target::Row(row) => self.stmt.bind_int(1, row)?,
            // Such a row has no place in a table that is looked up by rowid: it waits.
            Target::Key(_) if self.table.kind != KeyKind::Keyed => return Ok(false),
            Target::Key(key) => {
                let values = rejoin_crdt::key::unpack(key).map_err(|e| Error::damaged(e.to_string()))?;
                for (i, value) in values.enumerate() {
                    self.stmt.bind(i as i32 + 1, crate::value::to_sql(value))?;
                }
            }
        }
        Ok(self.stmt.step()?)
    }

    fn scan(&mut self, row: i64) -> Result<bool> {
        let near = self.at.is_some_and(|at| at <= row && row - at <= GAP_MAX);
        if !near {
            self.done();
            self.stmt.bind_int(1, row)?;
            self.advance()?;
        }
        while self.at.is_some_and(|at| at < row) {
            self.advance()?;
        }
        Ok(self.at == Some(row))
    }

    fn advance(&mut self) -> Result<()> {
        self.at = None;
        if self.stmt.step()? {
            self.at = Some(self.stmt.column_int((self.table.cols.len() + self.table.keys.len()) as i32));
        }
        Ok(())
    }

    /// The schema changed since the reader was made.
    pub fn outdated(&self) -> bool {
        self.stmt.reprepares() != self.reprepares
    }

    pub fn done(&mut self) {
        self.at = None;
        self.stmt.reset();
    }

    /// The n-th of the table's columns beside the key.
    pub fn column(&self, n: usize) -> ValueRef<'_> {
        self.stmt.column(n as i32)
    }

    pub fn column_arg(&self, n: usize) -> rejoin_sqlite::Arg<'_> {
        self.stmt.column_arg(n as i32)
    }

    /// The n-th key column.
    pub fn key(&self, n: usize) -> ValueRef<'_> {
        self.stmt.column((self.table.cols.len() + n) as i32)
    }

    /// Appends the image of the row stepped to.
    pub fn image(&self, hash_key: (u64, u64), out: &mut Vec<u8>) {
        for n in 0..self.table.cols.len() {
            put_value(out, self.column(n), hash_key);
        }
    }
}

pub fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>, hash_key: (u64, u64)) {
    let mut bytes = |tag: u8, v: &[u8]| {
        if v.len() <= INLINE_MAX {
            out.push(tag);
            out.push(v.len() as u8);
            out.extend_from_slice(v);
        } else {
            out.push(tag + 2);
            out.push(16);
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            out.extend_from_slice(&crate::value::hash(hash_key, v).to_le_bytes());
        }
    };
    match value {
        ValueRef::Null => bytes(0, &[]),
        ValueRef::Integer(i) => bytes(1, &i.to_le_bytes()),
        ValueRef::Real(r) => bytes(2, &r.to_bits().to_le_bytes()),
        ValueRef::Text(t) => bytes(5, t),
        ValueRef::Blob(b) => bytes(6, b),
    }
}

/// One encoded value and the rest.
fn split(image: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = 2 + usize::from(*image.get(1)?);
    image.split_at_checked(len)
}

/// The columns of `now` whose value differs. The images may stem from different versions of the table.
pub fn changed(old: (&Table, &[u8]), now: (&Table, &[u8])) -> ColSet {
    let mut set = ColSet::EMPTY;
    let (mut a, mut b) = (old.1, now.1);
    if std::ptr::eq(old.0, now.0) {
        for col in &now.0.cols {
            let (Some((x, rest_a)), Some((y, rest_b))) = (split(a), split(b)) else {
                return set;
            };
            if x != y {
                set.insert(col.id);
            }
            (a, b) = (rest_a, rest_b);
        }
        return set;
    }
    let mut before = Vec::new();
    for col in &old.0.cols {
        let Some((x, rest)) = split(a) else { break };
        before.push((col.id, x));
        a = rest;
    }
    for col in &now.0.cols {
        let Some((y, rest)) = split(b) else { break };
        if before.iter().any(|(id, x)| *id == col.id && *x != y) {
            set.insert(col.id);
        }
        b = rest;
    }
    set
}
