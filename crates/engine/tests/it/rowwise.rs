//! `INSERT INTO crsql_changes` in transactions so large that blocks of rows are kept open, against the same changes
//! merged row by row as small transactions are (which they are while somebody observes).

use crate::util::{Files, int, rows, run};
use rejoin::Replica;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;

const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, a, b TEXT, n INTEGER CHECK (n <> 13)); \
     CREATE TABLE k(id BLOB PRIMARY KEY NOT NULL, a, b); \
     CREATE TABLE r(id INTEGER PRIMARY KEY NOT NULL, a NOT NULL, b); \
     SELECT crsql_as_crr('t'), crsql_as_crr('k'), crsql_as_crr('r'); \
     SELECT crsql_config_set('clock', 'lamport')";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: i64) -> i64 {
        (self.next() % n as u64) as i64
    }
}

/// One statement of the program, the same for all peers; an error is a result like any other.
fn step(r: &Replica, sql: &str, params: &[Value]) -> String {
    let done = r.connection().prepare(sql).and_then(|mut q| {
        let mut found = q.query(rusqlite::params_from_iter(params))?;
        let mut all = Vec::new();
        while let Some(row) = found.next()? {
            all.push(format!("{:?}", row.get_ref(0)?));
        }
        Ok(all.join(" "))
    });
    done.unwrap_or_else(|e| e.to_string())
}

fn key(random: &mut Random, table: &str, id: i64) -> Vec<u8> {
    let mut pk = vec![1];
    if table == "k" {
        pk.extend([0x0c, 2, (id >> 8) as u8, id as u8]);
        return pk;
    }
    // Peers pad numbers, or send them as reals.
    match random.below(40) {
        0 => pk.extend([0x19, 0, (id >> 8) as u8, id as u8]),
        1 => pk.extend([&[2u8][..], &(id as f64).to_be_bytes()].concat()),
        _ if id == 0 => pk.push(1),
        _ if id < 256 => pk.extend([9, id as u8]),
        _ => pk.extend([0x11, (id >> 8) as u8, id as u8]),
    }
    pk
}

/// A change of row `id` or near it.
fn change(random: &mut Random, id: i64, waits: bool) -> Vec<Value> {
    let table = ["t", "t", "t", "t", "k", "r"][random.below(if waits { 6 } else { 5 }) as usize];
    let cid = ["a", "b", "n", "a", "b", "B", "a", "-1"][random.below(8) as usize];
    // Once a value waits for its column, every change is looked at twice.
    let cid = match cid {
        _ if waits && random.below(200) == 0 => "later",
        "n" if table != "t" && !waits => "b",
        cid => cid,
    };
    let cl = [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3][random.below(11) as usize];
    let val = match random.below(5) {
        0 => Value::Null,
        1 => Value::Text("text".repeat(random.below(3) as usize)),
        2 => Value::Real(0.5),
        _ => Value::Integer(random.below(14)),
    };
    let site = [1u8 + random.below(3) as u8; 16].to_vec();
    vec![
        Value::Text(table.into()),
        Value::Blob(key(random, table, id)),
        Value::Text(cid.into()),
        val,
        Value::Integer(1 + random.below(3)),
        Value::Integer(1 + random.below(400)),
        Value::Blob(site),
        Value::Integer(cl),
        Value::Integer(random.below(9)),
    ]
}

