//! SQLite's side of the disk: trampolines.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{ptr, slice};

use rusqlite::ffi;

use super::live::{Answer, HandleId};
use super::{SECTOR, Shared};
use crate::error::Error;
use crate::panic::{guard, guard_quiet};

/// Longer names are refused.
const NAME_MAX: c_int = 512;

/// A registered VFS.
///
/// The structure stays for the life of the process, a few hundred bytes for each disk: a connection that is still open
/// refers to it.
pub struct Registered {
    vfs: *mut ffi::sqlite3_vfs,
    name: &'static CStr,
}

// SAFETY: SQLite only reads the structure, and its list of them has a lock of its own.
unsafe impl Send for Registered {}
// SAFETY: as above; nothing of it changes.
unsafe impl Sync for Registered {}

impl Registered {
    pub(super) fn new(shared: &Arc<Shared>) -> Registered {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rejoin-disk-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let name: &'static CStr = Box::leak(CString::new(name).unwrap_or_default().into_boxed_c_str());
        let vfs = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: NAME_MAX,
            pNext: ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Box::into_raw(Box::new(Arc::clone(shared))).cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: Some(dl_open),
            xDlError: Some(dl_error),
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the structure is complete and is never freed. It fails without memory only; then opening fails.
        unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
        Registered { vfs, name }
    }

    pub fn name(&self) -> &CStr {
        self.name
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: the structure lives on.
        unsafe { ffi::sqlite3_vfs_unregister(self.vfs) };
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

struct Handle {
    shared: Arc<Shared>,
    id: HandleId,
}

/// What SQLite allocates for a file.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

/// Runs `f` under the net; its result code.
fn answer(f: impl FnOnce() -> Answer) -> c_int {
    let run = || f().map_err(|code| Error::new(code, String::new()));
    guard(run).map_or_else(|e| e.code, |()| ffi::SQLITE_OK)
}

/// # Safety
/// `vfs` is one that `Registered::new` made.
unsafe fn shared<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Arc<Shared> {
    // SAFETY: the caller vouches; the box was given to the structure for good.
    unsafe { &*(*vfs).pAppData.cast::<Arc<Shared>>() }
}

/// # Safety
/// `file` is one that `open` opened and that is not closed.
unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a Handle {
    // SAFETY: the caller vouches.
    unsafe { &*(*file.cast::<File>()).handle }
}

/// # Safety
/// `name` is NUL-terminated.
unsafe fn text<'a>(name: *const c_char) -> Answer<&'a str> {
    // SAFETY: the caller vouches.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| ffi::SQLITE_CANTOPEN)
}

// ---- names ----

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes this VFS, a name or null, szOsFile bytes of its own, and a place for flags or null.
    answer(|| unsafe {
        (*file).pMethods = ptr::null();
        let name = if name.is_null() { None } else { Some(text(name)?) };
        let id = shared(vfs).state().open(name, flags)?;
        let handle = Box::into_raw(Box::new(Handle { shared: Arc::clone(shared(vfs)), id }));
        file.cast::<File>().write(File { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, handle });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
        Ok(())
    })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite gives back, once, a file that `open` made.
    let handle = unsafe { Box::from_raw((*file.cast::<File>()).handle) };
    guard_quiet(|| handle.shared.state().close(handle.id));
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes this VFS and a name.
    answer(|| unsafe { shared(vfs).state().delete(text(name)?, sync_dir != 0) })
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes this VFS, a name, and a place for the answer.
    answer(|| unsafe { shared(vfs).state().exists(text(name)?).map(|yes| *out = c_int::from(yes)) })
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name and a buffer of `len` bytes that does not overlap it.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > len as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

// ---- bytes ----

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buf: *mut c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite passes an open file and a buffer of `len` bytes, which is initialized first.
    let (handle, buf) = unsafe {
        ptr::write_bytes(buf.cast::<u8>(), 0, len as usize);
        (of(file), slice::from_raw_parts_mut(buf.cast::<u8>(), len as usize))
    };
    answer(|| handle.shared.state().read(handle.id, buf, at as u64))
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite passes an open file and `len` bytes.
    let (handle, data) = unsafe { (of(file), slice::from_raw_parts(data.cast::<u8>(), len as usize)) };
    answer(|| handle.shared.state().write(handle.id, data, at as u64))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    answer(|| handle.shared.state().truncate(handle.id, size as u64))
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    answer(|| handle.shared.state().sync(handle.id))
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the size.
    let handle = unsafe { of(file) };
    answer(|| {
        let size = handle.shared.state().size(handle.id)?;
        // SAFETY: as above.
        unsafe { *out = size as i64 };
        Ok(())
    })
}

unsafe extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR as c_int
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

// ---- locks and shared memory ----

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    answer(|| handle.shared.state().lock(handle.id, level))
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    answer(|| handle.shared.state().unlock(handle.id, level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the answer.
    answer(|| unsafe {
        let handle = of(file);
        *out = c_int::from(handle.shared.state().is_reserved(handle.id)?);
        Ok(())
    })
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the region.
    answer(|| unsafe {
        *out = ptr::null_mut();
        let handle = of(file);
        let mut state = handle.shared.state();
        let mapped = state.shm_map(handle.id, region as usize, bytes as usize, extend != 0)?;
        *out = mapped.map_or(ptr::null_mut(), |region| region.cast());
        Ok(())
    })
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    let slots = ((1u32 << n) - 1) << first;
    answer(|| handle.shared.state().shm_lock(handle.id, slots, flags))
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { of(file) };
    answer(|| handle.shared.state().shm_unmap(handle.id))
}

// ---- what is the system's ----

/// The VFS that SQLite takes without one being named.
fn default_vfs() -> *mut ffi::sqlite3_vfs {
    // SAFETY: a null name asks for the default one.
    unsafe { ffi::sqlite3_vfs_find(ptr::null()) }
}

unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    let system = default_vfs();
    // SAFETY: the default VFS is there and complete; SQLite passes `len` bytes.
    unsafe { (*system).xRandomness.map_or(0, |f| f(system, len, out)) }
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    let system = default_vfs();
    // SAFETY: the default VFS is there and complete.
    unsafe { (*system).xSleep.map_or(0, |f| f(system, micros)) }
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    let system = default_vfs();
    // SAFETY: the default VFS is there and complete; SQLite passes a place for the time.
    unsafe { (*system).xCurrentTime.map_or(ffi::SQLITE_ERROR, |f| f(system, out)) }
}

unsafe extern "C" fn current_time_int64(_vfs: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    let system = default_vfs();
    // SAFETY: the default VFS is there and complete; SQLite passes a place for the time.
    unsafe { (*system).xCurrentTimeInt64.map_or(ffi::SQLITE_ERROR, |f| f(system, out)) }
}

/// No extensions are loaded from here.
unsafe extern "C" fn dl_open(_vfs: *mut ffi::sqlite3_vfs, _name: *const c_char) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "C" fn dl_error(_vfs: *mut ffi::sqlite3_vfs, _len: c_int, _out: *mut c_char) {}
