//! Names that are given again: what replicas that migrate at different times make of one another's changes.

use crate::util::{Files, assert_equal, int, pull, rows, run};
use rejoin::{Error, Replica};

const BOOK: &str =
    "CREATE TABLE book(id INTEGER PRIMARY KEY, title TEXT, price INTEGER); SELECT crsql_as_crr('book');";

/// A migration, and the Rejoin call that lets it be seen.
fn migrate(r: &Replica, steps: &[&str]) {
    for step in steps {
        run(r, step);
        run(r, "CREATE TABLE IF NOT EXISTS seen(k INTEGER PRIMARY KEY); SELECT crsql_as_crr('seen')");
    }
}

fn settle(all: &[&Replica]) {
    for _ in 0..2 {
        for from in all {
            for to in all {
                if !std::ptr::eq(*from, *to) {
                    pull(from, to).unwrap();
                }
            }
        }
    }
}

#[track_caller]
fn agree(all: &[&Replica], table: &str, expected: &[&str]) {
    settle(all);
    for r in all {
        assert_eq!(rows(r, &format!("SELECT * FROM {table} ORDER BY 1")), expected);
        assert_eq!(r.verify().unwrap().problems, []);
        assert_equal(all[0], r, table);
    }
}

fn three(files: &Files) -> [Replica; 3] {
    ["a.db", "b.db", "c.db"].map(|name| files.open(name, BOOK))
}

const RENAME_AND_ADD: [&str; 2] =
    ["ALTER TABLE book RENAME COLUMN price TO old_price", "ALTER TABLE book ADD COLUMN price INTEGER"];

#[test]
fn renamed_and_added_again() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&a, "INSERT INTO book VALUES (1, 'Emma', 5)");
    settle(&[&a, &b, &c]);
    migrate(&a, &RENAME_AND_ADD);
    run(&a, "UPDATE book SET price = 700, old_price = 6");
    run(&b, "UPDATE book SET title = 'Emma!'");
    settle(&[&a, &b, &c]);
    // The rename does not interrupt the flow, and the new column waits.
    assert_eq!(rows(&b, "SELECT title, price FROM book"), ["Text([69, 109, 109, 97, 33]) Integer(6)"]);
    run(&b, "UPDATE book SET price = 8");
    settle(&[&a, &b, &c]);
    assert_eq!(rows(&a, "SELECT old_price, price FROM book"), ["Integer(8) Integer(700)"]);
    migrate(&b, &RENAME_AND_ADD);
    migrate(&c, &RENAME_AND_ADD);
    agree(&[&a, &b, &c], "book", &["Integer(1) Text([69, 109, 109, 97, 33]) Integer(8) Integer(700)"]);
}

#[test]
fn a_script_without_a_call_between_is_read_from_the_schema() {
    let files = Files::new();
    for mode in ["shared", "owned"] {
        let [a, b] = ["a", "b"].map(|n| files.open(&format!("{mode}-{n}.db"), BOOK));
        run(&a, &format!("SELECT crsql_config_set('mode', '{mode}')"));
        run(&a, "INSERT INTO book VALUES (1, 'Emma', 5)");
        settle(&[&a, &b]);
        run(&a, &RENAME_AND_ADD.join("; "));
        run(&a, "UPDATE book SET price = 700");
        settle(&[&a, &b]);
        assert_eq!(rows(&b, "SELECT price FROM book"), ["Integer(5)"]);
        // Dropped before others and added again behind them.
        run(&b, "UPDATE book SET title = 'of b'");
        run(&a, "ALTER TABLE book DROP COLUMN title; ALTER TABLE book ADD COLUMN title TEXT");
        migrate(&b, &RENAME_AND_ADD);
        settle(&[&a, &b]);
        assert_eq!(rows(&a, "SELECT * FROM book"), ["Integer(1) Integer(5) Integer(700) Null"], "{mode}");
        migrate(&b, &["ALTER TABLE book DROP COLUMN title; ALTER TABLE book ADD COLUMN title TEXT"]);
        run(&b, "UPDATE book SET title = 'new'");
        agree(&[&a, &b], "book", &["Integer(1) Integer(5) Integer(700) Text([110, 101, 119])"]);
    }
}

