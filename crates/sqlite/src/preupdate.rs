//! The preupdate hook: every row change of a connection, before it happens.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;

use rusqlite::ffi;
use rusqlite::types::ValueRef;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::function::drop_box;
use crate::panic::guard_quiet;
use crate::value::Arg;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PreupdateOp {
    Insert,
    Update,
    Delete,
}

/// One row change that is about to happen.
pub struct Preupdate<'a> {
    db: Db,
    op: PreupdateOp,
    db_name: *const c_char,
    table: *const c_char,
    old_rowid: i64,
    new_rowid: i64,
    _lent: PhantomData<&'a ffi::sqlite3_value>,
}

impl Preupdate<'_> {
    #[inline]
    pub fn op(&self) -> PreupdateOp {
        self.op
    }

    /// `main`, `temp` or the name of an attached database.
    #[inline]
    pub fn db_name(&self) -> &CStr {
        // SAFETY: a NUL-terminated name that SQLite keeps during the hook's call.
        unsafe { CStr::from_ptr(self.db_name) }
    }

    /// Whether the change is to the connection's main database, whatever its name is.
    #[inline]
    pub fn is_main(&self) -> bool {
        // SAFETY: an open connection; SQLite gives out the very pointer that it passes to the hook.
        unsafe { ptr::eq(ffi::sqlite3_db_name(self.db.as_ptr(), 0), self.db_name) }
    }

    #[inline]
    pub fn table(&self) -> &CStr {
        // SAFETY: a NUL-terminated name that SQLite keeps during the hook's call.
        unsafe { CStr::from_ptr(self.table) }
    }

    /// Where the table's name lies, as a first guess for a cache: the same place in the same statement is the
    /// same table, but after a schema change another table's name may lie there.
    #[inline]
    pub fn table_ptr(&self) -> usize {
        self.table as usize
    }

    /// The rowid before UPDATE or DELETE; without meaning in a WITHOUT ROWID table.
    #[inline]
    pub fn old_rowid(&self) -> i64 {
        self.old_rowid
    }

    /// The rowid after INSERT or UPDATE; without meaning in a WITHOUT ROWID table.
    #[inline]
    pub fn new_rowid(&self) -> i64 {
        self.new_rowid
    }

    #[inline]
    pub fn db(&self) -> Db {
        self.db
    }

    #[inline]
    pub fn column_count(&self) -> i32 {
        // SAFETY: inside the hook's call, as the function demands.
        unsafe { ffi::sqlite3_preupdate_count(self.db.as_ptr()) }
    }

    /// 0 for a statement of the application, 1 for its triggers and foreign key actions, and so on.
    #[inline]
    pub fn depth(&self) -> i32 {
        // SAFETY: inside the hook's call, as the function demands.
        unsafe { ffi::sqlite3_preupdate_depth(self.db.as_ptr()) }
    }

    /// The column that `sqlite3_blob_write` writes to (reported as a Delete), if this is such a write.
    #[inline]
    pub fn blobwrite(&self) -> Option<i32> {
        // SAFETY: inside the hook's call, as the function demands.
        let column = unsafe { ffi::sqlite3_preupdate_blobwrite(self.db.as_ptr()) };
        (column >= 0).then_some(column)
    }

    /// The value before UPDATE or DELETE.
    #[inline]
    pub fn old(&self, i: i32) -> Result<ValueRef<'_>> {
        self.old_arg(i).map(Arg::value)
    }

    /// The value after INSERT or UPDATE.
    #[inline]
    #[allow(clippy::new_ret_no_self)] // `old` and `new` are the pair that SQLite speaks of
    pub fn new(&self, i: i32) -> Result<ValueRef<'_>> {
        self.new_arg(i).map(Arg::value)
    }

    #[inline]
    pub fn old_arg(&self, i: i32) -> Result<Arg<'_>> {
        let mut value = ptr::null_mut();
        // SAFETY: inside the hook's call; SQLite checks the column and that the operation has an old row.
        let code = unsafe { ffi::sqlite3_preupdate_old(self.db.as_ptr(), i, &mut value) };
        self.arg(code, value)
    }

    #[inline]
    pub fn new_arg(&self, i: i32) -> Result<Arg<'_>> {
        let mut value = ptr::null_mut();
        // SAFETY: inside the hook's call; SQLite checks the column and that the operation has a new row.
        let code = unsafe { ffi::sqlite3_preupdate_new(self.db.as_ptr(), i, &mut value) };
        self.arg(code, value)
    }

    /// Whether the UPDATE changes the value of a column. Ask before the values are read.
    #[inline]
    pub fn differs(&self, i: i32) -> Result<bool> {
        Ok(!self.old_arg(i)?.is_identical(self.new_arg(i)?))
    }

    #[inline]
    fn arg(&self, code: c_int, value: *mut ffi::sqlite3_value) -> Result<Arg<'_>> {
        if code != ffi::SQLITE_OK || value.is_null() {
            return Err(self.db.error(if code == ffi::SQLITE_OK { ffi::SQLITE_NOMEM } else { code }));
        }
        // SAFETY: SQLite keeps the value until the hook returns, which `self` does not outlive.
        Ok(unsafe { Arg::from_raw(value) })
    }
}

