//! A client that means harm, at a server that serves others meanwhile.

mod floods;
mod mutations;
mod recorder;
mod scene;
mod socket;

use rejoin_client::{State, SyncClient};
use rejoin_wire::frame::{
    Bytes, Code, Cut, Data, Fault, Frame, Hello, PROTOCOL, PROTOCOL_OLDEST, Refused, Reject, RowName, Void,
    WireVector, cut_hash,
};
use scene::{Scene, count, eventually, kinds, settled, token, until, write};
use socket::Socket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What came of one attack.
struct Fired {
    id: String,
    /// What the server said that it does not take, and why.
    refused: Vec<String>,
    what: String,
}

/// Something to send after a greeting, or instead of one.
struct Attack {
    what: String,
    /// A greeting that is as it should be goes before it.
    greets: bool,
    frames: Vec<Vec<u8>>,
}

fn encode(frame: &Frame) -> Vec<u8> {
    frame.encode().expect("a frame")
}

/// What is not logged: what a later attempt of the same session mends, and what the client ends itself.
fn is_refusal(code: Code) -> bool {
    !matches!(code, Code::Gap | Code::GoingAway)
}

/// A frame with a token, and what the server answers to that one alone.
type Barrier = (Vec<u8>, u64);

fn barrier(seconds: u64) -> Barrier {
    let (token, until_s) = token("eve", seconds);
    (encode(&Frame::Token(token)), until_s * 1000)
}

/// A greeting without a token.
fn hello(replica: &rejoin::Replica) -> Vec<u8> {
    encode(&Frame::Hello(Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL,
        token: None,
        site: replica.site_id().expect("a site").0,
        lineage: None,
        schema: Bytes(replica.schema().expect("a schema").into_bytes()),
        vector: WireVector::default(),
        head: None,
        horizon: WireVector::default(),
        credit: 1 << 20,
        resume: None,
        agent: "by hand".into(),
    }))
}

struct Talk<'a> {
    socket: Socket,
    refused: Vec<String>,
    /// The server has hung up without a word.
    silent: bool,
    what: &'a str,
    tokens: &'a [Barrier; 2],
}

impl Talk<'_> {
    /// Reads until a frame is so; false: the session has ended.
    fn until(&mut self, so: impl Fn(&Frame) -> bool) -> bool {
        while let Some(frame) = self.socket.next() {
            match &frame {
                Frame::Refused(r) if is_refusal(r.code) => self.refused.push(r.message.clone()),
                Frame::Reject(r) => self.refused.push(format!("{:?}", r.rejections)),
                Frame::Fault(f) => {
                    assert_ne!(f.code, Code::Silent, "{}: the server waits for something", self.what);
                    if is_refusal(f.code) {
                        self.refused.push(f.message.clone());
                    }
                    return false;
                }
                _ => {}
            }
            if so(&frame) {
                return true;
            }
        }
        self.silent = true;
        false
    }

    /// The server has dealt with everything before: what asks the room is answered in order, a token first.
    fn dealt_with(&mut self) -> bool {
        let tokens = self.tokens;
        tokens.iter().all(|(token, until)| {
            self.socket.send(token);
            self.until(|f| *f == Frame::TokenTaken(Some(*until)))
        })
    }
}

fn fire(scene: &Scene, attack: &Attack, hello: &[u8], tokens: &[Barrier; 2]) -> Fired {
    let mut talk =
        Talk { socket: scene.eve(), refused: Vec::new(), silent: false, what: &attack.what, tokens };
    let id = talk.socket.id.clone();
    let mut open = true;
    if attack.greets {
        talk.socket.send(hello);
        open = talk.until(|f| matches!(f, Frame::Welcome(_))) && talk.dealt_with();
    }
    assert!(open, "an honest greeting was refused: {:?}", talk.refused);
    let mut frames = attack.frames.iter();
    if !attack.greets
        && let Some(first) = frames.next()
    {
        talk.socket.send(first);
        open = talk.until(|f| matches!(f, Frame::Welcome(_)));
    }
    if open {
        // What a frame asks for is done before the next one comes; a session goes on as it did.
        if attack.greets {
            frames.all(|frame| talk.socket.send(frame) && talk.dealt_with());
        } else {
            frames.all(|frame| talk.socket.send(frame));
            talk.dealt_with();
        }
    }
    // Nobody answers who has said good-bye.
    let leaves = |f: &Vec<u8>| matches!(Frame::decode(f, usize::MAX), Ok(Frame::Fault(_)));
    assert!(!talk.silent || attack.frames.iter().any(leaves), "no word: {}", attack.what);
    Fired { id, refused: talk.refused, what: attack.what.clone() }
}

