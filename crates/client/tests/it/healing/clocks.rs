//! Clocks that are a year off, on either side, or are set while a client runs. What was written later wins by the clock of the
//! room; what a wrong clock says neither wins for ever nor is refused for ever.

use crate::trust::{AUTH, MAY_ALL, SECRET, token};
use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Options, State, Token, sync_once};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const YEAR_MS: i64 = 365 * 86_400_000;

fn right() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis())
        .expect("a time")
}

fn year_ahead() -> i64 {
    right() + YEAR_MS
}

fn year_behind() -> i64 {
    right() - YEAR_MS
}

fn by(now_ms: fn() -> i64) -> Options {
    Options { now_ms, ..Options::default() }
}

fn retitle(replica: &Replica, title: &str) {
    replica.connection().execute("UPDATE books SET title = ?1 WHERE id = 1", [title]).expect("update");
}

/// Unix milliseconds of the newest stamp.
fn newest_ms(replica: &Replica) -> i64 {
    let sql = "SELECT CAST(substr(crsql_hlc_text(max(col_version), crsql_site_id()), 1, 15) AS INTEGER) FROM crsql_changes \
        WHERE cid <> '-1'";
    replica.connection().query_row(sql, [], |r| r.get(0)).expect("a stamp")
}

/// Two replicas by these clocks, of which each is later than the other once before they meet, and once after.
fn later_wins(at_a: fn() -> i64, at_b: fn() -> i64) {
    for a_is_later in [false, true] {
        let place = Place::new();
        let (a, b) = (place.replica("a.db"), place.replica("b.db"));
        a.set_clock(at_a).expect("a clock");
        b.set_clock(at_b).expect("a clock");
        let sync = |name: &str| {
            let clock = if name == "a.db" { at_a } else { at_b };
            let report = sync_once(place.path(name), &place.url("shop"), by(clock)).expect("it syncs");
            assert_eq!((report.state, report.pending), (State::Synced, 0), "{name}");
        };
        let (earlier, later) = if a_is_later { (&b, &a) } else { (&a, &b) };
        insert(earlier, 1, "");
        insert(later, 1, "");
        for order in [["a.db", "b.db"], ["b.db", "a.db"]] {
            retitle(earlier, &format!("earlier, {order:?}"));
            // Much longer than a measured clock is off.
            std::thread::sleep(Duration::from_millis(700));
            let title = format!("later, {order:?}");
            retitle(later, &title);
            order.into_iter().chain(["a.db", "b.db"]).for_each(sync);
            assert_eq!(titles(&a)[0].1, title);
            assert_equal(&a, &b);
        }
        for replica in [&a, &b] {
            let off = newest_ms(replica) - right();
            assert!((-60_000..=5_000).contains(&off), "{off} ms");
        }
    }
}

#[test]
fn a_client_a_year_ahead() {
    later_wins(year_ahead, right);
}

#[test]
fn a_client_a_year_behind() {
    later_wins(year_behind, right);
}

/// To all clients, the server is a year behind.
#[test]
fn a_server_a_year_behind() {
    later_wins(year_ahead, year_ahead);
}

#[test]
fn a_server_a_year_ahead() {
    later_wins(year_behind, year_behind);
}

#[test]
fn two_clients_off_in_both_directions() {
    later_wins(year_ahead, year_behind);
}

/// The room was made anew: what is written onto it is judged by the clock as the server has corrected it before.
#[test]
fn starting_over_by_a_wrong_clock() {
    for clock in [year_behind, year_ahead] {
        let mut place = Place::new();
        let a = place.replica("a.db");
        a.set_clock(clock).expect("a clock");
        insert(&a, 1, "in the old room");
        let sync = |place: &Place| {
            sync_once(place.path("a.db"), &place.url("shop"), by(clock)).expect("it ends").state
        };
        assert_eq!(sync(&place), State::Synced);
        place.stop();
        for more in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(place.path(&format!("rooms/shop.db{more}")));
        }
        place.start();
        let b = place.replica("b.db");
        insert(&b, 2, "in the new room");
        sync_once(place.path("b.db"), &place.url("shop"), by(right)).expect("it syncs");
        // By a wrong clock this would be later than anything that could be taken.
        std::thread::sleep(Duration::from_millis(1_500));
        insert(&a, 3, "never sent");
        assert_eq!(sync(&place).name(), "incompatible");
        rejoin_client::start_over(place.path("a.db"), &place.url("shop"), &by(clock), |_| ())
            .expect("starts over");
        assert_eq!(sync(&place), State::Synced);
        sync_once(place.path("b.db"), &place.url("shop"), by(right)).expect("it syncs");
        assert_eq!(titles(&b).len(), 3);
        assert_equal(&a, &b);
        let off = newest_ms(&b) - right();
        assert!((-60_000..=5_000).contains(&off), "{off} ms");
    }
}

