//! The net under every callback.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::ffi;

use crate::error::{Error, Result};

/// Runs `f`; a panic becomes an `SQLITE_INTERNAL` error that carries the panic's message.
#[inline]
pub(crate) fn guard<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| Err(panic_error(payload)))
}

/// Runs `f`, whose caller takes no error: a panic ends `f` and nothing else.
#[inline]
pub(crate) fn guard_quiet(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        drop(panic_error(payload));
    }
}

#[cold]
fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let text = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(unknown) => {
                // The destructor of a foreign payload may panic in turn, outside the net.
                std::mem::forget(unknown);
                "unknown".to_owned()
            }
        },
    };
    Error::new(ffi::SQLITE_INTERNAL, format!("internal error: {text}"))
}
