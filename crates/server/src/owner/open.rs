//! The room's file.

use super::fault;
use crate::config::{Config, SchemaSource};
use crate::names::RoomName;
use crate::rooms::{failed, no_room};
use rejoin_wire::frame::{Code, Fault};
use rusqlite::{Connection, OpenFlags};
use std::time::Duration;

const BUSY: Duration = Duration::from_secs(5);

/// Opens the file, or makes it if that is allowed.
pub fn connect(
    name: &RoomName,
    config: &Config,
    schema: &SchemaSource,
    create: bool,
) -> Result<Connection, Fault> {
    let path = name.file(&config.data);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if !path.exists() {
        if *schema == SchemaSource::Fixed || !create {
            return Err(no_room(name, "does not exist"));
        }
        let files = std::fs::read_dir(&config.data).map_err(|e| failed(&e))?;
        let rooms = files.filter_map(Result::ok).filter(|f| f.path().extension().is_some_and(|e| e == "db"));
        if rooms.count() >= config.limits.rooms as usize {
            let message = "this server has as many rooms as it may";
            return Err(fault(Code::Limited, message));
        }
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let conn = Connection::open_with_flags(&path, flags).map_err(|e| failed(&e))?;
    // Where the file system folds case, two names would be one file with two owners.
    let real = path.canonicalize().map_err(|e| failed(&e))?;
    let folded =
        real.file_name().zip(path.file_name()).is_some_and(|(a, b)| a != b && a.eq_ignore_ascii_case(b));
    if folded {
        return Err(no_room(name, "exists in another spelling"));
    }
    Ok(conn)
}

/// Sets the connection up; how many pages the file may have.
pub fn set_up(conn: &Connection, config: &Config) -> rusqlite::Result<i64> {
    conn.busy_timeout(BUSY)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", if config.durable { "full" } else { "normal" })?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    let page: i64 = conn.query_row("PRAGMA page_size", [], |r| r.get(0))?;
    let most = i64::try_from(config.limits.room_bytes).unwrap_or(i64::MAX) / page.max(512);
    conn.query_row(&format!("PRAGMA max_page_count = {}", most.min(4_294_967_294)), [], |r| r.get(0))
}
