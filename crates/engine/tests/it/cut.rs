//! What sync sessions ask of a replica: cuts, heads, lineage, and what is known of the server.

use crate::util::{Files, ITEMS, assert_equal, int, pull, run};
use rejoin::{Cut, CutRequest, Error, Position, Replica, ServerNote, SiteId, VersionVector};

fn cut_for(from: &Replica, theirs: &VersionVector) -> Option<Cut> {
    from.cut_for(&CutRequest::new(theirs)).unwrap()
}

fn own_cut(from: &Replica, theirs: &VersionVector) -> Option<Cut> {
    from.cut_for(&CutRequest { own_only: true, ..CutRequest::new(theirs) }).unwrap()
}

fn note(server: &Replica) -> ServerNote {
    ServerNote {
        url: "ws://127.0.0.1:1/shop".into(),
        site: server.site_id().unwrap(),
        lineage: [7; 16],
        acknowledged: server.vector().unwrap(),
        relay: false,
    }
}

#[test]
fn a_cut_says_what_it_brings() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(
        &a,
        "INSERT INTO items(id) VALUES (1); INSERT INTO items(id) VALUES (2); UPDATE items SET name = 'x' WHERE id = 1",
    );
    let cut = cut_for(&a, &b.vector().unwrap()).unwrap();
    assert_eq!((cut.transactions, cut.brings == a.vector().unwrap(), cut.oversized), (3, true, false));
    assert_eq!(cut.upto, a.position().unwrap());
    b.apply_changeset(&cut.bytes).unwrap();
    assert_equal(&a, &b, "items");
    assert_eq!(cut_for(&a, &b.vector().unwrap()), None);
    let nothing = VersionVector::new();
    let request = CutRequest { bytes_max: cut.bytes.len() as u64 - 1, ..CutRequest::new(&nothing) };
    assert!(a.cut_for(&request).unwrap().unwrap().oversized);
}

#[test]
fn the_tail_is_cut_once_for_all() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    assert_eq!(a.tail_cut(Position::default(), 1 << 20).unwrap(), None);
    run(&a, "INSERT INTO items(id) VALUES (1)");
    let first = a.tail_cut(Position::default(), 1 << 20).unwrap().unwrap();
    run(&a, "UPDATE items SET name = 'x'; UPDATE items SET name = 'y'");
    let second = a.tail_cut(first.upto, 1 << 20).unwrap().unwrap();
    assert_eq!((first.transactions, second.transactions), (1, 2));
    assert_eq!(a.tail_cut(second.upto, 1 << 20).unwrap(), None);
    // The second builds on the first.
    assert!(matches!(b.apply_changeset(&second.bytes), Err(Error::Gap { from: 1, to: 1, .. })));
    b.apply_changeset(&first.bytes).unwrap();
    b.apply_changeset(&second.bytes).unwrap();
    assert_equal(&a, &b, "items");
    // An empty range from a peer is a part of the tail too, though no version of the file moves.
    let (c, at) = (files.open("c.db", ITEMS), a.position().unwrap());
    run(
        &c,
        "BEGIN; INSERT INTO items(id) VALUES (1); COMMIT; DELETE FROM items; INSERT INTO items(id, name) VALUES (1, 'c')",
    );
    pull(&c, &a).unwrap();
    let third = a.tail_cut(at, 1 << 20).unwrap().unwrap();
    assert_eq!(third.transactions, 3);
    b.apply_changeset(&third.bytes).unwrap();
    assert_equal(&a, &b, "items");
    assert_eq!(a.tail_cut(third.upto, 1 << 20).unwrap(), None);
}

