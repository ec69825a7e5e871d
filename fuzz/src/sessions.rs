//! What the targets of the two sessions share: bytes as a sequence of happenings, and honest frames to begin with.

use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::*;
use std::collections::VecDeque;

/// One thing that happens to a session.
pub enum Step {
    Frame(Vec<u8>),
    /// The open question is answered, in this way.
    Answer(u8),
    /// So many milliseconds pass.
    Time(u64),
    /// Whatever else there is.
    Other(u8),
}

const STEPS_MAX: usize = 400;
const TIMES: [u64; 8] = [0, 1, 100, 5_000, 10_000, 15_000, 60_000, 400_000];

/// Bytes read as steps: an operation, then what it takes.
pub struct Input<'a> {
    rest: &'a [u8],
    steps: usize,
    cuts: u64,
    made: VecDeque<Vec<u8>>,
}

impl<'a> Input<'a> {
    pub fn new(rest: &'a [u8]) -> Input<'a> {
        Input { rest, steps: 0, cuts: 0, made: VecDeque::new() }
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// None: all has happened.
    pub fn step(&mut self) -> Option<Step> {
        self.steps += 1;
        if let Some(frame) = self.made.pop_front() {
            return Some(Step::Frame(frame));
        }
        if self.rest.is_empty() || self.steps > STEPS_MAX {
            return None;
        }
        Some(match self.byte() % 8 {
            0..3 => Step::Frame(self.bytes().to_vec()),
            3 => {
                // A cut whose hash is right, or nothing behind the hash would ever be looked at.
                self.cuts += u64::from(self.byte() % 8 != 7);
                let mut frames = cut_frames(self.cuts, self.bytes(), self.byte());
                let last = frames.len() - 1;
                let first = std::mem::take(&mut frames[0]);
                self.made.extend(frames.into_iter().take(last + 1).skip(1));
                Step::Frame(first)
            }
            4 | 5 => Step::Answer(self.byte()),
            6 => Step::Time(TIMES[usize::from(self.byte() % 8)]),
            _ => Step::Other(self.byte()),
        })
    }
}

/// A cut and its bytes in two pieces. `mark`: whether these are rows, and whether more is to come.
pub fn cut_frames(cut: u64, bytes: &[u8], mark: u8) -> Vec<Vec<u8>> {
    let head = Cut {
        cut,
        bytes: bytes.len() as u64,
        hash: cut_hash(bytes),
        offset: 0,
        transactions: 1,
        more: mark & 2 != 0,
        since: u64::from(mark >> 5),
        rows: mark & 1 != 0,
    };
    let mut frames = vec![Frame::Cut(head)];
    for part in bytes.chunks(bytes.len() / 2 + 1) {
        frames.push(Frame::Data(Data { cut, bytes: Bytes(part.to_vec()) }));
    }
    frames.iter().map(encoded).collect()
}

pub fn encoded(frame: &Frame) -> Vec<u8> {
    frame.encode().expect("a frame")
}

/// Frames one after another, each with answers of one kind to what it asks.
pub fn program(frames: &[Vec<u8>], roll: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.push(0);
        bytes.extend_from_slice(&(frame.len() as u16).to_le_bytes());
        bytes.extend_from_slice(frame);
        bytes.extend([4, roll].repeat(5));
    }
    // The other side moves on, time passes, a cut comes, and more time.
    bytes.extend_from_slice(&[7, 13, 4, roll, 6, 5, 4, roll, 3, 0, 40, 0]);
    bytes.extend_from_slice(&[8; 40]);
    bytes.extend_from_slice(&[0, 4, roll, 6, 7]);
    bytes
}

pub fn vector() -> VersionVector {
    let mut vector = VersionVector::new();
    vector.insert_range(SiteId([0xa1; 16]), 1..=30);
    vector.insert_range(SiteId([0xb2; 16]), 1..=2);
    vector.insert(SiteId([0xb2; 16]), 5);
    vector
}

pub fn hello() -> Hello {
    Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL,
        token: Some("e.y.x".into()),
        site: [0xa1; 16],
        lineage: Some([0x11; 16]),
        schema: Bytes(b"CREATE TABLE t(x);".to_vec()),
        vector: WireVector(vector()),
        head: Some((30, 77)),
        horizon: WireVector::default(),
        credit: 4 << 20,
        resume: Some(([0x22; 16], 70)),
        agent: "fuzz".into(),
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        protocol: PROTOCOL,
        session: 1,
        time_ms: 1_800_000_000_000,
        site: [0xb2; 16],
        lineage: [0x11; 16],
        schema: Bytes(b"CREATE TABLE t(x);".to_vec()),
        vector: WireVector(vector()),
        yours: Some((29, 76)),
        head: Some((5, 12)),
        horizon: WireVector::default(),
        grants: Grants { relay: true, read_only: false },
        limits: Limits { frame_bytes: 1 << 20, cut_bytes: 1 << 20 },
        heartbeat_ms: 15_000,
        expires_ms: Some(1_800_000_600_000),
        credit: 4 << 20,
        resume: None,
    }
}

/// One of each kind, a greeting first.
pub fn honest_frames() -> Vec<Vec<u8>> {
    let row = RowName { table: "t".into(), pk: Bytes(vec![1, 9, 7]) };
    let (code, message) = (Code::Policy, "no".to_owned());
    let rejection = |site, version| Rejection {
        site,
        version,
        code,
        message: message.clone(),
        table: "t".into(),
        pk: Bytes(vec![1, 9, 7]),
    };
    let rejections = vec![rejection([0xa1; 16], 30), rejection([0xb2; 16], 5)];
    let mut all = vec![Frame::Hello(hello()), Frame::Welcome(Box::new(welcome()))];
    all.extend([
        Frame::Credit(1 << 20),
        Frame::Ack(1),
        Frame::Refused(Refused {
            cut: 1,
            code: Code::Gap,
            message: message.clone(),
            vector: WireVector(vector()),
        }),
        Frame::Reject(Reject { cut: 1, rejections }),
        Frame::Adopted(vec![Void { site: [0xa1; 16], version: 1, nonce: 1 << 40, chain: u64::MAX }]),
        Frame::RowsWanted(vec![row.clone(), row]),
        Frame::Token("e.y.z".into()),
        Frame::TokenTaken(Some(1_800_000_600_000)),
        Frame::Ping(1_800_000_000_000, Some(vector_hash(&vector()))),
        Frame::Pong(1_800_000_000_000, 1_800_000_000_007),
        Frame::Vector(WireVector(vector())),
        Frame::Schema(Bytes(b"CREATE TABLE t(x, y);".to_vec())),
        Frame::Horizon(WireVector(vector())),
        Frame::Fault(Fault { code: Code::Limited, message, retry_after_ms: Some(1_500) }),
    ]);
    let mut bytes: Vec<Vec<u8>> = all.iter().map(encoded).collect();
    bytes.extend(cut_frames(1, &[7; 300], 0));
    bytes
}
