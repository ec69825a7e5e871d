//! The server: a room's real owner, without thread and socket, and a real session for each connection.

use rejoin_crdt::vector::VersionVector;
use rejoin_server::config;
use rejoin_server::inside::{Client, Common, Grant, Owner, RoomName, Shared, Told};
use rejoin_sync::server::{Config as SessionConfig, Reply, Request, Session};
use rejoin_wire::frame::Fault;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::weather::Weather;

pub struct Room {
    common: Arc<Common>,
    name: RoomName,
    pub shared: Arc<Shared>,
    /// None: the server is down.
    pub owner: Option<Owner>,
    pub skew_ms: i64,
    /// Counts its starts.
    pub life: u64,
    /// The last snapshot that was made, with its version and vector.
    pub snapshot: Option<(PathBuf, i64, VersionVector)>,
}

/// One connection as the server has it.
pub struct Line {
    pub node: usize,
    pub session: Session,
    pub grant: Grant,
    pub told: Option<Told>,
    pub asked: Option<Request>,
    _client: Option<Client>,
}

const POLICIES: &str = "\
[[policy]]
table = 'stock'
on = ['insert', 'update']
require = 'new.amount >= 0'
message = 'the amount is below nothing'

[[policy]]
table = 'stock'
on = 'delete'
require = 'old.amount < 900'
";

impl Room {
    pub fn new(dir: &Path, weather: &Weather) -> Room {
        let file = dir.join("server.toml");
        let policies = if weather.policies { POLICIES } else { "" };
        let text = format!(
            "schema = 'adopt'\ndurable = false\n[limits]\nidle_s = {}\nsnapshot_transactions = 10\n{policies}",
            weather.heartbeat_ms * 3 / 1000
        );
        std::fs::write(&file, text).expect("the configuration is written");
        let options = config::Options {
            data: Some(dir.to_owned()),
            config: Some(file),
            insecure_no_auth: true,
            ..config::Options::default()
        };
        let config = config::load(&options).expect("the configuration is good");
        let name = RoomName::parse("room").expect("a good name");
        let shared = Arc::new(Shared::new(config.limits.tail_bytes));
        let common = Arc::new(Common::alone(config).expect("the configuration is good"));
        Room { common, name, shared, owner: None, skew_ms: 0, life: 0, snapshot: None }
    }

    pub fn file(&self) -> PathBuf {
        self.name.file(&self.common.config.data)
    }

    pub fn start(&mut self) {
        self.life += 1;
        self.shared = Arc::new(Shared::new(self.common.config.limits.tail_bytes));
        let owner = Owner::open(self.name.clone(), self.common.clone(), self.shared.clone(), true);
        let owner =
            owner.unwrap_or_else(|Fault { message, .. }| panic!("the room cannot be opened: {message}"));
        owner.replica().connection().execute_batch("PRAGMA synchronous = OFF").expect("a setting");
        self.owner = Some(owner);
    }

    pub fn kill(&mut self) {
        self.owner = None;
        self.snapshot = None;
    }

    pub fn session(&self, number: u64, now_ms: u64) -> Session {
        let limits = &self.common.config.limits;
        let config = SessionConfig {
            session: number,
            cut_bytes_max: limits.cut_bytes,
            greeting_ms: u64::from(limits.handshake_s) * 1000,
            ..SessionConfig::default()
        };
        Session::new(config, now_ms)
    }

    /// Carries out what a session asks.
    pub fn answer(&mut self, line: &mut Line, request: Request) -> Reply {
        let Some(owner) = &mut self.owner else { return Reply::Failed("the room has failed".into()) };
        let reply = match request {
            Request::Admit(hello) => {
                line._client = Some(self.shared.enter());
                owner.admit(&hello, &line.grant)
            }
            Request::Authenticate(_) => Reply::Authenticated(None),
            request => owner.answer(request, &line.grant),
        };
        owner.advance();
        reply
    }
}

impl Line {
    pub fn new(node: usize, session: Session, grant: Grant) -> Line {
        Line { node, session, grant, told: None, asked: None, _client: None }
    }
}
