//! Point 3 of what shops suffered from: gaps in the stream and dropped frames heal by themselves, and nobody shows a green
//! light over two databases that differ.

use super::proxy::{Fate, Proxy, cutting};
use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Options, State};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A lost frame shows itself after some heartbeats, which are three a second here.
fn place() -> Place {
    Place::with("[limits]\nidle_s = 1", &[])
}

/// Writes of every kind, on both sides, while `more`; then both must become green and equal.
fn live_through(place: &Place, url: &str, mut more: impl FnMut() -> bool) {
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let mut at_a = place.client_at("a.db", url, Options::default());
    let mut at_b = place.client_at("b.db", url, Options::default());
    let mut n = 0;
    while more() {
        for (replica, side) in [(&a, 0), (&b, 1)] {
            let id = 2 * n + side;
            insert(replica, id, &format!("{id} {}", "x".repeat((id as usize % 7) * 300)));
            let run = |sql: &str, id: i64| replica.connection().execute(sql, [id]).expect("sql");
            run("UPDATE books SET stock = stock + 1 WHERE id > ?1 - 6", id);
            run("DELETE FROM books WHERE id = ?1 - 9", id);
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    at_a.until_synced();
    at_b.until_synced();
    let vector = |r: &Replica| r.vector().expect("a vector");
    eventually("equal", || vector(&a) == vector(&b));
    at_a.until_synced();
    at_b.until_synced();
    assert_equal(&a, &b);
    assert_eq!(a.pending().expect("pending").transactions + b.pending().expect("pending").transactions, 0);
    let room = Replica::open(place.room_file("shop")).expect("opens");
    assert_equal(&a, &room);
    assert!(n > 0);
}

fn with_fate(fate: Fate, one_in: u64, times: u64) {
    let place = place();
    let proxy = Proxy::start(place.address, fate, one_in, times);
    live_through(&place, &proxy.url("shop"), || !proxy.is_done());
}

#[test]
fn frames_that_are_lost() {
    with_fate(Fate::Lost, 8, 12);
}

/// Point 1 of what shops suffered from: a green light that means something. The connection stands, but nothing goes through it any
/// more: what is written is pending, and the light goes out though nobody has closed anything.
#[test]
fn a_line_that_is_dead_is_not_green() {
    let place = place();
    let proxy = Proxy::start(place.address, Fate::Lost, 1, 0);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let mut at_a = place.client_at("a.db", &proxy.url("shop"), Options::default());
    let mut at_b = place.client("b.db", "shop");
    at_a.until_synced();
    at_b.until_synced();
    proxy.set_times(u64::MAX);
    insert(&a, 1, "nobody hears of it");
    insert(&b, 2, "and here of this");
    at_a.until("1 pending", |r| r.pending == 1 && r.state != State::Synced);
    at_a.until_state("offline");
    // It tries again and again, and gets nowhere.
    for _ in 0..30 {
        let report = at_a.client.report();
        assert!(report.state != State::Synced && report.pending == 1, "{report:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(titles(&a).len() + titles(&b).len(), 2);
    proxy.set_times(0);
    at_a.until("synced", |r| r.state == State::Synced && r.pending == 0);
    eventually("there", || titles(&b).len() == 2);
    at_b.until_synced();
    assert_equal(&a, &b);
}

#[test]
fn frames_that_come_twice() {
    with_fate(Fate::Twice, 12, 12);
}

#[test]
fn frames_that_change_places() {
    with_fate(Fate::Late, 12, 12);
}

#[test]
fn frames_of_which_a_half_comes() {
    with_fate(Fate::Half, 12, 12);
}

#[test]
fn lines_that_are_cut_in_the_middle_of_frames() {
    let place = place();
    let (address, _runtime, connections) = cutting(place.address, 4_000);
    live_through(&place, &format!("ws://{address}/shop"), || connections.load(Ordering::SeqCst) < 12);
}
