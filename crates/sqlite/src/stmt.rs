//! Prepared statements: thin, without an allocation or a lookup on the way.

use std::ffi::{CStr, c_int};
use std::ops::Deref;
use std::ptr::NonNull;

use rusqlite::ffi;
use rusqlite::types::ValueRef;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::memory;
use crate::value::{Arg, value_bytes, value_ref};

/// A prepared statement; finalized when dropped.
///
/// SQLite refuses to close a connection with open statements: whoever keeps statements in state that the
/// connection owns needs [`Db::create_close_hook`].
#[derive(Debug)]
pub struct Stmt {
    raw: NonNull<ffi::sqlite3_stmt>,
}

impl Stmt {
    /// # Safety
    /// `raw` is a statement that nobody else finalizes, of a connection that outlives it.
    pub(crate) unsafe fn from_raw(raw: NonNull<ffi::sqlite3_stmt>) -> Self {
        Self { raw }
    }

    #[inline]
    fn ptr(&self) -> *mut ffi::sqlite3_stmt {
        self.raw.as_ptr()
    }

    pub fn db(&self) -> Db {
        // SAFETY: the statement belongs to a living connection (from_raw).
        unsafe { Db::from_raw(ffi::sqlite3_db_handle(self.ptr())) }
    }

    #[cold]
    fn error(&self, code: c_int) -> Error {
        self.db().error(code)
    }

    #[inline]
    fn check(&self, code: c_int) -> Result<()> {
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    // ---- binding: parameters count from 1; the bytes of text and blobs are copied ----

    #[inline]
    pub fn bind(&mut self, i: i32, value: ValueRef<'_>) -> Result<()> {
        match value {
            ValueRef::Null => self.bind_null(i),
            ValueRef::Integer(v) => self.bind_int(i, v),
            ValueRef::Real(v) => self.bind_real(i, v),
            ValueRef::Text(v) => self.bind_text(i, v),
            ValueRef::Blob(v) => self.bind_blob(i, v),
        }
    }

    #[inline]
    pub fn bind_null(&mut self, i: i32) -> Result<()> {
        // SAFETY: the statement is alive; SQLite checks the index.
        self.check(unsafe { ffi::sqlite3_bind_null(self.ptr(), i) })
    }

    #[inline]
    pub fn bind_int(&mut self, i: i32, v: i64) -> Result<()> {
        // SAFETY: the statement is alive; SQLite checks the index.
        self.check(unsafe { ffi::sqlite3_bind_int64(self.ptr(), i, v) })
    }

    #[inline]
    pub fn bind_real(&mut self, i: i32, v: f64) -> Result<()> {
        // SAFETY: the statement is alive; SQLite checks the index.
        self.check(unsafe { ffi::sqlite3_bind_double(self.ptr(), i, v) })
    }

    #[inline]
    pub fn bind_text(&mut self, i: i32, v: &[u8]) -> Result<()> {
        // SAFETY: SQLITE_TRANSIENT copies the bytes during the call.
        unsafe { self.bind_bytes(i, v, true, ffi::SQLITE_TRANSIENT()) }
    }

    #[inline]
    pub fn bind_blob(&mut self, i: i32, v: &[u8]) -> Result<()> {
        // SAFETY: SQLITE_TRANSIENT copies the bytes during the call.
        unsafe { self.bind_bytes(i, v, false, ffi::SQLITE_TRANSIENT()) }
    }

    /// Binds a copy of a value that SQLite owns.
    #[inline]
    pub fn bind_arg(&mut self, i: i32, arg: Arg<'_>) -> Result<()> {
        // SAFETY: both are alive; SQLite copies the value.
        self.check(unsafe { ffi::sqlite3_bind_value(self.ptr(), i, arg.as_ptr()) })
    }

    /// # Safety
    /// With SQLITE_STATIC as `destructor`, `v` must live until the statement is reset and its bindings cleared.
    #[inline]
    unsafe fn bind_bytes(
        &mut self,
        i: i32,
        v: &[u8],
        is_text: bool,
        destructor: ffi::sqlite3_destructor_type,
    ) -> Result<()> {
        let (start, len) = (v.as_ptr(), v.len() as u64);
        // SAFETY: the slice is valid for the call, and the caller vouches for the time after it.
        self.check(unsafe {
            if is_text {
                let utf8 = ffi::SQLITE_UTF8 as u8;
                ffi::sqlite3_bind_text64(self.ptr(), i, start.cast(), len, destructor, utf8)
            } else {
                ffi::sqlite3_bind_blob64(self.ptr(), i, start.cast(), len, destructor)
            }
        })
    }

    pub fn clear_bindings(&mut self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_clear_bindings(self.ptr()) };
    }

