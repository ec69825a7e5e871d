//! Capture in owned files: the preupdate hook fills the journal that triggers fill in shared ones.
//!
//! The hook cannot fail a statement. What must not be committed (a NULL key) enters the journal as `Refused` and
//! fails the commit with its sentence, unless a ROLLBACK TO takes it out before.
//!
//! SQLite tells of REPLACE as DELETE and INSERT of one key without a change counted in between; the two are taken
//! for the one replacement that they are. It tells of a blob written in place as a DELETE with a column.
//!
//! **Invariant:** inside the callback nothing is written but the journal. SQLite stands on the row that it is about to
//! write, and a statement that is rolled back (a cached one whose schema changed is enough) takes its cursor away. So
//! the hook joins by reading only: new columns get the ids that they will get when the schema is written down, and
//! that, the comparison of rebuilt tables and what is parked wait for the end of the transaction.

use crate::capture::Capture;
use crate::catalog::{KeyKind, Table};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::journal::{Event, Kind};
use rejoin_crdt::key::Affinity;
use rejoin_crdt::meta::ColSet;
use rejoin_sqlite::{Arg, Db, Preupdate, PreupdateGuard, PreupdateOp, ValueRef};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Tables that one transaction's statements turn to and fro between, usually.
const KNOWN_MAX: usize = 8;

/// A table as a statement's code names it.
struct Known {
    at: usize,
    columns: i32,
    name: Box<[u8]>,
    /// None: not replicated.
    table: Option<Rc<Table>>,
}

#[derive(Default)]
pub struct Hook {
    me: RefCell<Weak<Engine>>,
    guard: RefCell<Option<Rc<PreupdateGuard>>>,
    known: RefCell<Vec<Known>>,
    /// What joining would have written waits for the end of the transaction.
    deferred: Cell<bool>,
    /// SQLite will ask before it commits.
    begun: Cell<bool>,
    /// The transaction cannot be captured, and must not be committed.
    failed: RefCell<Option<Error>>,
}

impl Hook {
    /// Whether this build can capture without triggers.
    pub const AVAILABLE: bool = true;

    pub fn bind(&self, engine: &Rc<Engine>) {
        *self.me.borrow_mut() = Rc::downgrade(engine);
    }

