//! How much of the server one client and one subject get.
//!
//! Rates slow a client down: its next frame is read later. Only what cannot be slowed down is refused.

use crate::config::Limits;
use governor::clock::{Clock, DefaultClock};
use governor::state::{InMemoryState, NotKeyed};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

type Direct = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;
type Keyed = DefaultKeyedRateLimiter<String>;

fn per_second(n: u32) -> Quota {
    Quota::per_second(NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
}

/// What one connection may send, over time.
pub struct ConnectionRate {
    frames: Direct,
    bytes: Direct,
}

impl ConnectionRate {
    pub fn new(limits: &Limits) -> ConnectionRate {
        ConnectionRate {
            frames: RateLimiter::direct(per_second(limits.frames_per_s)),
            bytes: RateLimiter::direct(per_second(limits.bytes_per_s)),
        }
    }
}

/// What a connection has sent and not been counted for. Only what is within the rate is counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debt {
    frame: bool,
    bytes: u32,
    subject_bytes: u32,
}

impl Debt {
    pub fn frame(bytes: usize) -> Debt {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Debt { frame: true, bytes, subject_bytes: bytes }
    }

    pub fn is_paid(&self) -> bool {
        !self.frame && self.bytes == 0 && self.subject_bytes == 0
    }
}

/// What all connections of one subject may do together.
pub struct Subjects {
    bytes: Keyed,
    requests: Keyed,
    connections: Mutex<HashMap<String, u32>>,
    connections_max: u32,
}

/// A WebSocket of a subject, counted until it is dropped.
pub struct Place {
    subjects: Arc<Subjects>,
    subject: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.subjects.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.subject);
            }
        }
    }
}

impl Subjects {
    pub fn new(limits: &Limits) -> Subjects {
        Subjects {
            bytes: RateLimiter::hashmap(per_second(limits.subject_bytes_per_s)),
            requests: RateLimiter::hashmap(per_second(limits.requests_per_s)),
            connections: Mutex::new(HashMap::new()),
            connections_max: limits.connections_per_subject,
        }
    }

    /// None: the subject has as many connections as it may.
    pub fn enter(self: &Arc<Self>, subject: &str) -> Option<Place> {
        let mut counts = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(subject.to_owned()).or_default();
        if *count >= self.connections_max {
            return None;
        }
        *count += 1;
        Some(Place { subjects: self.clone(), subject: subject.to_owned() })
    }

    /// An HTTP request; else how long to wait.
    pub fn request(&self, subject: &String) -> Result<(), Duration> {
        self.requests.check_key(subject).map_err(|e| e.wait_time_from(DefaultClock::default().now()))
    }

    /// Counts what fits into the rates; how long the rest has to wait. Before the token is known there is no subject.
    pub fn pay(
        &self,
        debt: &mut Debt,
        subject: Option<&String>,
        connection: &ConnectionRate,
    ) -> Option<Duration> {
        let now = DefaultClock::default().now();
        let mut wait = None;
        if debt.frame {
            let checked = connection.frames.check().map_err(|e| e.wait_time_from(now));
            debt.frame = checked.is_err();
            wait = wait.max(checked.err());
        }
        if let Some(bytes) = NonZeroU32::new(debt.bytes) {
            // What is more than the rate in one piece cannot be: a frame has a bound below it.
            let checked =
                connection.bytes.check_n(bytes).unwrap_or(Ok(())).map_err(|e| e.wait_time_from(now));
            debt.bytes = if checked.is_err() { debt.bytes } else { 0 };
            wait = wait.max(checked.err());
        }
        if let (Some(bytes), Some(subject)) = (NonZeroU32::new(debt.subject_bytes), subject) {
            let checked =
                self.bytes.check_key_n(subject, bytes).unwrap_or(Ok(())).map_err(|e| e.wait_time_from(now));
            debt.subject_bytes = if checked.is_err() { debt.subject_bytes } else { 0 };
            wait = wait.max(checked.err());
        } else {
            debt.subject_bytes = 0;
        }
        wait
    }

