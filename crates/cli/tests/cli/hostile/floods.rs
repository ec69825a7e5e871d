//! More than a server can take: bombs, floods, and sockets that are slow on purpose.

use super::scene::{NOTES, Scene, count, eventually, settled, write};
use super::socket::{PATIENCE, Socket, message};
use rejoin_client::State;
use rejoin_wire::frame::{Bytes, Code, Cut, Data, Frame, cut_hash};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (len, hash) = (bytes.len() as u64, cut_hash(bytes));
    let head =
        Cut { cut: 1, bytes: len, hash, offset: 0, transactions: 1, more: false, since: 0, rows: false };
    let parts = bytes.chunks(60_000).map(|part| Frame::Data(Data { cut: 1, bytes: Bytes(part.to_vec()) }));
    [Frame::Cut(head)].into_iter().chain(parts).map(|f| f.encode().expect("a frame")).collect()
}

/// A changeset with the right checksum whose payload is this.
fn sealed(flags: u8, payload: &[u8]) -> Vec<u8> {
    let body = [b"RJCS\x01", &[flags][..], payload].concat();
    [&body[..], &cut_hash(&body)].concat()
}

/// An LZ4 block that stands for `len` bytes, in a 255th of that.
fn bomb(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut n = len as u64;
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    // One literal, then the byte before it again and again.
    bytes.extend_from_slice(&[0x1f, b'x', 1, 0]);
    let rest = len - 1 - 19 - 5;
    bytes.extend(std::iter::repeat_n(0xff, rest / 255));
    bytes.push((rest % 255) as u8);
    bytes.extend_from_slice(&[0x50, b'x', b'x', b'x', b'x', b'x']);
    bytes
}

/// One that promises so many bytes and has some.
fn promise(len: &[u8]) -> Vec<u8> {
    sealed(1, &[len, &[0; 100]].concat())
}

/// The code with which the server answers to a cut.
fn answer(scene: &Scene, hello: &[u8], bytes: &[u8]) -> Code {
    let mut eve = scene.eve();
    eve.send(hello);
    while !matches!(eve.next().expect("a greeting"), Frame::Welcome(_)) {}
    for frame in frames(bytes) {
        eve.send(&frame);
    }
    loop {
        match eve.next().expect("an answer") {
            Frame::Refused(refused) => return refused.code,
            Frame::Fault(fault) => return fault.code,
            Frame::Ack(_) => panic!("it was taken"),
            _ => {}
        }
    }
}

#[test]
fn bombs_are_not_unpacked() {
    let scene = Scene::new();
    let ann = scene.replica("ann.db");
    let anns = scene.client("ann", scene.address);
    write(&ann, 1, "ann", "first");
    settled(&anns, &ann);
    let record = scene.recorded(&ann);
    let hello = &record[0];
    let (before, state) = (scene.memory().0, scene.state());
    let refused = |bytes: &[u8]| matches!(answer(&scene, hello, bytes), Code::TooLarge | Code::Malformed);
    // Ones that promise more than is allowed, more than they can hold, and gigabytes.
    assert!(refused(&sealed(1, &bomb(100 << 20))));
    assert!(refused(&promise(&[0xff, 0xff, 0xff, 0xff, 0x0f])));
    assert!(refused(&promise(&[0xff, 0xff, 0x7f])));
    // As much as is allowed, and nothing in it.
    for _ in 0..20 {
        assert!(refused(&sealed(1, &bomb(8 << 20))));
    }
    assert_eq!(scene.state(), state);
    let (after, peak) = scene.memory();
    assert!(peak < before + (64 << 10), "{before} kB, then {after}, at most {peak}");
    let lines: Vec<String> = scene.refusals().into_values().flatten().collect();
    assert_eq!(lines.iter().filter(|l| l.contains("code=Malformed")).count(), 23, "{lines:#?}");
    settled(&anns, &ann);
}

