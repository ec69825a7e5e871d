//! `INSERT INTO crsql_changes` with values of any type, among statements of an application.
//!
//! The bytes are a program: an operation, then what it takes. Whatever they say, each statement succeeds or fails with
//! a sentence, and at the end metadata and tables agree.

use crate::Target;
use crate::replicas::{ROWS, SCHEMA, check, replica, tolerate};
use rejoin::Replica;
use rusqlite::types::Value;

pub const TARGET: Target = Target { name: "insert_changes", run, seeds };

const TABLES: [&str; 8] = ["i", "t", "u", "p", "plain", "nowhere", "T", ""];
const CIDS: [&str; 9] = ["-1", "x", "y", "y \"z", "k", "gone", "X", "", "crsql_changes"];
/// Packed keys that fit, or nearly fit, one of the tables.
const KEYS: [&[u8]; 13] = [
    &[1, 9, 1],
    &[1, 9, 2],
    &[1, 11, 1, b'a'],
    &[1, 11, 1, b'A'],
    &[1, 11, 1, b'b'],
    &[2, 9, 1, 9, 1],
    &[2, 2, 63, 240, 0, 0, 0, 0, 0, 0, 9, 1],
    &[2, 12, 1, 1, 2, 63, 240, 0, 0, 0, 0, 0, 0],
    &[2, 12, 1, 1, 9, 1],
    &[1, 5],
    &[1, 1],
    &[],
    &[0],
];
const NUMBERS: [i64; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    -1,
    i64::MIN,
    i64::MAX,
    (1 << 53) - 1,
    1 << 53,
    1 << 31,
    (1 << 31) + 1,
    1 << 40,
    (1 << 40) + 5,
    1 << 20,
];
const STATEMENTS: [&str; 24] = [
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "INSERT OR REPLACE INTO i VALUES (1, 1, 1)",
    "INSERT OR IGNORE INTO t VALUES ('b', 1, 1)",
    "INSERT OR REPLACE INTO t VALUES ('B', 2, 2)",
    "INSERT OR REPLACE INTO u(k, l) VALUES (1, 1)",
    "INSERT OR IGNORE INTO p VALUES (x'01', 1)",
    "UPDATE OR REPLACE i SET k = 3 - k WHERE k IN (1, 2)",
    "UPDATE OR IGNORE t SET k = upper(k), x = 'z'",
    "UPDATE t SET y = y || 'a'",
    "UPDATE u SET k = 1.0 WHERE k = 1",
    "UPDATE i SET x = x + 1, y = 5",
    "DELETE FROM i WHERE k = 1",
    "DELETE FROM t",
    "DELETE FROM u WHERE l = 1",
    "DELETE FROM p",
    "INSERT INTO i(k, y) VALUES (77, 'bad')",
    "SELECT crsql_next_db_version(9)",
    "SELECT count(*) FROM crsql_changes",
    "SELECT crsql_config_set('clock', 'lamport')",
];

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte() % 40).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn number(&mut self) -> i64 {
        let mut word = [0; 8];
        let bytes = self.bytes();
        let len = bytes.len().min(8);
        word[..len].copy_from_slice(&bytes[..len]);
        i64::from_le_bytes(word)
    }

    /// A value of any type.
    fn any(&mut self) -> Value {
        match self.byte() % 6 {
            0 => Value::Null,
            1 => Value::Integer(self.pick(&NUMBERS)),
            2 => Value::Integer(self.number()),
            3 => Value::Real(f64::from_bits(self.number() as u64)),
            4 => Value::Text(String::from_utf8_lossy(self.bytes()).into_owned()),
            _ => Value::Blob(self.bytes().to_vec()),
        }
    }

    /// `usual` mostly, else any value.
    fn mostly(&mut self, usual: impl FnOnce(&mut Self) -> Value) -> Value {
        if self.byte() % 16 == 15 { self.any() } else { usual(self) }
    }

    fn change(&mut self) -> [Value; 9] {
        let table = self.mostly(|i| Value::Text(i.pick(&TABLES).into()));
        let pk = self.mostly(|i| Value::Blob(i.pick(&KEYS).into()));
        let cid = self.mostly(|i| Value::Text(i.pick(&CIDS).into()));
        let val = self.any();
        let col_version = self.mostly(|i| Value::Integer(i64::from(i.byte() % 8)));
        let db_version = self.mostly(|i| Value::Integer(i64::from(i.byte() % 16)));
        let site = self.mostly(|i| match i.byte() % 4 {
            0 => Value::Null,
            n => Value::Blob(vec![n; 16]),
        });
        let cl = self.mostly(|i| Value::Integer(i64::from(1 + i.byte() % 5)));
        let seq = self.mostly(|i| Value::Integer(i64::from(i.byte() % 4)));
        [table, pk, cid, val, col_version, db_version, site, cl, seq]
    }
}

fn run(data: &[u8]) {
    let mut input = Input(data);
    let replica = replica(&[SCHEMA, if input.byte() & 1 == 0 { "" } else { ROWS }]);
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        step(&replica, &mut input);
    }
    while !replica.connection().is_autocommit() {
        if tolerate(replica.connection().execute_batch("COMMIT")).is_none() {
            tolerate(replica.connection().execute_batch("ROLLBACK"));
        }
    }
    check(&replica, Some(SCHEMA));
}

fn step(replica: &Replica, input: &mut Input<'_>) {
    let conn = replica.connection();
    if input.byte().is_multiple_of(3) {
        let text = input.pick(&STATEMENTS);
        let done = conn.execute_batch(text);
        trace(text, &done);
        tolerate(done);
        return;
    }
    let change = input.change();
    let text = "INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let done = conn.execute(text, rusqlite::params_from_iter(&change));
    trace(&format!("{change:?}"), &done);
    tolerate(done);
}

/// `REJOIN_TRACE=1 cargo xtask fuzz insert_changes --input FILE` tells what the bytes say.
fn trace<T: std::fmt::Debug>(text: &str, done: &rusqlite::Result<T>) {
    if std::env::var_os("REJOIN_TRACE").is_some() {
        eprintln!("{text}: {done:?}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut rng = crate::mutate::Rng::new(5);
    let mut seeds: Vec<Vec<u8>> =
        (0..12).map(|_| (0..120 + rng.below(200)).map(|_| rng.draw() as u8).collect()).collect();
    // Statements alone.
    seeds.extend((0..4).map(|_| (0..60).flat_map(|_| [0, rng.draw() as u8]).collect()));
    seeds
}
