//! What a client shows when something is wrong.

use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Error, Options, State, SyncClient, Token, sync_once};

#[test]
fn a_server_that_is_not_there_is_offline() {
    let mut place = Place::new();
    place.replica("a.db");
    place.stop();
    let report = sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it ends");
    let State::Offline { why, retry_at_ms } = report.state else { panic!("{report:?}") };
    assert!(why.contains("cannot be reached") && retry_at_ms.is_some(), "{why}");
}

#[test]
fn a_host_that_is_none_and_a_server_that_speaks_something_else() {
    let place = Place::new();
    place.replica("a.db");
    let end = |url: &str| sync_once(place.path("a.db"), url, Options::default()).map(|r| r.state.to_string());
    assert!(end("ws://no-such-host.invalid/shop").expect("it ends").starts_with("offline"));
    // Its answer to everything is not HTTP.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in other.incoming().flatten() {
            use std::io::Write;
            let _ = (&stream).write_all(b"220 mail.example.org ESMTP\r\n");
        }
    });
    assert!(end(&format!("ws://127.0.0.1:{port}/shop")).expect("it ends").starts_with("offline"));
    let state = end(&place.url("healthz")).expect("it ends");
    assert!(state.contains("no Rejoin server") && state.contains("HTTP 200"), "{state}");
    let state = end(&place.url("shop").replace("ws://", "wss://")).expect("it ends");
    assert!(state.contains("a server without TLS is ws://"), "{state}");
    assert!(matches!(end("shop"), Err(Error::Url { .. })));
    // A name that no room can have.
    let state = end(&place.url("..")).expect("it ends");
    assert!(state.starts_with("incompatible") || state.starts_with("offline"), "{state}");
}

#[test]
fn databases_of_another_room_and_another_schema() {
    let place = Place::new();
    for name in ["a.db", "b.db"] {
        place.replica(name);
    }
    let sync = |name: &str, room: &str| {
        sync_once(place.path(name), &place.url(room), Options::default()).expect("it ends")
    };
    assert_eq!(sync("a.db", "shop").state, State::Synced);
    assert_eq!(sync("b.db", "other").state, State::Synced);
    let State::Incompatible { reason } = sync("a.db", "other").state else { panic!("it must not sync") };
    assert!(reason.contains("lineage"), "{reason}");
    let c = place.replica("c.db");
    c.connection()
        .execute_batch("ALTER TABLE books DROP COLUMN stock; ALTER TABLE books ADD COLUMN stock TEXT")
        .expect("alter");
    // What is called stock there is another column than the room's.
    let State::Behind { reason, .. } = sync("c.db", "shop").state else { panic!("it must not be green") };
    assert!(reason.contains("the drop of column \"stock\""), "{reason}");
    let d = Replica::open(place.path("d.db")).expect("a database");
    let sql = "CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT, stock TEXT DEFAULT 0)";
    d.connection().execute_batch(sql).expect("a table");
    d.replicate("books").expect("replicated");
    let State::Incompatible { reason } = sync("d.db", "shop").state else { panic!("it must not sync") };
    assert!(reason.contains("stock"), "{reason}");
}

#[test]
fn files_that_cannot_be_synced() {
    let place = Place::new();
    std::fs::write(place.path("text"), "no database, but long enough to be looked at as one").expect("write");
    let start =
        |name: &str, options| SyncClient::start(place.path(name), &place.url("shop"), options).map(drop);
    assert!(matches!(start("text", Options::default()), Err(Error::Database(_))));
    let mut options = Options::default();
    options.replica.create = false;
    assert!(matches!(start("absent.db", options), Err(Error::Database(_))));
    let options = Options { token: Token::File(place.path("absent.jwt")), ..Options::default() };
    assert!(matches!(start("a.db", options), Err(Error::File { .. })));
}

