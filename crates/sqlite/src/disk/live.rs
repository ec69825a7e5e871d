//! What programs see: files, locks, shared memory, and the faults among the calls.
//!
//! An error is a result code of SQLite.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rusqlite::ffi;

use super::SECTOR;
use super::durable::{self, Durable, FileId, Image, Log, Op};

pub type HandleId = u64;
pub type Answer<T = ()> = Result<T, c_int>;

/// Calls that can fail. Closing and unlocking cannot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    Open,
    Delete,
    Access,
    Read,
    Write,
    Truncate,
    Sync,
    Size,
    Lock,
    ShmMap,
    ShmLock,
}

impl Call {
    pub const ALL: [Call; 11] = [
        Call::Open,
        Call::Delete,
        Call::Access,
        Call::Read,
        Call::Write,
        Call::Truncate,
        Call::Sync,
        Call::Size,
        Call::Lock,
        Call::ShmMap,
        Call::ShmLock,
    ];

    /// What such a call answers when the device fails.
    fn error(self) -> c_int {
        match self {
            Call::Open => ffi::SQLITE_CANTOPEN,
            Call::Delete => ffi::SQLITE_IOERR_DELETE,
            Call::Access => ffi::SQLITE_IOERR_ACCESS,
            Call::Read => ffi::SQLITE_IOERR_READ,
            Call::Write => ffi::SQLITE_IOERR_WRITE,
            Call::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
            Call::Sync => ffi::SQLITE_IOERR_FSYNC,
            Call::Size => ffi::SQLITE_IOERR_FSTAT,
            Call::Lock => ffi::SQLITE_IOERR_LOCK,
            Call::ShmMap => ffi::SQLITE_IOERR_SHMMAP,
            Call::ShmLock => ffi::SQLITE_IOERR_SHMLOCK,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// None: calls of all kinds count.
    pub call: Option<Call>,
    /// Which call fails, counted from 1 from now on.
    pub nth: u64,
    /// All after it fail, too.
    pub lasting: bool,
    /// None: the error of the kind of call.
    pub code: Option<i32>,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// None: temporary or deleted.
    name: Option<Arc<str>>,
    temporary: bool,
    /// Lock levels of SQLite by handle, as far as they are above none.
    locks: BTreeMap<HandleId, c_int>,
    shm: Shm,
}

#[derive(Default)]
struct Shm {
    /// Atomics, since SQLite writes to them behind our back.
    regions: Vec<Box<[AtomicU64]>>,
    /// Locks of the handles that have it mapped: shared and exclusive, a bit each.
    holders: BTreeMap<HandleId, (u32, u32)>,
}

impl Shm {
    /// When the last one is gone the memory goes, as the first to come would clear it anyway.
    fn leave(&mut self, handle: HandleId) {
        self.holders.remove(&handle);
        if self.holders.is_empty() {
            self.regions.clear();
        }
    }
}

#[derive(Default)]
pub struct State {
    names: HashMap<Arc<str>, FileId>,
    files: BTreeMap<FileId, File>,
    handles: HashMap<HandleId, FileId>,
    last_id: u64,
    pub durable: Durable,
    pub log: Option<Log>,
    counts: HashMap<Call, u64>,
    fault: Option<Fault>,
    /// Calls that counted towards the fault.
    met: u64,
    pub failures: u64,
    pub room: Option<u64>,
}

impl State {
    pub fn from_image(image: &Image) -> State {
        let mut state = State::default();
        let mut stored = Vec::new();
        for (name, bytes) in image.files() {
            let (name, id): (Arc<str>, _) = (name.into(), state.new_id());
            state.names.insert(Arc::clone(&name), id);
            let file = File { bytes: bytes.to_vec(), name: Some(Arc::clone(&name)), ..File::default() };
            state.files.insert(id, file);
            stored.push((name, id, Arc::new(bytes.to_vec())));
        }
        state.durable = Durable::of(stored);
        state
    }

    pub fn image(&self) -> Image {
        let mut image = Image::default();
        for (name, id) in &self.names {
            let bytes = self.files.get(id).map(|f| f.bytes.clone()).unwrap_or_default();
            image.insert(Arc::clone(name), Arc::new(bytes));
        }
        image
    }

    pub fn is_in_use(&self) -> bool {
        !self.handles.is_empty()
    }

    pub fn used(&self) -> u64 {
        self.files.values().map(|f| f.bytes.len() as u64).sum()
    }

    pub fn calls(&self, call: Option<Call>) -> u64 {
        match call {
            Some(call) => self.counts.get(&call).copied().unwrap_or(0),
            None => self.counts.values().sum(),
        }
    }

    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        self.met = 0;
    }

    pub fn record(&mut self) {
        self.log = Some(Log::new(self.durable.clone()));
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Counts a call; an error if it is to fail.
    fn call(&mut self, call: Call) -> Answer {
        *self.counts.entry(call).or_default() += 1;
        let Some(fault) = self.fault.filter(|f| f.call.is_none_or(|c| c == call)) else {
            return Ok(());
        };
        self.met += 1;
        if self.met == fault.nth || (fault.lasting && self.met > fault.nth) {
            self.failures += 1;
            if std::env::var_os("REJOIN_FAULT_TRACE").is_some() {
                eprintln!("{call:?} fails in\n{}", std::backtrace::Backtrace::force_capture());
            }
            return Err(fault.code.unwrap_or_else(|| call.error()));
        }
        Ok(())
    }

    fn done(&mut self, op: Op) {
        self.durable.step(&op);
        if let Some(log) = &mut self.log {
            log.push(op);
        }
    }

    /// The file of a handle; that of a disk that is gone is none.
    fn file(&mut self, handle: HandleId) -> Answer<(FileId, &mut File)> {
        let id = *self.handles.get(&handle).ok_or(ffi::SQLITE_IOERR)?;
        Ok((id, self.files.get_mut(&id).ok_or(ffi::SQLITE_IOERR)?))
    }

    // ---- names ----

    pub fn open(&mut self, name: Option<&str>, flags: c_int) -> Answer<HandleId> {
        self.call(Call::Open)?;
        let known = name.and_then(|n| self.names.get(n).copied());
        let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
        let fresh = flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0;
        let id = match known {
            Some(id) if !(create && fresh) => id,
            Some(_) => return Err(ffi::SQLITE_CANTOPEN),
            None if create || name.is_none() => self.create(name, flags),
            None => return Err(ffi::SQLITE_CANTOPEN),
        };
        let handle = self.new_id();
        self.handles.insert(handle, id);
        Ok(handle)
    }

    fn create(&mut self, name: Option<&str>, flags: c_int) -> FileId {
        let id = self.new_id();
        let temporary = name.is_none() || flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0;
        let name: Option<Arc<str>> = name.filter(|_| !temporary).map(Arc::from);
        if let Some(name) = &name {
            self.names.insert(Arc::clone(name), id);
            self.done(Op::Create { name: Arc::clone(name), file: id });
        }
        self.files.insert(id, File { name, temporary, ..File::default() });
        id
    }

    pub fn close(&mut self, handle: HandleId) {
        let Some(id) = self.handles.remove(&handle) else { return };
        let Some(file) = self.files.get_mut(&id) else { return };
        file.locks.remove(&handle);
        file.shm.leave(handle);
        if file.name.is_none() && !self.handles.values().any(|open| *open == id) {
            self.files.remove(&id);
        }
    }

    pub fn delete(&mut self, name: &str, sync_dir: bool) -> Answer {
        self.call(Call::Delete)?;
        let (name, id) = self.names.remove_entry(name).ok_or(ffi::SQLITE_IOERR_DELETE_NOENT)?;
        if self.handles.values().any(|open| *open == id) {
            if let Some(file) = self.files.get_mut(&id) {
                file.name = None;
            }
        } else {
            self.files.remove(&id);
        }
        self.done(Op::Delete { name, synced: sync_dir });
        Ok(())
    }

    pub fn exists(&mut self, name: &str) -> Answer<bool> {
        self.call(Call::Access)?;
        // SQLite asks for journals: an empty one is as good as none.
        let id = self.names.get(name);
        Ok(id.is_some_and(|id| self.files.get(id).is_some_and(|f| !f.bytes.is_empty())))
    }

    // ---- bytes ----

    /// Fills the front of `buf`, which is zero; whether all of it was there.
    pub fn read(&mut self, handle: HandleId, buf: &mut [u8], offset: u64) -> Answer {
        self.call(Call::Read)?;
        let (_, file) = self.file(handle)?;
        let there = file.bytes.get(offset as usize..).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        if len < buf.len() { Err(ffi::SQLITE_IOERR_SHORT_READ) } else { Ok(()) }
    }

    pub fn write(&mut self, handle: HandleId, data: &[u8], offset: u64) -> Answer {
        let mut answer = self.call(Call::Write);
        let (_, file) = self.file(handle)?;
        let grows = (offset + data.len() as u64).saturating_sub(file.bytes.len() as u64);
        if answer.is_ok() && self.room.is_some_and(|room| grows > 0 && self.used() + grows > room) {
            self.failures += 1;
            answer = Err(ffi::SQLITE_FULL);
        }
        let len = if answer.is_ok() { data.len() } else { data.len() / 2 / SECTOR * SECTOR };
        let (id, file) = self.file(handle)?;
        if len == 0 {
            return answer;
        }
        durable::write_at(&mut file.bytes, offset, &data[..len]);
        if !file.temporary {
            self.done(Op::Write { file: id, offset, data: data[..len].into() });
        }
        answer
    }

    pub fn truncate(&mut self, handle: HandleId, size: u64) -> Answer {
        self.call(Call::Truncate)?;
        let (id, file) = self.file(handle)?;
        durable::truncate(&mut file.bytes, size);
        if !file.temporary {
            self.done(Op::Truncate { file: id, size });
        }
        Ok(())
    }

    pub fn sync(&mut self, handle: HandleId) -> Answer {
        self.call(Call::Sync)?;
        let (id, file) = self.file(handle)?;
        if !file.temporary {
            self.done(Op::Sync { file: id });
        }
        Ok(())
    }

    pub fn size(&mut self, handle: HandleId) -> Answer<u64> {
        self.call(Call::Size)?;
        Ok(self.file(handle)?.1.bytes.len() as u64)
    }

    // ---- locks ----

    pub fn lock(&mut self, handle: HandleId, level: c_int) -> Answer {
        self.call(Call::Lock)?;
        let (_, file) = self.file(handle)?;
        let others = file.locks.iter().filter(|(h, _)| **h != handle).map(|(_, l)| *l).max().unwrap_or(0);
        let own = file.locks.entry(handle).or_default();
        if *own >= level {
            return Ok(());
        }
        let allowed = match level {
            ffi::SQLITE_LOCK_SHARED => others < ffi::SQLITE_LOCK_PENDING,
            ffi::SQLITE_LOCK_RESERVED => others < ffi::SQLITE_LOCK_RESERVED,
            _ => others == ffi::SQLITE_LOCK_NONE,
        };
        if allowed {
            *own = level;
            return Ok(());
        }
        if level == ffi::SQLITE_LOCK_EXCLUSIVE && others == ffi::SQLITE_LOCK_SHARED {
            // Readers may end, new ones may not begin.
            *own = ffi::SQLITE_LOCK_PENDING;
        }
        Err(ffi::SQLITE_BUSY)
    }

    pub fn unlock(&mut self, handle: HandleId, level: c_int) -> Answer {
        let (_, file) = self.file(handle)?;
        if level == ffi::SQLITE_LOCK_NONE {
            file.locks.remove(&handle);
        } else {
            file.locks.insert(handle, level);
        }
        Ok(())
    }

    pub fn is_reserved(&mut self, handle: HandleId) -> Answer<bool> {
        let (_, file) = self.file(handle)?;
        Ok(file.locks.values().any(|l| *l >= ffi::SQLITE_LOCK_RESERVED))
    }

    // ---- shared memory ----

    /// A region of `bytes` bytes, valid until the last handle unmaps; None: there is none, and none is to be made.
    pub fn shm_map(
        &mut self,
        handle: HandleId,
        region: usize,
        bytes: usize,
        extend: bool,
    ) -> Answer<Option<*mut AtomicU64>> {
        self.call(Call::ShmMap)?;
        let shm = &mut self.file(handle)?.1.shm;
        shm.holders.entry(handle).or_default();
        while extend && shm.regions.len() <= region {
            shm.regions.push((0..bytes / size_of::<AtomicU64>()).map(|_| AtomicU64::new(0)).collect());
        }
        Ok(shm.regions.get(region).map(|r| r.as_ptr().cast_mut()))
    }

    pub fn shm_lock(&mut self, handle: HandleId, slots: u32, flags: c_int) -> Answer {
        let unlock = flags & ffi::SQLITE_SHM_UNLOCK != 0;
        if !unlock {
            self.call(Call::ShmLock)?;
        }
        let shm = &mut self.file(handle)?.1.shm;
        let (mut shared, mut exclusive) = (0, 0);
        for (_, (s, x)) in shm.holders.iter().filter(|(h, _)| **h != handle) {
            shared |= s;
            exclusive |= x;
        }
        let own = shm.holders.entry(handle).or_default();
        let wants_all = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
        if unlock {
            *own = (own.0 & !slots, own.1 & !slots);
        } else if slots & (exclusive | if wants_all { shared } else { 0 }) != 0 {
            return Err(ffi::SQLITE_BUSY);
        } else if wants_all {
            own.1 |= slots;
        } else {
            own.0 |= slots;
        }
        Ok(())
    }

    pub fn shm_unmap(&mut self, handle: HandleId) -> Answer {
        self.file(handle)?.1.shm.leave(handle);
        Ok(())
    }
}
