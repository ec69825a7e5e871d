//! Ctrl-C: the running statement is interrupted, its transaction rolled back, and the command ends with 130.
//! A second Ctrl-C ends at once; SQLite takes back what was open when the file is next used.

use crate::failure::{Failure, Kind, Result};
use rusqlite::{Connection, InterruptHandle};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// The command waits for what may never come; there is nothing to take back.
static WAITING: AtomicBool = AtomicBool::new(false);
static HANDLES: Mutex<Vec<InterruptHandle>> = Mutex::new(Vec::new());

pub fn install() {
    // Without the handler Ctrl-C ends the process at once, which loses nothing either.
    let _ = ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::SeqCst);
        if again || WAITING.load(Ordering::SeqCst) {
            eprintln!("rejoin: interrupted; nothing was changed by what was not finished");
            std::process::exit(i32::from(Kind::Interrupted.code()));
        }
        let handles = HANDLES.lock().unwrap_or_else(PoisonError::into_inner);
        handles.iter().for_each(InterruptHandle::interrupt);
    });
}

/// Reads all of a pipe or of stdin; Ctrl-C ends the command meanwhile.
pub fn read_all(mut input: impl Read) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    waiting(|| input.read_to_end(&mut all)).map(|_| all)
}

/// Runs what may take for ever and leaves nothing that is half done; Ctrl-C ends the command meanwhile.
pub fn waiting<R>(f: impl FnOnce() -> R) -> R {
    WAITING.store(true, Ordering::SeqCst);
    let done = f();
    WAITING.store(false, Ordering::SeqCst);
    done
}

/// Statements of this connection are interrupted, too.
pub fn watch(conn: &Connection) {
    let mut handles = HANDLES.lock().unwrap_or_else(PoisonError::into_inner);
    handles.push(conn.get_interrupt_handle());
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// To be asked between steps of long work.
pub fn check() -> Result<()> {
    if requested() {
        return Err(Failure::new(Kind::Interrupted, "interrupted"));
    }
    Ok(())
}
