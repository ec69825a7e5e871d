//! Point 3 of what shops suffered from: a server that was restored from an old backup. Its clients fill it again, as far as they
//! may; as long as something is missing that only others may hand in, nobody is green.

use crate::trust::{AUTH, MAY_ALL, SECRET, token, with};
use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Options, State, Token, sync_once};

fn sync(place: &Place, name: &str) {
    let report = sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it syncs");
    assert_eq!((report.state, report.pending), (State::Synced, 0), "{name}");
}

/// The room's file as it is now, while no server runs.
fn backup(place: &mut Place) -> Vec<u8> {
    place.stop();
    let copy = std::fs::read(place.room_file("shop")).expect("the room's file");
    place.start();
    copy
}

fn restore(place: &mut Place, copy: &[u8]) {
    place.stop();
    for more in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("rooms/shop.db{more}")));
    }
    std::fs::write(place.room_file("shop"), copy).expect("restored");
    place.start();
}

fn ids(replica: &Replica) -> Vec<i64> {
    titles(replica).iter().map(|t| t.0).collect()
}

#[test]
fn without_relay_nobody_is_green_who_knows_what_a_vanished_replica_wrote() {
    let mut place = Place::with(AUTH, &[("secret", SECRET)]);
    let [a, b] = ["a.db", "b.db"].map(|name| place.replica(name));
    let sync = |place: &Place, name: &str, subject: &str, claims: &str| {
        let token = Token::Fixed(token(subject, 600, claims));
        sync_once(place.path(name), &place.url("shop"), with(token)).expect("it ends")
    };
    insert(&a, 1, "before the backup");
    assert_eq!(sync(&place, "a.db", "ann", MAY_ALL).state, State::Synced);
    let copy = backup(&mut place);
    insert(&a, 2, "a's own");
    insert(&b, 3, "of one who will vanish");
    for (name, subject) in [("a.db", "ann"), ("b.db", "bob"), ("a.db", "ann")] {
        assert_eq!(sync(&place, name, subject, MAY_ALL).state, State::Synced, "{name}");
    }
    restore(&mut place, &copy);
    // Its own come back, the other's may not; the state says so, and stays so.
    for _ in 0..2 {
        let report = sync(&place, "a.db", "ann", "");
        let State::Behind { pending: 0, reason } = report.state else { panic!("{report:?}") };
        assert!(reason.contains("lacks 1 transaction") && reason.contains("relay"), "{reason}");
        let room = Replica::open(place.room_file("shop")).expect("opens");
        assert_eq!(ids(&room), [1, 2]);
    }
    // Who never knew of it is green, and so is the one who wrote it when it comes back.
    let c = place.replica("c.db");
    assert_eq!(sync(&place, "c.db", "cem", "").state, State::Synced);
    assert_eq!(ids(&c), [1, 2]);
    let found = restored_by_owner_or_relay(&mut place, &a, sync);
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(sync(&place, "c.db", "cem", "").state, State::Synced);
    assert_equal(&a, &c);
}

