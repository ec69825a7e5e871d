//! Two replicas and a room while everything works, and while it does not.

use crate::util::*;
use rejoin::Replica;
use rejoin_client::{OnCommit, Options, State, sync_once};
use std::sync::mpsc::channel;
use std::time::Duration;

#[test]
fn two_replicas_meet_in_a_new_room() {
    let place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    insert(&a, 1, "from a");
    insert(&b, 2, "from b");
    for name in ["a.db", "b.db", "a.db"] {
        let report = sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs");
        assert_eq!((report.state, report.pending), (State::Synced, 0), "{name}");
    }
    assert_eq!(titles(&a), [(1, "from a".into()), (2, "from b".into())]);
    assert_equal(&a, &b);
    assert_eq!(a.lineage().expect("a lineage"), b.lineage().expect("a lineage"));
    assert!(a.lineage().expect("a lineage").is_some());
    assert_eq!(a.pending().expect("pending").transactions, 0);
    assert_eq!(a.server().expect("a note").map(|s| s.url), Some(place.url("shop")));
}

#[test]
fn commits_travel_while_it_watches() {
    let place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    at_a.until_synced();
    at_b.until_synced();
    // Another connection of this process, which the client is told of; one that it finds out about; its own.
    at_a.client.observe(&a).expect("observes");
    insert(&a, 1, "told");
    eventually("there", || titles(&b).len() == 1);
    insert(&b, 2, "found");
    eventually("there", || titles(&a).len() == 2);
    at_b.client.with(|replica| insert(replica, 3, "its own")).expect("runs");
    eventually("there", || titles(&a).len() == 3);
    at_a.until_synced();
    at_b.until_synced();
    assert_equal(&a, &b);
}

#[test]
fn an_empty_file_takes_the_tables_of_the_room() {
    let place = Place::new();
    let a = place.replica("a.db");
    insert(&a, 1, "x");
    sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it syncs");
    let report = sync_once(place.path("empty.db"), &place.url("shop"), Options::default()).expect("it syncs");
    assert_eq!(report.state, State::Synced);
    assert_equal(&a, &Replica::open(place.path("empty.db")).expect("opens"));
}

#[test]
fn observers_hear_of_what_comes() {
    let place = Place::new();
    let (a, _) = (place.replica("a.db"), place.replica("b.db"));
    let (told, heard) = channel();
    let on_commit: OnCommit = Box::new(move |commit| drop(told.send(commit.clone())));
    let options = Options { on_commit: Some(on_commit), ..Options::default() };
    let mut at_b = place.client_with("b.db", "shop", options);
    at_b.until_synced();
    insert(&a, 7, "x");
    sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it syncs");
    let commit = heard.recv_timeout(PATIENCE).expect("a commit");
    assert!(!commit.local);
    assert_eq!(commit.tables.first().map(|t| (t.name.as_str(), t.keys.len())), Some(("books", 1)));
}

#[test]
fn offline_work_is_pending_until_the_server_is_back() {
    let mut place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    at_a.until_synced();
    at_b.until_synced();
    place.stop();
    at_a.until_state("offline");
    for id in 1..=3 {
        insert(&a, id, "offline");
    }
    at_a.until("3 pending", |r| r.pending == 3 && r.state.name() == "offline");
    assert_eq!(a.pending().expect("pending").transactions, 3);
    place.start();
    let report = at_a.until_synced();
    assert_eq!(report.pending, 0);
    eventually("there", || titles(&b).len() == 3);
    at_b.until_synced();
    assert_equal(&a, &b);
}

/// A room that was restored from an old copy: whoever has more hands it in, and both know that the room was another one.
#[test]
fn a_restored_server_is_filled_again() {
    let mut place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    insert(&a, 1, "old");
    let sync = |place: &Place, name: &str| {
        let report = sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs");
        assert_eq!(report.state, State::Synced, "{name}");
    };
    sync(&place, "a.db");
    place.stop();
    let copy = std::fs::read(place.room_file("shop")).expect("the room's file");
    place.start();
    insert(&a, 2, "lost by the server");
    sync(&place, "a.db");
    sync(&place, "b.db");
    insert(&b, 3, "lost too");
    sync(&place, "b.db");
    place.stop();
    for more in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("rooms/shop.db{more}")));
    }
    std::fs::write(place.room_file("shop"), copy).expect("restored");
    place.start();
    // This one never had the third row, and so cannot hand it in.
    sync(&place, "a.db");
    sync(&place, "b.db");
    sync(&place, "a.db");
    assert_eq!(titles(&a).len(), 3);
    assert_equal(&a, &b);
}

#[test]
fn a_restored_client_goes_on_under_a_new_id() {
    let place = Place::new();
    let a = place.replica("a.db");
    insert(&a, 1, "kept");
    let sync =
        |name: &str| sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs");
    sync("a.db");
    let before = a.site_id().expect("an id");
    a.connection().execute("VACUUM INTO ?1", [place.path("old.db").to_str()]).expect("a copy");
    insert(&a, 2, "after the backup");
    sync("a.db");
    drop(a);
    for more in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("a.db{more}")));
    }
    std::fs::rename(place.path("old.db"), place.path("a.db")).expect("restored");
    let report = sync("a.db");
    assert_eq!(report.state, State::Synced);
    let a = Replica::open(place.path("a.db")).expect("opens");
    assert_ne!(a.site_id().expect("an id"), before);
    assert_eq!(titles(&a), [(1, "kept".into()), (2, "after the backup".into())]);
    insert(&a, 3, "goes on");
    assert_eq!(sync("a.db").state, State::Synced);
    assert!(a.verify().expect("verifies").is_clean());
}