/// The frames of a cut that the server rejects, and what takes it back.
fn rejected(eve: &rejoin::Replica) -> (Vec<Vec<u8>>, Void) {
    let before = eve.vector().expect("a vector");
    write(eve, 200, "ann", "in another's name");
    let bytes = eve.cut_for(&rejoin::CutRequest::new(&before)).expect("made").expect("something").bytes;
    let reader = rejoin_wire::Reader::open(&bytes).expect("a changeset");
    let one = reader.transactions().first().expect("a transaction");
    let void = Void {
        site: eve.site_id().expect("a site").0,
        version: one.version,
        nonce: one.nonce,
        chain: one.chain,
    };
    let (len, hash) = (bytes.len() as u64, cut_hash(&bytes));
    let head =
        Cut { cut: 1, bytes: len, hash, offset: 0, transactions: 1, more: false, since: 0, rows: false };
    let frames = [Frame::Cut(head), Frame::Data(Data { cut: 1, bytes: Bytes(bytes) })];
    (frames.iter().map(encode).collect(), void)
}

/// A frame of each kind that the record has, and of all others, each with what must go before it.
fn targets(record: &[Vec<u8>], eve: &rejoin::Replica) -> Vec<(String, Vec<Vec<u8>>, Vec<u8>)> {
    let decoded: Vec<Frame> =
        record.iter().map(|f| Frame::decode(f, usize::MAX).expect("an honest frame")).collect();
    let first = |so: &dyn Fn(&Frame) -> bool| decoded.iter().position(so).map(|at| record[at].clone());
    let found = |so: &dyn Fn(&Frame) -> bool| first(so).expect("recorded");
    let (cut, data) = (found(&|f| matches!(f, Frame::Cut(_))), found(&|f| matches!(f, Frame::Data(_))));
    let vector = || WireVector(eve.vector().expect("a vector"));
    let alone = |frame: &Frame| (Vec::new(), encode(frame));
    let row = RowName { table: "notes".into(), pk: Bytes(vec![1, 9, 1]) };
    let (sent, void) = rejected(eve);
    let mut all = vec![
        (vec![], cut.clone()),
        (vec![cut], data),
        (vec![], found(&|f| matches!(f, Frame::RowsWanted(_)))),
        (sent, encode(&Frame::Adopted(vec![void]))),
        (vec![], found(&|f| matches!(f, Frame::Token(_)))),
        // Everything is sent again to who has nothing.
        (vec![encode(&Frame::Vector(WireVector::default()))], encode(&Frame::Ack(1))),
    ];
    all.extend([
        alone(&Frame::Credit(1 << 20)),
        alone(&Frame::RowsWanted(vec![row])),
        alone(&Frame::Refused(Refused { cut: 1, code: Code::Gap, message: "x".into(), vector: vector() })),
        alone(&Frame::Ping(7, Some(7))),
        alone(&Frame::Pong(7, 7)),
        alone(&Frame::Vector(vector())),
        alone(&Frame::Schema(Bytes(eve.schema().expect("a schema").into_bytes()))),
        alone(&Frame::Horizon(vector())),
        alone(&Frame::Fault(Fault { code: Code::GoingAway, message: "bye".into(), retry_after_ms: Some(1) })),
        // What only a server says.
        alone(&Frame::TokenTaken(Some(1))),
        alone(&Frame::Reject(Reject { cut: 1, rejections: Vec::new() })),
    ]);
    let name = |frame: &[u8]| kinds(&[frame.to_vec()]).into_keys().next().unwrap_or_default();
    all.into_iter().map(|(before, frame)| (name(&frame), before, frame)).collect()
}

/// Each frame mutated, and the frames of the session in other orders.
fn attacks(record: &[Vec<u8>], eve: &rejoin::Replica, most: usize) -> Vec<Attack> {
    let mut all = Vec::new();
    for mutated in mutations::of(&record[0], most) {
        all.push(Attack { what: format!("Hello {mutated:?}"), greets: false, frames: vec![mutated] });
    }
    for (name, before, frame) in targets(record, eve) {
        for mutated in mutations::of(&frame, most) {
            let what = format!("{name} {mutated:?}");
            all.push(Attack { what, greets: true, frames: [before.clone(), vec![mutated]].concat() });
        }
    }
    let mut order = |what: String, frames: Vec<Vec<u8>>| all.push(Attack { what, greets: false, frames });
    for at in 0..record.len() {
        let mut frames = record.to_vec();
        frames.remove(at);
        order(format!("without {at}"), frames);
        let mut frames = record.to_vec();
        frames.insert(at, record[at].clone());
        order(format!("{at} twice"), frames);
        let mut frames = record.to_vec();
        frames.swap(at, (at + 1) % record.len());
        order(format!("{at} later"), frames);
        let mut frames = record.to_vec();
        frames[1.min(at)..].reverse();
        frames.truncate(at + 1);
        order(format!("backwards up to {at}"), frames);
    }
    all
}

