use crate::{BOOKS, Folder, two};
use serde_json::json;

#[test]
fn status_for_people_and_programs() {
    let f = two();
    f.sql("a.db", "DELETE FROM books WHERE id = 2");
    f.run("merge a.db b.db").ok();
    let s = f.run("status a.db --json").ok().json();
    assert_eq!(s["tables"][0]["name"], "books");
    assert_eq!((&s["tables"][0]["rows"], &s["tables"][0]["tombstones"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&s["mode"], &s["clock"], &s["format"], &s["lineage"]),
        (&json!("shared"), &json!("hlc"), &json!(1), &json!(null))
    );
    let own = s["site_id"].as_str().expect("site");
    assert_eq!(s["vector"][own], json!([[1, 2]]));
    assert_eq!(s["vector"].as_object().map(serde_json::Map::len), Some(2));
    let text = f.run("status a.db").ok().out;
    assert!(text.contains(own) && text.contains("(this one)") && text.contains("books"), "{text}");
}

#[test]
fn a_file_without_metadata_stays_without() {
    let f = Folder::new();
    f.plain("a.db").execute_batch("CREATE TABLE t(x)").expect("sql");
    assert!(f.run("status a.db").ok().out.contains("no replicated tables"));
    assert_eq!(f.run("status a.db --json").ok().json()["site_id"], json!(null));
    assert_eq!(f.rows("a.db", "SELECT count(*) FROM sqlite_schema"), "1");
}

#[test]
fn changes_are_listed() {
    let f = two();
    f.sql(
        "a.db",
        "DELETE FROM books WHERE id = 2; INSERT INTO books(id, title) VALUES (9, 'it''s' || char(10) || 'x')",
    );
    let lines: Vec<serde_json::Value> = f
        .run("changes a.db --json")
        .ok()
        .out
        .lines()
        .map(|l| serde_json::from_str(l).expect("one object a line"))
        .collect();
    assert_eq!(lines.len(), 7);
    let first = &lines[0];
    assert_eq!(
        (&first["table"], &first["key"], &first["cid"]),
        (&json!("books"), &json!([1]), &json!("title"))
    );
    assert_eq!((&first["val"], &first["pk"], &first["cl"]), (&json!("Emma"), &json!("010901"), &json!(1)));
    let dead = lines.iter().find(|l| l["cid"] == "-1").expect("a tombstone");
    assert_eq!((&dead["key"], &dead["cl"], &dead["val"]), (&json!([2]), &json!(2), &json!(null)));
    assert_eq!(f.run("changes a.db --since 2").ok().out.lines().count(), 3);
    let text = f.run("changes a.db").ok().out;
    assert!(text.contains("books 2: deleted") && text.contains("title = 'it''s\\nx'"), "{text}");
    assert_eq!(f.run("changes a.db --since 99").ok().out, "");
}

#[test]
fn values_that_json_lacks() {
    let f = Folder::new();
    f.init("a.db", &BOOKS.replace("title TEXT", "title"));
    f.sql("a.db", "INSERT INTO books(id, title) VALUES (1, x'00ff'), (2, 9e999), (3, 9223372036854775807), (4, CAST(x'ff' AS TEXT))");
    let out = f.run("changes a.db --json").ok().out;
    for expected in
        ["{\"blob\":\"00ff\"}", "{\"real\":\"inf\"}", "\"val\":9223372036854775807", "{\"text\":\"ff\"}"]
    {
        assert!(out.contains(expected), "{expected}: {out}");
    }
}

#[test]
fn what_waits_is_named() {
    let f = two();
    f.sql("a.db", "ALTER TABLE books ADD COLUMN shelf TEXT; UPDATE books SET shelf = 'A'");
    f.run("merge a.db b.db").ok();
    let s = f.run("status b.db --json").ok().json();
    assert_eq!(s["parked"], json!([{ "table": "books", "reason": "no such column", "changes": 2 }]));
    assert!(f.run("status b.db").ok().out.contains("parked: 2 changes of table \"books\": no such column"));
}

#[test]
fn the_reader_of_a_pipe_may_go_away() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.sql(
        "a.db",
        "INSERT INTO books(id, title) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
         SELECT i, 'title ' || i FROM n",
    );
    let mut child = f
        .command(&["changes", "a.db"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("run rejoin");
    drop(child.stdout.take());
    let out = child.wait_with_output().expect("wait");
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
