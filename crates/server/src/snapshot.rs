//! Snapshots of a room, for the first sync: made once, kept until the room has moved on, read by everybody.
//!
//! One is made on a connection of its own, so nobody waits for it who writes. Its file has no name as soon as it is made:
//! it goes when the last reader does, whatever happens to the server.

use crate::members::TABLES;
use crate::rooms::Common;
use rejoin::{Options, Replica, VersionVector};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use tokio::sync::Mutex;

pub const FOLDER: &str = ".snapshots";

pub struct Snapshot {
    /// One place to read at for all downloads: a piece is read from memory, as a rule.
    file: std::sync::Mutex<File>,
    pub bytes: u64,
    /// BLAKE3, in hex; also the entity tag.
    pub hash: String,
    version: i64,
    vector: VersionVector,
}

impl Snapshot {
    /// Fills the buffer with what stands at `start`.
    pub fn read(&self, start: u64, into: &mut [u8]) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(into)
    }
}

pub struct Snapshots {
    room: PathBuf,
    folder: PathBuf,
    moves_max: i64,
    last: Mutex<Option<Arc<Snapshot>>>,
    common: Arc<Common>,
}

impl Snapshots {
    pub fn new(room: PathBuf, common: Arc<Common>) -> Snapshots {
        Snapshots {
            room,
            folder: common.config.data.join(FOLDER),
            moves_max: i64::from(common.config.limits.snapshot_transactions),
            last: Mutex::new(None),
            common,
        }
    }

    /// A snapshot that is not too old for a room at `version`, and lacks nothing below its horizon: who has it is to be let in.
    pub async fn get(&self, version: i64, horizon: &VersionVector) -> Result<Arc<Snapshot>, String> {
        let mut last = self.last.lock().await;
        if let Some(snapshot) = &*last
            && version - snapshot.version <= self.moves_max
            && snapshot.vector.covers(horizon)
        {
            return Ok(snapshot.clone());
        }
        let _place = self.common.snapshot_places.acquire().await.map_err(|e| e.to_string())?;
        let (room, folder) = (self.room.clone(), self.folder.clone());
        let made = tokio::task::spawn_blocking(move || make(&room, &folder, version));
        let made = Arc::new(made.await.map_err(|e| e.to_string())??);
        metrics::counter!(crate::metrics::SNAPSHOTS).increment(1);
        Ok(last.insert(made).clone())
    }
}

/// Writes a snapshot of a room.
pub fn write(room: &Path, snapshot: &Path) -> Result<rejoin::Snapshot, rejoin::Error> {
    let mut options = Options::default();
    options.create = false;
    Replica::open_with(room, options)?.snapshot_to(snapshot, &TABLES)
}

fn make(room: &Path, folder: &Path, version: i64) -> Result<Snapshot, String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let path = folder.join(format!("{}.db", COUNT.fetch_add(1, Ordering::Relaxed)));
    let made = (|| {
        let vector = write(room, &path).map_err(|e| e.to_string())?.vector;
        let file = File::open(&path).map_err(|e| e.to_string())?;
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut &file, &mut hasher).map_err(|e| e.to_string())?;
        let bytes = file.metadata().map_err(|e| e.to_string())?.len();
        let file = std::sync::Mutex::new(file);
        Ok(Snapshot { file, bytes, hash: hasher.finalize().to_hex().to_string(), version, vector })
    })();
    let _ = std::fs::remove_file(&path);
    made
}
