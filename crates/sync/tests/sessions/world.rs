//! Clients, a server and the lines between them in one thread and one clock, from one seed.

use crate::client::Node;
use crate::room::{Line, Room};
use crate::store::Store;
use rejoin_crdt::vector::VersionVector;
use rejoin_sim::program::Rng;
use rejoin_sync::frame::{Bytes, Frame, Id, RowName};
use rejoin_sync::{State, client, server};
use std::collections::BTreeMap;

pub struct Dice {
    rng: Rng,
    pub gaps: bool,
    /// Cuts of megabytes, which take many frames and more than the credit.
    pub large: bool,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice { rng: Rng(seed), gaps: false, large: false }
    }

    pub fn roll(&mut self) -> u64 {
        self.rng.draw()
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.gaps && self.below(n) == 0
    }

    pub fn gap(&mut self) -> bool {
        self.one_in(12)
    }

    pub fn id(&mut self) -> Id {
        let (a, b) = (self.roll().to_le_bytes(), self.roll().to_le_bytes());
        std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
    }

    pub fn padding(&mut self) -> usize {
        if self.large && self.below(12) == 0 { self.below(6 << 20) as usize } else { 0 }
    }
}

pub fn row_name() -> RowName {
    RowName { table: "t".into(), pk: Bytes(vec![1, 9, 1]) }
}

#[derive(Debug)]
enum Happening {
    Dialed {
        node: usize,
        life: u64,
        conn: u64,
    },
    ToServer {
        conn: u64,
        bytes: Vec<u8>,
    },
    ToClient {
        node: usize,
        conn: u64,
        bytes: Vec<u8>,
    },
    ServerHangsUp {
        node: usize,
        conn: u64,
    },
    NodeHangsUp {
        conn: u64,
    },
    NodeReplies {
        node: usize,
        life: u64,
    },
    RoomReplies {
        conn: u64,
    },
    WakeNode {
        node: usize,
    },
    WakeLine {
        conn: u64,
    },
    /// The application deals with what was rejected.
    Forgive {
        node: usize,
    },
    Chaos,
}

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub cuts: bool,
    pub kills: bool,
    pub restores: bool,
    pub forks: bool,
    pub rejections: bool,
    pub gaps: bool,
    pub large: bool,
    /// Single frames vanish, which no WebSocket does.
    pub losses: bool,
    /// Frames arrive changed: nothing can be right then, but nothing may panic either.
    pub damage: bool,
    pub skew: bool,
    pub denials: bool,
    pub schemas: bool,
}

pub struct World {
    pub now: u64,
    pub dice: Dice,
    pub faults: Faults,
    pub room: Room,
    /// An older state of the room, of which it may be restored.
    backup: Store,
    backups: Vec<Store>,
    pub nodes: Vec<Node>,
    lines: BTreeMap<u64, Line>,
    /// When the last frame of a line arrives: they come in order.
    arrivals: BTreeMap<(u64, bool), u64>,
    /// The next tick that each machine wants.
    wakes: BTreeMap<(bool, u64), u64>,
    /// By time, and where that is the same by turn.
    queue: BTreeMap<(u64, u64), Happening>,
    turn: u64,
    conns: u64,
    calm: bool,
    pub seen: BTreeMap<&'static str, u64>,
}

pub const BEGIN_MS: u64 = 1_800_000_000_000;

impl World {
    pub fn new(seed: u64, nodes: usize, faults: Faults) -> World {
        let mut dice = Dice::new(seed);
        (dice.gaps, dice.large) = (faults.gaps, faults.large);
        let mut store = Store::new(dice.id());
        store.lineage = Some(dice.id());
        let relay = !faults.forks && (faults.restores || dice.below(2) == 0);
        let dislikes = if faults.rejections { 15 } else { 0 };
        let damaged = faults.damage;
        let room =
            Room { store: store.clone(), relay, heartbeat_ms: 1_000, dislikes, denies: false, damaged };
        let mut world = World {
            now: BEGIN_MS,
            dice,
            faults,
            room,
            backup: store,
            backups: Vec::new(),
            nodes: Vec::new(),
            lines: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            wakes: BTreeMap::new(),
            queue: BTreeMap::new(),
            turn: 0,
            conns: 0,
            calm: false,
            seen: BTreeMap::new(),
        };
        for n in 0..nodes {
            let seed = world.dice.roll();
            let skew = world.skew();
            let mut store = Store::new(world.dice.id());
            if faults.skew {
                // Work that was done under a clock that was set since.
                let clock = world.now.saturating_add_signed(world.skew());
                store.commit(world.dice.roll(), clock);
            }
            world.backups.push(store.clone());
            world.nodes.push(Node::new(store, seed, skew));
            world.tell(n, client::Event::Start);
        }
        world
    }

