//! Opening databases, with a sentence for everything that can be wrong with a file.

use crate::failure::{Failure, Kind, Result};
use crate::stop;
use rejoin::{Options, Replica};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static WAIT_SECONDS: AtomicU32 = AtomicU32::new(5);

/// What every file of SQLite begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only to look: not even metadata is made.
    Read,
    Write,
    /// As `Write`, and the file is made if there is none.
    Create,
}

/// How long to wait for other writers.
pub fn set_wait(seconds: u32) {
    WAIT_SECONDS.store(seconds, Ordering::SeqCst);
}

pub fn wait() -> Duration {
    Duration::from_secs(u64::from(WAIT_SECONDS.load(Ordering::SeqCst)))
}

/// Opens a database; with tables that are replicated or without.
pub fn open(path: &Path, access: Access) -> Result<Replica> {
    let replica = open_any(path, access)?;
    // Refuses files of cr-sqlite and of newer versions before anything is done.
    let ours = replica.db_version();
    ours.map_err(|e| Failure::from(e).at(path.display()))?;
    Ok(replica)
}

/// Opens a database whatever is in it.
pub fn open_any(path: &Path, access: Access) -> Result<Replica> {
    let fresh = look(path, access)?;
    let mut options = Options::default();
    options.create = access == Access::Create;
    options.read_only = access == Access::Read;
    // An absolute path is never taken for a URI.
    let absolute = std::path::absolute(path).map_err(|e| Failure::io(path, e))?;
    let opened = Replica::open_with(absolute, options);
    let replica = opened.map_err(|e| Failure::from(e).at(path.display()))?;
    let conn = replica.connection();
    stop::watch(conn);
    conn.busy_timeout(wait())?;
    if fresh {
        // Readers and a writer at once; a schema may say otherwise.
        conn.pragma_update(None, "journal_mode", "WAL").map_err(|e| Failure::from(e).at(path.display()))?;
    }
    // Some files only begin like a database.
    let read = conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()));
    read.map_err(|e| Failure::from(e).at(path.display()))?;
    Ok(replica)
}

/// Opens a database that must be a replica already.
pub fn open_replica(path: &Path, access: Access) -> Result<Replica> {
    let replica = open(path, access)?;
    if !has_metadata(&replica)? {
        let message = format!(
            "{} has no replicated tables yet; `rejoin replicate {} TABLE...` makes some",
            path.display(),
            path.display()
        );
        return Err(Failure::new(Kind::Foreign, message));
    }
    Ok(replica)
}

pub fn has_metadata(replica: &Replica) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'crsql_meta')";
    Ok(replica.connection().query_row(sql, [], |row| row.get(0))?)
}

/// True: there is no such file, and it is to be made.
fn look(path: &Path, access: Access) -> Result<bool> {
    let wrong = |what: &str| Err(Failure::new(Kind::File, format!("{} {what}", path.display())));
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return match access {
                Access::Create => Ok(true),
                _ => wrong("does not exist; `rejoin init` makes a database"),
            };
        }
        Err(e) => return Err(Failure::io(path, e)),
    };
    if found.is_dir() {
        return wrong("is a folder, not a database");
    }
    if access != Access::Read && found.permissions().readonly() {
        return wrong("is read-only; it is to be written to");
    }
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Failure::io(path, e))?;
    let read = file.take(MAGIC.len() as u64).read_to_end(&mut head);
    read.map_err(|e| Failure::io(path, e))?;
    if !head.is_empty() && head != MAGIC {
        return wrong("is no SQLite database (or an encrypted one)");
    }
    Ok(false)
}

/// Whether two paths are one file.
pub fn same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
