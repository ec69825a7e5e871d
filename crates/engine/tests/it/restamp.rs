//! A clock that was wrong, in both directions.

use crate::adopt::room::{Policy, ask, clean, pull, push, sync};
use crate::util::{Files, ITEMS, assert_equal, int, rows, run};
use rejoin::{Error, Replica, VersionVector};
use rejoin_crdt::hlc;

const NOW: i64 = 1_800_000_000_000;
const YEAR: i64 = 365 * 86_400_000;

fn now() -> i64 {
    NOW
}

fn ahead() -> i64 {
    NOW + YEAR
}

fn behind() -> i64 {
    NOW - YEAR
}

fn allow() -> Policy<'static> {
    Policy { refuses: &|_| false }
}

fn open(files: &Files, name: &str, clock: fn() -> i64) -> Replica {
    let r = files.open(name, "");
    r.set_clock(clock).unwrap();
    run(&r, ITEMS);
    r
}

fn latest_ms(r: &Replica) -> i64 {
    hlc::unix_ms(int(r, "SELECT max(col_version) FROM crsql_changes"))
}

/// What a session does after the handshake.
fn correct(client: &Replica, server: &Replica) {
    let offset = server.now_ms().unwrap() - client.now_ms().unwrap();
    let wanted = client.restamp(&server.vector().unwrap(), offset).unwrap();
    clean(client);
    assert_eq!(client.rows_wanted().unwrap(), wanted);
    ask(client, server);
    assert_eq!(client.rows_wanted().unwrap(), []);
}

#[test]
fn a_clock_a_year_ahead_is_set_right_and_nothing_wins_for_it() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", ahead), open(&files, "server.db", now));
    let other = open(&files, "other.db", now);
    run(&other, "INSERT INTO items VALUES (1, 'pen', 1.5, 10), (2, 'ink', 3.0, 4)");
    sync(&other, &server, &mut allow());
    pull(&server, &client);
    run(
        &client,
        "UPDATE items SET name = 'mine' WHERE id = 1; INSERT INTO items(id, name) VALUES (3, 'cup')",
    );
    run(&client, "UPDATE items SET name = 'again' WHERE id = 1; DELETE FROM items WHERE id = 2");
    // Later than any of these, by the right clock: it loses here against stamps of the future.
    run(&other, "UPDATE items SET name = 'theirs' WHERE id = 1");
    let theirs = int(&other, "SELECT max(col_version) FROM crsql_changes");
    sync(&other, &server, &mut allow());
    pull(&server, &client);
    assert_eq!(int(&client, "SELECT count(*) FROM items WHERE name = 'again'"), 1);
    let before = server.vector().unwrap();
    let cut = client.changeset_for(&before).unwrap().unwrap();
    assert!(matches!(server.apply_checked(&cut, &mut allow()), Err(Error::Clock { .. })));
    correct(&client, &server);
    assert_eq!(client.clock_offset_ms().unwrap(), -YEAR);
    assert_eq!(client.now_ms().unwrap(), NOW);
    assert_eq!(latest_ms(&client), NOW);
    sync(&client, &server, &mut allow());
    sync(&other, &server, &mut allow());
    clean(&server);
    for r in [&client, &other] {
        assert_equal(r, &server, "items");
        assert_eq!(r.vector().unwrap(), server.vector().unwrap());
    }
    assert_eq!(int(&server, "SELECT count(*) FROM items WHERE id = 2"), 0);
    // What the client writes from here on is minted by the right time, also after the file was opened anew.
    drop(client);
    let client = files.open("client.db", "");
    client.set_clock(ahead).unwrap();
    run(&client, "UPDATE items SET name = 'new' WHERE id = 1");
    assert!(int(&client, "SELECT max(col_version) FROM crsql_changes") > theirs);
    assert_eq!(latest_ms(&client), NOW);
    sync(&client, &server, &mut allow());
    assert_eq!(int(&server, "SELECT count(*) FROM items WHERE name = 'new'"), 1);
}

