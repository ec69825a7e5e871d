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
mod talk;

pub use talk::{Config, Effect, Event, Facts, NotApplied, Reply, Request, Step};

use crate::Relation;
use crate::backoff::Backoff;
use crate::fault;
use crate::state::State;
use crate::transfer::Remains;
use open::Open;
use rejoin_wire::frame::{Code, Fault, Frame, Retry};
use rejoin_wire::limits::FRAME_BYTES_MAX;

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
    /// The connection is given up; the storage works.
    StartingOver,
    Open(Box<Open>),
}

/// A Welcome is here and not everything is settled yet. What the server sends meanwhile waits.
#[derive(Debug)]
struct Settling {
    open: Open,
    /// The server's clock less this one's.
    offset_ms: i64,
    relation: Option<Relation>,
    /// Two histories of this site: the last version that they may share.
    common: Option<u64>,
}

/// How long a server may take to answer the first frame.
const GREETING_MS: u64 = 20_000;

/// The way out where database and room have nothing to do with each other.
const START_OVER: &str =
    "`rejoin sync --start-over` takes the room's state and keeps what only this database has";

/// Clocks that are kept right go back by less at once.
const SET_BACK_MS: u64 = 1_000;

/// When a server is asked again that did not take this database: somebody may have done something.
const REFUSED_MS: u64 = 60_000;

