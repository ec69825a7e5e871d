//! Statements and the connection's own answers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rejoin_sqlite::{Db, Error, TxnState, ValueRef, code_name, ffi};
use rusqlite::Connection;

use crate::{handle, int, memory};

const ODD_TEXT: &[u8] = b"a\0b\xff\xfe\0";

#[test]
fn every_type_comes_back_as_it_went_in() {
    let (_conn, db) = memory();
    let values = [
        ValueRef::Null,
        ValueRef::Integer(i64::MIN),
        ValueRef::Real(-0.5),
        ValueRef::Text(b""),
        ValueRef::Text(ODD_TEXT),
        ValueRef::Blob(b""),
        ValueRef::Blob(ODD_TEXT),
    ];
    db.exec("CREATE TABLE t(v)").unwrap();
    let mut insert = db.prepare("INSERT INTO t VALUES (?1) RETURNING v").unwrap();
    for value in values {
        // Once copied, once lent.
        insert.bind(1, value).unwrap();
        assert!(insert.step().unwrap());
        assert_eq!(insert.column(0), value);
        assert!(!insert.step().unwrap());
        insert.reset();
        insert.clear_bindings();
        let same = insert.query_row(&[value], |row| Ok(row.column(0) == value)).unwrap();
        assert_eq!(same, Some(true), "{value:?}");
    }
    drop(insert);
    let mut all = db.prepare("SELECT v, typeof(v) FROM t ORDER BY rowid").unwrap();
    for value in values.into_iter().flat_map(|v| [v, v]) {
        assert!(all.step().unwrap());
        assert_eq!(all.column(0), value);
    }
    assert!(!all.step().unwrap());
}

#[test]
fn numbers_read_as_bytes_are_text_and_nothing_is_beyond_the_row() {
    let (_conn, db) = memory();
    let mut stmt = db.prepare("SELECT 12 AS twelve, 'x', x'00ff', NULL").unwrap();
    assert_eq!(stmt.column(0), ValueRef::Null, "no row yet");
    assert!(stmt.step().unwrap());
    assert_eq!(stmt.column_text(0), b"12");
    assert_eq!(stmt.column(0), ValueRef::Integer(12), "reading it as text does not make it text");
    assert_eq!(stmt.column_blob(1), b"x");
    assert_eq!(stmt.column_blob(2), [0, 255]);
    assert_eq!(stmt.column_text(3), b"");
    assert_eq!(stmt.column_type(3), ffi::SQLITE_NULL);
    assert_eq!(stmt.column(4), ValueRef::Null);
    assert_eq!(stmt.column(-1), ValueRef::Null);
    assert_eq!(stmt.column_name(0), "twelve");
    assert_eq!(stmt.column_name(9), "");
    assert_eq!(stmt.column_count(), 4);
}

#[test]
fn text_of_a_utf16_database_is_utf8_and_stays_put() {
    let (_conn, db) = memory();
    db.exec(
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(v); INSERT INTO t VALUES ('h\u{e9}llo'), (x'6869')",
    )
    .unwrap();
    let mut stmt = db.prepare("SELECT v FROM t").unwrap();
    assert!(stmt.step().unwrap());
    let (blob, text) = (stmt.column_blob(0), stmt.column_text(0));
    assert_eq!(text, "h\u{e9}llo".as_bytes());
    assert_eq!(blob, text);
    assert!(stmt.step().unwrap());
    let (text, blob) = (stmt.column_text(0), stmt.column_blob(0));
    assert_eq!((text, blob), (&b"hi"[..], &b"hi"[..]));
}

#[test]
fn lent_parameters_are_always_taken_back() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a UNIQUE, b)").unwrap();
    let mut stmt = db.prepare("INSERT INTO t VALUES (?1, ?2)").unwrap();
    let row = [ValueRef::Text(b"key"), ValueRef::Blob(b"value")];
    let is_clean = |stmt: &rejoin_sqlite::Stmt| {
        assert!(!stmt.is_busy());
        assert_eq!(stmt.expanded_sql().unwrap(), "INSERT INTO t VALUES (NULL, NULL)");
    };
    stmt.run(&row).unwrap();
    is_clean(&stmt);

    let error = stmt.run(&row).unwrap_err();
    assert_eq!(error.code, ffi::SQLITE_CONSTRAINT_UNIQUE);
    assert_eq!(error.message, "UNIQUE constraint failed: t.a");
    is_clean(&stmt);

    let refused = stmt.with_bound(&row, |_| Err::<(), _>(Error::new(77, "mine"))).unwrap_err();
    assert_eq!(refused, Error::new(77, "mine"));
    is_clean(&stmt);

    let too_many = [ValueRef::Text(b"a"), ValueRef::Text(b"b"), ValueRef::Text(b"c")];
    assert_eq!(stmt.run(&too_many).unwrap_err().code, ffi::SQLITE_RANGE);
    is_clean(&stmt);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        stmt.with_bound(&row, |bound| -> rejoin_sqlite::Result<()> {
            assert!(bound.expanded_sql().unwrap().contains("'key'"));
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    is_clean(&stmt);
    assert_eq!(int(db, "SELECT count(*) FROM t").unwrap(), 1);
}

#[test]
fn query_row_leaves_no_open_read_behind() {
    let (_conn, db) = memory();
    let mut stmt = db.prepare("SELECT value FROM json_each('[1,2,3]') WHERE value > ?").unwrap();
    assert_eq!(stmt.query_row(&[ValueRef::Integer(1)], |r| Ok(r.column_int(0))).unwrap(), Some(2));
    assert!(!stmt.is_busy());
    assert_eq!(stmt.query_row(&[ValueRef::Integer(3)], |r| Ok(r.column_int(0))).unwrap(), None);
}

#[test]
fn one_statement_is_prepared_and_many_are_executed() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a); -- with a comment\n INSERT INTO t VALUES (';'), (2);; SELECT * FROM t; ")
        .unwrap();
    assert_eq!(int(db, "SELECT count(*) FROM t").unwrap(), 2);
    assert!(db.prepare("SELECT 1; -- the end").is_ok());
    assert_eq!(db.prepare("SELECT 1; SELECT 2").unwrap_err().code, ffi::SQLITE_MISUSE);
    assert_eq!(db.prepare(" -- nothing").unwrap_err().code, ffi::SQLITE_MISUSE);
    let error = db.prepare("SELECT nope FROM t").unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ffi::SQLITE_ERROR, "no such column: nope"));
    let error = db.exec("INSERT INTO t VALUES (3); INSERT INTO t VALUES (1, 2)").unwrap_err();
    assert_eq!(error.code, ffi::SQLITE_ERROR);
    assert_eq!(int(db, "SELECT count(*) FROM t").unwrap(), 3, "what ran before the error stays");
}

