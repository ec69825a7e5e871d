//! `crsql_unpack_columns(package)`: the columns of a packed key, one row each.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::functions::bad;
use crate::value::to_sql;
use rejoin_crdt::Value;
use rejoin_sqlite::{
    Args, ConstraintOp, Context, Db, IndexInfo, ModuleKind, Result as SqlResult, Risk, VTab, VTabCursor,
    ValueRef, ffi,
};
use std::rc::Rc;

const NAME: &str = "crsql_unpack_columns";
const CELL: i32 = 0;
const PACKAGE: i32 = 1;

pub fn register(engine: &Rc<Engine>) -> Result<()> {
    Ok(engine.db.create_module::<Engine, Unpack>(NAME, ModuleKind::EponymousOnly, Rc::clone(engine))?)
}

struct Unpack;

#[derive(Default)]
struct Cells {
    package: Vec<u8>,
    cells: Vec<Value>,
    at: usize,
}

impl VTab<Engine> for Unpack {
    type Cursor = Cells;
    const RISK: Risk = Risk::Innocuous;

    fn connect(_db: Db, _engine: &Rc<Engine>) -> SqlResult<(String, Self)> {
        Ok(("CREATE TABLE x(cell ANY, package BLOB HIDDEN)".into(), Unpack))
    }

    fn best_index(&self, info: &mut IndexInfo<'_>) -> SqlResult<()> {
        let mut waits = false;
        for c in info.constraints() {
            if c.column != PACKAGE || !matches!(c.op, ConstraintOp::Eq | ConstraintOp::Is) {
                continue;
            }
            if c.usable {
                info.use_constraint(c.index, 1, true);
                info.set_idx_num(1);
                info.set_cost(10.0);
                info.set_rows(3);
                return Ok(());
            }
            waits = true;
        }
        if waits {
            // The package comes from a table that this join order reads later: another order will do.
            return Err(rejoin_sqlite::Error::new(ffi::SQLITE_CONSTRAINT, ""));
        }
        // Without a package the scan says what is missing.
        info.set_cost(1e12);
        Ok(())
    }

    fn open(&self) -> SqlResult<Cells> {
        Ok(Cells::default())
    }
}

impl Cells {
    fn start(&mut self, plan: i32, args: Args<'_>) -> Result<()> {
        *self = Cells::default();
        if plan == 0 {
            return Err(bad(NAME, "needs a packed key: SELECT cell FROM crsql_unpack_columns(pk)"));
        }
        let packed = match args.get(0).value() {
            // As other table-valued functions: nothing comes of NULL.
            ValueRef::Null => return Ok(()),
            ValueRef::Blob(b) => b,
            _ => {
                return Err(bad(NAME, "the package must be a blob made by crsql_pack_columns"));
            }
        };
        self.cells = rejoin_crdt::key::unpack_owned(packed).map_err(|e| bad(NAME, e.to_string()))?;
        self.package = packed.to_vec();
        Ok(())
    }
}

impl VTabCursor for Cells {
    fn filter(&mut self, plan: i32, _s: Option<&str>, args: Args<'_>) -> SqlResult<()> {
        Ok(self.start(plan, args)?)
    }

    fn next(&mut self) -> SqlResult<()> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.cells.len()
    }

    fn column(&self, ctx: &mut Context, i: i32) -> SqlResult<()> {
        match i {
            CELL => {
                let cell = self.cells.get(self.at).ok_or_else(|| Error::damaged("cursor"))?;
                ctx.set(to_sql(cell.as_ref()));
            }
            PACKAGE => ctx.set_blob(&self.package),
            _ => {}
        }
        Ok(())
    }

    fn rowid(&self) -> SqlResult<i64> {
        Ok(self.at as i64)
    }
}