/// Where a rename cannot be told from a drop, the values are taken over as they are found, and reach everybody.
#[test]
fn a_script_that_can_be_read_in_two_ways_loses_no_value() {
    const SHELF: &str = "CREATE TABLE shelf(id INTEGER PRIMARY KEY, a, b, d); SELECT crsql_as_crr('shelf');";
    for (script, columns) in [
        ("RENAME COLUMN a TO c; DROP COLUMN b", "c, d"),
        ("DROP COLUMN b; RENAME COLUMN a TO c", "c, d"),
        ("RENAME COLUMN a TO x; RENAME COLUMN b TO a; RENAME COLUMN x TO b", "b, a, d"),
        ("DROP COLUMN b; ADD COLUMN b", "a, d, b"),
        ("DROP COLUMN d; ADD COLUMN e; RENAME COLUMN a TO c", "c, b, e"),
    ] {
        let files = Files::new();
        let [a, b, c] = ["a.db", "b.db", "c.db"].map(|name| files.open(name, SHELF));
        run(&a, "INSERT INTO shelf VALUES (1, 10, 20, 30), (2, 11, NULL, NULL)");
        settle(&[&a, &b]);
        run(&b, "UPDATE shelf SET d = 31, a = 12 WHERE id = 1");
        settle(&[&a, &b]);
        let sql: String = script.split("; ").map(|s| format!("ALTER TABLE shelf {s};")).collect();
        let plain = rusqlite::Connection::open(files.dir.path().join("a.db")).unwrap();
        plain.execute_batch(&sql).unwrap();
        drop(plain);
        // Nobody has written since, and nothing is wrong.
        assert_eq!(a.verify().unwrap().problems, [], "{script}");
        let expected = rows(&a, &format!("SELECT id, {columns} FROM shelf ORDER BY id"));
        run(&a, "INSERT INTO shelf(id) VALUES (3)");
        assert_eq!(a.verify().unwrap().problems, [], "{script}");
        for r in [&b, &c] {
            run(r, &sql);
        }
        run(&c, "INSERT INTO shelf(id) VALUES (4)");
        settle(&[&a, &b, &c]);
        let sql = format!("SELECT id, {columns} FROM shelf WHERE id < 3 ORDER BY id");
        for r in [&a, &b, &c] {
            assert_eq!(rows(r, &sql), expected, "{script}");
            assert_eq!(r.verify().unwrap().problems, [], "{script}");
            assert_equal(&a, r, "shelf");
        }
    }
}

#[test]
fn dropped_and_added_again() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&b, "INSERT INTO book VALUES (1, 'Emma', 5)");
    settle(&[&a, &b, &c]);
    let again = ["ALTER TABLE book DROP COLUMN price", "ALTER TABLE book ADD COLUMN price INTEGER"];
    migrate(&a, &again);
    run(&b, "UPDATE book SET price = 6");
    pull(&b, &a).unwrap();
    assert_eq!(rows(&a, "SELECT price FROM book"), ["Null"], "the old column's value");
    assert_eq!(rows(&a, "SELECT cid, reason FROM crsql_parked").len(), 1);
    pull(&a, &c).unwrap();
    assert_eq!(rows(&c, "SELECT price FROM book"), ["Integer(6)"], "but it is relayed to who still has it");
    run(&a, "UPDATE book SET price = 70");
    pull(&a, &c).unwrap();
    assert_eq!(rows(&c, "SELECT price FROM book"), ["Integer(6)"]);
    migrate(&b, &again);
    migrate(&c, &again);
    agree(&[&a, &b, &c], "book", &["Integer(1) Text([69, 109, 109, 97]) Integer(70)"]);
}

#[test]
fn renamed_and_back() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&a, "INSERT INTO book VALUES (1, 'Emma', 5)");
    migrate(&a, &["ALTER TABLE book RENAME COLUMN price TO cost"]);
    run(&a, "UPDATE book SET cost = 8");
    pull(&a, &b).unwrap();
    migrate(&a, &["ALTER TABLE book RENAME COLUMN cost TO price"]);
    agree(&[&a, &b, &c], "book", &["Integer(1) Text([69, 109, 109, 97]) Integer(8)"]);
}

