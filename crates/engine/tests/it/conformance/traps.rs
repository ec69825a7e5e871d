//! What SQLite does in its own way, and what an owned file must refuse.

use super::{Mode, Side, conform};
use crate::sql::file;
use rejoin_sqlite::Db;
use rusqlite::{Connection, MAIN_DB};
use std::rc::Rc;

fn owned(steps: &[&str]) -> Side {
    let side = Side::new(Mode::Owned, true);
    for step in steps {
        side.sql(step);
    }
    side
}

const TABLE: [&str; 2] = ["CREATE TABLE t(k TEXT PRIMARY KEY, a, b)", "SELECT crsql_as_crr('t')"];

fn cells(side: &Side) -> Vec<String> {
    side.changes().iter().map(|c| format!("{} {} {} {}", c.pk, c.cid, c.val, c.cl)).collect()
}

#[test]
fn null_keys_fail_the_commit() {
    let side = owned(&TABLE);
    let sentence = "write refused: table \"t\" is replicated, its primary key cannot be NULL";
    assert_eq!(side.error("INSERT INTO t VALUES (NULL, 1, 1)"), sentence);
    assert!(side.sql("SELECT * FROM t").is_empty());
    side.sql("BEGIN");
    side.sql("INSERT INTO t VALUES ('a', 1, 1)");
    side.sql("UPDATE t SET k = NULL");
    assert_eq!(side.error("COMMIT"), sentence);
    assert!(side.conn.is_autocommit());
    assert!(side.sql("SELECT * FROM t").is_empty());
    side.sql("BEGIN");
    side.sql("INSERT INTO t VALUES ('a', 1, 1)");
    side.sql("SAVEPOINT s");
    side.sql("INSERT INTO t VALUES (NULL, 1, 1)");
    assert_eq!(side.error("SELECT * FROM crsql_changes"), sentence);
    side.sql("ROLLBACK TO s");
    side.sql("COMMIT");
    assert_eq!(cells(&side), ["010B0161 a 1 1", "010B0161 b 1 1"]);
}

#[test]
fn blobs_written_in_place() {
    for key in ["k TEXT PRIMARY KEY NOT NULL", "k INTEGER PRIMARY KEY"] {
        let side = owned(&[
            &format!("CREATE TABLE t({key}, a, b)"),
            "SELECT crsql_as_crr('t')",
            "INSERT INTO t VALUES (1, zeroblob(4), zeroblob(100))",
        ]);
        let mut blob = side.conn.blob_open(MAIN_DB, "t", "b", 1, false).unwrap();
        blob.write_at(b"in place", 2).unwrap();
        blob.write_at(b"twice", 20).unwrap();
        blob.close().unwrap();
        let versions: Vec<_> = side.changes().iter().map(|c| (c.cid.clone(), c.col_version)).collect();
        // Two writes, as two UPDATEs would count.
        assert_eq!(versions, [("a".to_owned(), 1), ("b".to_owned(), 3)]);
        let (here, there) = ("SELECT hex(b) FROM t", "SELECT hex(val) FROM crsql_changes WHERE cid = 'b'");
        assert_eq!(side.sql(here), side.sql(there));
        side.sql("BEGIN");
        let mut blob = side.conn.blob_open(MAIN_DB, "t", "a", 1, false).unwrap();
        blob.write_at(b"gone", 0).unwrap();
        blob.close().unwrap();
        side.sql("ROLLBACK");
        assert_eq!(side.sql("SELECT hex(val) FROM crsql_changes WHERE cid = 'a'"), ["'00000000'"]);
    }
}

#[test]
fn the_slot_is_taken() {
    let side = owned(&TABLE);
    let path = side.path.clone();
    drop(side.conn);
    let conn = Connection::open(&path).unwrap();
    let hook = Db::with(&conn, |db| db.set_preupdate_hook(Rc::new(()), |_, _| {})).unwrap();
    Db::with(&conn, rejoin::register).unwrap();
    let error = super::run(&conn, "SELECT crsql_db_version()").unwrap_err();
    assert!(error.starts_with("the preupdate hook of this connection was taken"), "{error}");
    drop(hook);
}

