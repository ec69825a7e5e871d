//! Deletions that everybody has acknowledged are forgotten; who was away for too long starts over by itself, keeps what only it
//! has, and brings nothing back that was deleted.

use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Options, State, clone_room, sync_once};
use rusqlite::Connection;

const DAY_MS: i64 = 86_400_000;

fn sync(place: &Place, name: &str) {
    let report = sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs");
    assert_eq!((report.state, report.pending), (State::Synced, 0), "{name}");
}

/// The server's task finds, when it runs next, that this replica was last there so many days ago, and that it is time to
/// forget what the others have acknowledged.
fn let_pass(place: &mut Place, away: &Replica, days: i64) {
    place.stop();
    let room = Connection::open(place.room_file("shop")).expect("opens");
    let site = away.site_id().expect("an id");
    let seen = "UPDATE crsql_replicas SET seen_ms = seen_ms - ?1 WHERE site = ?2";
    assert_eq!(room.execute(seen, (days * DAY_MS, site.as_bytes())), Ok(1));
    let collected = "UPDATE rejoin_server_state SET value = value - ?1 WHERE name = 'collected_ms'";
    assert_eq!(room.execute(collected, [2 * DAY_MS]), Ok(1));
    drop(room);
    place.start();
}

fn horizon(place: &Place) -> rejoin::VersionVector {
    Replica::open(place.room_file("shop")).expect("opens").horizon().expect("a horizon")
}

fn tombstones(replica: &Replica) -> i64 {
    let sql = "SELECT count(*) FROM crsql_changes WHERE cid = '-1' AND cl % 2 = 0";
    replica.connection().query_row(sql, [], |r| r.get(0)).expect("a number")
}

/// Three rows at both; the second deleted at `a` while `b` is away.
fn a_deletion_that_one_missed(place: &Place) -> (Replica, Replica) {
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    for id in 1..=3 {
        insert(&a, id, "old");
    }
    for name in ["a.db", "b.db", "a.db"] {
        sync(place, name);
    }
    a.connection().execute("DELETE FROM books WHERE id = 2", []).expect("delete");
    sync(place, "a.db");
    (a, b)
}

#[test]
fn the_server_forgets_what_all_have_acknowledged() {
    let mut place = Place::new();
    let (a, b) = a_deletion_that_one_missed(&place);
    // Who was there of late holds it back.
    let_pass(&mut place, &b, 29);
    let mut at_a = place.client("a.db", "shop");
    at_a.until_synced();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let missing = a.vector().expect("a vector").missing_from(&horizon(&place));
    assert!(!missing.is_empty(), "the deletion is above the horizon");
    drop(at_a);
    // Who was not does not.
    let_pass(&mut place, &b, 2);
    let mut at_a = place.client("a.db", "shop");
    eventually("collected", || horizon(&place) == a.vector().expect("a vector"));
    at_a.until_synced();
    let room = Replica::open(place.room_file("shop")).expect("opens");
    assert_eq!(tombstones(&room), 0);
    // The late one has work that nobody has seen: on a row that is there, on one that is deleted, and a new one.
    let before = b.site_id().expect("an id");
    b.connection()
        .execute_batch(
            "UPDATE books SET stock = 7 WHERE id IN (1, 2); INSERT INTO books (id, title) VALUES (4, 'new')",
        )
        .expect("sql");
    let mut at_b = place.client("b.db", "shop");
    at_b.until("synced", |r| r.state == State::Synced && r.pending == 0);
    assert_ne!(b.site_id().expect("an id"), before);
    eventually("there", || titles(&a).len() == 3);
    at_a.until_synced();
    at_b.until_synced();
    assert_eq!(titles(&b).iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 4]);
    let stock = b.connection().query_row("SELECT stock FROM books WHERE id = 1", [], |r| r.get(0));
    assert_eq!(stock, Ok(7));
    assert_equal(&a, &b);
    assert_equal(&a, &room);
}

/// The server has a snapshot at hand, of before it forgot something. Who starts over, or begins, gets one that holds all of that.
#[test]
fn a_snapshot_is_not_older_than_the_horizon() {
    let mut place = Place::new();
    let (a, b) = a_deletion_that_one_missed(&place);
    let_pass(&mut place, &b, 31);
    // It is made while nobody is there for whom the room would collect.
    clone_room(&place.url("shop"), place.path("c.db"), &Options::default(), |_| ()).expect("it clones");
    a.connection().execute("DELETE FROM books WHERE id = 3", []).expect("delete");
    let mut at_a = place.client("a.db", "shop");
    at_a.until_synced();
    drop(at_a);
    let room = Replica::open(place.room_file("shop")).expect("opens");
    room.collect(&room.vector().expect("a vector")).expect("collects");
    clone_room(&place.url("shop"), place.path("d.db"), &Options::default(), |_| ()).expect("it clones");
    sync(&place, "d.db");
    sync(&place, "b.db");
    assert_eq!(titles(&b), [(1, "old".into())]);
    assert_equal(&a, &b);
}

/// In WAL mode a file keeps the size of its pages, whatever the room's are.
#[test]
fn starting_over_with_pages_of_another_size() {
    for bytes in [1024, 65536] {
        let mut place = Place::new();
        Connection::open(place.path("b.db"))
            .and_then(|c| {
                c.execute_batch(&format!(
                    "PRAGMA page_size = {bytes}; CREATE TABLE mine (x); INSERT INTO mine VALUES (5)"
                ))
            })
            .expect("a database");
        let (a, b) = a_deletion_that_one_missed(&place);
        insert(&b, 4, "unsent");
        let_pass(&mut place, &b, 31);
        let room = Replica::open(place.room_file("shop")).expect("opens");
        room.collect(&room.vector().expect("a vector")).expect("collects");
        drop(room);
        sync(&place, "b.db");
        sync(&place, "a.db");
        assert_equal(&a, &b);
        assert_eq!(titles(&b).iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 4]);
        let one = |sql: &str| b.connection().query_row(sql, [], |r| r.get::<_, i64>(0));
        assert_eq!((one("PRAGMA page_size"), one("SELECT x FROM mine")), (Ok(bytes), Ok(5)));
    }
}