#[test]
fn what_waits_is_joined_when_a_name_joins_it() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&a, "INSERT INTO book(id) VALUES (1), (2)");
    settle(&[&a, &b, &c]);
    // Only the new column, and under its last name: b cannot know that c means the same.
    migrate(&a, &["ALTER TABLE book ADD COLUMN shelf"]);
    run(&a, "UPDATE book SET shelf = 1");
    pull(&a, &b).unwrap();
    migrate(&c, &["ALTER TABLE book ADD COLUMN place"]);
    run(&c, "UPDATE book SET place = 2 WHERE id = 2");
    pull(&c, &b).unwrap();
    assert_eq!(int(&b, "SELECT count(*) FROM crsql_parked"), 3);
    migrate(&b, &["ALTER TABLE book ADD COLUMN place"]);
    assert_eq!(rows(&b, "SELECT place FROM book"), ["Null", "Integer(2)"]);
    migrate(&b, &["ALTER TABLE book RENAME COLUMN place TO shelf"]);
    assert_eq!(rows(&b, "SELECT shelf FROM book"), ["Integer(1)", "Integer(2)"]);
    assert_eq!(int(&b, "SELECT count(*) FROM crsql_parked"), 0);
    migrate(
        &a,
        &["ALTER TABLE book RENAME COLUMN shelf TO place", "ALTER TABLE book RENAME COLUMN place TO shelf"],
    );
    migrate(&c, &["ALTER TABLE book RENAME COLUMN place TO shelf"]);
    agree(&[&a, &b, &c], "book", &["Integer(1) Null Null Integer(1)", "Integer(2) Null Null Integer(2)"]);
}

#[test]
fn a_table_renamed_and_made_again() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&a, "INSERT INTO book VALUES (1, 'Emma', 5)");
    settle(&[&a, &b, &c]);
    let again = ["ALTER TABLE book RENAME TO old_book", BOOK];
    migrate(&a, &again);
    run(&a, "INSERT INTO book VALUES (1, 'new', 1); UPDATE old_book SET price = 6");
    run(&b, "INSERT INTO book VALUES (2, 'of b', 2)");
    settle(&[&a, &b, &c]);
    assert_eq!(rows(&b, "SELECT id, price FROM book"), ["Integer(1) Integer(6)", "Integer(2) Integer(2)"]);
    assert_eq!(int(&a, "SELECT count(*) FROM old_book"), 2);
    migrate(&b, &again);
    migrate(&c, &again);
    agree(&[&a, &b, &c], "book", &["Integer(1) Text([110, 101, 119]) Integer(1)"]);
    let of_b = "Integer(2) Text([111, 102, 32, 98]) Integer(2)";
    agree(&[&a, &b, &c], "old_book", &["Integer(1) Text([69, 109, 109, 97]) Integer(6)", of_b]);
}

#[test]
fn a_table_dropped_and_made_again() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    run(&a, "INSERT INTO book VALUES (1, 'Emma', 5)");
    settle(&[&a, &b, &c]);
    let again = ["DROP TABLE book", BOOK];
    migrate(&a, &again);
    run(&b, "UPDATE book SET price = 6; INSERT INTO book(id) VALUES (2)");
    pull(&b, &a).unwrap();
    assert_eq!(int(&a, "SELECT count(*) FROM book"), 0, "rows of the table that was dropped");
    assert_eq!(rows(&a, "SELECT DISTINCT reason FROM crsql_parked").len(), 1);
    pull(&a, &c).unwrap();
    assert_eq!(rows(&c, "SELECT id, price FROM book"), ["Integer(1) Integer(6)", "Integer(2) Null"]);
    run(&a, "INSERT INTO book(id, price) VALUES (7, 7)");
    settle(&[&a, &b, &c]);
    assert_eq!(int(&b, "SELECT count(*) FROM book WHERE id = 7"), 0);
    migrate(&b, &again);
    migrate(&c, &again);
    agree(&[&a, &b, &c], "book", &["Integer(7) Null Integer(7)"]);
}

