use crate::util::{Files, ITEMS, assert_equal, int, pull, rows, run};
use rejoin::{Commit, Replica};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[test]
fn two_files_become_equal() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(&a, "INSERT INTO items VALUES (1, 'pen', 1.5, 10), (2, 'ink', 3.0, 4)");
    run(&b, "INSERT INTO items VALUES (3, 'cup', 5.25, 1)");
    let (here, there) = a.merge_with(&b).unwrap();
    assert_eq!((here.transactions, here.rows, here.cells_won, here.cells_lost), (1, 1, 3, 0));
    assert_eq!((there.transactions, there.rows, there.cells_won, there.cells_lost), (1, 2, 6, 0));
    assert_equal(&a, &b, "items");
    run(&a, "UPDATE items SET stock = 9 WHERE id = 1; DELETE FROM items WHERE id = 3");
    run(&b, "UPDATE items SET price = 2 WHERE id = 1; UPDATE items SET name = 'mug' WHERE id = 3");
    a.merge_with(&b).unwrap();
    assert_equal(&a, &b, "items");
    assert_eq!(
        rows(&a, "SELECT id, price, stock FROM items ORDER BY id"),
        rows(&b, "SELECT id, price, stock FROM items")
    );
    assert_eq!(int(&a, "SELECT count(*) FROM items"), 2);
    let nothing = a.merge_with(&b).unwrap();
    assert_eq!((nothing.0.transactions, nothing.1.transactions), (0, 0));
}

#[test]
fn the_state_outlives_the_connection() {
    let files = Files::new();
    let (site, vector) = {
        let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
        run(&a, "INSERT INTO items(id) VALUES (1)");
        run(&b, "INSERT INTO items(id) VALUES (2)");
        a.merge_with(&b).unwrap();
        (a.site_id().unwrap(), a.vector().unwrap())
    };
    let (a, b) = (files.open("a.db", ""), files.open("b.db", ""));
    assert_eq!((a.site_id().unwrap(), a.vector().unwrap()), (site, vector));
    assert_eq!(a.vector().unwrap(), b.vector().unwrap());
    assert!(a.changeset_for(&b.vector().unwrap()).unwrap().is_none());
    assert_eq!(a.db_version().unwrap(), 2);
}

#[test]
fn what_a_dead_writer_left_does_not_keep_a_reader_out() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(
        &a,
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA cache_size = 5; INSERT INTO items(id) VALUES (1)",
    );
    run(
        &a,
        "BEGIN; INSERT INTO items(id, name) WITH RECURSIVE s(n) AS (VALUES (2) UNION ALL SELECT n + 1 FROM s WHERE n < 3000) \
         SELECT n, 'some text that takes room' FROM s",
    );
    // Pages have left the cache: this is what a killed writer leaves.
    files.copy("a.db", "dead.db");
    files.copy("a.db-journal", "dead.db-journal");
    let mut options = rejoin::Options::default();
    options.read_only = true;
    let dead = Replica::open_with(files.dir.path().join("dead.db"), options).unwrap();
    assert_eq!(int(&dead, "SELECT count(*) FROM items"), 1);
    assert!(dead.verify().unwrap().is_clean());
    assert!(dead.connection().execute_batch("DELETE FROM items").is_err());
}

fn count_local(r: &Replica) -> Rc<Cell<u32>> {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    r.on_local_commit(move || counted.set(counted.get() + 1)).unwrap();
    count
}

fn watch(r: &Replica) -> Rc<RefCell<Vec<Commit>>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&seen);
    r.observe(move |commit| sink.borrow_mut().push(commit.clone())).unwrap();
    seen
}

/// Version, local, and per table name, number of keys and columns.
fn told(seen: &RefCell<Vec<Commit>>) -> Vec<String> {
    let commits = seen.take();
    let table = |t: &rejoin::TableChange| format!("{} {} [{}]", t.name, t.keys.len(), t.columns.join(" "));
    let commit = |c: &Commit| {
        let tables: Vec<String> = c.tables.iter().map(table).collect();
        format!("{} {} {}", c.db_version, if c.local { "local" } else { "merged" }, tables.join(", "))
    };
    commits.iter().map(commit).collect()
}

#[test]
fn observers_hear_of_each_commit() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    let (seen, merged) = (watch(&a), watch(&b));
    let (mine, others) = (count_local(&a), count_local(&b));
    run(&a, "INSERT INTO items(id, name) VALUES (1, 'x'), (2, 'y')");
    assert_eq!(told(&seen), ["1 local items 2 [id name price stock]"]);
    run(&a, "UPDATE items SET name = 'z', stock = 3 WHERE id = 2");
    assert_eq!(told(&seen), ["2 local items 1 [name stock]"]);
    run(
        &a,
        "BEGIN; UPDATE items SET name = 'q'; ROLLBACK; UPDATE items SET name = 'z' WHERE id = 2; CREATE TABLE other(x)",
    );
    assert_eq!(told(&seen), [""; 0]);
    run(
        &a,
        "BEGIN; UPDATE items SET price = 1 WHERE id = 1; SAVEPOINT s; DELETE FROM items; ROLLBACK TO s; \
         UPDATE items SET price = 2 WHERE id = 2; COMMIT",
    );
    assert_eq!(told(&seen), ["3 local items 2 [price]"]);
    run(&a, "DELETE FROM items WHERE id = 1");
    assert_eq!(told(&seen), ["4 local items 1 [id name price stock]"]);
    a.merge_with(&b).unwrap();
    // Nothing is left of the first transaction, so it takes no version of its own there.
    let last = told(&merged);
    assert!(last.iter().all(|c| c.contains("merged")), "{last:?}");
    assert_eq!(last.last().unwrap(), "3 merged items 1 [id name price stock]");
    assert_eq!(told(&seen), [""; 0]);
    let changes = "INSERT INTO crsql_changes SELECT 'items', pk, 'name', 'w', col_version + 1, db_version, \
                   x'00112233445566778899aabbccddeeff', cl, seq FROM crsql_changes WHERE cid = 'name'";
    run(&b, changes);
    assert_eq!(told(&merged), ["4 merged items 1 [name]"]);
    // What comes row by row is passed on in a transaction of the receiver's own.
    assert_eq!((mine.get(), others.get()), (4, 1));
}