#[test]
fn an_own_cut_has_nothing_of_others() {
    let files = Files::new();
    let (a, b, s) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS), files.open("s.db", ITEMS));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'a'), (2, 'a')");
    pull(&a, &b).unwrap();
    run(&b, "UPDATE items SET name = 'b' WHERE id = 1; INSERT INTO items(id) VALUES (3)");
    pull(&b, &a).unwrap();
    let cut = own_cut(&a, &s.vector().unwrap()).unwrap();
    assert_eq!((cut.transactions, cut.brings.iter().count()), (1, 1));
    s.apply_changeset(&cut.bytes).unwrap();
    // Row 1 has no name yet: that of A was overwritten by B's, which A does not hand on.
    assert_eq!(int(&s, "SELECT count(*) FROM items WHERE id = 1 AND name IS NULL"), 1);
    assert_eq!(own_cut(&a, &s.vector().unwrap()), None);
    s.apply_changeset(&own_cut(&b, &s.vector().unwrap()).unwrap().bytes).unwrap();
    assert_equal(&a, &s, "items");
    assert_eq!(s.vector().unwrap(), a.vector().unwrap());
}

#[test]
fn heads_and_chains() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    let fresh = a.own_head().unwrap();
    assert_eq!((fresh.site, fresh.version, fresh.chain), (a.site_id().unwrap(), 0, 0));
    run(&a, "INSERT INTO items(id) VALUES (1)");
    let one = a.own_head().unwrap();
    run(&a, "INSERT INTO items(id) VALUES (2)");
    let two = a.own_head().unwrap();
    assert_eq!((one.version, two.version), (1, 2));
    assert_eq!(a.chain_at(one.site, 1).unwrap(), Some(one.chain));
    assert_eq!(a.chain_at(one.site, 2).unwrap(), Some(two.chain));
    assert_eq!(a.chain_at(one.site, 3).unwrap(), None);
    assert_eq!(a.chain_at(SiteId([9; 16]), 1).unwrap(), None);
}

#[test]
fn a_database_has_one_lineage() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    assert_eq!(a.lineage().unwrap(), None);
    let made = a.make_lineage().unwrap();
    assert_eq!((a.make_lineage().unwrap(), a.lineage().unwrap()), (made, Some(made)));
    b.set_lineage(made).unwrap();
    b.set_lineage(made).unwrap();
    assert!(matches!(b.set_lineage([1; 16]), Err(Error::OtherLineage { .. })));
    drop(b);
    let b = files.open("b.db", "");
    assert_eq!(b.lineage().unwrap(), Some(made));
    run(&b, "BEGIN");
    assert!(b.set_lineage([1; 16]).is_err());
    run(&b, "ROLLBACK");
    let c = files.open("c.db", ITEMS);
    run(&c, "BEGIN");
    c.set_lineage(made).unwrap();
    run(&c, "ROLLBACK");
    assert_eq!(c.lineage().unwrap(), None);
}

#[test]
fn pending_is_what_the_server_has_not_acknowledged() {
    let files = Files::new();
    let (a, s) = (files.open("a.db", ITEMS), files.open("s.db", ITEMS));
    assert_eq!((a.server().unwrap(), a.pending().unwrap().transactions), (None, 0));
    run(&a, "INSERT INTO items(id) VALUES (1); INSERT INTO items(id) VALUES (2)");
    assert_eq!(a.pending().unwrap().transactions, 2);
    a.remember_server(&note(&s)).unwrap();
    assert_eq!((a.server().unwrap(), a.pending().unwrap().transactions), (Some(note(&s)), 2));
    assert!(a.pending().unwrap().bytes > 0);
    // Applied and not acknowledged is pending.
    pull(&s, &a).unwrap();
    s.apply_changeset(&cut_for(&a, &s.vector().unwrap()).unwrap().bytes).unwrap();
    assert_eq!(a.pending().unwrap().transactions, 2);
    a.remember_server(&note(&s)).unwrap();
    drop(a);
    let a = files.open("a.db", "");
    assert_eq!((a.server().unwrap(), a.pending().unwrap()), (Some(note(&s)), rejoin::Pending::default()));
    // What others wrote is not ours to send.
    run(&s, "INSERT INTO items(id) VALUES (3)");
    pull(&s, &a).unwrap();
    assert_eq!(a.pending().unwrap().transactions, 0);
    a.forget_server().unwrap();
    assert_eq!((a.server().unwrap(), a.pending().unwrap().transactions), (None, 2));
}

const TWO: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT); \
     SELECT crsql_as_crr('items'); SELECT crsql_as_crr('notes');";