#[test]
fn a_table_renamed_and_back() {
    let files = Files::new();
    let [a, b, c] = three(&files);
    migrate(&a, &["ALTER TABLE book RENAME TO item"]);
    run(&a, "INSERT INTO item(id) VALUES (1)");
    pull(&a, &b).unwrap();
    migrate(&a, &["ALTER TABLE item RENAME TO book"]);
    agree(&[&a, &b, &c], "book", &["Integer(1) Null Null"]);
}

#[test]
fn a_fresh_file_of_the_final_schema_is_refused_and_nothing_is_applied() {
    let files = Files::new();
    let a = files.open("a.db", BOOK);
    migrate(&a, &RENAME_AND_ADD);
    run(&a, "INSERT INTO seen VALUES (1); INSERT INTO book VALUES (1, 'Emma', 5, 6)");
    let fresh = files.open(
        "fresh.db",
        "CREATE TABLE book(id INTEGER PRIMARY KEY, title TEXT, old_price INTEGER, price INTEGER); \
         CREATE TABLE seen(k INTEGER PRIMARY KEY); SELECT crsql_as_crr('book'), crsql_as_crr('seen');",
    );
    run(&fresh, "INSERT INTO book(id) VALUES (9)");
    let before = fresh.vector().unwrap();
    for (from, to, said) in [
        (
            &a,
            &fresh,
            "table \"book\": what the peer calls column \"old_price\" is two here, \"old_price\" and \"price\"",
        ),
        (
            &fresh,
            &a,
            "table \"book\": what is one column here, \"old_price\", is two at the peer, \"old_price\" and \"price\"",
        ),
    ] {
        let error = pull(from, to).unwrap_err();
        assert!(matches!(error, Error::Incompatible { .. }));
        assert!(error.to_string().starts_with(said), "{error}");
    }
    assert_eq!(fresh.vector().unwrap(), before);
    assert_eq!(int(&fresh, "SELECT (SELECT count(*) FROM book) + (SELECT count(*) FROM seen)"), 1);
    assert_eq!(fresh.verify().unwrap().problems, []);
    // It cannot be made replicated over what came before, either.
    let late = files.open("late.db", "SELECT crsql_db_version()");
    pull(&a, &late).unwrap();
    run(&late, "CREATE TABLE book(id INTEGER PRIMARY KEY, title TEXT, old_price INTEGER, price INTEGER)");
    let refused = late.replicate("book").unwrap_err();
    assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
}

#[test]
fn what_was_dropped_and_what_lives_is_not_one() {
    let files = Files::new();
    let [a, b, _] = three(&files);
    migrate(&a, &["ALTER TABLE book RENAME COLUMN price TO cost"]);
    migrate(&b, &["ALTER TABLE book DROP COLUMN price", "ALTER TABLE book ADD COLUMN cost INTEGER"]);
    run(&a, "INSERT INTO book VALUES (1, 'x', 1)");
    let error = pull(&a, &b).unwrap_err().to_string();
    assert!(error.contains("\"cost\"") && error.contains("\"price\" (dropped)"), "{error}");
}

#[test]
fn a_plain_table_and_a_replicated_one_again() {
    let files = Files::new();
    let [a, b, _] = three(&files);
    migrate(&a, &RENAME_AND_ADD);
    run(&a, "INSERT INTO book VALUES (1, 'x', 1, 2)");
    // Again and again, and something was dropped before: the columns keep small numbers and what they are.
    migrate(&a, &["ALTER TABLE book ADD COLUMN x", "ALTER TABLE book DROP COLUMN x"]);
    for _ in 0..3 {
        run(&a, "SELECT crsql_as_table('book'); SELECT crsql_as_crr('book')");
    }
    assert_eq!(int(&a, "SELECT max(id) FROM crsql_columns WHERE name IN ('title', 'price', 'old_price')"), 2);
    assert_eq!(int(&a, "SELECT count(*) FROM crsql_names WHERE name = 'x' AND ended"), 1);
    run(&a, "SELECT crsql_as_table('book')");
    run(&b, "INSERT INTO book VALUES (2, 'y', 3)");
    pull(&b, &a).unwrap();
    run(&a, "SELECT crsql_as_crr('book')");
    assert_eq!(rows(&a, "SELECT old_price, price FROM book WHERE id = 2"), ["Integer(3) Null"]);
    migrate(&b, &RENAME_AND_ADD);
    let rows = ["Integer(1) Text([120]) Integer(1) Integer(2)", "Integer(2) Text([121]) Integer(3) Null"];
    agree(&[&a, &b], "book", &rows);
}

