//! Databases of cr-sqlite become Rejoin's and say afterwards what they said before.

use crate::sql::{error, file, row, rows};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CHANGES: &str = "SELECT \"table\", hex(pk), cid, quote(val), col_version, db_version, hex(site_id), cl, seq \
     FROM crsql_changes";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cr-sqlite")
}

/// A copy of a fixture, opened with the engine.
fn old(name: &str) -> (TempDir, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::copy(fixtures().join(name), &path).unwrap();
    let conn = file(&path);
    (dir, conn)
}

/// What the old engine printed: changes as `CHANGES` shows them, site id, db_version.
fn expected(name: &str) -> (Vec<String>, String, String) {
    let json = std::fs::read_to_string(fixtures().join(format!("{name}.expected.json"))).unwrap();
    let conn = Connection::open_in_memory().unwrap();
    conn.execute("CREATE TABLE j AS SELECT ?1 AS j", [json]).unwrap();
    let hex = |path: &str| format!("upper(json_extract(c.value, '{path}.blob'))");
    let changes = format!(
        "SELECT json_extract(c.value, '$[0]'), {}, json_extract(c.value, '$[2]'), \
         iif(json_type(c.value, '$[3]') = 'object', 'X''' || {} || '''', quote(json_extract(c.value, '$[3]'))), \
         json_extract(c.value, '$[4]'), json_extract(c.value, '$[5]'), {}, json_extract(c.value, '$[7]'), \
         json_extract(c.value, '$[8]') FROM j, json_each(j, '$.changes') AS c",
        hex("$[1]"),
        hex("$[3]"),
        hex("$[6]")
    );
    let site = row(&conn, "SELECT upper(json_extract(j, '$.site_id.blob')) FROM j");
    (rows(&conn, &changes), site, row(&conn, "SELECT json_extract(j, '$.db_version') FROM j"))
}

fn leftovers(conn: &Connection) -> Vec<String> {
    rows(
        conn,
        "SELECT name FROM sqlite_schema WHERE name LIKE '%\\_\\_crsql\\_clock%' ESCAPE '\\' OR name LIKE '%\\_\\_crsql\\_pks%' \
         ESCAPE '\\' OR name LIKE '%\\_\\_crsql\\__trig' ESCAPE '\\' OR name IN ('crsql_master', '__crsql_siteid', \
         'crsql_site_id', 'crsql_db_versions')",
    )
}

