//! The Rust API: a connection whose replicated tables meet those of others.

use crate::apply;
use crate::changeset::make;
use crate::copies;
use crate::cut::Reader;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::observe::Commit;
use crate::{Applied, Report, SiteId, Status, VersionVector};
use rejoin_sqlite::{Db, ValueRef, ffi};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::rc::Rc;

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Make the file if there is none.
    pub create: bool,
    /// Only reading: nothing that the file has is changed, not even its metadata. A transaction that a dead writer left
    /// unfinished is taken back, if that can be done.
    pub read_only: bool,
    /// Make the file this program's own, if it is not yet: no other program may write to it, and its changes are
    /// captured without triggers. Another connection must not be open on it.
    pub owned: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { create: true, read_only: false, owned: false }
    }
}

/// One replica: a database connection with the engine on it.
///
/// Reads and writes go through [`Replica::connection`] as ever; what is written to a replicated table is captured.
pub struct Replica {
    pub(crate) engine: Rc<Engine>,
    conn: Connection,
}

impl Replica {
    /// Opens a file, making it if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Replica> {
        Replica::open_with(path, Options::default())
    }

    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Replica> {
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        flags |= if options.read_only {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE
        };
        if options.create && !options.read_only {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let path = path.as_ref();
        let open = || Replica::attach(Connection::open_with_flags(path, flags)?);
        let replica = match open() {
            Err(Error::Sqlite(e)) if options.read_only && e.code == ffi::SQLITE_READONLY_ROLLBACK => {
                // A writer died in the middle of a transaction. What it left can be taken back only by one who may write.
                take_back(path).map_err(|_| Error::Sqlite(e))?;
                open()
            }
            other => other,
        }?;
        if options.owned {
            crate::mode::set(&replica.engine, ValueRef::Text(b"owned"))?;
        }
        Ok(replica)
    }

    /// The engine on a connection that the host has opened in its own way, and keyed if it is encrypted.
    ///
    /// An owned file takes the connection's preupdate hook, and is refused if something else has it.
    pub fn attach(conn: Connection) -> Result<Replica> {
        let engine = Db::with(&conn, Engine::register)?;
        engine.watch()?;
        let replica = Replica { engine, conn };
        // A file that is busy just now is asked again with the first call.
        let _ = replica.changed_outside();
        Ok(replica)
    }

    /// A clock of the caller's, Unix milliseconds: for tests.
    #[doc(hidden)]
    pub fn set_clock(&self, now_ms: fn() -> i64) -> Result<()> {
        self.engine.core()?.now_ms = now_ms;
        Ok(())
    }

    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }

    /// The connection, with the SQL functions still on it.
    pub fn into_connection(self) -> Connection {
        self.conn
    }

    /// Makes a table replicated, with the rows that it has; `crsql_as_crr`.
    pub fn replicate(&self, table: &str) -> Result<()> {
        writing(&self.engine, || crate::alter::as_crr(&self.engine, table))
    }

    /// Takes notice of what DDL of other programs did to replicated tables: names and columns are followed, and the
    /// triggers of tables that were rebuilt without `crsql_as_crr`, whose writes nobody sees meanwhile, are put back, with
    /// the rows that came and went. Whatever writes here does that, too: this is for who only reads, and writes only if
    /// there is something to follow.
    pub fn watch_again(&self) -> Result<()> {
        let behind = self.reading(|e| {
            let core = e.core()?;
            let unwatched = core.catalog.sorted().iter().any(|t| t.unwatched);
            let followed = core.cfg.schema == core.catalog.cookie || e.db.is_readonly();
            Ok(core.ready && (unwatched || !followed))
        })?;
        if behind { crate::session::settled(&self.engine, |_| Ok(())) } else { Ok(()) }
    }

    /// The id under which this replica writes.
    pub fn site_id(&self) -> Result<SiteId> {
        self.engine.make_ready()?;
        self.reading(|e| Ok(e.core()?.own_site()))
    }

    /// Writes under another id from here on: for a copy of a file, which must not write under the id of the original.
    pub fn new_site_id(&self) -> Result<SiteId> {
        writing(&self.engine, || copies::new_site(&self.engine))
    }

    /// Writes under another id from here on, because the file was rolled back to an older state: what it wrote under the old
    /// id, and may have back from others, stays its own ([`crate::CutRequest::own_only`]).
    pub fn renew_site_id(&self) -> Result<SiteId> {
        writing(&self.engine, || copies::renew_site(&self.engine))
    }

    /// Every id under which this replica has written, the present one last.
    pub fn own_sites(&self) -> Result<Vec<SiteId>> {
        self.engine.make_ready()?;
        self.reading(|e| Ok(e.core()?.own_sites()))
    }

    /// The last committed version, as `crsql_db_version()`.
    pub fn db_version(&self) -> Result<i64> {
        self.reading(|e| {
            let core = e.core()?;
            Ok(if core.txn.joined { core.txn.base_db_version } else { core.tail.db_version })
        })
    }

    /// Which transactions of which sites are held here.
    pub fn vector(&self) -> Result<VersionVector> {
        self.reading(|e| Ok(e.core()?.vector.clone()))
    }

    /// A changeset of everything after a local version, for one who has all up to it; `crsql_changeset`. It may bring
    /// nothing. A replica with a server leaves its own transactions out until the server has acknowledged them.
    pub fn changeset_since(&self, db_version: i64) -> Result<Vec<u8>> {
        Ok(make(&self.engine, Reader::Since(db_version, None))?.bytes)
    }

    /// A changeset of what a replica with this vector lacks; None: nothing. As with [`Replica::changeset_since`],
    /// the server comes first; for it, and for its clients, there is [`Replica::cut_for`].
    pub fn changeset_for(&self, theirs: &VersionVector) -> Result<Option<Vec<u8>>> {
        let made = make(&self.engine, Reader::Vector(theirs))?;
        Ok((made.versions > 0).then_some(made.bytes))
    }

    /// Applies a changeset of somebody who is not trusted, if `checker` and the tables allow all of it; nothing of it
    /// otherwise. A changeset that is malformed, poisonous, forked or does not follow what is here is an error, and the
    /// site ids of this replica are left alone whatever it says.
    pub fn apply_checked(&self, bytes: &[u8], checker: &mut dyn crate::Checker) -> Result<crate::Checked> {
        writing(&self.engine, || crate::checked::apply(&self.engine, bytes, checker))
    }

    /// Records versions of other sites that were rejected here and given up there: they count as held, and nothing is in
    /// them. Those that are held already are left as they are. Answers how many were new.
    pub fn void(&self, voids: &[crate::Void]) -> Result<u64> {
        writing(&self.engine, || crate::void::record(&self.engine, voids))
    }

    /// The first transaction that is held here with what is in it, and void where this changeset was made
    /// ([`crate::CutRequest::voids`]): the file is a copy from before it was rejected, or has it from another client. What is
    /// built on it is not what the others have, and only starting over from a snapshot leads back.
    pub fn holds_void(&self, changeset: &[u8]) -> Result<Option<(SiteId, u64)>> {
        self.reading(|e| crate::void::held(e, changeset))
    }

    /// Everything that is known here of some rows, for one who is to adopt it ([`Replica::adopt`]) or to merge it
    /// ([`Replica::merge_rows`]). A row that is not known here is said not to be.
    pub fn row_states(&self, rows: &[crate::RowKey]) -> Result<Vec<u8>> {
        crate::rowstate::make(&self.engine, rows)
    }

    /// Takes back what the server has rejected: moves it, and what was written later to the same rows, to `crsql_rejected`,
    /// makes these transactions void, and puts every row that they touched into the server's state, with what else was
    /// written here and the server lacks merged on top. One commit; nothing is done while states are lacking
    /// ([`crate::Adopted::wanted`]). What was adopted before is answered again.
    ///
    /// `rows` are row states of the server, made after it rejected; of a row that is in several the last counts. The caller
    /// answers for the sites: only transactions of sites that are or were this replica's own can be given up.
    pub fn adopt(&self, rejections: &[crate::Rejection], rows: &[&[u8]]) -> Result<crate::Adopted> {
        writing(&self.engine, || crate::adopt::adopt(&self.engine, rejections, rows))
    }

    /// Merges the server's state of rows, also cells of transactions that are held here and lost a comparison that
    /// would end otherwise now. Answers how many rows changed.
    pub fn merge_rows(&self, rows: &[u8]) -> Result<u64> {
        writing(&self.engine, || crate::adopt::merge_rows(&self.engine, rows))
    }

    /// After the clock was found wrong: stamps the own transactions that `acknowledged` lacks anew, `shift_ms` later than
    /// they are, and adds `shift_ms` to the clock from here on. Answers the rows whose state the server is to be asked for
    /// and that are to be merged then ([`Replica::rows_wanted`]).
    pub fn restamp(&self, acknowledged: &VersionVector, shift_ms: i64) -> Result<Vec<crate::RowKey>> {
        writing(&self.engine, || crate::restamp::restamp(&self.engine, acknowledged, shift_ms))
    }

    /// The rows that the server is to be asked for, and whose state is to be merged ([`Replica::merge_rows`]): they were stamped
    /// anew, or lost what the server did not have when it told of them. While there are any, the replica is not in sync.
    pub fn rows_wanted(&self) -> Result<Vec<crate::RowKey>> {
        self.reading(|e| e.core()?.rows_wanted())
    }

    /// The time as the server tells it, Unix milliseconds: the machine's clock and the offset in the file.
    pub fn now_ms(&self) -> Result<i64> {
        self.reading(|e| Ok(e.core()?.now()))
    }

    /// How far the server's clock is ahead of this machine's, as the file has it.
    pub fn clock_offset_ms(&self) -> Result<i64> {
        self.reading(|e| Ok(e.core()?.cfg.clock_offset_ms))
    }

    /// Corrects the clock from here on; what is written stays as it is.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) -> Result<()> {
        crate::session::settled(&self.engine, |core| crate::restamp::set_offset(core, offset_ms))
    }

    /// What this replica wrote and its server did not take; `crsql_rejected`.
    pub fn rejected(&self) -> Result<Vec<crate::RejectedCell>> {
        self.reading(crate::rejected::all)
    }

    /// Writes a rejected transaction's values again, as a new transaction, and forgets the old one;
    /// `crsql_rejected_retry`. The site need be named only where two sites have that version.
    pub fn retry_rejected(&self, version: u64, site: Option<SiteId>) -> Result<u64> {
        writing(&self.engine, || crate::rejected::retry(&self.engine, version, site))
    }

    /// Forgets a rejected transaction; `crsql_rejected_drop`.
    pub fn drop_rejected(&self, version: u64, site: Option<SiteId>) -> Result<u64> {
        writing(&self.engine, || crate::rejected::drop(&self.engine, version, site))
    }

    /// Applies a changeset whole, or not at all if it is refused: [`Error::Gap`] says that it was made for a replica
    /// that has more than this one, and that one made for [`Replica::vector`] is needed.
    pub fn apply_changeset(&self, bytes: &[u8]) -> Result<Applied> {
        writing(&self.engine, || apply::apply(&self.engine, bytes, apply::Options::default()))
    }

    /// Gives each what the other has; what came of it here and there. Lineage does not matter, and of two histories under
    /// one site id, which a copied file brings about, one goes on under an id of its own.
    pub fn merge_with(&self, other: &Replica) -> Result<(Applied, Applied)> {
        if self.site_id()? == other.site_id()? {
            other.new_site_id()?;
        }
        let options = apply::Options { any_lineage: true, ..apply::Options::default() };
        let take = |from: &Replica, to: &Replica| match from.changeset_for(&to.vector()?)? {
            Some(bytes) => match writing(&to.engine, || apply::apply(&to.engine, &bytes, options)) {
                Err(Error::Gap { .. }) if from.server()?.is_some() => {
                    Err(Error::Unsent { transactions: from.pending()?.transactions })
                }
                done => done,
            },
            None => Ok(Applied::default()),
        };
        self.part_from(other)?;
        let here = take(other, self)?;
        Ok((here, take(self, other)?))
    }

    /// Settles the forks between two replicas.
    fn part_from(&self, other: &Replica) -> Result<()> {
        let theirs = other.vector()?;
        for (site, ours) in self.vector()?.iter().filter(|(site, _)| theirs.ranges(site).is_some()) {
            let last = ours.max().min(theirs.max(site));
            let at = |r: &Replica| copies::chain_at(&r.engine, *site, last);
            if at(self)?.is_some_and(|mine| at(other).is_ok_and(|theirs| theirs == Some(mine))) {
                continue;
            }
            let (mine, others) =
                (copies::chains(&self.engine, *site)?, copies::chains(&other.engine, *site)?);
            if let Some((common, we)) = copies::parting(&mine, &others) {
                let loser = if we { self } else { other };
                loser.give_way(*site, common)?;
            }
        }
        Ok(())
    }

    /// What of `site` came after version `common` goes on under this replica's own id, a new one if the site is its own:
    /// the way out of [`Error::Fork`] between two replicas neither of which is that site. The side with the smaller chain hash
    /// gives way.
    pub fn give_way(&self, site: SiteId, common: u64) -> Result<()> {
        writing(&self.engine, || copies::give_way(&self.engine, site, common))
    }

    /// Calls `f` with each committed transaction that changed a replicated table, merged ones included. It is called
    /// from inside the COMMIT and must not use this connection: let it send a message.
    pub fn observe(&self, f: impl Fn(&Commit) + 'static) -> Result<()> {
        self.engine.core()?.observing = true;
        self.engine.observers.borrow_mut().push(Box::new(f));
        Ok(())
    }

    /// Calls `f` with each commit of this connection that brings a transaction of this replica's own: there is something to
    /// send. In the same place as what [`Replica::observe`] calls; nothing is remembered of the rows for it.
    pub fn on_local_commit(&self, f: impl Fn() + 'static) -> Result<()> {
        self.engine.core()?;
        self.engine.local_observers.borrow_mut().push(Box::new(f));
        Ok(())
    }

    /// What this replica is and holds: site, versions, settings, tables and parked changes.
    pub fn status(&self) -> Result<Status> {
        crate::status::status(&self.engine)
    }

    /// Compares the metadata with the tables and with itself; changes nothing.
    pub fn verify(&self) -> Result<Report> {
        crate::verify::verify(&self.engine)
    }

    /// Repairs what `verify` finds, as far as that can be done, in one transaction. The report says what is left.
    pub fn repair(&self) -> Result<Report> {
        writing(&self.engine, || crate::verify::repair(&self.engine))
    }

    /// Runs `f` on what the connection sees now.
    pub(crate) fn reading<R>(&self, f: impl FnOnce(&Engine) -> Result<R>) -> Result<R> {
        self.engine.scoped("crsql_read", || {
            self.engine.core()?.refresh(false)?;
            f(&self.engine)
        })
    }
}

