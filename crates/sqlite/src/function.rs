//! SQL functions in safe Rust.

use std::ffi::{c_int, c_void};
use std::rc::Rc;

use rusqlite::ffi;
use rusqlite::types::ValueRef;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::memory::c_name;
use crate::panic::{guard, guard_quiet};
use crate::value::{Arg, Args};

/// What SQLite may assume about a function.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FnFlags {
    /// The same arguments give the same result.
    pub deterministic: bool,
    /// Harmless also where the schema is not trusted.
    pub innocuous: bool,
    /// Not to be called from triggers, views and other schema text.
    pub direct_only: bool,
}

impl FnFlags {
    fn bits(self) -> c_int {
        let flag = |on: bool, bit: c_int| if on { bit } else { 0 };
        ffi::SQLITE_UTF8
            | flag(self.deterministic, ffi::SQLITE_DETERMINISTIC)
            | flag(self.innocuous, ffi::SQLITE_INNOCUOUS)
            | flag(self.direct_only, ffi::SQLITE_DIRECTONLY)
    }
}

/// Where a function or a column of a virtual table leaves its result. Without one, the result is NULL.
pub struct Context {
    raw: *mut ffi::sqlite3_context,
}

impl Context {
    /// # Safety
    /// `raw` is the context of a callback that outlives this value.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut ffi::sqlite3_context) -> Self {
        Self { raw }
    }

    #[inline]
    pub fn set_null(&mut self) {
        // SAFETY: the context is alive (from_raw).
        unsafe { ffi::sqlite3_result_null(self.raw) }
    }

    #[inline]
    pub fn set_int(&mut self, v: i64) {
        // SAFETY: the context is alive (from_raw).
        unsafe { ffi::sqlite3_result_int64(self.raw, v) }
    }

    #[inline]
    pub fn set_real(&mut self, v: f64) {
        // SAFETY: the context is alive (from_raw).
        unsafe { ffi::sqlite3_result_double(self.raw, v) }
    }

    #[inline]
    pub fn set_text(&mut self, v: &[u8]) {
        let (start, len, utf8) = (v.as_ptr().cast(), v.len() as u64, ffi::SQLITE_UTF8 as u8);
        // SAFETY: the context is alive; SQLITE_TRANSIENT copies the bytes during the call.
        unsafe { ffi::sqlite3_result_text64(self.raw, start, len, ffi::SQLITE_TRANSIENT(), utf8) }
    }

    #[inline]
    pub fn set_blob(&mut self, v: &[u8]) {
        let (start, len) = (v.as_ptr().cast(), v.len() as u64);
        // SAFETY: the context is alive; SQLITE_TRANSIENT copies the bytes during the call.
        unsafe { ffi::sqlite3_result_blob64(self.raw, start, len, ffi::SQLITE_TRANSIENT()) }
    }

    #[inline]
    pub fn set(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.set_null(),
            ValueRef::Integer(v) => self.set_int(v),
            ValueRef::Real(v) => self.set_real(v),
            ValueRef::Text(v) => self.set_text(v),
            ValueRef::Blob(v) => self.set_blob(v),
        }
    }

    #[inline]
    pub fn set_arg(&mut self, arg: Arg<'_>) {
        // SAFETY: both are alive; SQLite copies the value.
        unsafe { ffi::sqlite3_result_value(self.raw, arg.as_ptr()) }
    }

    /// In `VTabCursor::column`: SQLite only carries this column through an UPDATE that does not change it. A
    /// cursor that then sets nothing makes [`Arg::nochange`] true in the change.
    #[inline]
    pub fn nochange(&self) -> bool {
        // SAFETY: the context is alive (from_raw).
        unsafe { ffi::sqlite3_vtab_nochange(self.raw) != 0 }
    }

    #[inline]
    pub fn db(&self) -> Db {
        // SAFETY: the context belongs to an open connection.
        unsafe { Db::from_raw(ffi::sqlite3_context_db_handle(self.raw)) }
    }

    /// Message first, then the code: the other way round the message call would reset the code.
    #[cold]
    pub(crate) fn set_error(&mut self, error: &Error) {
        let text = error.to_string();
        let len = c_int::try_from(text.len()).unwrap_or(c_int::MAX);
        // SAFETY: the context is alive; the text has at least `len` bytes and is copied.
        unsafe {
            ffi::sqlite3_result_error(self.raw, text.as_ptr().cast(), len);
            ffi::sqlite3_result_error_code(self.raw, error.code_for_sqlite());
        }
    }
}

/// What SQLite keeps for one registered function.
struct Function<S> {
    state: Rc<S>,
    call: fn(&mut Context, &S, Args<'_>) -> Result<()>,
}

impl Db {
    /// Registers a scalar function; `n_args` of -1 takes any number. SQLite drops its share of `state` when the
    /// function is replaced or the connection closes.
    pub fn create_function<S: 'static>(
        &self,
        name: &str,
        n_args: i32,
        flags: FnFlags,
        state: Rc<S>,
        f: fn(&mut Context, &S, Args<'_>) -> Result<()>,
    ) -> Result<()> {
        let name = c_name(name)?;
        let function = Box::into_raw(Box::new(Function { state, call: f }));
        // SAFETY: `name` is NUL-terminated; SQLite owns `function` from here on and calls `drop_box` exactly
        // once, also when it refuses the registration. The trampoline's S is the box's.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                self.as_ptr(),
                name.as_ptr(),
                n_args,
                flags.bits(),
                function.cast::<c_void>(),
                Some(call::<S>),
                None,
                None,
                Some(drop_box::<Function<S>>),
            )
        };
        self.check(code)
    }
}

/// Trampoline of every scalar function.
unsafe extern "C" fn call<S: 'static>(
    ctx: *mut ffi::sqlite3_context,
    argc: c_int,
    argv: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite passes a living context, `argc` living values, and the box that create_function gave it;
    // it does not replace a function while a statement runs.
    let (mut context, args, function) = unsafe {
        let data = ffi::sqlite3_user_data(ctx).cast::<Function<S>>();
        (Context::from_raw(ctx), Args::from_raw(argc, argv), &*data)
    };
    if let Err(error) = guard(|| (function.call)(&mut context, &function.state, args)) {
        context.set_error(&error);
    }
}

/// Destructor for what was boxed and given to SQLite.
pub(crate) unsafe extern "C" fn drop_box<T>(data: *mut c_void) {
    // SAFETY: SQLite calls this once, with the pointer that Box::into_raw made for this T.
    let boxed = unsafe { Box::from_raw(data.cast::<T>()) };
    guard_quiet(|| drop(boxed));
}