#[test]
fn a_clock_a_year_behind_is_set_right_and_nothing_loses_for_it() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", behind), open(&files, "server.db", now));
    run(&client, "INSERT INTO items VALUES (1, 'pen', 1.5, 10)");
    run(&client, "UPDATE items SET name = 'second' WHERE id = 1");
    let order = |r: &Replica| rows(r, "SELECT cid, val FROM crsql_changes ORDER BY col_version, seq");
    let before = order(&client);
    correct(&client, &server);
    assert_eq!((client.clock_offset_ms().unwrap(), latest_ms(&client)), (YEAR, NOW));
    assert_eq!(order(&client), before);
    sync(&client, &server, &mut allow());
    assert_equal(&client, &server, "items");
    // A replica that had seen the right time minted above it: nothing may come to lie in the future.
    let late = open(&files, "late.db", behind);
    late.connection().execute_batch("SELECT crsql_config_set('drift-ms', 100000000000)").unwrap();
    pull(&server, &late);
    run(&late, "UPDATE items SET name = 'third' WHERE id = 1; UPDATE items SET stock = 11 WHERE id = 1");
    let above = int(&late, "SELECT max(col_version) FROM crsql_changes");
    correct(&late, &server);
    assert!(int(&late, "SELECT max(col_version) FROM crsql_changes") <= above);
    assert_eq!(latest_ms(&late), NOW);
    assert!(push(&late, &server, &mut allow()).is_none());
    assert_equal(&late, &server, "items");
    assert_eq!(int(&server, "SELECT count(*) FROM items WHERE name = 'third' AND stock = 11"), 1);
}

#[test]
fn a_clock_that_was_ahead_and_was_set_right_before_anybody_saw_it() {
    let files = Files::new();
    let server = open(&files, "server.db", now);
    let client = open(&files, "client.db", ahead);
    run(&client, "INSERT INTO items VALUES (1, 'pen', 1.5, 10); UPDATE items SET stock = 9");
    drop(client);
    let client = files.open("client.db", "");
    client.set_clock(now).unwrap();
    run(&client, "UPDATE items SET stock = 8");
    assert_eq!(client.own_head().unwrap().clock_ms, NOW + YEAR);
    correct(&client, &server);
    assert_eq!((client.own_head().unwrap().clock_ms, latest_ms(&client)), (NOW, NOW));
    assert_eq!(client.clock_offset_ms().unwrap(), 0);
    sync(&client, &server, &mut allow());
    assert_equal(&client, &server, "items");
    assert_eq!(int(&server, "SELECT stock FROM items"), 8);
}

#[test]
fn only_what_is_unsent_is_stamped_anew_and_the_chain_goes_on() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", now), open(&files, "server.db", now));
    run(&client, "INSERT INTO items(id, stock) VALUES (1, 1), (2, 2)");
    sync(&client, &server, &mut allow());
    let sent = rows(&client, "SELECT hex(pk), cid, col_version FROM crsql_changes WHERE cid <> 'name'");
    let copy = || {
        let c = client.changeset_for(&VersionVector::new()).unwrap().unwrap();
        let reader = rejoin_wire::Reader::open(&c).unwrap();
        let mut all: Vec<_> =
            reader.transactions().iter().map(|t| (t.version, t.nonce, t.chain, t.clock)).collect();
        all.sort_unstable();
        all
    };
    run(&client, "UPDATE items SET name = 'x' WHERE id = 1; UPDATE items SET name = 'y' WHERE id = 2");
    let before = copy();
    let second = files.open("client.db", "");
    second.set_clock(now).unwrap();
    assert_eq!(int(&second, "SELECT count(*) FROM items"), 2);
    let wanted = client.restamp(&server.vector().unwrap(), -30_000).unwrap();
    assert_eq!(wanted.len(), 2);
    clean(&client);
    let after = copy();
    assert_eq!(before[0], after[0]);
    for (old, new) in before.iter().zip(&after).skip(1) {
        assert!(old.0 == new.0 && old.1 != new.1 && old.2 != new.2 && new.3 <= old.3, "{old:?} {new:?}");
    }
    assert!(
        sent.iter()
            .all(|cell| rows(&client, "SELECT hex(pk), cid, col_version FROM crsql_changes").contains(cell))
    );
    // Another connection of the file goes on from the new end of the chain.
    run(&second, "UPDATE items SET name = 'z' WHERE id = 2");
    clean(&second);
    assert!(push(&client, &server, &mut allow()).is_none());
    clean(&server);
    assert_equal(&client, &server, "items");
    // Asked for after a crash, the rows are still known; merged again, nothing changes.
    assert_eq!(client.rows_wanted().unwrap(), wanted);
    ask(&client, &server);
    assert_eq!(client.rows_wanted().unwrap(), []);
    let states = server.row_states(&wanted).unwrap();
    assert_eq!(client.merge_rows(&states).unwrap(), 0);
    let version = client.db_version().unwrap();
    assert_eq!(client.merge_rows(&states).unwrap(), 0);
    assert_eq!(client.db_version().unwrap(), version);
}

