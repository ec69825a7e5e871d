//! A server on a free port, and clients that speak frames by hand.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use rejoin::{CutRequest, Replica};
use rejoin_server::{Config, Options, Server, config};
use rejoin_wire::frame::{
    Bytes, Code, Cut, Data, Fault, Frame, Hello, PROTOCOL, PROTOCOL_OLDEST, Refused, Reject, Welcome,
    WireVector, cut_hash,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub const SECRET: &str = "a secret of at least thirty-two bytes";
/// Nothing here takes so long, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Running {
    pub server: Option<Server>,
    pub address: SocketAddr,
    pub dir: TempDir,
}

/// A configuration in a directory of its own; `{dir}` stands for that.
pub fn load(dir: &Path, text: &str, insecure: bool) -> Result<Config, String> {
    std::fs::write(dir.join("secret"), SECRET).unwrap();
    let file = dir.join("server.toml");
    std::fs::write(&file, text).unwrap();
    let options = Options {
        data: Some(dir.join("rooms")),
        listen: Some("127.0.0.1:0".into()),
        config: Some(file),
        insecure_no_auth: insecure,
    };
    config::load(&options).map_err(|e| e.to_string())
}

async fn start_with(text: &str, insecure: bool) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let config = load(dir.path(), text, insecure).unwrap();
    let server = Server::start(config).await.unwrap();
    Running { address: server.address(), server: Some(server), dir }
}

pub async fn open_server() -> Running {
    start_with("", true).await
}

pub async fn open_server_with(text: &str) -> Running {
    start_with(text, true).await
}

/// A server that asks for tokens under `SECRET`.
pub async fn server_with(text: &str) -> Running {
    let auth = "[auth]\nkey_file = \"secret\"\nalgorithm = \"HS256\"\nleeway_s = 0\n";
    start_with(&format!("{text}\n{auth}"), false).await
}

impl Running {
    pub fn room_file(&self, room: &str) -> std::path::PathBuf {
        self.dir.path().join("rooms").join(format!("{room}.db"))
    }

    /// The room's rows, read by another connection.
    pub fn rows(&self, room: &str, sql: &str) -> Vec<String> {
        let conn = rusqlite::Connection::open(self.room_file(room)).unwrap();
        let mut q = conn.prepare(sql).unwrap();
        q.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }

    pub async fn connect(&self, room: &str) -> Client {
        Client::connect(self.address, room).await.unwrap()
    }
}

pub fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

