//! `crsql_tracked_peers` in a file that has no metadata yet: empty, and the first INSERT makes the table.
//!
//! The table itself, once it is there, hides this one: SQLite looks for a module of a table's name last. Not possible
//! here is UPSERT, which SQLite refuses on every virtual table.

use crate::engine::Engine;
use crate::error::Error;
use rejoin_sqlite::{
    Args, Change, Conflict, Context, Db, IndexInfo, ModuleKind, Result as SqlResult, Risk, VTab, VTabCursor,
    ValueRef,
};
use std::rc::Rc;

const NAME: &str = "crsql_tracked_peers";
const SCHEMA: &str = "CREATE TABLE x(site_id BLOB NOT NULL, version INTEGER NOT NULL, seq INTEGER DEFAULT 0, \
     tag INTEGER, event INTEGER)";

pub fn register(engine: &Rc<Engine>) -> crate::error::Result<()> {
    Ok(engine.db.create_module::<Engine, Peers>(NAME, ModuleKind::EponymousOnly, Rc::clone(engine))?)
}

struct Peers(Rc<Engine>);

struct NoRows;

impl VTab<Engine> for Peers {
    type Cursor = NoRows;
    const WRITABLE: bool = true;
    const RISK: Risk = Risk::Innocuous;

    fn connect(_db: Db, engine: &Rc<Engine>) -> SqlResult<(String, Self)> {
        Ok((SCHEMA.into(), Peers(Rc::clone(engine))))
    }

    fn best_index(&self, _info: &mut IndexInfo<'_>) -> SqlResult<()> {
        Ok(())
    }

    fn open(&self) -> SqlResult<NoRows> {
        Ok(NoRows)
    }

    fn update(&self, change: Change<'_>) -> SqlResult<i64> {
        // There are no rows here to update or delete.
        let Change::Insert { values, conflict, .. } = change else {
            return Ok(0);
        };
        self.0.make_ready()?;
        let or = match conflict {
            Conflict::Replace => "OR REPLACE",
            Conflict::Ignore => "OR IGNORE",
            _ => "",
        };
        let sql = format!(
            "INSERT {or} INTO main.{NAME}(site_id, version, seq, tag, event) VALUES (?1, ?2, coalesce(?3, 0), ?4, ?5)"
        );
        let values: Vec<ValueRef<'_>> = values.iter().map(|a| a.value()).collect();
        self.0.db.prepare_transient(&sql)?.run(&values)?;
        Ok(self.0.db.last_insert_rowid())
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
        Err(Error::damaged("no rows").into())
    }

    fn rowid(&self) -> SqlResult<i64> {
        Ok(0)
    }
}
