//! A call before the connection closes.
//!
//! `sqlite3_close` refuses (SQLITE_BUSY) while statements are open, and drops the state of functions and modules
//! only afterwards: statements kept in that state would keep the connection open for ever. Before it counts
//! statements, though, it disconnects every virtual table. So a virtual table whose only deed is to be
//! disconnected is the place to let go of them.
//!
//! The table must not be named in a statement that is kept: that statement would hold the table.

use std::rc::Rc;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::function::Context;
use crate::value::Args;
use crate::vtab::{IndexInfo, ModuleKind, VTab, VTabCursor};

struct Hook<S> {
    state: Rc<S>,
    call: fn(&S),
}

/// The connected table; its end is the call.
struct Closing<S>(Rc<Hook<S>>);

impl<S> Drop for Closing<S> {
    fn drop(&mut self) {
        (self.0.call)(&self.0.state);
    }
}

impl Db {
    /// Registers under `name` a call that, once armed, happens when the connection is about to close. It touches no file.
    pub fn create_close_hook<S: 'static>(&self, name: &str, state: Rc<S>, f: fn(&S)) -> Result<()> {
        let hook = Rc::new(Hook { state, call: f });
        self.create_module::<Hook<S>, Closing<S>>(name, ModuleKind::EponymousOnly, hook)
    }

    /// Arms the hook: to be called (again) whenever statements are kept from now on. It reads the schema, so not
    /// before the host has keyed its file.
    pub fn arm_close_hook(&self, name: &str) -> Result<()> {
        let name = name.replace('"', "\"\"");
        self.prepare_transient(&format!("SELECT 1 FROM \"{name}\"")).map(drop)
    }
}

impl<S: 'static> VTab<Hook<S>> for Closing<S> {
    type Cursor = Nothing;

    fn connect(_db: Db, hook: &Rc<Hook<S>>) -> Result<(String, Self)> {
        Ok(("CREATE TABLE x(empty)".to_owned(), Self(Rc::clone(hook))))
    }

    fn best_index(&self, _info: &mut IndexInfo<'_>) -> Result<()> {
        Ok(())
    }

    fn open(&self) -> Result<Nothing> {
        Ok(Nothing)
    }
}

struct Nothing;

impl VTabCursor for Nothing {
    fn filter(&mut self, _idx_num: i32, _idx_str: Option<&str>, _args: Args<'_>) -> Result<()> {
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        Ok(())
    }

    fn eof(&self) -> bool {
        true
    }

    fn column(&self, _ctx: &mut Context, _i: i32) -> Result<()> {
        Err(Error::msg("the table is empty"))
    }

    fn rowid(&self) -> Result<i64> {
        Err(Error::msg("the table is empty"))
    }
}
