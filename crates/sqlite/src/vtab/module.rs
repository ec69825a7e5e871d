//! The trampolines between `sqlite3_module` and the traits.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::rc::Rc;

use rusqlite::ffi;

use super::{Change, Conflict, IndexInfo, ModuleKind, Risk, VTab, VTabCursor};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::function::{Context, drop_box};
use crate::memory::{c_name, sqlite_string};
use crate::panic::{guard, guard_quiet};
use crate::value::{Arg, Args};

/// A table as SQLite sees it. `base` comes first and is SQLite's: it is written through raw pointers while `table`
/// is borrowed, so that references are only ever made to `table`, never to the whole.
#[repr(C)]
struct Table<T> {
    base: ffi::sqlite3_vtab,
    db: Db,
    table: T,
}

/// A cursor as SQLite sees it; the same layout rule. `at_end` keeps the answer of `eof`: taken in xFilter and
/// xNext, where an error can be told, since in xEof it cannot.
#[repr(C)]
struct Cursor<C> {
    base: ffi::sqlite3_vtab_cursor,
    at_end: bool,
    cursor: C,
}

impl Db {
    /// Registers a module. SQLite drops its share of `state` after the last table of the module is gone, at the
    /// latest when the connection closes.
    pub fn create_module<S: 'static, T: VTab<S>>(
        &self,
        name: &str,
        kind: ModuleKind,
        state: Rc<S>,
    ) -> Result<()> {
        let name = c_name(name)?;
        let module: &'static ffi::sqlite3_module = match kind {
            ModuleKind::Eponymous => &Methods::<S, T>::EPONYMOUS,
            ModuleKind::EponymousOnly => &Methods::<S, T>::EPONYMOUS_ONLY,
        };
        let aux = Box::into_raw(Box::new(state)).cast::<c_void>();
        // SAFETY: the method table is static, its S is that of `aux`; SQLite owns `aux` from here on and calls
        // `drop_box` exactly once, also when it refuses the registration.
        let code = unsafe {
            let drop_aux = Some(drop_box::<Rc<S>> as unsafe extern "C" fn(*mut c_void));
            ffi::sqlite3_create_module_v2(self.as_ptr(), name.as_ptr(), module, aux, drop_aux)
        };
        self.check(code)
    }
}

/// The method tables of one table type.
struct Methods<S, T>(PhantomData<(S, T)>);

type TableMethod = unsafe extern "C" fn(*mut ffi::sqlite3_vtab) -> c_int;
type SavepointMethod = unsafe extern "C" fn(*mut ffi::sqlite3_vtab, c_int) -> c_int;

impl<S: 'static, T: VTab<S>> Methods<S, T> {
    const EPONYMOUS: ffi::sqlite3_module = Self::table(true);
    const EPONYMOUS_ONLY: ffi::sqlite3_module = Self::table(false);

    const fn if_transactional(method: TableMethod) -> Option<TableMethod> {
        if T::TRANSACTIONAL { Some(method) } else { None }
    }

    const fn if_savepoints(method: SavepointMethod) -> Option<SavepointMethod> {
        if T::TRANSACTIONAL { Some(method) } else { None }
    }

    const fn table(creatable: bool) -> ffi::sqlite3_module {
        ffi::sqlite3_module {
            // Savepoint methods exist from version 2 on; the later versions add what is null here.
            iVersion: if T::TRANSACTIONAL { 2 } else { 1 },
            xCreate: if creatable { Some(connect::<S, T>) } else { None },
            xConnect: Some(connect::<S, T>),
            xBestIndex: Some(best_index::<S, T>),
            xDisconnect: Some(disconnect::<T>),
            xDestroy: Some(disconnect::<T>),
            xOpen: Some(open::<S, T>),
            xClose: Some(close::<T::Cursor>),
            xFilter: Some(filter::<T::Cursor>),
            xNext: Some(next::<T::Cursor>),
            xEof: Some(eof::<T::Cursor>),
            xColumn: Some(column::<T::Cursor>),
            xRowid: Some(rowid::<T::Cursor>),
            xUpdate: if T::WRITABLE { Some(update::<S, T>) } else { None },
            xBegin: Self::if_transactional(begin::<S, T>),
            xSync: Self::if_transactional(sync::<S, T>),
            xCommit: Self::if_transactional(commit::<S, T>),
            xRollback: Self::if_transactional(rollback::<S, T>),
            xFindFunction: None,
            xRename: None,
            xSavepoint: Self::if_savepoints(savepoint::<S, T>),
            xRelease: Self::if_savepoints(release::<S, T>),
            xRollbackTo: Self::if_savepoints(rollback_to::<S, T>),
            xShadowName: None,
            xIntegrity: None,
        }
    }
}