pub struct Client {
    config: Config,
    phase: Phase,
    facts: Facts,
    asked: bool,
    /// The facts may be outdated.
    stale: bool,
    /// They were just asked for: who writes all the time must not keep the rest from its turn.
    described: bool,
    /// Why the server does not take this database, until it does.
    refused: Option<String>,
    /// From a snapshot, and not let in since.
    started_over: bool,
    /// The clock was measured because something came from the future, and nothing was taken since.
    measured: bool,
    /// The token that the server has.
    told_token: Option<String>,
    remains: Option<Remains>,
    backoff: Backoff,
    random: u64,
    /// The time of the last event.
    at_ms: u64,
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
            described: false,
            refused: None,
            started_over: false,
            measured: false,
            told_token: None,
            remains: None,
            backoff: Backoff::default(),
            random,
            at_ms: 0,
            told: None,
            out: Vec::new(),
        }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The newest token.
    pub fn token(&self) -> Option<String> {
        self.config.token.clone()
    }

    /// What came of an event. `now_ms`: Unix milliseconds by this machine's clock.
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        let before_ms = std::mem::replace(&mut self.at_ms, now_ms);
        // A connection that is gone need not be ended.
        if now_ms.saturating_add(SET_BACK_MS) < before_ms && !matches!(event, Event::Closed { .. }) {
            self.set_back(now_ms);
        }
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
            Event::Token(token) => self.take_token(token),
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
            Phase::Settling(s) => Some(s.open.wake_at()),
            Phase::Open(open) => Some(open.wake_at()),
            _ => None,
        }
    }

    /// This machine's clock was set: what is to be done at some time would be done too late, and how wrong the clock is has to
    /// be measured again. One that is set forward ends the connection, as if the server had been silent.
    fn set_back(&mut self, now_ms: u64) {
        match &mut self.phase {
            Phase::Offline { retry_at: Some(at), .. } => *at = now_ms,
            phase if phase.is_connected() => {
                self.fail(fault(Code::GoingAway, "the clock of this machine was set"), now_ms);
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        if matches!(self.phase, Phase::Stopped | Phase::Offline { .. }) {
            self.backoff.reset();
            self.dial();
        }
    }

    fn stop(&mut self) {
        if !matches!(self.phase, Phase::Stopped | Phase::Offline { .. } | Phase::StartingOver) {
            self.keep_remains();
            self.out.push(Effect::Disconnect);
        }
        self.refused = None;
        self.phase = Phase::Stopped;
    }

    fn dial(&mut self) {
        self.phase = Phase::Dialing;
        self.out.push(Effect::Connect);
    }

    fn take_token(&mut self, token: String) {
        self.config.token = Some(token);
        match self.phase {
            Phase::Offline { .. } if self.refused.is_some() => self.start(),
            Phase::Open(_) => self.renew_token(),
            _ => {}
        }
    }

    fn renew_token(&mut self) {
        if self.told_token != self.config.token {
            self.told_token.clone_from(&self.config.token);
            let token = self.told_token.clone().unwrap_or_default();
            self.send(&Frame::Token(token));
        }
    }

    fn keep_remains(&mut self) {
        if let Some(open) = self.phase.open() {
            self.remains = open.remains();
        }
    }

    /// The connection ended without our doing.
    fn closed(&mut self, why: String, now_ms: u64) {
        if matches!(self.phase, Phase::Stopped | Phase::Offline { .. } | Phase::StartingOver) {
            return;
        }
        if matches!(self.phase, Phase::Dialing) {
            self.refused = None;
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
            // Another token has come since.
            Retry::Never if fault.code == Code::Unauthenticated && self.told_token != self.config.token => {
                self.offline(fault.message, None, now_ms);
            }
            Retry::Never if fault.code == Code::OtherLineage => {
                self.refuse(format!("{}; {START_OVER}", fault.message), now_ms);
            }
            Retry::Never => self.refuse(fault.message, now_ms),
            Retry::Now | Retry::Later => {
                self.offline(fault.message, fault.retry_after_ms.map(u64::from), now_ms);
            }
        }
    }

    fn refuse(&mut self, reason: String, now_ms: u64) {
        self.refused = Some(reason.clone());
        self.offline(reason, Some(REFUSED_MS), now_ms);
    }

    fn send(&mut self, frame: &Frame) {
        match frame.encode() {
            Ok(bytes) => self.out.push(Effect::Send(bytes)),
            Err(_) => self.out.push(Effect::Disconnect),
        }
    }

    fn frame(&mut self, bytes: &[u8], now_ms: u64) {
        if !self.phase.is_connected() {
            return;
        }
        let frame = match Frame::decode(bytes, FRAME_BYTES_MAX) {
            Ok(frame) => frame,
            Err(e) => return self.fail(fault(Code::Protocol, e.to_string()), now_ms),
        };
        match (&mut self.phase, frame) {
            (_, Frame::Fault(fault)) => self.ended(fault, now_ms),
            (Phase::Greeting { sent_ms }, Frame::Welcome(welcome)) => {
                let sent_ms = *sent_ms;
                self.welcomed(*welcome, sent_ms, now_ms);
            }
            (phase, frame) => {
                let mut frames = Vec::new();
                let done = match phase.open() {
                    Some(open) => open.frame(frame, &self.facts, now_ms, &mut frames),
                    None => Err(fault(Code::Protocol, "a frame out of turn")),
                };
                self.finish(frames, done, now_ms);
            }
        }
    }

    fn finish(&mut self, frames: Vec<Frame>, done: Result<(), Fault>, now_ms: u64) {
        frames.iter().for_each(|f| self.send(f));
        if let Err(fault) = done {
            self.fail(fault, now_ms);
        }
    }

    fn tick(&mut self, now_ms: u64) {
        match &mut self.phase {
            Phase::Offline { retry_at: Some(at), .. } if *at <= now_ms => self.dial(),
            Phase::Greeting { sent_ms } if *sent_ms + GREETING_MS <= now_ms => {
                self.ended(fault(Code::Silent, "the server does not answer"), now_ms);
            }
            phase => {
                let Some(open) = phase.open() else { return };
                let mut frames = Vec::new();
                let done = open.tick(&self.facts, now_ms, &mut frames);
                self.finish(frames, done, now_ms);
            }
        }
    }

    /// Asks the storage for the next thing, if nothing is asked yet.
    fn ask(&mut self) {
        if self.asked {
            return;
        }
        let request = match &mut self.phase {
            Phase::Stopped | Phase::Offline { .. } | Phase::Dialing => None,
            Phase::Describing => Some(Request::Describe),
            Phase::Greeting { .. } => None,
            Phase::Settling(s) => Some(s.request(&self.facts, &self.config)),
            Phase::StartingOver => Some(Request::StartOver),
            Phase::Open(_) if self.stale && !self.described => None,
            Phase::Open(open) => open.request(&self.facts),
        };
        self.send_said();
        let request = request.or_else(|| self.stale.then_some(Request::Describe));
        if let Some(request) = request {
            self.described = request == Request::Describe;
            self.stale &= !self.described;
            self.asked = true;
            self.out.push(Effect::Ask(request));
        }
    }

    fn send_said(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        let said = open.take_said();
        said.iter().for_each(|frame| self.send(frame));
    }

    fn reply(&mut self, reply: Reply, now_ms: u64) {
        let schema = std::mem::take(&mut self.facts.schema);
        if let Some(facts) = reply.facts() {
            self.facts = facts.clone();
        } else {
            self.facts.schema.clone_from(&schema);
        }
        match (&self.phase, reply) {
            (_, Reply::Failed(why)) => self.failed(why, now_ms),
            (_, Reply::Impossible(why)) => self.impossible(why, now_ms),
            (Phase::Open(_), reply) => self.open_reply(reply, now_ms),
            (Phase::Settling(_), reply) => self.settle(reply, now_ms),
            (Phase::Describing, Reply::Described(_)) => self.greet(now_ms),
            // A second time in a row it did not help.
            (Phase::StartingOver, Reply::StartedOver(_)) if self.started_over => {
                self.offline("the room's snapshot is older than what it has forgotten".into(), None, now_ms);
            }
            (Phase::StartingOver, Reply::StartedOver(_)) => {
                self.started_over = true;
                self.dial();
            }
            // Somebody has changed what the server did not like.
            (Phase::Offline { .. }, Reply::Described(_)) => {
                if self.refused.is_some() && self.facts.schema != schema {
                    self.start();
                }
            }
            (_, Reply::Described(_)) => {}
            // The answer to a question of a connection that is gone.
            _ => self.stale = true,
        }
    }

    fn failed(&mut self, why: String, now_ms: u64) {
        if self.phase.is_connected() {
            self.stale = true;
            self.fail(fault(Code::Internal, format!("the database: {why}")), now_ms);
        } else if matches!(self.phase, Phase::StartingOver) {
            self.offline(why, None, now_ms);
        }
    }

    fn impossible(&mut self, why: String, now_ms: u64) {
        if self.phase.is_connected() {
            self.send(&Frame::Fault(fault(Code::GoingAway, format!("the client's database: {why}"))));
            self.out.push(Effect::Disconnect);
        }
        if !matches!(self.phase, Phase::Stopped) {
            self.refuse(why, now_ms);
        }
    }

    fn open_reply(&mut self, reply: Reply, now_ms: u64) {
        let Phase::Open(open) = &mut self.phase else { return };
        match &reply {
            Reply::Acknowledged(vector) => self.facts.acknowledged.clone_from(vector),
            Reply::Applied { .. } => {
                self.backoff.reset();
                self.measured = false;
            }
            _ => {}
        }
        let mut frames = Vec::new();
        let done = open.reply(reply, &self.facts, now_ms, &mut frames);
        frames.iter().for_each(|f| self.send(f));
        match done {
            Ok(open::Next::Stay) => {}
            // The clock here is right by the server's: that was ahead once, and a snapshot has what is from then.
            Ok(open::Next::Reconnect { clock: true, .. }) if self.measured => self.start_over(),
            Ok(open::Next::StartOver) => self.start_over(),
            Ok(open::Next::Reconnect { why, clock }) => {
                self.measured = clock;
                self.keep_remains();
                self.out.push(Effect::Disconnect);
                self.offline(why, None, now_ms);
            }
            Err(fault) => self.fail(fault, now_ms),
        }
    }

    fn start_over(&mut self) {
        self.remains = None;
        self.out.push(Effect::Disconnect);
        self.phase = Phase::StartingOver;
    }

    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Stopped => State::Offline { why: "stopped".into(), retry_at_ms: None },
            Phase::Open(open) => open.state(&self.facts),
            phase => match (&self.refused, phase) {
                (Some(reason), _) => State::Incompatible { reason: reason.clone() },
                (None, Phase::Offline { why, retry_at }) => {
                    State::Offline { why: why.clone(), retry_at_ms: *retry_at }
                }
                _ => State::Connecting,
            },
        }
    }

    /// Own transactions that the server has not applied and acknowledged, as far as the storage has told.
    pub fn pending(&self) -> u64 {
        match &self.phase {
            Phase::Open(open) => open.pending(&self.facts, true),
            _ => open::count_missing(&self.facts, &self.facts.acknowledged, true),
        }
    }

    /// Connected, and nothing more will happen until somebody writes or does something.
    pub fn is_settled(&self) -> bool {
        match &self.phase {
            Phase::Open(open) => !self.asked && !self.stale && open.is_settled(),
            _ => false,
        }
    }

    fn tell(&mut self) {
        let state = self.state();
        if self.told.as_ref() != Some(&state) {
            if state == State::Synced {
                self.backoff.reset();
            }
            self.told = Some(state.clone());
            self.out.push(Effect::State(state));
        }
    }
}

impl Phase {
    /// What flows in an open connection, or one that is being settled.
    fn open(&mut self) -> Option<&mut Open> {
        match self {
            Phase::Settling(s) => Some(&mut s.open),
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self, Phase::Describing | Phase::Greeting { .. } | Phase::Settling(_) | Phase::Open(_))
    }
}