#[test]
fn an_offset_without_unsent_work_is_only_kept() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", behind), open(&files, "server.db", now));
    assert_eq!(client.restamp(&server.vector().unwrap(), YEAR).unwrap(), []);
    assert_eq!(client.now_ms().unwrap(), NOW);
    run(&client, "INSERT INTO items(id) VALUES (1)");
    assert_eq!(latest_ms(&client), NOW);
    client.set_clock_offset_ms(0).unwrap();
    assert_eq!(client.now_ms().unwrap(), NOW - YEAR);
    let lamport = open(&files, "lamport.db", ahead);
    run(
        &lamport,
        "SELECT crsql_config_set('clock', 'lamport'); INSERT INTO items(id) VALUES (1); UPDATE items SET stock = 2",
    );
    let before = rows(&lamport, "SELECT cid, col_version FROM crsql_changes");
    lamport.restamp(&VersionVector::new(), -YEAR).unwrap();
    clean(&lamport);
    assert_eq!(rows(&lamport, "SELECT cid, col_version FROM crsql_changes"), before);
}

#[test]
fn what_stands_around_a_void_transaction_keeps_its_place() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", ahead), open(&files, "server.db", now));
    for n in 1..=5 {
        run(&client, &format!("INSERT INTO items(id, name) VALUES ({n}, 'row')"));
    }
    let row = rejoin::RowKey { table: "items".into(), pk: vec![1, 9, 3] };
    let (site, states) = (client.site_id().unwrap(), server.row_states(std::slice::from_ref(&row)).unwrap());
    let (code, reason) = ("policy".into(), "no".into());
    let rejection = rejoin::Rejection { site, version: 3, code, reason, row: Some(row) };
    let adopted = client.adopt(&[rejection], &[&states]).unwrap();
    // The server hears of the void one, and of nothing else before the clock is set right.
    server.void(&adopted.voids).unwrap();
    correct(&client, &server);
    sync(&client, &server, &mut allow());
    assert_equal(&client, &server, "items");
    assert_eq!(int(&server, "SELECT count(*) FROM items"), 4);
    clean(&client);
    clean(&server);
}

#[test]
fn what_gave_way_to_another_history_is_stamped_anew_with_its_cells() {
    let files = Files::new();
    let (client, server) = (open(&files, "client.db", ahead), open(&files, "server.db", now));
    run(&client, "INSERT INTO items VALUES (1, 'pen', 1.5, 10); UPDATE items SET stock = 9");
    let former = client.site_id().unwrap();
    client.give_way(former, 0).unwrap();
    assert_ne!(client.site_id().unwrap(), former);
    run(&client, "UPDATE items SET stock = 8");
    assert_eq!(latest_ms(&client), NOW + YEAR);
    correct(&client, &server);
    assert_eq!(latest_ms(&client), NOW);
    pull(&client, &server);
    assert_equal(&client, &server, "items");
    assert_eq!(int(&server, "SELECT stock FROM items"), 8);
    clean(&client);
    clean(&server);
}
