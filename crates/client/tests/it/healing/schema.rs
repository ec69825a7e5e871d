//! Point 3 of what shops suffered from: two clients on two schema versions. Both go on syncing what both know, the light says that
//! one lacks something, nothing is lost, and after the upgrade all are equal.

use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Options, State, sync_once};

const OLD: &str =
    "CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, title TEXT, stock INTEGER DEFAULT 0);\n";
/// A column and a table more.
const NEW: &str = "CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, title TEXT, stock INTEGER DEFAULT 0, author TEXT);\n\
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, book INTEGER);\n";

/// As an application does it on one of its devices.
fn upgrade(replica: &Replica) {
    let sql = "ALTER TABLE books ADD COLUMN author TEXT; CREATE TABLE orders (id INTEGER PRIMARY KEY, book INTEGER)";
    replica.connection().execute_batch(sql).expect("a migration");
    replica.replicate("orders").expect("replicated");
}

fn run(replica: &Replica, sql: &str) {
    replica.connection().execute_batch(sql).expect("sql");
}

/// Everything, as far as this schema shows it.
fn all(replica: &Replica) -> String {
    let sql = "SELECT (SELECT json_group_array(json_array(id, title, stock, author)) FROM (SELECT * FROM books ORDER BY id)) || \
        (SELECT json_group_array(json_array(id, book)) FROM (SELECT * FROM orders ORDER BY id))";
    replica.connection().query_row(sql, [], |r| r.get(0)).expect("rows")
}

const REBUILD: &str = "CREATE TABLE books_new (id INTEGER PRIMARY KEY, title TEXT, stock INTEGER DEFAULT 0, shelf TEXT DEFAULT 'A'); \
    INSERT INTO books_new (id, title, stock) SELECT id, title, stock FROM books; \
    DROP TABLE books; ALTER TABLE books_new RENAME TO books";

/// Point 6 of what shops suffered from: plain SQL migrations that cannot corrupt sync. Each device runs them when it likes, as an ORM
/// would write them, and works in between.
#[test]
fn plain_migrations_at_different_times() {
    let place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    (1..=3).for_each(|id| insert(&a, id, "first"));
    at_a.until_synced();
    eventually("there", || titles(&b).len() == 3);
    let script = [
        format!("BEGIN; {REBUILD}; SELECT crsql_as_crr('books'); COMMIT; VACUUM"),
        "ALTER TABLE books ADD COLUMN note TEXT".to_owned(),
        "CREATE INDEX books_by_title ON books (title)".to_owned(),
    ];
    for (n, step) in (0..).zip(&script) {
        run(&a, step);
        let own = 10 + n;
        run(
            &a,
            &format!(
                "UPDATE books SET stock = stock + 1 WHERE id = 1; INSERT INTO books (id, title) VALUES ({own}, 'a')"
            ),
        );
        let own = 20 + n;
        run(
            &b,
            &format!(
                "UPDATE books SET title = 'b{n}' WHERE id = 2; INSERT INTO books (id, title) VALUES ({own}, 'b')"
            ),
        );
        let equal = || titles(&a) == titles(&b) && titles(&a).len() == 5 + 2 * n;
        at_a.until(step, |_| equal());
        at_b.until(step, |_| equal());
    }
    run(&a, "UPDATE books SET shelf = 'B', note = 'n' WHERE id = 3");
    at_a.until("nothing pending", |r| r.pending == 0 && r.settled);
    script.iter().for_each(|step| run(&b, step));
    at_a.until_synced();
    at_b.until_synced();
    let all = "SELECT json_group_array(json_array(id, title, stock, shelf, note)) FROM (SELECT * FROM books ORDER BY id)";
    let all = |r: &Replica| r.connection().query_row(all, [], |r| r.get::<_, String>(0)).expect("rows");
    eventually("equal", || all(&a) == all(&b));
    let first = r#"[[1,"first",3,"A",null],[2,"b2",0,"A",null],[3,"first",0,"B","n"],"#;
    assert!(all(&a).starts_with(first), "{}", all(&a));
    assert_equal(&a, &b);
}

/// A program that knows nothing of Rejoin rebuilds a table, and its triggers go with the old one. Client and server see to it, each for
/// its file, and nobody goes on showing green over writes that are not seen.
#[test]
fn a_rebuild_by_a_stranger_is_noticed() {
    let place = Place::new();
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    insert(&a, 1, "first");
    at_a.until_synced();
    eventually("there", || titles(&b).len() == 1);
    for (file, writer, id) in [(place.path("a.db"), &a, 2), (place.room_file("shop"), &b, 3)] {
        let stranger = rusqlite::Connection::open(&file).expect("opens");
        stranger.busy_timeout(PATIENCE).expect("a timeout");
        let sql = format!("BEGIN; {REBUILD}; INSERT INTO books (id, title) VALUES ({id}0, 'x'); COMMIT");
        stranger.execute_batch(&sql).expect("rebuilt");
        let triggers = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'books'";
        let watched = || stranger.query_row(triggers, [], |r| r.get::<_, i64>(0)).is_ok_and(|n| n > 0);
        eventually("watched", watched);
        insert(writer, id, "after it");
        eventually("there", || titles(&a) == titles(&b) && titles(&a).len() as i64 == 2 * id - 1);
    }
    at_a.until("nothing pending", |r| r.pending == 0 && r.settled);
    at_b.until("nothing pending", |r| r.pending == 0 && r.settled);
    for replica in [&a, &b, &Replica::open(place.room_file("shop")).expect("opens")] {
        assert!(replica.verify().expect("verifies").is_clean());
        assert_eq!(titles(replica), titles(&a));
    }
}