/// Two ways out: somebody with the claim `relay` hands it in; or its owner, who was only away.
fn restored_by_owner_or_relay(
    place: &mut Place,
    a: &Replica,
    sync: impl Fn(&Place, &str, &str, &str) -> rejoin_client::Report,
) -> Vec<i64> {
    let before = backup(place);
    assert_eq!(sync(place, "b.db", "bob", "").state, State::Synced);
    assert_eq!(sync(place, "a.db", "ann", "").state, State::Synced);
    restore(place, &before);
    let report = sync(place, "a.db", "ann", "");
    assert_eq!(report.state.name(), "behind", "{report:?}");
    assert_eq!(sync(place, "a.db", "ann", r#", "relay": true"#).state, State::Synced);
    assert_eq!(sync(place, "a.db", "ann", "").state, State::Synced);
    let room = Replica::open(place.room_file("shop")).expect("opens");
    assert_equal(a, &room);
    ids(&room)
}

/// The server's own transactions are a case of their own: it must not use the numbers again that it has lost.
#[test]
fn a_restored_room_goes_on_under_a_new_site_id() {
    let mut place = Place::new();
    let a = place.replica("a.db");
    insert(&a, 1, "from a client");
    sync(&place, "a.db");
    let copy = backup(&mut place);
    let write = |place: &Place, id: i64, title: &str| {
        let room = Replica::open(place.room_file("shop")).expect("opens");
        insert(&room, id, title);
        room.site_id().expect("an id")
    };
    let before = write(&place, 2, "in the room's file, by another program");
    sync(&place, "a.db");
    assert_eq!(ids(&a), [1, 2]);
    restore(&mut place, &copy);
    let mut at_a = place.client("a.db", "shop");
    at_a.until_synced();
    let room = Replica::open(place.room_file("shop")).expect("opens");
    let after = write(&place, 3, "and went on");
    assert_ne!(after, before);
    eventually("there", || ids(&a) == [1, 2, 3] && ids(&room) == [1, 2, 3]);
    at_a.until_synced();
    assert_equal(&a, &room);
    // A newcomer gets all of it.
    let b = place.replica("b.db");
    sync(&place, "b.db");
    assert_equal(&a, &b);
}

/// It was written to before anybody came, under numbers that it has used already. No vector tells of that: the histories do.
/// Once the room has as much of its own as the client, once less, and once the client is connected only later.
#[test]
fn a_restored_room_that_wrote_on_under_its_old_id() {
    for lost in [1, 3] {
        let mut place = Place::new();
        let [a, b] = ["a.db", "b.db"].map(|name| place.replica(name));
        insert(&a, 1, "from a client");
        let write = |place: &Place, id: i64, title: &str| {
            let room = Replica::open(place.room_file("shop")).expect("opens");
            insert(&room, id, title);
        };
        sync(&place, "a.db");
        write(&place, 2, "in the room's file, by another program");
        sync(&place, "a.db");
        let copy = backup(&mut place);
        (0..lost).for_each(|n| write(&place, 10 + n, "lost by the server"));
        sync(&place, "a.db");
        sync(&place, "b.db");
        restore(&mut place, &copy);
        // As many, or more, than it has lost.
        (0..3).for_each(|n| write(&place, 20 + n, "after it was restored"));
        insert(&a, 3, "unsent");
        for name in ["a.db", "b.db", "a.db", "b.db"] {
            sync(&place, name);
        }
        let all: Vec<i64> = (1..=3).chain((0..lost).map(|n| 10 + n)).chain(20..23).collect();
        assert_eq!(ids(&a), all);
        assert_equal(&a, &b);
        let room = Replica::open(place.room_file("shop")).expect("opens");
        assert_equal(&a, &room);
        write(&place, 30, "and on");
        sync(&place, "a.db");
        assert_eq!(ids(&a).last(), Some(&30));
    }
}

/// The backup is older than what everybody has acknowledged and forgotten. The clients start over from it and put back all that it
/// lacks; what was deleted since is deleted again, though no tombstone is left of it.
#[test]
fn a_room_restored_from_before_what_its_clients_have_forgotten() {
    let mut place = Place::new();
    let [a, b, c] = ["a.db", "b.db", "c.db"].map(|name| place.replica(name));
    (1..=4).for_each(|id| insert(&a, id, "before the backup"));
    for name in ["a.db", "b.db", "c.db"] {
        sync(&place, name);
    }
    let copy = backup(&mut place);
    let run = |replica: &Replica, sql: &str| replica.connection().execute_batch(sql).expect("sql");
    run(&a, "DELETE FROM books WHERE id = 2; UPDATE books SET stock = 3 WHERE id = 1");
    run(
        &b,
        "UPDATE books SET title = 'edited' WHERE id = 3; INSERT INTO books (id, title) VALUES (5, 'new')",
    );
    for name in ["a.db", "b.db", "a.db"] {
        sync(&place, name);
    }
    let room = Replica::open(place.room_file("shop")).expect("opens");
    room.collect(&room.vector().expect("a vector")).expect("collects");
    drop(room);
    // They hear of it with the next change; one was away and has forgotten nothing.
    insert(&b, 6, "and on");
    sync(&place, "b.db");
    run(&a, "UPDATE books SET stock = 4 WHERE id = 1");
    for name in ["a.db", "b.db"] {
        sync(&place, name);
    }
    let tombstones = "SELECT count(*) FROM crsql_changes WHERE cid = '-1' AND cl % 2 = 0";
    for replica in [&a, &b] {
        let left = replica.connection().query_row(tombstones, [], |r| r.get::<_, i64>(0));
        assert_eq!(left, Ok(0));
    }
    restore(&mut place, &copy);
    insert(&a, 7, "unsent");
    run(&b, "UPDATE books SET stock = 9 WHERE id = 4");
    insert(&c, 8, "of one who was away");
    for name in ["a.db", "c.db", "b.db", "a.db", "c.db", "b.db"] {
        sync(&place, name);
    }
    assert_eq!(ids(&a), [1, 3, 4, 5, 6, 7, 8]);
    let one = |sql: &str| a.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).expect("a number");
    assert_eq!(one("SELECT stock FROM books WHERE id = 1"), 4);
    assert_eq!(one("SELECT stock FROM books WHERE id = 4"), 9);
    assert_eq!(one("SELECT count(*) FROM books WHERE title = 'edited'"), 1);
    let room = Replica::open(place.room_file("shop")).expect("opens");
    [&b, &c, &room].iter().for_each(|r| assert_equal(&a, r));
}

/// Point 4 of what shops suffered from: export and import of the database as one ordinary SQLite file. The copy that is
/// imported goes on as a replica of its own, and so does one that was copied byte for byte, at the latest when both write.
#[test]
fn an_exported_file_is_ordinary_and_an_imported_one_a_replica_of_its_own() {
    let place = Place::new();
    let a = place.replica("a.db");
    insert(&a, 1, "exported");
    sync(&place, "a.db");
    insert(&a, 2, "exported, and not sent yet");
    let export = place.path("export.db");
    a.connection().execute("VACUUM INTO ?1", [export.to_str()]).expect("a copy");
    // Any SQLite reads it.
    let plain = rusqlite::Connection::open(&export).expect("opens");
    let rows = plain.query_row("SELECT group_concat(title, '; ') FROM books", [], |r| r.get::<_, String>(0));
    assert_eq!(rows.as_deref(), Ok("exported; exported, and not sent yet"));
    assert_eq!(plain.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).as_deref(), Ok("ok"));
    drop(plain);
    a.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    std::fs::copy(place.path("a.db"), place.path("copied.db")).expect("copied");
    let replicas = ["export.db", "copied.db"].map(|name| Replica::open(place.path(name)).expect("opens"));
    for (replica, id) in replicas.iter().zip([3, 4]) {
        insert(replica, id, "by the copy");
    }
    insert(&a, 5, "by the original");
    for name in ["a.db", "export.db", "copied.db", "a.db", "export.db", "copied.db", "a.db", "export.db"] {
        sync(&place, name);
    }
    assert_eq!(ids(&a), [1, 2, 3, 4, 5]);
    let sites = [&a, &replicas[0], &replicas[1]].map(|r| r.site_id().expect("an id"));
    assert!(sites[0] != sites[1] && sites[1] != sites[2] && sites[0] != sites[2], "{sites:?}");
    replicas.iter().for_each(|r| assert_equal(&a, r));
}

