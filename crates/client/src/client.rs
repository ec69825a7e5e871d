//! The client as programs see it.

use crate::dial::Dialer;
use crate::driver::{Command, Driver};
use crate::error::Error;
use crate::options::Options;
use crate::storage::{self, Job};
use crate::url::RoomUrl;
use rejoin::Replica;
use rejoin_sync::State;
use rejoin_sync::client::Event;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Where the client stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    pub state: State,
    /// Own transactions that the server has not applied and acknowledged; also offline.
    pub pending: u64,
    /// Connected, and nothing more happens until somebody writes or does something.
    pub settled: bool,
    /// Bytes of frames since the start.
    pub sent: u64,
    pub received: u64,
}

/// Keeps a database equal to a room until it is stopped or dropped.
pub struct SyncClient {
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::UnboundedSender<Event>,
    jobs: Option<Sender<Job>>,
    report: watch::Receiver<Report>,
    threads: Vec<JoinHandle<()>>,
}

impl SyncClient {
    /// Opens the database and starts syncing. An error is about the database, the address or the token file; whatever happens
    /// later is a state.
    pub fn start(path: impl AsRef<Path>, url: &str, mut options: Options) -> Result<SyncClient, Error> {
        let path = path.as_ref();
        let dialer = Dialer::new(RoomUrl::parse(url)?, options.ca_file.as_deref())?;
        let (events, happened) = mpsc::unbounded_channel();
        let (commands, commanded) = mpsc::unbounded_channel();
        let (jobs, to_do) = std::sync::mpsc::channel();
        let first = Report { state: State::Connecting, pending: 0, settled: false, sent: 0, received: 0 };
        let (told, report) = watch::channel(first);
        let driver = Driver::new(dialer.clone(), &mut options, path.to_owned(), jobs.clone(), told)?;
        let storage = storage::start(path, dialer.url().to_string(), options, to_do, events.clone())?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::System)?;
        let drive = move || {
            runtime.block_on(driver.run(commanded, happened));
            // Frames that are still to be written, and the goodbye.
            runtime.shutdown_timeout(Duration::from_millis(500));
        };
        let driver =
            std::thread::Builder::new().name("rejoin-sync".into()).spawn(drive).map_err(Error::System)?;
        Ok(SyncClient { commands, events, jobs: Some(jobs), report, threads: vec![driver, storage] })
    }

    pub fn state(&self) -> State {
        self.report.borrow().state.clone()
    }

    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Tells of each change from here on.
    pub fn watch(&self) -> Watch {
        Watch { report: self.report.clone() }
    }

    /// A token that takes the place of the last one, also in an open connection.
    pub fn set_token(&self, token: impl Into<String>) {
        let _ = self.commands.send(Command::Token(token.into()));
    }

    /// Runs `f` with the client's own connection to the database, on the thread that has it. Sync waits meanwhile.
    pub fn with<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Replica) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (done, result) = std::sync::mpsc::channel();
        let job = Job::Run(Box::new(move |replica| drop(done.send(f(replica)))));
        self.jobs.as_ref().ok_or(Error::Stopped)?.send(job).map_err(|_| Error::Stopped)?;
        result.recv().map_err(|_| Error::Stopped)
    }

    /// Lets commits of another connection of this program be sent at once; they are noticed within 20 ms anyway.
    pub fn observe(&self, replica: &Replica) -> Result<(), Error> {
        let notifier = self.notifier();
        replica.on_local_commit(move || notifier.notify())?;
        Ok(())
    }

    /// For programs that write without a [`Replica`].
    pub fn notifier(&self) -> Notifier {
        Notifier { events: self.events.clone() }
    }

    /// Ends the connection and closes the database.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for SyncClient {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says that the database was written to.
#[derive(Clone, Debug)]
pub struct Notifier {
    events: mpsc::UnboundedSender<Event>,
}

impl Notifier {
    pub fn notify(&self) {
        let _ = self.events.send(Event::Changed);
    }
}

/// Each change of the report; where several come at once, the last.
#[derive(Clone, Debug)]
pub struct Watch {
    report: watch::Receiver<Report>,
}

impl Watch {
    /// Waits for a change; None: the client was stopped. On any async runtime.
    pub async fn changed(&mut self) -> Option<Report> {
        self.report.changed().await.ok()?;
        Some(self.report.borrow_and_update().clone())
    }

    /// The same for a thread that may be blocked.
    pub fn wait(&mut self, most: Duration) -> Waited {
        match block_on(self.changed(), Instant::now() + most) {
            Some(Some(report)) => Waited::Changed(report),
            Some(None) => Waited::Stopped,
            None => Waited::TimedOut,
        }
    }
}