    /// Installs the hook on an owned file and removes it from a shared one.
    pub fn follow(&self, db: Db, owned: bool, _tables: &[Rc<Table>]) -> Result<()> {
        if self.guard.borrow().is_some() == owned {
            return Ok(());
        }
        self.known.borrow_mut().clear();
        if !owned {
            let guard = self.guard.borrow_mut().take();
            drop(guard);
            return Ok(());
        }
        let me = Rc::new(self.me.borrow().clone());
        let guard = db.set_preupdate_hook(me, changed).map_err(|e| Error::State {
            why: format!(
                "{}; an owned file is captured by it, so nothing else on the connection can have it",
                e.message
            ),
        })?;
        *self.guard.borrow_mut() = Some(Rc::new(guard));
        // DELETE without WHERE that was compiled before empties the table without telling the hook. Every change of
        // the temp schema has all statements compiled anew. A connection that cannot write has none of them.
        let expired = db.exec("CREATE TEMP VIEW crsql_expire AS SELECT 1; DROP VIEW temp.crsql_expire");
        match expired {
            Err(e) if e.code & 0xff != rejoin_sqlite::ffi::SQLITE_READONLY => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Runs `f`, which writes to the engine's own tables only, without the hook.
    pub fn paused<R>(&self, f: impl FnOnce() -> R) -> R {
        let guard = self.guard.borrow().clone();
        match guard {
            Some(guard) => guard.paused(f),
            None => f(),
        }
    }

    pub fn take_deferred(&self) -> bool {
        self.deferred.take()
    }

    pub fn begun(&self) {
        self.begun.set(true);
    }

    pub fn end(&self) {
        self.begun.set(false);
        self.deferred.set(false);
        self.failed.borrow_mut().take();
    }

    /// Why the transaction must not be committed.
    pub fn failure(&self) -> Option<Error> {
        self.failed.borrow().clone()
    }

    fn fail(&self, db: Db, e: Error) {
        if !self.begun.get() {
            // Nobody will ask at the commit. Where joining failed with the disk, the transaction is over already, and the
            // next one must not find its error.
            db.interrupt();
            return;
        }
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            *failed = Some(e);
        }
    }

    /// Ready for the event: joined, and the catalog is that of the schema now. False: nothing is to be captured.
    fn ready(&self, engine: &Engine) -> Result<bool> {
        if !engine.is_joined() {
            self.known.borrow_mut().clear();
            self.deferred.set(true);
            engine.join_with(false)?;
        } else if engine.should_look(true) {
            self.known.borrow_mut().clear();
            engine.look(false)?;
        }
        Ok(self.guard.borrow().is_some())
    }

    #[inline]
    fn table(&self, cap: &Capture, change: &Preupdate<'_>) -> Option<Rc<Table>> {
        let (at, columns, name) = (change.table_ptr(), change.column_count(), change.table().to_bytes());
        let mut known = self.known.borrow_mut();
        let same = |k: &&Known| k.at == at && k.columns == columns && *k.name == *name;
        if let Some(k) = known.iter().find(same) {
            return k.table.clone();
        }
        let table = replicated(cap, name);
        if known.len() >= KNOWN_MAX {
            known.remove(0);
        }
        known.push(Known { at, columns, name: name.into(), table: table.clone() });
        table
    }
}

fn replicated(cap: &Capture, name: &[u8]) -> Option<Rc<Table>> {
    let name = std::str::from_utf8(name).ok()?;
    cap.catalog.find(name).cloned()
}

/// The callback.
fn changed(engine: &Weak<Engine>, change: &Preupdate<'_>) {
    let name = change.table().to_bytes();
    if !change.is_main() || name.starts_with(b"crsql_") || name.starts_with(b"sqlite_") {
        return;
    }
    let Some(engine) = engine.upgrade() else { return };
    let hook = &engine.hook;
    if hook.failed.borrow().is_some() {
        return;
    }
    match hook.ready(&engine) {
        Ok(true) => {}
        Ok(false) => return,
        Err(e) => return hook.fail(change.db(), e),
    }
    let Ok(mut cap) = engine.cap.try_borrow_mut() else {
        let why = "a replicated table was written to while its changes were read".into();
        return hook.fail(change.db(), Error::State { why });
    };
    let Some(t) = hook.table(&cap, change) else { return };
    if engine.is_merging(t.id) || engine.is_suspended(t.id).unwrap_or(false) {
        return;
    }
    let done = match change.op() {
        // The rows of a rebuild are those that there were; the end of the transaction compares them.
        PreupdateOp::Insert if t.rebuilt => Ok(()),
        PreupdateOp::Insert => insert(&mut cap, &t, change),
        PreupdateOp::Update => update(&mut cap, &t, change),
        PreupdateOp::Delete => match change.blobwrite() {
            Some(column) => {
                // Such a write is no statement and leaves no count.
                engine.suspect.set(true);
                blob(&mut cap, &t, change, column)
            }
            None => delete(&mut cap, &t, change),
        },
    };
    if let Err(e) = done {
        cap.refuse(e);
    }
}

type Keys<'a> = SmallVec<[Arg<'a>; 4]>;

fn old_keys<'a>(t: &Table, change: &'a Preupdate<'_>) -> Result<Keys<'a>> {
    let mut keys = Keys::new();
    for k in &t.keys {
        keys.push(change.old_arg(k.pos as i32)?);
    }
    Ok(keys)
}

fn new_keys<'a>(t: &Table, change: &'a Preupdate<'_>) -> Result<Keys<'a>> {
    let mut keys = Keys::new();
    for k in &t.keys {
        keys.push(change.new_arg(k.pos as i32)?);
    }
    Ok(keys)
}

/// An event on the row with these keys.
fn event(cap: &mut Capture, t: &Table, kind: Kind, row: i64, keys: &Keys<'_>) -> Result<Event> {
    let mut e = Event::new(kind, t.id, row);
    if t.kind != KeyKind::RowId {
        (e.key, e.hash) = cap.key(t, keys)?;
    }
    if t.kind == KeyKind::Keyed {
        (e.row, e.row2) = (e.hash as i64, e.hash as i64);
    }
    Ok(e)
}

