//! The client: one database and its room on a server, over any number of connections.
//!
//! ```text
//! Offline --Start, time--> Dialing --Connected--> Greeting: Describe, Hello, Welcome, Compare, Prepare --> Open
//!    ^                                                                                                      |
//!    +--------------------------------- Closed, Fault, silence, storage ------------------------------------+
//! ```
//!
//! Whatever was lost or restored on either side shows in the version vectors that Hello and Welcome carry; so each
//! connection begins by settling that (`greeting.rs`), and then both directions flow (`open.rs`).

mod greeting;
mod open;

use crate::backoff::Backoff;
use crate::state::State;
use crate::transfer::{MadeCut, Remains};
use crate::{Relation, fault};
use open::Open;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::{Code, Fault, Frame, Id, Rejection, Retry, RowName, Void, Welcome};

/// What the machine needs to know of the database; asked for with [`Request::Describe`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub site: Id,
    /// Every id under which this replica has written.
    pub mine: Vec<Id>,
    pub lineage: Option<Id>,
    pub schema: Vec<u8>,
    pub vector: VersionVector,
    /// The last own version and the chain hash there.
    pub head: Option<(u64, u64)>,
    pub horizon: VersionVector,
    /// What the server had acknowledged, as the file remembers it.
    pub acknowledged: VersionVector,
    /// Milliseconds that are added to the clock of this machine.
    pub clock_offset_ms: i64,
    /// Transactions in `crsql_rejected`, and the reason of the last.
    pub rejected: u64,
    pub rejected_reason: String,
}

/// What must be done before anything is merged.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    TakeLineage(Id),
    /// The server knows more of this site than the database does, which was rolled back: go on under a new id.
    NewSite,
    /// Two histories of this site: what came after this version goes on under a new id.
    GiveWay(u64),
    /// This clock is wrong: stamp the transactions that the server lacks anew.
    Restamp {
        acknowledged: VersionVector,
        offset_ms: i64,
    },
    /// Note whose room this is.
    Remember {
        server: Id,
        vector: VersionVector,
        relay: bool,
    },
}

/// What the machine asks of the storage.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Describe,
    /// How the server's schema stands to this one, and the chain hash of an own version.
    Compare {
        schema: Vec<u8>,
        version: Option<u64>,
    },
    /// All steps, in order.
    Prepare(Vec<Step>),
    /// A cut for one who holds `theirs`; None if there is nothing.
    MakeCut {
        theirs: VersionVector,
        own_only: bool,
        bytes_max: u64,
    },
    Apply(Vec<u8>),
    Adopt {
        rejections: Vec<Rejection>,
        rows: Vec<Vec<u8>>,
    },
    MergeRows(Vec<u8>),
    /// The server holds this.
    Acknowledge(VersionVector),
    /// Replace the database by a snapshot of the room, with the unsent transactions replayed on it.
    StartOver,
}

/// Why a cut was not applied.
#[derive(Clone, Debug, PartialEq)]
pub enum NotApplied {
    Gap(String),
    Fork(String),
    OtherLineage(String),
    BelowHorizon(String),
    /// The bytes are no honest changeset.
    Bad(String),
}

/// The answers of the storage. Those that changed the database, or may have, bring its facts.
#[derive(Clone, Debug)]
pub enum Reply {
    Described(Box<Facts>),
    Compared {
        relation: Relation,
        chain: Option<u64>,
    },
    /// With the rows that the server must send anew.
    Prepared {
        facts: Box<Facts>,
        wanted: Vec<RowName>,
    },
    Made(Option<MadeCut>),
    /// `holds`: what the cut says that its sender holds, `rejoin_wire::Reader::holds`.
    Applied {
        holds: VersionVector,
        facts: Box<Facts>,
    },
    NotApplied {
        why: NotApplied,
        facts: Box<Facts>,
    },
    /// `wanted` is not empty: nothing was done, the server's state of these rows is needed too.
    Adopted {
        voids: Vec<Void>,
        wanted: Vec<RowName>,
        facts: Box<Facts>,
    },
    Merged(Box<Facts>),
    Acknowledged,
    StartedOver(Box<Facts>),
    /// It could not be done (locked, disk full); the database is as before.
    Failed(String),
}