/// What [`Watch::wait`] waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    Changed(Report),
    /// The client was stopped.
    Stopped,
    TimedOut,
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F, until: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(done);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// How long [`sync_once`] tries to reach a server that was there.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Brings both sides up to date, and returns when that is done or cannot be: the report's state is `Synced`, or says why it is
/// not. A server that cannot be reached is given up at once; one that is lost on the way, or takes nothing, after half a minute.
pub fn sync_once(path: impl AsRef<Path>, url: &str, options: Options) -> Result<Report, Error> {
    let client = SyncClient::start(path, url, options)?;
    let mut watch = client.watch();
    let mut ending = Ending::default();
    loop {
        match watch.wait(Duration::from_millis(500)) {
            Waited::Stopped => return Err(Error::Stopped),
            Waited::Changed(_) | Waited::TimedOut => {}
        }
        let report = client.report();
        if ending.is_end(&report) {
            client.stop();
            return Ok(report);
        }
    }
}

/// So many bytes more tell that something goes on, though the connection is lost again and again.
const GOES_ON_BYTES: u64 = 256 << 10;

/// Tells when nothing more is to be waited for.
#[derive(Debug, Default)]
pub struct Ending {
    /// The server was there.
    reached: bool,
    /// Since when it is lost, or comes only to be lost again.
    lost: Option<Instant>,
    /// What was pending and had travelled when something last went on.
    pending: Option<u64>,
    bytes: u64,
    /// Since when the server does not take what is sent, and what was pending and had come then. It is sent again, so that is no
    /// sign that something goes on.
    refused: Option<(Instant, u64, u64)>,
}

impl Ending {
    pub fn is_end(&mut self, report: &Report) -> bool {
        // States that follow each other quickly are seen as the last of them.
        self.reached |= report.received > 0;
        match &report.state {
            State::Incompatible { .. } => true,
            State::Offline { .. } if !self.reached => true,
            State::Offline { .. } => self.lost.get_or_insert_with(Instant::now).elapsed() > GIVE_UP,
            State::Connecting => false,
            _ => {
                let bytes = report.sent + report.received;
                let fewer = self.pending.is_none_or(|pending| report.pending < pending);
                if fewer || bytes >= self.bytes + GOES_ON_BYTES {
                    (self.lost, self.pending, self.bytes) = (None, Some(report.pending), bytes);
                }
                self.reached = true;
                report.settled || self.is_refused(report)
            }
        }
    }

    /// A server whose disk is full, or a quota, says so each time it is tried again.
    fn is_refused(&mut self, report: &Report) -> bool {
        let went_on = |(_, pending, received): &(Instant, u64, u64)| {
            report.pending < *pending || report.received >= received + GOES_ON_BYTES
        };
        if self.refused.as_ref().is_some_and(went_on) {
            self.refused = None;
        }
        let State::Behind { .. } = report.state else { return false };
        let now = (Instant::now(), report.pending, report.received);
        self.refused.get_or_insert(now).0.elapsed() > GIVE_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_reached_is_waited_for_though_nobody_saw_it() {
        let why = String::new();
        let offline = Report {
            state: State::Offline { why, retry_at_ms: None },
            pending: 1,
            settled: false,
            sent: 100,
            received: 0,
        };
        assert!(Ending::default().is_end(&offline));
        assert!(!Ending::default().is_end(&Report { received: 100, ..offline }));
    }

    #[test]
    fn what_is_refused_again_and_again_is_an_end() {
        let mut ending = Ending::default();
        let sent_again = |ending: &mut Ending, pending, sent| {
            let (settled, received) = (false, 0);
            let state = State::Syncing { pending, bytes: 0 };
            let syncing = Report { state, pending, settled, sent, received };
            let state = State::Behind { pending, reason: "disk full".into() };
            let behind = Report { state, ..syncing.clone() };
            (ending.is_end(&syncing), ending.is_end(&behind))
        };
        assert_eq!(sent_again(&mut ending, 2, GOES_ON_BYTES), (false, false));
        let long_ago = |ending: &mut Ending| {
            let refused = ending.refused.as_mut().expect("it was refused");
            refused.0 = refused.0.checked_sub(GIVE_UP * 2).expect("a clock that has run for a minute");
        };
        long_ago(&mut ending);
        // One was taken: it goes on.
        assert_eq!(sent_again(&mut ending, 1, 2 * GOES_ON_BYTES), (false, false));
        long_ago(&mut ending);
        assert_eq!(sent_again(&mut ending, 1, 3 * GOES_ON_BYTES), (false, true));
    }
}
