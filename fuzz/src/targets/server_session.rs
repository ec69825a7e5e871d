//! The server's session: frames, answers of the room and time in any order.

use crate::Target;
use crate::sessions::{Input, Step, cut_frames, encoded, honest_frames, program};
use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sync::MadeCut;
use rejoin_sync::server::{Config, Effect, Event, Reader, Reply, Request, Session};
use rejoin_wire::frame::{Bytes, Code, Fault, Frame, Grants, Id, Rejection, Void, Welcome, WireVector};
use std::collections::BTreeSet;

pub const TARGET: Target = Target { name: "server_session", run, seeds };

const CUT_BYTES_MAX: u64 = 1 << 20;
/// What a session may keep beside the cut that is arriving.
const HELD_BYTES_MAX: u64 = 8 * CUT_BYTES_MAX;

struct Driven {
    session: Session,
    now_ms: u64,
    asked: Option<Request>,
    /// What was asked of the storage, for the test of the seeds.
    seen: BTreeSet<String>,
    head: i64,
    closed: bool,
    welcomed: bool,
    applied: u64,
    received: u64,
}

fn run(data: &[u8]) {
    drive(data);
}

fn drive(data: &[u8]) -> Driven {
    let config = Config { cut_bytes_max: CUT_BYTES_MAX, ..Config::default() };
    let now_ms = 1_800_000_000_000;
    let mut driven = Driven {
        session: Session::new(config, now_ms),
        now_ms,
        asked: None,
        seen: BTreeSet::new(),
        head: 3,
        closed: false,
        welcomed: false,
        applied: 0,
        received: 0,
    };
    let mut input = Input::new(data);
    while let Some(step) = input.step() {
        let event = match step {
            Step::Frame(bytes) => {
                driven.received += bytes.len() as u64;
                Event::Frame(bytes)
            }
            Step::Answer(roll) => {
                let Some(request) = driven.asked.take() else { continue };
                Event::Reply(driven.answer(request, roll))
            }
            Step::Time(ms) => {
                driven.pass(ms);
                continue;
            }
            Step::Other(0) => Event::SchemaChanged(b"CREATE TABLE t(x);".to_vec()),
            Step::Other(1) => Event::HorizonMoved(VersionVector::new()),
            Step::Other(2) => Event::Drain,
            Step::Other(n) => {
                driven.head += i64::from(n % 4);
                Event::Advanced { version: driven.head, vector_hash: u64::from(n) }
            }
        };
        driven.handle(event);
    }
    driven
}