/// The copy has what the server has rejected meanwhile: it is rejected once more.
#[test]
fn a_client_restored_from_before_a_rejection_has_what_the_others_have() {
    const POLICY: &str = "[[policy]]\ntable = 'books'\non = 'any'\nrequire = \"new.title <> 'banned'\"\nmessage = 'a banned title'\n";
    let place = Place::with(POLICY, &[]);
    let a = place.replica("a.db");
    insert(&a, 1, "one");
    sync(&place, "a.db");
    insert(&a, 2, "banned");
    insert(&a, 3, "three");
    drop(a);
    std::fs::copy(place.path("a.db"), place.path("copy.db")).expect("a backup");
    let report = sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it ends");
    assert_eq!(report.state.name(), "rejected");
    let a = Replica::open(place.path("a.db")).expect("opens");
    let version = a.rejected().expect("readable")[0].version;
    assert_eq!(ids(&a), [1, 3]);
    let a_site = a.site_id().expect("an id");
    a.drop_rejected(version, None).expect("dropped");
    drop(a);
    sync(&place, "a.db");
    // What it wrote is the copy's own now, under another site id, and is judged again.
    let report = sync_once(place.path("copy.db"), &place.url("shop"), Options::default()).expect("it ends");
    assert_eq!((report.state.name(), report.pending), ("rejected", 0));
    // Who starts over keeps it.
    rejoin_client::start_over(place.path("copy.db"), &place.url("shop"), &Options::default(), |_| ())
        .expect("it starts over");
    let copy = Replica::open(place.path("copy.db")).expect("opens");
    let again = copy.rejected().expect("readable")[0].clone();
    assert!(again.site != a_site && again.code == "policy", "{again:?}");
    copy.drop_rejected(again.version, Some(again.site)).expect("dropped");
    sync(&place, "copy.db");
    sync(&place, "a.db");
    let a = Replica::open(place.path("a.db")).expect("opens");
    assert_eq!(ids(&copy), [1, 3]);
    assert_equal(&a, &copy);
}
