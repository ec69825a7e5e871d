//! Virtual tables: failures, plans, changes.

use std::cell::RefCell;
use std::rc::Rc;

use rejoin_sqlite::{
    Args, Change, Conflict, ConstraintOp, Context, Db, Error, IndexInfo, ModuleKind, Result, VTab,
    VTabCursor, ValueRef, ffi,
};

use crate::{int, memory, probe, text};

/// Reaches every callback that can tell of an error.
const EVERYTHING: &str = "SELECT rowid, v FROM probe; BEGIN; INSERT INTO probe VALUES (1); SAVEPOINT a; \
     INSERT INTO probe VALUES (2); ROLLBACK TO a; RELEASE a; COMMIT";

#[test]
fn a_panic_in_any_callback_is_an_sql_error() {
    let methods = [
        "connect",
        "best_index",
        "open",
        "filter",
        "next",
        "eof",
        "column",
        "rowid",
        "update",
        "begin",
        "sync",
        "savepoint",
        "release",
        "rollback_to",
    ];
    for method in methods {
        let (_conn, db) = memory();
        let log = probe::register(db);
        log.panic_in(method);
        let error = db.exec(EVERYTHING).expect_err(method);
        let code = if method == "best_index" { ffi::SQLITE_ERROR } else { ffi::SQLITE_INTERNAL };
        assert_eq!(error.code, code, "{method}: {error:?}");
        // SQLite takes no message from the savepoint callbacks.
        if !["savepoint", "release", "rollback_to"].contains(&method) {
            assert_eq!(error.message, format!("internal error: panic in {method}"));
        }
        log.panic_in("");
        if !db.is_autocommit() {
            db.exec("ROLLBACK").unwrap();
        }
        db.exec(EVERYTHING).unwrap_or_else(|e| panic!("after a panic in {method}: {e}"));
        assert_eq!(int(db, "SELECT sum(v) FROM probe").unwrap(), 60);
    }
}

#[test]
fn a_panic_where_sqlite_listens_to_no_error_stops_there() {
    for method in ["commit", "rollback", "close", "disconnect"] {
        let (conn, db) = memory();
        let log = probe::register(db);
        log.panic_in(method);
        db.exec(EVERYTHING).unwrap_or_else(|e| panic!("{method}: {e}"));
        db.exec("BEGIN; INSERT INTO probe VALUES (3); ROLLBACK").unwrap();
        assert_eq!(int(db, "SELECT sum(v) FROM probe").unwrap(), 60, "{method}");
        conn.close().expect(method);
        assert!(log.take().iter().any(|line| line == method), "{method} was called");
        assert_eq!(Rc::strong_count(&log), 1, "{method}: everything was dropped");
    }
}

#[test]
fn errors_keep_code_and_message() {
    for method in
        ["connect", "best_index", "open", "filter", "next", "column", "rowid", "update", "begin", "sync"]
    {
        let (_conn, db) = memory();
        let log = probe::register(db);
        log.fail_in(method);
        let error = db.exec(EVERYTHING).expect_err(method);
        let code = if method == "best_index" { ffi::SQLITE_ERROR } else { ffi::SQLITE_CONSTRAINT_VTAB };
        assert_eq!(error.code, code, "{method}");
        assert_eq!(error.message, format!("{method} says no"));
    }
}

#[test]
fn changes_arrive_decoded() {
    let (_conn, db) = memory();
    let log = probe::register(db);
    db.exec("CREATE TABLE warm(a); SELECT * FROM probe").unwrap();
    let updates = |sql: &str| {
        log.take();
        db.exec(sql).unwrap();
        let is_change =
            |l: &String| ["insert", "update", "delete"].iter().any(|p| l.starts_with(&format!("{p} ")));
        log.take().into_iter().filter(is_change).collect::<Vec<_>>()
    };
    assert_eq!(updates("INSERT INTO probe VALUES (5)"), ["insert None 5 Abort"]);
    assert_eq!(db.last_insert_rowid(), 77);
    assert_eq!(updates("INSERT OR REPLACE INTO probe(rowid, v) VALUES (4, 5)"), ["insert Some(4) 5 Replace"]);
    assert_eq!(updates("INSERT OR IGNORE INTO probe VALUES (5)"), ["insert None 5 Ignore"]);
    assert_eq!(updates("UPDATE probe SET v = v + 1 WHERE v = 20"), ["update 1 1 21"]);
    assert_eq!(updates("DELETE FROM probe WHERE v > 10"), ["delete 1", "delete 2"]);
}