/// A column that the room does not have yet: what names it waits, and goes when the room has it.
#[test]
fn a_schema_ahead_of_the_room_waits() {
    let books =
        "CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, title TEXT, stock INTEGER DEFAULT 0);";
    let mut place = Place::with("schema = 'schema.sql'", &[("schema.sql", books)]);
    let a = place.replica("a.db");
    insert(&a, 1, "both know that");
    let mut at_a = place.client("a.db", "shop");
    at_a.until_synced();
    a.connection().execute_batch("ALTER TABLE books ADD COLUMN author TEXT").expect("alter");
    a.connection()
        .execute("INSERT INTO books (id, title, author) VALUES (2, 'ahead', 'x')", [])
        .expect("insert");
    let report =
        at_a.until("behind with 1 pending", |r| r.state.name() == "behind" && r.pending == 1 && r.settled);
    assert!(report.state.to_string().contains("author"), "{}", report.state);
    let with_author = books.replace("title TEXT", "title TEXT, author TEXT");
    std::fs::write(place.path("schema.sql"), with_author).expect("write");
    place.stop();
    place.start();
    at_a.until_synced();
    assert_equal(&a, &rejoin::Replica::open(place.room_file("shop")).expect("opens"));
}

const POLICY: &str = "[[policy]]\ntable = 'books'\non = 'any'\nrequire = 'new.stock IS NULL OR new.stock >= 0'\n\
    message = 'stock cannot be negative'";

#[test]
fn rejected_transactions_are_taken_back_and_the_rest_goes_on() {
    let place = Place::with(POLICY, &[]);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    at_a.until_synced();
    insert(&a, 1, "good");
    // The client may not have seen it yet; the file knows.
    eventually("acknowledged", || a.pending().expect("pending").transactions == 0);
    a.connection().execute("UPDATE books SET stock = -5 WHERE id = 1", []).expect("update");
    let report = at_a.until("rejected and settled", |r| r.state.name() == "rejected" && r.settled);
    assert!(report.state.to_string().contains("stock cannot be negative"), "{}", report.state);
    assert_eq!(report.pending, 0);
    // It is as the server has it, and what was written is kept.
    let stock = |r: &rejoin::Replica| {
        r.connection().query_row("SELECT stock FROM books WHERE id = 1", [], |r| r.get(0))
    };
    assert_eq!(stock(&a), Ok(0));
    let rejected = a.rejected().expect("readable");
    assert_eq!(
        rejected.iter().map(|c| (c.cid.as_str(), c.code.as_str())).collect::<Vec<_>>(),
        [("stock", "policy")]
    );
    // Others go on, in both directions.
    insert(&a, 2, "after it");
    insert(&b, 3, "from elsewhere");
    eventually("everywhere", || titles(&a).len() == 3 && titles(&b).len() == 3);
    at_a.until("settled", |r| r.settled && r.pending == 0);
    at_b.until_synced();
    assert_equal(&a, &b);
    assert_eq!(a.drop_rejected(rejected[0].version, None).expect("dropped"), 1);
    at_a.until_synced();
}

/// Offline work of which one transaction is bad: it costs those that depend on it, and no others.
#[test]
fn one_bad_transaction_of_many_offline() {
    let place = Place::with(POLICY, &[]);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    insert(&a, 1, "one");
    insert(&a, 2, "two");
    let sync = |place: &Place, name: &str| {
        sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it ends")
    };
    assert_eq!(sync(&place, "a.db").state, State::Synced);
    let run = |sql: &str| a.connection().execute(sql, []).expect("sql");
    run("UPDATE books SET stock = 7 WHERE id = 1");
    run("UPDATE books SET stock = -1 WHERE id = 2");
    run("UPDATE books SET title = 'two!' WHERE id = 2");
    run("INSERT INTO books (id, title, stock) VALUES (3, 'three', 3)");
    let report = sync(&place, "a.db");
    let State::Rejected { transactions, .. } = report.state else { panic!("{report:?}") };
    assert!((1..=2).contains(&transactions) && report.pending == 0, "{report:?}");
    assert_eq!(sync(&place, "b.db").state, State::Synced);
    assert_equal(&a, &b);
    let stocks: Vec<i64> = {
        let mut q = b.connection().prepare("SELECT stock FROM books ORDER BY id").expect("prepare");
        q.query_map([], |r| r.get(0)).expect("query").collect::<Result<_, _>>().expect("rows")
    };
    assert_eq!(stocks, [7, 0, 3]);
    for cell in a.rejected().expect("readable") {
        a.drop_rejected(cell.version, Some(cell.site)).expect("dropped");
    }
    assert_eq!(sync(&place, "a.db").state, State::Synced);
}