#[test]
fn another_key_keeps_the_names() {
    let files = Files::new();
    let [a, b, _] = three(&files);
    let rekey = [
        "ALTER TABLE book RENAME COLUMN price TO cost",
        "BEGIN; CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, title TEXT, cost INTEGER); INSERT INTO new SELECT * FROM book; \
         DROP TABLE book; ALTER TABLE new RENAME TO book; SELECT crsql_as_crr('book'); COMMIT",
    ];
    for r in [&a, &b] {
        migrate(r, &rekey);
        migrate(r, &["ALTER TABLE book ADD COLUMN price"]);
    }
    run(&a, "INSERT INTO book VALUES ('k', 'x', 1, 2)");
    agree(&[&a, &b], "book", &["Text([107]) Text([120]) Integer(1) Integer(2)"]);
}

#[test]
fn automigrate_drops_and_adds() {
    let files = Files::new();
    let [a, b, _] = three(&files);
    run(&a, "INSERT INTO book VALUES (1, 'x', 5)");
    pull(&a, &b).unwrap();
    let wanted = "CREATE TABLE IF NOT EXISTS book(id INTEGER PRIMARY KEY, title TEXT, stock INTEGER)";
    for r in [&a, &b] {
        run(r, &format!("SELECT crsql_automigrate('{wanted}')"));
    }
    assert_eq!(
        int(&a, "SELECT count(*) FROM crsql_changes WHERE cid = 'stock'"),
        0,
        "it is no rename of price"
    );
    run(&b, "UPDATE book SET stock = 3");
    agree(&[&a, &b], "book", &["Integer(1) Text([120]) Integer(3)"]);
}

#[test]
fn row_by_row_a_name_is_what_is_called_so_now() {
    let files = Files::new();
    let [a, _, _] = three(&files);
    migrate(&a, &RENAME_AND_ADD);
    run(&a, "INSERT INTO book VALUES (1, 'x', 1, 2)");
    let tell = |cid: &str, val: i64, n: i64| {
        format!(
            "INSERT INTO crsql_changes VALUES ('book', crsql_pack_columns(1), '{cid}', {val}, \
             (SELECT max(col_version) FROM crsql_changes) + {n}, {n}, x'00112233445566778899aabbccddeeff', 1, 0)"
        )
    };
    run(&a, &tell("price", 20, 1));
    assert_eq!(rows(&a, "SELECT old_price, price FROM book"), ["Integer(1) Integer(20)"]);
    // Else what was called so; else the last that was dropped.
    migrate(&a, &["ALTER TABLE book RENAME COLUMN title TO name"]);
    run(&a, &tell("title", 3, 2));
    assert_eq!(rows(&a, "SELECT name FROM book"), ["Text([51])"]);
    migrate(&a, &["ALTER TABLE book DROP COLUMN price"]);
    run(&a, &tell("price", 30, 3));
    assert_eq!(rows(&a, "SELECT old_price FROM book"), ["Integer(30)"], "it was called price once");
    migrate(&a, &["ALTER TABLE book DROP COLUMN old_price"]);
    run(&a, &tell("price", 40, 4));
    assert_eq!(
        int(&a, "SELECT count(*) FROM crsql_parked WHERE reason = 'column was dropped' AND cid = 'price'"),
        1
    );
    assert_eq!(int(&a, "SELECT count(*) FROM crsql_changes WHERE cid = 'price' AND val = 40"), 1);
}