#[test]
fn a_module_can_be_instantiated_and_its_state_is_released() {
    let (conn, db) = memory();
    let log = probe::register(db);
    db.exec("CREATE VIRTUAL TABLE p2 USING probe; SELECT * FROM p2, probe; DROP TABLE p2").unwrap();
    assert!(log.take().contains(&"disconnect".to_owned()));
    assert!(Rc::strong_count(&log) > 1);
    assert!(db.create_module::<_, probe::Probe>("a\0b", ModuleKind::Eponymous, log.clone()).is_err());
    conn.close().expect("close");
    assert_eq!(Rc::strong_count(&log), 1);
}

/// The integers of `0..10`, by a plan that the test reads back.
struct Numbers(Rc<RefCell<Vec<String>>>);

struct NumbersScan {
    plans: Rc<RefCell<Vec<String>>>,
    at: i64,
    end: i64,
}

impl VTab<RefCell<Vec<String>>> for Numbers {
    type Cursor = NumbersScan;

    fn connect(_db: Db, plans: &Rc<RefCell<Vec<String>>>) -> Result<(String, Self)> {
        Ok(("CREATE TABLE x(n, t COLLATE NOCASE)".to_owned(), Self(plans.clone())))
    }

    fn best_index(&self, info: &mut IndexInfo<'_>) -> Result<()> {
        let mut plan = String::new();
        let mut used = 0;
        for c in info.constraints() {
            let collation = info.collation(c.index).unwrap_or("none").to_owned();
            let right = info.rhs_value(c.index).map(|arg| arg.int());
            plan += &format!("{}:{:?}:{}:{collation}:{right:?} ", c.column, c.op, c.usable);
            if c.usable && c.column == 0 && c.op == ConstraintOp::Eq {
                used += 1;
                info.use_constraint(c.index, used, true);
                info.set_unique();
            }
        }
        for o in info.order_bys() {
            plan += &format!("order {} {} ", o.column, o.desc);
            info.set_order_consumed(o.column == 0 && !o.desc);
        }
        plan += &format!("cols {}", info.col_used());
        info.set_idx_num(used);
        info.set_idx_str("first, to be freed")?;
        info.set_idx_str(&plan)?;
        info.set_cost(if used > 0 { 1.0 } else { 10.0 });
        info.set_rows(if used > 0 { 1 } else { 10 });
        Ok(())
    }

    fn open(&self) -> Result<NumbersScan> {
        Ok(NumbersScan { plans: self.0.clone(), at: 0, end: 0 })
    }
}

impl VTabCursor for NumbersScan {
    fn filter(&mut self, idx_num: i32, idx_str: Option<&str>, args: Args<'_>) -> Result<()> {
        assert_eq!(args.len(), idx_num as usize);
        self.plans.borrow_mut().push(idx_str.unwrap_or("none").to_owned());
        (self.at, self.end) = if args.is_empty() { (0, 10) } else { (args[0].int(), args[0].int() + 1) };
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.end
    }

    fn column(&self, ctx: &mut Context, i: i32) -> Result<()> {
        if i == 0 {
            ctx.set_int(self.at)
        } else {
            ctx.set_text(format!("T{}", self.at).as_bytes())
        }
        Ok(())
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.at)
    }
}

