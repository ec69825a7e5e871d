//! A connection, as a handle that can be copied.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use rusqlite::ffi;

use crate::error::{Error, Result};
use crate::memory::{self, c_name};
use crate::stmt::Stmt;

/// A connection. Copies are free and own nothing; see the crate's second invariant for how long they are valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Db(*mut ffi::sqlite3);

/// What the connection has open on `main`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TxnState {
    None,
    Read,
    Write,
}

/// What SQLite knows about one column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnMeta {
    pub decl_type: Option<String>,
    pub collation: Option<String>,
    pub not_null: bool,
    pub primary_key: bool,
    pub autoincrement: bool,
}

const MAIN: *const c_char = c"main".as_ptr();

impl Db {
    /// # Safety
    /// `raw` is an open connection, used by one thread at a time, and neither this `Db` nor anything made from
    /// it is used after the connection has closed.
    #[inline]
    pub unsafe fn from_raw(raw: *mut ffi::sqlite3) -> Self {
        Self(raw)
    }

    /// # Safety
    /// As [`Db::from_raw`]: the `Db` and what is made from it must not be used once `conn` has closed.
    pub unsafe fn of(conn: &rusqlite::Connection) -> Self {
        // SAFETY: the handle is only copied; the caller vouches for its use.
        Self(unsafe { conn.handle() })
    }

    /// The safe way in: runs `f` with the handle of `conn`.
    ///
    /// `f` may register functions, modules and hooks; their state, which SQLite drops before the connection is gone,
    /// may keep the handle. Nothing else may: a handle, a statement or a guard that leaves `f` another way, or the
    /// state by way of a second `Rc`, must not be used once `conn` has closed. The compiler cannot see to that.
    pub fn with<R>(conn: &rusqlite::Connection, f: impl FnOnce(Self) -> R) -> R {
        // SAFETY: `conn` is open during the call; for afterwards see above.
        f(unsafe { Self::of(conn) })
    }

    #[inline]
    pub fn as_ptr(self) -> *mut ffi::sqlite3 {
        self.0
    }

    // ---- errors ----

    /// The error for a result code that this connection has just given.
    #[cold]
    pub fn error(&self, code: i32) -> Error {
        let extended = self.extended_errcode();
        // Misuse is told by the code alone: the connection still remembers an older error.
        if extended & 0xff != code & 0xff {
            return Error::new(code, error_string(code));
        }
        Error::new(extended, self.errmsg())
    }

    pub fn errmsg(&self) -> String {
        // SAFETY: the connection is open; the message is copied at once.
        unsafe { memory::owned(ffi::sqlite3_errmsg(self.0)) }.unwrap_or_default()
    }

