//! Builds without the preupdate hook (the extension) on owned files: they read, and refuse to write.
//!
//! Writes of this connection to replicated tables are refused by triggers in its temp schema, made when the file is
//! first looked at: by the first `crsql_` function or table. A connection that has used none of them yet is as blind as
//! one without Rejoin: a file that others may write to must be shared.

use crate::catalog::Table;
use crate::engine::Engine;
use crate::error::{Error, Result};
use rejoin_sqlite::Db;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[derive(Default)]
pub struct Hook {
    /// The tables that the temp triggers stand on.
    refused: RefCell<Vec<(u32, String)>>,
    owned: Cell<bool>,
}

pub const SENTENCE: &str = "this file is owned by one program, which captures its changes without triggers; write to it \
     there, or have it shared first: SELECT crsql_config_set(''mode'', ''shared'')";

impl Hook {
    pub const AVAILABLE: bool = false;

    pub fn bind(&self, _engine: &Rc<Engine>) {}

    pub fn follow(&self, db: Db, owned: bool, tables: &[Rc<Table>]) -> Result<()> {
        let now: Vec<(u32, String)> = match owned {
            true => tables.iter().map(|t| (t.id, t.quoted())).collect(),
            false => Vec::new(),
        };
        self.owned.set(owned);
        if *self.refused.borrow() == now {
            return Ok(());
        }
        for (id, _) in self.refused.take() {
            for op in ["insert", "update", "delete"] {
                db.exec(&format!("DROP TRIGGER IF EXISTS temp.crsql_refuse_{op}_{id}"))?;
            }
        }
        for (id, table) in &now {
            for op in ["insert", "update", "delete"] {
                db.exec(&format!(
                    "CREATE TEMP TRIGGER IF NOT EXISTS crsql_refuse_{op}_{id} BEFORE {op} ON {table} \
                     BEGIN SELECT RAISE(ABORT, '{SENTENCE}'); END"
                ))?;
            }
        }
        *self.refused.borrow_mut() = now;
        Ok(())
    }

    pub fn paused<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }

    pub fn take_deferred(&self) -> bool {
        false
    }

    pub fn begun(&self) {}

    pub fn end(&self) {}

    /// Nothing is committed that was not captured.
    pub fn failure(&self) -> Option<Error> {
        self.owned.get().then(|| Error::State { why: SENTENCE.replace("''", "'") })
    }
}
