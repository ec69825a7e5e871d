//! One connection's engine: the journal and the core behind SQLite's callbacks.
//!
//! **Invariant:** no borrow of `core` is held while a statement of the user's runs, except by a merge, whose
//! triggers find `core` busy and answer from `Cell`s or refuse.

use crate::capture::Capture;
use crate::core::Core;
use crate::digest::digest;
use crate::error::{Error, Result};
use crate::hook::Hook;
use crate::journal::{Event, Kind};
use crate::writers::Hush;
use rejoin_sqlite::{Db, Stmt, TxnState, ValueRef, ffi};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashSet;
use std::rc::Rc;

pub const CAPTURE_TABLE: &str = "crsql_capture_table";
const CLOSE_HOOK: &str = "crsql_close_hook";

/// Called with what a transaction changed, after it committed.
pub type Observer = Box<dyn Fn(&crate::observe::Commit)>;
pub type LocalObserver = Box<dyn Fn()>;

pub struct Engine {
    pub db: Db,
    pub core: RefCell<Core>,
    pub cap: RefCell<Capture>,
    pub hook: Rc<Hook>,
    joined: Cell<bool>,
    /// The transaction is that of one statement.
    alone: Cell<bool>,
    /// The schema may have changed since the last event.
    pub suspect: Cell<bool>,
    /// A savepoint was opened since we last looked: by a statement of several rows, or by DDL.
    announced: Cell<bool>,
    /// 1 while a merge writes to user tables.
    pub sync_bit: Cell<bool>,
    /// The table that a merge writes to right now.
    merging: Cell<Option<u32>>,
    suspended: RefCell<HashSet<u32>>,
    armed: Cell<bool>,
    /// Statements of `exec_kept`, by their text.
    kept: RefCell<Vec<(String, Stmt)>>,
    /// The transaction was rolled back, and what it left in memory still stands.
    lost: Cell<bool>,
    /// Why what the transaction owes could not be written: it must not be committed without.
    broken: RefCell<Option<Error>>,
    pub observers: RefCell<Vec<Observer>>,
    pub local_observers: RefCell<Vec<LocalObserver>>,
    pub hush: Hush,
}

impl Engine {
    pub fn register(db: Db) -> Result<Rc<Engine>> {
        let hook = Rc::new(Hook::default());
        let core = Core::new(db, Rc::clone(&hook));
        let engine = Rc::new(Engine {
            db,
            hush: core.writers.hush(),
            core: RefCell::new(core),
            cap: RefCell::default(),
            hook,
            joined: Cell::new(false),
            alone: Cell::new(false),
            suspect: Cell::new(false),
            announced: Cell::new(false),
            sync_bit: Cell::new(false),
            merging: Cell::new(None),
            suspended: RefCell::default(),
            armed: Cell::new(false),
            kept: RefCell::default(),
            lost: Cell::new(false),
            broken: RefCell::default(),
            observers: RefCell::default(),
            local_observers: RefCell::default(),
        });
        engine.hook.bind(&engine);
        crate::functions::register(&engine)?;
        crate::changes::register(&engine)?;
        crate::vtab::register(&engine)?;
        crate::unpack::register(&engine)?;
        crate::peers::register(&engine)?;
        db.create_close_hook(CLOSE_HOOK, Rc::clone(&engine), |e| e.close())?;
        Ok(engine)
    }

    /// Before the first statement is kept: see `create_close_hook`.
    pub fn arm(&self) -> Result<()> {
        if !self.armed.replace(true) {
            self.db.arm_close_hook(CLOSE_HOOK)?;
        }
        Ok(())
    }

