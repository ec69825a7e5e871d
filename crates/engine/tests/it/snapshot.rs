//! Snapshots: consistent copies that become replicas of their own.

use crate::util::{Files, assert_equal, int, pull, rows, run};
use rejoin::{Error, Options, Replica, ServerNote};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

const SHOP: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE tags(tag TEXT PRIMARY KEY, n); \
     CREATE TABLE stock(shop TEXT, item INTEGER, n, PRIMARY KEY (shop, item)) WITHOUT ROWID; \
     SELECT crsql_as_crr('items'); SELECT crsql_as_crr('tags'); SELECT crsql_as_crr('stock');";

const TABLES: [&str; 3] = ["items", "tags", "stock"];

/// `REJOIN_ROWS=250000` makes files of 50 MB.
fn fill(r: &Replica) {
    let rows: u32 = std::env::var("REJOIN_ROWS").map_or(300, |n| n.parse().unwrap());
    run(
        r,
        &format!(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO items SELECT i, 'item ' || i FROM n; \
         INSERT INTO tags SELECT 'tag ' || id, id FROM items; INSERT INTO stock SELECT 'north', id, 5 FROM items; \
         DELETE FROM items WHERE id % 7 = 0; DELETE FROM tags WHERE n % 5 = 0; DELETE FROM stock WHERE item % 3 = 0; \
         UPDATE items SET name = 'x' WHERE id % 11 = 0"
        ),
    );
}

#[track_caller]
fn assert_sound(r: &Replica) {
    assert_eq!(r.verify().unwrap().problems, []);
    assert_eq!(rows(r, "PRAGMA integrity_check"), ["Text([111, 107])"]);
}

#[test]
fn a_snapshot_becomes_a_replica() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    let path = files.dir.path().join("snap.db");
    let made = a.snapshot_to(&path, &[]).unwrap();
    assert_eq!((made.vector, made.db_version), (a.vector().unwrap(), a.db_version().unwrap()));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((made.bytes, bytes[18], bytes[19]), (bytes.len() as u64, 1, 1));
    std::fs::copy(&path, files.dir.path().join("c.db")).unwrap();
    let b = Replica::from_snapshot(&path).unwrap();
    assert_sound(&b);
    for t in TABLES {
        assert_equal(&a, &b, t);
    }
    // Afterwards it is no snapshot any more, and the next one is another replica.
    drop(b);
    assert!(matches!(Replica::from_snapshot(&path), Err(Error::State { .. })));
    let (b, c) = (files.open("snap.db", ""), Replica::from_snapshot(files.dir.path().join("c.db")).unwrap());
    let sites: HashSet<_> = [&a, &b, &c].iter().map(|r| r.site_id().unwrap()).collect();
    assert_eq!(sites.len(), 3);
    for (r, n) in [(&a, 1000001), (&b, 1000002), (&c, 1000003)] {
        run(
            r,
            &format!("INSERT INTO items VALUES ({n}, 'new'); UPDATE tags SET n = {n} WHERE tag = 'tag 1'"),
        );
    }
    for _ in 0..2 {
        for (from, to) in [(&a, &b), (&b, &c), (&c, &a)] {
            pull(from, to).unwrap();
        }
    }
    for (r, t) in [(&b, "items"), (&c, "items"), (&b, "tags"), (&c, "tags")] {
        assert_equal(&a, r, t);
    }
    [&a, &b, &c].into_iter().for_each(assert_sound);
}

#[test]
fn opened_as_an_ordinary_file_it_takes_an_id_too() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    let ours = a.site_id().unwrap();
    let mut seen = HashSet::from([ours]);
    let fresh = |n: u32| {
        let path = files.dir.path().join(format!("snap{n}.db"));
        if n > 0 {
            std::fs::copy(files.dir.path().join("snap0.db"), &path).unwrap();
        }
        path
    };
    a.snapshot_to(fresh(0), &[]).unwrap();
    // A write, a call that tells the id, a merge, a key that is written in a transaction taken back before.
    let b = Replica::open(fresh(1)).unwrap();
    run(
        &b,
        "BEGIN; INSERT INTO items VALUES (1000000, 'b'); ROLLBACK; INSERT INTO items VALUES (1000000, 'b')",
    );
    let c = Replica::open(fresh(2)).unwrap();
    let told = rows(&c, "SELECT hex(crsql_site_id())");
    assert_eq!(told, rows(&c, "SELECT hex(crsql_site_id())"));
    let d = Replica::open(fresh(3)).unwrap();
    pull(&b, &d).unwrap();
    let e = Replica::open(fresh(4)).unwrap();
    e.own_head().unwrap();
    for r in [&b, &c, &d, &e] {
        assert!(seen.insert(r.site_id().unwrap()));
        assert_sound(r);
    }
    assert_eq!(b.vector().unwrap().max(&b.site_id().unwrap()), 1);
    assert_eq!(b.vector().unwrap().max(&ours), a.vector().unwrap().max(&ours));
    // Who only reads is nobody.
    let mut options = Options::default();
    options.read_only = true;
    let reader = Replica::open_with(fresh(5), options).unwrap();
    assert!(seen.insert(reader.site_id().unwrap()));
    assert!(
        reader.own_head().unwrap().version == 0
            && rows(&reader, "SELECT count(*) FROM crsql_changes").len() == 1
    );
    assert!(Replica::from_snapshot(fresh(5)).is_ok());
}

