//! All rooms: opened when they are asked for, closed when they are idle or others need their place.

use crate::config::Config;
use crate::limits::Unpacking;
use crate::live::Now;
use crate::names::RoomName;
use crate::room::{Room, internal};
use rejoin_wire::frame::{Code, Fault};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

pub struct Rooms {
    common: Arc<Common>,
    slots: Mutex<HashMap<RoomName, Arc<Slot>>>,
}

/// What all rooms have in common.
pub struct Common {
    pub config: Arc<Config>,
    pub live: Now,
    /// How many snapshots are made at once.
    pub snapshot_places: Semaphore,
    pub unpacking: Unpacking,
}

impl Common {
    pub fn new(config: Arc<Config>, live: Now) -> Common {
        Common {
            snapshot_places: Semaphore::new(config.limits.snapshots_at_once as usize),
            unpacking: Unpacking::new(config.limits.staged_bytes),
            config,
            live,
        }
    }

    /// For rooms without a server.
    #[cfg(feature = "simulation")]
    pub fn alone(config: Config) -> Result<Common, crate::StartError> {
        let live = std::sync::Arc::new(crate::live::Live::new(config.clone())?);
        Ok(Common::new(Arc::new(config), tokio::sync::watch::channel(live).1))
    }
}

/// The place of one room. Whoever holds its lock opens or closes the file, so no file has two owners.
struct Slot {
    room: tokio::sync::Mutex<Option<Arc<Room>>>,
    used: Mutex<Instant>,
}

/// A room in use: it stays open.
pub struct Lease {
    room: Arc<Room>,
    slot: Arc<Slot>,
}

impl Deref for Lease {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slot.touch();
    }
}

impl Slot {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the room unless somebody has taken it meanwhile.
    async fn close(&self) {
        let mut place = self.room.lock().await;
        match place.take().map(Arc::try_unwrap) {
            Some(Ok(room)) => {
                tracing::debug!(room = %room.name, "closed");
                room.close().await;
            }
            Some(Err(in_use)) => *place = Some(in_use),
            None => {}
        }
    }
}

impl Rooms {
    pub fn new(config: Arc<Config>, live: Now) -> Rooms {
        Rooms { common: Arc::new(Common::new(config, live)), slots: Mutex::new(HashMap::new()) }
    }

    /// The room, opened if need be; `create`: made if there is none and its schema allows it.
    pub async fn get(&self, name: &RoomName, create: bool) -> Result<Lease, Fault> {
        let slot = self.slot(name).await?;
        let mut place = slot.room.lock().await;
        if let Some(failed) = place.take_if(|room| room.has_failed()) {
            failed.ended().await;
        }
        let room = match &*place {
            Some(room) => room.clone(),
            None => {
                let room = Arc::new(Room::open(name.clone(), self.common.clone(), create).await?);
                tracing::debug!(room = %name, "opened");
                place.insert(room).clone()
            }
        };
        drop(place);
        Ok(Lease { room, slot })
    }

    async fn slot(&self, name: &RoomName) -> Result<Arc<Slot>, Fault> {
        loop {
            let idle = {
                let mut slots = self.lock();
                if let Some(slot) = slots.get(name) {
                    return Ok(slot.clone());
                }
                if slots.len() < self.common.config.limits.rooms_open as usize {
                    let slot = Arc::new(Slot { room: Default::default(), used: Mutex::new(Instant::now()) });
                    slots.insert(name.clone(), slot.clone());
                    return Ok(slot);
                }
                let idle = slots.iter().filter(|(_, slot)| Arc::strong_count(slot) == 1);
                idle.min_by_key(|(_, slot)| slot.used()).map(|(name, slot)| (name.clone(), slot.clone()))
            };
            let Some((other, slot)) = idle else {
                let message = "as many rooms are in use as this server keeps open".into();
                return Err(Fault { code: Code::Limited, message, retry_after_ms: Some(5000) });
            };
            self.evict(&other, slot).await;
        }
    }

    async fn evict(&self, name: &RoomName, slot: Arc<Slot>) {
        slot.close().await;
        let mut slots = self.lock();
        // The map and this function hold it; anybody else is about to use it.
        if slots.get(name).is_some_and(|s| Arc::ptr_eq(s, &slot)) && Arc::strong_count(&slot) == 2 {
            slots.remove(name);
        }
    }

    /// Closes what nobody uses; whether that was everything.
    pub async fn close_all(&self) -> bool {
        self.sweep(Duration::ZERO).await;
        self.lock().is_empty()
    }

    /// Closes what nobody has used for a while.
    pub async fn sweep(&self, idle: Duration) {
        let old: Vec<_> = {
            let slots = self.lock();
            let idle = slots.iter().filter(|(_, s)| Arc::strong_count(s) == 1 && s.used().elapsed() >= idle);
            idle.map(|(name, slot)| (name.clone(), slot.clone())).collect()
        };
        for (name, slot) in old {
            self.evict(&name, slot).await;
        }
        metrics::gauge!(crate::metrics::ROOMS_OPEN).set(self.lock().len() as f64);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RoomName, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory of all rooms, for one server alone as long as the answer lives.
pub fn lock_data(config: &Config) -> Result<std::fs::File, crate::StartError> {
    let failed = |e: std::io::Error| crate::StartError::file(&config.data, &e);
    std::fs::create_dir_all(&config.data).map_err(failed)?;
    let lock = std::fs::File::create(config.data.join(".lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {
            // What a server that was killed left half made.
            let snapshots = config.data.join(crate::snapshot::FOLDER);
            if snapshots.exists() {
                std::fs::remove_dir_all(&snapshots).map_err(failed)?;
            }
            Ok(lock)
        }
        Err(std::fs::TryLockError::WouldBlock) => Err(crate::StartError::Refused {
            message: format!("{}: another server is running on this directory", config.data.display()),
        }),
        Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}

/// A room that cannot be, as a fault.
pub fn no_room(name: &RoomName, why: &str) -> Fault {
    Fault { code: Code::NoRoom, message: format!("room \"{name}\" {why}"), retry_after_ms: None }
}

/// For what only this program can have done wrong.
pub fn failed(e: &dyn std::fmt::Display) -> Fault {
    internal(e.to_string())
}
