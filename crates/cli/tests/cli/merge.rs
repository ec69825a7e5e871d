use crate::{BOOKS, Folder, two};
use serde_json::json;

#[test]
fn both_ways_and_equal() {
    let f = two();
    f.run("diff a.db b.db").fails(1, &[]);
    let ran = f.run("merge a.db b.db").ok();
    assert!(ran.out.contains("a.db <- 1 transaction, 1 row: 3 changes taken"), "{}", ran.out);
    assert!(ran.out.contains("b.db <- 1 transaction, 2 rows: 6 changes taken"), "{}", ran.out);
    assert!(f.run("diff a.db b.db").ok().out.contains("equal: 1 table, 3 rows"));
    let nothing = f.run("merge a.db b.db --json").ok().json();
    assert_eq!((&nothing["a"]["transactions"], &nothing["b"]["transactions"]), (&json!(0), &json!(0)));
    f.sql("a.db", "UPDATE books SET price = 1 WHERE id = 1; DELETE FROM books WHERE id = 3");
    f.sql(
        "b.db",
        "UPDATE books SET price = 2, stock = 7 WHERE id = 1; UPDATE books SET title = 'x' WHERE id = 3",
    );
    f.run("merge b.db a.db").ok();
    f.run("diff a.db b.db").ok();
    assert_eq!(f.rows("a.db", "SELECT * FROM books ORDER BY id"), "1|Emma|2.0|7;2|Dune|7.0|2");
    for db in ["a.db", "b.db"] {
        f.run(&format!("verify {db}")).ok();
    }
}

#[test]
fn schemas_that_differ() {
    let f = two();
    f.sql("a.db", "ALTER TABLE books ADD COLUMN shelf TEXT; UPDATE books SET shelf = 'A' WHERE id = 1");
    f.init(
        "b.db",
        "CREATE TABLE own(id TEXT PRIMARY KEY); SELECT crsql_as_crr('own'); INSERT INTO own VALUES ('x');",
    );
    let ran = f.run("merge a.db b.db").ok();
    assert!(ran.out.contains("parked"), "{}", ran.out);
    let diff = f.run("diff a.db b.db").fails(1, &[]);
    assert!(diff.out.contains("\"own\" is only in b.db"), "{}", diff.out);
    assert!(diff.out.contains("column \"shelf\" of table \"books\" is only in a.db"), "{}", diff.out);
    f.sql("b.db", "ALTER TABLE books ADD COLUMN shelf TEXT; INSERT INTO books(id) VALUES (50)");
    f.init("a.db", "CREATE TABLE own(id TEXT PRIMARY KEY); SELECT crsql_as_crr('own');");
    f.run("merge a.db b.db").ok();
    f.run("diff a.db b.db").ok();
    assert_eq!(f.rows("b.db", "SELECT shelf FROM books WHERE id = 1"), "A");
    assert_eq!(f.rows("a.db", "SELECT id FROM own"), "x");
}

#[test]
fn diff_shows_what_differs() {
    let f = two();
    f.run("merge a.db b.db").ok();
    f.sql(
        "a.db",
        "UPDATE books SET title = 'it''s', price = 1.0 WHERE id = 1; INSERT INTO books(id) VALUES (10), (11)",
    );
    f.sql("b.db", "DELETE FROM books WHERE id = 2; INSERT INTO books(id) VALUES (12)");
    let ran = f.run("diff a.db b.db").fails(1, &[]);
    for line in [
        "books 1: title 'it''s' | 'Emma', price 1.0 | 4.5",
        "books 2: only in a.db",
        "books 12: only in b.db",
        "books: 3 rows only left, 1 only right, 1 different",
    ] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
    let ran = f.run("diff a.db b.db --rows 1").fails(1, &[]);
    assert!(ran.out.contains("and 4 more differing rows"), "{}", ran.out);
    let json = f.run("diff a.db b.db --json").fails(1, &[]).json();
    assert_eq!(json["equal"], json!(false));
    let t = json!([{ "name": "books", "rows_a": 5, "rows_b": 3, "only_a": 3, "only_b": 1, "different": 1 }]);
    assert_eq!(json["tables"], t);
    assert_eq!(
        json["rows"][0]["difference"]["cells"][0],
        json!({ "column": "title", "a": "it's", "b": "Emma" })
    );
    f.run("merge a.db b.db").ok();
    assert_eq!(f.run("diff a.db b.db --json").ok().json()["equal"], json!(true));
}

#[test]
fn diff_of_keys_of_all_types_and_of_plain_tables() {
    let f = Folder::new();
    let schema =
        "CREATE TABLE k(a, b, v, PRIMARY KEY(a, b)); SELECT crsql_as_crr('k'); CREATE TABLE plain(x, y);";
    f.init("a.db", schema);
    f.init("b.db", schema);
    f.sql(
        "a.db",
        "INSERT INTO k VALUES (1, 'x', 1), (1.5, 'x', 1), ('a', x'00', 1), (x'ff', 2, 1), (-3, 'y', NULL)",
    );
    f.run("merge a.db b.db").ok();
    f.run("diff a.db b.db").ok();
    f.sql("b.db", "UPDATE k SET v = 2 WHERE a = x'ff'; INSERT INTO plain VALUES (1, 2)");
    let ran = f.run("diff a.db b.db").fails(1, &[]);
    assert!(ran.out.contains("k (x'ff', 2): v 1 | 2") && !ran.out.contains("plain"), "{}", ran.out);
    let ran = f.run("diff a.db b.db --all").fails(1, &[]);
    assert!(ran.out.contains("plain (1, 2): only in b.db"), "{}", ran.out);
    f.sql("a.db", "DROP TABLE plain; CREATE TABLE plain(x INT PRIMARY KEY, y TEXT DEFAULT 'z')");
    let ran = f.run("diff a.db b.db --all").fails(1, &[]);
    assert!(
        ran.out.contains("\"x\" of table \"plain\" is declared in two ways: INT (key 1) | no type"),
        "{}",
        ran.out
    );
}

#[test]
fn copies_of_one_file() {
    let f = two();
    std::fs::copy(f.path("a.db"), f.path("c.db")).expect("copy");
    let site = |db: &str| f.run(&format!("status {db} --json")).ok().json()["site_id"].clone();
    assert_eq!(site("a.db"), site("c.db"));
    f.sql("a.db", "UPDATE books SET stock = 1");
    f.sql("c.db", "UPDATE books SET stock = 2; INSERT INTO books(id) VALUES (9)");
    let ran = f.run("merge a.db c.db").ok();
    assert!(ran.err.contains("was a copy"), "{}", ran.err);
    assert_ne!(site("a.db"), site("c.db"));
    f.run("diff a.db c.db").ok();
    for db in ["a.db", "c.db"] {
        f.run(&format!("verify {db}")).ok();
    }
}

#[test]
fn one_that_cannot_be_merged_leaves_the_other_alone() {
    let f = two();
    f.plain("plain.db").execute_batch("CREATE TABLE t(x)").expect("sql");
    f.run("merge a.db plain.db").fails(4, &["plain.db has no replicated tables"]);
    f.run("merge a.db missing.db").fails(3, &["missing.db does not exist"]);
    assert!(!f.path("missing.db").exists());
    f.init("c.db", BOOKS);
    f.run("diff a.db missing.db").fails(3, &["missing.db"]);
    assert_eq!(f.rows("a.db", "SELECT count(*) FROM books"), "2");
}