// ---- converting back ----

/// The result code; the message goes into the table's error slot, which SQLite empties and frees.
///
/// # Safety
/// `vtab` is a connected table.
unsafe fn report(vtab: *mut ffi::sqlite3_vtab, result: Result<()>) -> c_int {
    let Err(error) = result else {
        return ffi::SQLITE_OK;
    };
    // SAFETY: the caller vouches for `vtab`; the slot holds null or a string of SQLite's heap.
    unsafe {
        ffi::sqlite3_free((*vtab).zErrMsg.cast());
        // A planner's "not so" is no failure: it must not leave a sentence behind.
        (*vtab).zErrMsg =
            if error.message.is_empty() { std::ptr::null_mut() } else { sqlite_string(&error.message) };
    }
    error.code_for_sqlite()
}

/// Runs `f` on the table behind `vtab`, under the net.
///
/// # Safety
/// `vtab` is a connected table that `connect` made for this T.
#[inline]
unsafe fn on_table<T>(vtab: *mut ffi::sqlite3_vtab, f: impl FnOnce(&T) -> Result<()>) -> c_int {
    // SAFETY: the caller vouches for the type; the reference covers `table` alone.
    unsafe {
        let table = &(*vtab.cast::<Table<T>>()).table;
        report(vtab, guard(|| f(table)))
    }
}

/// Runs `f` on the cursor behind `raw`, then takes its `eof`, both under the net.
///
/// # Safety
/// `raw` is an open cursor that `open` made for this C, and no other reference to it is alive.
#[inline]
unsafe fn move_cursor<C: VTabCursor>(
    raw: *mut ffi::sqlite3_vtab_cursor,
    f: impl FnOnce(&mut C) -> Result<()>,
) -> c_int {
    // SAFETY: the caller vouches for type and uniqueness; the references cover neither `base`.
    unsafe {
        let this = raw.cast::<Cursor<C>>();
        let (cursor, at_end) = (&mut (*this).cursor, &mut (*this).at_end);
        // Should this fail, nothing may read the cursor on.
        *at_end = true;
        let moved = guard(|| {
            f(cursor)?;
            *at_end = cursor.eof();
            Ok(())
        });
        report((*raw).pVtab, moved)
    }
}

// ---- tables ----

unsafe extern "C" fn connect<S: 'static, T: VTab<S>>(
    db: *mut ffi::sqlite3,
    aux: *mut c_void,
    _argc: c_int,
    _argv: *const *const c_char,
    out: *mut *mut ffi::sqlite3_vtab,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes an open connection, the box of create_module, and two places for the results.
    unsafe {
        let (db, state) = (Db::from_raw(db), &*aux.cast::<Rc<S>>());
        match guard(|| connect_table::<S, T>(db, state)) {
            Ok(table) => *out = table.cast(),
            Err(error) => {
                *message = sqlite_string(&error.to_string());
                return error.code_for_sqlite();
            }
        }
    }
    ffi::SQLITE_OK
}

