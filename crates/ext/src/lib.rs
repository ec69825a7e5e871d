//! The loadable extension: Rejoin inside any SQLite host.
//!
//! `.load rejoin` finds `sqlite3_rejoin_init`; programs written for cr-sqlite name `sqlite3_crsqlite_init`.
//! Loading touches no file: an encrypted database may not be keyed yet.

use rejoin_sqlite::ffi;
use std::ffi::{c_char, c_int};

/// # Safety
/// Called by SQLite with an open connection and its API table.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_rejoin_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the arguments are SQLite's own, passed on unchanged.
    unsafe { rejoin_sqlite::load_extension(db, message, api, |db| Ok(rejoin::register(db)?)) }
}

/// # Safety
/// As [`sqlite3_rejoin_init`].
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_crsqlite_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the arguments are SQLite's own, passed on unchanged.
    unsafe { sqlite3_rejoin_init(db, message, api) }
}
