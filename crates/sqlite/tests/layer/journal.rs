//! The pattern that the layer exists for: a trigger's function joins a table to the transaction, collects in memory, and
//! the table flushes at commit. Whatever happens in between, what is flushed must equal what is committed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rejoin_sqlite::{
    Args, Context, Db, Error, FnFlags, IndexInfo, ModuleKind, Result, Stmt, VTab, VTabCursor, ValueRef,
};

use crate::{int, memory, text};

#[derive(Default)]
struct State {
    entries: RefCell<Vec<i64>>,
    marks: RefCell<Vec<usize>>,
    joined: Cell<bool>,
    join: RefCell<Option<Stmt>>,
}

struct Journal {
    db: Db,
    state: Rc<State>,
}

impl Journal {
    fn clear(&self) -> Result<()> {
        self.state.entries.borrow_mut().clear();
        self.state.marks.borrow_mut().clear();
        self.state.joined.set(false);
        Ok(())
    }
}

impl VTab<State> for Journal {
    type Cursor = Never;
    const WRITABLE: bool = true;
    const TRANSACTIONAL: bool = true;

    fn connect(db: Db, state: &Rc<State>) -> Result<(String, Self)> {
        Ok(("CREATE TABLE x(a)".to_owned(), Self { db, state: state.clone() }))
    }

    fn best_index(&self, _: &mut IndexInfo<'_>) -> Result<()> {
        Ok(())
    }

    fn open(&self) -> Result<Never> {
        Ok(Never)
    }

    fn begin(&self) -> Result<()> {
        self.state.joined.set(true);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let rowid = self.db.last_insert_rowid();
        let mut insert = self.db.prepare_transient("INSERT INTO flushed VALUES (?)")?;
        for entry in self.state.entries.borrow().iter() {
            insert.run(&[ValueRef::Integer(*entry)])?;
        }
        self.db.set_last_insert_rowid(rowid);
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        self.clear()
    }

    fn rollback(&self) -> Result<()> {
        self.clear()
    }

    fn savepoint(&self, n: i32) -> Result<()> {
        let (n, len) = (n as usize, self.state.entries.borrow().len());
        let mut marks = self.state.marks.borrow_mut();
        marks.truncate(n);
        marks.resize(n + 1, len);
        Ok(())
    }

    fn release(&self, n: i32) -> Result<()> {
        self.state.marks.borrow_mut().truncate(n as usize);
        Ok(())
    }

    fn rollback_to(&self, n: i32) -> Result<()> {
        let mut marks = self.state.marks.borrow_mut();
        marks.truncate((n + 1) as usize);
        let mark = match usize::try_from(n) {
            Ok(n) => *marks.get(n).ok_or_else(|| Error::msg("no such mark"))?,
            Err(_) => 0,
        };
        self.state.entries.borrow_mut().truncate(mark);
        Ok(())
    }
}

struct Never;

impl VTabCursor for Never {
    fn filter(&mut self, _: i32, _: Option<&str>, _: Args<'_>) -> Result<()> {
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        Ok(())
    }

    fn eof(&self) -> bool {
        true
    }

    fn column(&self, _: &mut Context, _: i32) -> Result<()> {
        Err(Error::msg("no row"))
    }

    fn rowid(&self) -> Result<i64> {
        Err(Error::msg("no row"))
    }
}

/// The function of the capture trigger.
fn note(ctx: &mut Context, state: &State, args: Args<'_>) -> Result<()> {
    if !state.joined.get() {
        let mut join = state.join.borrow_mut();
        if join.is_none() {
            ctx.db().arm_close_hook("journal_close")?;
            *join = Some(ctx.db().prepare("DELETE FROM journal WHERE 0")?);
        }
        if let Some(join) = join.as_mut() {
            join.run(&[])?;
        }
    }
    state.entries.borrow_mut().push(args[0].int());
    Ok(())
}