    pub fn parameter_count(&self) -> i32 {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_bind_parameter_count(self.ptr()) }
    }

    // ---- running ----

    /// True: a row is there. False: done. After an error the statement is back at its start: one that is kept can be
    /// bound and run again.
    #[inline]
    pub fn step(&mut self) -> Result<bool> {
        // SAFETY: the statement is alive.
        match unsafe { ffi::sqlite3_step(self.ptr()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => {
                let error = self.error(code);
                self.reset();
                Err(error)
            }
        }
    }

    /// Back to the start. What `sqlite3_reset` returns is the error that `step` already told.
    #[inline]
    pub fn reset(&mut self) {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_reset(self.ptr()) };
    }

    /// Binds `params` without copying them, runs `f`, and always, also after an error or a panic, resets the
    /// statement and clears its bindings. Parameters beyond `params` are NULL.
    #[inline]
    pub fn with_bound<R>(
        &mut self,
        params: &[ValueRef<'_>],
        f: impl FnOnce(&mut Bound<'_>) -> Result<R>,
    ) -> Result<R> {
        let bound = BoundGuard(self);
        for (i, value) in (1..).zip(params) {
            match *value {
                // SAFETY: `params` outlives this call, and BoundGuard clears the bindings before it ends. `f`
                // cannot take the statement away: it sees it through Bound, which does not give it up.
                ValueRef::Text(v) => unsafe { bound.0.bind_bytes(i, v, true, ffi::SQLITE_STATIC()) },
                // SAFETY: as above.
                ValueRef::Blob(v) => unsafe { bound.0.bind_bytes(i, v, false, ffi::SQLITE_STATIC()) },
                plain => bound.0.bind(i, plain),
            }?;
        }
        f(&mut Bound(bound.0))
    }

    /// Binds, steps to the end (rows are skipped), resets and clears.
    #[inline]
    pub fn run(&mut self, params: &[ValueRef<'_>]) -> Result<()> {
        self.with_bound(params, |stmt| {
            while stmt.step()? {}
            Ok(())
        })
    }

    /// Reads the first row, if there is one, then resets and clears.
    #[inline]
    pub fn query_row<R>(
        &mut self,
        params: &[ValueRef<'_>],
        f: impl FnOnce(&Stmt) -> Result<R>,
    ) -> Result<Option<R>> {
        self.with_bound(params, |stmt| if stmt.step()? { f(stmt).map(Some) } else { Ok(None) })
    }

    // ---- columns: count from 0; beyond the last one, or without a row, everything is NULL ----

    #[inline]
    fn raw_column(&self, i: i32) -> *mut ffi::sqlite3_value {
        // SAFETY: the statement is alive; SQLite answers a wrong index with a NULL value.
        unsafe { ffi::sqlite3_column_value(self.ptr(), i) }
    }

    #[inline]
    pub fn column(&self, i: i32) -> ValueRef<'_> {
        // SAFETY: the value stays until the next step or reset, both of which need the statement mutably.
        unsafe { value_ref(self.raw_column(i)) }
    }

    #[inline]
    pub fn column_int(&self, i: i32) -> i64 {
        // SAFETY: the statement is alive; SQLite checks the index.
        unsafe { ffi::sqlite3_column_int64(self.ptr(), i) }
    }

    #[inline]
    pub fn column_real(&self, i: i32) -> f64 {
        // SAFETY: the statement is alive; SQLite checks the index.
        unsafe { ffi::sqlite3_column_double(self.ptr(), i) }
    }

    #[inline]
    pub fn column_type(&self, i: i32) -> i32 {
        // SAFETY: the statement is alive; SQLite checks the index.
        unsafe { ffi::sqlite3_column_type(self.ptr(), i) }
    }

    /// The bytes of a text or a blob; a number as text; empty for NULL.
    #[inline]
    pub fn column_text(&self, i: i32) -> &[u8] {
        let raw = self.raw_column(i);
        // SAFETY: as in `column`.
        unsafe { value_bytes(raw, ffi::sqlite3_value_type(raw)) }
    }

    /// The same bytes as [`Stmt::column_text`].
    #[inline]
    pub fn column_blob(&self, i: i32) -> &[u8] {
        self.column_text(i)
    }

    /// The value itself, to bind or return elsewhere without reading it.
    #[inline]
    pub fn column_arg(&self, i: i32) -> Arg<'_> {
        // SAFETY: as in `column`.
        unsafe { Arg::from_raw(self.raw_column(i)) }
    }

    #[inline]
    pub fn column_count(&self) -> i32 {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_column_count(self.ptr()) }
    }

    /// The name of a result column; empty where there is none.
    pub fn column_name(&self, i: i32) -> &str {
        // SAFETY: the statement is alive; the name stays until the statement is prepared anew, which needs a step.
        unsafe { str_of(ffi::sqlite3_column_name(self.ptr(), i)) }
    }

    // ---- about the statement ----

    /// How often SQLite has prepared the statement anew, because of a changed schema say.
    #[inline]
    pub fn reprepares(&self) -> i32 {
        // SAFETY: the statement is alive; 0 leaves the counter as it is.
        unsafe { ffi::sqlite3_stmt_status(self.ptr(), ffi::SQLITE_STMTSTATUS_REPREPARE, 0) }
    }

    /// Stepped, and neither run to the end nor reset.
    #[inline]
    pub fn is_busy(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_busy(self.ptr()) != 0 }
    }

    /// Makes no direct change to the database file.
    pub fn is_readonly(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { ffi::sqlite3_stmt_readonly(self.ptr()) != 0 }
    }

    pub fn sql(&self) -> &str {
        // SAFETY: the statement keeps its text as long as it lives.
        unsafe { str_of(ffi::sqlite3_sql(self.ptr())) }
    }

    /// The text with the bound values in place; None when memory is out.
    pub fn expanded_sql(&self) -> Option<String> {
        // SAFETY: the statement is alive; the text is ours and freed after the copy.
        unsafe {
            let raw = ffi::sqlite3_expanded_sql(self.ptr());
            let text = memory::owned(raw);
            ffi::sqlite3_free(raw.cast());
            text
        }
    }
}

impl Drop for Stmt {
    fn drop(&mut self) {
        // SAFETY: the statement is ours and alive (from_raw).
        unsafe { ffi::sqlite3_finalize(self.ptr()) };
    }
}

/// A statement whose parameters are lent to it. It steps and reads, and gives the statement to nobody: a swap
/// would carry the lent parameters away.
pub struct Bound<'s>(&'s mut Stmt);

impl Bound<'_> {
    /// As [`Stmt::step`].
    #[inline]
    pub fn step(&mut self) -> Result<bool> {
        self.0.step()
    }
}

impl Deref for Bound<'_> {
    type Target = Stmt;

    #[inline]
    fn deref(&self) -> &Stmt {
        self.0
    }
}

/// Takes the lent parameters back, whatever happened.
struct BoundGuard<'s>(&'s mut Stmt);

impl Drop for BoundGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.reset();
        self.0.clear_bindings();
    }
}

/// # Safety
/// `raw` is null or a NUL-terminated string that stays during `'a`.
unsafe fn str_of<'a>(raw: *const std::ffi::c_char) -> &'a str {
    if raw.is_null() {
        return "";
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(raw) }.to_str().unwrap_or("")
}
