//! The server's side of one connection.
//!
//! The room is everybody's; a session only remembers up to which of the room's versions its client has been told (`at`),
//! so ten thousand of them cost little, and those at the same place are sent the same bytes.

use crate::fault;
use crate::steady::Steady;
use crate::transfer::{Arrived, Defaults, Incoming, MadeCut, Outgoing};
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::{
    Bytes, Code, Fault, Frame, Hello, Id, PROTOCOL, PROTOCOL_OLDEST, Refused, Reject, Rejection, RowName,
    Void, Welcome, WireVector, vector_hash,
};
use rejoin_wire::limits::FRAME_BYTES_MAX;
use std::collections::{BTreeSet, VecDeque};

/// For whom a cut is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Reader {
    /// One who holds this.
    Vector(VersionVector),
    /// One who has everything up to a version of the room.
    Since(i64),
}

/// What a session asks of its room.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Check token, lineage, schema and site of a client; nothing is merged yet.
    Admit(Box<Hello>),
    Authenticate(String),
    /// The client's schema has changed.
    Compare(Vec<u8>),
    /// A cut, without the transactions of `site`, which has them, where nothing else is in it.
    MakeCut {
        reader: Reader,
        site: Id,
    },
    Apply(Vec<u8>),
    /// Versions of the client that are empty everywhere.
    Void(Vec<Void>),
    RowStates(Vec<RowName>),
    /// The client has everything up to this version of the room.
    Acknowledged {
        site: Id,
        upto: i64,
    },
}

/// The answers of the room.
#[derive(Clone, Debug)]
pub enum Reply {
    /// `welcome` as it is sent; `credit`, `session`, `protocol` and `resume` are the session's to fill.
    Admitted(Box<Welcome>),
    Denied(Fault),
    /// Until when the new token holds, Unix milliseconds.
    Authenticated(Option<u64>),
    Compared,
    /// None: there is nothing for this client up to `upto`.
    Made {
        cut: Option<MadeCut>,
        upto: i64,
    },
    Applied,
    NotApplied {
        code: Code,
        message: String,
        vector: VersionVector,
    },
    Rejected(Vec<Rejection>),
    Voided,
    Rows(Vec<u8>),
    Acknowledged,
    /// The room cannot: disk full, I/O error.
    Failed(String),
}

#[derive(Clone, Debug)]
pub enum Event {
    Frame(Vec<u8>),
    Reply(Reply),
    /// The room is at this version now, and holds what hashes to this (for heartbeats).
    Advanced {
        version: i64,
        vector_hash: u64,
    },
    SchemaChanged(Vec<u8>),
    HorizonMoved(VersionVector),
    /// The server is stopping: say so, and end.
    Drain,
    Tick,
}

#[derive(Clone, Debug)]
pub enum Effect {
    Send(Vec<u8>),
    Ask(Request),
    /// The connection ends, for this reason; what was to be sent is sent first.
    Close(Fault),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub session: u64,
    pub cut_bytes_max: u64,
    /// How long a client may take to say who it is.
    pub greeting_ms: u64,
    /// Rows that may be asked for at once.
    pub rows_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { session: 0, cut_bytes_max: Defaults::CUT_BYTES, greeting_ms: 10_000, rows_max: 100_000 }
    }
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Admitting(Box<Hello>),
    Open,
    Closed,
}

pub struct Session {
    config: Config,
    /// All times of the session are in it, but for when a token ends.
    time: Steady,
    phase: Phase,
    site: Id,
    asked: bool,
    heartbeat_ms: u64,
    expires_ms: Option<u64>,
    read_only: bool,
    outgoing: Outgoing,
    incoming: Incoming,
    applying: Option<u64>,
    /// What the client said that it holds, until a cut was made for that.
    vector: Option<VersionVector>,
    /// Up to here it was told everything; and the room's last version.
    at: i64,
    head: i64,
    head_hash: u64,
    /// Up to here it has acknowledged everything.
    acknowledged: Option<i64>,
    resume: Option<(Id, u64)>,
    token: Option<String>,
    schema: Option<Vec<u8>>,
    /// What was rejected and is not taken back; and what is taken back and not recorded.
    rejected: BTreeSet<(Id, u64)>,
    voids: Option<Vec<Void>>,
    rows: VecDeque<Vec<RowName>>,
    made_rows: VecDeque<Vec<u8>>,
    /// About the bytes of `rows`.
    waiting_bytes: u64,
    sent_ms: u64,
    heard_ms: u64,
    /// When something last went on, heartbeats aside.
    moved_ms: u64,
    out: Vec<Effect>,
}

