//! Healing with the real programs: what is killed (`kill -9`) at any moment, made anew, or compacted.

use crate::kill::{Dice, kill, rounds};
use crate::sync::Serving;
use crate::{BOOKS, Folder, two};
use rejoin::Replica;
use rejoin_client::{Options, State, SyncClient};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Transactions of one row each, and one large one.
fn fill(f: &Folder, db: &str, from: i64) {
    let replica = Replica::open(f.path(db)).expect("open");
    let conn = replica.connection();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").expect("set");
    for id in from..from + 200 {
        conn.execute("INSERT INTO books(id, title) VALUES (?1, hex(randomblob(100)))", [id]).expect("insert");
    }
    let many = "WITH RECURSIVE n(i) AS (SELECT 200 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
        INSERT INTO books(id, title) SELECT ?1 + i, hex(randomblob(200)) FROM n";
    conn.execute(many, [from]).expect("insert");
}

/// Point 2 of what shops suffered from: the first sync of a 50 MB database in seconds, with progress in bytes. Killed in the middle, it
/// goes on from there; the replica that comes of it is whole.
#[test]
fn a_first_sync_of_fifty_megabytes() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    let replica = Replica::open(f.path("a.db")).expect("open");
    replica.connection().execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").expect("set");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
        INSERT INTO books(id, title) SELECT i, hex(randomblob(10000)) FROM n";
    replica.connection().execute(rows, []).expect("insert");
    let server = Serving::start(&f, &[]);
    f.run(&format!("sync a.db {}", server.url)).ok();
    let clone = ["clone", &server.url, "b.db", "--json"];
    let mut command = f.command(&clone);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run rejoin");
    // As soon as something of it is there.
    let part = || f.path("b.db.part").metadata().map_or(0, |m| m.len());
    while part() == 0 && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(&mut child);
    let ran = if f.path("b.db").exists() {
        f.run(&format!("sync b.db {} --json", server.url))
    } else {
        f.run_words(&clone)
    };
    let ran = ran.ok();
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|l| serde_json::from_str(l).expect("an object")).collect();
    assert_eq!(lines.last().map(|l| &l["state"]), Some(&"synced".into()), "{}", ran.out);
    if let Some(done) = lines.iter().find(|l| l["state"] == "downloaded") {
        let (bytes, seconds) = (done["bytes"].as_u64(), done["seconds"].as_f64());
        assert!(bytes > Some(50_000_000) && bytes == done["bytes_total"].as_u64(), "{done}");
        assert!(seconds < Some(60.0), "{done}");
        assert!(
            lines.iter().any(|l| l["state"] == "downloading" && l["bytes_total"] == done["bytes"]),
            "{}",
            ran.out
        );
    }
    f.run("diff a.db b.db").ok();
    f.run("verify b.db").ok();
}

