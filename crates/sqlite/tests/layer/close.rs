//! The call before the connection closes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rejoin_sqlite::{Db, Stmt};

use crate::{memory, probe};

#[derive(Default)]
struct Cache {
    stmts: RefCell<Vec<Stmt>>,
    calls: Cell<i32>,
}

fn let_go(cache: &Cache) {
    cache.calls.set(cache.calls.get() + 1);
    cache.stmts.borrow_mut().clear();
}

fn keep(db: Db, cache: &Cache, sql: &str) {
    db.arm_close_hook("at_close").unwrap();
    cache.stmts.borrow_mut().push(db.prepare(sql).unwrap());
}

#[test]
fn kept_statements_do_not_keep_the_connection_open() {
    let (conn, db) = memory();
    let cache = Rc::new(Cache::default());
    let log = probe::register(db);
    db.create_close_hook("at_close", cache.clone(), let_go).unwrap();
    keep(db, &cache, "SELECT 1");
    keep(db, &cache, "DELETE FROM probe WHERE 0");
    cache.stmts.borrow_mut()[1].run(&[]).unwrap();
    assert_eq!(cache.calls.get(), 0, "nothing but the close calls it");
    conn.close().expect("close");
    assert_eq!(cache.calls.get(), 1);
    assert_eq!((Rc::strong_count(&cache), Rc::strong_count(&log)), (1, 1));
}

#[test]
fn without_it_the_close_is_refused() {
    let (conn, db) = memory();
    let stmt = db.prepare("SELECT 1").unwrap();
    let (conn, error) = conn.close().expect_err("open statement");
    assert!(rejoin_sqlite::Error::from(error).is_busy());
    drop(stmt);
    conn.close().expect("close");
}

#[test]
fn an_unarmed_hook_is_silent_and_released() {
    let (conn, db) = memory();
    let cache = Rc::new(Cache::default());
    db.create_close_hook("a \"quoted\" name", cache.clone(), let_go).unwrap();
    conn.close().expect("close");
    assert_eq!((cache.calls.get(), Rc::strong_count(&cache)), (0, 1));
}

#[test]
fn any_name_can_be_armed() {
    let (conn, db) = memory();
    let cache = Rc::new(Cache::default());
    db.create_close_hook("a \"quoted\" name", cache.clone(), let_go).unwrap();
    db.arm_close_hook("a \"quoted\" name").unwrap();
    db.arm_close_hook("a \"quoted\" name").unwrap();
    conn.close().expect("close");
    assert_eq!((cache.calls.get(), Rc::strong_count(&cache)), (1, 1));
}