impl Driven {
    /// Time passes; whenever the session wants to be woken, it has something to do.
    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        let mut woken = 0;
        while let Some(at) = self.session.wake_at().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            self.handle(Event::Tick);
            let next = self.session.wake_at();
            assert!(next.is_none_or(|next| next > self.now_ms), "it wants to be woken for nothing");
            woken += 1;
            assert!(woken <= 10_000, "it is woken all the time");
        }
        self.now_ms = until;
    }

    fn handle(&mut self, event: Event) {
        let effects = self.session.handle(event, self.now_ms);
        assert!(effects.len() <= 300, "{} effects of one event", effects.len());
        for effect in effects {
            assert!(!self.closed, "something after the end");
            match effect {
                Effect::Send(bytes) => {
                    let frame = Frame::decode(&bytes, usize::MAX).expect("it sends frames");
                    let greets = matches!(frame, Frame::Welcome(_) | Frame::Fault(_));
                    assert!(std::mem::replace(&mut self.welcomed, true) || greets, "{frame:?} first");
                }
                Effect::Ask(request) => {
                    assert!(self.asked.is_none(), "two questions at once");
                    let name = format!("{request:?}");
                    self.seen.insert(name.split(['(', ' ']).next().unwrap_or_default().to_owned());
                    if let Request::Apply(bytes) = &request {
                        self.applied += bytes.len() as u64;
                        assert!(self.applied <= self.received, "more is applied than has come");
                    }
                    self.asked = Some(request);
                }
                Effect::Close(_) => self.closed = true,
            }
        }
        assert!(self.session.held_bytes() <= HELD_BYTES_MAX + self.received, "it keeps too much");
        assert!(!self.closed || self.session.wake_at().is_none(), "it wants to be woken after its end");
    }

    fn answer(&self, request: Request, roll: u8) -> Reply {
        if roll % 32 == 31 {
            return Reply::Failed("disk full".into());
        }
        let denied = |code| Reply::Denied(Fault { code, message: "no".into(), retry_after_ms: None });
        match request {
            Request::Admit(_) if roll % 16 == 15 => denied(Code::NoRoom),
            Request::Admit(hello) => Reply::Admitted(Box::new(welcome(hello.site, roll & 4 == 4))),
            Request::Authenticate(_) if roll & 1 == 1 => denied(Code::Unauthenticated),
            Request::Authenticate(_) => Reply::Authenticated(Some(self.now_ms + 60_000)),
            Request::Compare(_) if roll & 7 == 7 => denied(Code::IncompatibleSchema),
            Request::Compare(_) => Reply::Compared,
            Request::MakeCut { reader, .. } => {
                let upto = if let Reader::Since(at) = reader { self.head.max(at) } else { self.head };
                let cut = (roll & 1 == 1).then(|| made(usize::from(roll) << 6, upto));
                Reply::Made { cut, upto }
            }
            Request::Apply(_) => match roll % 4 {
                0 | 1 => Reply::Applied,
                2 => Reply::NotApplied {
                    code: Code::Gap,
                    message: "a gap".into(),
                    vector: VersionVector::new(),
                },
                _ => Reply::Rejected(vec![rejection(self.session.site())]),
            },
            Request::Void(_) => Reply::Voided,
            Request::RowStates(rows) => Reply::Rows(vec![1; rows.len().min(1000)]),
            Request::Acknowledged { .. } => Reply::Acknowledged,
        }
    }
}

fn rejection(site: Id) -> Rejection {
    let message = "no".into();
    Rejection { site, version: 1, code: Code::Policy, message, table: "t".into(), pk: Bytes(vec![1, 9, 1]) }
}

fn made(len: usize, upto: i64) -> MadeCut {
    let mut brings = VersionVector::new();
    brings.insert(SiteId([7; 16]), 1);
    MadeCut { bytes: vec![5; len + 1].into(), transactions: 1, brings, upto, more: false, rows: false }
}

fn welcome(site: Id, read_only: bool) -> Welcome {
    Welcome {
        yours: Some((1, site.iter().map(|b| u64::from(*b)).sum())),
        grants: Grants { relay: true, read_only },
        ..crate::sessions::welcome()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut frames = honest_frames();
    let hello = frames.remove(0);
    let mut seeds = Vec::new();
    for roll in [0, 1, 2, 3] {
        let mut seed =
            |rest: &[Vec<u8>]| seeds.push(program(&[std::slice::from_ref(&hello), rest].concat(), roll));
        frames.iter().for_each(|f| seed(std::slice::from_ref(f)));
        seed(&frames);
        // A cut, and what takes back that it was rejected.
        let adopted = Frame::Adopted(vec![Void { site: [0xa1; 16], version: 1, nonce: 1, chain: 1 }]);
        seed(&[cut_frames(1, &[9; 300], 0), vec![encoded(&adopted)]].concat());
        let vector = encoded(&Frame::Vector(WireVector::default()));
        seed(&[vector.clone(), encoded(&Frame::Ack(1)), vector]);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations of what reaches nothing reach nothing.
    #[test]
    fn the_seeds_ask_for_everything() {
        let seen: BTreeSet<String> = seeds().iter().flat_map(|seed| drive(seed).seen).collect();
        let all =
            ["Acknowledged", "Admit", "Apply", "Authenticate", "Compare", "MakeCut", "RowStates", "Void"];
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }
}
