//! Frames: what a client and a server say to each other, each in one message of a WebSocket.
//!
//! A frame is the [postcard](https://postcard.jamesmunns.com/wire-format) encoding of [`Frame`]: the number of the
//! variant as a varint, then its fields in order. Numbers of variants and the order of fields are part of the
//! protocol; what comes later goes to the end and is spoken of only under a later protocol version.
//! `docs/protocol.md` says what each frame means and when it may be sent.
//!
//! Nothing is believed: a frame longer than the receiver's bound is refused before it is decoded, a list or a text never
//! takes more memory than the bytes behind it pay for, and a byte left over is an error.

use crate::error::Error;
use crate::limits::{FRAME_BYTES_MAX, VECTOR_BYTES_MAX};
use rejoin_crdt::vector::VersionVector;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The version of the protocol that this build speaks, and the oldest that it understands.
pub const PROTOCOL: u16 = 1;
pub const PROTOCOL_OLDEST: u16 = 1;

/// A version vector in its binary form (`rejoin_crdt::vector`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireVector(pub VersionVector);

/// Bytes, written as a length and the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub Vec<u8>);

/// A site id: 16 bytes without a length.
pub type Id = [u8; 16];

/// The first frame of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions that the client speaks, from oldest to newest.
    pub oldest: u16,
    pub newest: u16,
    /// A JSON Web Token; none where the server asks for none.
    pub token: Option<String>,
    pub site: Id,
    pub lineage: Option<Id>,
    pub schema: Bytes,
    pub vector: WireVector,
    /// The client's last own version and the chain hash there.
    pub head: Option<(u64, u64)>,
    /// The collected versions: what stands below has no tombstones here any more.
    pub horizon: WireVector,
    /// How many bytes of cuts the server may send before more credit comes.
    pub credit: u64,
    /// The cut that a lost connection left half received: its hash, and how many bytes are here.
    pub resume: Option<(Id, u64)>,
    /// Program and version, for the server's log.
    pub agent: String,
}

/// The answer of a server that takes the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub protocol: u16,
    /// Names the connection in logs of both sides.
    pub session: u64,
    /// The server's clock, Unix milliseconds.
    pub time_ms: u64,
    pub site: Id,
    pub lineage: Id,
    pub schema: Bytes,
    pub vector: WireVector,
    /// The last version of the client's site that the server holds, and the chain hash there if it is known.
    pub yours: Option<(u64, u64)>,
    /// The last version of the server's own site, and the chain hash there.
    pub head: Option<(u64, u64)>,
    pub horizon: WireVector,
    pub grants: Grants,
    pub limits: Limits,
    pub heartbeat_ms: u32,
    /// When the token ends, Unix milliseconds.
    pub expires_ms: Option<u64>,
    pub credit: u64,
    pub resume: Option<(Id, u64)>,
}

/// What the token allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Transactions and cells of sites of other subjects.
    pub relay: bool,
    /// Nothing may be sent.
    pub read_only: bool,
}

/// What the server takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub frame_bytes: u32,
    pub cut_bytes: u64,
}

/// Begins a cut: `bytes` in all, of which `Data` from `offset` on follows. Or row states, where rows were asked for: they
/// travel, and are acknowledged, in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Counts the sender's cuts of this connection from 1.
    pub cut: u64,
    pub bytes: u64,
    /// The first 16 bytes of its BLAKE3 hash.
    pub hash: Id,
    pub offset: u64,
    pub transactions: u64,
    /// The sender has more to send after this one.
    pub more: bool,
    /// The last cut of this direction that the sender knows to be refused or rejected, 0 for none. The receiver drops
    /// what was sent before the sender knew.
    pub since: u64,
    /// These are row states (`docs/changeset-format.md`).
    pub rows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    pub cut: u64,
    pub bytes: Bytes,
}

/// The cut was not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub cut: u64,
    pub code: Code,
    pub message: String,
    /// What the receiver holds: the next cut is made for that.
    pub vector: WireVector,
}

/// One transaction that the server does not take: the client's own, or one that it relays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub site: Id,
    pub version: u64,
    pub code: Code,
    pub message: String,
    pub table: String,
    /// The packed key of the first row that offends; empty if it is the transaction as such.
    pub pk: Bytes,
}

/// The cut was not applied: the server does not take these transactions of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    pub cut: u64,
    pub rejections: Vec<Rejection>,
}

/// A row by table and packed key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowName {
    pub table: String,
    pub pk: Bytes,
}

/// An origin version that is held and empty everywhere, with its place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    pub site: Id,
    pub version: u64,
    pub nonce: u64,
    pub chain: u64,
}