#[test]
fn changes_are_what_the_old_engine_gave() {
    for name in ["vlcn-0.16.3.db", "fly-0.17.0.db"] {
        let (_dir, conn) = old(name);
        let data = rows(&conn, "SELECT * FROM book ORDER BY 1");
        let peers = rows(&conn, "SELECT * FROM crsql_tracked_peers");
        assert_eq!(peers.len(), 1);
        row(&conn, "SELECT crsql_upgrade()");
        let (changes, site, db_version) = expected(name);
        assert!(changes.len() > 150);
        assert_eq!(rows(&conn, CHANGES), changes, "{name}");
        assert_eq!(row(&conn, "SELECT crsql_site_id()"), site);
        assert_eq!(row(&conn, "SELECT crsql_db_version()"), db_version);
        assert_eq!(rows(&conn, "SELECT * FROM book ORDER BY 1"), data);
        assert_eq!(rows(&conn, "SELECT * FROM crsql_tracked_peers"), peers);
        assert_eq!(row(&conn, "SELECT crsql_config_get('clock')"), "lamport");
        assert_eq!(leftovers(&conn), Vec::<String>::new());
        assert_eq!(row(&conn, "PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn the_first_0_15() {
    let (_dir, conn) = old("vlcn-0.15.0.db");
    row(&conn, "SELECT crsql_upgrade()");
    let own = "BED587457E744B808F4636B7A1BDD466";
    let want = [
        format!("foo|010903|b|4|1|1|{own}|1|1"),
        format!("foo|010905|b|6|1|1|{own}|1|2"),
        format!("foo|010901|-1|NULL|2|2|{own}|2|0"),
    ];
    assert_eq!(rows(&conn, CHANGES), want);
    assert_eq!(row(&conn, "SELECT crsql_site_id(), crsql_db_version()"), format!("{own}|2"));
    assert_eq!(leftovers(&conn), Vec::<String>::new());
    // The deleted key comes back with its causal length.
    conn.execute("INSERT INTO foo VALUES (1, 'again')", []).unwrap();
    let again = rows(&conn, &format!("{CHANGES} WHERE db_version > 2"));
    assert_eq!(
        again,
        [format!("foo|010901|-1|NULL|3|3|{own}|3|0"), format!("foo|010901|b|'again'|1|3|{own}|3|1")]
    );
}

#[test]
fn everything_else_is_refused_before() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    let before = rows(&conn, "SELECT name, sql FROM sqlite_schema");
    for sql in [
        "SELECT crsql_site_id()",
        "SELECT crsql_db_version()",
        "SELECT * FROM crsql_changes",
        "SELECT crsql_as_crr('book')",
        "SELECT crsql_config_set('clock', 'lamport')",
        "SELECT crsql_automigrate('')",
        "INSERT INTO crsql_changes VALUES ('book', x'010901', 'title', 1, 1, 1, NULL, 1, 0)",
    ] {
        assert!(error(&conn, sql).contains("rejoin upgrade"), "{sql}");
    }
    assert_eq!(rows(&conn, "SELECT name, sql FROM sqlite_schema"), before);
}

#[test]
fn a_converted_file_goes_on() {
    let (dir, conn) = old("vlcn-0.16.3.db");
    row(&conn, "SELECT crsql_upgrade()");
    conn.execute("UPDATE book SET price = 99 WHERE isbn = '9780000000000'", []).unwrap();
    let change = rows(
        &conn,
        "SELECT cid, val, col_version, db_version, cl, seq FROM crsql_changes WHERE db_version > 67",
    );
    assert_eq!(change, ["price|99.0|2|68|1|0"]);
    // Another connection, another row of the list, between two that the old engine had placed.
    drop(conn);
    let conn = file(&dir.path().join("vlcn-0.16.3.db"));
    conn.execute("INSERT INTO task_fractindex (id, list, title, after_id) VALUES (500, 1, 'new', 0)", [])
        .unwrap();
    let order = rows(&conn, "SELECT id FROM task WHERE list = 1 ORDER BY pos");
    assert_eq!(order.get(..3).unwrap(), ["0", "500", "1"]);
    // A merge of a peer that still runs cr-sqlite: it counts on from the version that it knows.
    let merge = "INSERT INTO crsql_changes SELECT \"table\", pk, cid, 'theirs', col_version + 1, db_version, \
         x'00112233445566778899AABBCCDDEEFF', cl, seq FROM crsql_changes WHERE \"table\" = 'book' AND cid = 'title' LIMIT 1";
    conn.execute(merge, []).unwrap();
    assert_eq!(row(&conn, "SELECT count(*) FROM book WHERE title = 'theirs'"), "1");
}

/// Rows on one position: the triggers of the old engine call a function of its own.
#[test]
fn old_lists_part_twins() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    row(&conn, "SELECT crsql_upgrade()");
    conn.execute_batch(
        "INSERT INTO task VALUES (601, 9, 'a', 'a '), (602, 9, 'b', 'a!'), (603, 9, 'c', 'a!'); \
         INSERT INTO task_fractindex (id, list, title, after_id) VALUES (604, 9, 'd', 602);",
    )
    .unwrap();
    let order = rows(&conn, "SELECT id, pos FROM task WHERE list = 9 ORDER BY pos");
    assert_eq!(order, ["601|a ", "602|a P", "604|a h", "603|a!"]);
}

#[test]
fn whole_or_not_at_all() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    let before = rows(&conn, "SELECT name, sql FROM sqlite_schema ORDER BY 1");
    conn.execute_batch("BEGIN; SELECT crsql_upgrade(); INSERT INTO tag VALUES ('x'); ROLLBACK").unwrap();
    assert_eq!(rows(&conn, "SELECT name, sql FROM sqlite_schema ORDER BY 1"), before);
    // What cannot be replicated stops the conversion; the sentence names it.
    conn.execute_batch("CREATE UNIQUE INDEX titles ON book(isbn, title)").unwrap();
    assert!(error(&conn, "SELECT crsql_upgrade()").contains("titles"));
    conn.execute_batch("DROP INDEX titles; UPDATE book__crsql_clock SET site_id = 77").unwrap();
    assert!(error(&conn, "SELECT crsql_upgrade()").contains("ordinal 77"));
    conn.execute_batch("UPDATE book__crsql_clock SET site_id = 0, col_version = -1").unwrap();
    assert!(error(&conn, "SELECT crsql_upgrade()").contains("book"));
    assert_eq!(rows(&conn, "SELECT name, sql FROM sqlite_schema ORDER BY 1"), before);
    conn.execute_batch("UPDATE book__crsql_clock SET col_version = 3; BEGIN; SELECT crsql_upgrade(); COMMIT")
        .unwrap();
    assert_eq!(
        row(&conn, "SELECT min(col_version), max(col_version) FROM crsql_changes WHERE \"table\" = 'book'"),
        "3|3"
    );
}

