//! Strings across the border: C strings for SQLite's names, SQLite's own allocations for what it frees itself.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use rusqlite::ffi;

use crate::error::{Error, Result};

/// A name as SQLite wants it.
pub(crate) fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::msg("a name must not contain a NUL character"))
}

/// A NUL-terminated copy in SQLite's heap, to be freed by SQLite; null when memory is out. A NUL inside cuts it.
pub(crate) fn sqlite_string(text: &str) -> *mut c_char {
    // SAFETY: sqlite3_malloc64 has no preconditions; a null result is handled below.
    let raw = unsafe { ffi::sqlite3_malloc64(text.len() as u64 + 1) }.cast::<c_char>();
    if !raw.is_null() {
        // SAFETY: `raw` has text.len() + 1 bytes, and a fresh allocation does not overlap `text`.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), raw, text.len());
            *raw.add(text.len()) = 0;
        }
    }
    raw
}

/// Copies a C string; None for null. Bytes that are not UTF-8 are replaced: such text is for people.
///
/// # Safety
/// `raw` is null or a NUL-terminated string that stays as it is during the call.
pub(crate) unsafe fn owned(raw: *const c_char) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the rest.
    Some(unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}
