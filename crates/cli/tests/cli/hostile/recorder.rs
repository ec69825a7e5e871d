//! A line between a client and the server on which somebody listens.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

type Heard = Arc<Mutex<Vec<u8>>>;

pub struct Recorder {
    pub address: SocketAddr,
    /// What the client sent, connection by connection.
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Recorder {
    pub fn new(server: SocketAddr) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let all = heard.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { return };
                let one = Heard::default();
                all.lock().expect("unharmed").push(one.clone());
                let halves = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                std::thread::spawn(move || carry(halves.1, halves.0, |_| ()));
                std::thread::spawn(move || {
                    carry(client, server, |part| one.lock().expect("unharmed").extend_from_slice(part));
                });
            }
        });
        Recorder { address, heard }
    }

    /// The frames of the longest connection.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let all = self.heard.lock().expect("unharmed");
        let connections = all.iter().map(|one| messages(&one.lock().expect("unharmed")));
        connections.max_by_key(Vec::len).expect("a connection")
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut hear: impl FnMut(&[u8])) {
    let mut part = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut part) {
        hear(&part[..n]);
        if to.write_all(&part[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// The binary messages that a client sent over a WebSocket.
fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a request");
    let mut rest = &bytes[head + 4..];
    while rest.len() > 6 {
        let (kind, short) = (rest[0], usize::from(rest[1] & 127));
        let wide = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let len = rest[2..2 + wide].iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
        let len = if wide == 0 { short } else { len };
        let (mask, body) = rest[2 + wide..].split_at(4);
        if body.len() < len {
            break;
        }
        if kind == 0x82 {
            all.push(body[..len].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect());
        }
        rest = &body[len..];
    }
    all
}