#[test]
fn others_get_nothing_before_the_server() {
    let files = Files::new();
    let (a, b, s) = (files.open("a.db", TWO), files.open("b.db", TWO), files.open("s.db", TWO));
    run(&s, "INSERT INTO items VALUES (1, 's'); INSERT INTO notes VALUES (1, 's')");
    pull(&s, &a).unwrap();
    a.remember_server(&note(&s)).unwrap();
    run(&a, "UPDATE notes SET body = 'unsent'");
    // The changeset leaves the unsent one out; but what it overwrote is missing from the note, so B must not take
    // the server's note for empty.
    assert!(matches!(pull(&a, &b), Err(Error::Gap { .. })));
    assert!(matches!(a.merge_with(&b), Err(Error::Unsent { transactions: 1 })));
    assert_eq!(int(&b, "SELECT count(*) FROM items"), 0);
    // A peer that has these tables already gets the rest.
    pull(&s, &b).unwrap();
    run(&s, "INSERT INTO items VALUES (2, 's')");
    pull(&s, &a).unwrap();
    let at = a.db_version().unwrap() - 1;
    let applied = pull(&a, &b).unwrap();
    assert_eq!((applied.transactions, int(&b, "SELECT count(*) FROM items")), (1, 2));
    assert_eq!(b.vector().unwrap().max(&a.site_id().unwrap()), 0);
    assert_eq!(b.apply_changeset(&a.changeset_since(at).unwrap()).unwrap().transactions, 0);
    // The server takes it, and then everybody.
    s.apply_changeset(&cut_for(&a, &s.vector().unwrap()).unwrap().bytes).unwrap();
    a.remember_server(&note(&s)).unwrap();
    a.merge_with(&b).unwrap();
    assert_equal(&a, &b, "notes");
    assert_equal(&a, &s, "notes");
}

#[test]
fn commits_of_others_are_noticed() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    // The change to WAL mode counts.
    a.changed_outside().unwrap();
    run(&a, "INSERT INTO items(id) VALUES (1)");
    assert!(!a.changed_outside().unwrap());
    let b = files.open("a.db", "");
    run(&b, "INSERT INTO items(id) VALUES (2)");
    assert!(a.changed_outside().unwrap());
    assert!(!a.changed_outside().unwrap());
    run(&a, "INSERT INTO items(id) VALUES (3)");
    a.vector().unwrap();
    assert!(!a.changed_outside().unwrap());
    run(&b, "INSERT INTO items(id) VALUES (4)");
    a.vector().unwrap();
    assert!(a.changed_outside().unwrap());
}

/// A server that lost them gets them from the replica that wrote them, whatever it is called now.
#[test]
fn what_was_written_before_a_rollback_stays_the_replicas_own() {
    let files = Files::new();
    let (a, server) = (files.open("a.db", ITEMS), files.open("server.db", ITEMS));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'before')");
    pull(&a, &server).unwrap();
    let old = a.site_id().unwrap();
    let new = a.renew_site_id().unwrap();
    run(&a, "INSERT INTO items(id, name) VALUES (2, 'after')");
    assert_eq!(a.own_sites().unwrap(), [old, new]);
    let own = own_cut(&a, &VersionVector::new()).unwrap();
    assert_eq!((own.transactions, own.brings.max(&old), own.brings.max(&new)), (2, 1, 1));
    assert_eq!(a.pending().unwrap().transactions, 2);
    let restored = files.open("restored.db", ITEMS);
    restored.apply_changeset(&own.bytes).unwrap();
    assert_equal(&a, &restored, "items");
    // Opened again it is as before; a copy of it never wrote under either.
    drop(a);
    let a = files.open("a.db", "");
    assert_eq!(a.own_sites().unwrap(), [old, new]);
    a.snapshot_to(files.dir.path().join("copy.db"), &[]).unwrap();
    let copy = Replica::from_snapshot(files.dir.path().join("copy.db")).unwrap();
    assert_eq!(copy.own_sites().unwrap(), [copy.site_id().unwrap()]);
}
