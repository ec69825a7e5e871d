//! Processes that are killed at random moments (`kill -9`), on real files. Each leaves whole transactions, and all that it
//! was told were committed. `REJOIN_SEED` repeats a run as far as the clock allows.

use crate::{BOOKS, Folder};
use rejoin::Replica;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const CHILD: &str = "REJOIN_KILL_CHILD";

/// SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let given = std::env::var("REJOIN_SEED").ok().and_then(|s| s.parse().ok());
        let now =
            || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = given.unwrap_or_else(now);
        // Shown if the test fails.
        println!("REJOIN_SEED={seed}");
        Dice(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

pub(crate) fn rounds() -> u64 {
    if std::env::var_os("REJOIN_LONG").is_some() { 100 } else { 10 }
}

pub(crate) fn kill(child: &mut Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn an_import_that_is_killed_happened_whole_or_not_at_all() {
    const ROWS: i64 = 6_000;
    let f = Folder::new();
    let mut csv = String::from("id,title,price,stock\n");
    (1..=ROWS).for_each(|i| csv.push_str(&format!("{i},Some title that takes room {i},9.5,{}\n", i % 7)));
    f.write("books.csv", csv);
    let start = |db: &str| {
        let mut command = f.command(&["import", db, "books", "books.csv"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run rejoin")
    };
    f.init("whole.db", BOOKS);
    let begun = Instant::now();
    assert!(start("whole.db").wait().expect("wait").success());
    let whole = begun.elapsed().as_micros() as u64;
    let mut dice = Dice::new();
    for round in 0..rounds() {
        let db = format!("{round}.db");
        f.init(&db, BOOKS);
        f.sql(&db, "INSERT INTO books(id, title) VALUES (0, 'before')");
        let mut child = start(&db);
        std::thread::sleep(Duration::from_micros(dice.below(whole * 5 / 4)));
        kill(&mut child);
        f.run(&format!("verify {db}")).ok();
        let rows: i64 = f.rows(&db, "SELECT count(*) FROM books").parse().expect("a number");
        assert!(rows == 1 || rows == 1 + ROWS, "{rows} rows");
        f.run(&format!("import {db} books books.csv")).ok();
        assert_eq!(f.rows(&db, "SELECT count(*) FROM books"), (1 + ROWS).to_string());
        f.run(&format!("verify {db}")).ok();
    }
}

const SCHEMA: &str = "CREATE TABLE rows(txn INTEGER, n INTEGER, v, PRIMARY KEY (txn, n)) WITHOUT ROWID; \
     CREATE TABLE last(id INTEGER PRIMARY KEY, txn INTEGER); SELECT crsql_as_crr('rows'); SELECT crsql_as_crr('last');";

/// Rows of the n-th transaction.
fn size(txn: i64) -> i64 {
    if txn % 5 == 0 { 300 } else { txn % 5 }
}

/// Commits one transaction after the other and says so.
fn write_until_killed(db: &str) {
    let r = Replica::open(db).expect("open");
    let conn = r.connection();
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = 20; PRAGMA wal_autocheckpoint = 50")
        .expect("set");
    let first: i64 = conn.query_row("SELECT txn FROM last", [], |row| row.get(0)).expect("last");
    for txn in first + 1.. {
        let rows = size(txn);
        conn.execute_batch(&format!(
            "BEGIN; INSERT INTO rows WITH RECURSIVE s(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) \
             SELECT {txn}, n, 'value ' || n FROM s; UPDATE last SET txn = {txn}; \
             DELETE FROM rows WHERE txn < {txn} - 20 AND n > 3; COMMIT"
        ))
        .expect("commit");
        writeln!(std::io::stdout(), "committed {txn}").expect("tell");
    }
}

/// Lets a writer work for a while and kills it; the last transaction that it said was committed.
fn work(db: &str, dice: &mut Dice) -> Option<i64> {
    let this = std::env::current_exe().expect("the test's own program");
    let name = "kill::a_writer_that_is_killed_keeps_what_it_committed";
    let mut child = Command::new(this)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, db)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the writer");
    let mut out = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let said = |line: &str| line.strip_prefix("committed ").and_then(|n| n.parse().ok());
    // The first answer says that it is at work.
    let mut last: Option<i64> = None;
    while last.is_none() {
        last = said(&out.next().expect("the writer writes").expect("read"));
    }
    std::thread::sleep(Duration::from_micros(dice.below(60_000)));
    kill(&mut child);
    out.map_while(Result::ok).filter_map(|line| said(&line)).last().or(last)
}

#[test]
fn a_writer_that_is_killed_keeps_what_it_committed() {
    if let Ok(db) = std::env::var(CHILD) {
        return write_until_killed(&db);
    }
    let mut dice = Dice::new();
    for (mode, journal) in [("shared", "wal"), ("owned", "wal"), ("shared", "delete"), ("owned", "delete")] {
        let f = Folder::new();
        f.init("a.db", SCHEMA);
        f.init("b.db", SCHEMA);
        f.sql("a.db", &format!("SELECT crsql_config_set('mode', '{mode}'); PRAGMA journal_mode = {journal}"));
        f.sql("a.db", "INSERT INTO last VALUES (1, 0)");
        let db = f.path("a.db").display().to_string();
        for _ in 0..rounds().div_ceil(4) {
            let told = work(&db, &mut dice).expect("something was committed");
            f.run("verify a.db").ok();
            let last: i64 = f.rows("a.db", "SELECT txn FROM last").parse().expect("a number");
            assert!(last == told || last == told + 1, "{mode} {journal}: {last} of {told}");
            let whole = (1..=last).map(|t| if t < last - 20 { size(t).min(3) } else { size(t) }).sum::<i64>();
            assert_eq!(f.rows("a.db", "SELECT count(*) FROM rows"), whole.to_string(), "{mode} {journal}");
            assert_eq!(f.rows("a.db", "SELECT max(txn) FROM rows WHERE n > 0"), last.to_string());
            // A peer goes on from what it had.
            f.run("merge a.db b.db").ok();
            f.run("diff a.db b.db").ok();
        }
    }
}
