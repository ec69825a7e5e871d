//! A server of its own process, honest clients, and one who is not.

use super::recorder::Recorder;
use super::socket::{PATIENCE, Socket};
use crate::Folder;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rejoin::Replica;
use rejoin_client::{Options, Report, State, SyncClient, Token};
use rejoin_wire::frame::Frame;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECRET: &str = "a secret for tests alone, longer than thirty-two bytes";
pub const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, owner TEXT, body TEXT)";
const CONFIG: &str = "
schema = 'schema.sql'
[auth]
key_file = 'secret'
algorithm = 'HS256'
leeway_s = 0
[limits]
sites_per_subject = 1
cut_bytes = 1048576
frames_per_s = 100000
[[policy]]
table = 'notes'
on = 'any'
require = 'coalesce(new.owner, old.owner) = claims.sub'
message = 'a note belongs to who writes it'
";

pub struct Scene {
    pub folder: Folder,
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A token for some seconds, and when it ends.
pub fn token(subject: &str, seconds: u64) -> (String, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let until_s = now + seconds;
    let claims = format!(r#"{{"sub":"{subject}","room":"shop","exp":{until_s}}}"#);
    let input =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, input.as_bytes()));
    (format!("{input}.{signature}"), until_s)
}

impl Scene {
    pub fn new() -> Scene {
        Scene::with(CONFIG, &[])
    }

    /// A server with another configuration, and files that it names; without `[auth]` in it, for everybody.
    pub fn with(config: &str, files: &[(&str, &str)]) -> Scene {
        let folder = Folder::new();
        files.iter().for_each(|(name, text)| folder.write(name, text));
        folder.write("secret", SECRET);
        folder.write("schema.sql", NOTES);
        folder.write("server.toml", config);
        let mut words =
            vec!["serve", "--data", "rooms", "--listen", "127.0.0.1:0", "--config", "server.toml"];
        if !config.contains("[auth]") {
            words.push("--insecure-no-auth");
        }
        let log = File::create(folder.path("server.log")).expect("a file");
        let mut child =
            folder.command(&words).stdout(Stdio::piped()).stderr(log).spawn().expect("run rejoin");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
        let address = line.trim().strip_prefix("listening on ").expect("an address").parse();
        Scene { folder, address: address.expect("an address"), child }
    }

    pub fn replica(&self, name: &str) -> Replica {
        let replica = Replica::open(self.folder.path(name)).expect("open");
        replica.connection().pragma_update(None, "journal_mode", "WAL").expect("WAL");
        replica.connection().busy_timeout(Duration::from_secs(20)).expect("a timeout");
        replica.connection().execute_batch(&NOTES.replace("TABLE", "TABLE IF NOT EXISTS")).expect("a table");
        replica.replicate("notes").expect("replicated");
        replica
    }

    pub fn client(&self, subject: &str, address: SocketAddr) -> SyncClient {
        let file = self.folder.path(&format!("{subject}.jwt"));
        std::fs::write(&file, token(subject, 3600).0).expect("a file");
        let options = Options { token: Token::File(file), ..Options::default() };
        let db = self.folder.path(&format!("{subject}.db"));
        SyncClient::start(db, &format!("ws://{address}/shop"), options).expect("it starts")
    }

    /// The frames of a session of Eve's in which everything happens that an honest client does; the room has what came of it.
    pub fn recorded(&self, ann: &Replica) -> Vec<Vec<u8>> {
        let recorder = Recorder::new(self.address);
        let eve = self.replica("eve.db");
        let sync = self.client("eve", recorder.address);
        until(&sync, "synced", |r| r.state == State::Synced);
        for id in 100..120 {
            write(&eve, id, "eve", &"words ".repeat(id as usize % 7));
        }
        settled(&sync, &eve);
        // What she may not write is taken back, and the rest goes on.
        write(&eve, 120, "ann", "in another's name");
        until(&sync, "rejected", |r| matches!(r.state, State::Rejected { .. }));
        for rejected in eve.rejected().expect("a list") {
            eve.drop_rejected(rejected.version, None).expect("dropped");
        }
        settled(&sync, &eve);
        write(ann, 2, "ann", "hears of it");
        eventually("hears", || count(&eve, "owner = 'ann'") == 2);
        std::fs::write(self.folder.path("eve.jwt"), token("eve", 7200).0).expect("a file");
        eventually("a new token", || kinds(&recorder.frames()).contains_key("Token"));
        write(&eve, 121, "eve", "the last");
        settled(&sync, &eve);
        sync.stop();
        recorder.frames()
    }

