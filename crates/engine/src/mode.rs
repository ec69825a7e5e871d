//! Shared and owned files.
//!
//! A file says in its metadata how its changes are captured:
//!
//! - *shared*, the default: by triggers in the file. Any connection with Rejoin may write; one without cannot write to
//!   a replicated table.
//! - *owned*: by the preupdate hook of the one program that opens the file, without triggers. Faster, and it sees blobs
//!   written in place; but nothing in the file holds off other writers. A connection of SQLite alone writes unnoticed:
//!   `verify` finds the rows that differ from their metadata, `repair` takes over rows that came and went, and what
//!   became of single values nobody can tell. The extension has no hook; there an owned file can be read, and writing
//!   is refused (see `unhooked.rs`).
//!
//! `SELECT crsql_config_set('mode', 'owned')` drops all capture triggers in one transaction, `'shared'` makes them again
//! after comparing every table with its metadata. Other connections must be closed for it: one that is open goes on in
//! the old mode until it next looks at the schema.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::hook::Hook;
use rejoin_sqlite::ValueRef;

pub fn set(engine: &Engine, value: ValueRef<'_>) -> Result<()> {
    let owned = match value {
        ValueRef::Text(b"owned") => true,
        ValueRef::Text(b"shared") => false,
        _ => {
            let why = "mode is 'shared' or 'owned'".into();
            return Err(Error::BadArgument { function: "crsql_config_set", why });
        }
    };
    if owned && !Hook::AVAILABLE {
        return Err(Error::State {
            why: "this build of Rejoin has no preupdate hook and cannot own a file; use the library that has it".into(),
        });
    }
    engine.make_ready()?;
    {
        let mut core = engine.core()?;
        core.refresh(false)?;
        if core.cfg.owned == owned {
            return Ok(());
        }
    }
    if !engine.db.is_autocommit() {
        let why = "the mode of a file is set outside of transactions: COMMIT first".into();
        return Err(Error::State { why });
    }
    let done = engine.scoped("crsql_mode", || convert(engine, owned));
    if done.is_err() {
        // The file is in its old mode again.
        engine.core()?.refresh(false)?;
    }
    done
}

fn convert(engine: &Engine, owned: bool) -> Result<()> {
    engine.join()?;
    engine.flush()?;
    let mut core = engine.core()?;
    core.set_meta("mode", ValueRef::Text(if owned { b"owned" } else { b"shared" }))?;
    core.cfg.owned = owned;
    for t in core.catalog.sorted() {
        if owned {
            core.drop_triggers(t.id)?;
        } else {
            core.resync(&t)?;
            core.install_triggers(&t)?;
        }
    }
    core.settle()?;
    drop(core);
    engine.reload_catalog()
}
