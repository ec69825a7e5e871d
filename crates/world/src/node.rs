//! A client: the real session, and the real storage on a file, without threads and sockets.

use crate::weather::Weather;
use rejoin::Replica;
use rejoin_client::Options;
use rejoin_client::inside::Storage;
use rejoin_crdt::vector::VersionVector;
use rejoin_sync::State;
use rejoin_sync::client::{Client, Config, Request};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Node {
    pub name: usize,
    /// Whose tokens it has: copies of a file share a subject.
    pub subject: usize,
    path: PathBuf,
    wal: bool,
    owned: bool,
    pub machine: Client,
    /// None: the program does not run.
    pub storage: Option<Storage>,
    /// The application's own connection, but for owned files.
    app: Option<Replica>,
    /// Counts its starts.
    pub life: u64,
    pub conn: Option<u64>,
    pub asked: Option<Request>,
    pub state: State,
    pub skew_ms: i64,
    /// What the server has told of in this connection.
    pub promised: VersionVector,
    /// What it held when it was last looked at, in this incarnation.
    pub held: VersionVector,
    pub site: [u8; 16],
    /// How many steps of the schema it has taken.
    pub step: usize,
    /// The application holds the write lock.
    pub locked: bool,
    /// Up to where it was read row by row by each other node.
    pub cursors: Vec<i64>,
}

impl Node {
    pub fn new(name: usize, dir: &Path, weather: &Weather, owned: bool, seed: u64) -> Node {
        Node {
            name,
            subject: name,
            path: dir.join(format!("client{name}.db")),
            wal: weather.wal,
            owned,
            machine: machine(seed),
            storage: None,
            app: None,
            life: 0,
            conn: None,
            asked: None,
            state: State::Connecting,
            skew_ms: 0,
            promised: VersionVector::new(),
            held: VersionVector::new(),
            site: [0; 16],
            step: 0,
            locked: false,
            cursors: Vec::new(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_up(&self) -> bool {
        self.storage.is_some()
    }

    /// Opens the file, and begins a session.
    pub fn start(&mut self, seed: u64) {
        let mut options = Options { busy_timeout: Duration::ZERO, ..Options::default() };
        options.replica.owned = self.owned;
        let storage = Storage::open(&self.path, "ws://server/room".into(), &options);
        let storage =
            storage.unwrap_or_else(|e| panic!("client {}: the file cannot be opened: {e}", self.name));
        set_up(storage.replica(), self.wal);
        self.app = (!self.owned).then(|| {
            let app = Replica::open(&self.path).expect("a second connection");
            set_up(&app, self.wal);
            app
        });
        let _ = storage.has_changed();
        self.storage = Some(storage);
        self.machine = machine(seed);
        self.state = self.machine.state();
        self.life += 1;
        (self.conn, self.asked, self.locked) = (None, None, false);
    }

    pub fn kill(&mut self) {
        self.app = None;
        self.storage = None;
        self.life += 1;
        (self.conn, self.asked, self.locked) = (None, None, false);
    }

    /// Where the application reads and writes.
    pub fn app(&self) -> &Replica {
        let own = self.storage.as_ref().map(Storage::replica);
        self.app.as_ref().or(own).expect("the program runs")
    }

    pub fn is_owned(&self) -> bool {
        self.owned
    }

    pub fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.skew_ms)
    }
}

fn machine(seed: u64) -> Client {
    Client::new(Config { seed, ..Config::default() })
}

fn set_up(replica: &Replica, wal: bool) {
    let mode = if wal { "wal" } else { "delete" };
    let conn = replica.connection();
    let set = conn.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |r| r.get::<_, String>(0));
    assert_eq!(set.expect("a journal mode"), mode);
    conn.execute_batch("PRAGMA synchronous = OFF").expect("a setting");
}

/// Puts a copy of a database, as it lies on the disk, somewhere else.
pub fn copy(from: &Path, to: &Path) {
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(beside(to, suffix));
    }
    std::fs::copy(from, to).expect("a copy");
    let wal = beside(from, "-wal");
    if wal.exists() {
        std::fs::copy(wal, beside(to, "-wal")).expect("a copy");
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
