//! Clients, a server and the lines between them in one thread and one clock, from one seed.
//!
//! A world is a queue of things that happen at a time. Whatever takes time in reality (a frame, a question to the storage)
//! takes a random time here, and anything may happen in between.

use crate::app;
use crate::dice::Dice;
use crate::frames;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::room::{Line, Room};
use crate::weather::Weather;
use rejoin::ambient;
use rejoin_crdt::vector::VersionVector;
use rejoin_server::inside::{Grant, Told};
use rejoin_sync::{client, server};
use rejoin_wire::frame::Frame;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

#[derive(Debug)]
pub enum Happening {
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
    /// The storage does what it was asked.
    NodeWorks {
        node: usize,
        life: u64,
    },
    NodeReplies {
        node: usize,
        life: u64,
        reply: client::Reply,
    },
    RoomWorks {
        conn: u64,
    },
    RoomReplies {
        conn: u64,
        reply: server::Reply,
    },
    /// A connection hears that the room has moved.
    Advanced {
        conn: u64,
    },
    /// A snapshot of the room is here.
    Fetched {
        node: usize,
        life: u64,
        snapshot: PathBuf,
    },
    /// The storage looks whether somebody else has committed.
    Looks {
        node: usize,
        life: u64,
    },
    WakeNode {
        node: usize,
    },
    WakeLine {
        conn: u64,
    },
    StartNode {
        node: usize,
        life: u64,
    },
    StartRoom,
    Unlock {
        node: usize,
        life: u64,
    },
    /// The application deals with what was rejected.
    Forgive {
        node: usize,
        life: u64,
    },
    Chaos,
}

pub struct World {
    pub now: u64,
    pub dice: Dice,
    pub weather: Weather,
    pub room: Room,
    pub nodes: Vec<Node>,
    pub lines: BTreeMap<u64, Line>,
    pub ledger: Ledger,
    pub trace: Vec<String>,
    /// What a cut of a connection brings, until it is sent and heard of.
    brings: BTreeMap<(u64, u64), VersionVector>,
    cuts: BTreeMap<u64, u64>,
    /// When the last frame of a line arrives: they come in order.
    arrivals: BTreeMap<(u64, bool), u64>,
    /// Until when nothing arrives in that direction.
    pub silent: BTreeMap<(u64, bool), u64>,
    /// The next tick that each machine wants.
    wakes: BTreeMap<(bool, u64), u64>,
    /// By time, and where that is the same by turn.
    queue: BTreeMap<(u64, u64), Happening>,
    turn: u64,
    conns: u64,
    pub calm: bool,
    pub dir: tempfile::TempDir,
    /// Copies of files: the room's, and the clients', with what was in them.
    pub room_backup: Option<PathBuf>,
    pub backups: Vec<Option<(PathBuf, Vec<i64>, usize)>>,
    /// Changesets that clients have made for each other.
    pub letters: Vec<(usize, Vec<u8>)>,
    pub stats: BTreeMap<&'static str, u64>,
    /// After each step of a storage its file is verified: slow, and tells which step it was.
    pub verifies: bool,
}

