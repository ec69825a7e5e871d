//! The way in for a loadable extension: every SQLite function is the host's.
//!
//! The bindings of rusqlite refuse a host that is older than their own header, although nothing newer than 3.40 is
//! called. So they are given a copy of the host's table of functions: as long as a 3.40 host's table is (what lies
//! behind may not exist there), and with a version that they accept. The host's true version is kept here.

use std::ffi::{c_char, c_int};
use std::mem::{MaybeUninit, offset_of};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::ffi;

use crate::db::Db;
use crate::error::{Error, Result};
use crate::memory::sqlite_string;
use crate::panic::guard;

/// The oldest host: 3.40.0.
const HOST_VERSION_MIN: i32 = 3_040_000;

static HOST_VERSION: AtomicI32 = AtomicI32::new(0);

pub(crate) fn host_version() -> i32 {
    HOST_VERSION.load(Ordering::Relaxed)
}

unsafe extern "C" fn version_of_bindings() -> c_int {
    ffi::SQLITE_VERSION_NUMBER
}

/// The body of an extension's entry point: takes over the host's functions, then runs `init`. A failure is told
/// through `message` and the result code.
///
/// # Safety
/// The arguments are those that SQLite gave to the entry point, and what `init` registers or keeps is not used after
/// the connection has closed.
pub unsafe fn load_extension(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
    init: impl FnOnce(Db) -> Result<()>,
) -> c_int {
    // SAFETY: the caller passes SQLite's own arguments on.
    let loaded = unsafe { take_functions(api) };
    // SAFETY: the connection is open; the caller vouches for the rest.
    let loaded = loaded
        .map_err(|e| (e, false))
        .and_then(|()| guard(|| init(unsafe { Db::from_raw(db) })).map_err(|e| (e, true)));
    let Err((error, has_functions)) = loaded else {
        return ffi::SQLITE_OK;
    };
    if has_functions && !message.is_null() {
        // SAFETY: `message` is SQLite's place for a string that it frees.
        unsafe { *message = sqlite_string(&error.to_string()) };
    }
    error.code_for_sqlite()
}

/// # Safety
/// `api` is null or the host's table of functions.
unsafe fn take_functions(api: *mut ffi::sqlite3_api_routines) -> Result<()> {
    if api.is_null() {
        return Err(Error::msg("the host offers no functions"));
    }
    // SAFETY: this function is in every table since the first extensions.
    let version = unsafe { (*api).libversion_number.map_or(0, |f| f()) };
    if version < HOST_VERSION_MIN {
        return Err(Error::msg("SQLite 3.40 or newer is needed"));
    }
    HOST_VERSION.store(version, Ordering::Relaxed);
    let mut copy = MaybeUninit::<ffi::sqlite3_api_routines>::zeroed();
    // SAFETY: the table is a sequence of nullable function pointers, to which it only ever gets appended, so that zero
    // is valid and a 3.40 host has all before `is_interrupted` (3.41). The bindings keep no pointer to the copy.
    unsafe {
        let len = offset_of!(ffi::sqlite3_api_routines, is_interrupted);
        ptr::copy_nonoverlapping(api.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), len);
        (*copy.as_mut_ptr()).libversion_number = Some(version_of_bindings);
        ffi::rusqlite_extension_init2(copy.as_mut_ptr()).map_err(|e| Error::msg(e.to_string()))
    }
}
