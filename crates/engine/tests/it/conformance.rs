//! The two ways of capture against each other and against SQLite alone: the same program on a shared file, an owned file
//! and a plain one must give the same results, the same counters, the same tables, and the same changes.
//!
//! A program is a list of steps; a step is an SQL statement or one of
//!
//! ```text
//! crr T     T becomes replicated (nothing on the plain file)
//! read      the changes are compared in the middle of the transaction
//! busy      another connection begins to read, so that a COMMIT fails; `calm` ends it
//! holes     from here on sequence numbers may skip others (a failing UPDATE: triggers hear of the row that fails)
//! loose     from here on versions and order of changes may differ, not what is changed (younger user triggers)
//! ```

mod directed;
mod random;
mod traps;

use crate::sql::file;
use rejoin_sqlite::Db;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};
use std::collections::HashMap;
use std::path::PathBuf;
use tempfile::TempDir;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Plain,
    Shared,
    Owned,
}

/// The program's file under one of the modes.
pub struct Side {
    mode: Mode,
    pub conn: Connection,
    path: PathBuf,
    reader: Option<Connection>,
    counts: bool,
    _dir: TempDir,
}

/// What a statement did, as a program sees it.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    result: Result<Vec<String>, String>,
    changes: u64,
    last_rowid: i64,
    autocommit: bool,
}

/// One row of `crsql_changes`, site ids told apart from one's own only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Change {
    pub db_version: i64,
    pub seq: i64,
    pub table: String,
    pub pk: String,
    pub cid: String,
    pub val: String,
    pub col_version: i64,
    pub cl: i64,
    pub own: bool,
}

impl Side {
    pub fn new(mode: Mode, lamport: bool) -> Side {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.db");
        let conn = match mode {
            Mode::Plain => Connection::open(&path).unwrap(),
            _ => file(&path),
        };
        run(&conn, "PRAGMA synchronous = OFF").and_then(|_| run(&conn, "PRAGMA busy_timeout = 0")).unwrap();
        let side = Side { mode, conn, path, reader: None, counts: false, _dir: dir };
        if mode != Mode::Plain {
            side.sql(if lamport { "SELECT crsql_config_set('clock', 'lamport')" } else { "SELECT 1" });
        }
        if mode == Mode::Owned {
            side.sql("SELECT crsql_config_set('mode', 'owned')");
        }
        Db::with(&side.conn, |db| db.set_last_insert_rowid(0));
        side
    }

