//! The client's session: frames of any server, answers of the storage and time in any order.

use crate::Target;
use crate::sessions::{Input, Step, cut_frames, encoded, honest_frames, program, vector, welcome};
use rejoin_crdt::SiteId;
use rejoin_sync::client::{Client, Config, Effect, Event, Facts, NotApplied, Reply, Request};
use rejoin_sync::{MadeCut, Relation, State};
use rejoin_wire::frame::{Bytes, Frame, Id, RowName, Void};
use std::collections::BTreeSet;

pub const TARGET: Target = Target { name: "client_session", run, seeds };

const SITE: Id = [0xa1; 16];

struct Driven {
    client: Client,
    now_ms: u64,
    asked: Option<Request>,
    /// What was asked of the storage, for the test of the seeds.
    seen: BTreeSet<String>,
    dialing: bool,
    connected: bool,
    facts: Facts,
}

fn run(data: &[u8]) {
    drive(data);
}

fn drive(data: &[u8]) -> Driven {
    let config = Config { token: Some("e.y.x".into()), seed: 7, ..Config::default() };
    let mut driven = Driven {
        client: Client::new(config),
        now_ms: 1_800_000_000_000,
        asked: None,
        seen: BTreeSet::new(),
        dialing: false,
        connected: false,
        facts: facts(),
    };
    driven.handle(Event::Start);
    driven.handle(Event::Connected);
    let mut input = Input::new(data);
    while let Some(step) = input.step() {
        match step {
            Step::Frame(bytes) if driven.connected => driven.handle(Event::Frame(bytes)),
            Step::Frame(_) => driven.connect(),
            Step::Answer(roll) => {
                let Some(request) = driven.asked.take() else { continue };
                let reply = driven.answer(request, roll);
                driven.handle(Event::Reply(reply));
            }
            Step::Time(ms) => driven.pass(ms),
            Step::Other(n) => match n % 8 {
                0 => driven.handle(Event::Stop),
                1 => driven.handle(Event::Start),
                2 | 3 => driven.lose(),
                4 => driven.handle(Event::Token(format!("e.y.{n}"))),
                5 => {
                    let head = driven.facts.head.map_or(1, |h| h.0 + 1);
                    driven.facts.head = Some((head, u64::from(n)));
                    driven.facts.vector.insert(SiteId(SITE), head);
                    driven.handle(Event::Changed);
                }
                _ => driven.connect(),
            },
        }
    }
    driven
}

impl Driven {
    fn connect(&mut self) {
        if std::mem::take(&mut self.dialing) {
            self.handle(Event::Connected);
        }
    }

    fn lose(&mut self) {
        if self.connected || self.dialing {
            (self.connected, self.dialing) = (false, false);
            self.handle(Event::Closed { why: "lost".into() });
        }
    }