    fn later(&mut self, ms: u64, what: Happening) {
        self.turn += 1;
        self.queue.insert((self.now + ms, self.turn), what);
    }

    fn delay(&mut self) -> u64 {
        match self.dice.below(10) {
            0 => 1 + self.dice.below(900),
            _ => 1 + self.dice.below(20),
        }
    }

    /// Runs for a while with whatever may go wrong.
    pub fn storm(&mut self, ms: u64) {
        let end = self.now + ms;
        self.later(1, Happening::Chaos);
        self.run(|w| w.now >= end);
    }

    /// From here on nothing goes wrong. How long it took until all was well, if it was.
    pub fn calm(&mut self, ms: u64) -> Option<u64> {
        (self.calm, self.dice.gaps, self.room.denies) = (true, false, false);
        self.faults = Faults { skew: self.faults.skew, ..Faults::default() };
        for n in 0..self.nodes.len() {
            self.nodes[n].schema = b"1".to_vec();
            self.tell(n, client::Event::Changed);
        }
        let (begin, end) = (self.now, self.now + ms);
        self.run(|w| w.all_is_well() || w.now >= end);
        self.all_is_well().then_some(self.now - begin)
    }

    fn all_is_well(&self) -> bool {
        let green = self.nodes.iter().all(|n| n.state == State::Synced);
        let all = || self.room.store.vector();
        green && self.nodes.iter().all(|n| n.store.vector() == all())
    }

    fn run(&mut self, done: impl Fn(&World) -> bool) {
        while !done(self) {
            let Some(((at, _), what)) = self.queue.pop_first() else { return };
            self.now = self.now.max(at);
            self.happen(what);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Dialed { node, life, conn } => {
                if self.nodes[node].life != life || self.nodes[node].conn != Some(conn) {
                    return;
                }
                self.lines.insert(conn, Line::new(node, conn, self.now));
                self.tell(node, client::Event::Connected);
                self.wake_line(conn);
            }
            Happening::ToServer { conn, bytes } => self.inform(conn, server::Event::Frame(bytes)),
            Happening::ToClient { node, conn, bytes } if self.nodes[node].conn == Some(conn) => {
                self.tell(node, client::Event::Frame(bytes));
            }
            Happening::ServerHangsUp { node, conn } if self.nodes[node].conn == Some(conn) => {
                self.nodes[node].conn = None;
                self.tell(node, client::Event::Closed { why: "the line is cut".into() });
            }
            Happening::ToClient { .. } | Happening::ServerHangsUp { .. } => {}
            Happening::NodeHangsUp { conn } => drop(self.lines.remove(&conn)),
            Happening::NodeReplies { node, life } if self.nodes[node].life == life => {
                let Some(request) = self.nodes[node].asked.take() else { panic!("nothing was asked") };
                let clock = self.nodes[node].clock(self.now);
                let reply = self.nodes[node].serve(request, clock, &mut self.dice);
                self.tell(node, client::Event::Reply(reply));
            }
            Happening::NodeReplies { .. } => {}
            Happening::RoomReplies { conn } => self.room_replies(conn),
            Happening::WakeNode { node } => {
                if self.is_due((true, node as u64)) {
                    self.tell(node, client::Event::Tick);
                }
            }
            Happening::WakeLine { conn } => {
                if self.is_due((false, conn)) {
                    self.inform(conn, server::Event::Tick);
                }
            }
            Happening::Forgive { node } => {
                self.nodes[node].store.rejected = 0;
                self.tell(node, client::Event::Changed);
            }
            Happening::Chaos => self.chaos(),
        }
    }

    fn is_due(&mut self, who: (bool, u64)) -> bool {
        let due = self.wakes.get(&who).is_some_and(|at| *at <= self.now);
        if due {
            self.wakes.remove(&who);
        }
        due
    }