#[test]
fn what_is_the_servers_stays_there() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    run(
        &a,
        "CREATE TABLE \"their tokens\"(x); INSERT INTO \"their tokens\" VALUES ('a secret that nobody may read')",
    );
    let note = ServerNote {
        url: "ws://127.0.0.1:1/secret-room".into(),
        site: a.site_id().unwrap(),
        lineage: [7; 16],
        acknowledged: a.vector().unwrap(),
        relay: true,
    };
    a.remember_server(&note).unwrap();
    let path = files.dir.path().join("snap.db");
    a.snapshot_to(&path, &["their tokens", "not there"]).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for secret in [&b"a secret that nobody may read"[..], b"secret-room"] {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret));
    }
    let b = Replica::from_snapshot(&path).unwrap();
    assert_eq!(b.server().unwrap(), None);
    assert!(b.connection().prepare("SELECT * FROM \"their tokens\"").is_err());
    assert_eq!(int(&a, "SELECT count(*) FROM \"their tokens\""), 1);
    assert_eq!(a.server().unwrap(), Some(note));
}

#[test]
fn a_snapshot_of_an_owned_file_is_shared() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    run(&a, "SELECT crsql_config_set('mode', 'owned')");
    a.snapshot_to(files.dir.path().join("snap.db"), &[]).unwrap();
    let b = Replica::from_snapshot(files.dir.path().join("snap.db")).unwrap();
    assert_eq!(b.status().unwrap().mode, "shared");
    run(
        &b,
        "INSERT INTO items VALUES (1000000, 'b'); UPDATE stock SET n = 6 WHERE item = 1; DELETE FROM tags WHERE n = 1",
    );
    assert_sound(&b);
    pull(&b, &a).unwrap();
    for t in TABLES {
        assert_equal(&a, &b, t);
    }
    assert_sound(&a);
}

#[test]
fn a_snapshot_that_fails_leaves_no_file() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    let at = |name: &str| files.dir.path().join(name);
    assert!(matches!(a.snapshot_to(at("no/such.db"), &[]), Err(Error::Sqlite(_))));
    assert!(matches!(a.snapshot_to(at("x.db"), &["items"]), Err(Error::BadArgument { .. })));
    assert!(matches!(a.snapshot_to(at("x.db"), &["crsql_log"]), Err(Error::BadArgument { .. })));
    run(&a, "BEGIN");
    assert!(matches!(a.snapshot_to(at("x.db"), &[]), Err(Error::State { .. })));
    run(&a, "ROLLBACK; CREATE VIEW v AS SELECT 1");
    // A table that cannot be dropped, once the copy is made.
    assert!(matches!(a.snapshot_to(at("x.db"), &["v"]), Err(Error::Sqlite(_))));
    assert!(!at("x.db").exists() && !at("x.db-journal").exists());
    std::fs::write(at("x.db"), "mine").unwrap();
    assert!(matches!(a.snapshot_to(at("x.db"), &[]), Err(Error::BadArgument { .. })));
    assert_eq!(std::fs::read(at("x.db")).unwrap(), b"mine");
    assert!(matches!(Replica::from_snapshot(at("a.db")), Err(Error::State { .. })));
    assert!(Replica::from_snapshot(at("nowhere.db")).is_err());
    assert!(!at("nowhere.db").exists());
}

#[test]
fn writers_go_on() {
    let files = Files::new();
    let a = files.open("a.db", SHOP);
    fill(&a);
    let (path, stop) = (files.dir.path().join("a.db"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let w = Replica::open(&path).unwrap();
            run(&w, "PRAGMA synchronous = OFF");
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                // Each transaction keeps this sum.
                run(&w, &format!(
                    "BEGIN IMMEDIATE; UPDATE stock SET n = n + 1 WHERE item = 1; UPDATE stock SET n = n - 1 WHERE item = 2; \
                     INSERT INTO tags VALUES ('w{n}', {n}); COMMIT"
                ));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            n
        });
        for n in 0..5 {
            let snap = files.dir.path().join(format!("snap{n}.db"));
            let made = a.snapshot_to(&snap, &[]).unwrap();
            let b = Replica::from_snapshot(&snap).unwrap();
            assert_eq!(int(&b, "SELECT sum(n) FROM stock"), 5 * int(&b, "SELECT count(*) FROM stock"));
            assert_eq!(b.vector().unwrap(), made.vector);
            assert_sound(&b);
            pull(&a, &b).unwrap();
            run(&b, &format!("INSERT INTO items VALUES (1000000 + {n}, 'b')"));
            pull(&b, &a).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
    let b = Replica::open(files.dir.path().join("snap0.db")).unwrap();
    pull(&a, &b).unwrap();
    for t in TABLES {
        assert_equal(&a, &b, t);
    }
}
