//! Frames that no honest client sends: nothing changes, others go on, the log of the server says why.

use crate::util::*;
use rejoin::{CutRequest, Replica};
use rejoin_wire::frame::{Bytes, Code, Cut, Data, Frame, Hello, Void, WireVector, cut_hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// A room with a row and an honest client in it; a hostile one, with something to say.
struct Scene {
    running: Running,
    honest: Replica,
    client: Client,
    hostile: Replica,
    cut: Vec<u8>,
    digest: Vec<String>,
}

impl Scene {
    async fn new() -> Scene {
        let running = open_server().await;
        let (honest, hostile) = (replica(), replica());
        write(&honest, 1, "ann", "honest");
        let mut client = running.connect("shop").await;
        let welcome = client.greet(&honest, None).await.unwrap();
        assert!(matches!(client.push(&honest, &welcome.vector).await, Outcome::Ack));
        hostile.apply_changeset(&honest.changeset_since(0).unwrap()).unwrap();
        hostile.set_lineage(honest.lineage().unwrap().unwrap()).unwrap();
        for i in 2..30 {
            write(&hostile, i, "eve", "hostile");
        }
        let cut = hostile.cut_for(&CutRequest::new(&welcome.vector.0)).unwrap().unwrap().bytes;
        let mut scene = Scene { running, honest, client, hostile, cut, digest: Vec::new() };
        scene.digest = scene.state();
        scene
    }

    /// Everything that a client could have changed.
    fn state(&self) -> Vec<String> {
        let mut all = self.running.rows("shop", "SELECT id || owner || body FROM notes ORDER BY id");
        all.extend(
            self.running.rows("shop", "SELECT hex(site) || version || hex(chain) FROM crsql_log ORDER BY id"),
        );
        all.extend(self.running.rows("shop", "SELECT name || coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'rejoin_%' ORDER BY name"));
        all
    }

    async fn eve(&self) -> Client {
        let mut eve = self.running.connect("shop").await;
        eve.greet(&self.hostile, None).await.unwrap();
        eve
    }

    /// Nothing has changed, and the honest client writes and reads as before.
    async fn unharmed(&mut self, what: &str) {
        assert_eq!(self.state(), self.digest, "{what}");
    }

    async fn goes_on(&mut self) {
        write(&self.honest, 100, "ann", "still here");
        let since = WireVector(self.running_vector());
        assert!(matches!(self.client.push(&self.honest, &since).await, Outcome::Ack));
        assert_eq!(get(self.running.address, "/healthz").await.status, 200);
    }

    fn running_vector(&self) -> rejoin::VersionVector {
        Replica::open(self.running.room_file("shop")).unwrap().vector().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_changesets_change_nothing() {
    let mut scene = Scene::new().await;
    let mut tried = 0;
    let mut variants = Vec::new();
    let step = (scene.cut.len() / 40).max(1);
    for at in (0..scene.cut.len()).step_by(step) {
        let mut flipped = scene.cut.clone();
        flipped[at] ^= 1 << (at % 8);
        variants.push(flipped);
        variants.push(scene.cut[..at].to_vec());
    }
    variants.push([scene.cut.clone(), vec![0]].concat());
    variants.push(vec![0xff; 1000]);
    let mut eve = scene.eve().await;
    for bytes in variants.into_iter().filter(|b| !b.is_empty()) {
        let outcome = eve.push_bytes(&bytes).await;
        assert_eq!(code_of(&outcome), Some(Code::Malformed), "{outcome:?}");
        tried += 1;
        eve = scene.eve().await;
    }
    assert!(tried > 60);
    scene.unharmed("damaged changesets").await;
    scene.goes_on().await;
    // The same bytes unharmed are taken.
    assert!(matches!(eve.push_bytes(&scene.cut.clone()).await, Outcome::Ack));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_frames_end_the_session_and_nothing_else() {
    let mut scene = Scene::new().await;
    let hello = Frame::Hello(hello(&scene.hostile, None)).encode().unwrap();
    let frames: Vec<Vec<u8>> = cut_frames(1, &scene.cut).iter().map(|f| f.encode().unwrap()).collect();
    let mut hostile: Vec<(bool, Vec<u8>)> = Vec::new();
    for at in 0..hello.len().min(60) {
        hostile.push((false, hello[..at].to_vec()));
    }
    hostile.push((false, [hello.clone(), vec![0]].concat()));
    for frame in &frames {
        hostile.push((true, frame[..frame.len() - 1].to_vec()));
        hostile.push((true, [frame.clone(), vec![7]].concat()));
        hostile.push((false, frame.clone()));
    }
    // A number of a frame that is none; lengths that promise everything.
    hostile.push((true, vec![200]));
    hostile.push((true, vec![3, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]));
    hostile.push((true, vec![8, 0xff, 0xff, 0xff, 0xff, 0x0f]));
    hostile.push((true, vec![9, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]));
    for (greeted, bytes) in hostile {
        let mut eve = if greeted { scene.eve().await } else { scene.running.connect("shop").await };
        eve.send_bytes(bytes.clone()).await.unwrap();
        assert_eq!(eve.fault().await.code, Code::Protocol, "{bytes:?}");
        assert!(eve.frame().await.is_none());
    }
    scene.unharmed("damaged frames").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_out_of_turn_end_the_session() {
    let mut scene = Scene::new().await;
    let (len, hash) = (scene.cut.len() as u64, cut_hash(&scene.cut));
    let head = |cut, bytes, offset| {
        Frame::Cut(Cut { cut, bytes, hash, offset, transactions: 1, more: false, since: 0, rows: false })
    };
    let data = |cut, bytes: &[u8]| Frame::Data(Data { cut, bytes: Bytes(bytes.to_vec()) });
    for (what, frames, code) in [
        ("two greetings", vec![Frame::Hello(hello(&scene.hostile, None))], Code::Protocol),
        ("data of nothing", vec![data(1, b"x")], Code::Protocol),
        ("a number too high", vec![head(9, len, 0)], Code::Protocol),
        ("a gigabyte", vec![head(1, 1 << 30, 0)], Code::TooLarge),
        ("all of memory", vec![head(1, u64::MAX, 0)], Code::TooLarge),
        ("an offset", vec![head(1, len, 5)], Code::Protocol),
        ("more than said", vec![head(1, 3, 0), data(1, b"four")], Code::Protocol),
        ("a cut in a cut", vec![head(1, len, 0), head(2, len, 0)], Code::Protocol),
        ("an answer to nothing", vec![Frame::Ack(1)], Code::Protocol),
        ("the other side's frames", vec![Frame::TokenTaken(None)], Code::Protocol),
        (
            "what nobody has rejected",
            vec![Frame::Adopted(vec![Void {
                site: scene.hostile.site_id().unwrap().0,
                version: u64::MAX,
                nonce: 1,
                chain: 1,
            }])],
            Code::Protocol,
        ),
    ] {
        let mut eve = scene.eve().await;
        for frame in &frames {
            let _ = eve.send_bytes(frame.encode().unwrap()).await;
        }
        assert_eq!(eve.fault().await.code, code, "{what}");
    }
    let mut eve = scene.eve().await;
    eve.send_message(Message::Text("hello".into())).await.unwrap();
    assert_eq!(eve.fault().await.code, Code::Protocol);
    let mut eve = scene.running.connect("shop").await;
    let old = Hello { oldest: 7, newest: 9, ..hello(&scene.hostile, None) };
    eve.send(&Frame::Hello(old)).await;
    assert_eq!(eve.fault().await.code, Code::Version);
    scene.unharmed("frames out of turn").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_bound_are_not_read() {
    let mut scene = Scene::new().await;
    let mut eve = scene.eve().await;
    let _ = eve.send_bytes(vec![0; 2 << 20]).await;
    // The connection ends, with or without a word: what is too long cannot be skipped.
    while eve.next().await.is_some() {}
    // A WebSocket frame whose length says 2^62.
    let mut raw = TcpStream::connect(scene.running.address).await.unwrap();
    let request = "GET /shop HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: rejoin.v1\r\n\r\n";
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    raw.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let mut frame = vec![0x82, 0xff];
    frame.extend_from_slice(&(1u64 << 62).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    raw.write_all(&frame).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, raw.read_to_end(&mut rest)).await.expect("the server hangs up").ok();
    scene.unharmed("long messages").await;
    scene.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_rooms_are_no_paths() {
    let running = open_server().await;
    for path in [
        "/..",
        "/../x",
        "/.hidden",
        "/%2e%2e",
        "/%2e%2e%2fescape",
        "/a%2fb",
        "/a%5cb",
        "/a%00b",
        "/%ff",
        "/a%20b",
        "/..%2f..%2fetc%2fpasswd",
        "/shop/../../x",
        "/metrics%2f",
        "//x",
    ] {
        let answer = get(running.address, path).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        let answer = get(running.address, &format!("{path}/snapshot")).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    assert!(Client::connect(running.address, "%2e%2e%2fescape").await.is_err());
    assert!(Client::connect(running.address, &"x".repeat(65)).await.is_err());
    let mut files: Vec<_> = std::fs::read_dir(running.dir.path().join("rooms")).unwrap().collect();
    assert_eq!(files.pop().unwrap().unwrap().file_name(), ".lock");
    assert!(files.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_subprotocol_is_spoken() {
    let running = open_server().await;
    assert!(Client::connect_as(running.address, "shop", None).await.is_err());
    assert!(Client::connect_as(running.address, "shop", Some("chat")).await.is_err());
    assert!(Client::connect_as(running.address, "shop", Some("chat, rejoin.v1")).await.is_ok());
}