/// What SQLite keeps a pointer to.
struct Slot<S> {
    state: Rc<S>,
    call: fn(&S, &Preupdate<'_>),
}

/// Keeps the hook installed; dropped, it empties the connection's only slot, also if another hook took it since.
pub struct PreupdateGuard {
    db: Db,
    slot: *mut c_void,
    call: Callback,
    drop_slot: unsafe extern "C" fn(*mut c_void),
}

type Callback = unsafe extern "C" fn(
    *mut c_void,
    *mut ffi::sqlite3,
    c_int,
    *const c_char,
    *const c_char,
    ffi::sqlite3_int64,
    ffi::sqlite3_int64,
);

/// Puts the hook back, also when a panic passes.
struct Resume<'a>(&'a PreupdateGuard);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        let guard = self.0;
        // SAFETY: as in `set_preupdate_hook`: slot and callback are of one type, and the guard keeps the slot.
        unsafe {
            ffi::sqlite3_preupdate_hook(guard.db.as_ptr(), Some(guard.call), guard.slot);
        }
    }
}

impl PreupdateGuard {
    /// Runs `f` without the hook: what it writes is not reported. From inside a callback, only writes in here are
    /// allowed, for SQLite lends the values of one change at a time; those of the change being told stay readable.
    pub fn paused<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the connection is open (crate invariant); the slot stays with the guard.
        unsafe {
            ffi::sqlite3_preupdate_hook(self.db.as_ptr(), None, ptr::null_mut());
        }
        let _resume = Resume(self);
        f()
    }
}

impl Drop for PreupdateGuard {
    fn drop(&mut self) {
        // SAFETY: the connection is open (crate invariant); SQLite forgets the slot before it
        // is freed, and `drop_slot` is the destructor of its type.
        unsafe {
            ffi::sqlite3_preupdate_hook(self.db.as_ptr(), None, ptr::null_mut());
            (self.drop_slot)(self.slot);
        }
    }
}

impl Db {
    /// Installs the hook of this connection. It cannot fail a change: what it finds wrong it must remember.
    ///
    /// A connection has one slot, and it cannot be looked at, only overwritten. If a hook with data of its own
    /// was there (the session extension's, or one of ours), this fails, but that hook is gone and the slot is
    /// empty: the owner of the connection has to be told.
    pub fn set_preupdate_hook<S: 'static>(
        &self,
        state: Rc<S>,
        f: fn(&S, &Preupdate<'_>),
    ) -> Result<PreupdateGuard> {
        let slot = Box::into_raw(Box::new(Slot { state, call: f })).cast::<c_void>();
        let guard = PreupdateGuard { db: *self, slot, call: call::<S>, drop_slot: drop_box::<Slot<S>> };
        // SAFETY: the slot's S is the trampoline's, and the guard keeps it as long as SQLite knows it.
        let before = unsafe { ffi::sqlite3_preupdate_hook(self.as_ptr(), Some(call::<S>), slot) };
        if before.is_null() {
            return Ok(guard);
        }
        drop(guard);
        Err(Error::msg("the preupdate hook of this connection was taken; it has been removed"))
    }
}

unsafe extern "C" fn call<S: 'static>(
    data: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    db_name: *const c_char,
    table: *const c_char,
    old_rowid: ffi::sqlite3_int64,
    new_rowid: ffi::sqlite3_int64,
) {
    // SAFETY: SQLite passes the slot of the installed guard, an open connection and two names. The state is kept by a
    // share of our own, so that a callback may drop the guard.
    let (state, call, change) = unsafe {
        let slot = &*data.cast::<Slot<S>>();
        let (db, op) = (Db::from_raw(db), op_of(op));
        let change = Preupdate { db, op, db_name, table, old_rowid, new_rowid, _lent: PhantomData };
        (Rc::clone(&slot.state), slot.call, change)
    };
    guard_quiet(|| call(&state, &change));
}

#[inline]
fn op_of(code: c_int) -> PreupdateOp {
    match code {
        ffi::SQLITE_INSERT => PreupdateOp::Insert,
        ffi::SQLITE_UPDATE => PreupdateOp::Update,
        _ => PreupdateOp::Delete,
    }
}