/// Fires from some threads at once.
fn fire_all(scene: &Scene, attacks: &[Attack], hello: &[u8], tokens: &[Barrier; 2]) -> Vec<Fired> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(attack) = attacks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fired = fire(scene, attack, hello, tokens);
                    all.lock().expect("unharmed").push(fired);
                }
            });
        }
    });
    all.into_inner().expect("unharmed")
}

/// One line for each refusal, which says what was refused and why.
fn check_log(scene: &Scene, fired: &[Fired]) {
    let said = || {
        let lines = scene.refusals();
        let missing = |f: &&Fired| lines.get(&f.id).map_or(0, Vec::len) < f.refused.len();
        fired.iter().filter(missing).map(|f| f.what.clone()).next()
    };
    eventually("in the log", || said().is_none());
    let lines = scene.refusals();
    for f in fired {
        let of = lines.get(&f.id).cloned().unwrap_or_default();
        assert_eq!(of.len(), f.refused.len(), "{}: {:?} {of:?}", f.what, f.refused);
        for line in &of {
            assert!(line.contains("peer=127.0.0.1") && line.contains("path=/shop"), "{line}");
            let why = line.split_once("refused: ").map_or("", |l| l.1);
            assert!(why.len() > 8, "{line}");
        }
    }
}

/// Says when something has ended, by a failure, too.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks on while others are attacked: what the states of a client were.
fn looking_on<R>(client: &SyncClient, during: impl FnOnce() -> R) -> (R, Vec<&'static str>) {
    let (mut watch, ended) = (client.watch(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut names = vec![client.state().name()];
            while !ended.load(Ordering::Relaxed) {
                watch.wait(Duration::from_millis(50));
                names.push(client.state().name());
            }
            names.dedup();
            names
        });
        let end = AtEnd(&ended);
        let done = during();
        drop(end);
        (done, looker.join().expect("it only looks"))
    })
}

#[test]
fn mutated_frames_change_nothing_and_nobody_else_notices() {
    let scene = Scene::new();
    let (ann, bob) = (scene.replica("ann.db"), scene.replica("bob.db"));
    let (anns, bobs) = (scene.client("ann", scene.address), scene.client("bob", scene.address));
    write(&ann, 1, "ann", "first");
    settled(&anns, &ann);
    let record = scene.recorded(&ann);
    let has = kinds(&record);
    for kind in ["Hello", "Cut", "Data", "Ack", "RowsWanted", "Adopted", "Token"] {
        assert!(has.contains_key(kind), "{kind} in {has:?}");
    }
    settled(&anns, &ann);
    eventually("everywhere", || count(&bob, "1") == count(&ann, "1"));
    let eve = scene.replica("eve.db");
    let tokens = [barrier(3601), barrier(3602)];
    let most = if std::env::var_os("REJOIN_LONG").is_some() { usize::MAX / 8 } else { 60 };
    let attacks = attacks(&record, &eve, most);
    // The first of all bring what is made once.
    for attack in attacks.iter().step_by(40) {
        fire(&scene, attack, &record[0], &tokens);
    }
    let (before, (memory, _)) = (scene.state(), scene.memory());

    // Everybody is there and at rest.
    let (fired, states) = looking_on(&anns, || fire_all(&scene, &attacks, &record[0], &tokens));
    for (table, rows) in scene.state() {
        assert_eq!(Some(&rows), before.get(&table), "{table}");
    }
    assert_eq!(states, ["synced"]);
    let refused = fired.iter().filter(|f| !f.refused.is_empty()).count();
    assert!(refused * 2 > fired.len(), "{refused} of {} were refused", fired.len());
    check_log(&scene, &fired);
    let (after, peak) = scene.memory();
    assert!(
        after < memory + (64 << 10) && peak < memory + (96 << 10),
        "{memory} kB, then {after}, at most {peak}"
    );

    // And at work.
    let some: Vec<Attack> = attacks.into_iter().step_by(7).collect();
    let ended = AtomicBool::new(false);
    let (slowest, states) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                fire_all(&scene, &some, &record[0], &tokens);
            }
        });
        let _end = AtEnd(&ended);
        looking_on(&anns, || {
            let one = |id| {
                write(&ann, id, "ann", "under fire");
                settled(&anns, &ann).max(eventually("at Bob's", || count(&bob, &format!("id = {id}")) == 1))
            };
            (1000..1030).map(one).max()
        })
    });
    assert!(slowest.is_some_and(|s| s < Duration::from_secs(10)), "{slowest:?}");
    assert!(states.iter().all(|s| ["synced", "syncing"].contains(s)), "{states:?}");
    until(&bobs, "synced", |r| r.state == State::Synced);
    for replica in [&ann, &bob, &rejoin::Replica::open(scene.folder.path("rooms/shop.db")).expect("open")] {
        assert!(replica.verify().expect("verifies").is_clean());
        assert_eq!(count(replica, "owner = 'eve'"), 21);
    }
}