/// Reads with the right to write, which rolls back what a rollback journal says is unfinished.
fn take_back(path: &Path) -> rusqlite::Result<()> {
    let flags =
        OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_READ_WRITE;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))
}

/// Runs `f` with the write lock held from the start. SQLite does not wait for another writer once a transaction has
/// read something, so one that is going to write must not begin by reading.
pub(crate) fn writing<R>(engine: &Engine, f: impl FnOnce() -> Result<R>) -> Result<R> {
    if !engine.db.is_autocommit() {
        return f();
    }
    engine.exec_kept("BEGIN IMMEDIATE")?;
    // What failed has taken itself back; what is to stand nonetheless (a new site id) is committed.
    let done = f();
    let ended = if engine.db.is_autocommit() { Ok(()) } else { engine.exec_kept("COMMIT") };
    if ended.is_err() {
        let _ = engine.db.exec("ROLLBACK");
    }
    let done = done?;
    ended?;
    Ok(done)
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("file", &self.conn.path()).finish_non_exhaustive()
    }
}

/// An error of the host's own SQL, for callers who want one error type.
impl From<Error> for rusqlite::Error {
    fn from(e: Error) -> rusqlite::Error {
        let code = rusqlite::ffi::Error::new(e.code());
        rusqlite::Error::SqliteFailure(code, Some(e.to_string()))
    }
}

/// The quick start of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
