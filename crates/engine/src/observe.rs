//! What a committed transaction changed: for live queries and servers.

use crate::core::{Core, LogRow};

/// One committed transaction: tables by name, and for each the changed keys and columns.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub db_version: i64,
    pub rows: Vec<LogRow>,
}

impl Commit {
    pub fn new(_core: &Core, rows: Vec<LogRow>) -> Commit {
        let db_version = rows.iter().map(|r| r.db_version).max().unwrap_or(0);
        Commit { db_version, rows }
    }
}
