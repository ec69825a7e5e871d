//! A server and three replicas, each with `rejoin sync --watch` and a writer of its own, for a minute in which every one of these
//! seven processes is killed (`kill -9`) at random moments and started again. Then all are equal, in tables and metadata, and
//! everything is there that a writer was told was committed.
//!
//! `REJOIN_SEED` repeats the kills as far as the clock allows; `REJOIN_E2E_SECONDS` takes another time than a minute.

use crate::Folder;
use crate::kill::{Dice, kill};
use crate::sync::Serving;
use rejoin::Replica;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WRITER: &str = "REJOIN_E2E_WRITER";
const REPLICAS: i64 = 3;

const SCHEMA: &str = "\
CREATE TABLE entries (writer INTEGER, n INTEGER, payload TEXT NOT NULL, PRIMARY KEY (writer, n)) WITHOUT ROWID;
CREATE TABLE heads (writer INTEGER PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE shared (id INTEGER PRIMARY KEY, writer INTEGER, n INTEGER, stock INTEGER DEFAULT 0);
CREATE TABLE scratch (id TEXT PRIMARY KEY NOT NULL, writer INTEGER, n INTEGER);
SELECT crsql_as_crr('entries'); SELECT crsql_as_crr('heads'); SELECT crsql_as_crr('shared'); SELECT crsql_as_crr('scratch');";

fn seconds() -> u64 {
    std::env::var("REJOIN_E2E_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60)
}

/// What the n-th transaction of a writer says; some are large.
fn payload(writer: i64, n: i64) -> String {
    let long = if n % 97 == 0 { 20_000 } else { (n as usize * 7919) % 300 };
    format!("{writer}:{n}:{}", "x".repeat(long))
}

/// Commits one transaction after the other, and writes each into its ledger when it is committed. A replica that starts over
/// meanwhile is still the same file.
fn write_until_killed(folder: &str, writer: i64) {
    let at = |name: &str| format!("{folder}/{name}");
    let replica = Replica::open(at(&format!("r{writer}.db"))).expect("open");
    let conn = replica.connection();
    conn.busy_timeout(Duration::from_secs(60)).expect("set");
    conn.execute_batch("PRAGMA synchronous = NORMAL").expect("set");
    let mut ledger: File =
        OpenOptions::new().append(true).create(true).open(at(&format!("ledger{writer}"))).expect("a ledger");
    let head = "SELECT coalesce((SELECT n FROM heads WHERE writer = ?1), 0)";
    let first: i64 = conn.query_row(head, [writer], |row| row.get(0)).expect("a number");
    let mut dice = Dice::new();
    for n in first + 1.. {
        let txn = conn.unchecked_transaction().expect("begin");
        let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            txn.prepare_cached(sql).and_then(|mut q| q.execute(params)).expect("sql");
        };
        run("INSERT INTO entries VALUES (?1, ?2, ?3)", &[&writer, &n, &payload(writer, n)]);
        run("INSERT OR REPLACE INTO heads VALUES (?1, ?2)", &[&writer, &n]);
        // Where all meet.
        let id = dice.below(5) as i64;
        run(
            "INSERT INTO shared (id, writer, n) VALUES (?1, ?2, ?3) \
             ON CONFLICT (id) DO UPDATE SET writer = excluded.writer, n = excluded.n, stock = stock + 1",
            &[&id, &writer, &n],
        );
        let key = format!("k{}", dice.below(20));
        match dice.below(3) {
            0 => run("DELETE FROM scratch WHERE id = ?1", &[&key]),
            1 => run("DELETE FROM shared WHERE id = ?1", &[&(id + 1)]),
            _ => run("INSERT OR REPLACE INTO scratch VALUES (?1, ?2, ?3)", &[&key, &writer, &n]),
        }
        txn.commit().expect("commit");
        // In one write, or half a line could be left.
        ledger.write_all(format!("{n}\n").as_bytes()).expect("the ledger");
        std::thread::sleep(Duration::from_millis(dice.below(30)));
    }
}

/// One of the programs: running, or until when it is dead.
struct Program {
    start: Box<dyn Fn() -> Child>,
    child: Option<Child>,
    again: Instant,
    kills: u32,
}

impl Program {
    fn new(start: Box<dyn Fn() -> Child>) -> Program {
        Program { child: Some(start()), start, again: Instant::now(), kills: 0 }
    }

    /// Killed; it is dead for up to so many milliseconds.
    fn kill(&mut self, dead_ms: u64) {
        let Some(mut child) = self.child.take() else { return };
        assert_eq!(child.try_wait().expect("wait"), None, "a program ended by itself");
        kill(&mut child);
        self.kills += 1;
        self.again = Instant::now() + Duration::from_millis(dead_ms);
    }

    fn start_if_due(&mut self) {
        if self.child.is_none() && self.again <= Instant::now() {
            self.child = Some((self.start)());
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn quiet(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a program")
}

fn programs(f: &Folder, address: &str) -> Vec<Program> {
    let mut all = Vec::new();
    let serve = ["serve", "--data", "rooms", "--listen", address, "--insecure-no-auth", "--log", "off"];
    let words: Vec<String> = serve.iter().map(|w| (*w).to_owned()).collect();
    let starting = |words: Vec<String>| {
        let (dir, program) = (f.path(""), env!("CARGO_BIN_EXE_rejoin"));
        Box::new(move || {
            let mut command = Command::new(program);
            command.current_dir(&dir).args(&words);
            quiet(command)
        })
    };
    all.push(Program::new(starting(words)));
    for n in 1..=REPLICAS {
        let words = ["sync", &format!("r{n}.db"), &format!("ws://{address}/shop"), "--watch", "--wait", "60"];
        all.push(Program::new(starting(words.iter().map(|w| (*w).to_owned()).collect())));
    }
    for n in 1..=REPLICAS {
        let (dir, program) = (f.path(""), std::env::current_exe().expect("the test's own program"));
        let start = move || {
            let mut command = Command::new(&program);
            let name = "endtoend::three_replicas_while_every_process_is_killed";
            command.args(["--exact", name, "--nocapture"]).env(WRITER, format!("{n} {}", dir.display()));
            quiet(command)
        };
        all.push(Program::new(Box::new(start)));
    }
    all
}

/// Kills and restarts for the given time.
fn havoc(all: &mut [Program], dice: &mut Dice) {
    let end = Instant::now() + Duration::from_secs(seconds());
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(dice.below(250)));
        // Every process as often as every other; at times the server stays away for long, at times all go at once.
        match dice.below(20) {
            0 => all.iter_mut().for_each(|p| p.kill(500)),
            n => {
                let which = dice.below(all.len() as u64) as usize;
                let dead_ms = dice.below(if n == 1 { 3_000 } else { 400 });
                all[which].kill(dead_ms);
            }
        }
        all.iter_mut().for_each(Program::start_if_due);
    }
    let kills: Vec<u32> = all.iter().map(|p| p.kills).collect();
    println!("killed: the server, three that sync, three that write: {kills:?} times");
    assert!(seconds() < 30 || kills.iter().all(|k| *k > 3), "{kills:?}");
}

/// Of each cell who wrote it last is the same everywhere; where two wrote the same, whom each knows of may differ.
fn metadata(f: &Folder, db: &str) -> (rejoin::VersionVector, Vec<String>) {
    let replica = Replica::open(f.path(db)).expect("open");
    let sql = "SELECT \"table\" || ' ' || hex(pk) || ' ' || cid || ' ' || quote(val) || ' ' || col_version || ' ' || cl \
        FROM crsql_changes ORDER BY 1";
    let mut q = replica.connection().prepare(sql).expect("prepare");
    let rows = q.query_map([], |r| r.get(0)).expect("query").collect::<Result<_, _>>().expect("rows");
    (replica.vector().expect("a vector"), rows)
}

/// What the ledger of a writer says was committed is in every database, whole.
fn assert_ledger(f: &Folder, writer: i64, dbs: &[String]) -> i64 {
    let ledger = std::fs::read_to_string(f.path(&format!("ledger{writer}"))).expect("a ledger");
    // A writer that is killed between the commit and the ledger has committed one more than it says.
    let told: Vec<i64> = ledger.lines().filter_map(|l| l.parse().ok()).collect();
    let last = *told.last().expect("it wrote something");
    for db in dbs {
        let conn = f.plain(db);
        let mut q =
            conn.prepare("SELECT n, payload FROM entries WHERE writer = ?1 ORDER BY n").expect("prepare");
        let rows = q.query_map([writer], |r| Ok((r.get(0)?, r.get(1)?))).expect("query");
        let rows: Vec<(i64, String)> = rows.collect::<Result<_, _>>().expect("rows");
        let head = rows.last().expect("an entry").0;
        assert!(told.iter().all(|n| (1..=head).contains(n)) && head >= last, "{db}: {head} of {last}");
        for (i, (n, text)) in rows.iter().enumerate() {
            assert!(*n == i as i64 + 1 && *text == payload(writer, *n), "{db}: entry {n} of writer {writer}");
        }
        let sql = format!("SELECT n FROM heads WHERE writer = {writer}");
        assert_eq!(f.rows(db, &sql), head.to_string(), "{db}");
    }
    last
}

#[test]
fn three_replicas_while_every_process_is_killed() {
    if let Ok(words) = std::env::var(WRITER) {
        let (writer, folder) = words.split_once(' ').expect("number and folder");
        return write_until_killed(folder, writer.parse().expect("a number"));
    }
    let f = Folder::new();
    let replicas: Vec<String> = (1..=REPLICAS).map(|n| format!("r{n}.db")).collect();
    for db in &replicas {
        f.init(db, SCHEMA);
        f.plain(db).query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).expect("set");
    }
    // A port that is free stays so for a moment; the server takes it again whenever it starts.
    let first = Serving::start(&f, &[]);
    let (address, url) = (first.address.clone(), first.url.clone());
    first.stop();
    let mut dice = Dice::new();
    let mut all = programs(&f, &address);
    havoc(&mut all, &mut dice);
    let calm = Instant::now();
    all.iter_mut().for_each(|p| p.kill(0));
    drop(all);
    let server = Serving::start_at(&f, &address, &[]);
    // The first round brings everything to the server, the second everything to everybody.
    for db in replicas.iter().chain(&replicas) {
        f.run(&format!("sync {db} {url}")).ok();
    }
    server.stop();
    let mut dbs = replicas;
    dbs.push("rooms/shop.db".into());
    for db in &dbs {
        f.run(&format!("verify {db}")).ok();
    }
    for db in &dbs[1..] {
        f.run(&format!("diff r1.db {db}")).ok();
    }
    println!("equal after {:?}", calm.elapsed());
    let expected = metadata(&f, "r1.db");
    for db in &dbs {
        let found = metadata(&f, db);
        assert!(
            found == expected,
            "{db}: {} and {} changes, vectors {:?} and {:?}",
            found.1.len(),
            expected.1.len(),
            found.0,
            expected.0
        );
    }
    let told: Vec<i64> = (1..=REPLICAS).map(|n| assert_ledger(&f, n, &dbs)).collect();
    println!("committed: {told:?}, changes: {}", expected.1.len());
}
