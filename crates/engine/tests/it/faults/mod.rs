//! A disk that fails at the n-th call, is full, or loses power: see `docs/testing.md`.
//!
//! A workload is a list of steps, each one transaction. It runs once undisturbed, which gives what must be seen after each
//! step; then again for every point of failure, each time from the same start.

mod carry_on;
mod crash;
mod inject;
mod workloads;

use rejoin::{Error, Replica, Result};
use rejoin_sqlite::disk::{Disk, Image, Loss};
use rejoin_sqlite::ffi;
use rusqlite::{Connection, OpenFlags};

use crate::sql::rows;

/// How the file is captured and journaled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    pub owned: bool,
    pub wal: bool,
}

pub const SETTINGS: [Setting; 4] = [
    Setting { owned: false, wal: true },
    Setting { owned: false, wal: false },
    Setting { owned: true, wal: true },
    Setting { owned: true, wal: false },
];

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mode, journal) =
            (if self.owned { "owned" } else { "shared" }, if self.wal { "wal" } else { "delete" });
        write!(f, "{mode}-{journal}")
    }
}

pub enum Step {
    /// One statement, or several that end in the state before if they do not end.
    Sql(String),
    /// A transaction of these statements.
    Txn(Vec<String>),
    Apply(Vec<u8>),
    Call(fn(&Replica) -> Result<()>),
}

pub fn sql(text: &str) -> Step {
    Step::Sql(text.into())
}

pub fn txn(statements: &[&str]) -> Step {
    Step::Txn(statements.iter().map(|s| (*s).into()).collect())
}

impl Step {
    fn run(&self, r: &Replica) -> Result<()> {
        match self {
            Step::Sql(sql) => Ok(r.connection().execute_batch(sql)?),
            Step::Txn(statements) => {
                Ok(r.connection().execute_batch(&format!("BEGIN; {}; COMMIT", statements.join("; ")))?)
            }
            Step::Apply(bytes) => r.apply_changeset(bytes).map(drop),
            Step::Call(f) => f(r),
        }
    }
}

/// A workload in one setting, with what it gives undisturbed.
pub struct Plan {
    pub setting: Setting,
    pub start: Image,
    pub steps: Vec<Step>,
    /// What is seen before the first step and after each.
    pub states: Vec<Seen>,
}

/// What a replica shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    schema: Vec<String>,
    settings: Vec<String>,
    pub tables: Vec<(String, Vec<String>)>,
    changes: Vec<String>,
    parked: Vec<String>,
    vector: Vec<String>,
    db_version: i64,
}

/// The engine on the disk. Pages leave the cache early and the log is short, so that calls fail in the middle of things.
pub fn open(disk: &Disk, setting: Setting) -> Result<Replica> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let conn = Connection::open_with_flags_and_vfs("main.db", flags, disk.vfs())?;
    // A rollback journal whose deletion is lost takes the last transaction back, unless the folder is synced, too.
    let synchronous = if setting.wal { "FULL" } else { "EXTRA" };
    conn.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA cache_size = 12; PRAGMA wal_autocheckpoint = 25"
    ))?;
    let r = Replica::attach(conn)?;
    r.set_clock(|| 1_700_000_000_000)?;
    Ok(r)
}

pub fn look(r: &Replica) -> Result<Seen> {
    let conn = r.connection();
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%crsql\\_%' ESCAPE '\\' \
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut tables = Vec::new();
    let mut q = conn.prepare(names)?;
    for name in q.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        let mut content = rows(conn, &format!("SELECT * FROM \"{name}\""));
        content.sort();
        tables.push((name, content));
    }
    let schema = rows(
        conn,
        "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'crsql\\_%' ESCAPE '\\' ORDER BY name",
    );
    let mut seen = Seen {
        schema,
        settings: vec![],
        tables,
        changes: vec![],
        parked: vec![],
        vector: vec![],
        db_version: 0,
    };
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name = 'crsql_meta'";
    if conn.query_row(ours, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(seen);
    }
    let settings = "SELECT name, value FROM crsql_meta WHERE name IN ('clock', 'mode', 'altering', 'horizon') ORDER BY name";
    seen.settings = rows(conn, settings);
    seen.changes = rows(
        conn,
        "SELECT db_version, seq, \"table\", hex(pk), cid, quote(val), col_version, cl, \
         iif(site_id = crsql_site_id(), 'own', hex(site_id)) FROM crsql_changes ORDER BY db_version, seq",
    );
    seen.parked =
        rows(conn, "SELECT tbl, hex(pk), cid, quote(val), db_version FROM crsql_parked ORDER BY 1, 2, 3");
    let own = r.site_id()?;
    for (site, ranges) in r.vector()?.iter() {
        let site = if *site == own { "own".to_owned() } else { format!("{site:?}") };
        seen.vector.push(format!("{site} {:?}", ranges.iter().collect::<Vec<_>>()));
    }
    seen.vector.sort();
    seen.db_version = r.db_version()?;
    Ok(seen)
}