    /// A statement that must succeed.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        run(&self.conn, sql).unwrap_or_else(|e| panic!("{:?}: {sql}: {e}", self.mode))
    }

    pub fn error(&self, sql: &str) -> String {
        match run(&self.conn, sql) {
            Ok(rows) => panic!("{:?}: {sql} gave {rows:?}", self.mode),
            Err(e) => e,
        }
    }

    fn step(&mut self, step: &str) -> Outcome {
        let result = match step.split_once(' ').unwrap_or((step, "")) {
            ("crr", table) if self.mode != Mode::Plain => {
                let rowid = self.conn.last_insert_rowid();
                let done = run(&self.conn, &format!("SELECT crsql_as_crr('{table}')"));
                Db::with(&self.conn, |db| db.set_last_insert_rowid(rowid));
                done.map(|_| Vec::new())
            }
            ("crr", _) => Ok(Vec::new()),
            ("busy", _) => {
                let reader = Connection::open(&self.path).unwrap();
                run(&reader, "BEGIN").and_then(|_| run(&reader, "SELECT * FROM sqlite_schema")).unwrap();
                self.reader = Some(reader);
                Ok(Vec::new())
            }
            ("calm", _) => {
                self.reader = None;
                Ok(Vec::new())
            }
            _ => run(&self.conn, step),
        };
        let mut outcome = Outcome {
            result,
            changes: self.conn.changes(),
            last_rowid: self.conn.last_insert_rowid(),
            autocommit: self.conn.is_autocommit(),
        };
        // Counters of the program's own writes: the engine's functions are statements too, and count. VACUUM inserts
        // triggers and views into the new file.
        self.counts &= !step.starts_with("crr ") && step != "VACUUM";
        self.counts |= step.starts_with("INSERT") && outcome.result.is_ok();
        if !self.counts {
            (outcome.changes, outcome.last_rowid) = (0, 0);
        }
        outcome
    }

    pub fn changes(&self) -> Vec<Change> {
        let sql = "SELECT db_version, seq, \"table\", hex(pk), cid, quote(val), col_version, cl, \
                   site_id = crsql_site_id() FROM crsql_changes";
        let mut stmt = self.conn.prepare(sql).unwrap();
        let changes = stmt.query_map([], |r| {
            Ok(Change {
                db_version: r.get(0)?,
                seq: r.get(1)?,
                table: r.get(2)?,
                pk: r.get(3)?,
                cid: r.get(4)?,
                val: r.get(5)?,
                col_version: r.get(6)?,
                cl: r.get(7)?,
                own: r.get(8)?,
            })
        });
        let mut changes: Vec<Change> = changes.unwrap().map(|c| c.unwrap()).collect();
        // Hybrid clocks tell the time of day; what must be equal is their order.
        let mut versions: Vec<i64> = changes.iter().map(|c| c.col_version).filter(|v| *v > 1 << 32).collect();
        versions.sort_unstable();
        versions.dedup();
        for c in &mut changes {
            if let Ok(rank) = versions.binary_search(&c.col_version) {
                c.col_version = 1_000_000 + rank as i64;
            }
        }
        changes
    }

    /// The program's own tables with their rows.
    pub fn tables(&self) -> Vec<String> {
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'crsql%' \
                     AND name NOT LIKE 'sqlite%' ORDER BY name";
        let mut all = Vec::new();
        for name in self.sql(names) {
            let name = name.trim_matches('\'');
            let mut rows = self.sql(&format!("SELECT * FROM main.\"{name}\""));
            rows.sort();
            all.push(format!("{name}: {rows:#?}"));
        }
        all
    }
}

fn run(conn: &Connection, sql: &str) -> Result<Vec<String>, String> {
    let told = |e: rusqlite::Error| e.to_string();
    let mut stmt = conn.prepare(sql).map_err(told)?;
    let columns = stmt.column_count();
    let mut found = stmt.raw_query();
    let mut all = Vec::new();
    while let Some(row) = found.next().map_err(told)? {
        let shown: Vec<String> = (0..columns).map(|i| show(row.get_ref(i).unwrap())).collect();
        all.push(shown.join("|"));
    }
    Ok(all)
}

fn show(v: ValueRef<'_>) -> String {
    match v {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => format!("'{}'", String::from_utf8_lossy(t)),
        ValueRef::Blob(b) => format!("x'{}'", b.iter().map(|b| format!("{b:02X}")).collect::<String>()),
    }
}

/// Runs a program on all three files; returns the shared one's and the owned one's end.
pub fn conform(program: &[&str]) -> Vec<Change> {
    let mut last = Vec::new();
    for lamport in [false, true] {
        // Reading the changes digests what was captured so far: once as often as can be, once at the end only.
        for often in [true, false] {
            last = conform_once(program, lamport, often, Likeness::Whole);
        }
    }
    last
}

fn conform_once(program: &[&str], lamport: bool, often: bool, likeness: Likeness) -> Vec<Change> {
    let mut plain = Side::new(Mode::Plain, lamport);
    let mut shared = Side::new(Mode::Shared, lamport);
    let mut owned = Side::new(Mode::Owned, lamport);
    let mut likeness = likeness;
    let (mut done, mut wrote) = (String::new(), false);
    for step in program {
        done.push_str(&format!("  {step}\n"));
        let context = format!("lamport {lamport}, often {often}, after\n{done}");
        match *step {
            "loose" => likeness = Likeness::Loose,
            "holes" => likeness = Likeness::Holes,
            "read" => {
                same_changes(&shared, &owned, likeness, &context);
                wrote = true;
            }
            _ => {
                // Reading the changes inside a transaction writes, and counts, until something else is counted.
                let expected = plain.step(step);
                let counts =
                    ["INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"].iter().any(|s| step.starts_with(s));
                wrote &= !(counts && expected.result.is_ok());
                let told = |mut o: Outcome| {
                    o.changes *= u64::from(!wrote);
                    o
                };
                let expected = told(expected);
                for side in [&mut shared, &mut owned] {
                    assert_eq!(told(side.step(step)), expected, "{:?} and plain, {context}", side.mode);
                }
                if expected.autocommit || often {
                    same_changes(&shared, &owned, likeness, &context);
                    wrote |= !expected.autocommit;
                }
            }
        }
    }
    let tables = plain.tables();
    assert_eq!(shared.tables(), tables, "shared tables, {done}");
    assert_eq!(owned.tables(), tables, "owned tables, {done}");
    for side in [&shared, &owned] {
        assert_eq!(side.sql("PRAGMA integrity_check"), ["'ok'"], "{:?}: {done}", side.mode);
        arrives(side, &done);
    }
    assert_eq!(triggers(&owned), 0, "{done}");
    owned.changes()
}