fn insert(cap: &mut Capture, t: &Table, change: &Preupdate<'_>) -> Result<()> {
    let keys = if t.kind == KeyKind::RowId { Keys::new() } else { new_keys(t, change)? };
    let e = event(cap, t, Kind::Insert, change.new_rowid(), &keys)?;
    cap.take_back_delete(change.db(), t, (e.row, e.hash));
    cap.journal.push(e);
    Ok(())
}

fn delete(cap: &mut Capture, t: &Table, change: &Preupdate<'_>) -> Result<()> {
    let keys = if t.kind == KeyKind::RowId { Keys::new() } else { old_keys(t, change)? };
    let mut e = event(cap, t, Kind::Delete, change.old_rowid(), &keys)?;
    e.count = change.db().total_changes();
    cap.journal.push(e);
    Ok(())
}

/// `sqlite3_blob_write`: the bytes are not told, so the column counts as changed.
fn blob(cap: &mut Capture, t: &Table, change: &Preupdate<'_>, column: i32) -> Result<()> {
    let Some(col) = t.cols.iter().find(|c| c.pos as i32 == column) else { return Ok(()) };
    let keys = if t.kind == KeyKind::RowId { Keys::new() } else { old_keys(t, change)? };
    let mut e = event(cap, t, Kind::Mask, change.old_rowid(), &keys)?;
    let mut mask = ColSet::EMPTY;
    mask.insert(col.id);
    e.mask = cap.journal.store_mask(mask);
    cap.journal.push(e);
    Ok(())
}

fn update(cap: &mut Capture, t: &Table, change: &Preupdate<'_>) -> Result<()> {
    let mut mask = ColSet::EMPTY;
    for col in &t.cols {
        if change.differs(col.pos as i32)? {
            mask.insert(col.id);
        }
    }
    let moved = t.kind != KeyKind::Keyed && change.old_rowid() != change.new_rowid();
    let rekeyed = if t.kind == KeyKind::RowId { moved } else { rekeys(t, change)? };
    // What a ROLLBACK TO undoes leaves as large a hole in the numbering as triggers leave, which hear of every row.
    if mask.is_empty() && !moved && !rekeyed && change.db().is_autocommit() {
        return Ok(());
    }
    let old = if t.kind == KeyKind::RowId { Keys::new() } else { old_keys(t, change)? };
    let mut e = event(cap, t, Kind::Mask, change.old_rowid(), &old)?;
    let mut to =
        Event { kind: if rekeyed { Kind::Move } else { Kind::Rowid }, key2: e.key, hash2: e.hash, ..e };
    if t.kind != KeyKind::Keyed {
        to.row2 = change.new_rowid();
    }
    if rekeyed && t.kind != KeyKind::RowId {
        (to.key2, to.hash2) = cap.key(t, &new_keys(t, change)?)?;
        if t.kind == KeyKind::Keyed {
            to.row2 = to.hash2 as i64;
        }
    }
    e.mask = cap.journal.store_mask(mask);
    if rekeyed {
        cap.take_back_delete(change.db(), t, (to.row2, to.hash2));
    }
    cap.journal.push(e);
    if rekeyed || moved {
        cap.journal.push(to);
    }
    Ok(())
}

/// Whether an UPDATE gives the row another key.
fn rekeys(t: &Table, change: &Preupdate<'_>) -> Result<bool> {
    for k in &t.keys {
        let pos = k.pos as i32;
        if change.differs(pos)?
            && !same_key(change.old_arg(pos)?.value(), change.new_arg(pos)?.value(), k.affinity)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Equal as `IS` with the collation BINARY has it, as the triggers compare.
fn same_key(a: ValueRef<'_>, b: ValueRef<'_>, affinity: Affinity) -> bool {
    match (a, b) {
        // 1 and 1.0 are equal but two spellings, where the column can hold both.
        _ if affinity == Affinity::Blob => a == b,
        (ValueRef::Integer(i), ValueRef::Real(r)) | (ValueRef::Real(r), ValueRef::Integer(i)) => {
            r.fract() == 0.0 && r as i128 == i128::from(i)
        }
        _ => a == b,
    }
}