#[test]
fn replicas_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.db");
    let mut options = rejoin::Options::default();
    options.owned = true;
    let made = rejoin::Replica::open_with(&path, options).unwrap();
    for step in TABLE {
        super::run(made.connection(), step).unwrap();
    }
    super::run(made.connection(), "INSERT INTO t VALUES ('a', 1, 1)").unwrap();
    drop(made);
    // Opened again, the first thing that it hears of is a write.
    let again = rejoin::Replica::open(&path).unwrap();
    super::run(again.connection(), "DELETE FROM t").unwrap();
    assert_eq!(super::run(again.connection(), "SELECT cid, cl FROM crsql_changes").unwrap(), ["'-1'|2"]);
    let conn = again.into_connection();
    super::run(&conn, "INSERT INTO t VALUES ('a', 2, 2)").unwrap();
    assert_eq!(super::run(&conn, "SELECT DISTINCT cl FROM crsql_changes").unwrap(), ["3"]);
    drop(conn);
    let taken = Connection::open(&path).unwrap();
    let hook = Db::with(&taken, |db| db.set_preupdate_hook(Rc::new(()), |_, _| {})).unwrap();
    let refused = rejoin::Replica::attach(taken).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.starts_with("the preupdate hook of this connection was taken"), "{refused}");
    std::mem::forget(hook);
}

#[test]
fn a_foreign_hook_on_a_shared_file_stays() {
    let side = Side::new(Mode::Shared, true);
    let seen = Rc::new(std::cell::Cell::new(0));
    let hook = Db::with(&side.conn, |db| db.set_preupdate_hook(Rc::clone(&seen), |n, _| n.set(n.get() + 1)))
        .unwrap();
    for step in TABLE {
        side.sql(step);
    }
    seen.set(0);
    side.sql("INSERT INTO t VALUES ('a', 1, 1)");
    assert!(seen.get() > 0);
    assert_eq!(cells(&side), ["010B0161 a 1 1", "010B0161 b 1 1"]);
    drop(hook);
}

#[test]
fn modes_are_converted() {
    let side = Side::new(Mode::Shared, true);
    for step in TABLE {
        side.sql(step);
    }
    let triggers = || super::triggers(&side);
    side.sql("INSERT INTO t VALUES ('a', 1, 1)");
    assert_eq!(side.sql("SELECT crsql_config_get('mode')"), ["'shared'"]);
    assert!(triggers() > 0);
    // Prepared before there was a hook: DELETE without WHERE must not empty the table unseen.
    let mut delete = side.conn.prepare("DELETE FROM t").unwrap();
    let mut insert = side.conn.prepare("INSERT INTO t VALUES (?, 2, 2)").unwrap();
    side.sql("SELECT crsql_config_set('mode', 'owned')");
    assert_eq!(triggers(), 0);
    delete.execute([]).unwrap();
    insert.execute(["b"]).unwrap();
    assert_eq!(cells(&side), ["010B0161 -1 NULL 2", "010B0162 a 2 1", "010B0162 b 2 1"]);
    side.sql("BEGIN");
    assert!(side.error("SELECT crsql_config_set('mode', 'shared')").contains("COMMIT first"));
    side.sql("COMMIT");
    side.sql("SELECT crsql_config_set('mode', 'shared')");
    assert!(triggers() > 0);
    insert.execute(["c"]).unwrap();
    delete.execute([]).unwrap();
    let life: Vec<i64> = side.changes().iter().map(|c| c.cl).collect();
    assert_eq!(life, [2, 2, 2]);
    assert!(side.error("SELECT crsql_config_set('mode', 'mine')").contains("'shared' or 'owned'"));
    let other = Connection::open(&side.path).unwrap();
    assert!(super::run(&other, "INSERT INTO t VALUES ('d', 1, 1)").is_err());
}

#[test]
fn writes_that_nobody_watched_are_taken_over_on_conversion() {
    let side = owned(&TABLE);
    side.sql("INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2)");
    let other = Connection::open(&side.path).unwrap();
    super::run(&other, "INSERT INTO t VALUES ('c', 3, 3)").unwrap();
    super::run(&other, "DELETE FROM t WHERE k = 'a'").unwrap();
    side.sql("SELECT crsql_config_set('mode', 'shared')");
    let keys: Vec<_> = side.changes().iter().filter(|c| c.cid == "a").map(|c| c.pk.clone()).collect();
    assert_eq!(keys, ["010B0162", "010B0163"]);
}

