//! What all connections share.

use crate::config::Config;
use crate::limits::Subjects;
use crate::live::Live;
use crate::rooms::Rooms;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

pub struct App {
    pub config: Config,
    /// What can change while the server runs.
    pub live: watch::Sender<Arc<Live>>,
    pub subjects: Arc<Subjects>,
    pub rooms: Arc<Rooms>,
    pub budget: Arc<Budget>,
    pub prometheus: Option<PrometheusHandle>,
    /// True from the moment when the server is told to stop.
    pub drain: watch::Sender<bool>,
    /// Counts requests; the first part tells runs of the server apart.
    boot: u32,
    requests: AtomicU64,
}

impl App {
    pub fn new(config: Config, live: watch::Sender<Arc<Live>>, rooms: Arc<Rooms>) -> App {
        App {
            subjects: Arc::new(Subjects::new(&config.limits)),
            budget: Arc::new(Budget { most: config.limits.staged_bytes, used: AtomicU64::new(0) }),
            prometheus: crate::metrics::install(),
            drain: watch::Sender::new(false),
            boot: getrandom::u32().unwrap_or_default(),
            requests: AtomicU64::new(1),
            config,
            live,
            rooms,
        }
    }

    /// As it is now.
    pub fn live(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// The number of a request or session, unique in a run.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// As it stands in logs and in the header `x-request-id`.
    pub fn request_id(&self, number: u64) -> String {
        format!("{:08x}-{number}", self.boot)
    }

    pub fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }
}

pub fn now_ms() -> u64 {
    u64::try_from(rejoin::ambient::now_ms()).unwrap_or(0)
}

/// Memory for changesets of all clients together.
pub struct Budget {
    most: u64,
    used: AtomicU64,
}

/// One client's part of the budget, given back when it is dropped.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Whether the client may hold so much. One alone always may.
    pub fn set(&mut self, bytes: u64) -> bool {
        let used = &self.budget.used;
        if bytes <= self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return true;
        }
        let more = bytes - self.bytes;
        let before = used.fetch_add(more, Ordering::Relaxed);
        self.bytes = bytes;
        before + more <= self.budget.most || before + more == bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared() {
        let budget = Arc::new(Budget { most: 100, used: AtomicU64::new(0) });
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.set(150) && a.set(60) && b.set(40));
        assert!(!b.set(41));
        drop(a);
        assert!(b.set(100));
        drop(b);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