    /// Forgets subjects that have done nothing for a while.
    pub fn sweep(&self) {
        self.bytes.retain_recent();
        self.requests.retain_recent();
    }
}

/// Memory for what the rooms unpack at the same time.
pub struct Unpacking {
    most: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A part of it, until it is dropped.
pub struct Unpacked<'a> {
    of: &'a Unpacking,
    bytes: u64,
}

impl Unpacking {
    pub fn new(most: u64) -> Unpacking {
        Unpacking { most, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until there is room for so many bytes. One room alone always has it.
    pub fn wait_for(&self, bytes: u64) -> Unpacked<'_> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |used: &mut u64| *used > 0 && *used + bytes > self.most;
        let mut used = self.freed.wait_while(used, full).unwrap_or_else(PoisonError::into_inner);
        *used += bytes;
        Unpacked { of: self, bytes }
    }
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        *self.of.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.of.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_slow_down() {
        let limits = Limits { frames_per_s: 10, bytes_per_s: 1000, ..Limits::default() };
        let subjects = Subjects::new(&limits);
        let ann = "ann".to_owned();
        let pay = |debt: &mut Debt, rate: &ConnectionRate| subjects.pay(debt, Some(&ann), rate);
        let rate = ConnectionRate::new(&limits);
        assert!((0..10).all(|_| pay(&mut Debt::frame(1), &rate).is_none()));
        assert!(pay(&mut Debt::frame(1), &rate).is_some());
        let rate = ConnectionRate::new(&limits);
        assert!(pay(&mut Debt::frame(1000), &rate).is_none());
        let mut debt = Debt::frame(500);
        let wait = pay(&mut debt, &rate).expect("a wait");
        assert!(wait > Duration::from_millis(300) && wait <= Duration::from_millis(510), "{wait:?}");
        // Waiting pays nothing by itself.
        assert!(!debt.is_paid() && pay(&mut debt, &rate).is_some());
        std::thread::sleep(wait);
        assert!(pay(&mut debt, &rate).is_none() && debt.is_paid());
    }

    #[test]
    fn who_unpacks_waits_for_the_others() {
        let unpacking = Arc::new(Unpacking::new(100));
        // More than all, but alone.
        let first = unpacking.wait_for(150);
        let (told, hears) = std::sync::mpsc::channel();
        let second = {
            let unpacking = unpacking.clone();
            std::thread::spawn(move || {
                let part = unpacking.wait_for(60);
                told.send(()).unwrap();
                drop((unpacking.wait_for(40), part));
            })
        };
        assert!(hears.recv_timeout(Duration::from_millis(200)).is_err());
        drop(first);
        hears.recv_timeout(Duration::from_secs(60)).unwrap();
        second.join().unwrap();
        assert_eq!(*unpacking.used.lock().unwrap(), 0);
    }

    #[test]
    fn connections_of_a_subject_are_counted() {
        let limits = Limits { connections_per_subject: 2, ..Limits::default() };
        let subjects = Arc::new(Subjects::new(&limits));
        let first = subjects.enter("ann");
        let second = subjects.enter("ann");
        assert!(first.is_some() && second.is_some() && subjects.enter("bob").is_some());
        assert!(subjects.enter("ann").is_none());
        drop(first);
        assert!(subjects.enter("ann").is_some());
    }

    #[test]
    fn requests_are_refused_for_a_moment() {
        let subjects = Subjects::new(&Limits { requests_per_s: 2, ..Limits::default() });
        let ann = "ann".to_owned();
        assert!(subjects.request(&ann).is_ok() && subjects.request(&ann).is_ok());
        assert!(subjects.request(&ann).is_err_and(|wait| wait <= Duration::from_secs(1)));
        assert!(subjects.request(&"bob".to_owned()).is_ok());
    }
}
