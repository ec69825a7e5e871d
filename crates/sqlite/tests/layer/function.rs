//! SQL functions.

use std::cell::Cell;
use std::rc::Rc;

use rejoin_sqlite::{Args, Context, Error, FnFlags, Result, ValueRef, ffi};

use crate::{int, memory, text};

const PLAIN: FnFlags = FnFlags { deterministic: false, innocuous: false, direct_only: false };

fn boom(_: &mut Context, _: &(), args: Args<'_>) -> Result<()> {
    match args[0].value() {
        ValueRef::Integer(0) => panic!("a plain text"),
        ValueRef::Integer(n) => panic!("number {n}"),
        _ => std::panic::panic_any(42_u8),
    }
}

#[test]
fn a_panic_is_an_sql_error() {
    let (_conn, db) = memory();
    db.create_function("boom", 1, PLAIN, Rc::new(()), boom).unwrap();
    for (arg, message) in [("0", "a plain text"), ("7", "number 7"), ("NULL", "unknown")] {
        let error = int(db, &format!("SELECT boom({arg})")).unwrap_err();
        assert_eq!(error, Error::new(ffi::SQLITE_INTERNAL, format!("internal error: {message}")));
    }
    assert_eq!(int(db, "SELECT 1").unwrap(), 1);
}

fn fail(_: &mut Context, _: &(), args: Args<'_>) -> Result<()> {
    Err(Error::new(args.get(0).int() as i32, String::from_utf8_lossy(args[1].text())))
}

#[test]
fn message_and_code_of_an_error_pass_through() {
    let (_conn, db) = memory();
    db.create_function("fail", 2, PLAIN, Rc::new(()), fail).unwrap();
    for code in [ffi::SQLITE_ERROR, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_CONSTRAINT_CHECK, ffi::SQLITE_FULL]
    {
        let error = int(db, &format!("SELECT fail({code}, 'so it is')")).unwrap_err();
        assert_eq!(error, Error::new(code, "so it is"));
    }
    // A callback's mistake must not look like success.
    for code in [ffi::SQLITE_OK, ffi::SQLITE_ROW, ffi::SQLITE_DONE] {
        let error = int(db, &format!("SELECT fail({code}, 'odd')")).unwrap_err();
        assert_eq!(error, Error::new(ffi::SQLITE_ERROR, "odd"));
    }
    let error = int(db, "SELECT fail(19, '')").unwrap_err();
    assert_eq!(error, Error::new(ffi::SQLITE_CONSTRAINT, "SQLITE_CONSTRAINT"));
}

fn echo(ctx: &mut Context, by_value: &bool, args: Args<'_>) -> Result<()> {
    if *by_value {
        ctx.set_arg(args[0])
    } else {
        ctx.set(args[0].value())
    }
    Ok(())
}

#[test]
fn arguments_and_results_keep_type_and_bytes() {
    let (_conn, db) = memory();
    db.create_function("by_ref", 1, PLAIN, Rc::new(false), echo).unwrap();
    db.create_function("by_value", 1, PLAIN, Rc::new(true), echo).unwrap();
    let odd: &[u8] = b"\0\xc3\x28\xff\0";
    let values = [
        ValueRef::Null,
        ValueRef::Integer(-1),
        ValueRef::Real(f64::INFINITY),
        ValueRef::Text(odd),
        ValueRef::Blob(odd),
        ValueRef::Text(b""),
        ValueRef::Blob(b""),
    ];
    let mut stmt = db.prepare("SELECT by_ref(?1), by_value(?1)").unwrap();
    for value in values {
        let both = stmt.query_row(&[value], |row| Ok(row.column(0) == value && row.column(1) == value));
        assert_eq!(both.unwrap(), Some(true), "{value:?}");
    }
    assert_eq!(int(db, "SELECT length(by_ref(zeroblob(3)))").unwrap(), 3);
}

fn describe(ctx: &mut Context, _: &(), args: Args<'_>) -> Result<()> {
    let total: i64 = args.iter().map(|arg| arg.int()).sum();
    let kinds: Vec<i32> = args.iter().map(|arg| arg.kind()).collect();
    let real = if args.is_empty() { 0.0 } else { args[0].real() };
    ctx.set_text(format!("{} {total} {kinds:?} {real}", args.len()).as_bytes());
    Ok(())
}

