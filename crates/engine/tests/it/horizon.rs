//! Collection: what is forgotten below a horizon, and who may still exchange changes.

use crate::util::{Files, ITEMS, assert_equal, int, pull, rows, run};
use rejoin::{
    Checked, Checker, CutRequest, Error, Position, Replica, ReplicaNote, ServerNote, SiteId,
    TransactionFacts, VersionVector,
};

#[track_caller]
fn assert_sound(r: &Replica) {
    assert_eq!(r.verify().unwrap().problems, []);
}

fn tombstones(r: &Replica) -> i64 {
    int(r, "SELECT count(*) FROM crsql_changes WHERE cid = '-1' AND cl % 2 = 0")
}

fn log_rows(r: &Replica) -> i64 {
    int(r, "SELECT count(*) FROM crsql_log")
}

fn collect_all(r: &Replica) -> (u64, u64) {
    let done = r.collect(&r.vector().unwrap()).unwrap();
    (done.tombstones, done.log_rows)
}

const KINDS: &str = "CREATE TABLE a(id INTEGER PRIMARY KEY, x); CREATE TABLE b(id TEXT PRIMARY KEY, x); \
     CREATE TABLE c(id TEXT PRIMARY KEY, x) WITHOUT ROWID; \
     SELECT crsql_as_crr('a'); SELECT crsql_as_crr('b'); SELECT crsql_as_crr('c');";

#[test]
fn tombstones_of_every_kind_of_table_go() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", KINDS), files.open("b.db", KINDS));
    for t in ["a", "b", "c"] {
        run(
            &a,
            &format!(
                "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT INTO {t} SELECT i, i FROM n; \
                 DELETE FROM {t} WHERE id % 2 = 0; DELETE FROM {t} WHERE id = '7'; UPDATE {t} SET x = 0 WHERE id = '9'"
            ),
        );
    }
    pull(&a, &b).unwrap();
    assert_eq!(tombstones(&a), 3 * 201);
    let before = int(&a, "SELECT count(*) FROM crsql_changes") - tombstones(&a);
    let (gone, _) = collect_all(&a);
    assert_eq!((gone, tombstones(&a)), (603, 0));
    assert_eq!(int(&a, "SELECT count(*) FROM crsql_changes"), before);
    assert_sound(&a);
    // Another connection, and the next, see the same.
    let other = files.open("a.db", "");
    assert_eq!(tombstones(&other), 0);
    assert_eq!(other.horizon().unwrap(), a.vector().unwrap());
    // The other replica hears of it with the next changeset.
    run(
        &a,
        "INSERT INTO a VALUES (7, 'again'); INSERT INTO b VALUES ('7', 'again'); INSERT INTO c VALUES ('7', 'again')",
    );
    pull(&a, &b).unwrap();
    assert_eq!((tombstones(&b), b.horizon().unwrap()), (0, a.horizon().unwrap()));
    for t in ["a", "b", "c"] {
        assert_equal(&a, &b, t);
    }
    assert_sound(&b);
}

#[test]
fn what_is_not_acknowledged_stays() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id) VALUES (1), (2)");
    run(&a, "DELETE FROM items WHERE id = 1");
    let horizon = a.vector().unwrap();
    run(&a, "DELETE FROM items WHERE id = 2");
    let done = a.collect(&horizon).unwrap();
    assert_eq!((done.tombstones, tombstones(&a)), (1, 1));
    // What this replica lacks it cannot have acknowledged.
    let mut more = horizon.clone();
    more.insert(SiteId([9; 16]), 4);
    assert!(matches!(a.collect(&more), Err(Error::BelowHorizon { here: true, from: 4, to: 4, .. })));
    assert_eq!(a.horizon().unwrap(), horizon);
    run(&a, "BEGIN");
    assert!(matches!(a.collect(&horizon), Err(Error::State { .. })));
    run(&a, "ROLLBACK");
    // The horizon never falls.
    a.collect(&VersionVector::new()).unwrap();
    assert_eq!(a.horizon().unwrap(), horizon);
}