#[test]
fn owned_files_open_again() {
    let side = owned(&TABLE);
    side.sql("INSERT INTO t VALUES ('a', 1, 1)");
    let path = side.path.clone();
    drop(side.conn);
    let conn = Connection::open(&path).unwrap();
    // Compiled before the engine is there.
    let mut delete = conn.prepare("DELETE FROM t").unwrap();
    Db::with(&conn, rejoin::register).unwrap();
    assert_eq!(super::run(&conn, "SELECT crsql_config_get('mode')").unwrap(), ["'owned'"]);
    delete.execute([]).unwrap();
    drop(delete);
    assert_eq!(super::run(&conn, "SELECT cid, cl FROM crsql_changes").unwrap(), ["'-1'|2"]);
    let open = conn.prepare("SELECT 1").unwrap();
    drop(open);
    conn.close().unwrap();
}

#[test]
fn schema_changes_in_the_middle() {
    let alters = [
        "ALTER TABLE t ADD COLUMN c DEFAULT 'new'",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t RENAME COLUMN a TO c",
        "CREATE INDEX t_b ON t(b)",
        "CREATE TABLE other(x)",
        "CREATE VIEW v AS SELECT * FROM t",
        "DROP TABLE o",
        "ALTER TABLE o RENAME TO p",
    ];
    for kind in ["k TEXT PRIMARY KEY NOT NULL", "k INTEGER PRIMARY KEY"] {
        for alter in alters {
            let table = format!("CREATE TABLE t(a, {kind}, b)");
            conform(&[
                &table,
                "CREATE TABLE o(x)",
                "crr t",
                "INSERT INTO t(k, b) VALUES (1, 1), (2, 2)",
                alter,
                "UPDATE t SET b = 3 WHERE k = 1",
                "INSERT INTO t(k, b) VALUES (3, 3)",
            ]);
            conform(&[
                &table,
                "CREATE TABLE o(x)",
                "crr t",
                "INSERT INTO t(k, b) VALUES (1, 1), (2, 2)",
                "BEGIN",
                "UPDATE t SET b = 4 WHERE k = 2",
                alter,
                "UPDATE t SET b = 3 WHERE k = 1",
                "INSERT INTO t(k, b) VALUES (3, 3)",
                "COMMIT",
                "UPDATE t SET b = 5",
            ]);
        }
    }
}

/// The same number of columns at other places, in one transaction: what lay at a place before is no guide.
#[test]
fn columns_change_places() {
    conform(&[
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b, c)",
        "crr t",
        "INSERT INTO t VALUES (1, 1, 1, 1)",
        "BEGIN",
        "UPDATE t SET c = 2",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN d",
        "UPDATE t SET d = 3",
        "UPDATE t SET c = 4",
        "SAVEPOINT s",
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN e",
        "UPDATE t SET e = 5, c = 5",
        "ROLLBACK TO s",
        "UPDATE t SET d = 6",
        "COMMIT",
    ]);
}

#[test]
fn rebuilds() {
    conform(&[
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b)",
        "CREATE TABLE o(k TEXT PRIMARY KEY NOT NULL, a)",
        "crr t",
        "crr o",
        "INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)",
        "INSERT INTO o VALUES ('a', 1)",
        "BEGIN",
        "CREATE TABLE new(k INTEGER PRIMARY KEY, a, b, c DEFAULT 5)",
        "INSERT INTO new SELECT k, a, b, 5 FROM t",
        "DROP TABLE t",
        "ALTER TABLE new RENAME TO t",
        "COMMIT",
        // With triggers, a rebuild is found when Rejoin is next called.
        "crr t",
        "INSERT INTO t VALUES (3, 3, 3, 3)",
        "UPDATE t SET a = 9",
        "UPDATE o SET a = 9",
    ]);
}

#[test]
fn vacuum() {
    conform(&[
        "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, a)",
        "CREATE TABLE o(k INTEGER PRIMARY KEY, a)",
        "crr t",
        "crr o",
        "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)",
        "INSERT INTO o VALUES (1, 1), (5, 5)",
        "DELETE FROM t WHERE k = 'a'",
        "VACUUM",
        "UPDATE t SET a = 5 WHERE k = 'c'",
        "DELETE FROM o WHERE k = 5",
        "INSERT INTO t VALUES ('a', 4)",
    ]);
}

