//! Starting over from a snapshot: the room's state takes the place of the database's, with what only the database had
//! written onto it. The file stays the same one, so that programs which have it open go on.
//!
//! SQLite's backup does that in one transaction of the file. Its lock is taken first: nobody can commit between the moment at
//! which the old state is read and the one at which the new state is there. Readers are not kept out, so the file is in
//! WAL mode meanwhile.

use rejoin::{Error, Replayed, Replica, Result};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::path::Path;
use std::time::{Duration, Instant};

/// How the one takes the place of the other.
pub struct Swap {
    /// How long to wait for other writers.
    pub patience: Duration,
    pub now_ms: fn() -> i64,
}

impl Swap {
    /// Puts the snapshot, which is used up, in the place of what the database holds.
    pub fn replace(&self, replica: &Replica, path: &Path, snapshot: &Path) -> Result<Replayed> {
        let mode = |pragma: &str| replica.connection().query_row(pragma, [], |r| r.get::<_, String>(0));
        let before = mode("PRAGMA main.journal_mode")?;
        if mode("PRAGMA main.journal_mode = WAL")? != "wal" {
            return Err(Error::State {
                why: "to start over from a snapshot, the database must be in WAL mode".into(),
            });
        }
        fit_pages(snapshot, replica.connection())?;
        let room = Replica::from_snapshot(snapshot)?;
        room.set_clock(self.now_ms)?;
        // Before the lock, as it writes to the file; what is written meanwhile has its own id already.
        replica.give_way_to(&room)?;
        let replayed = self.swap(replica, path, &room)?;
        drop(room);
        // What is left of it is of no use.
        let _ = std::fs::remove_file(snapshot);
        if before != "wal" {
            mode(&format!("PRAGMA main.journal_mode = {before}"))?;
        }
        Ok(replayed)
    }

    fn swap(&self, replica: &Replica, path: &Path, room: &Replica) -> Result<Replayed> {
        let mut target = Connection::open(path)?;
        let backup = Backup::new(room.connection(), &mut target)?;
        // No page yet, but the lock.
        step(&backup, 0, self.patience)?;
        room.adopt_schema(&replica.schema()?)?;
        let replayed = replica.replay_onto(room)?;
        bring_along(room.connection(), path)?;
        step(&backup, -1, self.patience)?;
        Ok(replayed)
    }
}

/// A database in WAL mode keeps the size of its pages, so the snapshot takes it.
fn fit_pages(snapshot: &Path, old: &Connection) -> Result<()> {
    let size = |conn: &Connection| conn.query_row("PRAGMA page_size", [], |r| r.get::<_, i64>(0));
    let (room, bytes) = (Connection::open(snapshot)?, size(old)?);
    if size(&room)? != bytes {
        room.execute_batch(&format!("PRAGMA page_size = {bytes}; VACUUM"))?;
    }
    Ok(())
}

fn step(backup: &Backup<'_, '_>, pages: i32, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        match backup.step(pages)? {
            StepResult::Done => return Ok(()),
            StepResult::More if pages == 0 => return Ok(()),
            StepResult::More => {}
            _ if Instant::now() >= end => {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(code, Some("database is locked".into())).into());
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// What the file had beside what is replicated: the room knows nothing of it.
fn bring_along(room: &Connection, old: &Path) -> Result<()> {
    let old = old.to_str().ok_or_else(|| Error::State { why: "the path is not valid Unicode".into() })?;
    room.execute("ATTACH ?1 AS crsql_old", [old])?;
    let brought = (|| {
        let begun = room.unchecked_transaction()?;
        // Each other's keys stand in either order.
        room.execute_batch("PRAGMA defer_foreign_keys = ON")?;
        for (name, sql) in objects(room, "table")? {
            room.execute_batch(&sql)?;
            copy_rows(room, &name)?;
        }
        for kind in ["index", "view", "trigger"] {
            for (_, sql) in objects(room, kind)? {
                room.execute_batch(&sql)?;
            }
        }
        begun.commit()
    })();
    let detached = room.execute_batch("DETACH crsql_old");
    brought?;
    Ok(detached?)
}

/// Names and statements of what is in the old file alone. Shadow tables come with their virtual table.
fn objects(room: &Connection, kind: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut q = room.prepare(
        "SELECT o.name, o.sql FROM crsql_old.sqlite_schema o WHERE o.type = ?1 AND o.sql IS NOT NULL \
         AND o.name NOT LIKE 'crsql\\_%' ESCAPE '\\' AND o.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND NOT EXISTS (SELECT 1 FROM main.sqlite_schema m WHERE m.name = o.name COLLATE NOCASE) \
         AND NOT EXISTS (SELECT 1 FROM pragma_table_list t WHERE t.schema = 'crsql_old' AND t.type = 'shadow' AND t.name = o.name) \
         ORDER BY o.rowid",
    )?;
    q.query_map([kind], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}

fn copy_rows(room: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut q = room.prepare("SELECT name FROM pragma_table_xinfo(?1, 'crsql_old') WHERE hidden = 0")?;
    let columns: Vec<String> =
        q.query_map([table], |r| Ok(quote(&r.get::<_, String>(0)?)))?.collect::<Result<_, _>>()?;
    let (columns, table) = (columns.join(", "), quote(table));
    room.execute(
        &format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM crsql_old.{table}"),
        [],
    )?;
    Ok(())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