#[test]
fn overwritten_transactions_become_ranges() {
    let files = Files::new();
    let (a, b, c) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS), files.open("c.db", ITEMS));
    run(&a, "INSERT INTO items(id, name, price, stock) VALUES (1, 'x', 1, 1), (2, 'y', 1, 1)");
    for n in 0..50 {
        run(&a, &format!("UPDATE items SET stock = {n} WHERE id = 1"));
        if n % 10 == 5 {
            run(&b, &format!("INSERT OR REPLACE INTO items(id, name) VALUES (3, '{n}')"));
            pull(&b, &a).unwrap();
        }
    }
    pull(&a, &b).unwrap();
    let (vector, head, at) = (a.vector().unwrap(), a.own_head().unwrap(), a.position().unwrap());
    let (_, gone) = collect_all(&a);
    assert!(gone > 40 && log_rows(&a) < 12, "{gone} gone, {} left", log_rows(&a));
    assert_eq!((a.vector().unwrap(), a.own_head().unwrap(), a.position().unwrap()), (vector, head, at));
    assert_sound(&a);
    drop(a);
    let a = files.open("a.db", "");
    assert_eq!(a.own_head().unwrap(), head);
    assert_eq!(collect_all(&a), (0, 0));
    // Who has nothing at all gets everything; who follows goes on.
    pull(&a, &c).unwrap();
    assert_equal(&a, &c, "items");
    assert_eq!(c.vector().unwrap(), a.vector().unwrap());
    run(&a, "UPDATE items SET stock = 99 WHERE id = 1");
    let tail = a.tail_cut(at, 1 << 20).unwrap().unwrap();
    for r in [&b, &c] {
        r.apply_changeset(&tail.bytes).unwrap();
        assert_equal(&a, r, "items");
        assert_eq!(r.horizon().unwrap(), a.horizon().unwrap());
        assert_sound(r);
    }
    assert_eq!(
        int(&a, "SELECT count(*) FROM crsql_changes WHERE db_version > 0"),
        int(&c, "SELECT count(*) FROM crsql_changes")
    );
}

#[test]
fn the_newest_log_row_stays() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id) VALUES (1); DELETE FROM items");
    let at = a.position().unwrap();
    collect_all(&a);
    assert_eq!((int(&a, "SELECT count(*) FROM crsql_changes"), a.position().unwrap()), (0, at));
    let again = files.open("a.db", "");
    run(&again, "INSERT INTO items(id) VALUES (2)");
    assert!(a.position().unwrap() > at);
    assert_eq!(a.own_head().unwrap().version, 3);
    assert_sound(&a);
}

