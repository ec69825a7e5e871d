//! The preupdate hook.

use std::cell::RefCell;
use std::rc::Rc;

use rejoin_sqlite::{Args, Context, Db, FnFlags, Preupdate, PreupdateGuard, PreupdateOp, ValueRef, ffi};

use crate::{int, memory};

type Seen = RefCell<Vec<String>>;

fn show(value: rejoin_sqlite::Result<ValueRef<'_>>) -> String {
    match value {
        Ok(ValueRef::Null) => "null".to_owned(),
        Ok(ValueRef::Integer(i)) => i.to_string(),
        Ok(ValueRef::Real(r)) => format!("{r:?}"),
        Ok(ValueRef::Text(t)) => format!("{:?}", t.escape_ascii().to_string()),
        Ok(ValueRef::Blob(b)) => format!("x{b:?}"),
        Err(e) => format!("error {}", e.primary_code()),
    }
}

fn record(seen: &Seen, change: &Preupdate<'_>) {
    let row =
        |read: &dyn Fn(i32) -> String| (0..change.column_count()).map(read).collect::<Vec<_>>().join(" ");
    let (old, new) = (row(&|i| show(change.old(i))), row(&|i| show(change.new(i))));
    let rowids = (change.old_rowid(), change.new_rowid());
    let what = match change.op() {
        PreupdateOp::Insert => format!("insert {}: {new}", rowids.1),
        PreupdateOp::Update => format!("update {} {}: {old} -> {new}", rowids.0, rowids.1),
        PreupdateOp::Delete => format!("delete {}: {old}", rowids.0),
    };
    let table = change.table().to_str().unwrap();
    seen.borrow_mut().push(format!("{table} {what} @{}", change.depth()));
}

fn hooked() -> (rusqlite::Connection, Db, Rc<Seen>, PreupdateGuard) {
    let (conn, db) = memory();
    let seen = Rc::new(Seen::default());
    let guard = db.set_preupdate_hook(seen.clone(), record).unwrap();
    (conn, db, seen, guard)
}

#[test]
fn every_change_is_seen_with_its_values() {
    let (_conn, db, seen, _guard) = hooked();
    db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b, c)").unwrap();
    seen.take();
    db.exec("INSERT INTO t VALUES (1, 'x' || char(0) || 'y', x'00'), (2, NULL, 1.5)").unwrap();
    db.exec("UPDATE t SET a = 9, b = 7 WHERE a = 2; DELETE FROM t WHERE a = 1; DELETE FROM t").unwrap();
    assert_eq!(
        seen.take(),
        [
            r#"t insert 1: 1 "x\\x00y" x[0] @0"#,
            "t insert 2: 2 null 1.5 @0",
            "t update 2 9: 2 null 1.5 -> 9 7 1.5 @0",
            r#"t delete 1: 1 "x\\x00y" x[0] @0"#,
            "t delete 9: 9 7 1.5 @0",
        ]
    );
}

#[test]
fn triggers_are_deeper_and_the_wrong_side_is_an_error() {
    let (_conn, db, seen, _guard) = hooked();
    db.exec("CREATE TABLE t(a); CREATE TABLE u(a)").unwrap();
    db.exec("CREATE TRIGGER tt AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.a); END").unwrap();
    seen.take();
    db.exec("INSERT INTO t VALUES (5)").unwrap();
    assert_eq!(seen.take(), ["t insert 1: 5 @0", "u insert 1: 5 @1"]);
    drop(_guard);

    let errors = Rc::new(Seen::default());
    let wrong = |seen: &Seen, change: &Preupdate<'_>| {
        assert!(change.new(7).is_err() && change.new(-1).is_err());
        seen.borrow_mut().push(format!("{} {}", show(change.old(0)), show(change.new(0))));
    };
    let _guard = db.set_preupdate_hook(errors.clone(), wrong).unwrap();
    db.exec("INSERT INTO u VALUES (6)").unwrap();
    assert_eq!(errors.take(), [format!("error {} 6", ffi::SQLITE_MISUSE)]);
}

#[test]
fn replace_is_delete_and_insert_with_the_same_total() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE); INSERT INTO t VALUES (1, 'x'), (2, 'y')")
        .unwrap();
    let seen = Rc::new(Seen::default());
    let totals = |seen: &Seen, change: &Preupdate<'_>| {
        let line = format!("{:?} {} {}", change.op(), change.old_rowid(), change.db().total_changes());
        seen.borrow_mut().push(line);
    };
    let _guard = db.set_preupdate_hook(seen.clone(), totals).unwrap();
    db.exec("REPLACE INTO t VALUES (1, 'z')").unwrap();
    assert_eq!(seen.take(), ["Delete 1 2", "Insert 1 2"]);
    db.exec("DELETE FROM t WHERE a = 1; INSERT INTO t VALUES (1, 'z')").unwrap();
    assert_eq!(seen.take(), ["Delete 1 3", "Insert 1 4"], "an explicit DELETE counts");
    db.exec("REPLACE INTO t VALUES (3, 'y')").unwrap();
    assert_eq!(seen.take(), ["Delete 2 5", "Insert 3 5"], "a conflict on another key");
}

