//! WebSockets spoken by hand: whatever bytes a test wants, and nothing done behind its back.

use rejoin_wire::frame::Frame;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing here takes so long, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const UPGRADE: &str = "host: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: rejoin.v1\r\n\r\n";

pub struct Socket {
    pub stream: TcpStream,
    /// How the server calls the connection in its log.
    pub id: String,
    bytes: Vec<u8>,
}

impl Socket {
    pub fn open(address: SocketAddr, room: &str) -> Socket {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        stream.write_all(format!("GET /{room} HTTP/1.1\r\n{UPGRADE}").as_bytes()).expect("a request");
        let (mut head, mut part) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(stream.read(&mut part).expect("an answer"), 1, "{}", String::from_utf8_lossy(&head));
            head.push(part[0]);
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let id = head.lines().find_map(|l| l.strip_prefix("x-request-id: ")).expect("an id").to_owned();
        Socket { stream, id, bytes: Vec::new() }
    }

    /// False: the server has hung up.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.stream.write_all(&message(0x82, frame)).is_ok()
    }

    fn fill(&mut self, len: usize) -> Option<()> {
        while self.bytes.len() < len {
            let mut part = [0; 16 << 10];
            match self.stream.read(&mut part) {
                Ok(0) => return None,
                Ok(n) => self.bytes.extend_from_slice(&part[..n]),
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    panic!("no word from the server after {PATIENCE:?}")
                }
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// The next frame; None: the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            self.fill(2)?;
            let (kind, short) = (self.bytes[0] & 15, usize::from(self.bytes[1]));
            let wide = match short {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            self.fill(2 + wide)?;
            let len = self.bytes[2..2 + wide].iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
            let len = if wide == 0 { short } else { len };
            self.fill(2 + wide + len)?;
            let body: Vec<u8> = self.bytes.drain(..2 + wide + len).skip(2 + wide).collect();
            match kind {
                2 => return Some(Frame::decode(&body, usize::MAX).expect("the server sends frames")),
                8 => return None,
                _ => {}
            }
        }
    }
}

/// One message of a WebSocket, masked with zeros.
pub fn message(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match body.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}