#[test]
fn a_late_replica_is_refused_both_ways() {
    let files = Files::new();
    let (a, late) = (files.open("a.db", ITEMS), files.open("late.db", ITEMS));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'old'), (2, 'old')");
    pull(&a, &late).unwrap();
    run(&a, "DELETE FROM items WHERE id = 1");
    collect_all(&a);
    run(&late, "UPDATE items SET stock = 5; INSERT INTO items(id, name) VALUES (3, 'new')");
    let nothing = |r: &Replica| (r.vector().unwrap(), rows(r, "SELECT * FROM items"), r.horizon().unwrap());
    let before = (nothing(&a), nothing(&late));
    assert!(matches!(pull(&a, &late), Err(Error::BelowHorizon { here: true, from: 2, to: 2, .. })));
    assert!(matches!(pull(&late, &a), Err(Error::BelowHorizon { here: false, .. })));
    assert!(matches!(a.merge_with(&late), Err(Error::BelowHorizon { .. })));
    let blob = late.changeset_since(0).unwrap();
    let sql = a.connection().query_row("SELECT crsql_apply_changeset(?1)", [blob], |r| r.get::<_, i64>(0));
    assert!(sql.unwrap_err().to_string().contains("start over from a snapshot"));
    assert_eq!((nothing(&a), nothing(&late)), before);
    // It starts over: the row that was deleted stays deleted, what is new comes along.
    let path = files.dir.path().join("snap.db");
    let made = a.snapshot_to(&path, &[]).unwrap();
    assert_eq!(made.horizon, a.horizon().unwrap());
    let fresh = Replica::from_snapshot(&path).unwrap();
    let replayed = late.replay_onto(&fresh).unwrap();
    assert_eq!((replayed.transactions, replayed.changes, replayed.lost), (2, 4, 1));
    assert_eq!(
        rows(&fresh, "SELECT id, stock FROM items"),
        ["Integer(2) Integer(5)", "Integer(3) Integer(0)"]
    );
    assert_sound(&fresh);
    assert_eq!(fresh.own_head().unwrap().version, 1);
    a.merge_with(&fresh).unwrap();
    assert_equal(&a, &fresh, "items");
    // Again there is nothing to replay.
    let again = late.replay_onto(&fresh).unwrap();
    assert_eq!((again.changes, fresh.own_head().unwrap().version), (0, 1));
}

#[test]
fn who_never_had_any_of_it_is_not_late() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'a'), (2, 'a'); DELETE FROM items WHERE id = 1");
    collect_all(&a);
    run(&b, "INSERT INTO items(id, name) VALUES (1, 'b')");
    a.merge_with(&b).unwrap();
    assert_equal(&a, &b, "items");
    assert_eq!((int(&a, "SELECT count(*) FROM items"), b.horizon().unwrap()), (2, a.horizon().unwrap()));
    [&a, &b].into_iter().for_each(assert_sound);
}

#[test]
fn a_tail_tells_of_a_horizon_that_moved() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'a'); DELETE FROM items");
    pull(&a, &b).unwrap();
    let at = a.position().unwrap();
    collect_all(&a);
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'b')");
    let one = a.tail_cut(at, 1 << 20).unwrap().unwrap();
    run(&a, "UPDATE items SET name = 'c'");
    let two = a.tail_cut(one.upto, 1 << 20).unwrap().unwrap();
    b.apply_changeset(&one.bytes).unwrap();
    assert_eq!((b.horizon().unwrap(), tombstones(&b)), (a.horizon().unwrap(), 0));
    assert_equal(&a, &files.open("a.db", ""), "items");
    assert!(two.bytes.len() < one.bytes.len());
    b.apply_changeset(&two.bytes).unwrap();
    assert_equal(&a, &b, "items");
    // The other way the server knows more than the client's own changes tell.
    run(&b, "UPDATE items SET stock = 7");
    let nothing = VersionVector::new();
    let request = CutRequest { own_only: true, ..CutRequest::new(&nothing) };
    let own = b.cut_for(&request).unwrap().unwrap();
    a.apply_changeset(&own.bytes).unwrap();
    assert_equal(&a, &b, "items");
}

#[test]
fn what_waits_for_a_table_is_collected_too() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", KINDS), files.open("b.db", ""));
    run(&a, "INSERT INTO a VALUES (1, 'x'), (2, 'x'); DELETE FROM a WHERE id = 1");
    pull(&a, &b).unwrap();
    assert_eq!((tombstones(&b), collect_all(&a).0), (1, 1));
    run(&a, "INSERT INTO a VALUES (1, 'again')");
    pull(&a, &b).unwrap();
    assert_eq!(tombstones(&b), 0);
    run(&b, "CREATE TABLE a(id INTEGER PRIMARY KEY, x); SELECT crsql_as_crr('a')");
    assert_equal(&a, &b, "a");
    assert_sound(&b);
}

struct Trusting(bool);

impl Checker for Trusting {
    fn transaction(&mut self, _: &TransactionFacts) -> Result<(), rejoin::Refusal> {
        Ok(())
    }