fn connect_table<S: 'static, T: VTab<S>>(db: Db, state: &Rc<S>) -> Result<*mut Table<T>> {
    let (sql, table) = T::connect(db, state)?;
    let sql = CString::new(sql).map_err(|_| Error::msg("a declaration must not contain a NUL character"))?;
    // SAFETY: runs inside xConnect, as both functions demand; the text is NUL-terminated.
    unsafe {
        db.check(ffi::sqlite3_declare_vtab(db.as_ptr(), sql.as_ptr()))?;
        match T::RISK {
            Risk::Normal => {}
            Risk::Innocuous => {
                db.check(ffi::sqlite3_vtab_config(db.as_ptr(), ffi::SQLITE_VTAB_INNOCUOUS))?;
            }
            Risk::DirectOnly => {
                db.check(ffi::sqlite3_vtab_config(db.as_ptr(), ffi::SQLITE_VTAB_DIRECTONLY))?;
            }
        }
    }
    Ok(Box::into_raw(Box::new(Table { base: ffi::sqlite3_vtab::default(), db, table })))
}

unsafe extern "C" fn disconnect<T>(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: SQLite gives back, once, a table that `connect` made; no callback of it runs any more.
    let table = unsafe {
        ffi::sqlite3_free((*vtab).zErrMsg.cast());
        Box::from_raw(vtab.cast::<Table<T>>())
    };
    guard_quiet(|| drop(table));
    ffi::SQLITE_OK
}

unsafe extern "C" fn best_index<S: 'static, T: VTab<S>>(
    vtab: *mut ffi::sqlite3_vtab,
    info: *mut ffi::sqlite3_index_info,
) -> c_int {
    // SAFETY: SQLite passes a connected table of this module and a question that lives during the call.
    unsafe { on_table::<T>(vtab, |t| t.best_index(&mut IndexInfo::from_raw(info))) }
}

unsafe extern "C" fn open<S: 'static, T: VTab<S>>(
    vtab: *mut ffi::sqlite3_vtab,
    out: *mut *mut ffi::sqlite3_vtab_cursor,
) -> c_int {
    let opened = |t: &T| {
        let (base, cursor) = (ffi::sqlite3_vtab_cursor::default(), t.open()?);
        // SAFETY: `out` is SQLite's place for the cursor, valid during the call.
        unsafe { *out = Box::into_raw(Box::new(Cursor { base, at_end: true, cursor })).cast() };
        Ok(())
    };
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, opened) }
}

unsafe extern "C" fn update<S: 'static, T: VTab<S>>(
    vtab: *mut ffi::sqlite3_vtab,
    argc: c_int,
    argv: *mut *mut ffi::sqlite3_value,
    rowid: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes a connected table of this module, `argc` living values, a place for the rowid.
    unsafe {
        let (args, db) = (Args::from_raw(argc, argv), (*vtab.cast::<Table<T>>()).db);
        on_table::<T>(vtab, |t| {
            *rowid = t.update(change(db, args)?)?;
            Ok(())
        })
    }
}

/// What xUpdate's arguments mean: (old rowid) deletes; (NULL, rowid or NULL, values) inserts; (old, new, values) updates.
fn change(db: Db, args: Args<'_>) -> Result<Change<'_>> {
    let given = |arg: Arg<'_>| !arg.is_null();
    match *args.as_slice() {
        [rowid] => Ok(Change::Delete { rowid }),
        [old, new, ..] if old.is_null() => Ok(Change::Insert {
            rowid: Some(new).filter(|new| given(*new)),
            values: args.skip(2),
            conflict: conflict(db),
        }),
        [old_rowid, new_rowid, ..] => {
            Ok(Change::Update { old_rowid, new_rowid, values: args.skip(2), conflict: conflict(db) })
        }
        [] => Err(Error::new(ffi::SQLITE_INTERNAL, "a change without arguments")),
    }
}

fn conflict(db: Db) -> Conflict {
    // SAFETY: runs inside xUpdate, as the function demands.
    match unsafe { ffi::sqlite3_vtab_on_conflict(db.as_ptr()) } {
        ffi::SQLITE_ROLLBACK => Conflict::Rollback,
        ffi::SQLITE_IGNORE => Conflict::Ignore,
        ffi::SQLITE_FAIL => Conflict::Fail,
        ffi::SQLITE_REPLACE => Conflict::Replace,
        _ => Conflict::Abort,
    }
}

// ---- transactions ----

unsafe extern "C" fn begin<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, T::begin) }
}

