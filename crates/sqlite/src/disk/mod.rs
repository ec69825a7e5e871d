//! A disk in memory that fails and crashes on demand: a VFS for tests (feature `test-vfs`).
//!
//! Every file has what programs see (`live.rs`) and what a loss of power leaves (`durable.rs`). The rules of the latter:
//!
//! - What was written or truncated is durable when the file has been synced; until then any subset may be lost, in
//!   any order, and a write may be torn between sectors of [`SECTOR`] bytes. Bytes beside a write stay as they are.
//! - A name is durable when its file has been synced, and gone for good when it was deleted with the directory synced,
//!   which SQLite asks for with `synchronous = EXTRA` only. Names come and go in order.
//! - A sync that fails leaves everything undecided; a write that fails may have written its first sectors.
//!
//! Calls are counted, and [`Disk::fail`] makes the n-th fail, of all or of one [`Call`], once or from then on.
//! [`Disk::set_room`] makes the disk small. From [`Disk::record`] on the operations are kept, and [`Log::replay`] goes
//! through them and makes what each moment leaves.
//!
//! Locks and shared memory work between connections of one process, so that rollback journals and write-ahead logs do.
//! Files without a name (SQLite's temporary ones) count and fail as others do, and leave nothing.

mod durable;
mod ffi_vfs;
mod live;

pub use durable::{Image, Log, Loss, Replay};
pub use live::{Call, Fault};

use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use live::State;

/// The unit in which a write is torn.
pub const SECTOR: usize = 512;

/// What the VFS and its files share.
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ended a test anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk. Connections are opened with [`Disk::vfs`] as their VFS; its files go with it.
pub struct Disk {
    shared: Arc<Shared>,
    vfs: ffi_vfs::Registered,
}

impl Disk {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Disk {
        let shared = Arc::new(Shared(Mutex::new(State::default())));
        let vfs = ffi_vfs::Registered::new(&shared);
        Disk { shared, vfs }
    }

    /// The name of the VFS.
    pub fn vfs(&self) -> &CStr {
        self.vfs.name()
    }

    /// Makes the disk what an image says, without faults and with counts at zero.
    ///
    /// # Panics
    /// While a file is open.
    pub fn restore(&self, image: &Image) {
        let mut state = self.shared.state();
        assert!(!state.is_in_use(), "a connection is still open on the disk");
        *state = State::from_image(image);
    }

    /// What programs see now: what a program that is killed leaves.
    pub fn live(&self) -> Image {
        self.shared.state().image()
    }

    /// What a loss of power would leave now.
    pub fn crash(&self, loss: Loss) -> Image {
        self.shared.state().durable.image(loss)
    }

    /// From now on the disk fails like this.
    pub fn fail(&self, fault: Fault) {
        self.shared.state().set_fault(Some(fault));
    }

    /// From now on the disk does not fail.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.set_fault(None);
        state.room = None;
    }

    /// How many bytes the files may have together; a write beyond is `SQLITE_FULL`.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.shared.state().room = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.shared.state().used()
    }

    /// How often the disk was called since the last `restore`: in all, or with calls of one kind.
    pub fn calls(&self, call: Option<Call>) -> u64 {
        self.shared.state().calls(call)
    }

    /// How many calls failed since the last `restore`.
    pub fn failures(&self) -> u64 {
        self.shared.state().failures
    }

    /// From now on operations are kept.
    pub fn record(&self) {
        self.shared.state().record();
    }

    /// How many operations were kept.
    pub fn position(&self) -> usize {
        self.shared.state().log.as_ref().map_or(0, Log::len)
    }

    /// The operations since `record`, which ends.
    pub fn take_log(&self) -> Option<Log> {
        self.shared.state().log.take()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        // A connection that is still open has pointers into shared memory.
        if !state.is_in_use() {
            *state = State::default();
        }
    }
}
