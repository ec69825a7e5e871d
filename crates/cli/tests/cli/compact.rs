use crate::{Folder, two};
use serde_json::json;

/// Deleted rows and overwritten transactions.
fn used() -> Folder {
    let f = two();
    f.sql("a.db", "DELETE FROM books WHERE id = (SELECT min(id) FROM books)");
    for n in 0..10 {
        f.sql("a.db", &format!("UPDATE books SET title = 'edition {n}'"));
    }
    f
}

#[test]
fn nothing_is_forgotten_that_somebody_may_need() {
    let f = used();
    f.run("compact a.db").fails(5, &["a.db", "nobody has told this file", "--force"]);
    f.run("compact a.db --json").fails(5, &["--force"]);
    f.run("merge a.db b.db").ok();
    f.run("diff a.db b.db").ok();
    f.sql(
        "a.db",
        "INSERT INTO crsql_changes VALUES ('books', crsql_pack_columns(9), 'title', 'x', 1, 1, x'00112233445566778899aabbccddeeff', 1, 0)",
    );
    f.run("compact a.db").fails(5, &["row by row", "--force"]);
    f.run("compact a.db --force").ok();
}

#[test]
fn the_operator_declares_that_nobody_is_behind() {
    let f = used();
    let ran = f.run("compact a.db --force --json").ok().json();
    assert_eq!(
        (&ran["tombstones"], &ran["transactions"], &ran["below_horizon"]),
        (&json!(1), &json!(12), &json!(12))
    );
    assert_eq!(ran["log_rows"], json!(9));
    let ran = f.run("compact a.db").ok();
    assert!(
        ran.out.contains("0 deleted rows forgotten, 0 log rows merged into ranges; 12 of 12 transactions"),
        "{}",
        ran.out
    );
    let ran = f.run("compact a.db --force --vacuum").ok();
    assert!(ran.out.contains(" bytes, before "), "{}", ran.out);
    f.run("verify a.db").ok();
    // Who had nothing of it is welcome.
    f.run("merge a.db b.db").ok();
    f.run("diff a.db b.db").ok();
    f.run("verify b.db").ok();
}

#[test]
fn who_is_behind_is_told_so() {
    let f = used();
    f.run("merge a.db b.db").ok();
    f.sql("a.db", "DELETE FROM books");
    f.run("compact a.db --force").ok();
    f.sql("b.db", "UPDATE books SET title = 'b'");
    f.run("merge a.db b.db").fails(5, &["a.db and b.db", "lacks versions", "start over from a snapshot"]);
    f.run("verify b.db").ok();
}

#[test]
fn files_that_are_not_ours() {
    let f = Folder::new();
    f.run("compact nowhere.db --force").fails(3, &["nowhere.db"]);
    f.plain("plain.db").execute_batch("CREATE TABLE t(x)").expect("sql");
    f.run("compact plain.db --force").fails(4, &["no replicated tables"]);
    f.run("compact plain.db --unseen-days -1").fails(2, &["-1"]);
}