#[derive(Clone, Debug)]
pub enum Event {
    Start,
    Stop,
    Connected,
    Frame(Vec<u8>),
    /// The connection is gone, or could not be made.
    Closed {
        why: String,
    },
    /// The database was written to, by this program or another.
    Changed,
    /// A newer token.
    Token(String),
    Reply(Reply),
    /// Time has passed; also given when `wake_at` has come.
    Tick,
}

#[derive(Clone, Debug)]
pub enum Effect {
    Connect,
    Send(Vec<u8>),
    Disconnect,
    Ask(Request),
    State(State),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub token: Option<String>,
    /// Program and version, for the server's log.
    pub agent: String,
    /// Clocks that differ by less are right.
    pub clock_tolerance_ms: i64,
    pub cut_bytes_max: u64,
    /// Seeds the jitter of the back-off.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            token: None,
            agent: String::new(),
            clock_tolerance_ms: 30_000,
            cut_bytes_max: 1 << 30,
            seed: 0,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Stopped,
    Offline {
        why: String,
        retry_at: Option<u64>,
    },
    Dialing,
    /// Facts are asked for, then Hello goes out.
    Describing,
    Greeting {
        sent_ms: u64,
    },
    Settling(Box<Settling>),
    StartingOver,
    Open(Box<Open>),
    /// Nothing happens until `Start`.
    Halted {
        reason: String,
    },
}

/// A Welcome is here and not everything is settled yet.
#[derive(Debug)]
struct Settling {
    welcome: Welcome,
    /// The server's clock less this one's.
    offset_ms: i64,
    relation: Option<Relation>,
    /// Two histories of this site: the last version that they may share.
    common: Option<u64>,
}

/// How long a server may take to answer the first frame.
const GREETING_MS: u64 = 20_000;

pub struct Client {
    config: Config,
    phase: Phase,
    facts: Facts,
    asked: bool,
    /// The facts may be outdated.
    stale: bool,
    remains: Option<Remains>,
    backoff: Backoff,
    random: u64,
    told: Option<State>,
    /// Frames to send and what else comes of the event at hand.
    out: Vec<Effect>,
}

impl Client {
    pub fn new(config: Config) -> Client {
        let random = config.seed | 1;
        Client {
            config,
            phase: Phase::Stopped,
            facts: Facts::default(),
            asked: false,
            stale: true,
            remains: None,
            backoff: Backoff::default(),
            random,
            told: None,
            out: Vec::new(),
        }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What came of an event. `now_ms`: Unix milliseconds by this machine's clock.
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        match event {
            Event::Start => self.start(),
            Event::Stop => self.stop(),
            Event::Connected if matches!(self.phase, Phase::Dialing) => {
                self.phase = Phase::Describing;
                self.stale = true;
            }
            Event::Connected => self.out.push(Effect::Disconnect),
            Event::Frame(bytes) => self.frame(&bytes, now_ms),
            Event::Closed { why } => self.closed(why, now_ms),
            Event::Changed => self.stale = true,
            Event::Token(token) => self.token(token),
            Event::Reply(reply) => {
                self.asked = false;
                self.reply(reply, now_ms);
            }
            Event::Tick => {}
        }
        self.tick(now_ms);
        self.ask();
        self.tell();
        std::mem::take(&mut self.out)
    }

    /// When `Tick` is due at the latest.
    pub fn wake_at(&self) -> Option<u64> {
        match &self.phase {
            Phase::Offline { retry_at, .. } => *retry_at,
            Phase::Greeting { sent_ms } => Some(sent_ms + GREETING_MS),
            Phase::Open(open) => Some(open.wake_at()),
            _ => None,
        }
    }