const PUT: &str = "INSERT INTO crsql_changes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Statements with their parameters: one large transaction, and small ones around it.
fn program(seed: u64) -> Vec<(&'static str, Vec<Value>)> {
    let mut random = Random(seed);
    let mut steps: Vec<(&'static str, Vec<Value>)> = vec![("BEGIN", vec![])];
    let mut id = 0;
    let waits = seed.is_multiple_of(2);
    for _ in 0..2500 {
        id = match random.below(30) {
            0 => random.below(700),
            n if n < 16 => id,
            _ => id + 1,
        };
        match random.below(600) {
            0 => steps.push(("SAVEPOINT s", vec![])),
            1 => steps.push(("RELEASE s", vec![])),
            2 => steps.push(("ROLLBACK TO s", vec![])),
            3 => steps.push(("UPDATE t SET a = 'mine' WHERE id = ?1", vec![Value::Integer(id)])),
            4 => steps.push(("DELETE FROM t WHERE id = ?1", vec![Value::Integer(id)])),
            5 => {
                steps.push(("INSERT OR REPLACE INTO t(id, b) VALUES (?1, 'new')", vec![Value::Integer(id)]))
            }
            6 => steps.push(("SELECT count(*) FROM crsql_changes WHERE db_version > 300", vec![])),
            7 if random.below(4) == 0 => steps.extend([("COMMIT", vec![]), ("BEGIN", vec![])]),
            8 if random.below(4) == 0 => steps.extend([("ROLLBACK", vec![]), ("BEGIN", vec![])]),
            9 if random.below(8) == 0 => steps.push(("ALTER TABLE t ADD COLUMN later", vec![])),
            10 => steps.push(("SELECT crsql_changeset(0) IS NULL", vec![])),
            11 => steps.push((
                // Fails in the middle: all of it is undone.
                "INSERT INTO crsql_changes SELECT 't', crsql_pack_columns(value), 'n', value, 9, 1, zeroblob(16), 1, 0 \
                 FROM json_each('[11, 12, 13]')",
                vec![],
            )),
            _ => {
                steps.push((PUT, change(&mut random, id, waits)));
                if random.below(8) == 0 {
                    steps.push(("SELECT id || quote(a) || quote(b) FROM t WHERE id = ?1", vec![Value::Integer(id)]));
                }
            }
        }
    }
    steps.push(("SELECT crsql_rows_impacted()", vec![]));
    steps.push(("COMMIT", vec![]));
    steps
}

fn everything(r: &Replica) -> Vec<String> {
    let mut all = rows(
        r,
        "SELECT \"table\", pk, cid, val, col_version, db_version, site_id IS crsql_site_id() OR site_id, cl, seq FROM crsql_changes",
    );
    for table in ["t", "k", "r"] {
        all.extend(rows(r, &format!("SELECT * FROM {table} ORDER BY 1")));
    }
    all
}

#[test]
fn large_transactions_merge_as_small_ones() {
    for seed in 0..8 {
        let files = Files::new();
        let peers: Vec<(String, Replica)> = ["shared", "shared watched", "owned", "owned watched"]
            .into_iter()
            .map(|name| {
                let r = files.open(name, "");
                if name.starts_with("owned") {
                    run(&r, "SELECT crsql_config_set('mode', 'owned')");
                }
                run(&r, TABLES);
                if name.ends_with("watched") {
                    r.observe(|_| {}).unwrap();
                }
                (name.to_owned(), r)
            })
            .collect();
        for (i, (sql, params)) in program(seed).iter().enumerate() {
            let told: Vec<String> = peers.iter().map(|(_, r)| step(r, sql, params)).collect();
            assert!(told.iter().all(|t| *t == told[0]), "seed {seed}, step {i}: {sql} {params:?}: {told:#?}");
        }
        let expected = everything(&peers[1].1);
        for (name, r) in &peers {
            assert_eq!(everything(r), expected, "seed {seed}: {name}");
            let report = r.verify().unwrap();
            assert!(report.is_clean(), "seed {seed}: {name}: {:?}", report.problems);
        }
    }
}

/// Changes of rows 1 to `n` of table t, a cell each.
fn fill(r: &Replica, n: i64, cid: &str, col_version: i64) {
    let mut q = r
        .connection()
        .prepare(
            "INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(?1), ?2, ?1, ?3, 1, zeroblob(16), 1, ?1)",
        )
        .unwrap();
    for id in (1..=n).filter(|id| *id != 13) {
        q.execute(rusqlite::params![id, cid, col_version]).unwrap();
    }
}

#[test]
fn each_change_shows_at_once() {
    let files = Files::new();
    let r = files.open("a.db", TABLES);
    run(&r, "BEGIN");
    fill(&r, 200, "a", 1);
    for id in [150, 151, 200] {
        fill_one(&r, id, "b", "x");
        assert_eq!(
            rows(&r, &format!("SELECT a, b FROM t WHERE id = {id}")),
            [format!("Integer({id}) Text([120])")]
        );
    }
    assert_eq!(int(&r, "SELECT count(*) FROM t"), 199);
    assert_eq!(int(&r, "SELECT crsql_rows_impacted()"), 202);
    run(&r, "COMMIT");
    assert!(r.verify().unwrap().is_clean());
}

fn fill_one(r: &Replica, id: i64, cid: &str, val: &str) {
    let sql =
        "INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(?1), ?2, ?3, 5, 1, zeroblob(16), 1, 0)";
    r.connection().execute(sql, rusqlite::params![id, cid, val]).unwrap();
}

#[test]
fn a_value_that_the_table_refuses_leaves_the_row_as_it_was() {
    let files = Files::new();
    let r = files.open("a.db", TABLES);
    run(&r, "BEGIN");
    fill(&r, 300, "a", 1);
    let before = everything(&r);
    run(&r, "COMMIT; BEGIN");
    fill(&r, 299, "a", 2);
    // The block of row 299 is open now, and row 300 of it is known from an earlier transaction.
    for id in [299, 300] {
        let e = step(
            &r,
            "INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(?1), 'n', 13, 2, 1, zeroblob(16), 1, 0)",
            &[Value::Integer(id)],
        );
        assert!(e.contains("CHECK"), "{e}");
    }
    fill(&r, 300, "n", 2);
    run(&r, "ROLLBACK");
    assert_eq!(everything(&r), before);
    assert!(r.verify().unwrap().is_clean());
}

#[test]
fn triggers_of_the_users_see_each_change() {
    let files = Files::new();
    let r = files.open("a.db", TABLES);
    run(
        &r,
        "CREATE TABLE log(id INTEGER PRIMARY KEY NOT NULL, what); SELECT crsql_as_crr('log'); \
         CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES ('i' || new.id); END; \
         CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO log(what) VALUES ('u' || new.id || new.b); END; BEGIN",
    );
    fill(&r, 100, "a", 1);
    fill(&r, 100, "b", 1);
    run(&r, "COMMIT");
    assert_eq!(int(&r, "SELECT count(*) FROM log WHERE what GLOB 'i*'"), 99);
    assert_eq!(int(&r, "SELECT count(*) FROM log WHERE what GLOB 'u*'"), 99);
    assert_eq!(int(&r, "SELECT count(*) FROM crsql_changes WHERE \"table\" = 'log'"), 198);
    assert!(r.verify().unwrap().is_clean());
}

/// More shapes of statements than are kept quiet, on tables that take turns, with the schema changing in between.
#[test]
fn many_tables_take_turns() {
    let files = Files::new();
    let r = files.open("a.db", "");
    for i in 0..20 {
        let sql = format!(
            "CREATE TABLE t{i}(id INTEGER PRIMARY KEY NOT NULL, a, b, c); SELECT crsql_as_crr('t{i}');"
        );
        run(&r, &sql);
    }
    let put = "INSERT INTO crsql_changes VALUES ('t' || ?1, crsql_pack_columns(?2), ?3, ?4, ?5, 1, zeroblob(16), 1, 0)";
    for (round, cid) in ["a", "b", "c", "a"].into_iter().enumerate() {
        run(&r, "BEGIN");
        for id in 0..10 {
            for table in 0..20 {
                let params =
                    rusqlite::params![table, id, cid, format!("{table} {id} {round}"), 1 + round as i64];
                r.connection().prepare(put).unwrap().execute(params).unwrap();
            }
        }
        if round == 1 {
            run(&r, "ALTER TABLE t3 RENAME COLUMN c TO d; DROP TABLE t4; ALTER TABLE t5 RENAME TO t55");
        }
        run(&r, "COMMIT");
    }
    for (table, c) in [("t0", "c"), ("t3", "d"), ("t55", "c"), ("t19", "c")] {
        let told =
            format!("SELECT count(*) FROM {table} WHERE a GLOB '* 3' AND b GLOB '* 1' AND {c} GLOB '* 2'");
        assert_eq!(int(&r, &told), 10, "{table}");
    }
    assert!(r.verify().unwrap().is_clean());
    // What is written here is captured as ever.
    run(&r, "UPDATE t7 SET a = 'mine' WHERE id = 3; INSERT INTO t3(id, d) VALUES (77, 1)");
    assert_eq!(int(&r, "SELECT count(*) FROM crsql_changes WHERE site_id = crsql_site_id()"), 4);
}

#[test]
fn the_hosts_switch_for_triggers_stays_as_it_is() {
    let files = Files::new();
    let r = files.open("a.db", TABLES);
    let switch = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    run(
        &r,
        "CREATE TABLE plain(x); CREATE TABLE log(x); \
             CREATE TRIGGER p AFTER INSERT ON plain BEGIN INSERT INTO log VALUES (new.x); END",
    );
    for on in [false, true] {
        r.connection().set_db_config(switch, on).unwrap();
        let mut held = r.connection().prepare("INSERT INTO plain VALUES (?1)").unwrap();
        for (i, cid) in ["a", "b", "n"].into_iter().enumerate() {
            fill(&r, 3, cid, 1 + i64::from(on));
            held.execute([i as i64]).unwrap();
            assert_eq!(r.connection().db_config(switch).unwrap(), on);
        }
        assert_eq!(int(&r, "SELECT count(*) FROM log"), if on { 3 } else { 0 });
    }
    assert!(r.verify().unwrap().is_clean());
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all
}

#[test]
fn files_in_utf_16() {
    let files = Files::new();
    let a = files.open("a.db", "");
    let b = files.open("b.db", "PRAGMA encoding = 'UTF-16le'");
    for r in [&a, &b] {
        run(r, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, \"\u{e4}\", b); SELECT crsql_as_crr('t')");
    }
    run(
        &a,
        "INSERT INTO t VALUES ('', 'x', ''), ('\u{1F600}', '\u{e9}\u{e8}', x'00FF'), ('plain', '', 'a' || char(0) || 'b')",
    );
    for (from, to) in [(&a, &b), (&b, &a)] {
        let mut q = from.connection().prepare("SELECT * FROM crsql_changes").unwrap();
        let mut found = q.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let change: Vec<Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
            to.connection().execute(PUT, rusqlite::params_from_iter(change)).unwrap();
        }
        run(to, "UPDATE t SET b = b || '\u{fc}' WHERE id = 'plain'");
    }
    // Each sorts in its own encoding.
    let all = |r: &Replica| rows(r, "SELECT id, \"\u{e4}\" FROM t");
    assert_eq!(sorted(all(&a)), sorted(all(&b)));
    assert!(a.verify().unwrap().is_clean() && b.verify().unwrap().is_clean());
}

/// A reader that goes on while rows change sees no old value under a new version.
#[test]
fn values_are_as_new_as_their_versions() {
    let files = Files::new();
    let r = files.open("a.db", TABLES);
    run(&r, "INSERT INTO t(id, a) VALUES (1, 'old'), (2, 'old')");
    run(&r, "UPDATE t SET a = 'older' WHERE id = 2");
    let mut q = r
        .connection()
        .prepare("SELECT db_version, val FROM crsql_changes WHERE cid = 'a' AND pk = crsql_pack_columns(2)")
        .unwrap();
    let mut found = q.query([]).unwrap();
    let read = |row: &rusqlite::Row<'_>| (row.get::<_, i64>(0).unwrap(), row.get::<_, String>(1).unwrap());
    assert_eq!(read(found.next().unwrap().unwrap()), (2, "older".to_owned()));
    run(&r, "UPDATE t SET a = 'new' WHERE id = 2");
    while let Some(row) = found.next().unwrap() {
        assert_eq!(read(row), (3, "new".to_owned()));
    }
}