pub const BEGIN_MS: u64 = 1_800_000_000_000;

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let weather = Weather::of(&mut dice);
        ambient::set_chance(Some(dice.roll()));
        ambient::set_now(Some(BEGIN_MS as i64));
        let dir = tempfile::tempdir().expect("a folder");
        let room = Room::new(dir.path(), &weather);
        let mut world = World {
            now: BEGIN_MS,
            dice,
            room,
            nodes: Vec::new(),
            lines: BTreeMap::new(),
            ledger: Ledger::default(),
            trace: Vec::new(),
            brings: BTreeMap::new(),
            cuts: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            silent: BTreeMap::new(),
            wakes: BTreeMap::new(),
            queue: BTreeMap::new(),
            turn: 0,
            conns: 0,
            calm: false,
            dir,
            room_backup: None,
            backups: Vec::new(),
            letters: Vec::new(),
            stats: BTreeMap::new(),
            verifies: std::env::var_os("REJOIN_WORLD_VERIFY").is_some(),
            weather,
        };
        let weather = world.weather.to_string();
        world.say(format_args!("seed {seed}: {weather}"));
        world.room_clock();
        world.room.start();
        let owner = world.room.owner.as_ref().expect("it was started");
        app::configure(owner.replica(), &world.weather);
        for n in 0..world.weather.clients {
            world.born(n);
        }
        world
    }

    fn born(&mut self, n: usize) {
        let owned = self.dice.one_in(3);
        let mut node = Node::new(n, self.dir.path(), &self.weather, owned, self.dice.roll());
        let year = 365 * 86_400_000;
        if self.weather.clocks {
            node.skew_ms = self.dice.pick(&[0, -year, year, 20_000, -90_000, 40_000]);
        }
        ambient::set_now(Some(node.clock(self.now) as i64));
        node.start(self.dice.roll());
        node.cursors = vec![0; self.weather.clients];
        if n == 0 || !self.weather.empty_clients {
            app::create(node.app(), &self.weather);
        }
        app::configure(node.app(), &self.weather);
        self.nodes.push(node);
        self.backups.push(None);
        self.ledger.logs.push(Vec::new());
        self.tell(n, client::Event::Start);
    }

    pub fn say(&mut self, what: fmt::Arguments<'_>) {
        let at = self.now - BEGIN_MS;
        self.trace.push(format!("{:>4}.{:03} {what}", at / 1000, at % 1000));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    pub fn room_clock(&self) {
        ambient::set_now(Some(self.now.saturating_add_signed(self.room.skew_ms) as i64));
    }

    pub fn node_clock(&self, node: usize) {
        ambient::set_now(Some(self.nodes[node].clock(self.now) as i64));
    }

    pub fn later(&mut self, ms: u64, what: Happening) {
        self.turn += 1;
        self.queue.insert((self.now + ms, self.turn), what);
    }

    pub fn delay(&mut self) -> u64 {
        match self.dice.below(10) {
            0 => 1 + self.dice.below(900),
            _ => 1 + self.dice.below(20),
        }
    }

    /// Runs until it is `done`, or nothing happens any more.
    pub fn run(&mut self, done: impl Fn(&World) -> bool) {
        while !done(self) {
            let Some(((at, _), what)) = self.queue.pop_first() else { return };
            self.now = self.now.max(at);
            self.count("happenings");
            self.happen(what);
        }
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].is_up()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Dialed { node, life, conn } => self.dialed(node, life, conn),
            Happening::ToServer { conn, bytes } => {
                if let Some(line) = self.lines.get(&conn) {
                    let node = line.node;
                    self.say(format_args!("  {conn} server < {node}: {}", frames::frame(&bytes)));
                    self.inform(conn, server::Event::Frame(bytes));
                }
            }
            Happening::ToClient { node, conn, bytes } if self.nodes[node].conn == Some(conn) => {
                self.say(format_args!("  {conn} {node} < server: {}", frames::frame(&bytes)));
                self.promise(node, conn, &bytes);
                self.tell(node, client::Event::Frame(bytes));
            }
            Happening::ServerHangsUp { node, conn } if self.nodes[node].conn == Some(conn) => {
                self.nodes[node].conn = None;
                self.tell(node, client::Event::Closed { why: "the line is cut".into() });
            }
            Happening::ToClient { .. } | Happening::ServerHangsUp { .. } => {}
            Happening::NodeHangsUp { conn } => drop(self.lines.remove(&conn)),
            Happening::NodeWorks { node, life } if self.lives(node, life) => self.node_works(node),
            Happening::NodeReplies { node, life, reply } if self.lives(node, life) => {
                self.tell(node, client::Event::Reply(reply));
            }
            Happening::NodeWorks { .. } | Happening::NodeReplies { .. } => {}
            Happening::RoomWorks { conn } => self.room_works(conn),
            Happening::RoomReplies { conn, reply } => self.room_replies(conn, reply),
            Happening::Advanced { conn } => self.advanced(conn),
            Happening::Fetched { node, life, snapshot } => self.fetched(node, life, snapshot),
            Happening::Looks { node, life } if self.lives(node, life) => self.look_outside(node),
            Happening::Looks { .. } => {}
            Happening::WakeNode { node } => {
                if self.is_due((true, node as u64)) && self.nodes[node].is_up() {
                    self.tell(node, client::Event::Tick);
                }
            }
            Happening::WakeLine { conn } => {
                if self.is_due((false, conn)) {
                    self.inform(conn, server::Event::Tick);
                }
            }
            Happening::StartNode { node, life } if self.nodes[node].life == life => self.start_node(node),
            Happening::StartNode { .. } => {}
            Happening::StartRoom => self.start_room(),
            Happening::Unlock { node, life } if self.lives(node, life) => self.unlock(node),
            Happening::Forgive { node, life } if self.lives(node, life) => self.forgive(node),
            Happening::Unlock { .. } | Happening::Forgive { .. } => {}
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

    fn dialed(&mut self, node: usize, life: u64, conn: u64) {
        if !self.lives(node, life) || self.nodes[node].conn != Some(conn) {
            return;
        }
        if self.room.owner.is_none() {
            self.nodes[node].conn = None;
            return self.tell(node, client::Event::Closed { why: "no server".into() });
        }
        self.room_clock();
        let session = self.room.session(conn, self.now.saturating_add_signed(self.room.skew_ms));
        let grant = Grant {
            subject: format!("s{}", self.nodes[node].subject),
            relay: self.weather.relay,
            ..Grant::everything()
        };
        self.lines.insert(conn, Line::new(node, session, grant));
        self.nodes[node].promised = VersionVector::new();
        self.tell(node, client::Event::Connected);
        self.wake_line(conn);
    }

    /// What the client is told of with this frame.
    fn promise(&mut self, node: usize, conn: u64, bytes: &[u8]) {
        match Frame::decode(bytes, usize::MAX) {
            Ok(Frame::Welcome(welcome)) => self.nodes[node].promised.merge(&welcome.vector.0),
            Ok(Frame::Cut(cut)) => {
                if let Some(brings) = self.brings.remove(&(conn, cut.cut)) {
                    self.nodes[node].promised.merge(&brings);
                }
            }
            _ => {}
        }
    }

    fn node_works(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some(request) = n.asked.take() else { panic!("nothing was asked") };
        let life = n.life;
        if matches!(request, client::Request::StartOver) {
            return self.fetch(node, life);
        }
        let incarnation = matches!(request, client::Request::Prepare(_));
        let asked = frames::request(&request);
        self.node_clock(node);
        let storage = self.nodes[node].storage.as_mut().expect("it is up");
        let reply = storage.answer(request);
        self.say(format_args!("  {node} storage: {asked}: {}", frames::reply(&reply)));
        // Of two histories of a site the client has kept the room's.
        let fork = matches!(&reply, client::Reply::NotApplied { why: client::NotApplied::Fork(_), .. });
        self.after_storage(node, incarnation || fork);
        let ms = self.delay();
        self.later(ms, Happening::NodeReplies { node, life, reply });
    }

    fn fetch(&mut self, node: usize, life: u64) {
        self.count("snapshots");
        self.room_clock();
        let ms = self.delay() + 50;
        let failed = |why: &str| client::Reply::Failed(why.to_owned());
        let Some(owner) = &self.room.owner else {
            return self.later(ms, Happening::NodeReplies { node, life, reply: failed("no server") });
        };
        let (version, horizon) = owner.place().expect("the room has a version");
        let fresh = |s: &(PathBuf, i64, VersionVector)| version - s.1 <= 10 && s.2.covers(&horizon);
        if !self.room.snapshot.as_ref().is_some_and(fresh) {
            let path = self.dir.path().join(format!("snapshot{}.db", self.turn));
            let made = rejoin_server::inside::write_snapshot(&self.room.file(), &path).expect("a snapshot");
            self.room.snapshot = Some((path, version, made.vector));
        }
        let Some((from, version, _)) = self.room.snapshot.clone() else { return };
        let snapshot = self.dir.path().join(format!("fetched{}.db", self.turn));
        std::fs::copy(from, &snapshot).expect("a copy");
        self.say(format_args!("  {node} fetches a snapshot of version {version}"));
        self.later(ms, Happening::Fetched { node, life, snapshot });
    }

    fn fetched(&mut self, node: usize, life: u64, snapshot: PathBuf) {
        if !self.lives(node, life) {
            return;
        }
        self.node_clock(node);
        let storage = self.nodes[node].storage.as_mut().expect("it is up");
        let reply = storage.start_over(&snapshot);
        self.say(format_args!("  {node} starts over: {}", frames::reply(&reply)));
        self.after_storage(node, true);
        let ms = self.delay();
        self.later(ms, Happening::NodeReplies { node, life, reply });
    }

    fn room_works(&mut self, conn: u64) {
        self.room_clock();
        let Some(mut line) = self.lines.remove(&conn) else { return };
        let Some(request) = line.asked.take() else { panic!("nothing was asked") };
        let asked = frames::room_request(&request);
        let before = self.room.shared.head.borrow().clone();
        let reply = self.room.answer(&mut line, request);
        let after = self.room.shared.head.borrow().clone();
        self.say(format_args!("  {conn} room: {asked}: {}", frames::room_reply(&reply)));
        self.lines.insert(conn, line);
        if before.version != after.version || before.schema != after.schema || before.horizon != after.horizon
        {
            self.after_room();
        }
        let ms = self.delay();
        self.later(ms, Happening::RoomReplies { conn, reply });
    }

    /// Everybody hears, sooner or later, that the room has moved.
    pub fn after_room(&mut self) {
        self.look_at_room();
        let all: Vec<u64> = self.lines.keys().copied().collect();
        for conn in all {
            let ms = self.delay();
            self.later(ms, Happening::Advanced { conn });
        }
    }

    fn room_replies(&mut self, conn: u64, reply: server::Reply) {
        let admitted = matches!(reply, server::Reply::Admitted(_));
        if let (server::Reply::Admitted(welcome), Some(line)) = (&reply, self.lines.get_mut(&conn)) {
            line.told = Some(Told::by(welcome));
        }
        if let server::Reply::Made { cut: Some(made), .. } = &reply {
            let number = self.cuts.entry(conn).or_default();
            *number += 1;
            self.brings.insert((conn, *number), made.brings.clone());
        }
        if let server::Reply::Rows(_) = &reply {
            *self.cuts.entry(conn).or_default() += 1;
        }
        self.inform(conn, server::Event::Reply(reply));
        if admitted {
            self.advanced(conn);
        }
    }

    fn advanced(&mut self, conn: u64) {
        let Some(told) = self.lines.get_mut(&conn).and_then(|l| l.told.as_mut()) else { return };
        let head = self.room.shared.head.borrow().clone();
        for event in told.news(&head) {
            self.inform(conn, event);
        }
    }

    pub fn look_outside(&mut self, node: usize) {
        self.node_clock(node);
        let owned = self.nodes[node].is_owned();
        let storage = self.nodes[node].storage.as_ref().expect("it is up");
        // What its own connection commits it is told by an observer.
        if storage.has_changed() || owned {
            self.tell(node, client::Event::Changed);
        }
    }

    pub fn tell(&mut self, node: usize, event: client::Event) {
        let now = self.nodes[node].clock(self.now);
        let effects = self.nodes[node].machine.handle(event, now);
        for effect in effects {
            self.node_effect(node, effect);
        }
        self.look(node);
        self.wake_node(node);
    }

    pub fn wake_node(&mut self, node: usize) {
        let n = &self.nodes[node];
        let Some(at) = n.machine.wake_at() else { return };
        let ms = at.saturating_sub(n.clock(self.now)).clamp(1, 60_000);
        if self.wakes.insert((true, node as u64), self.now + ms) != Some(self.now + ms) {
            self.later(ms, Happening::WakeNode { node });
        }
    }

    fn node_effect(&mut self, node: usize, effect: client::Effect) {
        match effect {
            client::Effect::Connect => {
                self.conns += 1;
                let (conn, life) = (self.conns, self.nodes[node].life);
                assert!(self.nodes[node].conn.replace(conn).is_none(), "two connections at once");
                self.say(format_args!("  {conn} {node} dials"));
                let ms = self.delay();
                if self.weather.cuts && !self.calm && self.dice.one_in(6) {
                    self.later(ms, Happening::ServerHangsUp { node, conn });
                } else {
                    self.later(ms, Happening::Dialed { node, life, conn });
                }
            }
            client::Effect::Send(bytes) => {
                let Some(conn) = self.nodes[node].conn else { panic!("a frame without a connection") };
                self.transmit(conn, true, bytes, move |bytes| Happening::ToServer { conn, bytes });
            }
            client::Effect::Disconnect => {
                let Some(conn) = self.nodes[node].conn.take() else { panic!("disconnected twice") };
                self.say(format_args!("  {conn} {node} hangs up"));
                // What was sent still arrives.
                let ms = self.arrivals.get(&(conn, true)).map_or(0, |at| at.saturating_sub(self.now)) + 1;
                self.later(ms, Happening::NodeHangsUp { conn });
            }
            client::Effect::Ask(request) => {
                let n = &mut self.nodes[node];
                assert!(n.asked.replace(request).is_none(), "two open requests");
                let (life, ms) = (n.life, self.delay());
                self.later(ms, Happening::NodeWorks { node, life });
            }
            client::Effect::State(state) => {
                self.count(state.name());
                self.say(format_args!("{node} is {state}"));
                if matches!(state, rejoin_sync::State::Rejected { .. }) {
                    let life = self.nodes[node].life;
                    self.later(500, Happening::Forgive { node, life });
                }
                self.nodes[node].state = state;
            }
        }
    }

    fn transmit(&mut self, conn: u64, up: bool, bytes: Vec<u8>, arrive: impl Fn(Vec<u8>) -> Happening) {
        Frame::decode(&bytes, usize::MAX).expect("a machine sends frames");
        let at = self.arrivals.get(&(conn, up)).copied().unwrap_or(0).max(self.now + self.delay());
        let at = at.max(self.silent.get(&(conn, up)).copied().unwrap_or(0));
        let mangled = self.weather.mangles && !self.calm && self.dice.one_in(80);
        match self.dice.below(3) {
            0 if mangled => return self.count("frames lost"),
            1 if mangled => {
                self.count("frames twice");
                self.later(at - self.now, arrive(bytes.clone()));
            }
            2 if mangled => {
                // It overtakes what is on its way, or is overtaken.
                self.count("frames reordered");
                let ms = self.delay();
                return self.later(ms, arrive(bytes));
            }
            _ => {}
        }
        self.arrivals.insert((conn, up), at);
        self.later(at - self.now, arrive(bytes));
    }

    fn inform(&mut self, conn: u64, event: server::Event) {
        let now = self.now.saturating_add_signed(self.room.skew_ms);
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
                    self.later(ms, Happening::RoomWorks { conn });
                }
                server::Effect::Close(why) => {
                    self.say(format_args!("  {conn} server hangs up: {:?} {}", why.code, why.message));
                    self.lines.remove(&conn);
                    let at = self.arrivals.get(&(conn, false)).copied().unwrap_or(self.now);
                    self.later(at.saturating_sub(self.now) + 1, Happening::ServerHangsUp { node, conn });
                }
            }
        }
        self.wake_line(conn);
    }

    fn wake_line(&mut self, conn: u64) {
        let now = self.now.saturating_add_signed(self.room.skew_ms);
        if let Some(at) = self.lines.get(&conn).and_then(|l| l.session.wake_at()) {
            let ms = at.saturating_sub(now).clamp(1, 60_000);
            if self.wakes.insert((false, conn), self.now + ms) != Some(self.now + ms) {
                self.later(ms, Happening::WakeLine { conn });
            }
        }
    }
}
