use crate::{BOOKS, Folder, two};
use serde_json::json;

#[test]
fn a_sound_file() {
    let f = two();
    f.run("merge a.db b.db").ok();
    assert!(f.run("verify a.db").ok().out.contains("1 table, 3 records, 2 transactions: all is well"));
    assert_eq!(f.run("verify a.db --json").ok().json()["ok"], json!(true));
    assert!(f.run("verify a.db --repair").ok().out.contains("all is well"));
}

#[test]
fn rows_that_went_unseen() {
    let f = two();
    f.plain("a.db")
        .execute_batch("DROP TRIGGER crsql_insert_1; INSERT INTO books(id, title) VALUES (77, 'smuggled')")
        .expect("sql");
    let ran = f.run("verify a.db").fails(1, &["rejoin verify a.db --repair"]);
    assert!(ran.out.contains("table \"books\", key 77: the row has no metadata"), "{}", ran.out);
    assert!(ran.out.contains("crsql_insert_1") && ran.out.contains("2 problems"), "{}", ran.out);
    let found = f.run("verify a.db --json").fails(1, &[]).json();
    assert_eq!((&found["ok"], &found["problems"][1]["key"]), (&json!(false), &json!("77")));
    assert!(f.run("verify a.db --repair").ok().out.contains("2 problems repaired"));
    f.run("verify a.db").ok();
    f.run("merge a.db b.db").ok();
    assert_eq!(f.rows("b.db", "SELECT title FROM books WHERE id = 77"), "smuggled");
}

#[test]
fn metadata_that_cannot_be_read() {
    let f = two();
    f.sql("a.db", "INSERT INTO books(id) VALUES (4)");
    f.plain("a.db").execute_batch("UPDATE crsql_log SET changes = x'0102ff' WHERE id = 2").expect("sql");
    f.run("status a.db").fails(7, &["a.db", "damaged", "rejoin verify"]);
    f.run("merge a.db b.db").fails(7, &["damaged"]);
    f.run("verify a.db").fails(1, &["--repair"]);
    f.run("verify a.db --repair").ok();
    f.run("merge a.db b.db").ok();
    f.run("diff a.db b.db").ok();
    assert_eq!(f.rows("b.db", "SELECT group_concat(id) FROM books"), "1,2,3,4");
}

#[test]
fn a_damaged_file() {
    let f = Folder::new();
    f.init("a.db", &format!("PRAGMA journal_mode = DELETE; {BOOKS}"));
    f.sql(
        "a.db",
        "INSERT INTO books(id, title) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         SELECT i, hex(zeroblob(20)) FROM n",
    );
    let root: usize =
        f.rows("a.db", "SELECT rootpage FROM sqlite_schema WHERE name = 'books'").parse().expect("root");
    let mut bytes = std::fs::read(f.path("a.db")).expect("read");
    let page = (root - 1) * 4096;
    bytes[page..page + 8].fill(0xee);
    f.write("a.db", bytes);
    let ran = f.run("verify a.db");
    assert!(ran.code == 1 || ran.code == 7, "{}: {} {}", ran.code, ran.out, ran.err);
    assert!(
        format!("{}{}", ran.out, ran.err).contains("integrity") || ran.err.contains("malformed"),
        "{}",
        ran.err
    );
    let ran = f.run("diff a.db a.db-missing");
    assert_eq!(ran.code, 3);
}