/// Measured as well as tested: a commit is seen elsewhere much sooner than a file is looked at.
#[test]
fn a_commit_is_seen_elsewhere_soon() {
    let place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    at_a.client.observe(&a).expect("observes");
    at_a.until_synced();
    at_b.until_synced();
    let mut took: Vec<Duration> = (1..=30)
        .map(|id| {
            insert(&a, id, "x");
            eventually("there", || titles(&b).len() == id as usize)
        })
        .collect();
    took.sort();
    eprintln!("median {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[took.len() / 2] < Duration::from_millis(500), "{took:?}");
}

/// The room has forgotten deletions that this replica never heard of. It starts over, and keeps what only it has: rows, tables that
/// are its own business, and the connections that programs have open.
#[test]
fn a_replica_below_the_horizon_starts_over() {
    let mut place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    for id in 1..=3 {
        insert(&a, id, "old");
    }
    let sync = |place: &Place, name: &str| {
        sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs")
    };
    sync(&place, "a.db");
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    a.connection().execute("DELETE FROM books WHERE id = 2", []).expect("delete");
    sync(&place, "a.db");
    place.stop();
    let room = rejoin::Replica::open(place.room_file("shop")).expect("opens");
    room.collect(&room.vector().expect("a vector")).expect("collects");
    drop(room);
    place.start();
    insert(&b, 4, "written before it came back");
    let own = "CREATE TABLE settings (name TEXT PRIMARY KEY, value); INSERT INTO settings VALUES ('till', 7);
        CREATE INDEX settings_by_value ON settings (value); CREATE VIEW olds AS SELECT * FROM books WHERE title = 'old'";
    b.connection().execute_batch(own).expect("a table of its own");
    let before = b.site_id().expect("an id");
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    assert_eq!(titles(&b).iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 4]);
    assert_ne!(b.site_id().expect("an id"), before);
    let count = |sql: &str| b.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).expect("a number");
    assert_eq!(count("SELECT value FROM settings"), 7);
    assert_eq!(count("SELECT count(*) FROM olds"), 2);
    assert_eq!(count("SELECT count(*) FROM sqlite_schema WHERE name = 'settings_by_value'"), 1);
    // The connection that was open all the time writes as the new replica.
    insert(&b, 5, "after it");
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    assert_eq!(sync(&place, "a.db").state, State::Synced);
    assert_equal(&a, &b);
    assert_eq!(titles(&a).len(), 4);
    assert!(!place.path("b.db.snapshot").exists());
}

/// The server's database was made anew: incompatible, with a way out that keeps unsent work.
#[test]
fn a_room_made_anew_is_joined_by_starting_over() {
    let mut place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    insert(&a, 1, "in the old room");
    let sync = |place: &Place, name: &str| {
        sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs")
    };
    assert_eq!(sync(&place, "a.db").state, State::Synced);
    place.stop();
    for more in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("rooms/shop.db{more}")));
    }
    place.start();
    insert(&b, 2, "in the new room");
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    insert(&a, 3, "never sent");
    let State::Incompatible { reason } = sync(&place, "a.db").state else { panic!("it must not sync") };
    assert!(reason.contains("lineage"), "{reason}");
    a.connection().pragma_update(None, "journal_mode", "DELETE").expect("rollback mode");
    let replayed =
        rejoin_client::start_over(place.path("a.db"), &place.url("shop"), &Options::default(), |_| ());
    assert_eq!(replayed.expect("it starts over").transactions, 2);
    assert_eq!(sync(&place, "a.db").state, State::Synced);
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    assert_eq!(titles(&a).len(), 3);
    assert_equal(&a, &b);
}

/// The way to begin with a database that is too large for a cut: the room is a copy of it, under the same site id at first.
#[test]
fn a_room_may_be_a_copy_of_a_clients_file() {
    let mut place = Place::new();
    let a = place.replica("a.db");
    insert(&a, 1, "first");
    let copy = format!("VACUUM INTO '{}'", place.room_file("shop").display());
    a.connection().execute_batch(&copy).expect("a copy");
    insert(&a, 2, "since then");
    let mut at_a = place.client("a.db", "shop");
    at_a.until_synced();
    let room = Replica::open(place.room_file("shop")).expect("opens");
    assert_ne!(room.site_id().expect("an id"), a.site_id().expect("an id"));
    insert(&room, 3, "in the room's file, by another program");
    eventually("there", || titles(&a).len() == 3);
    at_a.until_synced();
    assert_equal(&a, &room);
    // The other way round, the file is a copy of the room's.
    place.stop();
    std::fs::copy(place.room_file("shop"), place.path("b.db")).expect("a copy");
    place.start();
    let b = Replica::open(place.path("b.db")).expect("opens");
    insert(&b, 4, "in the copy");
    let mut at_b = place.client("b.db", "shop");
    at_b.until_synced();
    eventually("there", || titles(&a).len() == 4);
    assert!(room.verify().expect("verifies").is_clean());
    assert_equal(&a, &b);
}