#[test]
fn floods_are_outlasted() {
    let scene = Scene::new();
    let (ann, bob) = (scene.replica("ann.db"), scene.replica("bob.db"));
    let (anns, _bobs) = (scene.client("ann", scene.address), scene.client("bob", scene.address));
    write(&ann, 1, "ann", "first");
    settled(&anns, &ann);
    let record = scene.recorded(&ann);
    let before = scene.memory().0;
    let (until, address) = (Instant::now() + Duration::from_secs(4), scene.address);
    let slowest = std::thread::scope(|scope| {
        // Connections that say nothing.
        let idle: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(address).ok()).collect();
        // Requests, each for another thing that is not there.
        for n in 0..2 {
            scope.spawn(move || {
                while Instant::now() < until {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    let request =
                        format!("GET /{n}x/snapshot HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all(request.as_bytes());
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            });
        }
        // Frames, and nobody reads what comes back.
        scope.spawn(|| {
            while Instant::now() < until {
                let mut eve = scene.eve();
                eve.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                eve.send(&record[0]);
                let ping = message(0x82, &Frame::Ping(1, None).encode().expect("a frame")).repeat(500);
                while Instant::now() < until && eve.stream.write_all(&ping).is_ok() {}
            }
        });
        let one = |id| {
            write(&ann, id, "ann", "in the flood");
            settled(&anns, &ann).max(eventually("at Bob's", || count(&bob, &format!("id = {id}")) == 1))
        };
        let slowest = (1000..1020).map(one).max();
        drop(idle);
        slowest
    });
    assert!(slowest.is_some_and(|s| s < Duration::from_secs(10)), "{slowest:?}");
    assert_eq!(anns.state(), State::Synced);
    let (after, peak) = scene.memory();
    assert!(peak < before + (96 << 10), "{before} kB, then {after}, at most {peak}");
    assert!(ann.verify().expect("verifies").is_clean());
}

/// Bytes so slowly that each one comes in time: it is the whole that must.
fn trickle(mut stream: TcpStream, bytes: &[u8]) -> Duration {
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let began = Instant::now();
    let mut drops = bytes.iter().cycle();
    loop {
        assert!(began.elapsed() < PATIENCE, "the server waits for ever");
        match stream.read(&mut [0; 1000]) {
            Ok(0) => return began.elapsed(),
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return began.elapsed();
            }
            _ => {}
        }
        if stream.write_all(&[*drops.next().expect("it goes round")]).is_err() {
            return began.elapsed();
        }
    }
}

#[test]
fn who_is_slow_on_purpose_is_hung_up_on() {
    let tls = "[tls]\ncertificate_file = 'tls.pem'\nkey_file = 'tls.key'\n";
    let slow = "[limits]\nhandshake_s = 2\nidle_s = 6\n";
    let files = [
        ("tls.pem", include_str!("../../../../server/tests/it/tls.pem")),
        ("tls.key", include_str!("../../../../server/tests/it/tls.key")),
    ];
    let encrypted = Scene::with(&format!("schema = 'schema.sql'\n{slow}{tls}"), &files);
    // The head of a ClientHello that promises the most that a record can have.
    let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[7; 32]].concat();
    let took = trickle(TcpStream::connect(encrypted.address).expect("it listens"), &hello);
    assert!(took < Duration::from_secs(20), "{took:?}");
    let said = || encrypted.refusals().into_values().flatten().any(|l| l.contains("TLS handshake"));
    eventually("in the log", said);

    let scene = Scene::with(&format!("schema = 'schema.sql'\n{slow}"), &[]);
    std::thread::scope(|scope| {
        // A first frame that never ends; and one after an honest greeting.
        scope.spawn(|| {
            let mut eve = scene.eve();
            eve.stream.write_all(&[0x82, 0xfe, 0x40, 0, 0, 0, 0, 0]).expect("a head");
            let took = trickle(eve.stream.try_clone().expect("a socket"), &[0]);
            assert!(took < Duration::from_secs(30), "{took:?}");
        });
        scope.spawn(|| {
            let replica = rejoin::Replica::open(":memory:").expect("memory");
            replica.connection().execute_batch(NOTES).expect("a table");
            replica.replicate("notes").expect("replicated");
            let mut eve = scene.eve();
            eve.send(&super::hello(&replica));
            assert!(matches!(eve.next(), Some(Frame::Welcome(_))));
            let mut head = vec![0x82, 0xff];
            head.extend_from_slice(&(1_u64 << 19).to_be_bytes());
            head.extend_from_slice(&[0; 4]);
            eve.stream.write_all(&head).expect("a head");
            let took = trickle(eve.stream.try_clone().expect("a socket"), &[0]);
            assert!(took > Duration::from_secs(4) && took < Duration::from_secs(40), "{took:?}");
        });
        // A message of a kind that nobody agreed on.
        scope.spawn(|| {
            let mut eve: Socket = scene.eve();
            eve.stream.write_all(&message(0xc2, b"compressed?")).expect("a message");
            while eve.next().is_some() {}
        });
    });
    eventually("in the log", || {
        let text = std::fs::read_to_string(scene.folder.path("server.log")).expect("a log");
        ["no greeting in time", "the client has said nothing", "eserved"].iter().all(|w| text.contains(w))
    });
}
