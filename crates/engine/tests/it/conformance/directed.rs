//! Programs for each way of writing.

use super::conform;

/// The tables that most programs write to: a key that is the rowid, keys beside it, keys instead of it.
const TABLES: [&str; 9] = [
    "CREATE TABLE r(id INTEGER PRIMARY KEY, a, b TEXT DEFAULT 'x')",
    "CREATE TABLE h(k TEXT PRIMARY KEY NOT NULL, a, b INTEGER DEFAULT 7)",
    "CREATE TABLE w(x INTEGER NOT NULL, y TEXT NOT NULL, a, b REAL, PRIMARY KEY(y, x)) WITHOUT ROWID",
    "CREATE TABLE n(k TEXT COLLATE NOCASE NOT NULL, l, a, PRIMARY KEY(k, l))",
    "CREATE TABLE only(k INTEGER PRIMARY KEY)",
    "crr r",
    "crr h",
    "crr w",
    "crr n",
];

fn with_tables(steps: &[&str]) -> Vec<super::Change> {
    conform(&[&TABLES, steps].concat())
}

fn listed(changes: &[super::Change]) -> Vec<String> {
    changes
        .iter()
        .map(|c| {
            let super::Change { db_version, seq, table, pk, cid, val, col_version, cl, .. } = c;
            format!("{db_version}.{seq} {table} {pk} {cid} {val} v{col_version} cl{cl}")
        })
        .collect()
}

#[test]
fn insert_update_delete() {
    let changes = with_tables(&[
        "INSERT INTO r VALUES (1, 10, 'one'), (2, 20, 'two')",
        "UPDATE r SET a = a + 1 WHERE id = 1",
        "UPDATE r SET a = a, b = b",
        "DELETE FROM r WHERE id = 2",
        "INSERT INTO r(id) VALUES (2)",
    ]);
    assert_eq!(
        listed(&changes),
        [
            "1.1 r 010901 b 'one' v1 cl1",
            "2.0 r 010901 a 11 v2 cl1",
            "4.0 r 010902 -1 NULL v3 cl3",
            "4.1 r 010902 a NULL v1 cl3",
            "4.2 r 010902 b 'x' v1 cl3",
        ]
    );
}

#[test]
fn all_kinds_of_keys() {
    with_tables(&[
        "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4), ('', 5, 6)",
        "INSERT INTO w VALUES (1, 'y', 1, 1), (2, 'y', 2, 2.5), (1, 'z', 3, 3)",
        "INSERT INTO n VALUES ('Key', 1, 1), ('KEY', 2, 2), ('other', 1.5, 3), ('other', x'00', 4)",
        "INSERT INTO only VALUES (1), (2)",
        "crr only",
        "INSERT INTO only VALUES (3)",
        "UPDATE h SET b = b + 1 WHERE k > ''",
        "UPDATE w SET a = NULL, b = 1 WHERE y = 'y'",
        "UPDATE n SET a = 'text' WHERE k = 'key'",
        "DELETE FROM h WHERE k = 'a'",
        "DELETE FROM w WHERE x = 1",
        "DELETE FROM n WHERE k = 'OTHER'",
        "DELETE FROM only WHERE k < 3",
        "INSERT INTO n VALUES ('KEY', 1, 'again') ON CONFLICT DO NOTHING",
        "INSERT INTO only VALUES (1)",
        "DELETE FROM r",
        "DELETE FROM h",
        "DELETE FROM w",
        "DELETE FROM n",
    ]);
}