fn triggers(side: &Side) -> usize {
    side.sql("SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'crsql%'").len()
}

/// How much of two lists of changes must be equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Likeness {
    Whole,
    Holes,
    /// Holes, and versions: an UPDATE of a row that REPLACE removes afterwards, in one transaction, leaves triggers
    /// nothing to compare with.
    Versions,
    Loose,
}

fn blur(list: &mut [Change], likeness: Likeness) {
    let mut seen = HashMap::new();
    for c in list.iter_mut().filter(|_| matches!(likeness, Likeness::Holes | Likeness::Versions)) {
        if likeness == Likeness::Versions && c.cid != "-1" {
            c.col_version = 0;
        }
        let next: &mut i64 = seen.entry(c.db_version).or_default();
        c.seq = *next;
        *next += 1;
    }
    if likeness == Likeness::Loose {
        list.iter_mut().for_each(|c| (c.seq, c.col_version) = (0, 0));
        list.sort();
    }
}

fn same_changes(shared: &Side, owned: &Side, likeness: Likeness, context: &str) {
    let (mut a, mut b) = (shared.changes(), owned.changes());
    blur(&mut a, likeness);
    blur(&mut b, likeness);
    if a != b {
        let only = |x: &[Change], y: &[Change]| {
            let left: Vec<String> = x.iter().filter(|c| !y.contains(c)).map(|c| format!("{c:?}")).collect();
            left.join("\n")
        };
        panic!("{context}only shared:\n{}\nonly owned:\n{}", only(&a, &b), only(&b, &a));
    }
}

/// The changes alone make the same replicated tables elsewhere.
fn arrives(side: &Side, context: &str) {
    let peer = file(&side.path.with_extension("peer"));
    let replicated = side.sql("SELECT name FROM crsql_tables");
    let names: Vec<String> = replicated.iter().map(|n| n.trim_matches('\'').to_owned()).collect();
    for name in &names {
        let made =
            side.sql(&format!("SELECT sql FROM sqlite_schema WHERE name = '{name}' AND type = 'table'"));
        run(&peer, made[0].trim_matches('\'')).unwrap();
        run(&peer, &format!("SELECT crsql_as_crr('{name}')")).unwrap();
    }
    run(&peer, "BEGIN").unwrap();
    let rows = "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes";
    let mut from = side.conn.prepare(rows).unwrap();
    let mut to = peer.prepare("INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)").unwrap();
    let mut found = from.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let values: Vec<rusqlite::types::Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
        to.execute(rusqlite::params_from_iter(values)).unwrap();
    }
    run(&peer, "COMMIT").unwrap();
    for name in &names {
        let all = format!("SELECT * FROM main.\"{name}\"");
        let (mut here, mut there) = (side.sql(&all), run(&peer, &all).unwrap());
        here.sort();
        there.sort();
        assert_eq!(there, here, "{:?}: {name} elsewhere, {context}", side.mode);
    }
}

/// The library under the tests has what owned files need.
#[test]
fn hook_is_compiled_in() {
    let side = Side::new(Mode::Plain, false);
    let options = side.sql("PRAGMA compile_options");
    assert!(options.contains(&"'ENABLE_PREUPDATE_HOOK'".to_owned()), "{}", ffi::SQLITE_VERSION_NUMBER);
}