/// Metadata, tables and SQLite's own structure agree.
#[track_caller]
pub fn assert_clean(r: &Replica) {
    match r.verify() {
        Ok(report) => assert!(report.is_clean(), "{:#?}", report.problems),
        Err(Error::NeedsUpgrade) => {}
        Err(e) => panic!("verify: {e}"),
    }
}

/// The disk failed, and the error says so in words. Where it fails under the preupdate hook, which cannot answer, SQLite
/// says that it rolled back.
#[track_caller]
pub fn assert_told(e: &Error, setting: Setting) {
    let text = e.to_string();
    let family = [ffi::SQLITE_IOERR, ffi::SQLITE_FULL, ffi::SQLITE_CANTOPEN].contains(&(e.code() & 0xff))
        || (setting.owned && e.code() == ffi::SQLITE_ABORT_ROLLBACK);
    assert!(family && matches!(e, Error::Sqlite(_)), "{e:?} does not tell of the disk");
    assert!(text.contains(' ') && !text.contains("internal"), "not a sentence: {text:?}");
}

impl Plan {
    /// Makes the start and runs all steps undisturbed.
    pub fn new(name: &str, setting: Setting) -> Plan {
        let disk = Disk::new();
        let (start, steps) = workloads::make(name, &disk, setting);
        disk.restore(&start);
        let r = open(&disk, setting).unwrap();
        let mut states = vec![look(&r).unwrap()];
        for (i, step) in steps.iter().enumerate() {
            step.run(&r).unwrap_or_else(|e| panic!("{name}, step {i}: {e}"));
            states.push(look(&r).unwrap());
            assert_clean(&r);
        }
        Plan { setting, start, steps, states }
    }

    /// Which step's outcome the replica shows: `at` or a later one, `last` at most.
    #[track_caller]
    pub fn find(&self, r: &Replica, at: usize, last: usize) -> usize {
        let seen = look(r).unwrap_or_else(|e| panic!("the replica cannot be read any more: {e}"));
        let last = last.min(self.steps.len());
        if let Some(found) = (at..=last).rfind(|i| self.states[*i] == seen) {
            return found;
        }
        panic!("this is no committed state from {at} to {last}:\n{}", difference(&self.states[at], &seen));
    }

    /// Goes on from step `at` to the end, which must be as ever.
    #[track_caller]
    pub fn finish(&self, r: &Replica, at: usize) {
        for (i, step) in self.steps.iter().enumerate().skip(at) {
            step.run(r).unwrap_or_else(|e| panic!("step {i} does not succeed afterwards: {e}"));
        }
        let all = self.steps.len();
        self.find(r, all, all);
        assert_clean(r);
    }

    /// What is left of the file is whole and shows a state from `at` on: the replica, and which.
    #[track_caller]
    pub fn reopen(&self, disk: &Disk, image: &Image, at: usize) -> (Replica, usize) {
        disk.restore(image);
        let r =
            open(disk, self.setting).unwrap_or_else(|e| panic!("the file cannot be opened any more: {e}"));
        assert_clean(&r);
        let found = self.find(&r, at, at + 1);
        (r, found)
    }
}

fn difference(a: &Seen, b: &Seen) -> String {
    let lines = |s: &Seen| format!("{s:#?}").lines().map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (lines(a), lines(b));
    let only = |these: &[String], those: &[String], sign: &str| {
        let mut only =
            these.iter().filter(|l| !those.contains(l)).map(|l| format!("{sign} {l}\n")).collect::<Vec<_>>();
        only.truncate(30);
        only.concat()
    };
    only(&a, &b, "-") + &only(&b, &a, "+")
}

/// All points if it is to be long, else so many of them, evenly spread.
pub fn points(all: u64, short: u64) -> impl Iterator<Item = u64> {
    let step = if std::env::var_os("REJOIN_LONG").is_some() { 1 } else { (all / short).max(1) };
    // Not always the same phase of what repeats itself.
    (0..).map(move |i| 1 + i * step + i % step.min(3)).take_while(move |n| *n <= all)
}

/// The one point to run, where a failure is looked at again: `REJOIN_FAULT`.
pub fn chosen() -> Option<String> {
    std::env::var("REJOIN_FAULT").ok()
}

/// Runs a point, unless another one is asked for, and says how to run it again if it fails.
pub fn point(name: &str, f: impl FnOnce()) {
    struct Tell<'a>(&'a str);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("again: REJOIN_FAULT={} cargo nextest run -p rejoin faults", self.0);
            }
        }
    }
    if chosen().is_none_or(|c| c == name) {
        let _tell = Tell(name);
        f();
    }
}

/// What a loss of power leaves at this moment, with the unsynced writes lost.
pub fn power_off(disk: &Disk) -> Image {
    disk.crash(Loss::All)
}
