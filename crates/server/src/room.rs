//! A room as connections see it: a thread that owns the file, a queue to it, and what it publishes.

use crate::names::RoomName;
use crate::owner::Owner;
use crate::rooms::Common;
use crate::snapshot::Snapshots;
use crate::tail::{Found, Tail};
use rejoin::VersionVector;
use rejoin_sync::server::{Reader, Reply, Request};
use rejoin_wire::frame::{Code, Fault, Id};
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Requests that may wait for a room; clients wait beyond that.
const QUEUE: usize = 256;
/// How often writes of other processes are looked for.
const POLL: Duration = Duration::from_millis(50);
/// The same while there is nobody to tell.
const POLL_ALONE: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// Where a room stands.
#[derive(Clone, Debug)]
pub struct Head {
    pub version: i64,
    pub vector_hash: u64,
    pub schema: Arc<str>,
    pub horizon: Arc<VersionVector>,
}

/// What the thread publishes, and what connections leave for it.
pub struct Shared {
    pub head: watch::Sender<Head>,
    tail: Mutex<Tail>,
    /// Up to which of the room's versions each replica has acknowledged everything.
    acknowledged: Mutex<HashMap<Id, i64>>,
    clients: AtomicU32,
}

impl Shared {
    pub fn new(tail_bytes: u64) -> Shared {
        let (schema, horizon) = (Arc::from(""), Arc::default());
        Shared {
            head: watch::Sender::new(Head { version: 0, vector_hash: 0, schema, horizon }),
            tail: Mutex::new(Tail::new(tail_bytes)),
            acknowledged: Mutex::new(HashMap::new()),
            clients: AtomicU32::new(0),
        }
    }

    pub fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledged(&self) -> MutexGuard<'_, HashMap<Id, i64>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is answered without the room's thread.
    pub fn answer(&self, request: &Request) -> Option<Reply> {
        match request {
            Request::MakeCut { reader: Reader::Since(since), site } => match self.tail().find(*since, site) {
                Found::Cut(cut) => {
                    let upto = cut.upto;
                    Some(Reply::Made { cut: Some(cut), upto })
                }
                Found::Nothing(upto) => Some(Reply::Made { cut: None, upto }),
                Found::Older => None,
            },
            Request::Acknowledged { site, upto } => {
                self.acknowledged().insert(*site, *upto);
                Some(Reply::Acknowledged)
            }
            _ => None,
        }
    }

    pub fn enter(self: &Arc<Shared>) -> Client {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Client(self.clone())
    }

    /// Whether anybody is there to be told.
    pub fn has_clients(&self) -> bool {
        self.clients.load(Ordering::Relaxed) > 0
    }
}

pub struct Room {
    pub name: RoomName,
    pub shared: Arc<Shared>,
    pub snapshots: Snapshots,
    jobs: mpsc::Sender<Job>,
    /// Ends when the thread has closed the file.
    closed: watch::Receiver<bool>,
}

/// A connection that the room tells what is new, until it is dropped.
pub struct Client(Arc<Shared>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    /// Opens the room's file on a thread of its own.
    pub async fn open(name: RoomName, common: Arc<Common>, create: bool) -> Result<Room, Fault> {
        let shared = Arc::new(Shared::new(common.config.limits.tail_bytes));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let (closing, closed) = watch::channel(false);
        let (room, for_thread, handle) = (name.clone(), shared.clone(), Handle::current());
        let snapshots = Snapshots::new(name.file(&common.config.data), common.clone());
        std::thread::Builder::new()
            .name(format!("room {name}"))
            .spawn(move || {
                match Owner::open(room, common, for_thread, create) {
                    Ok(owner) => {
                        let _ = opened.send(Ok(()));
                        serve(owner, queue, &handle);
                    }
                    Err(fault) => drop(opened.send(Err(fault))),
                }
                let _ = closing.send(true);
            })
            .map_err(|e| internal(format!("no thread for the room: {e}")))?;
        opening.await.map_err(|_| internal("the room could not be opened"))??;
        Ok(Room { name, shared, snapshots, jobs, closed })
    }

    pub fn enter(&self) -> Client {
        self.shared.enter()
    }

    /// Runs `f` on the room's thread; None: the room has failed.
    pub fn run<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Owner) -> R + Send + 'static,
    ) -> impl Future<Output = Option<R>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.clone();
        // What the thread logs is logged for this request.
        let span = tracing::Span::current();
        let job: Job = Box::new(move |owner| drop(answer.send(span.in_scope(|| f(owner)))));
        async move {
            jobs.send(job).await.ok()?;
            answered.await.ok()
        }
    }

    /// The same, for a session.
    pub fn ask(
        &self,
        f: impl FnOnce(&mut Owner) -> Reply + Send + 'static,
    ) -> impl Future<Output = Reply> + Send + 'static {
        let asked = self.run(f);
        async move { asked.await.unwrap_or_else(|| Reply::Failed("the room has failed".into())) }
    }

    pub fn has_failed(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Waits until the file of a room that has failed is closed.
    pub async fn ended(&self) {
        let mut closed = self.closed.clone();
        drop(closed.wait_for(|c| *c).await);
    }

    /// Ends the thread and waits until the file is closed.
    pub async fn close(self) {
        let mut closed = self.closed;
        drop(self.jobs);
        drop(closed.wait_for(|c| *c).await);
    }
}

pub fn internal(message: impl Into<String>) -> Fault {
    Fault { code: Code::Internal, message: message.into(), retry_after_ms: None }
}

/// The life of a room's thread.
fn serve(mut owner: Owner, mut queue: mpsc::Receiver<Job>, handle: &Handle) {
    let mut polled = Instant::now();
    loop {
        let poll = if owner.has_clients() { POLL } else { POLL_ALONE };
        let job = match handle.block_on(async { timeout(poll, queue.recv()).await }) {
            Ok(Some(job)) => Some(job),
            Ok(None) => break,
            Err(_) => None,
        };
        let due = polled.elapsed() >= poll;
        let step = AssertUnwindSafe(|| {
            let asked = job.is_some() | owner.follow();
            if let Some(job) = job {
                job(&mut owner);
            }
            if (due && owner.poll()) || asked {
                owner.advance();
            }
        });
        if due {
            polled = Instant::now();
        }
        // A fault of this program ends the room, not the server: the next client opens the file anew.
        if catch_unwind(step).is_err() {
            tracing::error!(room = %owner.name(), "the room has failed and is closed");
            break;
        }
    }
    // Whoever asks from here on opens the room anew, once this thread has ended.
    drop(queue);
    owner.close();
}