unsafe extern "C" fn sync<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, T::sync) }
}

unsafe extern "C" fn commit<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: SQLite passes a connected table of this module. It ignores the result; a sentence left in the error
    // slot would show up with the next statement, hence none.
    let table = unsafe { &(*vtab.cast::<Table<T>>()).table };
    guard(|| table.commit()).map_or_else(|e| e.code_for_sqlite(), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn rollback<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: as in `commit`.
    let table = unsafe { &(*vtab.cast::<Table<T>>()).table };
    guard(|| table.rollback()).map_or_else(|e| e.code_for_sqlite(), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn savepoint<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab, n: c_int) -> c_int {
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, |t| t.savepoint(n)) }
}

unsafe extern "C" fn release<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab, n: c_int) -> c_int {
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, |t| t.release(n)) }
}

unsafe extern "C" fn rollback_to<S: 'static, T: VTab<S>>(vtab: *mut ffi::sqlite3_vtab, n: c_int) -> c_int {
    // SAFETY: SQLite passes a connected table of this module.
    unsafe { on_table::<T>(vtab, |t| t.rollback_to(n)) }
}

// ---- cursors ----

unsafe extern "C" fn close<C>(raw: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite gives back, once, a cursor that `open` made.
    let cursor = unsafe { Box::from_raw(raw.cast::<Cursor<C>>()) };
    guard_quiet(|| drop(cursor));
    ffi::SQLITE_OK
}

unsafe extern "C" fn filter<C: VTabCursor>(
    raw: *mut ffi::sqlite3_vtab_cursor,
    idx_num: c_int,
    idx_str: *const c_char,
    argc: c_int,
    argv: *mut *mut ffi::sqlite3_value,
) -> c_int {
    // SAFETY: SQLite passes an open cursor of this module, the text of best_index or null, and living values.
    unsafe {
        let text = if idx_str.is_null() { None } else { CStr::from_ptr(idx_str).to_str().ok() };
        move_cursor::<C>(raw, |c| c.filter(idx_num, text, Args::from_raw(argc, argv)))
    }
}

unsafe extern "C" fn next<C: VTabCursor>(raw: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite passes an open cursor of this module.
    unsafe { move_cursor::<C>(raw, C::next) }
}

unsafe extern "C" fn eof<C: VTabCursor>(raw: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite passes an open cursor of this module.
    c_int::from(unsafe { (*raw.cast::<Cursor<C>>()).at_end })
}

unsafe extern "C" fn column<C: VTabCursor>(
    raw: *mut ffi::sqlite3_vtab_cursor,
    ctx: *mut ffi::sqlite3_context,
    i: c_int,
) -> c_int {
    // SAFETY: SQLite passes an open cursor of this module and a living context.
    let (cursor, mut context) = unsafe { (&(*raw.cast::<Cursor<C>>()).cursor, Context::from_raw(ctx)) };
    if let Err(error) = guard(|| cursor.column(&mut context, i)) {
        context.set_error(&error);
        return error.code_for_sqlite();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn rowid<C: VTabCursor>(
    raw: *mut ffi::sqlite3_vtab_cursor,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes an open cursor of this module and a place for the rowid.
    unsafe {
        let cursor = &(*raw.cast::<Cursor<C>>()).cursor;
        let read = guard(|| cursor.rowid()).map(|rowid| *out = rowid);
        report((*raw).pVtab, read)
    }
}