/// A client that is killed leaves both files whole, whatever was on its way, and the next one goes on from there.
#[test]
fn a_client_killed_at_any_moment_of_a_sync() {
    let f = Folder::new();
    for (db, from) in [("a.db", 0), ("b.db", 1_000_000)] {
        f.init(db, BOOKS);
        fill(&f, db, from);
        std::fs::rename(f.path(db), f.path(&format!("{db}.full"))).expect("rename");
    }
    let server = Serving::start(&f, &[]);
    let fresh = |round: u64| {
        for db in ["a.db", "b.db"] {
            std::fs::copy(f.path(&format!("{db}.full")), f.path(&format!("{round}{db}"))).expect("copy");
        }
        let url = format!("ws://{}/room{round}", server.address);
        f.run(&format!("sync {round}b.db {url}")).ok();
        (format!("{round}a.db"), url)
    };
    let (a, url) = fresh(0);
    let begun = Instant::now();
    f.run(&format!("sync {a} {url}")).ok();
    let whole = begun.elapsed().as_micros() as u64;
    let mut dice = Dice::new();
    for round in 1..=rounds() {
        let (a, url) = fresh(round);
        for _ in 0..3 {
            let mut command = f.command(&["sync", &a, &url]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run rejoin");
            std::thread::sleep(Duration::from_micros(dice.below(whole)));
            kill(&mut child);
            f.run(&format!("verify {a}")).ok();
        }
        f.run(&format!("sync {a} {url}")).ok();
        f.run(&format!("sync {round}b.db {url}")).ok();
        f.run(&format!("diff {a} {round}b.db")).ok();
        assert_eq!(f.rows(&a, "SELECT count(*) FROM books"), (2 * 4_001).to_string());
        for db in [&a, &format!("{round}b.db"), &format!("rooms/room{round}.db")] {
            f.run(&format!("verify {db}")).ok();
        }
    }
}

#[track_caller]
fn until(client: &SyncClient, what: &str, so: impl Fn(&rejoin_client::Report) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    let mut watch = client.watch();
    while !so(&client.report()) {
        assert!(Instant::now() < end, "not {what}: {:?}", client.report());
        watch.wait(Duration::from_millis(100));
    }
}

/// What the server has acknowledged is in its file, whenever it is killed, and what it has not is still pending.
#[test]
fn a_server_killed_at_any_moment_keeps_what_it_acknowledged() {
    let f = two();
    let a = Replica::open(f.path("a.db")).expect("open");
    a.connection().execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").expect("set");
    a.connection().busy_timeout(Duration::from_secs(20)).expect("set");
    let mut server = Serving::start(&f, &[]);
    let client = SyncClient::start(f.path("a.db"), &server.url, Options::default()).expect("start");
    client.observe(&a).expect("observe");
    until(&client, "synced", |r| r.state == State::Synced && r.settled);
    let mut dice = Dice::new();
    let mut id = 1_000;
    for round in 0..rounds() * 2 {
        let end = Instant::now() + Duration::from_micros(dice.below(150_000));
        while Instant::now() < end {
            id += 1;
            a.connection()
                .execute("INSERT INTO books(id, title) VALUES (?1, hex(randomblob(20)))", [id])
                .expect("insert");
        }
        // Every second time, all of it is acknowledged.
        let all = round % 2 == 0;
        if all {
            until(&client, "synced", |r| r.state == State::Synced && r.settled && r.pending == 0);
        }
        let address = server.address.clone();
        server.kill();
        until(&client, "offline", |r| r.state.name() == "offline");
        // The note in the file is what `pending` is counted from.
        let note = a.server().expect("readable").expect("a note").acknowledged;
        let room = Replica::open(f.path("rooms/shop.db")).expect("open");
        let held = room.vector().expect("a vector");
        assert!(held.covers(&note), "acknowledged {note:?}, held {held:?}");
        assert!(!all || held.covers(&a.vector().expect("a vector")), "{held:?}");
        drop(room);
        f.run("verify rooms/shop.db").ok();
        server = Serving::start_at(&f, &address, &[]);
    }
    until(&client, "synced", |r| r.state == State::Synced && r.settled && r.pending == 0);
    client.stop();
    server.stop();
    f.run("verify a.db").ok();
    f.run("diff a.db rooms/shop.db").ok();
}

/// Point 3 of what shops suffered from: the server's database was made anew. The way out is named, and keeps unsent work.
#[test]
fn a_rebuilt_server_database_is_incompatible_until_one_starts_over() {
    let f = two();
    let server = Serving::start(&f, &[]);
    let url = server.url.clone();
    for db in ["a.db", "b.db", "a.db"] {
        f.run(&format!("sync {db} {url}")).ok();
    }
    server.stop();
    for more in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(f.path(&format!("rooms/shop.db{more}")));
    }
    f.init("rooms/shop.db", BOOKS);
    f.sql("rooms/shop.db", "INSERT INTO books VALUES (7, 'In the new one', 1.0, 1)");
    f.sql("a.db", "INSERT INTO books VALUES (8, 'Never sent', 2.0, 2)");
    let server = Serving::start_at(&f, url.trim_start_matches("ws://").trim_end_matches("/shop"), &[]);
    let ran = f.run(&format!("sync a.db {url}")).fails(9, &["lineage", "rejoin sync --start-over"]);
    assert!(ran.out.contains("incompatible (") && ran.out.contains("pending"), "{}", ran.out);
    assert_eq!(f.rows("a.db", "SELECT count(*) FROM books"), "4");
    let ran = f.run(&format!("sync a.db {url} --start-over")).ok();
    assert!(ran.out.starts_with("started over: ") && ran.out.ends_with("synced\n"), "{}", ran.out);
    f.run(&format!("sync b.db {url} --start-over")).ok();
    f.run(&format!("sync a.db {url}")).ok();
    assert_eq!(
        f.rows("a.db", "SELECT group_concat(id) FROM (SELECT id FROM books ORDER BY id)"),
        "1,2,3,7,8"
    );
    f.run("diff a.db b.db").ok();
    server.stop();
    f.run("diff a.db rooms/shop.db").ok();
    for db in ["a.db", "b.db", "rooms/shop.db"] {
        f.run(&format!("verify {db}")).ok();
    }
}

/// A replica forgets what its server says that all have; and an operator forgets more in the room's file, while the server runs.
#[test]
fn a_replica_and_a_room_are_compacted_and_go_on() {
    let f = two();
    let server = Serving::start(&f, &[]);
    let sync = |db: &str| f.run(&format!("sync {db} {}", server.url)).ok();
    for db in ["a.db", "b.db", "a.db"] {
        sync(db);
    }
    f.run("compact a.db").fails(5, &["nobody has told this file"]);
    f.sql("a.db", "DELETE FROM books WHERE id = 1; UPDATE books SET stock = stock + 1; UPDATE books SET stock = stock + 1");
    sync("a.db");
    // The other was there a moment ago and lacks the deletion: nothing is forgotten that it needs. What is known of the replicas
    // the server writes within a minute, or when it stops.
    server.stop();
    let ran = f.run("compact rooms/shop.db --json").ok().json();
    assert_eq!(ran["tombstones"], 0, "{ran}");
    let server = Serving::start(&f, &[]);
    let sync = |db: &str| f.run(&format!("sync {db} {}", server.url)).ok();
    let site = || Replica::open(f.path("b.db")).and_then(|r| r.site_id()).expect("an id");
    let before = site();
    f.sql("b.db", "INSERT INTO books(id, title) VALUES (9, 'unsent')");
    sync("b.db");
    sync("a.db");
    f.run("diff a.db b.db").ok();
    assert_eq!(site(), before, "it need not start over");
    // Now all have it.
    server.stop();
    let ran = f.run("compact rooms/shop.db --json").ok().json();
    assert_eq!(ran["tombstones"], 1, "{ran}");
    let server = Serving::start(&f, &[]);
    let sync = |db: &str| f.run(&format!("sync {db} {}", server.url)).ok();
    // The replica hears of it with the next change.
    f.sql("b.db", "UPDATE books SET title = 'sent' WHERE id = 9");
    sync("b.db");
    sync("a.db");
    let ran = f.run("compact a.db --vacuum --json").ok().json();
    assert!(ran["below_horizon"].as_u64() > Some(0), "{ran}");
    f.sql("a.db", "INSERT INTO books(id, title) VALUES (10, 'after it')");
    sync("a.db");
    sync("b.db");
    f.run("diff a.db b.db").ok();
    for db in ["a.db", "b.db", "rooms/shop.db"] {
        f.run(&format!("verify {db}")).ok();
    }
}
