//! How much of the server one client gets.

use crate::util::*;
use rejoin_wire::frame::{Code, Frame};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// When the server hangs up; what it said before.
async fn hung_up(mut stream: TcpStream, slowly: &[u8]) -> (Duration, String) {
    let began = Instant::now();
    let mut said = Vec::new();
    let mut drops = slowly.iter();
    loop {
        let mut part = [0; 1000];
        match timeout(Duration::from_millis(300), stream.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return (began.elapsed(), String::from_utf8_lossy(&said).into_owned()),
            Ok(Ok(n)) => said.extend_from_slice(&part[..n]),
            Err(_) => {
                if let Some(drop) = drops.next() {
                    let _ = stream.write_all(&[*drop]).await;
                }
            }
        }
        assert!(began.elapsed() < PATIENCE, "the server waits for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_on_purpose_is_hung_up_on() {
    let running = open_server_with("[limits]\nhandshake_s = 2\nbody_s = 2").await;
    let connect = || async { TcpStream::connect(running.address).await.unwrap() };
    let (nothing, _) = hung_up(connect().await, b"").await;
    let (heads, _) =
        hung_up(connect().await, b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")
            .await;
    let mut body = connect().await;
    body.write_all(b"POST /shop/push HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    let (bodies, said) = hung_up(body, b"").await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    for waited in [nothing, heads] {
        assert!(waited < Duration::from_secs(20), "{waited:?}");
    }
    assert!(bodies < Duration::from_secs(30), "{bodies:?}");
    // A WebSocket that does not say who it is.
    let mut silent = running.connect("shop").await;
    assert_eq!(silent.fault().await.code, Code::Silent);
    // Meanwhile others are served.
    assert_eq!(get(running.address, "/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_bound() {
    let running = open_server_with("[limits]\nheaders = 10").await;
    let many: Vec<(String, String)> = (0..20).map(|i| (format!("x-{i}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(http(running.address, "GET", "/healthz", &many, b"").await.status, 431);
    let long = "y".repeat(100_000);
    assert_eq!(http(running.address, "GET", "/healthz", &[("x", &long)], b"").await.status, 431);
    assert_eq!(get(running.address, "/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_beyond_the_number_wait() {
    let running = open_server_with("[limits]\nconnections = 2").await;
    let replica = replica();
    let mut first = running.connect("shop").await;
    first.greet(&replica, None).await.unwrap();
    let second = running.connect("shop").await;
    let address = running.address;
    let third = tokio::spawn(async move { get(address, "/healthz").await.status });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!third.is_finished());
    drop(second);
    assert_eq!(timeout(PATIENCE, third).await.unwrap().unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_have_their_connections_and_sites() {
    let running =
        server_with("schema = 'adopt'\n[limits]\nconnections_per_subject = 2\nsites_per_subject = 2").await;
    let anns = token("ann", "shop", json!({}));
    let (one, two, three) = (replica(), replica(), replica());
    let mut first = running.connect("shop").await;
    first.greet(&one, Some(&anns)).await.unwrap();
    let mut second = running.connect("shop").await;
    second.greet(&two, Some(&anns)).await.unwrap();
    let fault = running.connect("shop").await.greet(&one, Some(&anns)).await.unwrap_err();
    assert_eq!((fault.code, fault.retry_after_ms.is_some()), (Code::Limited, true));
    drop(first);
    drop(second);
    let fault = loop {
        // Until the server has noticed that they left.
        match running.connect("shop").await.greet(&three, Some(&anns)).await {
            Err(fault) if fault.message.contains("connections") => continue,
            other => break other.unwrap_err(),
        }
    };
    assert!(fault.code == Code::Limited && fault.message.contains("sites"), "{fault:?}");
    assert!(
        running.connect("shop").await.greet(&three, Some(&token("bob", "shop", json!({})))).await.is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_has_its_bytes_and_a_room_its_size() {
    let running =
        server_with("schema = 'adopt'\n[limits]\nsubject_bytes = 20_000\nroom_bytes = 1_500_000").await;
    let schema = json!({"schema": true});
    let ann = replica();
    write(&ann, 1, "ann", &noise(15_000));
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&token("ann", "shop", schema.clone()))).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    write(&ann, 2, "ann", &noise(15_000));
    let outcome = anns.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Limited), "{outcome:?}");
    // Others go on until the room is full.
    let mut full = None;
    for i in 0..200 {
        let bob = replica();
        write(&bob, 1000 + i, "bob", &noise(14_000));
        let mut bobs = running.connect("shop").await;
        let welcome = bobs.greet(&bob, Some(&token(&format!("bob{i}"), "shop", json!({})))).await.unwrap();
        let outcome = bobs.push(&bob, &welcome.vector).await;
        if let Some(code) = code_of(&outcome) {
            full = Some((i, code));
            break;
        }
    }
    let (i, code) = full.expect("a room without bounds");
    assert!(code == Code::Limited && i > 20, "{i} {code:?}");
    assert_eq!(running.rows("shop", "SELECT id || '' FROM notes WHERE id = 2"), Vec::<String>::new());
}

/// Text that does not compress.
fn noise(len: usize) -> String {
    let mut bytes = vec![0; len / 2];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_read_slowly() {
    let running = open_server_with("[limits]\nframes_per_s = 20").await;
    let replica = replica();
    let mut flood = running.connect("shop").await;
    flood.greet(&replica, None).await.unwrap();
    let began = Instant::now();
    for i in 0..60 {
        flood.send(&Frame::Ping(i, None)).await;
    }
    for _ in 0..60 {
        while !matches!(flood.next().await.expect("an answer"), Frame::Pong(..)) {}
    }
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    // Another client is not slowed down.
    let began = Instant::now();
    running.connect("shop").await.greet(&crate::util::replica(), None).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_closed_for_others() {
    let running = open_server_with("[limits]\nrooms_open = 2\nrooms = 4").await;
    let mut held = Vec::new();
    for room in ["one", "two"] {
        let mut client = running.connect(room).await;
        client.greet(&replica(), None).await.unwrap();
        held.push(client);
    }
    let fault = running.connect("three").await.greet(&replica(), None).await.unwrap_err();
    assert_eq!(fault.code, Code::Limited);
    held.clear();
    for room in ["three", "four"] {
        let began = Instant::now();
        while running.connect(room).await.greet(&replica(), None).await.is_err() {
            assert!(began.elapsed() < PATIENCE);
        }
    }
    // No fifth room is made; those that are there open again.
    let refused = loop {
        let fault = running.connect("five").await.greet(&replica(), None).await.unwrap_err();
        if !fault.message.contains("in use") {
            break fault;
        }
    };
    assert!(refused.message.contains("as many rooms as it may"), "{refused:?}");
    let back = replica();
    while running.connect("one").await.greet(&back, None).await.is_err() {}
}

/// A room with more in it than sockets hold.
async fn filled(limits: &str) -> Running {
    let running = open_server_with(limits).await;
    let ann = replica();
    for i in 0..12 {
        write(&ann, i, "ann", &noise(1 << 20));
    }
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_is_hung_up_on() {
    let running = filled("[limits]\nsend_s = 2").await;
    let mut lazy = running.connect("shop").await;
    lazy.greet(&replica(), None).await.unwrap();
    // It is sent what it lacks, is alive, and reads nothing.
    let began = Instant::now();
    let ping = Frame::Ping(0, None).encode().unwrap();
    while lazy.send_bytes(ping.clone()).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "the server waits for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_but_there_is_waited_for() {
    let running = filled("[limits]\nidle_s = 3").await;
    let bob = replica();
    let mut bobs = running.connect("shop").await;
    bobs.greet(&bob, None).await.unwrap();
    let Some(Frame::Cut(cut)) = bobs.frame().await else { panic!("no cut") };
    // It takes three times as long as a client may be silent, and the client is not silent.
    let (began, mut received) = (Instant::now(), 0);
    while received < cut.bytes {
        match bobs.frame().await {
            Some(Frame::Data(data)) => received += data.bytes.0.len() as u64,
            Some(Frame::Pong(..)) => {}
            other => panic!("{other:?} after {:?} and {received} bytes", began.elapsed()),
        }
        bobs.send(&Frame::Ping(0, None)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(3));
}

/// Each row and each transaction takes memory until all of a cut are applied, however few its bytes are.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_too_many_rows_is_refused_whole() {
    let running = open_server_with("[limits]\ncut_rows = 10").await;
    let many = replica();
    many.connection()
        .execute_batch("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10) INSERT INTO notes SELECT i, '', '' FROM n")
        .unwrap();
    let mut client = running.connect("shop").await;
    let welcome = client.greet(&many, None).await.unwrap();
    let Outcome::Refused(refused) = client.push(&many, &welcome.vector).await else { panic!("it was taken") };
    assert_eq!(refused.code, Code::TooLarge);
    assert!(refused.message.contains("11 rows and transactions") && refused.message.contains("cut_rows"));
    assert!(running.rows("shop", "SELECT body FROM notes").is_empty());
    let few = replica();
    few.set_lineage(many.lineage().unwrap().unwrap()).unwrap();
    write(&few, 1, "ann", "one");
    let mut client = running.connect("shop").await;
    let welcome = client.greet(&few, None).await.unwrap();
    assert!(matches!(client.push(&few, &welcome.vector).await, Outcome::Ack));
}