    /// Everything in the room's file but who was there last and how much a subject has sent.
    pub fn state(&self) -> BTreeMap<String, Vec<String>> {
        let conn = self.folder.plain("rooms/shop.db");
        let names = "SELECT name, sql FROM sqlite_schema WHERE type = 'table'";
        let mut q = conn.prepare(names).expect("a query");
        let tables: Vec<(String, String)> = q
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
            .expect("tables")
            .map(|t| t.expect("a row"))
            .collect();
        let shown = |name: &str| match name {
            "rejoin_server_subjects" => "SELECT subject FROM rejoin_server_subjects".to_owned(),
            "crsql_replicas" => "SELECT site FROM crsql_replicas".to_owned(),
            // The number of the schema, as it was when somebody wrote last.
            "crsql_meta" => "SELECT * FROM crsql_meta WHERE name <> 'schema'".to_owned(),
            name => format!("SELECT * FROM \"{name}\""),
        };
        let real = |sql: &str| !sql.to_ascii_uppercase().starts_with("CREATE VIRTUAL");
        let mut all = BTreeMap::new();
        for (name, sql) in tables.iter().filter(|t| real(&t.1)) {
            let rows = self.folder.rows("rooms/shop.db", &shown(name));
            all.insert(name.clone(), rows.split(';').map(str::to_owned).chain([sql.clone()]).collect());
        }
        assert!(all.contains_key("notes") && all.contains_key("crsql_log") && all.len() > 6, "{all:?}");
        all
    }

    /// Kilobytes in memory now, and at most since it was asked last.
    pub fn memory(&self) -> (u64, u64) {
        let process = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{process}/status")).expect("a process");
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
            line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
        };
        std::fs::write(format!("{process}/clear_refs"), "5").expect("the peak begins anew");
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// The lines of refusals, by the id of their request.
    pub fn refusals(&self) -> HashMap<String, Vec<String>> {
        let text = std::fs::read_to_string(self.folder.path("server.log")).expect("a log");
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for line in text.lines().filter(|l| l.contains("refused: ")) {
            let id = line.split_once("request{id=").and_then(|l| l.1.split_once(' ')).map_or("", |l| l.0);
            all.entry(id.to_owned()).or_default().push(line.to_owned());
        }
        let fault = text.lines().find(|l| l.contains("panicked") || l.contains("ERROR"));
        assert_eq!(fault, None);
        all
    }

    pub fn eve(&self) -> Socket {
        Socket::open(self.address, "shop")
    }
}

pub fn kinds(frames: &[Vec<u8>]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for bytes in frames {
        let frame = format!("{:?}", Frame::decode(bytes, usize::MAX).expect("an honest frame"));
        let name = frame.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
        *all.entry(name).or_default() += 1;
    }
    all
}

pub fn write(replica: &Replica, id: i64, owner: &str, body: &str) {
    let sql = "INSERT INTO notes VALUES (?1, ?2, ?3)";
    replica.connection().execute(sql, rusqlite::params![id, owner, body]).expect("a row");
}

pub fn count(replica: &Replica, such: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM notes WHERE {such}");
    replica.connection().query_row(&sql, [], |r| r.get(0)).expect("a number")
}

#[track_caller]
pub fn until(client: &SyncClient, what: &str, so: impl Fn(&Report) -> bool) {
    eventually(what, || so(&client.report()));
}

/// Everything that was written is acknowledged.
#[track_caller]
pub fn settled(client: &SyncClient, replica: &Replica) -> Duration {
    eventually("synced", || {
        let pending = replica.pending().expect("a number").transactions;
        pending == 0 && client.report().state == State::Synced
    })
}

#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "not {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}