pub fn signing_input(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

pub fn signed(input: &str, signature: &[u8]) -> String {
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub fn hs256(secret: &[u8], claims: &Value) -> String {
    let input = signing_input(&json!({"alg": "HS256", "typ": "JWT"}), claims);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    signed(&input, ring::hmac::sign(&key, input.as_bytes()).as_ref())
}

/// A token for an hour, with some claims more.
pub fn token(subject: &str, room: &str, more: Value) -> String {
    let mut claims = json!({"sub": subject, "room": room, "exp": now_s() + 3600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hs256(SECRET.as_bytes(), &claims)
}

pub struct Client {
    ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
    cuts: u64,
    /// The last cut that was refused or rejected.
    pub since: u64,
}

/// What came of a cut.
#[derive(Debug)]
pub enum Outcome {
    Ack,
    Refused(Refused),
    Reject(Reject),
    Fault(Fault),
}

impl Client {
    pub async fn connect(address: SocketAddr, room: &str) -> Result<Client, WsError> {
        Client::connect_as(address, room, Some("rejoin.v1")).await
    }

    pub async fn connect_as(
        address: SocketAddr,
        room: &str,
        protocol: Option<&str>,
    ) -> Result<Client, WsError> {
        let mut request = format!("ws://{address}/{room}").into_client_request()?;
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (ws, _) = timeout(PATIENCE, connect_async(request)).await.expect("an answer in time")?;
        Ok(Client { ws, cuts: 0, since: 0 })
    }

    pub async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<(), WsError> {
        self.ws.send(Message::Binary(bytes.into())).await
    }

    pub async fn send_message(&mut self, message: Message) -> Result<(), WsError> {
        self.ws.send(message).await
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.send_bytes(frame.encode().unwrap()).await.unwrap();
    }

    /// The next frame; None: the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            match timeout(PATIENCE, self.ws.next()).await.expect("a frame in time") {
                Some(Ok(Message::Binary(bytes))) => return Some(Frame::decode(&bytes, usize::MAX).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next frame that is neither credit nor heartbeat.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(Frame::Credit(_) | Frame::Ping(..)) => {}
                other => return other,
            }
        }
    }

    pub async fn fault(&mut self) -> Fault {
        loop {
            match self.frame().await {
                Some(Frame::Fault(fault)) => return fault,
                Some(_) => {}
                None => panic!("the connection ended without a word"),
            }
        }
    }

    pub async fn greet(&mut self, replica: &Replica, token: Option<&str>) -> Result<Welcome, Fault> {
        self.send(&Frame::Hello(hello(replica, token))).await;
        match self.frame().await {
            Some(Frame::Welcome(welcome)) => {
                if replica.lineage().unwrap().is_none() {
                    replica.set_lineage(welcome.lineage).unwrap();
                }
                Ok(*welcome)
            }
            Some(Frame::Fault(fault)) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    /// Sends the bytes of a cut; the answer to it.
    pub async fn push_bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.cuts += 1;
        for mut frame in cut_frames(self.cuts, bytes) {
            if let Frame::Cut(cut) = &mut frame {
                cut.since = self.since;
            }
            if self.send_bytes(frame.encode().unwrap()).await.is_err() {
                break;
            }
        }
        loop {
            match self.frame().await {
                Some(Frame::Ack(cut)) if cut == self.cuts => return Outcome::Ack,
                Some(Frame::Refused(refused)) => return Outcome::Refused(refused),
                Some(Frame::Reject(reject)) => return Outcome::Reject(reject),
                Some(Frame::Fault(fault)) => return Outcome::Fault(fault),
                Some(_) => {}
                None => panic!("no answer to a cut"),
            }
        }
    }

    /// Sends what the server lacks.
    pub async fn push(&mut self, replica: &Replica, theirs: &WireVector) -> Outcome {
        let cut = replica.cut_for(&CutRequest::new(&theirs.0)).unwrap().expect("something to send");
        self.push_bytes(&cut.bytes).await
    }

    /// The next whole cut from the server, which is acknowledged.
    pub async fn pull(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut head: Option<Cut> = None;
        loop {
            match self.frame().await {
                Some(Frame::Cut(cut)) => head = Some(cut),
                Some(Frame::Data(data)) => bytes.extend_from_slice(&data.bytes.0),
                other => panic!("{other:?}"),
            }
            if let Some(cut) = head.as_ref().filter(|c| c.bytes == bytes.len() as u64) {
                assert_eq!(cut_hash(&bytes), cut.hash);
                self.send(&Frame::Ack(cut.cut)).await;
                return bytes;
            }
        }
    }
}

pub fn cut_frames(cut: u64, bytes: &[u8]) -> Vec<Frame> {
    let (len, hash) = (bytes.len() as u64, cut_hash(bytes));
    let head = Cut { cut, bytes: len, hash, offset: 0, transactions: 1, more: false, since: 0, rows: false };
    let mut frames = vec![Frame::Cut(head)];
    frames.extend(bytes.chunks(60_000).map(|part| Frame::Data(Data { cut, bytes: Bytes(part.to_vec()) })));
    frames
}

pub fn hello(replica: &Replica, token: Option<&str>) -> Hello {
    let head = replica.own_head().unwrap();
    Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL,
        token: token.map(str::to_owned),
        site: head.site.0,
        lineage: replica.lineage().unwrap(),
        schema: Bytes(replica.schema().unwrap().into_bytes()),
        vector: replica.vector().unwrap().into(),
        head: (head.version > 0).then_some((head.version, head.chain)),
        horizon: WireVector::default(),
        credit: 1 << 24,
        resume: None,
        agent: "test".into(),
    }
}

pub const SCHEMA: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT, body TEXT)";

/// A replica in memory with the table of these tests.
pub fn replica() -> Replica {
    replica_with(SCHEMA)
}

pub fn replica_with(sql: &str) -> Replica {
    let replica = Replica::open(":memory:").unwrap();
    replica.connection().execute_batch(sql).unwrap();
    for table in ["notes", "orders"] {
        if sql.contains(&format!("TABLE {table}")) {
            replica.replicate(table).unwrap();
        }
    }
    replica
}

pub fn write(replica: &Replica, id: i64, owner: &str, body: &str) {
    let sql = "INSERT INTO notes VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET owner = ?2, body = ?3";
    replica.connection().execute(sql, rusqlite::params![id, owner, body]).unwrap();
}

pub fn bodies(replica: &Replica) -> Vec<String> {
    let mut q = replica.connection().prepare("SELECT body FROM notes ORDER BY id").unwrap();
    q.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let find = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(find).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One HTTP request, spoken by hand.
pub async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server may answer before it has read everything.
    let _ = stream.write_all(body).await;
    let mut all = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an answer in time");
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let mut answer = Answer { status, head, body: all[end..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = unchunked(&answer.body);
    }
    answer
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        all.extend_from_slice(&rest[at + 2..at + 2 + len]);
        rest = &rest[at + 4 + len..];
    }
    all
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    http(address, "GET", path, &[], b"").await
}

pub fn code_of(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Ack => None,
        Outcome::Refused(refused) => Some(refused.code),
        Outcome::Reject(reject) => reject.rejections.first().map(|r| r.code),
        Outcome::Fault(fault) => Some(fault.code),
    }
}