#[test]
fn the_planner_is_understood_and_answered() {
    let (_conn, db) = memory();
    let plans = Rc::new(RefCell::new(Vec::new()));
    db.create_module::<_, Numbers>("numbers", ModuleKind::EponymousOnly, plans.clone()).unwrap();
    let run = |sql: &str| {
        plans.take();
        let got = text(db, sql).unwrap();
        (got, plans.take().join("; "))
    };
    let (got, plan) = run("SELECT group_concat(n) FROM numbers WHERE n = 7");
    assert_eq!((got.as_str(), plan.as_str()), ("7", "0:Eq:true:BINARY:Some(7) cols 1"));
    let (got, plan) = run("SELECT t FROM numbers WHERE t = 't3' AND n IS NOT NULL ORDER BY n LIMIT 1");
    assert_eq!(got, "T3");
    assert!(plan.contains("1:Eq:true:NOCASE") && plan.contains("0:IsNotNull:true"), "{plan}");
    assert!(plan.contains("order 0 false"), "{plan}");
    let (got, plan) =
        run("SELECT group_concat(n) FROM (SELECT n FROM numbers ORDER BY n DESC LIMIT 3 OFFSET 1)");
    assert_eq!(got, "8,7,6");
    assert!(plan.contains("order 0 true"), "{plan}");
    let ops = "n > 1 AND n >= 2 AND n < 9 AND n <= 8 AND n <> 5 AND n IS NOT 4";
    let (got, plan) = run(&format!("SELECT group_concat(n) FROM numbers WHERE {ops}"));
    assert_eq!(got, "2,3,6,7,8");
    for op in ["Gt", "Ge", "Lt", "Le", "Ne", "IsNot"] {
        assert!(plan.contains(&format!("0:{op}:true")), "{op} in {plan}");
    }
    assert!(db.exec("CREATE VIRTUAL TABLE x USING numbers").is_err(), "eponymous only");
    assert!(db.exec("INSERT INTO numbers VALUES (1, 2)").is_err(), "not writable");
    assert!(db.exec("DELETE FROM numbers").is_err(), "not writable");
}

/// One row that carries unchanged columns through an UPDATE, and a declaration that the test chooses.
struct Row(Rc<RefCell<Vec<String>>>);

struct RowScan(bool);

impl VTab<RefCell<Vec<String>>> for Row {
    type Cursor = RowScan;
    const WRITABLE: bool = true;

    fn connect(_db: Db, state: &Rc<RefCell<Vec<String>>>) -> Result<(String, Self)> {
        let declaration = state.borrow_mut().pop().unwrap_or("CREATE TABLE x(a, b)".to_owned());
        Ok((declaration, Self(state.clone())))
    }

    fn best_index(&self, _info: &mut IndexInfo<'_>) -> Result<()> {
        Ok(())
    }

    fn open(&self) -> Result<RowScan> {
        Ok(RowScan(false))
    }

    fn update(&self, change: Change<'_>) -> Result<i64> {
        if let Change::Update { values, conflict, .. } = change {
            let shown =
                values.iter().map(|v| if v.nochange() { "-".to_owned() } else { v.int().to_string() });
            self.0.borrow_mut().push(shown.collect::<Vec<_>>().join(","));
            assert_eq!(conflict, Conflict::Abort);
        }
        Ok(0)
    }
}

impl VTabCursor for RowScan {
    fn filter(&mut self, _: i32, idx_str: Option<&str>, _: Args<'_>) -> Result<()> {
        self.0 = false;
        if idx_str.is_none() { Ok(()) } else { Err(Error::msg("no text was set")) }
    }

    fn next(&mut self) -> Result<()> {
        self.0 = true;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.0
    }

    fn column(&self, ctx: &mut Context, _: i32) -> Result<()> {
        if !ctx.nochange() {
            ctx.set(ValueRef::Integer(1));
        }
        Ok(())
    }

    fn rowid(&self) -> Result<i64> {
        Ok(1)
    }
}

#[test]
fn unchanged_columns_of_an_update_are_known() {
    let (_conn, db) = memory();
    let seen = Rc::new(RefCell::new(Vec::new()));
    db.create_module::<_, Row>("row1", ModuleKind::EponymousOnly, seen.clone()).unwrap();
    db.exec("UPDATE row1 SET b = 5").unwrap();
    assert_eq!(seen.take(), ["-,5"]);
}

#[test]
fn a_bad_declaration_is_an_error_not_a_crash() {
    for declaration in ["CREATE TABLE", "nonsense", "CREATE TABLE x(a\0)"] {
        let (_conn, db) = memory();
        let state = Rc::new(RefCell::new(vec![declaration.to_owned()]));
        db.create_module::<_, Row>("row1", ModuleKind::EponymousOnly, state).unwrap();
        assert!(db.exec("SELECT * FROM row1").is_err(), "{declaration:?}");
        db.exec("SELECT * FROM row1").unwrap();
    }
}
