//! A virtual table that logs every call and fails, or panics, in the one it is told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rejoin_sqlite::{
    Args, Change, Context, Db, Error, IndexInfo, ModuleKind, Result, Risk, VTab, VTabCursor, ffi,
};

#[derive(Default)]
pub(crate) struct Log {
    lines: RefCell<Vec<String>>,
    panic_in: Cell<&'static str>,
    fail_in: Cell<&'static str>,
    pub(crate) rows: RefCell<Vec<i64>>,
}

impl Log {
    pub(crate) fn panic_in(&self, method: &'static str) {
        self.panic_in.set(method);
    }

    /// An empty name: nowhere.
    pub(crate) fn fail_in(&self, method: &'static str) {
        self.fail_in.set(method);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.lines.take()
    }

    fn hit(&self, method: &str, line: String) -> Result<()> {
        self.lines.borrow_mut().push(line);
        if self.panic_in.get() == method {
            panic!("panic in {method}");
        }
        if self.fail_in.get() == method {
            return Err(Error::new(ffi::SQLITE_CONSTRAINT_VTAB, format!("{method} says no")));
        }
        Ok(())
    }

    fn call(&self, method: &str) -> Result<()> {
        self.hit(method, method.to_owned())
    }
}

pub(crate) struct Probe(Rc<Log>);

pub(crate) fn register(db: Db) -> Rc<Log> {
    let log = Rc::new(Log::default());
    log.rows.replace(vec![10, 20, 30]);
    db.create_module::<Log, Probe>("probe", ModuleKind::Eponymous, log.clone()).unwrap();
    log
}

impl VTab<Log> for Probe {
    type Cursor = Scan;
    const WRITABLE: bool = true;
    const TRANSACTIONAL: bool = true;
    const RISK: Risk = Risk::Innocuous;

    fn connect(_db: Db, log: &Rc<Log>) -> Result<(String, Self)> {
        log.call("connect")?;
        Ok(("CREATE TABLE x(v)".to_owned(), Self(log.clone())))
    }

    fn best_index(&self, _info: &mut IndexInfo<'_>) -> Result<()> {
        self.0.call("best_index")
    }

    fn open(&self) -> Result<Scan> {
        self.0.call("open")?;
        Ok(Scan { log: self.0.clone(), at: 0 })
    }

    fn update(&self, change: Change<'_>) -> Result<i64> {
        let line = match change {
            Change::Insert { rowid, values, conflict } => {
                format!("insert {:?} {} {conflict:?}", rowid.map(|r| r.int()), values[0].int())
            }
            Change::Update { old_rowid, new_rowid, values, .. } => {
                format!("update {} {} {}", old_rowid.int(), new_rowid.int(), values[0].int())
            }
            Change::Delete { rowid } => format!("delete {}", rowid.int()),
        };
        self.0.hit("update", line)?;
        Ok(77)
    }

    fn begin(&self) -> Result<()> {
        self.0.call("begin")
    }

    fn sync(&self) -> Result<()> {
        self.0.call("sync")
    }

    fn commit(&self) -> Result<()> {
        self.0.call("commit")
    }

    fn rollback(&self) -> Result<()> {
        self.0.call("rollback")
    }

    fn savepoint(&self, n: i32) -> Result<()> {
        self.0.hit("savepoint", format!("savepoint {n}"))
    }

    fn release(&self, n: i32) -> Result<()> {
        self.0.hit("release", format!("release {n}"))
    }

    fn rollback_to(&self, n: i32) -> Result<()> {
        self.0.hit("rollback_to", format!("rollback_to {n}"))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // The result is nobody's here; a panic is what the test is after.
        let _ = self.0.call("disconnect");
    }
}

pub(crate) struct Scan {
    log: Rc<Log>,
    at: usize,
}

impl VTabCursor for Scan {
    fn filter(&mut self, _idx_num: i32, _idx_str: Option<&str>, _args: Args<'_>) -> Result<()> {
        self.at = 0;
        self.log.call("filter")
    }

    fn next(&mut self) -> Result<()> {
        self.at += 1;
        self.log.call("next")
    }

    fn eof(&self) -> bool {
        self.log.call("eof").is_err() || self.at >= self.log.rows.borrow().len()
    }

    fn column(&self, ctx: &mut Context, _i: i32) -> Result<()> {
        self.log.call("column")?;
        ctx.set_int(self.log.rows.borrow()[self.at]);
        Ok(())
    }

    fn rowid(&self) -> Result<i64> {
        self.log.call("rowid")?;
        Ok(self.at as i64)
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        let _ = self.log.call("close");
    }
}
