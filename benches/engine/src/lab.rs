//! Databases to measure on: files in a temporary folder, WAL, synchronous=NORMAL, everything else as SQLite has it.

use crate::Result;
use crate::rows::{Row, rows};
use rusqlite::{Connection, params};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    Plain,
    Shared,
    Owned,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Plain => "plain",
            Side::Shared => "shared",
            Side::Owned => "owned",
        }
    }
}

/// One kind of key, one setting of temp_store: the rows and the files.
pub struct Lab {
    dir: tempfile::TempDir,
    pub uuid: bool,
    pub temp_memory: bool,
    pub rows: Vec<Row>,
    made: RefCell<HashMap<(Side, &'static str), PathBuf>>,
    count: Cell<u32>,
}

pub const COLUMNS: &str = "title TEXT, author TEXT, stock INTEGER, price REAL";

impl Lab {
    pub fn new(uuid: bool, temp_memory: bool, n: usize) -> Result<Lab> {
        Ok(Lab {
            dir: tempfile::tempdir()?,
            uuid,
            temp_memory,
            rows: rows(n, uuid),
            made: RefCell::default(),
            count: Cell::new(0),
        })
    }

    pub fn path(&self) -> PathBuf {
        self.count.set(self.count.get() + 1);
        self.dir.path().join(format!("{}.db", self.count.get()))
    }

    pub fn open(&self, side: Side, path: &Path) -> Result<Connection> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        if self.temp_memory {
            db.pragma_update(None, "temp_store", "MEMORY")?;
        }
        if side == Side::Plain {
            return Ok(db);
        }
        let replica = rejoin::Replica::attach(db)?;
        // Attaching reads nothing; an owned file is captured from the first call on.
        replica.db_version()?;
        Ok(replica.into_connection())
    }

    /// The definition of a table of the benchmark.
    pub fn ddl(&self, table: &str) -> String {
        let key = if self.uuid { "BLOB" } else { "INTEGER" };
        format!("CREATE TABLE {table}(id {key} PRIMARY KEY NOT NULL, {COLUMNS})")
    }

    /// A new file with the empty table, replicated.
    pub fn empty(&self, side: Side) -> Result<(Connection, PathBuf)> {
        let path = self.path();
        let db = self.open(side, &path)?;
        if side == Side::Owned {
            db.query_row("SELECT crsql_config_set('mode', 'owned')", [], |_| Ok(()))?;
        }
        db.execute_batch(&self.ddl("article"))?;
        if side != Side::Plain {
            db.query_row("SELECT crsql_as_crr('article')", [], |_| Ok(()))?;
        }
        Ok((db, path))
    }

    /// A file of its own, like the one that `make` built the first time.
    pub fn copy(
        &self,
        side: Side,
        name: &'static str,
        make: impl FnOnce() -> Result<(Connection, PathBuf)>,
    ) -> Result<(Connection, PathBuf)> {
        let known = self.made.borrow().get(&(side, name)).cloned();
        let master = match known {
            Some(path) => path,
            None => {
                let (db, path) = make()?;
                close(db)?;
                self.made.borrow_mut().insert((side, name), path.clone());
                path
            }
        };
        let path = self.path();
        std::fs::copy(master, &path)?;
        Ok((self.open(side, &path)?, path))
    }

    /// The table with all rows, written by one transaction.
    pub fn filled(&self, side: Side) -> Result<(Connection, PathBuf)> {
        self.copy(side, "filled", || {
            let (db, path) = self.empty(side)?;
            insert_all(&db, &self.rows)?;
            Ok((db, path))
        })
    }
}

pub const INSERT: &str = "INSERT INTO article(id, title, author, stock, price) VALUES (?1, ?2, ?3, ?4, ?5)";

pub fn insert_row(q: &mut rusqlite::Statement<'_>, r: &Row) -> Result<()> {
    q.execute(params![r.id, r.title, r.author, r.stock, r.price])?;
    Ok(())
}

/// One transaction.
pub fn insert_all(db: &Connection, rows: &[Row]) -> Result<()> {
    db.execute_batch("BEGIN")?;
    let mut q = db.prepare(INSERT)?;
    for r in rows {
        insert_row(&mut q, r)?;
    }
    drop(q);
    Ok(db.execute_batch("COMMIT")?)
}

/// Closes the file with the log written back into it.
pub fn close(db: Connection) -> Result<()> {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    db.close().map_err(|(_, e)| e)?;
    Ok(())
}

/// Whether this build of the engine has an SQL function.
pub fn has_function(db: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_function_list WHERE name = ?1)";
    Ok(db.query_row(sql, [name], |r| r.get(0))?)
}