/// Plain ALTER TABLE by a program without Rejoin, and nobody has written since: the schema that is told is whole.
#[test]
fn columns_altered_by_a_stranger_are_told_at_once() {
    let place = Place::new();
    let names = ["a.db", "b.db"];
    let replicas = names.map(|name| place.replica(name));
    let sync = |name: &str| {
        sync_once(place.path(name), &place.url("shop"), Options::default()).expect("it ends").state
    };
    insert(&replicas[0], 1, "first");
    for name in ["a.db", "b.db"] {
        assert_eq!(sync(name), State::Synced);
    }
    let alter = |name: &str, sql: &str| {
        rusqlite::Connection::open(place.path(name)).and_then(|c| c.execute_batch(sql)).expect("altered");
    };
    // Each device runs the same migration.
    for name in names {
        alter(name, "ALTER TABLE books ADD COLUMN price INTEGER");
        assert_eq!(sync(name), State::Synced, "{name}");
    }
    // No client renames in a room; what can be exchanged is.
    alter("a.db", "ALTER TABLE books RENAME COLUMN title TO name; ALTER TABLE books ADD COLUMN kind INTEGER");
    let State::Behind { reason, .. } = sync("a.db") else { panic!("the room cannot rename") };
    assert!(reason.contains("the name \"name\" of column \"title\"") && !reason.contains("kind"), "{reason}");
    run(&replicas[0], "UPDATE books SET name = 'second', kind = 1");
    sync("a.db");
    sync("b.db");
    assert_eq!(titles(&replicas[1]), [(1, "second".to_owned())]);
}

/// The application is upgraded on one device, then at the server, then on the other device.
#[test]
fn a_newer_client_then_a_newer_server_then_the_other_client() {
    let place = Place::with("schema = 'schema.sql'", &[("schema.sql", OLD)]);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    insert(&a, 1, "both know that");
    at_a.until_synced();
    at_b.until_synced();
    upgrade(&a);
    run(
        &a,
        "UPDATE books SET author = 'Austen' WHERE id = 1; INSERT INTO orders VALUES (1, 1); INSERT INTO books VALUES (2, 'two', 0, 'Herbert')",
    );
    let report = at_a.until("behind", |r| r.state.name() == "behind" && r.pending == 3 && r.settled);
    assert!(report.state.to_string().contains("lacks"), "{}", report.state);
    // What the other writes goes on coming.
    insert(&b, 3, "from the old one");
    eventually("there", || titles(&a).iter().any(|t| t.0 == 3));
    at_b.until_synced();
    // The server: now it is the other that lacks something, and is told so.
    std::fs::write(place.path("schema.sql"), NEW).expect("write");
    at_a.until("synced", |r| r.pending == 0 && r.state.name() == "synced");
    let report = at_b.until("behind", |r| r.state.name() == "behind" && r.settled && titles(&b).len() == 3);
    assert!(report.state.to_string().contains("author"), "{}", report.state);
    assert_eq!(a.vector().expect("a vector"), b.vector().expect("a vector"));
    // It still writes to what it knows, also in the rows of which it does not know all.
    run(
        &b,
        "UPDATE books SET stock = 5; DELETE FROM books WHERE id = 2; INSERT INTO books VALUES (4, 'four', 1)",
    );
    eventually("there", || titles(&a).iter().any(|t| t.0 == 4));
    at_b.until("nothing pending", |r| r.pending == 0 && r.settled);
    assert_eq!(at_b.client.state().name(), "behind");
    upgrade(&b);
    at_b.until_synced();
    at_a.until_synced();
    let expected =
        r#"[[1,"both know that",5,"Austen"],[3,"from the old one",5,null],[4,"four",1,null]][[1,1]]"#;
    for replica in [&a, &b, &Replica::open(place.room_file("shop")).expect("opens")] {
        assert_eq!(all(replica), expected);
    }
    assert_equal(&a, &b);
    // And both go on with what is new.
    run(&b, "UPDATE books SET author = 'Joyce' WHERE id = 3; INSERT INTO orders VALUES (2, 3)");
    eventually("there", || all(&a) == all(&b));
}

/// The server first; the clients follow one after the other, and work between that.
#[test]
fn a_newer_server_and_clients_that_follow() {
    let place = Place::with("schema = 'schema.sql'", &[("schema.sql", NEW)]);
    let (a, b) = (place.replica("a.db"), place.replica("b.db"));
    insert(&a, 1, "one");
    let (mut at_a, mut at_b) = (place.client("a.db", "shop"), place.client("b.db", "shop"));
    for at in [&mut at_a, &mut at_b] {
        let report = at.until("behind", |r| r.state.name() == "behind" && r.settled && r.pending == 0);
        assert!(report.state.to_string().contains("author"), "{}", report.state);
    }
    upgrade(&b);
    at_b.until_synced();
    run(
        &b,
        "UPDATE books SET author = 'Austen', title = 'Emma' WHERE id = 1; INSERT INTO orders VALUES (1, 1)",
    );
    eventually("there", || titles(&a) == [(1, "Emma".into())]);
    // The old one deletes a row and makes it again: what was parked is of its former life.
    run(&a, "DELETE FROM books WHERE id = 1; INSERT INTO books VALUES (1, 'Emma again', 2)");
    eventually("there", || titles(&b) == titles(&a));
    at_a.until("nothing pending", |r| r.pending == 0 && r.settled);
    assert_eq!(at_a.client.state().name(), "behind");
    upgrade(&a);
    at_a.until_synced();
    at_b.until_synced();
    assert_eq!(all(&a), r#"[[1,"Emma again",2,null]][[1,1]]"#);
    assert_eq!(all(&a), all(&b));
    assert_equal(&a, &b);
}