    pub fn extended_errcode(&self) -> i32 {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_extended_errcode(self.0) }
    }

    pub(crate) fn check(&self, code: c_int) -> Result<()> {
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    // ---- statements ----

    /// Prepares one statement that will be kept and run many times.
    pub fn prepare(&self, sql: &str) -> Result<Stmt> {
        self.prepare_one(sql, ffi::SQLITE_PREPARE_PERSISTENT)
    }

    /// Prepares one statement for now.
    pub fn prepare_transient(&self, sql: &str) -> Result<Stmt> {
        self.prepare_one(sql, 0)
    }

    fn prepare_one(&self, sql: &str, flags: u32) -> Result<Stmt> {
        let (stmt, rest) = self.prepare_next(sql, flags)?;
        // More text than one statement would be ignored in silence; blanks and comments prepare to nothing.
        if !rest.trim().is_empty() && self.prepare_next(rest, 0)?.0.is_some() {
            return Err(Error::new(ffi::SQLITE_MISUSE, "more than one statement where one was expected"));
        }
        stmt.ok_or_else(|| Error::new(ffi::SQLITE_MISUSE, "no statement in the SQL text"))
    }

    /// The first statement of `sql` (None if there are only blanks and comments) and the text after it.
    fn prepare_next<'s>(&self, sql: &'s str, flags: u32) -> Result<(Option<Stmt>, &'s str)> {
        let len =
            c_int::try_from(sql.len()).map_err(|_| Error::new(ffi::SQLITE_TOOBIG, "statement too long"))?;
        let (mut raw, mut tail) = (ptr::null_mut(), ptr::null());
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: `sql` has `len` bytes; the two out-parameters are ours.
        let code = unsafe { ffi::sqlite3_prepare_v3(self.0, start, len, flags, &mut raw, &mut tail) };
        self.check(code)?;
        // SAFETY: SQLite has just made the statement and given it to us.
        let stmt = NonNull::new(raw).map(|raw| unsafe { Stmt::from_raw(raw) });
        let used = (tail as usize).saturating_sub(start as usize);
        Ok((stmt, sql.get(used..).unwrap_or("")))
    }

    /// Runs every statement of `sql`; rows are skipped.
    pub fn exec(&self, sql: &str) -> Result<()> {
        let mut rest = sql;
        while !rest.is_empty() {
            let (stmt, tail) = self.prepare_next(rest, 0)?;
            if let Some(mut stmt) = stmt {
                while stmt.step()? {}
            }
            rest = tail;
        }
        Ok(())
    }

    // ---- counters and state ----

    #[inline]
    pub fn is_autocommit(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.0) != 0 }
    }

    /// Ends the running statements, as the last resort of a callback that cannot fail by itself.
    pub fn interrupt(&self) {
        // SAFETY: an open connection (crate invariant).
        unsafe { ffi::sqlite3_interrupt(self.0) }
    }

    #[inline]
    pub fn changes(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_changes64(self.0) }
    }

    #[inline]
    pub fn total_changes(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_total_changes64(self.0) }
    }

    #[inline]
    pub fn last_insert_rowid(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_last_insert_rowid(self.0) }
    }

    #[inline]
    pub fn set_last_insert_rowid(&self, rowid: i64) {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.0, rowid) }
    }

    /// A number that is another one after any commit to `main`, of this connection or of others. What others have
    /// committed shows from this connection's next read of the file on
    /// (and not before its first one), so ask inside a transaction.
    #[inline]
    pub fn data_version(&self) -> Result<u32> {
        let mut version = 0_u32;
        let out = ptr::from_mut(&mut version).cast::<c_void>();
        // SAFETY: this file control writes one unsigned int.
        let code = unsafe { ffi::sqlite3_file_control(self.0, MAIN, ffi::SQLITE_FCNTL_DATA_VERSION, out) };
        if code == ffi::SQLITE_OK { Ok(version) } else { Err(Error::new(code, error_string(code))) }
    }

    pub fn is_readonly(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_db_readonly(self.0, MAIN) == 1 }
    }

    /// The path of `main`; None for a database in memory or a temporary one.
    pub fn filename(&self) -> Option<String> {
        // SAFETY: the connection is open; the name is copied at once.
        let name = unsafe { memory::owned(ffi::sqlite3_db_filename(self.0, MAIN)) };
        name.filter(|name| !name.is_empty())
    }

    pub fn txn_state(&self) -> TxnState {
        // SAFETY: the connection is open.
        match unsafe { ffi::sqlite3_txn_state(self.0, MAIN) } {
            ffi::SQLITE_TXN_WRITE => TxnState::Write,
            ffi::SQLITE_TXN_READ => TxnState::Read,
            _ => TxnState::None,
        }
    }

    /// The value of a run-time limit, `SQLITE_LIMIT_VARIABLE_NUMBER` say.
    pub fn limit(&self, id: i32) -> i32 {
        // SAFETY: the connection is open; -1 leaves the limit as it is.
        unsafe { ffi::sqlite3_limit(self.0, id, -1) }
    }

    pub fn trigger_enabled(&self) -> Result<bool> {
        self.triggers(-1)
    }

    /// Switches triggers on or off for this connection, all of them.
    pub fn set_triggers_enabled(&self, on: bool) -> Result<()> {
        self.triggers(c_int::from(on)).map(|_| ())
    }

    fn triggers(&self, wanted: c_int) -> Result<bool> {
        let mut now: c_int = 0;
        let out = ptr::from_mut(&mut now);
        // SAFETY: this option takes an int (negative: only ask) and a pointer to the int that tells the result.
        let code =
            unsafe { ffi::sqlite3_db_config(self.0, ffi::SQLITE_DBCONFIG_ENABLE_TRIGGER, wanted, out) };
        self.check(code)?;
        Ok(now != 0)
    }

    /// The version of the SQLite that runs: 3_040_001 for 3.40.1.
    pub fn libversion_number(&self) -> i32 {
        #[cfg(feature = "loadable")]
        return crate::extension::host_version();
        #[cfg(not(feature = "loadable"))]
        // SAFETY: no preconditions.
        unsafe {
            ffi::sqlite3_libversion_number()
        }
    }

    // ---- schema ----

    /// What SQLite knows about a column of a table in `main`; an error if there is none. An empty name asks for
    /// nothing but the table's existence.
    pub fn column_meta(&self, table: &str, column: &str) -> Result<ColumnMeta> {
        let (table, column) = (c_name(table)?, c_name(column)?);
        let (mut decl_type, mut collation) = (ptr::null(), ptr::null());
        let (mut not_null, mut primary_key, mut autoincrement) = (0, 0, 0);
        // SAFETY: names are NUL-terminated, out-parameters ours; the two strings are copied before the next call.
        unsafe {
            let code = ffi::sqlite3_table_column_metadata(
                self.0,
                MAIN,
                table.as_ptr(),
                column.as_ptr(),
                &mut decl_type,
                &mut collation,
                &mut not_null,
                &mut primary_key,
                &mut autoincrement,
            );
            self.check(code)?;
            Ok(ColumnMeta {
                decl_type: memory::owned(decl_type),
                collation: memory::owned(collation),
                not_null: not_null != 0,
                primary_key: primary_key != 0,
                autoincrement: autoincrement != 0,
            })
        }
    }

    /// The collation of a column in `main`, as declared.
    pub fn column_collation(&self, table: &str, column: &str) -> Result<Option<String>> {
        Ok(self.column_meta(table, column)?.collation)
    }
}

/// SQLite's own sentence for a result code.
fn error_string(code: c_int) -> String {
    // SAFETY: the function accepts any code and returns a constant string.
    unsafe { memory::owned(ffi::sqlite3_errstr(code)) }.unwrap_or_default()
}