    fn start(&mut self) {
        if matches!(self.phase, Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. }) {
            self.backoff.reset();
            self.dial();
        }
    }

    fn stop(&mut self) {
        if !matches!(self.phase, Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. }) {
            self.keep_remains();
            self.out.push(Effect::Disconnect);
        }
        self.phase = Phase::Stopped;
    }

    fn dial(&mut self) {
        self.phase = Phase::Dialing;
        self.out.push(Effect::Connect);
    }

    fn token(&mut self, token: String) {
        self.config.token = Some(token.clone());
        match self.phase {
            Phase::Open(_) => self.send(&Frame::Token(token)),
            Phase::Halted { .. } => self.start(),
            _ => {}
        }
    }

    fn keep_remains(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            self.remains = open.remains();
        }
    }

    /// The connection ended without our doing.
    fn closed(&mut self, why: String, now_ms: u64) {
        if matches!(self.phase, Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. }) {
            return;
        }
        self.keep_remains();
        self.offline(why, None, now_ms);
    }

    fn offline(&mut self, why: String, after_ms: Option<u64>, now_ms: u64) {
        let wait = after_ms.unwrap_or(0).max(self.wait());
        self.phase = Phase::Offline { why, retry_at: Some(now_ms + wait) };
    }

    fn wait(&mut self) -> u64 {
        // Xorshift (Marsaglia 2003): jitter needs no better.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.backoff.next_ms(self.random)
    }

    /// We end the connection: it is told, and tried again or not as the code says.
    fn fail(&mut self, fault: Fault, now_ms: u64) {
        self.send(&Frame::Fault(fault.clone()));
        self.ended(fault, now_ms);
    }

    fn ended(&mut self, fault: Fault, now_ms: u64) {
        self.keep_remains();
        self.out.push(Effect::Disconnect);
        match fault.code.retry() {
            Retry::Never => self.phase = Phase::Halted { reason: fault.message },
            Retry::Now | Retry::Later => {
                self.offline(fault.message, fault.retry_after_ms.map(u64::from), now_ms);
            }
        }
    }

    fn send(&mut self, frame: &Frame) {
        match frame.encode() {
            Ok(bytes) => self.out.push(Effect::Send(bytes)),
            Err(_) => self.out.push(Effect::Disconnect),
        }
    }

    fn frame(&mut self, bytes: &[u8], now_ms: u64) {
        if matches!(
            self.phase,
            Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. } | Phase::Dialing
        ) {
            return;
        }
        let frame = match Frame::decode(bytes, crate::client::open::FRAME_BYTES_MAX) {
            Ok(frame) => frame,
            Err(e) => return self.fail(fault(Code::Protocol, e.to_string()), now_ms),
        };
        match (&mut self.phase, frame) {
            (_, Frame::Fault(fault)) => self.ended(fault, now_ms),
            (Phase::Greeting { sent_ms }, Frame::Welcome(welcome)) => {
                let sent_ms = *sent_ms;
                self.welcomed(*welcome, sent_ms, now_ms);
            }
            (Phase::Open(open), frame) => {
                let mut frames = Vec::new();
                let done = open.frame(frame, &self.facts, now_ms, &mut frames);
                frames.iter().for_each(|f| self.send(f));
                if let Err(fault) = done {
                    self.fail(fault, now_ms);
                }
            }
            _ => self.fail(fault(Code::Protocol, "a frame out of turn"), now_ms),
        }
    }

    fn tick(&mut self, now_ms: u64) {
        match &mut self.phase {
            Phase::Offline { retry_at: Some(at), .. } if *at <= now_ms => self.dial(),
            Phase::Greeting { sent_ms } if *sent_ms + GREETING_MS <= now_ms => {
                self.ended(fault(Code::Silent, "the server does not answer"), now_ms);
            }
            Phase::Open(open) => {
                let mut frames = Vec::new();
                let done = open.tick(&self.facts, now_ms, &mut frames);
                frames.iter().for_each(|f| self.send(f));
                if let Err(fault) = done {
                    self.fail(fault, now_ms);
                }
            }
            _ => {}
        }
    }

    /// Asks the storage for the next thing, if nothing is asked yet.
    fn ask(&mut self) {
        if self.asked {
            return;
        }
        let request = match &mut self.phase {
            Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. } | Phase::Dialing => {
                self.stale.then_some(Request::Describe)
            }
            Phase::Describing => Some(Request::Describe),
            Phase::Greeting { .. } => None,
            Phase::Settling(s) => Some(s.request(&self.facts, &self.config)),
            Phase::StartingOver => Some(Request::StartOver),
            Phase::Open(_) if self.stale => Some(Request::Describe),
            Phase::Open(open) => open.request(&self.facts),
        };
        self.acknowledge_rows();
        if let Some(request) = request {
            if request == Request::Describe {
                self.stale = false;
            }
            self.asked = true;
            self.out.push(Effect::Ask(request));
        }
    }

    fn acknowledge_rows(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        let acks = open.take_acks();
        acks.into_iter().for_each(|cut| self.send(&Frame::Ack(cut)));
    }

    fn reply(&mut self, reply: Reply, now_ms: u64) {
        if let Reply::Failed(why) = reply {
            self.stale = true;
            return match self.phase {
                Phase::Stopped | Phase::Halted { .. } | Phase::Offline { .. } => {}
                Phase::StartingOver => self.halt(why),
                _ => self.fail(fault(Code::Internal, format!("the database: {why}")), now_ms),
            };
        }
        if let Some(facts) = reply.facts() {
            self.facts = facts.clone();
        }
        match &mut self.phase {
            Phase::Describing => self.greet(now_ms),
            Phase::Settling(_) => self.settle(reply, now_ms),
            Phase::StartingOver if matches!(reply, Reply::StartedOver(_)) => {
                self.out.push(Effect::Disconnect);
                self.offline("starting over from a snapshot".into(), None, now_ms);
            }
            Phase::Open(open) => {
                let mut frames = Vec::new();
                let done = open.reply(reply, &self.facts, now_ms, &mut frames);
                frames.iter().for_each(|f| self.send(f));
                match done {
                    Ok(open::Next::Stay) => {}
                    Ok(open::Next::StartOver) => self.phase = Phase::StartingOver,
                    Ok(open::Next::Reconnect(why)) => {
                        self.out.push(Effect::Disconnect);
                        self.offline(why, None, now_ms);
                    }
                    Err(fault) => self.fail(fault, now_ms),
                }
            }
            // The answer to a question of a connection that is gone.
            _ => self.stale = true,
        }
    }

    fn halt(&mut self, reason: String) {
        self.out.push(Effect::Disconnect);
        self.phase = Phase::Halted { reason };
    }

    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Stopped => State::Offline { why: "stopped".into(), retry_at_ms: None },
            Phase::Offline { why, retry_at } => State::Offline { why: why.clone(), retry_at_ms: *retry_at },
            Phase::Halted { reason } => State::Incompatible { reason: reason.clone() },
            Phase::Open(open) => open.state(&self.facts),
            _ => State::Connecting,
        }
    }

    fn tell(&mut self) {
        let state = self.state();
        if self.told.as_ref() != Some(&state) {
            self.told = Some(state.clone());
            self.out.push(Effect::State(state));
        }
    }
}

impl Reply {
    fn facts(&self) -> Option<&Facts> {
        match self {
            Reply::Described(facts)
            | Reply::Prepared { facts, .. }
            | Reply::Applied { facts, .. }
            | Reply::NotApplied { facts, .. }
            | Reply::Adopted { facts, .. }
            | Reply::Merged(facts)
            | Reply::StartedOver(facts) => Some(facts),
            _ => None,
        }
    }
}