/// Rows that go straight into blocks are told of like others.
#[test]
fn observers_hear_of_each_row_of_a_large_changeset() {
    let schema =
        format!("{ITEMS} CREATE TABLE tags(k TEXT PRIMARY KEY NOT NULL, v); SELECT crsql_as_crr('tags');");
    let files = Files::new();
    let (a, b) = (files.open("a.db", &schema), files.open("b.db", &schema));
    let merged = watch(&b);
    let numbers = "WITH RECURSIVE s(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM s WHERE n < 200)";
    let insert = |from: i64| {
        run(&a, &format!("INSERT INTO items(id, name) {numbers} SELECT n + {from}, 'x' FROM s"));
        run(&a, &format!("INSERT INTO tags {numbers} SELECT hex(n * 7919 + {from}), n FROM s"));
    };
    insert(0);
    run(&b, "BEGIN");
    pull(&a, &b).unwrap();
    run(&b, "ROLLBACK");
    assert_eq!(told(&merged), [""; 0]);
    pull(&a, &b).unwrap();
    assert_eq!(told(&merged), ["1 merged items 200 [id name price stock]", "2 merged tags 200 [k v]"]);
    run(&a, "UPDATE items SET name = 'y' WHERE id BETWEEN 51 AND 150; UPDATE tags SET v = 0 WHERE v <= 100");
    insert(1_000);
    pull(&a, &b).unwrap();
    assert_eq!(
        told(&merged),
        [
            "3 merged items 100 [name]",
            "4 merged tags 100 [v]",
            "5 merged items 200 [id name price stock]",
            "6 merged tags 200 [k v]"
        ]
    );
    run(&a, "DELETE FROM items WHERE id <= 100");
    pull(&a, &b).unwrap();
    assert_eq!(told(&merged), ["7 merged items 100 [id name price stock]"]);
}

#[test]
fn an_attached_connection_stays_the_hosts() {
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE t(k PRIMARY KEY NOT NULL, v); INSERT INTO t VALUES ('a', 1)").unwrap();
    let r = Replica::attach(conn).unwrap();
    r.replicate("t").unwrap();
    r.replicate("t").unwrap();
    run(&r, "INSERT INTO t VALUES ('b', 2)");
    assert_eq!(r.db_version().unwrap(), 2);
    assert!(r.replicate("nowhere").is_err());
    let conn = r.into_connection();
    let count: i64 = conn.query_row("SELECT count(*) FROM crsql_changes", [], |r| r.get(0)).unwrap();
    assert_eq!(count, 2);
    conn.close().map_err(|e| e.1).unwrap();
}

#[test]
fn a_new_site_id_is_used_from_then_on() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id) VALUES (1)");
    let old = a.site_id().unwrap();
    let new = a.new_site_id().unwrap();
    assert_ne!(old, new);
    assert_eq!(a.site_id().unwrap(), new);
    run(&a, "INSERT INTO items(id) VALUES (2)");
    let vector = a.vector().unwrap();
    assert_eq!((vector.max(&old), vector.max(&new)), (1, 1));
    assert_eq!(int(&a, "SELECT crsql_site_id() = crsql_new_site_id()"), 0);
    assert_eq!(a.changeset_since(0).unwrap()[..4], *b"RJCS");
}

#[test]
fn one_who_writes_waits_for_another_writer() {
    let files = Files::new();
    let (a, b) = (files.open("a.db", ITEMS), files.open("b.db", ITEMS));
    run(&b, "INSERT INTO items(id) VALUES (1)");
    let bytes = b.changeset_since(0).unwrap();
    let busy = std::time::Duration::from_secs(20);
    a.connection().busy_timeout(busy).unwrap();
    let path = files.dir.path().join("a.db");
    let write = |f: &dyn Fn()| {
        let (locked, lock) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            s.spawn(|| {
                let other = Replica::open(&path).unwrap();
                other.connection().busy_timeout(busy).unwrap();
                run(&other, "BEGIN IMMEDIATE; UPDATE items SET stock = stock + 1");
                locked.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(50));
                run(&other, "COMMIT");
            });
            lock.recv().unwrap();
            f();
        });
    };
    write(&|| assert!(a.apply_changeset(&bytes).is_ok()));
    run(&b, "UPDATE items SET name = 'x'");
    let bytes = b.changeset_since(0).unwrap();
    write(&|| {
        let sql = "SELECT crsql_apply_changeset(?1)";
        let won: i64 = a.connection().query_row(sql, [&bytes], |row| row.get(0)).unwrap();
        assert_eq!(won, 1);
    });
    write(&|| assert!(a.new_site_id().is_ok()));
    write(&|| run(&a, "SELECT crsql_new_site_id()"));
    assert!(a.verify().unwrap().is_clean());
}
