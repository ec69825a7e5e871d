//! The order of the transaction callbacks.

use rejoin_sqlite::ffi;
use rusqlite::Connection;

use crate::{handle, memory, probe};

fn run(db: rejoin_sqlite::Db, log: &probe::Log, sql: &str) -> Vec<String> {
    log.take();
    db.exec(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let noise = ["connect", "best_index", "open", "filter", "next", "eof", "column", "rowid", "close"];
    log.take().into_iter().filter(|line| !noise.contains(&line.as_str())).collect()
}

/// What a statement that writes to the table says beside `begin`: its own savepoint.
const OWN: [&str; 2] = ["savepoint 0", "release 0"];

#[test]
fn autocommit_and_explicit_transactions() {
    let (_conn, db) = memory();
    let log = probe::register(db);
    let join = "DELETE FROM probe WHERE 0";
    assert_eq!(run(db, &log, join), ["begin", "sync", "commit"]);
    assert_eq!(run(db, &log, &format!("BEGIN; {join}")), ["begin", OWN[0], OWN[1]]);
    assert_eq!(run(db, &log, join), OWN, "joined once");
    assert_eq!(run(db, &log, "COMMIT"), ["sync", "commit"]);
    assert_eq!(run(db, &log, &format!("BEGIN; {join}; ROLLBACK")), ["begin", OWN[0], OWN[1], "rollback"]);
    assert_eq!(run(db, &log, "BEGIN; SELECT * FROM probe; COMMIT"), [""; 0], "reading does not join");
}

#[test]
fn savepoints_before_and_after_joining() {
    let (_conn, db) = memory();
    let log = probe::register(db);
    // The first SAVEPOINT opens the transaction and has no number; b is 0, the statement itself 1.
    let joined = run(db, &log, "SAVEPOINT a; SAVEPOINT b; DELETE FROM probe WHERE 0");
    assert_eq!(joined, ["begin", "savepoint 1", "release 1"], "nothing is told of b");
    assert_eq!(run(db, &log, "SAVEPOINT c; SAVEPOINT d"), ["savepoint 1", "savepoint 2"]);
    assert_eq!(run(db, &log, "ROLLBACK TO c"), ["rollback_to 1"]);
    assert_eq!(run(db, &log, "RELEASE c"), ["release 1"]);
    assert_eq!(run(db, &log, "ROLLBACK TO b"), ["rollback_to 0"]);
    assert_eq!(run(db, &log, "ROLLBACK TO a"), ["rollback_to -1"]);
    assert_eq!(run(db, &log, "RELEASE a"), ["sync", "commit"]);
}

#[test]
fn a_multi_row_statement_that_fails_half_way() {
    let (_conn, db) = memory();
    let log = probe::register(db);
    db.exec("CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (3)").unwrap();
    run(db, &log, "BEGIN; DELETE FROM probe WHERE 0");
    let error = db.exec("INSERT INTO t VALUES (1), (2), (3)").unwrap_err();
    assert_eq!(error.code, ffi::SQLITE_CONSTRAINT_UNIQUE);
    assert_eq!(log.take(), ["savepoint 0", "rollback_to 0", "release 0"]);
    assert_eq!(run(db, &log, "INSERT INTO t VALUES (4), (5)"), ["savepoint 0", "release 0"]);
    assert_eq!(run(db, &log, "COMMIT"), ["sync", "commit"]);
}

#[test]
fn a_commit_that_fails_busy_syncs_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy.db");
    let (conn, reader) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
    conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let (db, reader) = (handle(&conn), handle(&reader));
    let log = probe::register(db);
    db.exec("CREATE TABLE t(a)").unwrap();
    reader.exec("BEGIN; SELECT * FROM t").unwrap();
    run(db, &log, "BEGIN; DELETE FROM probe WHERE 0; INSERT INTO t VALUES (1)");

    let error = db.exec("COMMIT").unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    assert_eq!(log.take(), ["sync"]);
    assert!(!db.is_autocommit(), "the transaction goes on");
    run(db, &log, "INSERT INTO t VALUES (2)");
    reader.exec("COMMIT").unwrap();
    assert_eq!(run(db, &log, "COMMIT"), ["sync", "commit"]);
    assert_eq!(crate::int(reader, "SELECT count(*) FROM t").unwrap(), 2);
}

#[test]
fn a_sync_that_refuses_rolls_the_transaction_back() {
    let (_conn, db) = memory();
    let log = probe::register(db);
    db.exec("CREATE TABLE t(a)").unwrap();
    run(db, &log, "BEGIN; INSERT INTO t VALUES (1); DELETE FROM probe WHERE 0");
    log.fail_in("sync");
    let error = db.exec("COMMIT").unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ffi::SQLITE_CONSTRAINT_VTAB, "sync says no"));
    assert_eq!(log.take(), ["sync", "rollback"]);
    assert!(db.is_autocommit());
    assert_eq!(crate::int(db, "SELECT count(*) FROM t").unwrap(), 0);
}

#[test]
fn joining_counts_nothing() {
    let (_conn, db) = memory();
    probe::register(db);
    db.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2); BEGIN").unwrap();
    let before = (db.changes(), db.total_changes(), db.last_insert_rowid());
    let mut join = db.prepare("DELETE FROM probe WHERE 0").unwrap();
    join.run(&[]).unwrap();
    assert_eq!(db.total_changes(), before.1);
    assert_eq!(db.last_insert_rowid(), before.2);
}