#[test]
fn values_are_compared_as_stored() {
    with_tables(&[
        "INSERT INTO r VALUES (1, 1, 1)",
        "UPDATE r SET a = 1.0",
        "UPDATE r SET a = '1'",
        "UPDATE r SET a = x'31'",
        "UPDATE r SET a = NULL",
        "UPDATE r SET a = NULL",
        "UPDATE r SET a = -0.0",
        "UPDATE r SET a = 0.0",
        "UPDATE r SET b = 1",
        "UPDATE r SET b = '1'",
        "UPDATE r SET a = zeroblob(200)",
        "UPDATE r SET a = zeroblob(200)",
        "UPDATE r SET a = zeroblob(201)",
        "UPDATE r SET a = hex(zeroblob(100))",
        "UPDATE r SET a = hex(zeroblob(100)) || 'x'",
        "INSERT INTO w VALUES (1, 'y', 0, 1)",
        "UPDATE w SET b = 1.0",
        "UPDATE w SET b = '1'",
        "UPDATE w SET b = 1.5",
        "UPDATE w SET b = -0.0",
        "UPDATE w SET b = 0",
        "UPDATE w SET b = 9007199254740993",
    ]);
}

#[test]
fn keys_change() {
    let changes = with_tables(&[
        "INSERT INTO r VALUES (1, 10, 'one'), (2, 20, 'two')",
        "UPDATE r SET id = 3, a = 11 WHERE id = 1",
        "UPDATE r SET id = id + 100",
        "BEGIN",
        "UPDATE r SET b = 'before' WHERE id = 103",
        "UPDATE r SET id = 104 WHERE id = 103",
        "UPDATE r SET id = 103 WHERE id = 104",
        "COMMIT",
        "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4)",
        "UPDATE h SET k = 'c' WHERE k = 'a'",
        "UPDATE h SET k = 'a', b = 9 WHERE k = 'c'",
        "UPDATE h SET k = k || k",
        "INSERT INTO w VALUES (1, 'y', 1, 1), (2, 'y', 2, 2.5)",
        "UPDATE w SET x = x + 10",
        "UPDATE w SET y = 'z', a = 5 WHERE x = 11",
        "UPDATE w SET x = 12, y = 'zz' WHERE x = 12",
        "INSERT INTO n VALUES ('Key', 1, 1), ('b', 2, 2)",
        "UPDATE n SET l = 1.0 WHERE l = 1",
        "UPDATE n SET k = 'KEY' WHERE k = 'key'",
        "UPDATE n SET k = 'kEy', a = 2 WHERE k = 'key'",
        "UPDATE n SET k = 'other' WHERE k = 'key'",
        "UPDATE n SET l = 'x' WHERE k = 'b'",
    ]);
    assert!(changes.iter().any(|c| c.table == "r" && c.cid == "-1" && c.cl == 2));
}

#[test]
fn rowids_change() {
    with_tables(&[
        "INSERT INTO r VALUES (1, 1, 1)",
        "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4), ('c', 5, 6)",
        "UPDATE h SET rowid = 10 WHERE k = 'a'",
        "UPDATE h SET rowid = rowid + 100, b = 77 WHERE k = 'b'",
        "UPDATE h SET a = 2 WHERE k = 'a'",
        "UPDATE h SET a = 2 WHERE k = 'b'",
        "BEGIN",
        "UPDATE h SET _rowid_ = 20, k = 'd' WHERE k = 'c'",
        "UPDATE h SET a = 'after' WHERE k = 'd'",
        "UPDATE h SET oid = 21 WHERE k = 'd'",
        "UPDATE h SET b = 'after' WHERE k = 'd'",
        "UPDATE h SET a = 3, rowid = rowid + 41 WHERE k = 'a'",
        "UPDATE h SET rowid = rowid + 41 WHERE k = 'a'",
        "UPDATE h SET a = 1, rowid = rowid + 1000",
        "COMMIT",
        "BEGIN",
        "UPDATE OR IGNORE h SET rowid = (SELECT rowid FROM h WHERE k = 'b') WHERE k = 'a'",
        "UPDATE h SET a = 'stays' WHERE k = 'a'",
        "UPDATE r SET rowid = 50",
        "UPDATE r SET rowid = 51, a = 51",
        "INSERT INTO r(id) VALUES (50)",
        "COMMIT",
        "DELETE FROM h WHERE k = 'a'",
        "INSERT INTO h(rowid, k) VALUES (10, 'e')",
        "UPDATE h SET a = 1",
    ]);
}

