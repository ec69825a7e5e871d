//! Replicas on real files.

use rejoin::{Applied, Replica, Result};
use tempfile::TempDir;

pub struct Files {
    pub dir: TempDir,
}

impl Files {
    pub fn new() -> Files {
        Files { dir: tempfile::tempdir().unwrap() }
    }

    /// Opens `name`, running `schema` in it if it is new.
    pub fn open(&self, name: &str, schema: &str) -> Replica {
        let path = self.dir.path().join(name);
        let fresh = !path.exists();
        let r = Replica::open(path).unwrap();
        r.connection().execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        if fresh {
            r.connection().execute_batch(schema).unwrap();
        }
        r
    }

    pub fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.dir.path().join(from), self.dir.path().join(to)).unwrap();
    }
}

pub const ITEMS: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER DEFAULT 0); \
     SELECT crsql_as_crr('items');";

pub fn run(r: &Replica, sql: &str) {
    r.connection().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The first column of a query, values as SQL literals joined by spaces.
pub fn rows(r: &Replica, sql: &str) -> Vec<String> {
    let mut q = r.connection().prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = q.column_count();
    let all = q.query_map([], |row| {
        let values = (0..columns).map(|i| Ok(format!("{:?}", row.get_ref(i)?)));
        Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join(" "))
    });
    all.unwrap().map(|r| r.unwrap()).collect()
}

pub fn int(r: &Replica, sql: &str) -> i64 {
    r.connection().query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// What `from` has and `to` lacks.
pub fn pull(from: &Replica, to: &Replica) -> Result<Applied> {
    match from.changeset_for(&to.vector()?)? {
        Some(bytes) => to.apply_changeset(&bytes),
        None => Ok(Applied::default()),
    }
}

/// Tables and metadata but what may differ: db_version, and with equal values kept local also site and seq.
pub fn state(r: &Replica, table: &str) -> Vec<String> {
    let quoted = table.replace('"', "\"\"");
    let mut all = rows(r, &format!("SELECT * FROM \"{quoted}\" ORDER BY 1"));
    all.extend(rows(
        r,
        &format!(
            "SELECT \"table\", hex(pk), cid, val, col_version, cl FROM crsql_changes WHERE \"table\" = '{table}' \
             ORDER BY 1, 2, 3"
        ),
    ));
    all
}

#[track_caller]
pub fn assert_equal(a: &Replica, b: &Replica, table: &str) {
    assert_eq!(state(a, table), state(b, table));
}