#[test]
fn analyze_and_reindex() {
    conform(&[
        "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, a)",
        "CREATE INDEX t_a ON t(a)",
        "crr t",
        "INSERT INTO t VALUES ('a', 1), ('b', 2)",
        "ANALYZE",
        "UPDATE t SET a = 5",
        "ANALYZE",
        "REINDEX",
        "DELETE FROM t",
    ]);
}

/// A table that is not replicated stays out, whatever its name was.
#[test]
fn names_change_hands() {
    conform(&[
        "CREATE TABLE t(k INTEGER PRIMARY KEY, a)",
        "crr t",
        "INSERT INTO t VALUES (1, 1)",
        "ALTER TABLE t RENAME TO was_t",
        "INSERT INTO was_t VALUES (2, 2)",
        "CREATE TABLE other(k INTEGER PRIMARY KEY, a)",
        "INSERT INTO other VALUES (1, 1)",
        "UPDATE was_t SET a = 3",
    ]);
}

#[test]
fn several_connections() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.db");
    let (a, b) = (file(&path), file(&path));
    for step in TABLE {
        super::run(&a, step).unwrap();
    }
    for i in 0..20 {
        let conn = if i % 3 == 0 { &a } else { &b };
        super::run(conn, &format!("REPLACE INTO t VALUES ('k{}', {i}, 1)", i % 7)).unwrap();
    }
    let sql = "SELECT hex(pk), cid, val, col_version, db_version, cl, seq FROM crsql_changes";
    assert_eq!(super::run(&a, sql).unwrap(), super::run(&b, sql).unwrap());
    assert_eq!(super::run(&a, "SELECT crsql_db_version()").unwrap(), ["20"]);
    assert_eq!(super::run(&a, "SELECT count(*) FROM crsql_changes").unwrap(), ["14"]);
}

#[test]
fn merges_are_not_captured() {
    let source = owned(&TABLE);
    source.sql("INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2)");
    source.sql("DELETE FROM t WHERE k = 'b'");
    let target = owned(&TABLE);
    target.sql("CREATE TABLE log(k INTEGER PRIMARY KEY, what)");
    target.sql("SELECT crsql_as_crr('log')");
    target.sql("CREATE TRIGGER l AFTER INSERT ON t BEGIN INSERT INTO log(what) VALUES (new.k); END");
    let sql = "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes";
    let mut from = source.conn.prepare(sql).unwrap();
    let mut to = target.conn.prepare("INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)").unwrap();
    let mut found = from.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let values: Vec<rusqlite::types::Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
        to.execute(rusqlite::params_from_iter(values)).unwrap();
    }
    let own: Vec<_> = target.changes().into_iter().filter(|c| c.own).map(|c| c.table).collect();
    assert_eq!(own, ["log"]);
    assert_eq!(target.sql("SELECT k, a, b FROM t"), ["'a'|1|1"]);
}

#[test]
fn main_under_another_name() {
    let side = owned(&TABLE);
    Db::with(&side.conn, |db| db.trigger_enabled()).unwrap();
    side.sql("ATTACH ':memory:' AS other");
    side.sql("CREATE TABLE other.t(k TEXT PRIMARY KEY, a, b)");
    side.sql("INSERT INTO other.t VALUES ('other', 1, 1)");
    side.sql("INSERT INTO main.t VALUES ('main', 1, 1)");
    assert_eq!(cells(&side).len(), 2);
}

/// What a transaction changed stays known after it; what it took back does not.
#[test]
fn a_setting_that_is_rolled_back() {
    for mode in [Mode::Shared, Mode::Owned] {
        let side = Side::new(mode, false);
        for step in TABLE {
            side.sql(step);
        }
        for step in [
            "BEGIN",
            "INSERT INTO t VALUES ('a', 1, 1)",
            "SAVEPOINT s",
            "SELECT crsql_config_set('clock', 'lamport')",
            "ROLLBACK TO s",
            "RELEASE s",
            "COMMIT",
            "INSERT INTO t VALUES ('b', 1, 1)",
        ] {
            side.sql(step);
        }
        let minted: Vec<_> = side.changes().iter().map(|c| c.col_version > 1).collect();
        assert_eq!(minted, [true; 4], "{mode:?}");
    }
}