/// Why something ends. The number is the code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Code {
    /// A frame that is no frame, or comes when it may not.
    Protocol,
    /// No protocol version in common.
    Version,
    Unauthenticated,
    Forbidden,
    NoRoom,
    OtherLineage,
    IncompatibleSchema,
    /// Tombstones that the client lacks are gone: start over from a snapshot.
    BelowHorizon,
    /// Two histories of one site.
    Fork,
    /// It builds on what the receiver lacks.
    Gap,
    /// A transaction names a table or column that the receiver lacks.
    Ahead,
    /// Numbers that no honest replica sends, or bytes that are no changeset.
    Malformed,
    /// A clock beyond the drift that is allowed.
    Clock,
    TooLarge,
    /// Over a rate or a quota.
    Limited,
    /// A value does not fit the table.
    Constraint,
    /// A policy of the room.
    Policy,
    /// A site id that belongs to another subject.
    ForeignSite,
    /// It depends on a transaction that was rejected.
    DependsOn,
    /// The server is stopping, the room is closed.
    GoingAway,
    /// The other side has said nothing for too long.
    Silent,
    /// Disk full, I/O error: the fault is the server's.
    Internal,
}

/// What the receiver of an error may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Connect again after a while.
    Later,
    /// Connect again at once, with what was learned.
    Now,
    /// Somebody must do something first.
    Never,
}

impl Code {
    pub fn retry(self) -> Retry {
        match self {
            // A frame was lost, or one of the programs is at fault: a new connection settles what is held.
            Code::Protocol => Retry::Later,
            // The client's clock is measured when it connects.
            Code::Clock => Retry::Later,
            Code::Limited | Code::GoingAway | Code::Silent | Code::Internal | Code::Ahead => Retry::Later,
            Code::Gap | Code::Fork => Retry::Now,
            _ => Retry::Never,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    pub message: String,
    pub retry_after_ms: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    Hello(Hello),
    Welcome(Box<Welcome>),
    Cut(Cut),
    Data(Data),
    /// More bytes of cuts may be sent.
    Credit(u64),
    /// The cut is applied and durable: everything that it brings is held.
    Ack(u64),
    Refused(Refused),
    Reject(Reject),
    /// The client has adopted: these versions of its own sites are void, what comes from here on builds on that.
    Adopted(Vec<Void>),
    /// The state of these rows is asked for; it comes as a cut of row states.
    RowsWanted(Vec<RowName>),
    /// A newer token.
    Token(String),
    /// Until when it holds, Unix milliseconds.
    TokenTaken(Option<u64>),
    /// The sender's clock, and a hash of its version vector once it has nothing under way.
    Ping(u64, Option<u64>),
    /// The clock of the ping, and the sender's own.
    Pong(u64, u64),
    /// The sender's whole vector: what it holds is less, or other, than the receiver may think.
    Vector(WireVector),
    /// The sender's schema has changed.
    Schema(Bytes),
    /// The sender's horizon has moved.
    Horizon(WireVector),
    /// The last frame: the connection ends.
    Fault(Fault),
}

impl Frame {
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        postcard::to_allocvec(self).map_err(|_| Error::Invalid { what: "frame" })
    }

    /// Decodes a frame of at most `bytes_max` bytes.
    pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Frame, Error> {
        if bytes.len() > bytes_max.min(FRAME_BYTES_MAX) {
            return Err(Error::TooLarge { what: "frame", limit: bytes_max as u64 });
        }
        match postcard::take_from_bytes(bytes) {
            Ok((frame, [])) => Ok(frame),
            Ok(_) => Err(Error::Malformed { what: "bytes after a frame" }),
            Err(_) => Err(Error::Malformed { what: "frame" }),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        from.deserialize_bytes(BytesVisitor)
    }
}

impl Serialize for WireVector {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0.encode())
    }
}

impl<'de> Deserialize<'de> for WireVector {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WireVector, D::Error> {
        let bytes = from.deserialize_bytes(BytesVisitor)?.0;
        if bytes.len() > VECTOR_BYTES_MAX {
            return Err(D::Error::custom("vector too long"));
        }
        // No bytes at all: the empty vector.
        let vector = if bytes.is_empty() { Ok(VersionVector::new()) } else { VersionVector::decode(&bytes) };
        vector.map(WireVector).map_err(|_| D::Error::custom("vector"))
    }
}

impl From<VersionVector> for WireVector {
    fn from(vector: VersionVector) -> WireVector {
        WireVector(vector)
    }
}

/// What of a version vector a heartbeat carries.
pub fn vector_hash(vector: &VersionVector) -> u64 {
    let hash = blake3::hash(&vector.encode());
    hash.as_bytes().first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

/// The hash that names a cut.
pub fn cut_hash(bytes: &[u8]) -> Id {
    crate::writer::checksum(bytes)
}