#[test]
fn replace() {
    for pragma in ["PRAGMA recursive_triggers = 0", "PRAGMA recursive_triggers = 1"] {
        let changes = with_tables(&[
            pragma,
            "INSERT INTO r VALUES (1, 10, 'one'), (2, 20, 'two')",
            "REPLACE INTO r VALUES (1, 10, 'new')",
            "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4)",
            "REPLACE INTO h VALUES ('a', 1, 3)",
            "REPLACE INTO h VALUES ('z', 1, 3), ('a', 0, 0), ('a', 0, 1)",
            "INSERT INTO w VALUES (1, 'y', 1, 1), (2, 'y', 2, 2.5)",
            "REPLACE INTO w VALUES (1, 'y', 1, 2), (3, 'y', 4, 4)",
            "INSERT INTO n VALUES ('Key', 1, 1)",
            "REPLACE INTO n VALUES ('KEY', 1, 2)",
            "REPLACE INTO n VALUES ('KEY', 1, 2)",
            "BEGIN",
            "DELETE FROM r WHERE id = 1",
            "INSERT INTO r VALUES (1, 0, 0)",
            "REPLACE INTO r VALUES (1, 1, 1)",
            "DELETE FROM h WHERE k = 'b'",
            "REPLACE INTO h VALUES ('b', 1, 1)",
            "COMMIT",
            "DELETE FROM r WHERE id = 2",
            "REPLACE INTO r(id, a) SELECT 2, 1 UNION ALL SELECT 3, 2",
            "UPDATE h SET a = 'x'",
        ]);
        let key: Vec<_> = changes.iter().filter(|c| c.table == "w" && c.pk.ends_with("0901")).collect();
        assert!(key.iter().all(|c| c.cl == 1 && c.cid != "-1"), "{key:?}");
    }
}

#[test]
fn update_or_replace() {
    for pragma in ["PRAGMA recursive_triggers = 0", "PRAGMA recursive_triggers = 1"] {
        with_tables(&[
            pragma,
            "INSERT INTO r VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three')",
            "UPDATE OR REPLACE r SET id = 2 WHERE id = 1",
            "UPDATE OR REPLACE r SET id = id + 1",
            "INSERT INTO w VALUES (1, 'y', 1, 1), (2, 'y', 2, 2.5)",
            "UPDATE OR REPLACE w SET x = 2 WHERE x = 1",
            "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4)",
            "UPDATE OR REPLACE h SET k = 'b' WHERE k = 'a'",
            "UPDATE h SET a = 'on'",
            "DELETE FROM h",
            "INSERT INTO n VALUES ('Key', 1, 1), ('o', 1, 2)",
            "UPDATE OR REPLACE n SET k = 'KEY' WHERE k = 'o'",
            "UPDATE n SET a = 'on'",
        ]);
    }
}

