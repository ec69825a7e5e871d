//! A room's schema from a file of SQL.

use crate::config::Config;
use crate::config::SchemaSource;
use crate::error::StartError;
use crate::members::DDL;
use crate::policy::Policies;
use rejoin::Replica;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The file, read again when it has changed.
pub struct SchemaFile {
    path: PathBuf,
    modified: Option<SystemTime>,
    text: String,
}

impl SchemaFile {
    pub fn of(source: &SchemaSource) -> Option<SchemaFile> {
        match source {
            SchemaSource::File(path) => Some(SchemaFile::new(path.clone())),
            SchemaSource::Adopt | SchemaSource::Fixed => None,
        }
    }

    fn new(path: PathBuf) -> SchemaFile {
        SchemaFile { path, modified: None, text: String::new() }
    }

    /// The text, if it is another than before.
    pub fn changed(&mut self) -> std::io::Result<Option<String>> {
        let modified = std::fs::metadata(&self.path)?.modified()?;
        if self.modified == Some(modified) {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&self.path)?;
        self.modified = Some(modified);
        if text == self.text {
            return Ok(None);
        }
        self.text.clone_from(&text);
        Ok(Some(text))
    }
}

/// Makes the room's tables like the text's. A text that makes no table replicated means all of them.
pub fn apply(replica: &Replica, text: &str) -> Result<(), String> {
    let conn = replica.connection();
    let whole = format!("{text}\n;{DDL}");
    conn.query_row("SELECT crsql_automigrate(?1)", [&whole], |_| Ok(())).map_err(|e| e.to_string())?;
    if !text.to_ascii_lowercase().contains("crsql_as_crr") {
        for table in tables(conn).map_err(|e| e.to_string())? {
            replica.replicate(&table).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// The user's tables.
pub fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut q = conn.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'crsql\\_%' ESCAPE '\\' \
         AND name NOT LIKE 'rejoin\\_server\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    q.query_map([], |r| r.get(0))?.collect()
}

pub fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut q = conn.prepare("SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    q.query_map([table], |r| r.get(0))?.collect()
}

/// Compiles the policies, and holds them against the schema files, before the server starts.
pub fn check(config: &Config) -> Result<(), StartError> {
    let policies = Policies::compile(&config.policies, config.limits.policy_steps)?;
    let sources: Vec<&SchemaSource> = std::iter::once(&config.schema).chain(config.rooms.values()).collect();
    let mut known = Vec::new();
    for source in &sources {
        let SchemaSource::File(path) = source else { continue };
        let conn = from_file(path)?;
        let failed = |e: rusqlite::Error| StartError::file(path, &e);
        for table in tables(&conn).map_err(failed)? {
            policies.check_columns(&table, &columns(&conn, &table).map_err(failed)?)?;
            known.push(table);
        }
    }
    let all_known = sources.iter().all(|s| matches!(s, SchemaSource::File(_)));
    match policies.about_nothing(&known).next() {
        Some(policy) if all_known => {
            let message = format!("{}: no schema has a table \"{}\"", policy.place, policy.table);
            Err(StartError::Refused { message })
        }
        _ => Ok(()),
    }
}

fn from_file(path: &Path) -> Result<Connection, StartError> {
    let text = crate::config::read(path)?;
    let replica = Replica::open(":memory:").map_err(|e| StartError::file(path, &e))?;
    apply(&replica, &text).map_err(|e| StartError::file(path, &e))?;
    Ok(replica.into_connection())
}