#[test]
fn a_changed_schema_is_counted_and_survived() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a)").unwrap();
    let mut stmt = db.prepare("SELECT * FROM t").unwrap();
    stmt.run(&[]).unwrap();
    assert_eq!((stmt.reprepares(), stmt.column_count()), (0, 1));
    db.exec("ALTER TABLE t ADD COLUMN b").unwrap();
    stmt.run(&[]).unwrap();
    assert_eq!((stmt.reprepares(), stmt.column_count()), (1, 2));
    assert!(stmt.is_readonly());
    assert_eq!(stmt.sql(), "SELECT * FROM t");
    assert_eq!(stmt.db(), db);
}

#[test]
fn the_connection_answers_about_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.db");
    let (conn, other) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let (db, other) = (Db::with(&conn, |db| db), handle(&other));
    assert!(db.filename().unwrap().ends_with("file.db"));
    assert_eq!(memory().1.filename(), None);
    assert!(!db.is_readonly());
    assert!(db.libversion_number() >= 3_040_000);
    assert!(db.limit(ffi::SQLITE_LIMIT_VARIABLE_NUMBER) > 0);

    db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b VARCHAR(9) COLLATE NOCASE NOT NULL)")
        .unwrap();
    int(other, "SELECT count(*) FROM t").unwrap();
    let before = other.data_version().unwrap();
    assert_eq!(other.data_version().unwrap(), before);
    db.exec("INSERT INTO t(b) VALUES ('x'), ('y')").unwrap();
    int(other, "SELECT count(*) FROM t").unwrap();
    assert_ne!(other.data_version().unwrap(), before);
    assert_eq!((db.changes(), db.total_changes(), db.last_insert_rowid()), (2, 2, 2));
    db.set_last_insert_rowid(-9);
    assert_eq!(int(db, "SELECT last_insert_rowid()").unwrap(), -9);

    assert!(db.is_autocommit());
    assert_eq!(db.txn_state(), TxnState::None);
    db.exec("BEGIN").unwrap();
    int(db, "SELECT count(*) FROM t").unwrap();
    assert_eq!(db.txn_state(), TxnState::Read);
    db.exec("DELETE FROM t").unwrap();
    assert_eq!(db.txn_state(), TxnState::Write);
    assert!(!db.is_autocommit());
    let busy = other.exec("BEGIN IMMEDIATE").unwrap_err();
    assert!(busy.is_busy(), "{busy:?}");
    db.exec("ROLLBACK").unwrap();

    let meta = db.column_meta("t", "b").unwrap();
    assert_eq!(meta.decl_type.as_deref(), Some("VARCHAR(9)"));
    assert_eq!((meta.not_null, meta.primary_key, meta.autoincrement), (true, false, false));
    assert_eq!(db.column_collation("t", "b").unwrap().as_deref(), Some("NOCASE"));
    assert!(db.column_meta("t", "a").unwrap().autoincrement);
    assert_eq!(db.column_meta("t", "c").unwrap_err().message, "no such table column: t.c");
    assert!(db.column_meta("a\0b", "c").is_err());
}

#[test]
fn triggers_can_be_switched_off() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a); CREATE TRIGGER x BEFORE INSERT ON t BEGIN SELECT raise(ABORT, 'no'); END")
        .unwrap();
    assert!(db.trigger_enabled().unwrap());
    let refused = db.exec("INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (ffi::SQLITE_CONSTRAINT_TRIGGER, "no"));
    db.set_triggers_enabled(false).unwrap();
    assert!(!db.trigger_enabled().unwrap());
    db.exec("INSERT INTO t VALUES (1)").unwrap();
    db.set_triggers_enabled(true).unwrap();
    assert!(db.trigger_enabled().unwrap());
}

#[test]
fn errors_have_names_and_pass_through_rusqlite() {
    assert_eq!(code_name(ffi::SQLITE_BUSY_SNAPSHOT), Some("SQLITE_BUSY_SNAPSHOT"));
    assert_eq!(
        code_name(ffi::SQLITE_IOERR_READ),
        Some("SQLITE_IOERR"),
        "an unlisted code has its family's name"
    );
    assert_eq!(code_name(0xfe), None);
    assert_eq!(Error::new(ffi::SQLITE_FULL, "").to_string(), "SQLITE_FULL");
    let error = Error::new(ffi::SQLITE_BUSY_SNAPSHOT, "later");
    assert!(error.is_busy() && !error.is_constraint());
    assert_eq!(Error::from(rusqlite::Error::from(error.clone())), error);
}