#[test]
fn conflicts() {
    with_tables(&[
        "INSERT INTO r VALUES (1, 10, 'one'), (2, 20, 'two')",
        "INSERT OR IGNORE INTO r VALUES (1, 0, 0), (3, 30, 'three')",
        "INSERT OR FAIL INTO r VALUES (4, 4, 4), (1, 0, 0), (5, 5, 5)",
        "INSERT INTO r VALUES (6, 6, 6), (1, 0, 0), (7, 7, 7)",
        "INSERT INTO r VALUES (1, 1, 'up'), (8, 8, 8) ON CONFLICT DO UPDATE SET b = excluded.b, a = a",
        "INSERT INTO r VALUES (1, 1, 'up') ON CONFLICT(id) DO UPDATE SET id = 99",
        "INSERT INTO h VALUES ('a', 1, 2), ('b', 3, 4)",
        "INSERT OR IGNORE INTO h VALUES ('a', 0, 0), ('c', 5, 6)",
        "INSERT OR FAIL INTO h VALUES ('d', 0, 0), ('a', 5, 6)",
        "INSERT INTO h VALUES ('a', 9, 9) ON CONFLICT DO UPDATE SET a = excluded.a",
        "INSERT INTO h VALUES ('e', 9, 9), ('a', 1, 1) ON CONFLICT DO NOTHING",
        "UPDATE OR IGNORE h SET k = 'a' WHERE k >= 'c'",
        "UPDATE OR FAIL h SET k = 'f' WHERE k >= 'c'",
        "INSERT INTO w VALUES (1, 'y', 1, 1), (1, 'y', 2, 2) ON CONFLICT DO UPDATE SET a = a + excluded.a",
        "BEGIN",
        "INSERT INTO r VALUES (20, 1, 1)",
        "INSERT OR ROLLBACK INTO r VALUES (21, 1, 1), (1, 1, 1)",
        "INSERT INTO r VALUES (22, 1, 1)",
        "BEGIN",
        "INSERT INTO r VALUES (23, 1, 1)",
        "holes",
        "UPDATE r SET id = 1 WHERE id > 20",
        "INSERT OR FAIL INTO r VALUES (24, 1, 1), (1, 1, 1)",
        "INSERT OR ABORT INTO r VALUES (25, 1, 1), (1, 1, 1)",
        "read",
        "COMMIT",
    ]);
}

#[test]
fn savepoints() {
    with_tables(&[
        "BEGIN",
        "INSERT INTO r VALUES (1, 1, 1)",
        "SAVEPOINT a",
        "INSERT INTO r VALUES (2, 2, 2)",
        "UPDATE r SET a = 5 WHERE id = 1",
        "SAVEPOINT b",
        "DELETE FROM r WHERE id = 1",
        "INSERT INTO h VALUES ('a', 1, 1)",
        "ROLLBACK TO b",
        "INSERT INTO h VALUES ('b', 1, 1)",
        "RELEASE b",
        "SAVEPOINT c",
        "UPDATE h SET k = 'c'",
        "ROLLBACK TO a",
        "INSERT INTO h VALUES ('d', 1, 1)",
        "SAVEPOINT a",
        "DELETE FROM h",
        "RELEASE a",
        "RELEASE a",
        "COMMIT",
        "SAVEPOINT whole",
        "INSERT INTO r VALUES (7, 1, 1)",
        "SAVEPOINT inner",
        "INSERT INTO r VALUES (8, 1, 1)",
        "ROLLBACK TO whole",
        "INSERT INTO r VALUES (9, 1, 1)",
        "RELEASE whole",
        "BEGIN",
        "UPDATE r SET a = 'gone'",
        "ROLLBACK",
        "UPDATE r SET a = 'here'",
        "BEGIN",
        "SAVEPOINT a",
        "UPDATE r SET a = 'x', b = 'y' WHERE id = 1",
        "UPDATE r SET a = a",
        "ROLLBACK TO a",
        "UPDATE r SET b = 'z' WHERE id = 1",
        "COMMIT",
    ]);
}

#[test]
fn commit_fails() {
    with_tables(&[
        "INSERT INTO r VALUES (1, 1, 1)",
        "BEGIN",
        "INSERT INTO r VALUES (2, 2, 2)",
        "UPDATE r SET a = 9 WHERE id = 1",
        "busy",
        "COMMIT",
        "INSERT INTO h VALUES ('a', 1, 1)",
        "UPDATE r SET a = 10 WHERE id = 1",
        "COMMIT",
        "SAVEPOINT s",
        "DELETE FROM r WHERE id = 2",
        "COMMIT",
        "ROLLBACK TO s",
        "COMMIT",
        "calm",
        "COMMIT",
        "busy",
        "UPDATE r SET a = 11 WHERE id = 1",
        "calm",
        "UPDATE r SET a = 12 WHERE id = 1",
    ]);
}