    fn horizon(&mut self, _: &VersionVector) -> bool {
        self.0
    }
}

#[test]
fn a_horizon_is_not_taken_from_anybody() {
    let files = Files::new();
    let (server, client) = (files.open("s.db", ITEMS), files.open("c.db", ITEMS));
    run(&server, "INSERT INTO items(id) VALUES (1); DELETE FROM items");
    pull(&server, &client).unwrap();
    collect_all(&client);
    run(&client, "INSERT INTO items(id) VALUES (2)");
    let bytes = client.changeset_for(&server.vector().unwrap()).unwrap().unwrap();
    assert!(matches!(server.apply_checked(&bytes, &mut Trusting(false)), Err(Error::Changeset { .. })));
    assert_eq!((tombstones(&server), int(&server, "SELECT count(*) FROM items")), (1, 0));
    assert!(matches!(server.apply_checked(&bytes, &mut Trusting(true)), Ok(Checked::Applied(_))));
    assert_eq!((tombstones(&server), int(&server, "SELECT count(*) FROM items")), (0, 1));
    // One that the server has already is no news.
    run(&client, "INSERT INTO items(id) VALUES (3)");
    let bytes = client.changeset_for(&server.vector().unwrap()).unwrap().unwrap();
    assert!(matches!(server.apply_checked(&bytes, &mut Trusting(false)), Ok(Checked::Applied(_))));
}

#[test]
fn a_server_notes_who_has_acknowledged_what() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    assert_eq!((a.acknowledged(0).unwrap(), a.replicas().unwrap()), (None, vec![]));
    run(&a, "INSERT INTO items(id) VALUES (1)");
    let (one, first) = (a.position().unwrap(), a.vector().unwrap());
    run(&a, "INSERT INTO items(id) VALUES (2)");
    let (two, second) = (a.position().unwrap(), a.vector().unwrap());
    run(&a, "INSERT INTO items(id) VALUES (3)");
    let note = |n: u8, upto, seen_ms| ReplicaNote { site: SiteId([n; 16]), upto, seen_ms };
    for note in [note(1, one, 1000), note(2, two, 5000), note(3, two, 6000)] {
        a.remember_replica(&note).unwrap();
    }
    assert_eq!(a.acknowledged(0).unwrap(), Some(first));
    // Who was not seen for long does not hold it up.
    assert_eq!(a.acknowledged(1001).unwrap(), Some(second.clone()));
    a.remember_replica(&note(1, two, 7000)).unwrap();
    assert_eq!(a.acknowledged(0).unwrap(), Some(second));
    a.remember_replica(&note(4, Position::default(), 8000)).unwrap();
    assert_eq!(a.acknowledged(0).unwrap(), Some(VersionVector::new()));
    a.forget_replica(SiteId([4; 16])).unwrap();
    let again = files.open("a.db", "");
    assert_eq!(again.replicas().unwrap(), [note(1, two, 7000), note(2, two, 5000), note(3, two, 6000)]);
    assert_sound(&a);
    // It is nothing for others.
    a.snapshot_to(files.dir.path().join("s.db"), &[]).unwrap();
    let b = Replica::from_snapshot(files.dir.path().join("s.db")).unwrap();
    assert_eq!(b.replicas().unwrap(), []);
}

#[test]
fn row_wise_exchange_is_remembered() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(&a, "INSERT INTO items(id) VALUES (1)");
    pull(&a, &b).unwrap();
    assert!(!a.exchanged_row_wise().unwrap() && !b.exchanged_row_wise().unwrap());
    let change = "INSERT INTO crsql_changes VALUES ('items', crsql_pack_columns(2), 'name', 'x', 1, 1, x'00112233445566778899aabbccddeeff', 1, 0)";
    run(&b, &format!("BEGIN; {change}; ROLLBACK"));
    assert!(!b.exchanged_row_wise().unwrap());
    run(&b, change);
    assert!(b.exchanged_row_wise().unwrap() && files.open("b.db", "").exchanged_row_wise().unwrap());
    // Whoever gets it from there natively has nothing to do with it.
    pull(&b, &a).unwrap();
    assert!(!a.exchanged_row_wise().unwrap());
}