fn install(db: Db) -> Rc<State> {
    let state = Rc::new(State::default());
    db.create_module::<_, Journal>("journal", ModuleKind::EponymousOnly, state.clone()).unwrap();
    db.create_function("note", 1, FnFlags::default(), state.clone(), note).unwrap();
    db.create_close_hook("journal_close", state.clone(), |state: &State| drop(state.join.take())).unwrap();
    db.exec(
        "CREATE TABLE t(a INTEGER PRIMARY KEY); CREATE TABLE flushed(a);
         CREATE TRIGGER tt AFTER INSERT ON t BEGIN SELECT note(new.a); END",
    )
    .unwrap();
    state
}

fn assert_equal_tables(db: Db, after: &str) {
    let wanted = text(db, "SELECT group_concat(a) FROM (SELECT a FROM t ORDER BY a)").unwrap();
    let got = text(db, "SELECT group_concat(a) FROM (SELECT a FROM flushed ORDER BY a)").unwrap();
    assert_eq!(got, wanted, "after {after}");
}

#[test]
fn a_trigger_joins_and_counts_nothing_of_its_own() {
    let (conn, db) = memory();
    let state = install(db);
    db.exec("INSERT INTO t VALUES (5), (6)").unwrap();
    assert_eq!((db.changes(), db.total_changes()), (2, 4), "two rows, and the two of the flush in the total");
    assert_eq!(db.last_insert_rowid(), 6);
    assert_equal_tables(db, "an implicit transaction");
    db.exec("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (7); ROLLBACK TO a; INSERT INTO t VALUES (8); COMMIT")
        .unwrap();
    assert_equal_tables(db, "a join inside a savepoint that is rolled back");
    assert!(db.exec("INSERT INTO t VALUES (9), (10), (8), (11)").is_err());
    assert_equal_tables(db, "a statement that fails half-way outside a transaction");
    db.exec("BEGIN").unwrap();
    assert!(db.exec("INSERT INTO t VALUES (9), (10), (8), (11)").is_err());
    db.exec("INSERT INTO t VALUES (20); COMMIT").unwrap();
    assert_equal_tables(db, "a statement that joins and fails inside a transaction");
    db.exec("BEGIN").unwrap();
    assert!(db.exec("INSERT OR FAIL INTO t VALUES (30), (31), (8)").is_err());
    db.exec("COMMIT").unwrap();
    assert_equal_tables(db, "OR FAIL, which keeps the rows before the failure");
    assert!(db.exec("BEGIN; INSERT OR ROLLBACK INTO t VALUES (40), (8)").is_err());
    db.exec("INSERT INTO t VALUES (41)").unwrap();
    assert_equal_tables(db, "OR ROLLBACK");
    conn.close().expect("close");
    assert_eq!(Rc::strong_count(&state), 1);
}

#[test]
fn random_savepoints_keep_the_journal_exact() {
    let mut flushed = 0;
    for seed in 1..=60_u64 {
        let (_conn, db) = memory();
        install(db);
        let mut random = seed;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut done = Vec::new();
        for _ in 0..120 {
            let (a, name) = (below(40), below(4));
            let sql = match below(10) {
                0 => "BEGIN".to_owned(),
                1 => "COMMIT".to_owned(),
                2 => "ROLLBACK".to_owned(),
                3 | 4 => format!("SAVEPOINT s{name}"),
                5 => format!("ROLLBACK TO s{name}"),
                6 => format!("RELEASE s{name}"),
                7 => format!("INSERT OR IGNORE INTO t VALUES ({a}), ({})", a + 1),
                8 => format!("INSERT OR FAIL INTO t VALUES ({a}), ({})", a + 1),
                _ => format!("INSERT INTO t VALUES ({a}), ({}), ({})", a + 1, a + 2),
            };
            // Many of them fail, and are meant to.
            let _ = db.exec(&sql);
            done.push(sql);
            if db.is_autocommit() {
                assert_equal_tables(db, &format!("seed {seed}: {}", done.join("; ")));
            }
        }
        flushed += int(db, "SELECT count(*) FROM flushed").unwrap();
    }
    assert!(flushed > 500, "the runs commit something: {flushed}");
}