#[test]
fn blob_writes_are_seen() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a, b); INSERT INTO t VALUES (1, zeroblob(3))").unwrap();
    let seen = Rc::new(Seen::default());
    let blobs = |seen: &Seen, change: &Preupdate<'_>| {
        seen.borrow_mut().push(format!("{:?} {:?} {}", change.op(), change.blobwrite(), show(change.old(1))));
    };
    let _guard = db.set_preupdate_hook(seen.clone(), blobs).unwrap();
    let mut blob = std::ptr::null_mut();
    // SAFETY: names are NUL-terminated, the connection is open, the handle is closed once.
    unsafe {
        let (main, table, column) = (c"main".as_ptr(), c"t".as_ptr(), c"b".as_ptr());
        assert_eq!(ffi::sqlite3_blob_open(db.as_ptr(), main, table, column, 1, 1, &mut blob), 0);
        assert_eq!(ffi::sqlite3_blob_write(blob, b"hi".as_ptr().cast(), 2, 0), 0);
        ffi::sqlite3_blob_close(blob);
    }
    db.exec("DELETE FROM t").unwrap();
    assert_eq!(seen.take(), ["Delete Some(1) x[0, 0, 0]", "Delete None x[104, 105, 0]"]);
}

#[test]
fn a_taken_slot_is_told_and_a_dropped_guard_frees_it() {
    let (_conn, db, seen, guard) = hooked();
    let other = Rc::new(Seen::default());
    assert!(db.set_preupdate_hook(other.clone(), record).is_err());
    assert_eq!(Rc::strong_count(&other), 1);
    db.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert!(
        other.borrow().is_empty() && seen.borrow().is_empty(),
        "the slot is empty after a failed attempt"
    );
    drop(guard);
    assert_eq!(Rc::strong_count(&seen), 1);
    let guard = db.set_preupdate_hook(seen.clone(), record).unwrap();
    db.exec("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(seen.take().len(), 1);
    drop(guard);
    db.exec("INSERT INTO t VALUES (3)").unwrap();
    assert!(seen.borrow().is_empty());
}

#[test]
fn a_panic_in_the_hook_ends_the_hook_alone() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a)").unwrap();
    let _guard =
        db.set_preupdate_hook(Rc::new(()), |_: &(), _: &Preupdate<'_>| panic!("in the hook")).unwrap();
    db.exec("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(int(db, "SELECT count(*) FROM t").unwrap(), 1);
}

#[test]
fn the_guard_may_be_dropped_by_its_own_callback() {
    let (_conn, db) = memory();
    db.exec("CREATE TABLE t(a)").unwrap();
    let slot: Rc<RefCell<Option<PreupdateGuard>>> = Rc::new(RefCell::new(None));
    let drop_it = |slot: &RefCell<Option<PreupdateGuard>>, _: &Preupdate<'_>| drop(slot.take());
    *slot.borrow_mut() = Some(db.set_preupdate_hook(slot.clone(), drop_it).unwrap());
    db.exec("INSERT INTO t VALUES (1), (2)").unwrap();
    assert!(slot.borrow().is_none());
    assert_eq!(Rc::strong_count(&slot), 1);
}

#[derive(Default)]
struct Owner(RefCell<Option<PreupdateGuard>>);

#[test]
fn state_of_a_function_may_own_the_guard() {
    let (conn, db) = memory();
    let owner = Rc::new(Owner::default());
    let nothing = |_: &mut Context, _: &Owner, _: Args<'_>| Ok(());
    db.create_function("f", 0, FnFlags::default(), owner.clone(), nothing).unwrap();
    let weak = Rc::downgrade(&owner);
    let call = |owner: &std::rc::Weak<Owner>, _: &Preupdate<'_>| assert!(owner.upgrade().is_some());
    let guard = db.set_preupdate_hook(Rc::new(weak.clone()), call).unwrap();
    owner.0.replace(Some(guard));
    drop(owner);
    db.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert!(weak.upgrade().is_some());
    conn.close().expect("close");
    assert!(weak.upgrade().is_none());
}