    fn room_replies(&mut self, conn: u64) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let Some(request) = line.asked.take() else { panic!("nothing was asked") };
        let (node, site) = (line.node, line.session.site());
        let before = self.room.store.order.len();
        let reply = self.room.serve(request, site, self.now, &mut self.dice);
        if let server::Reply::Admitted(welcome) = &reply {
            self.nodes[node].promised = welcome.vector.0.clone();
        }
        self.inform(conn, server::Event::Reply(reply));
        let advanced = self.room.advanced();
        let moved = before != self.room.store.order.len();
        let all: Vec<u64> = self.lines.keys().copied().collect();
        for other in all.into_iter().filter(|c| *c == conn || moved) {
            self.inform(other, advanced.clone());
        }
    }

    fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let wait = 1 + self.dice.below(150);
        self.later(wait, Happening::Chaos);
        let node = self.dice.below(self.nodes.len() as u64) as usize;
        let f = self.faults;
        match self.dice.below(24) {
            0..=9 => self.commit(node),
            10 if f.cuts => self.cut_line(node),
            11 if f.cuts => self.half_cut(node),
            12 if f.kills => self.restart_node(node, false),
            13 if f.kills => self.restart_room(false),
            14 if f.restores && !f.forks => self.restart_room(true),
            15 if f.restores => self.restart_node(node, true),
            16 if f.restores => self.backups[node] = self.nodes[node].store.clone(),
            17 if f.restores => self.backup = self.room.store.clone(),
            18 if f.denials => self.room.denies = !self.room.denies,
            19 if f.schemas => {
                self.nodes[node].schema = if self.dice.below(2) == 0 { b"1".to_vec() } else { b"2".to_vec() };
                self.tell(node, client::Event::Changed);
            }
            20 if f.forks && self.nodes[node].store.head().is_some() => {
                // A copy of the file writes under the same id, and the original goes on too.
                let mut copy = self.nodes[node].store.clone();
                copy.commit(self.dice.roll(), self.now);
                let other = (node + 1) % self.nodes.len();
                self.nodes[other].store = copy;
                self.restart_node(other, false);
                self.commit(node);
            }
            _ => {}
        }
    }

    pub fn commit(&mut self, node: usize) {
        let nonce = self.dice.roll();
        let clock = self.nodes[node].clock(self.now);
        self.nodes[node].store.commit(nonce, clock);
        self.tell(node, client::Event::Changed);
    }

    /// How far a clock is ahead of the true time.
    fn skew(&mut self) -> i64 {
        let skew = [0, -365 * 86_400_000, 365 * 86_400_000, 20_000][self.dice.below(4) as usize];
        if self.faults.skew { skew } else { 0 }
    }

    fn cut_line(&mut self, node: usize) {
        let Some(conn) = self.nodes[node].conn.take() else { return };
        self.lines.remove(&conn);
        self.tell(node, client::Event::Closed { why: "the line is cut".into() });
    }

    /// The server does not notice at first.
    fn half_cut(&mut self, node: usize) {
        if self.nodes[node].conn.take().is_some() {
            self.tell(node, client::Event::Closed { why: "the line is cut".into() });
        }
    }

    fn restart_node(&mut self, node: usize, restore: bool) {
        let backup = self.backups[node].clone();
        let seed = self.dice.roll();
        // Somebody may have set the clock meanwhile.
        let skew = if self.dice.one_in(3) { self.skew() } else { self.nodes[node].skew_ms };
        let old = &mut self.nodes[node];
        let conn = old.conn.take();
        let store = if restore { backup } else { old.store.clone() };
        let (life, schema) = (old.life + 1, old.schema.clone());
        *old = Node { life, schema, ..Node::new(store, seed, skew) };
        if let Some(conn) = conn {
            self.lines.remove(&conn);
        }
        self.tell(node, client::Event::Start);
    }

    fn restart_room(&mut self, restore: bool) {
        self.lines.clear();
        if restore {
            self.room.store = self.backup.clone();
        }
        for node in 0..self.nodes.len() {
            if let Some(conn) = self.nodes[node].conn {
                let ms = self.delay();
                self.later(ms, Happening::ServerHangsUp { node, conn });
            }
        }
    }

    pub fn tell(&mut self, node: usize, event: client::Event) {
        let n = &mut self.nodes[node];
        let effects = n.machine.handle(event, n.clock(self.now));
        for effect in effects {
            self.node_effect(node, effect);
        }
        self.look(node);
        let n = &self.nodes[node];
        if let Some(at) = n.machine.wake_at() {
            let ms = at.saturating_sub(n.clock(self.now)).max(1);
            if self.wakes.insert((true, node as u64), self.now + ms) != Some(self.now + ms) {
                self.later(ms, Happening::WakeNode { node });
            }
        }
    }

    fn node_effect(&mut self, node: usize, effect: client::Effect) {
        match effect {
            client::Effect::Connect => {
                self.conns += 1;
                let (conn, life) = (self.conns, self.nodes[node].life);
                assert!(self.nodes[node].conn.replace(conn).is_none(), "two connections at once");
                let ms = self.delay();
                if self.faults.cuts && self.dice.below(6) == 0 {
                    self.later(ms, Happening::ServerHangsUp { node, conn });
                } else {
                    self.later(ms, Happening::Dialed { node, life, conn });
                }
            }
            client::Effect::Send(bytes) => {
                let conn = self.nodes[node].conn.expect("a frame without a connection");
                self.transmit(conn, true, bytes, move |bytes| Happening::ToServer { conn, bytes });
            }
            client::Effect::Disconnect => {
                let conn = self.nodes[node].conn.take().expect("disconnected twice");
                // What was sent still arrives.
                let ms = self.arrivals.get(&(conn, true)).map_or(0, |at| at.saturating_sub(self.now)) + 1;
                self.later(ms, Happening::NodeHangsUp { conn });
            }
            client::Effect::Ask(request) => {
                let n = &mut self.nodes[node];
                assert!(n.asked.replace(request).is_none(), "two open requests");
                let (life, ms) = (n.life, self.delay());
                self.later(ms, Happening::NodeReplies { node, life });
            }
            client::Effect::State(state) => {
                *self.seen.entry(state.name()).or_default() += 1;
                if matches!(state, State::Rejected { .. }) {
                    self.later(500, Happening::Forgive { node });
                }
                self.nodes[node].state = state;
            }
        }
    }

    /// What must hold whenever somebody looks.
    fn look(&self, node: usize) {
        let n = &self.nodes[node];
        assert_eq!(n.state, n.machine.state(), "a state that was not told");
        let connected = n.conn.is_some_and(|c| self.lines.get(&c).is_some_and(|l| l.session.is_open()));
        if !connected || self.faults.damage {
            return;
        }
        let facts = n.machine.facts();
        let there = self.room.store.vector();
        if n.state == State::Synced {
            assert!(there.covers(&facts.vector), "green, and the server lacks something");
            assert!(
                self.faults.losses || facts.vector.covers(&n.promised),
                "green, and something is missing here"
            );
        }
        if let State::Syncing { pending, .. }
        | State::Behind { pending, .. }
        | State::Rejected { pending, .. } = n.state
        {
            let missing = count(&facts.vector.missing_from(&there), &facts.mine);
            assert!(pending >= missing, "{missing} are pending, and {pending} are shown");
        }
    }

    fn transmit(&mut self, conn: u64, up: bool, bytes: Vec<u8>, arrive: impl Fn(Vec<u8>) -> Happening) {
        Frame::decode(&bytes, usize::MAX).expect("a machine sends frames");
        let mut bytes = bytes;
        if self.faults.losses && self.dice.below(60) == 0 {
            return;
        }
        if self.faults.damage && self.dice.below(8) == 0 {
            self.damage(&mut bytes);
        }
        let at = self.arrivals.get(&(conn, up)).copied().unwrap_or(0).max(self.now + self.delay());
        self.arrivals.insert((conn, up), at);
        self.later(at - self.now, arrive(bytes));
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.dice.below(bytes.len() as u64) as usize;
        match self.dice.below(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = self.dice.roll() as u8,
            2 => bytes[at] ^= 1 << self.dice.below(8),
            _ => bytes.push(self.dice.roll() as u8),
        }
    }

    fn inform(&mut self, conn: u64, event: server::Event) {
        let now = self.now;
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let node = line.node;
        for effect in line.session.handle(event, now) {
            match effect {
                server::Effect::Send(bytes) => {
                    self.transmit(conn, false, bytes, move |bytes| Happening::ToClient { node, conn, bytes });
                }
                server::Effect::Ask(request) => {
                    let Some(line) = self.lines.get_mut(&conn) else { return };
                    assert!(line.asked.replace(request).is_none(), "two open requests");
                    let ms = self.delay();
                    self.later(ms, Happening::RoomReplies { conn });
                }
                server::Effect::Close(_) => {
                    self.lines.remove(&conn);
                    let at = self.arrivals.get(&(conn, false)).copied().unwrap_or(now);
                    self.later(at.saturating_sub(now) + 1, Happening::ServerHangsUp { node, conn });
                }
            }
        }
        self.wake_line(conn);
    }

    fn wake_line(&mut self, conn: u64) {
        if let Some(at) = self.lines.get(&conn).and_then(|l| l.session.wake_at()) {
            let ms = at.saturating_sub(self.now).max(1);
            if self.wakes.insert((false, conn), self.now + ms) != Some(self.now + ms) {
                self.later(ms, Happening::WakeLine { conn });
            }
        }
    }
}

pub fn count(vector: &VersionVector, mine: &[Id]) -> u64 {
    let of = |(_, ranges): (&rejoin_crdt::SiteId, &rejoin_crdt::vector::Ranges)| {
        ranges.iter().map(|r| r.end() - r.start() + 1).sum::<u64>()
    };
    vector.iter().filter(|(site, _)| mine.contains(&site.0)).map(of).sum()
}