#[test]
fn many_rows() {
    with_tables(&[
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500) \
         INSERT INTO r SELECT i, i, 'row ' || i FROM c",
        "INSERT INTO h SELECT b, a, id FROM r",
        "INSERT INTO w SELECT id, b, a, 0.5 FROM r",
        "UPDATE r SET a = a + 1 WHERE id % 3 = 0",
        "UPDATE h SET k = 'moved ' || k WHERE b < 100",
        "DELETE FROM w WHERE x > 400",
        "DELETE FROM r",
        "BEGIN",
        "INSERT INTO r SELECT x, a, b FROM w",
        "DELETE FROM r WHERE id < 10",
        "DELETE FROM w",
        "INSERT INTO w SELECT id, 'k', a, b FROM r",
        "COMMIT",
    ]);
}

#[test]
fn copies_of_whole_tables() {
    // `INSERT INTO ... SELECT *` between tables of one shape copies records as they are.
    conform(&[
        "CREATE TABLE a(k INTEGER PRIMARY KEY, v)",
        "CREATE TABLE b(k INTEGER PRIMARY KEY, v)",
        "CREATE TABLE c(k TEXT NOT NULL, v, PRIMARY KEY(k)) WITHOUT ROWID",
        "CREATE TABLE d(k TEXT NOT NULL, v, PRIMARY KEY(k)) WITHOUT ROWID",
        "CREATE TABLE e(k TEXT NOT NULL PRIMARY KEY, v)",
        "CREATE TABLE f(k TEXT NOT NULL PRIMARY KEY, v)",
        "crr b",
        "crr d",
        "crr f",
        "INSERT INTO a VALUES (1, 'one'), (2, 'two')",
        "INSERT INTO c VALUES ('1', 'one'), ('2', 'two')",
        "INSERT INTO e VALUES ('1', 'one'), ('2', 'two')",
        "INSERT INTO b SELECT * FROM a",
        "INSERT INTO d SELECT * FROM c",
        "INSERT INTO f SELECT * FROM e",
        "INSERT OR IGNORE INTO b SELECT * FROM a",
        "REPLACE INTO d SELECT * FROM c",
    ]);
}

#[test]
fn generated_columns() {
    conform(&[
        "CREATE TABLE g(v AS (a || 'v'), a, s AS (a || 's') STORED, k TEXT NOT NULL, b, PRIMARY KEY(k))",
        "CREATE TABLE o(v AS (a || 'v'), a, s AS (a || 's') STORED, k TEXT NOT NULL, b, PRIMARY KEY(k)) WITHOUT ROWID",
        "crr g",
        "crr o",
        "INSERT INTO g(k, a, b) VALUES ('k', 1, 2), ('l', 3, 4)",
        "INSERT INTO o(k, a, b) VALUES ('k', 1, 2), ('l', 3, 4)",
        "UPDATE g SET a = 5 WHERE k = 'k'",
        "UPDATE o SET a = 5 WHERE k = 'k'",
        "UPDATE g SET b = 6, k = 'm' WHERE k = 'l'",
        "UPDATE o SET b = 6, k = 'm' WHERE k = 'l'",
        "DELETE FROM g WHERE k = 'm'",
        "DELETE FROM o WHERE k = 'm'",
    ]);
}

#[test]
fn wide_tables() {
    let columns: Vec<String> = (0..150).map(|i| format!("c{i}")).collect();
    let table = format!("CREATE TABLE wide(id INTEGER PRIMARY KEY, {})", columns.join(", "));
    conform(&[
        &table,
        "crr wide",
        "INSERT INTO wide(id, c0, c149) VALUES (1, 2, 3)",
        "UPDATE wide SET c63 = 1, c64 = 1, c149 = 1",
        "UPDATE wide SET c128 = 1",
        "UPDATE wide SET id = 2, c127 = 1",
    ]);
}