#[test]
fn nothing_to_convert() {
    let conn = crate::sql::memory();
    assert!(error(&conn, "SELECT crsql_upgrade()").contains("not written by cr-sqlite"));
    row(&conn, "SELECT crsql_site_id()");
    assert!(error(&conn, "SELECT crsql_upgrade()").contains("already"));
}

/// What a careful program of cr-sqlite never has, and files in the field do.
#[test]
fn odd_files() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    conn.execute_batch(
        "DROP TRIGGER note__crsql_dtrig; DROP TRIGGER note__crsql_itrig; DROP TRIGGER note__crsql_utrig; \
         DELETE FROM note__crsql_clock; DELETE FROM note__crsql_pks; DELETE FROM note; \
         INSERT INTO note__crsql_pks VALUES (1, 1), (2, 2), (3, 3), (4, 4); \
         INSERT INTO note__crsql_clock VALUES (1, 'body', 1, 5, 0, 0), (2, 'body', 1, 6, 0, 0), (3, '-1', 2, 7, 0, 0), \
           (4, 'gone', 1, 8, 0, 0), (4, 'body', 0, 8, 1, 1); \
         INSERT INTO note VALUES (2, 'kept', NULL, 0), (3, 'over a tombstone', NULL, 0), (4, 'old cell', NULL, 0), (5, 'unknown', NULL, 0); \
         DROP TABLE line; INSERT INTO crsql_master VALUES ('pre_compact_dbversion', 90) ON CONFLICT DO UPDATE SET value = 90; \
         INSERT INTO crsql_site_id VALUES (x'0102', 40);",
    )
    .unwrap();
    row(&conn, "SELECT crsql_upgrade()");
    assert_eq!(row(&conn, "SELECT crsql_db_version()"), "90");
    let note = "SELECT hex(pk), cid, quote(val), col_version, db_version, cl, seq FROM crsql_changes WHERE \"table\" = 'note' \
         AND cid IN ('-1', 'body') ORDER BY db_version, seq";
    assert_eq!(
        rows(&conn, note),
        [
            "010902|body|'kept'|1|6|1|0",
            "010904|body|'old cell'|0|8|1|1",
            // Taken over as crsql_commit_alter does: a new life, a new row.
            "010903|-1|NULL|3|90|3|0",
            "010903|body|'over a tombstone'|1|90|3|1",
            "010905|body|'unknown'|1|90|1|4",
        ]
    );
    assert_eq!(row(&conn, "SELECT count(*) FROM crsql_changes WHERE \"table\" = 'line'"), "0");
    assert_eq!(leftovers(&conn), Vec::<String>::new());
    // The next version is the one after the floor.
    conn.execute("UPDATE note SET body = 'n' WHERE id = 2", []).unwrap();
    assert_eq!(row(&conn, "SELECT crsql_db_version()"), "91");
}

/// Keys that were two to cr-sqlite and are one to the table.
#[test]
fn one_identity_of_several_spellings() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    conn.execute_batch(
        "DROP TABLE tag; DELETE FROM tag__crsql_clock; DELETE FROM tag__crsql_pks; \
         CREATE TABLE tag(name TEXT PRIMARY KEY NOT NULL COLLATE NOCASE); INSERT INTO tag VALUES ('a'); \
         INSERT INTO tag__crsql_pks VALUES (1, 'A'), (2, 'a'), (3, 'B'), (4, 'b'); \
         INSERT INTO tag__crsql_clock VALUES (1, '-1', 2, 5, 0, 0), (2, '-1', 1, 6, 0, 0), (3, '-1', 2, 7, 0, 0), (4, '-1', 4, 8, 0, 0);",
    )
    .unwrap();
    row(&conn, "SELECT crsql_upgrade()");
    let tags = rows(&conn, "SELECT hex(pk), cl, db_version FROM crsql_changes WHERE \"table\" = 'tag'");
    assert_eq!(tags, ["010B0161|1|6", "010B0162|4|8"]);
}

/// All old versions are one transaction for native sync, and a peer that gets it has what the file had.
#[test]
fn many_versions_one_transaction() {
    let (_dir, conn) = old("vlcn-0.16.3.db");
    row(&conn, "SELECT crsql_upgrade()");
    let log = row(
        &conn,
        "SELECT count(*) > 60, count(DISTINCT version), count(DISTINCT site), min(version) FROM crsql_log",
    );
    assert_eq!(log, "1|1|1|1");
    assert_eq!(row(&conn, "SELECT first, last FROM crsql_vector"), "1|1");
}