#[test]
fn a_fork_takes_its_versions_out_of_the_horizon() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'common')");
    let site = a.site_id().unwrap();
    run(
        &a,
        "UPDATE items SET name = 'mine'; INSERT INTO items(id) VALUES (2); DELETE FROM items WHERE id = 2",
    );
    collect_all(&a);
    a.give_way(site, 1).unwrap();
    assert_eq!(a.horizon().unwrap().max(&site), 1);
    assert!(a.vector().unwrap().covers(&a.horizon().unwrap()));
    assert_sound(&a);
    let b = files.open("b.db", ITEMS);
    pull(&a, &b).unwrap();
    assert_equal(&a, &b, "items");
}

/// The room was restored from before the deletion, and the replica has collected it meanwhile.
#[test]
fn an_old_snapshot_does_not_bring_back_what_was_deleted_and_forgotten() {
    let schema = "CREATE TABLE shop(name TEXT COLLATE NOCASE PRIMARY KEY, city TEXT); \
         CREATE TABLE stock(shop TEXT COLLATE NOCASE, book INTEGER, n INTEGER, PRIMARY KEY (shop, book)) WITHOUT ROWID; \
         SELECT crsql_as_crr('shop'); SELECT crsql_as_crr('stock');";
    let files = Files::new();
    let (room, a) = (files.open("room.db", schema), files.open("a.db", schema));
    run(&a, "INSERT INTO shop VALUES ('North', 'x'), ('south', 'y'), ('East', 'z'), ('west', 'v')");
    run(&a, "INSERT INTO stock VALUES ('North', 1, 5), ('North', 2, 5), ('south', 1, 7), ('west', 1, 8)");
    pull(&a, &room).unwrap();
    let path = files.dir.path().join("snap.db");
    room.snapshot_to(&path, &[]).unwrap();
    let snapshot = Replica::from_snapshot(&path).unwrap();
    let (url, site, lineage) = ("ws://room".into(), room.site_id().unwrap(), room.make_lineage().unwrap());
    a.set_lineage(lineage).unwrap();
    a.remember_server(&ServerNote { url, site, lineage, acknowledged: a.vector().unwrap(), relay: true })
        .unwrap();
    // What the snapshot has of its own is nobody's to delete.
    run(&snapshot, "INSERT INTO shop VALUES ('own', ''); UPDATE stock SET n = 9 WHERE shop = 'west'");
    run(
        &a,
        "DELETE FROM stock WHERE shop IN ('North', 'west'); DELETE FROM shop WHERE name IN ('north', 'WEST')",
    );
    run(&a, "UPDATE shop SET city = 'new' WHERE name = 'East'; DELETE FROM stock WHERE shop = 'south'");
    collect_all(&a);
    assert_eq!(tombstones(&a), 0);
    // This deletion is remembered, and comes along as one.
    run(&a, "DELETE FROM shop WHERE name = 'south'");
    let replayed = a.replay_onto(&snapshot).unwrap();
    assert_eq!(replayed.deleted, 5, "two shops, and the stock of all but the one that was written to");
    assert_eq!(rows(&snapshot, "SELECT name, city FROM shop ORDER BY 1").len(), 2);
    assert_eq!(rows(&snapshot, "SELECT n FROM stock"), ["Integer(9)"]);
    assert_sound(&snapshot);
    // The room hears of it as of any deletion.
    pull(&snapshot, &room).unwrap();
    for table in ["shop", "stock"] {
        assert_equal(&snapshot, &room, table);
    }
    assert_eq!(a.replay_onto(&snapshot).unwrap().deleted, 0);
}
