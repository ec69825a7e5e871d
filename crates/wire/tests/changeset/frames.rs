//! Frames: golden bytes of every kind, and what a stranger may send.

use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::*;
use rejoin_wire::limits::FRAME_BYTES_MAX;

const GOLDEN: &str = include_str!("../fixtures/frames-v1.txt");

fn vector() -> VersionVector {
    let mut vector = VersionVector::new();
    vector.insert_range(SiteId([0xa1; 16]), 1..=300);
    vector.insert_range(SiteId([0xb2; 16]), 1..=2);
    vector.insert_range(SiteId([0xb2; 16]), 5..=5);
    vector
}

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 1,
        token: Some("ey.J.x".into()),
        site: [0xa1; 16],
        lineage: Some([0x11; 16]),
        schema: Bytes(vec![1, 2, 3]),
        vector: WireVector(vector()),
        head: Some((300, 0x0123_4567_89ab_cdef)),
        horizon: WireVector::default(),
        credit: 4 << 20,
        resume: Some(([0x22; 16], 70_000)),
        agent: "rejoin 0.1.0".into(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        session: 77,
        time_ms: 1_800_000_000_000,
        site: [0xb2; 16],
        lineage: [0x11; 16],
        schema: Bytes(vec![1, 2, 3]),
        vector: WireVector(vector()),
        yours: Some((299, u64::MAX)),
        head: Some((5, 0x0123_4567_89ab_cdef)),
        horizon: WireVector(vector()),
        grants: Grants { relay: true, read_only: false },
        limits: Limits { frame_bytes: 16 << 20, cut_bytes: 64 << 20 },
        heartbeat_ms: 15_000,
        expires_ms: Some(1_800_000_600_000),
        credit: 4 << 20,
        resume: None,
    }
}

/// One of each, in the order of their numbers; some twice, for their options.
fn all() -> Vec<(&'static str, Frame)> {
    let row = || RowName { table: "books".into(), pk: Bytes(vec![1, 9, 7]) };
    let rejection = Rejection {
        site: [0xa1; 16],
        version: 12,
        code: Code::Policy,
        message: "no".into(),
        table: "books".into(),
        pk: Bytes(vec![1, 9, 7]),
    };
    let cut = Cut {
        cut: 3,
        bytes: 200_000,
        hash: [0x33; 16],
        offset: 128,
        transactions: 5,
        more: true,
        since: 2,
        rows: false,
    };
    let refused = Refused { cut: 4, code: Code::Gap, message: "a gap".into(), vector: WireVector(vector()) };
    let fault = Fault { code: Code::Limited, message: "slow down".into(), retry_after_ms: Some(1_500) };
    vec![
        ("Hello", Frame::Hello(hello())),
        ("Hello", Frame::Hello(Hello { token: None, lineage: None, head: None, resume: None, ..hello() })),
        ("Welcome", Frame::Welcome(Box::new(welcome()))),
        (
            "Welcome",
            Frame::Welcome(Box::new(Welcome { yours: None, head: None, expires_ms: None, ..welcome() })),
        ),
        ("Cut", Frame::Cut(cut)),
        ("Data", Frame::Data(Data { cut: 3, bytes: Bytes(vec![0, 1, 254, 255]) })),
        ("Credit", Frame::Credit(1 << 20)),
        ("Ack", Frame::Ack(3)),
        ("Refused", Frame::Refused(refused)),
        ("Reject", Frame::Reject(Reject { cut: 5, rejections: vec![rejection] })),
        (
            "Adopted",
            Frame::Adopted(vec![Void { site: [0xa1; 16], version: 12, nonce: 1 << 40, chain: u64::MAX }]),
        ),
        ("RowsWanted", Frame::RowsWanted(vec![row(), row()])),
        ("Token", Frame::Token("ey.J.y".into())),
        ("TokenTaken", Frame::TokenTaken(None)),
        ("TokenTaken", Frame::TokenTaken(Some(1_800_000_600_000))),
        ("Ping", Frame::Ping(1_800_000_000_000, Some(vector_hash(&vector())))),
        ("Pong", Frame::Pong(1_800_000_000_000, 1_800_000_000_007)),
        ("Vector", Frame::Vector(WireVector(vector()))),
        ("Schema", Frame::Schema(Bytes(vec![1, 2, 3]))),
        ("Horizon", Frame::Horizon(WireVector(vector()))),
        ("Fault", Frame::Fault(fault)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn frames_have_their_golden_bytes() {
    let line = |(name, frame): &(&str, Frame)| format!("{name} {}\n", hex(&frame.encode().expect("encodes")));
    let now: String = all().iter().map(line).collect();
    let golden: String = GOLDEN.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    assert_eq!(now, golden);
    for (name, frame) in all() {
        let bytes = frame.encode().expect("encodes");
        assert_eq!(Frame::decode(&bytes, bytes.len()).as_ref(), Ok(&frame), "{name}");
        assert!(Frame::decode(&bytes, bytes.len() - 1).is_err(), "{name} beyond what is allowed");
    }
}

#[test]
fn codes_keep_their_numbers() {
    let codes = [
        Code::Protocol,
        Code::Version,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::NoRoom,
        Code::OtherLineage,
        Code::IncompatibleSchema,
        Code::BelowHorizon,
        Code::Fork,
        Code::Gap,
        Code::Ahead,
        Code::Malformed,
        Code::Clock,
        Code::TooLarge,
        Code::Limited,
        Code::Constraint,
        Code::Policy,
        Code::ForeignSite,
        Code::DependsOn,
        Code::GoingAway,
        Code::Silent,
        Code::Internal,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        let frame = Frame::Fault(Fault { code, message: String::new(), retry_after_ms: None });
        assert_eq!(frame.encode().expect("encodes"), [17, number as u8, 0, 0]);
    }
    assert!(Frame::decode(&[17, codes.len() as u8, 0, 0], 100).is_err(), "a code of a later version");
}

#[test]
fn truncated_extended_and_flipped_frames_are_refused_or_other_frames() {
    for (name, frame) in all() {
        let bytes = frame.encode().expect("encodes");
        for len in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..len], FRAME_BYTES_MAX).is_err(), "{name} cut to {len} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Frame::decode(&longer, FRAME_BYTES_MAX).is_err(), "{name} with a byte more");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(other) = Frame::decode(&flipped, FRAME_BYTES_MAX) {
                    assert_ne!(other, frame, "{name}: bit {bit} of byte {at} says nothing");
                }
            }
        }
    }
}

/// A few bytes that promise gigabytes: texts, bytes, lists, vectors.
#[test]
fn lengths_are_not_believed() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for head in [&[3u8, 1][..], &[7, 1], &[8], &[9], &[10], &[14], &[15], &[16], &[17, 0]] {
        let bytes = [head, &huge, &[1, 2, 3]].concat();
        assert!(Frame::decode(&bytes, FRAME_BYTES_MAX).is_err(), "{head:?}");
    }
    assert!(Frame::decode(&vec![0; FRAME_BYTES_MAX + 1], usize::MAX).is_err());
}