    /// Time passes; whenever the session wants to be woken, it has something to do.
    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        let mut woken = 0;
        while let Some(at) = self.client.wake_at().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            self.handle(Event::Tick);
            assert!(
                self.client.wake_at().is_none_or(|next| next > self.now_ms),
                "it wants to be woken for nothing"
            );
            woken += 1;
            assert!(woken <= 10_000, "it is woken all the time");
        }
        self.now_ms = until;
    }

    fn handle(&mut self, event: Event) {
        if matches!(event, Event::Connected) {
            (self.connected, self.dialing) = (true, false);
        }
        let effects = self.client.handle(event, self.now_ms);
        assert!(effects.len() <= 300, "{} effects of one event", effects.len());
        for effect in effects {
            match effect {
                Effect::Connect => {
                    assert!(!self.dialing, "two connections");
                    (self.dialing, self.connected) = (true, false);
                }
                Effect::Disconnect => (self.dialing, self.connected) = (false, false),
                Effect::Send(bytes) => drop(Frame::decode(&bytes, usize::MAX).expect("it sends frames")),
                Effect::Ask(request) => {
                    assert!(self.asked.is_none(), "two questions at once");
                    let name = format!("{request:?}");
                    self.seen.insert(name.split(['(', ' ']).next().unwrap_or_default().to_owned());
                    self.asked = Some(request);
                }
                Effect::State(state) => assert_eq!(state, self.client.state()),
            }
        }
        if self.client.state() == State::Synced {
            assert!(self.connected, "green without a connection");
            assert_eq!(self.client.pending(), 0, "green, and something is pending");
        }
    }

    fn answer(&mut self, request: Request, roll: u8) -> Reply {
        match roll {
            253 => return Reply::Failed("locked".into()),
            254 => return Reply::Impossible("not a database".into()),
            _ => {}
        }
        let facts = Box::new(Facts { wanted: self.wanted(roll), ..self.facts.clone() });
        match request {
            Request::Describe => Reply::Described(facts),
            Request::Compare { .. } => Reply::Compared {
                relation: relation(roll),
                // As `welcome` says, unless there are two histories.
                chain: (roll & 7 != 7).then_some(if roll & 7 == 6 { 1 } else { 76 }),
                server: (roll & 7 != 7).then_some(if roll & 7 == 5 { 1 } else { 12 }),
            },
            Request::Prepare(_) => Reply::Prepared(facts),
            Request::MakeCut { theirs, .. } => {
                let brings = self.facts.vector.missing_from(&theirs);
                let made = MadeCut {
                    bytes: vec![roll; usize::from(roll) << 6 | 1].into(),
                    transactions: 1,
                    brings,
                    upto: 0,
                    more: false,
                    rows: false,
                };
                Reply::Made((roll & 3 != 3).then_some(made))
            }
            Request::Apply(_) if roll & 3 == 3 => Reply::NotApplied { why: not_applied(roll), facts },
            Request::Apply(_) => Reply::Applied { holds: vector(), facts },
            Request::Adopt { rejections, rows } => {
                assert!(
                    rejections.iter().all(|r| self.facts.mine.contains(&r.site)),
                    "another's is taken back"
                );
                if rows.is_empty() && roll & 1 == 1 {
                    return Reply::Adopted { voids: Vec::new(), wanted: vec![row()], facts };
                }
                let void = |r: &rejoin_wire::frame::Rejection| Void {
                    site: r.site,
                    version: r.version,
                    nonce: 1,
                    chain: 1,
                };
                Reply::Adopted { voids: rejections.iter().map(void).collect(), wanted: Vec::new(), facts }
            }
            Request::MergeRows(_) => Reply::Merged(facts),
            Request::Acknowledge(vector) => {
                self.facts.acknowledged = vector.clone();
                Reply::Acknowledged(vector)
            }
            Request::StartOver => Reply::StartedOver(facts),
        }
    }

    fn wanted(&self, roll: u8) -> Vec<RowName> {
        if roll % 16 == 9 { vec![row()] } else { Vec::new() }
    }
}

fn row() -> RowName {
    RowName { table: "t".into(), pk: Bytes(vec![1, 9, 1]) }
}

fn relation(roll: u8) -> Relation {
    match roll % 16 {
        11 => Relation::Ahead("a column".into()),
        12 => Relation::Behind("a column".into()),
        13 => Relation::Diverged("two columns".into()),
        14 => Relation::Incompatible("a key".into()),
        _ => Relation::Same,
    }
}

fn not_applied(roll: u8) -> NotApplied {
    let why = || "no".to_owned();
    match roll >> 2 & 7 {
        0 | 1 => NotApplied::Gap(why()),
        2 => NotApplied::Fork(why()),
        3 => NotApplied::OtherLineage(why()),
        4 => NotApplied::BelowHorizon(why()),
        5 => NotApplied::Clock(why()),
        6 => NotApplied::OtherHistory(why()),
        _ => NotApplied::Bad(why()),
    }
}

fn facts() -> Facts {
    let mut held = vector();
    held.insert(SiteId(SITE), 31);
    Facts {
        site: SITE,
        mine: vec![[0xa0; 16], SITE],
        lineage: Some([0x11; 16]),
        schema: b"CREATE TABLE t(x);".to_vec(),
        vector: held,
        head: Some((31, 77)),
        ..Facts::default()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = encoded(&Frame::Welcome(Box::new(welcome())));
    let mut seeds = Vec::new();
    // 9: rows are wanted; 19: what comes is below the horizon.
    for roll in [0, 1, 9, 19] {
        // The file is described before the greeting goes out.
        let mut seed = |rest: &[Vec<u8>]| {
            seeds.push(
                [&[4, roll][..], &program(&[std::slice::from_ref(&hello), rest].concat(), roll)].concat(),
            );
        };
        honest_frames().into_iter().skip(2).for_each(|frame| seed(&[frame]));
        seed(&honest_frames()[2..]);
        seed(&cut_frames(1, &[7; 300], 0));
        seed(&cut_frames(1, &[7; 300], 1));
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
        let all = [
            "Acknowledge",
            "Adopt",
            "Apply",
            "Compare",
            "Describe",
            "MakeCut",
            "MergeRows",
            "Prepare",
            "StartOver",
        ];
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }
}