#[test]
fn user_triggers() {
    // Made before the capture triggers, so that they fire after them.
    conform(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, n INTEGER DEFAULT 0)",
        "CREATE TABLE log(k TEXT PRIMARY KEY NOT NULL, what)",
        "CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('i' || new.id, new.a); END",
        "CREATE TRIGGER d AFTER DELETE ON t BEGIN REPLACE INTO log VALUES ('d' || old.id, old.a); END",
        "CREATE TRIGGER u AFTER UPDATE OF a ON t BEGIN UPDATE t SET n = n + 1 WHERE id = new.id; END",
        "crr t",
        "crr log",
        "INSERT INTO t(id, a) VALUES (1, 'a'), (2, 'b')",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t(id, a) VALUES (2, 'c')",
        "loose",
        "UPDATE t SET a = 'z'",
        "DELETE FROM t",
        "CREATE TRIGGER y BEFORE INSERT ON t BEGIN INSERT INTO log VALUES ('b' || new.id, new.a); END",
        "CREATE TRIGGER z AFTER INSERT ON t BEGIN UPDATE t SET a = a || '!' WHERE id = new.id; END",
        "INSERT INTO t(id, a) VALUES (3, 'd'), (4, 'e')",
        "PRAGMA recursive_triggers = 1",
        "REPLACE INTO log VALUES ('b3', 'new')",
    ]);
}

#[test]
fn raise_in_triggers() {
    conform(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a)",
        "CREATE TRIGGER b BEFORE INSERT ON t WHEN new.a = 'ignored' BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER c AFTER INSERT ON t WHEN new.a = 'aborted' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER d AFTER INSERT ON t WHEN new.a = 'failed' BEGIN SELECT RAISE(FAIL, 'no'); END",
        "CREATE TRIGGER e AFTER UPDATE ON t WHEN new.a = 'rolled back' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        "crr t",
        "INSERT INTO t VALUES (1, 'x'), (2, 'ignored'), (3, 'y')",
        "INSERT INTO t VALUES (4, 'x'), (5, 'aborted')",
        "INSERT INTO t VALUES (6, 'x'), (7, 'failed'), (8, 'z')",
        "INSERT INTO t VALUES (9, 'aborted')",
        "BEGIN",
        "INSERT INTO t VALUES (10, 'x')",
        "INSERT INTO t VALUES (11, 'aborted')",
        "INSERT INTO t VALUES (12, 'y')",
        "COMMIT",
        "BEGIN",
        "INSERT INTO t VALUES (13, 'x')",
        "UPDATE t SET a = 'rolled back'",
        "INSERT INTO t VALUES (14, 'x')",
    ]);
}

#[test]
fn attached_and_temp() {
    with_tables(&[
        "ATTACH ':memory:' AS other",
        "CREATE TABLE other.r(id INTEGER PRIMARY KEY, a, b)",
        "CREATE TEMP TABLE h(k TEXT PRIMARY KEY, a, b)",
        "INSERT INTO other.r VALUES (1, 1, 1)",
        "INSERT INTO temp.h VALUES ('temp', 1, 1)",
        "INSERT INTO main.r SELECT * FROM other.r",
        "INSERT INTO main.h SELECT * FROM temp.h",
        "BEGIN",
        "UPDATE other.r SET a = 2",
        "UPDATE main.r SET a = 3",
        "DELETE FROM temp.h",
        "UPDATE h SET a = 5",
        "COMMIT",
        "CREATE TEMP TRIGGER tt AFTER UPDATE ON main.r BEGIN INSERT INTO main.h VALUES ('by temp', 1, 1); END",
        "UPDATE r SET a = 4",
        "DETACH other",
    ]);
}

#[test]
fn returning_and_limits() {
    with_tables(&[
        "INSERT INTO r VALUES (1, 1, 1), (2, 2, 2) RETURNING id, a",
        "UPDATE r SET a = a + 1 RETURNING *",
        "DELETE FROM r WHERE id = 1 RETURNING id",
        "UPDATE r SET a = h.a FROM (SELECT 2 AS id, 'from' AS a) AS h WHERE h.id = r.id",
        "INSERT INTO r DEFAULT VALUES",
        "INSERT INTO r VALUES (NULL, 5, 5)",
        "INSERT INTO r(id) VALUES (-9223372036854775808)",
        "UPDATE r SET id = 9223372036854775807 WHERE id < 0",
    ]);
}
