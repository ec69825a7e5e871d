//! A server in a folder, and replicas beside it.

use rejoin::Replica;
use rejoin_client::{Options, Report, State, SyncClient, Waited, Watch};
use rejoin_server::{Server, config};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Place {
    dir: TempDir,
    pub address: SocketAddr,
    config: String,
    running: Option<(Runtime, Server)>,
}

impl Place {
    /// A server for everybody.
    pub fn new() -> Place {
        Place::with("", &[])
    }

    /// A server with a configuration, and the files that it names; without `[auth]` in it, for everybody.
    pub fn with(config: &str, files: &[(&str, &str)]) -> Place {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("write a file");
        }
        let address = "127.0.0.1:0".parse().expect("an address");
        let mut place = Place { dir, address, config: config.to_owned(), running: None };
        place.start();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn room_file(&self, room: &str) -> PathBuf {
        self.path("rooms").join(format!("{room}.db"))
    }

    /// Starts the server, where it was before if it was.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let file = self.path("server.toml");
        std::fs::write(&file, &self.config).expect("write a file");
        let options = config::Options {
            data: Some(self.path("rooms")),
            listen: Some(self.address.to_string()),
            config: Some(file),
            insecure_no_auth: !self.config.contains("[auth]"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let config = config::load(&options).expect("a good configuration");
        let server = runtime.block_on(Server::start(config)).expect("the server starts");
        self.address = server.address();
        self.running = Some((runtime, server));
    }

    /// Adds to the configuration, for the next start.
    pub fn configure(&mut self, more: &str) {
        self.config = format!("{more}{}", self.config);
        if let Some(at) = self.config.find("schema = 'adopt'\n") {
            // Tables come last in TOML.
            let line = self.config.drain(at..at + 17).collect::<String>();
            self.config.insert_str(0, &line);
        }
    }

    /// The server drains and ends.
    pub fn stop(&mut self) {
        let (runtime, server) = self.running.take().expect("it runs");
        runtime.block_on(server.stop());
    }

    pub fn url(&self, room: &str) -> String {
        format!("ws://{}/{room}", self.address)
    }

    /// A database with a table and nothing in it.
    pub fn replica(&self, name: &str) -> Replica {
        let replica = Replica::open(self.path(name)).expect("a database");
        replica.connection().pragma_update(None, "journal_mode", "WAL").expect("WAL");
        replica.connection().busy_timeout(Duration::from_secs(20)).expect("a timeout");
        let sql =
            "CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, title TEXT, stock INTEGER DEFAULT 0)";
        replica.connection().execute_batch(sql).expect("a table");
        replica.replicate("books").expect("replicated");
        replica
    }

    pub fn client(&self, name: &str, room: &str) -> Syncing {
        self.client_with(name, room, Options::default())
    }

    pub fn client_with(&self, name: &str, room: &str, options: Options) -> Syncing {
        self.client_at(name, &self.url(room), options)
    }

    pub fn client_at(&self, name: &str, url: &str, options: Options) -> Syncing {
        let client = SyncClient::start(self.path(name), url, options).expect("it starts");
        Syncing { watch: client.watch(), client }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.stop();
        }
    }
}

pub struct Syncing {
    pub client: SyncClient,
    watch: Watch,
}

impl Syncing {
    /// Waits for a report that is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, so: impl Fn(&Report) -> bool) -> Report {
        let end = Instant::now() + PATIENCE;
        loop {
            let report = self.client.report();
            if so(&report) {
                return report;
            }
            assert!(Instant::now() < end, "not {what} after {PATIENCE:?}: {report:?}");
            assert_ne!(self.watch.wait(Duration::from_millis(200)), Waited::Stopped, "the client ended");
        }
    }

    #[track_caller]
    pub fn until_synced(&mut self) -> Report {
        self.until("synced", |r| r.state == State::Synced && r.settled)
    }

    #[track_caller]
    pub fn until_state(&mut self, name: &str) -> Report {
        self.until(name, |r| r.state.name() == name)
    }
}

pub fn insert(replica: &Replica, id: i64, title: &str) {
    replica
        .connection()
        .execute("INSERT INTO books (id, title) VALUES (?1, ?2)", (id, title))
        .expect("insert");
}

pub fn titles(replica: &Replica) -> Vec<(i64, String)> {
    let mut q = replica.connection().prepare("SELECT id, title FROM books ORDER BY id").expect("prepare");
    let rows = q.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).expect("query");
    rows.collect::<Result<_, _>>().expect("rows")
}

/// Waits until something is so, looking often.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "not {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

#[track_caller]
pub fn assert_equal(a: &Replica, b: &Replica) {
    assert_eq!(titles(a), titles(b));
    assert_eq!(a.vector().expect("a vector"), b.vector().expect("a vector"));
    for replica in [a, b] {
        let report = replica.verify().expect("verifies");
        assert!(report.is_clean(), "{:?}", report.problems);
    }
}

/// SplitMix64. The seed is shown if the test fails, and `REJOIN_SEED` gives it.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let given = std::env::var("REJOIN_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
        });
        println!("REJOIN_SEED={seed}");
        Dice(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