/// What the room lacks of others it cannot tell the rows of. Until it has that, which may be never, the rest goes on.
#[test]
fn a_wrong_clock_and_a_changeset_of_one_whom_the_room_has_not_met() {
    for relay in [false, true] {
        let place = Place::with(AUTH, &[("secret", SECRET)]);
        let [a, b] = ["a.db", "b.db"].map(|name| place.replica(name));
        a.set_clock(year_ahead).expect("a clock");
        insert(&a, 1, "by a wrong clock");
        insert(&b, 2, "from hand to hand");
        retitle(&a, "by a wrong clock, again");
        let bytes =
            b.changeset_for(&a.vector().expect("a vector")).expect("a changeset").expect("there is one");
        a.apply_changeset(&bytes).expect("it is taken");
        let sync = |name: &str, now_ms, claims: &str| {
            let token = Token::Fixed(token(name, 600, claims));
            let options = Options { token, ..by(now_ms) };
            sync_once(place.path(name), &place.url("shop"), options).expect("it ends").state
        };
        if relay {
            let claims = r#", "schema": true, "relay": true"#;
            assert_eq!(sync("a.db", year_ahead, claims), State::Synced);
        } else {
            let state = sync("a.db", year_ahead, MAY_ALL);
            let State::Behind { pending: 0, reason } = state else { panic!("{state:?}") };
            assert!(reason.contains("lacks 1 transaction") && reason.contains("relay"), "{reason}");
            assert_eq!(a.rows_wanted().expect("rows").len(), 1);
        }
        let room = Replica::open(place.room_file("shop")).expect("opens");
        assert_eq!(titles(&room).len(), if relay { 2 } else { 1 });
        assert_eq!(sync("b.db", right, ""), State::Synced);
        assert_eq!(sync("a.db", year_ahead, ""), State::Synced);
        assert_eq!(a.rows_wanted().expect("rows"), []);
        assert_eq!(sync("b.db", right, ""), State::Synced);
        assert_equal(&a, &b);
        assert_equal(&a, &room);
    }
}

/// A clock that is set while the client is connected, or waits for the server, does not stop it.
#[test]
fn a_clock_that_is_set_while_it_runs() {
    static SET_MS: AtomicI64 = AtomicI64::new(0);
    fn set() -> i64 {
        right() + SET_MS.load(Ordering::SeqCst)
    }
    let mut place = Place::with("[limits]\nidle_s = 3", &[]);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    a.set_clock(set).expect("a clock");
    let mut at_a = place.client_with("a.db", "shop", by(set));
    let mut at_b = place.client("b.db", "shop");
    at_a.until_synced();
    at_b.until_synced();
    for (n, ms) in [YEAR_MS, 0, -YEAR_MS, 0].into_iter().enumerate() {
        SET_MS.store(ms, Ordering::SeqCst);
        insert(&a, n as i64, "by another clock");
        eventually("there", || titles(&b).len() == n + 1);
        at_a.until("synced", |r| r.state == State::Synced && r.pending == 0);
    }
    // While it waits to connect again.
    SET_MS.store(YEAR_MS, Ordering::SeqCst);
    place.stop();
    at_a.until_state("offline");
    SET_MS.store(0, Ordering::SeqCst);
    place.start();
    insert(&a, 9, "and back");
    at_a.until("synced", |r| r.state == State::Synced && r.pending == 0);
    at_b.until_synced();
    eventually("equal", || titles(&a) == titles(&b));
    assert_equal(&a, &b);
    let off = newest_ms(&b) - right();
    assert!((-120_000..=5_000).contains(&off), "{off} ms");
}

/// The server's clock was a year ahead for a while: what it took then is from the future for everybody, now that it is right. It
/// is taken nevertheless, and what is written after it wins and is taken, too.
#[test]
fn a_server_that_was_ahead_and_was_set_right() {
    let mut place = Place::new();
    let [a, b] = ["a.db", "b.db"].map(|name| place.replica(name));
    let sync = |place: &Place, name: &str| {
        let report = sync_once(place.path(name), &place.url("shop"), by(right)).expect("it syncs");
        assert_eq!((report.state, report.pending), (State::Synced, 0), "{name}");
    };
    insert(&a, 1, "before");
    sync(&place, "a.db");
    // As if by a client that had believed it.
    place.stop();
    let room = Replica::open(place.room_file("shop")).expect("opens");
    room.set_clock(year_ahead).expect("a clock");
    retitle(&room, "from the future");
    insert(&room, 2, "from the future");
    drop(room);
    place.start();
    insert(&a, 3, "unsent");
    sync(&place, "a.db");
    assert_eq!(titles(&a)[0].1, "from the future");
    // One that knows nothing yet, and one that begins with a snapshot.
    sync(&place, "b.db");
    rejoin_client::clone_room(&place.url("shop"), place.path("c.db"), &by(right), |_| ()).expect("it clones");
    let c = Replica::open(place.path("c.db")).expect("opens");
    for (replica, name) in [(&a, "a.db"), (&b, "b.db"), (&c, "c.db")] {
        for n in 0..3 {
            retitle(replica, &format!("{n} from {name}"));
        }
        for name in ["a.db", "b.db", "c.db"].into_iter().chain([name]).chain(["a.db", "b.db", "c.db"]) {
            sync(&place, name);
        }
        for other in [&a, &b, &c] {
            assert_eq!(titles(other)[0].1, format!("2 from {name}"));
            assert_equal(&a, other);
        }
    }
}