    fn close(&self) {
        self.armed.set(false);
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.close();
        }
        if let Ok(mut cap) = self.cap.try_borrow_mut() {
            cap.forget_statements();
        }
        self.kept.take();
    }

    pub fn is_merging(&self, tbl: u32) -> bool {
        self.merging.get() == Some(tbl)
    }

    pub fn is_suspended(&self, tbl: u32) -> Result<bool> {
        if self.suspended.borrow().is_empty() {
            return Ok(false);
        }
        let mut core = self.core()?;
        if core.stale {
            // A ROLLBACK TO may have undone begin_alter.
            core.refresh(true)?;
            self.suspended.borrow_mut().clone_from(&core.suspended);
        }
        Ok(self.suspended.borrow().contains(&tbl))
    }

    /// Between begin_alter and commit_alter writes to the table are not captured.
    pub fn suspend(&self, core: &mut Core, tbl: u32, on: bool) -> Result<()> {
        if on {
            core.suspended.insert(tbl);
        } else {
            core.suspended.remove(&tbl);
        }
        self.suspended.borrow_mut().clone_from(&core.suspended);
        let ids: Vec<String> = core.suspended.iter().map(u32::to_string).collect();
        core.set_meta("altering", ValueRef::Text(ids.join(",").as_bytes()))
    }

    pub fn is_joined(&self) -> bool {
        self.joined.get()
    }

    /// Runs `f` as a merge's write to `tbl`: its own triggers are not captured, others see the sync bit.
    pub fn merging<R>(&self, tbl: u32, f: impl FnOnce() -> R) -> R {
        let (table, bit) = (self.merging.replace(Some(tbl)), self.sync_bit.replace(true));
        let result = f();
        self.merging.set(table);
        self.sync_bit.set(bit);
        result
    }

    pub fn core(&self) -> Result<RefMut<'_, Core>> {
        self.arm()?;
        self.forget_lost();
        self.core.try_borrow_mut().map_err(|_| Error::State {
            why: "this cannot be called from a trigger while a merge writes to the table".into(),
        })
    }

    /// Whether all that is known of the file holds: this connection has the write lock, and no savepoint was announced
    /// since the last look, as DDL does.
    pub fn is_settled(&self) -> Result<bool> {
        if !self.joined.get() {
            return Ok(false);
        }
        let mut core = self.core()?;
        if !core.ready || core.stale || core.catalog_stale {
            return Ok(false);
        }
        if self.suspect.get() {
            let cookie = core.cookie()?;
            let same = cookie == core.catalog.cookie && cookie == self.cap.borrow().catalog.cookie;
            self.suspect.set(!same);
        }
        Ok(!self.suspect.get())
    }

    /// What the file's mode demands before the connection's first write: the hook, in an owned file.
    pub fn watch(&self) -> Result<()> {
        match self.core()?.refresh(false) {
            // Told with the first call that needs to read the metadata.
            Err(Error::NeedsUpgrade | Error::TooNew { .. }) => Ok(()),
            // It is to be repaired through this connection; a shared file's triggers refuse writes meanwhile.
            Err(Error::Damaged { .. }) if !self.says_owned()? => Ok(()),
            other => other,
        }
    }

    fn says_owned(&self) -> Result<bool> {
        let mut q = self.db.prepare_transient("SELECT value FROM main.crsql_meta WHERE name = 'mode'")?;
        Ok(q.step()? && q.column_text(0) == b"owned")
    }

    /// Joins the write transaction: from here on its end is told to the engine.
    pub fn join(&self) -> Result<()> {
        if self.joined.get() {
            return Ok(());
        }
        self.join_with(true)?;
        let mut core = self.core()?;
        // Triggers of the user's may write to other tables while parked values are applied.
        core.resync_rebuilt()?;
        crate::rowwise::apply_parked(self, &mut core)
    }

    /// Joins, and writes nothing else unless it may: the preupdate hook's caller is about to write a row, and a cursor
    /// of its does not survive everything that writing may lead to.
    pub fn join_with(&self, may_write: bool) -> Result<()> {
        self.arm()?;
        let sql = format!("DELETE FROM {CAPTURE_TABLE} WHERE 0");
        if self.db.txn_state() == TxnState::None {
            // SQLite does not wait for another writer once a transaction has read: the lock comes first.
            self.db.prepare_transient(&sql)?.step()?;
        }
        let cookie = self.core()?.cookie()?;
        let statement = self.cap.borrow_mut().join.take().filter(|j| j.0 == cookie);
        let mut statement = match statement.map(|j| j.1) {
            Some(s) => s,
            None => self.db.prepare(&sql)?,
        };
        let done = statement.step();
        statement.reset();
        done?;
        let mut cap = self.cap.borrow_mut();
        cap.join = Some((cookie, statement));
        let mut core = self.core()?;
        if !self.joined.get() {
            return Err(Error::State { why: "a write needs a transaction".into() });
        }
        if let Err(e) = core.begin(may_write) {
            self.joined.set(false);
            return Err(e);
        }
        cap.set_catalog(Rc::clone(&core.catalog), core.cfg.file_id, core.cfg.hash_key);
        self.suspect.set(false);
        self.announced.set(false);
        Ok(())
    }

    /// Whether to look: for events that need the columns, whenever DDL may have been; for others, when a savepoint ended
    /// in which no event was heard.
    pub fn should_look(&self, columns: bool) -> bool {
        self.suspect.get() || columns && self.announced.get()
    }

    /// Looks whether the schema changed since the last event, if that may be. DDL in an open transaction announces a
    /// savepoint to all joined tables, as statements of several rows do, and every statement on a table with triggers.
    pub fn look(&self, may_write: bool) -> Result<()> {
        self.suspect.set(false);
        self.announced.set(false);
        let Ok(mut core) = self.core.try_borrow_mut() else {
            // A merge is at work, which changes no schema.
            self.suspect.set(true);
            return Ok(());
        };
        if !core.stale && !core.catalog_stale && core.cookie()? == self.cap.borrow().catalog.cookie {
            return Ok(());
        }
        core.refresh(may_write)?;
        let mut cap = self.cap.borrow_mut();
        cap.set_catalog(Rc::clone(&core.catalog), core.cfg.file_id, core.cfg.hash_key);
        Ok(())
    }

    /// The schema changed inside the transaction.
    pub fn reload_catalog(&self) -> Result<()> {
        let mut core = self.core()?;
        core.refresh(true)?;
        let mut cap = self.cap.borrow_mut();
        cap.set_catalog(Rc::clone(&core.catalog), core.cfg.file_id, core.cfg.hash_key);
        Ok(())
    }

    /// Makes the metadata tables where there are none.
    pub fn make_ready(&self) -> Result<()> {
        let mut core = self.core()?;
        core.refresh(false)?;
        if core.ready {
            drop(core);
            return self.leave_snapshot();
        }
        drop(core);
        // Joined, so that a rollback is heard of.
        let make = || {
            let made = self.core()?.ensure_ready();
            made.and_then(|()| self.join())
        };
        match self.scoped("crsql_init", make) {
            // A statement that writes allows no savepoint inside it; it is one itself.
            Err(Error::Sqlite(e)) if e.code & 0xff == ffi::SQLITE_BUSY && !self.core()?.ready => {
                let made = make();
                self.core()?.stale |= made.is_err();
                made
            }
            other => other,
        }
    }

    /// Runs a statement without parameters and keeps it: compiling takes five times as long as what these do.
    pub fn exec_kept(&self, sql: &str) -> Result<()> {
        self.arm()?;
        let found = {
            let mut kept = self.kept.borrow_mut();
            kept.iter().position(|k| k.0 == sql).map(|i| kept.swap_remove(i))
        };
        let (sql, mut statement) = match found {
            Some(found) => found,
            None => (sql.to_owned(), self.db.prepare(sql)?),
        };
        // What it calls back may come here, too.
        let done = statement.run(&[]);
        self.kept.borrow_mut().push((sql, statement));
        Ok(done?)
    }

    /// Runs `f` whole or not at all.
    pub fn scoped<R>(&self, name: &str, f: impl FnOnce() -> Result<R>) -> Result<R> {
        self.exec_kept(&format!("SAVEPOINT {name}"))?;
        let done = f().and_then(|result| {
            self.exec_kept(&format!("RELEASE {name}"))?;
            Ok(result)
        });
        if done.is_err() {
            self.undo(name);
        }
        done
    }

    /// Takes back what was done since a savepoint, because of an error, which is the one to tell.
    pub fn undo(&self, name: &str) {
        // A transaction that SQLite ended itself has no savepoint left.
        let _ = self.db.exec(&format!("ROLLBACK TO {name}; RELEASE {name}"));
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.stale = true;
        }
    }

    /// Large simple transactions take a shorter way.
    fn bulk(&self, core: &mut Core) -> Result<()> {
        let mut cap = self.cap.borrow_mut();
        if cap.journal.digested < cap.journal.len() {
            core.refresh(true)?;
            crate::bulk::flush(core, &mut cap)?;
        }
        Ok(())
    }

    /// Turns captured events into metadata in memory.
    pub fn digest(&self, core: &mut Core) -> Result<()> {
        let mut cap = self.cap.borrow_mut();
        if cap.journal.digested == cap.journal.len() {
            return Ok(());
        }
        core.refresh(true)?;
        core.note_moved()?;
        if !core.rebuilt.is_empty() {
            core.close_blocks()?;
            let touched = cap.journal.touched();
            core.resync_but(&touched)?;
        }
        digest(core, &mut cap)
    }

    /// Before metadata is read: repairs it where rowids were given out anew (dump and restore), and writes what the
    /// open transaction owes.
    pub fn before_read(&self) -> Result<()> {
        let moved = {
            let mut core = self.core()?;
            core.refresh(false)?;
            core.moved == Some(true)
        };
        if moved && self.db.is_readonly() {
            return Err(Error::State {
                why: "this file was restored from a dump; open it once for writing, so that Rejoin can find its rows again"
                    .into(),
            });
        }
        if moved {
            self.scoped("crsql_repair", || self.join())?;
        }
        self.flush()
    }

    /// Writes everything that the open transaction owes to the file.
    pub fn flush(&self) -> Result<()> {
        if !self.joined.get() {
            return Ok(());
        }
        let rowid = self.db.last_insert_rowid();
        let mut core = self.core()?;
        let done = self.hook.paused(|| {
            self.bulk(&mut core)?;
            self.digest(&mut core)?;
            core.write_out()
        });
        self.db.set_last_insert_rowid(rowid);
        self.note_broken(done)
    }

    /// A disk that fails in the middle of a flush leaves it half done, and SQLite may leave the transaction open.
    pub fn note_broken<R>(&self, done: Result<R>) -> Result<R> {
        if let (Err(e @ Error::Sqlite(_)), true) = (&done, self.joined.get()) {
            *self.broken.borrow_mut() = Some(e.clone());
        }
        done
    }

    pub fn on_begin(&self) {
        self.forget_lost();
        self.hook.begun();
        self.alone.set(self.db.is_autocommit());
        self.joined.set(true);
    }

    pub fn on_sync(&self) -> Result<()> {
        if let Some(e) = self.hook.failure().or_else(|| self.broken.borrow().clone()) {
            return Err(e);
        }
        let changes = self.db.changes();
        let before = self.db.total_changes();
        let rowid = self.db.last_insert_rowid();
        self.flush()?;
        if self.hook.take_deferred() {
            let mut core = self.core()?;
            core.refresh(true)?;
            crate::rowwise::apply_parked(self, &mut core)?;
            drop(core);
            self.flush()?;
            self.db.set_last_insert_rowid(rowid);
        }
        // A statement that commits by itself sets the counter afterwards.
        if !self.alone.get() && self.db.total_changes() != before {
            self.hook.paused(|| self.restore_changes(changes))?;
        }
        Ok(())
    }

    /// `changes()` after COMMIT is that of the last statement before it. Only a statement that changes so many rows
    /// sets it: the smallest row of a table without indexes is put in its own place as often, which writes nothing.
    fn restore_changes(&self, changes: i64) -> Result<()> {
        if self.db.changes() == changes {
            return Ok(());
        }
        let mut small = self.db.prepare_transient(
            "SELECT id, name, kind, root, sql FROM main.crsql_tables ORDER BY length(sql) LIMIT 1",
        )?;
        let row = small.query_row(&[], |q| {
            let (name, sql) = (q.column_text(1).to_vec(), q.column_text(4).to_vec());
            Ok((q.column_int(0), name, q.column_int(2), q.column_int(3), sql))
        })?;
        let Some((id, name, kind, root, sql)) = row else { return Ok(()) };
        let rowid = self.db.last_insert_rowid();
        let mut many = self.db.prepare_transient(
            "WITH a(x) AS MATERIALIZED (VALUES (0),(0),(0),(0),(0),(0),(0),(0)), \
             b AS MATERIALIZED (SELECT 0 FROM a, a AS c, a AS d) \
             REPLACE INTO main.crsql_tables(id, name, kind, root, sql) \
             SELECT ?2, ?3, ?4, ?5, ?6 FROM b, b AS c, b AS d, b AS e LIMIT ?1",
        )?;
        let done = many.run(&[
            ValueRef::Integer(changes),
            ValueRef::Integer(id),
            ValueRef::Text(&name),
            ValueRef::Integer(kind),
            ValueRef::Integer(root),
            ValueRef::Text(&sql),
        ]);
        self.db.set_last_insert_rowid(rowid);
        Ok(done?)
    }

    pub fn on_commit(&self) {
        let (mut commits, mut local) = (Vec::new(), false);
        if let Ok(mut core) = self.core.try_borrow_mut() {
            local = core.txn.local.is_some();
            commits = core.end(true);
        }
        self.end();
        if let Ok(observers) = self.observers.try_borrow() {
            commits.iter().for_each(|commit| observers.iter().for_each(|observer| observer(commit)));
        }
        if local && let Ok(observers) = self.local_observers.try_borrow() {
            observers.iter().for_each(|observer| observer());
        }
    }

    pub fn on_rollback(&self) {
        self.lost.set(true);
        self.end();
        self.forget_lost();
    }

    /// SQLite rolls back in the middle of a statement when the disk fails under it. If that is one of ours, whoever has
    /// the state at work gets the error, and here the next one finds the state as after any rollback.
    fn forget_lost(&self) {
        if self.lost.get()
            && let (Ok(mut core), Ok(mut cap)) = (self.core.try_borrow_mut(), self.cap.try_borrow_mut())
        {
            core.end(false);
            cap.end();
            self.lost.set(false);
        }
    }

    fn end(&self) {
        self.hook.end();
        self.joined.set(false);
        self.suspended.borrow_mut().clear();
        self.broken.borrow_mut().take();
        if let Ok(mut cap) = self.cap.try_borrow_mut() {
            cap.end();
        }
    }

    pub fn on_savepoint(&self, level: i32) -> Result<()> {
        self.announced.set(true);
        self.forget_lost();
        let Ok(mut core) = self.core.try_borrow_mut() else {
            return Ok(());
        };
        if !core.txn.works.is_empty() || !core.txn.open.is_empty() {
            self.note_broken(core.write_out())?;
        }
        core.txn.notes.savepoint(level);
        let txn = &core.txn;
        self.cap.borrow_mut().journal.savepoint(level, txn.pending, txn.rows_impacted);
        Ok(())
    }

    pub fn on_release(&self, level: i32) -> Result<()> {
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.txn.notes.release(level);
        }
        let heard = self.cap.try_borrow_mut().is_ok_and(|mut cap| cap.journal.release(level));
        if !heard {
            self.suspect.set(true);
        }
        Ok(())
    }

    pub fn on_rollback_to(&self, level: i32) -> Result<()> {
        self.suspect.set(true);
        let Ok(mut core) = self.core.try_borrow_mut() else {
            return Ok(());
        };
        let (restored, undone) = self.cap.borrow_mut().journal.rollback_to(level);
        core.txn.notes.rollback_to(level);
        core.seen_data_version = None;
        core.txn.pending = restored.pending;
        core.txn.rows_impacted = restored.rows_impacted;
        // cr-sqlite never turns the counter back: what was rolled back leaves a hole.
        let catalog = Rc::clone(&core.catalog);
        let lost: i64 = restored
            .cut
            .iter()
            .map(|e| match e.kind {
                Kind::Insert => catalog.get(e.tbl).map_or(1, |t| t.cols.len().max(1) as i64),
                Kind::Gap => e.row,
                Kind::Replaces | Kind::MaybeMove | Kind::Rowid | Kind::Refused => 0,
                _ => 1,
            })
            .sum();
        if lost > 0 {
            self.cap.borrow_mut().journal.push(Event::new(Kind::Gap, 0, lost));
        }
        let txn = &core.txn;
        let merged = !txn.works.is_empty() || !txn.open.is_empty();
        if undone || merged || !txn.rows.is_empty() || txn.notes.base().is_some() {
            core.txn.works.clear();
            core.txn.open.clear();
            core.txn.parked.clear();
            core.txn.due.clear();
            core.txn.high = 0;
            core.txn.listed.clear();
            core.txn.rows_stale = true;
            core.txn.local = None;
            core.stale = true;
        }
        Ok(())
    }
}