#[test]
fn any_number_of_arguments_and_conversions() {
    let (_conn, db) = memory();
    db.create_function("describe", -1, PLAIN, Rc::new(()), describe).unwrap();
    assert_eq!(text(db, "SELECT describe()").unwrap(), "0 0 [] 0");
    assert_eq!(text(db, "SELECT describe('3.5x', 4, NULL, x'35')").unwrap(), "4 12 [3, 1, 5, 4] 3.5");
}

fn index_out_of_range(_: &mut Context, _: &(), args: Args<'_>) -> Result<()> {
    args.get(5);
    Ok(())
}

#[test]
fn a_wrong_index_is_an_sql_error_too() {
    let (_conn, db) = memory();
    db.create_function("f", 1, PLAIN, Rc::new(()), index_out_of_range).unwrap();
    assert!(int(db, "SELECT f(1)").unwrap_err().message.starts_with("internal error: "));
}

fn count(ctx: &mut Context, calls: &Cell<i64>, _: Args<'_>) -> Result<()> {
    calls.set(calls.get() + 1);
    ctx.set_int(calls.get());
    Ok(())
}

#[test]
fn flags_reach_sqlite() {
    let (_conn, db) = memory();
    let calls = Rc::new(Cell::new(0));
    db.create_function("pure", 0, FnFlags { deterministic: true, ..PLAIN }, calls.clone(), count).unwrap();
    db.create_function("direct", 0, FnFlags { direct_only: true, ..PLAIN }, calls.clone(), count).unwrap();
    db.create_function("harmless", 0, FnFlags { innocuous: true, ..PLAIN }, calls.clone(), count).unwrap();
    db.create_function("plain", 0, PLAIN, calls.clone(), count).unwrap();
    db.exec("CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE a > 5").unwrap();
    db.exec("CREATE INDEX j ON t(a) WHERE a > pure()").unwrap();
    assert!(db.exec("CREATE INDEX k ON t(a) WHERE a > plain()").is_err());
    db.exec("CREATE VIEW d AS SELECT direct(); CREATE VIEW p AS SELECT plain(); CREATE VIEW h AS SELECT harmless()")
        .unwrap();
    assert_eq!(int(db, "SELECT * FROM d").unwrap_err().message, "unsafe use of direct()");
    int(db, "SELECT * FROM p").unwrap();
    db.exec("PRAGMA trusted_schema = OFF").unwrap();
    assert_eq!(int(db, "SELECT * FROM p").unwrap_err().message, "unsafe use of plain()");
    int(db, "SELECT * FROM h").unwrap();
}

#[test]
fn state_is_released_when_replaced_refused_and_closed() {
    let (conn, db) = memory();
    let state = Rc::new(Cell::new(0));
    db.create_function("f", 0, PLAIN, state.clone(), count).unwrap();
    db.create_function("g", 0, PLAIN, state.clone(), count).unwrap();
    assert_eq!(Rc::strong_count(&state), 3);
    db.create_function("f", 0, PLAIN, state.clone(), count).unwrap();
    assert_eq!(Rc::strong_count(&state), 3, "replacing lets go of the old share");
    assert!(db.create_function("f", 9999, PLAIN, state.clone(), count).is_err());
    assert!(db.create_function("f\0", 0, PLAIN, state.clone(), count).is_err());
    assert_eq!(Rc::strong_count(&state), 3, "a refused registration lets go");
    assert_eq!(int(db, "SELECT f() + g()").unwrap(), 3);
    conn.close().expect("close");
    assert_eq!(Rc::strong_count(&state), 1);
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_panic_while_state_is_dropped_stops_there() {
    let (conn, db) = memory();
    let nothing = |_: &mut Context, _: &PanicsWhenDropped, _: Args<'_>| Ok(());
    db.create_function("f", 0, PLAIN, Rc::new(PanicsWhenDropped), nothing).unwrap();
    conn.close().expect("close");
}