impl Session {
    pub fn new(config: Config, now_ms: u64) -> Session {
        Session {
            incoming: Incoming::new(config.cut_bytes_max, None),
            config,
            time: Steady::new(now_ms),
            phase: Phase::Waiting,
            site: Id::default(),
            asked: false,
            heartbeat_ms: u64::from(Defaults::HEARTBEAT_MS),
            expires_ms: None,
            read_only: false,
            outgoing: Outgoing::default(),
            applying: None,
            vector: None,
            at: 0,
            head: 0,
            head_hash: 0,
            acknowledged: None,
            resume: None,
            token: None,
            schema: None,
            rejected: BTreeSet::new(),
            voids: None,
            rows: VecDeque::new(),
            made_rows: VecDeque::new(),
            waiting_bytes: 0,
            sent_ms: now_ms,
            heard_ms: now_ms,
            moved_ms: now_ms,
            out: Vec::new(),
        }
    }

    /// The client's site, once it has said so.
    pub fn site(&self) -> Id {
        self.site
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The client has begun a cut and not finished it.
    pub fn is_receiving(&self) -> bool {
        !self.incoming.is_idle()
    }

    /// Bytes that the session keeps: cuts that arrive, those that are not acknowledged, and what is asked or told beside them.
    pub fn held_bytes(&self) -> u64 {
        let made = self.made_rows.iter().map(|rows| rows.len() as u64).sum::<u64>();
        self.incoming.held_bytes() + self.outgoing.held_bytes() + made + self.waiting_bytes
    }

    /// The driver ends the session.
    pub fn end(&mut self, why: Fault) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Closed) {
            self.close(why);
        }
        std::mem::take(&mut self.out)
    }

    /// Nothing is asked, sent, received or waiting: over HTTP, the answer is complete.
    pub fn at_rest(&self) -> bool {
        let done = !self.asked && self.next_is_nothing();
        let sent = self.outgoing.bytes_left() == 0;
        matches!(self.phase, Phase::Closed) || (self.is_open() && done && sent && self.incoming.is_idle())
    }

    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        let clock_ms = now_ms;
        let now_ms = self.time.at(clock_ms);
        if let Event::Reply(_) = event {
            (self.asked, self.moved_ms) = (false, now_ms);
        }
        if !matches!(self.phase, Phase::Closed) {
            let done = self.take(event, now_ms).and_then(|()| self.tick(now_ms, clock_ms));
            if let Err(fault) = done {
                self.close(fault);
            }
            self.ask();
        }
        if self.out.iter().any(|e| matches!(e, Effect::Send(_))) {
            self.sent_ms = now_ms;
        }
        std::mem::take(&mut self.out)
    }

    pub fn wake_at(&self) -> Option<u64> {
        let at = match self.phase {
            // The room may take its time.
            Phase::Admitting(_) if self.asked => None,
            Phase::Waiting | Phase::Admitting(_) => Some(self.heard_ms + self.config.greeting_ms),
            Phase::Open => {
                let beat = self.sent_ms + self.heartbeat_ms;
                let silence = self.heard_ms + self.heartbeat_ms * Defaults::SILENCE;
                let stall = if self.awaits_client() { self.stalls_at() } else { u64::MAX };
                Some(beat.min(silence).min(stall))
            }
            Phase::Closed => None,
        };
        let at = at.map(|at| self.time.clock(at))?;
        Some(if self.is_open() { at.min(self.expires_ms.unwrap_or(u64::MAX)) } else { at })
    }

    fn take(&mut self, event: Event, now_ms: u64) -> Result<(), Fault> {
        match event {
            Event::Frame(bytes) => {
                let len = bytes.len() as u64;
                let bytes_max = if self.is_open() { FRAME_BYTES_MAX } else { HELLO_BYTES_MAX };
                let frame =
                    Frame::decode(&bytes, bytes_max).map_err(|e| fault(Code::Protocol, e.to_string()))?;
                if matches!(frame, Frame::RowsWanted(_)) {
                    self.waiting_bytes += len;
                }
                self.frame(frame, now_ms)
            }
            Event::Reply(reply) => self.reply(reply),
            Event::Advanced { version, vector_hash } => {
                (self.head, self.head_hash) = (self.head.max(version), vector_hash);
                Ok(())
            }
            Event::SchemaChanged(schema) => self.when_open(Frame::Schema(Bytes(schema))),
            Event::HorizonMoved(horizon) => self.when_open(Frame::Horizon(WireVector(horizon))),
            Event::Drain => Err(fault(Code::GoingAway, "the server is stopping; connect again in a moment")),
            Event::Tick => Ok(()),
        }
    }

    fn when_open(&mut self, frame: Frame) -> Result<(), Fault> {
        if self.is_open() { self.send(&frame) } else { Ok(()) }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), Fault> {
        let bytes = frame.encode().map_err(|e| fault(Code::Internal, e.to_string()))?;
        self.out.push(Effect::Send(bytes));
        Ok(())
    }

    fn send_all(&mut self, frames: Vec<Frame>) -> Result<(), Fault> {
        frames.iter().try_for_each(|f| self.send(f))
    }

    fn close(&mut self, fault: Fault) {
        self.phase = Phase::Closed;
        if self.send(&Frame::Fault(fault.clone())).is_ok() {
            self.out.push(Effect::Close(fault));
        }
    }

    fn tick(&mut self, now_ms: u64, clock_ms: u64) -> Result<(), Fault> {
        match self.phase {
            Phase::Waiting | Phase::Admitting(_)
                if self.heard_ms + self.config.greeting_ms <= now_ms && !self.asked =>
            {
                Err(fault(Code::Silent, "no greeting in time"))
            }
            Phase::Open if self.expires_ms.is_some_and(|at| at <= clock_ms) => {
                Err(fault(Code::Unauthenticated, "the token has expired"))
            }
            Phase::Open if self.heard_ms + self.heartbeat_ms * Defaults::SILENCE <= now_ms => {
                Err(fault(Code::Silent, "the client has said nothing for too long"))
            }
            Phase::Open if self.awaits_client() && self.stalls_at() <= now_ms => {
                Err(fault(Code::Silent, "the client does not go on with what is under way"))
            }
            Phase::Open if self.sent_ms + self.heartbeat_ms <= now_ms => {
                let hash = self.is_quiet().then_some(self.head_hash);
                self.send(&Frame::Ping(now_ms, hash))
            }
            _ => Ok(()),
        }
    }

    /// The next step is the client's.
    fn awaits_client(&self) -> bool {
        !self.asked && (!self.outgoing.is_idle() || !self.incoming.is_idle())
    }

    fn stalls_at(&self) -> u64 {
        self.moved_ms + self.heartbeat_ms * Defaults::STALL
    }

    /// Nothing is under way in either direction.
    fn is_quiet(&self) -> bool {
        self.outgoing.is_idle()
            && self.incoming.is_idle()
            && self.applying.is_none()
            && self.vector.is_none()
            && self.at >= self.head
            && self.head_hash != 0
    }

    fn frame(&mut self, frame: Frame, now_ms: u64) -> Result<(), Fault> {
        let frame = match (&self.phase, frame) {
            (Phase::Waiting, Frame::Hello(hello)) => {
                self.heard_ms = now_ms;
                return self.hello(hello);
            }
            (_, Frame::Fault(_)) => {
                self.phase = Phase::Closed;
                self.out.push(Effect::Close(fault(Code::GoingAway, "the client left")));
                return Ok(());
            }
            (Phase::Open, frame) => frame,
            _ => return Err(fault(Code::Protocol, "a frame out of turn")),
        };
        self.heard_ms = now_ms;
        if !matches!(frame, Frame::Ping(..) | Frame::Pong(..)) {
            self.moved_ms = now_ms;
        }
        let mut out = Vec::new();
        match frame {
            Frame::Cut(_) | Frame::Data(_) | Frame::Adopted(_) if self.read_only => {
                return Err(fault(Code::Forbidden, "the token allows reading only"));
            }
            Frame::Cut(head) if head.rows => return Err(fault(Code::Protocol, "rows that nobody asked for")),
            Frame::Cut(head) => self.incoming.cut(head)?,
            Frame::Data(data) => self.incoming.data(data)?,
            Frame::Credit(bytes) => self.outgoing.credit(bytes, &mut out),
            Frame::Ack(cut) => {
                let acked = self.outgoing.acked(cut)?;
                if acked.upto > self.acknowledged.unwrap_or(0) {
                    self.acknowledged = Some(acked.upto);
                }
            }
            Frame::Refused(refused) => {
                self.outgoing.refused(refused.cut)?;
                self.vector = Some(refused.vector.0);
            }
            Frame::Vector(vector) => self.vector = Some(vector.0),
            Frame::Adopted(voids) => self.adopted(voids)?,
            Frame::RowsWanted(rows) => self.rows_wanted(rows)?,
            Frame::Token(token) => self.token = Some(token),
            Frame::Schema(Bytes(schema)) => self.schema = Some(schema),
            // The client's horizon is learned from what it acknowledges.
            Frame::Horizon(_) | Frame::Pong(..) => {}
            Frame::Ping(time_ms, _) => out.push(Frame::Pong(time_ms, now_ms)),
            _ => return Err(fault(Code::Protocol, "a frame out of turn")),
        }
        self.credit(&mut out);
        self.send_all(out)
    }

    fn credit(&mut self, out: &mut Vec<Frame>) {
        out.extend(self.incoming.credit().map(Frame::Credit));
    }

    /// It follows a rejection, and takes back at least what was rejected of the client's site.
    fn adopted(&mut self, voids: Vec<Void>) -> Result<(), Fault> {
        let rejected = std::mem::take(&mut self.rejected);
        let is_void = |r: &(Id, u64)| voids.iter().any(|v| (v.site, v.version) == *r);
        if rejected.is_empty() || !rejected.iter().filter(|r| r.0 == self.site).all(is_void) {
            return Err(fault(Code::Protocol, "not what was rejected is taken back"));
        }
        self.voids = Some(voids);
        Ok(())
    }

    fn rows_wanted(&mut self, rows: Vec<RowName>) -> Result<(), Fault> {
        if rows.len() > self.config.rows_max || self.rows.len() + self.made_rows.len() > WAITING_MAX {
            return Err(fault(Code::TooLarge, "more rows are asked for than are given at once"));
        }
        self.rows.push_back(rows);
        Ok(())
    }

    fn hello(&mut self, hello: Hello) -> Result<(), Fault> {
        if hello.oldest > PROTOCOL || hello.newest < PROTOCOL_OLDEST {
            let (oldest, newest) = (hello.oldest, hello.newest);
            let message = format!(
                "the client speaks protocol {oldest} to {newest}, this server {PROTOCOL_OLDEST} to {PROTOCOL}; \
                 update the older of the two"
            );
            return Err(fault(Code::Version, message));
        }
        self.site = hello.site;
        self.phase = Phase::Admitting(Box::new(hello));
        Ok(())
    }

    fn admitted(&mut self, mut welcome: Welcome) -> Result<(), Fault> {
        let Phase::Admitting(hello) = std::mem::replace(&mut self.phase, Phase::Open) else {
            return Err(fault(Code::Internal, "an admission out of turn"));
        };
        welcome.protocol = PROTOCOL.min(hello.newest);
        (welcome.session, welcome.credit, welcome.resume) = (self.config.session, Defaults::CREDIT, None);
        welcome.limits.cut_bytes = self.config.cut_bytes_max;
        self.heartbeat_ms = u64::from(welcome.heartbeat_ms.max(100));
        (self.expires_ms, self.read_only) = (welcome.expires_ms, welcome.grants.read_only);
        self.outgoing = Outgoing::new(hello.credit);
        self.resume = hello.resume;
        self.vector = Some(hello.vector.0);
        self.head_hash = vector_hash(&welcome.vector.0);
        self.send(&Frame::Welcome(Box::new(welcome)))
    }

    fn reply(&mut self, reply: Reply) -> Result<(), Fault> {
        let mut out = Vec::new();
        match reply {
            Reply::Admitted(welcome) => return self.admitted(*welcome),
            Reply::Denied(fault) => return Err(fault),
            Reply::Failed(why) => return Err(fault(Code::Internal, why)),
            Reply::Authenticated(until) => {
                self.expires_ms = until;
                out.push(Frame::TokenTaken(until));
            }
            Reply::Made { cut, upto } => {
                self.at = self.at.max(upto);
                if let Some(cut) = cut {
                    let resume = self.resume.take();
                    self.outgoing.begin(cut, resume, &mut out);
                } else if self.outgoing.is_idle() {
                    self.acknowledged = Some(upto);
                }
            }
            Reply::Applied => {
                out.extend(self.applying.take().map(Frame::Ack));
            }
            Reply::NotApplied { code, message, vector } => {
                let cut = self.applying.take().unwrap_or_default();
                self.incoming.refuse(cut);
                out.push(Frame::Refused(Refused { cut, code, message, vector: WireVector(vector) }));
            }
            Reply::Rejected(rejections) => {
                let cut = self.applying.take().unwrap_or_default();
                self.incoming.refuse(cut);
                self.rejected = rejections.iter().map(|r| (r.site, r.version)).collect();
                out.push(Frame::Reject(Reject { cut, rejections }));
            }
            Reply::Rows(rows) => self.made_rows.push_back(rows),
            Reply::Voided | Reply::Compared | Reply::Acknowledged => {}
        }
        self.credit(&mut out);
        self.send_all(out)
    }

    fn ask(&mut self) {
        if self.asked {
            return;
        }
        self.send_rows();
        if let Some(request) = self.next() {
            self.asked = true;
            self.out.push(Effect::Ask(request));
        }
    }

    fn send_rows(&mut self) {
        while self.is_open() && self.outgoing.has_room() {
            let Some(rows) = self.made_rows.pop_front() else { return };
            let made = MadeCut {
                bytes: rows.into(),
                transactions: 0,
                brings: VersionVector::new(),
                upto: 0,
                more: self.at < self.head,
                rows: true,
            };
            let mut out = Vec::new();
            self.outgoing.begin(made, None, &mut out);
            if let Err(fault) = self.send_all(out) {
                self.close(fault);
            }
        }
    }

    fn next_is_nothing(&self) -> bool {
        self.token.is_none()
            && self.schema.is_none()
            && self.voids.is_none()
            && self.rows.is_empty()
            && self.made_rows.is_empty()
            && (self.vector.is_none() && self.at >= self.head)
    }

    fn next(&mut self) -> Option<Request> {
        match &self.phase {
            Phase::Admitting(hello) => return Some(Request::Admit(hello.clone())),
            Phase::Open => {}
            Phase::Waiting | Phase::Closed => return None,
        }
        if let Some(token) = self.token.take() {
            return Some(Request::Authenticate(token));
        }
        if let Some(schema) = self.schema.take() {
            return Some(Request::Compare(schema));
        }
        if self.rows.is_empty() {
            self.waiting_bytes = 0;
        }
        if let Some(voids) = self.voids.take() {
            return Some(Request::Void(voids));
        }
        if let Some(rows) = self.rows.pop_front() {
            return Some(Request::RowStates(rows));
        }
        if let Some(Arrived { cut, bytes, .. }) = self.incoming.take() {
            self.applying = Some(cut);
            return Some(Request::Apply(bytes));
        }
        if self.outgoing.has_room() {
            let site = self.site;
            if let Some(vector) = self.vector.take() {
                return Some(Request::MakeCut { reader: Reader::Vector(vector), site });
            }
            if self.at < self.head {
                return Some(Request::MakeCut { reader: Reader::Since(self.at), site });
            }
        }
        if self.outgoing.is_idle()
            && let Some(upto) = self.acknowledged.take()
        {
            return Some(Request::Acknowledged { site: self.site, upto });
        }
        None
    }
}

/// Frames of one kind that may wait for the room.
const WAITING_MAX: usize = 4;

/// A first frame is small but for the vector and the schema.
const HELLO_BYTES_MAX: usize = 12 << 20;
