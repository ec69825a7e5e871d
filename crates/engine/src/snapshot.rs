//! Snapshots: a consistent copy of the file while others write, to be handed to new replicas.
//!
//! A snapshot is an ordinary database in rollback mode. `crsql_meta.snapshot` says that nobody writes under its site id,
//! which was made for it: whoever first opens it for writing, as [`Replica::from_snapshot`] or by mistake as an ordinary file,
//! puts an id of its own in its place, in the transaction that it begins with. So a snapshot can be handed out many times.

use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::replica::{Options, Replica, writing};
use crate::session::settled;
use crate::{SiteId, VersionVector};
use rejoin_sqlite::{Db, ValueRef};
use rusqlite::Connection;
use std::path::Path;

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Size of the file.
    pub bytes: u64,
    /// The transactions that are in it.
    pub vector: VersionVector,
    /// Below it, what was deleted is forgotten in it.
    pub horizon: VersionVector,
    pub db_version: i64,
}

/// What a copy must not take along: it is known of this file, not of the data.
const OWN_NAMES: &str = "DELETE FROM main.crsql_meta WHERE name GLOB 'server-*' OR name IN ('clock-offset', 'former-sites'); \
     DELETE FROM main.crsql_rejected; DELETE FROM main.crsql_wanted";

impl Replica {
    /// Writes a consistent copy of what is committed to a new file, without the tables named in `strip` (those that are there), and
    /// leaves nothing of them in it. Others can write meanwhile if the file is in WAL mode. Whatever the mode of the
    /// file, the copy is a shared one. If it fails, there is no file.
    ///
    /// A table that is replicated cannot be stripped.
    pub fn snapshot_to(&self, path: impl AsRef<Path>, strip: &[&str]) -> Result<Snapshot> {
        let path = path.as_ref();
        self.engine.make_ready()?;
        if !self.engine.db.is_autocommit() {
            return Err(Error::State {
                why: "a snapshot is made outside of transactions: COMMIT first".into(),
            });
        }
        for table in strip {
            let core = self.engine.core()?;
            if core.catalog.find(table).is_some() || table.to_ascii_lowercase().starts_with("crsql_") {
                let why = format!("table \"{table}\" is a part of what is replicated");
                return Err(Error::BadArgument { function: "snapshot_to", why });
            }
        }
        if path.exists() {
            let why = format!("{} is there already", path.display());
            return Err(Error::BadArgument { function: "snapshot_to", why });
        }
        let target = path.to_str().ok_or_else(|| Error::BadArgument {
            function: "snapshot_to",
            why: "the path is not valid Unicode".into(),
        })?;
        let made = copy(&self.engine.db, target).and_then(|()| finish(path, strip));
        if made.is_err() {
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Opens a snapshot as a new replica, under a site id of its own.
    pub fn from_snapshot(path: impl AsRef<Path>) -> Result<Replica> {
        let path = path.as_ref();
        let replica = Replica::open_with(path, Options { create: false, ..Options::default() })?;
        let is_snapshot = replica.reading(|e| {
            let core = e.core()?;
            Ok(core.ready && core.cfg.snapshot)
        })?;
        if !is_snapshot {
            return Err(Error::State { why: format!("{} is not a snapshot", path.display()) });
        }
        writing(&replica.engine, || replica.engine.make_ready())?;
        Ok(replica)
    }
}

fn copy(db: &Db, target: &str) -> Result<()> {
    let mut q = db.prepare_transient("VACUUM main INTO ?1")?;
    Ok(q.run(&[ValueRef::Text(target.as_bytes())])?)
}

/// Makes a snapshot of a fresh copy.
fn finish(path: &Path, strip: &[&str]) -> Result<Snapshot> {
    let conn = Connection::open(path)?;
    // One sync at the end will do: nobody knows the file yet.
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA secure_delete = ON; PRAGMA foreign_keys = OFF")?;
    for table in strip.iter().chain(&["crsql_replicas"]) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(table)))?;
    }
    let copy = Replica::attach(conn)?;
    settled(&copy.engine, |core| {
        core.take_new_site()?;
        core.set_meta("snapshot", ValueRef::Integer(1))?;
        core.db.exec(OWN_NAMES)?;
        core.share()
    })?;
    let snapshot = Snapshot {
        vector: copy.vector()?,
        horizon: copy.horizon()?,
        db_version: copy.db_version()?,
        ..Snapshot::default()
    };
    drop(copy);
    let io = |e: std::io::Error| Error::State { why: format!("{}: {e}", path.display()) };
    let file = std::fs::File::open(path).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(Snapshot { bytes: file.metadata().map_err(io)?.len(), ..snapshot })
}

impl Core {
    /// A copy of an owned file is a shared one: another program will open it.
    fn share(&mut self) -> Result<()> {
        if !self.cfg.owned {
            return Ok(());
        }
        self.set_meta("mode", ValueRef::Text(b"shared"))?;
        self.cfg.owned = false;
        for t in self.catalog.sorted() {
            self.install_triggers(&t)?;
        }
        self.settle()
    }

    /// This file was made as a snapshot: from here on it is a replica of its own.
    pub fn leave_snapshot(&mut self) -> Result<()> {
        if !self.cfg.snapshot || self.db.is_readonly() {
            return Ok(());
        }
        let id = SiteId(crate::schema::random_id()?);
        let mut q =
            self.db.prepare_transient("UPDATE main.crsql_sites SET site_id = ?1 WHERE ordinal = ?2")?;
        q.run(&[ValueRef::Blob(id.as_bytes()), ValueRef::Integer(i64::from(self.cfg.own))])?;
        self.db.exec("DELETE FROM main.crsql_meta WHERE name = 'snapshot'")?;
        self.sites.replace(self.cfg.own, id);
        self.cfg.snapshot = false;
        Ok(())
    }
}

impl Engine {
    /// Before anybody learns the site id of a snapshot.
    pub fn leave_snapshot(&self) -> Result<()> {
        if self.core()?.cfg.snapshot && !self.db.is_readonly() {
            self.scoped("crsql_copy", || {
                self.join()?;
                self.core()?.leave_snapshot()
            })?;
        }
        Ok(())
    }
}
