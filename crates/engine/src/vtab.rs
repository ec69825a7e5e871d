//! The table that joins write transactions. It has no rows; SQLite tells it of every step of the transaction.

use crate::engine::{CAPTURE_TABLE, Engine};
use crate::error::Result;
use rejoin_sqlite::{
    Args, Change, Context, Db, IndexInfo, ModuleKind, Result as SqlResult, Risk, VTab, VTabCursor,
};
use std::rc::Rc;

pub fn register(engine: &Rc<Engine>) -> Result<()> {
    Ok(engine.db.create_module::<Engine, CaptureTable>(
        CAPTURE_TABLE,
        ModuleKind::EponymousOnly,
        Rc::clone(engine),
    )?)
}

struct CaptureTable(Rc<Engine>);

struct NoRows;

impl VTab<Engine> for CaptureTable {
    type Cursor = NoRows;
    const WRITABLE: bool = true;
    const TRANSACTIONAL: bool = true;
    const RISK: Risk = Risk::Innocuous;

    fn connect(_db: Db, engine: &Rc<Engine>) -> SqlResult<(String, Self)> {
        Ok(("CREATE TABLE x(unused)".into(), CaptureTable(Rc::clone(engine))))
    }

    fn best_index(&self, _info: &mut IndexInfo<'_>) -> SqlResult<()> {
        self.0.hush.lift(self.0.db);
        Ok(())
    }

    fn open(&self) -> SqlResult<NoRows> {
        Ok(NoRows)
    }

    fn update(&self, _change: Change<'_>) -> SqlResult<i64> {
        Ok(0)
    }

    fn begin(&self) -> SqlResult<()> {
        self.0.on_begin();
        Ok(())
    }

    fn sync(&self) -> SqlResult<()> {
        Ok(self.0.on_sync()?)
    }

    fn commit(&self) -> SqlResult<()> {
        self.0.on_commit();
        Ok(())
    }

    fn rollback(&self) -> SqlResult<()> {
        self.0.on_rollback();
        Ok(())
    }

    fn savepoint(&self, n: i32) -> SqlResult<()> {
        Ok(self.0.on_savepoint(n)?)
    }

    fn release(&self, n: i32) -> SqlResult<()> {
        Ok(self.0.on_release(n)?)
    }

    fn rollback_to(&self, n: i32) -> SqlResult<()> {
        Ok(self.0.on_rollback_to(n)?)
    }
}

impl VTabCursor for NoRows {
    fn filter(&mut self, _n: i32, _s: Option<&str>, _args: Args<'_>) -> SqlResult<()> {
        Ok(())
    }

    fn next(&mut self) -> SqlResult<()> {
        Ok(())
    }

    fn eof(&self) -> bool {
        true
    }

    fn column(&self, _ctx: &mut Context, _i: i32) -> SqlResult<()> {
        Ok(())
    }

    fn rowid(&self) -> SqlResult<i64> {
        Ok(0)
    }
}
