//! Files of every storage format that was ever released open, say what they said, and go on.

use crate::util::{assert_equal, int, pull, rows, run};
use rejoin::{Options, Replica};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// `tests/fixtures/format-<n>/shop.db`, made by the script beside it.
const FORMATS: [i64; 1] = [1];

const CHANGES: &str = "SELECT json_array(\"table\", hex(pk), cid, quote(val), col_version, db_version, hex(site_id), cl, seq) \
     FROM crsql_changes";

/// What a table holds, without what is local.
const TABLES: [&str; 6] = ["item", "tag", "stock in \"shops\"", "mark", "todo", "after"];

fn fixture(format: i64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/fixtures/format-{format}/shop.db"))
}

/// A copy of the fixture of a format.
fn copy(format: i64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.db");
    std::fs::copy(fixture(format), &path).unwrap();
    (dir, path)
}

/// What the file must say: changes as `CHANGES` has them, and a line of site, db_version and vector.
fn expected(format: i64) -> (Vec<String>, String) {
    let json = std::fs::read_to_string(fixture(format).with_extension("db.expected.json")).unwrap();
    let conn = Connection::open_in_memory().unwrap();
    let mut q = conn.prepare("SELECT value FROM json_each(?1, '$.changes')").unwrap();
    let changes = q.query_map([&json], |row| row.get(0)).unwrap().map(|c| c.unwrap()).collect();
    let head = "SELECT (?1 ->> 'site_id') || ' ' || (?1 ->> 'db_version') || ' ' || (?1 -> 'vector')";
    (changes, conn.query_row(head, [&json], |row| row.get(0)).unwrap())
}

fn texts(r: &Replica, sql: &str) -> Vec<String> {
    let mut q = r.connection().prepare(sql).unwrap();
    q.query_map([], |row| row.get(0)).unwrap().map(|t| t.unwrap()).collect()
}

fn head(r: &Replica) -> String {
    texts(r, "SELECT hex(crsql_site_id()) || ' ' || crsql_db_version() || ' ' || crsql_vector()").remove(0)
}

#[track_caller]
fn assert_sound(r: &Replica) {
    assert_eq!(r.verify().unwrap().problems, []);
    assert_eq!(texts(r, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn an_old_file_says_what_it_said() {
    for format in FORMATS {
        let (_dir, path) = copy(format);
        let (changes, said) = expected(format);
        assert!(changes.len() > 500);
        let bytes = std::fs::read(&path).unwrap();
        let mut options = Options::default();
        options.read_only = true;
        let r = Replica::open_with(&path, options).unwrap();
        assert_eq!(texts(&r, CHANGES), changes, "format {format}, read only");
        assert_eq!(head(&r), said);
        assert_sound(&r);
        drop(r);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "reading changed the file");
        let r = Replica::open(&path).unwrap();
        assert_eq!(texts(&r, CHANGES), changes, "format {format}");
        assert_eq!(head(&r), said);
        assert_sound(&r);
        assert_eq!(r.status().unwrap().format, format);
    }
}

#[test]
fn an_old_file_holds_what_the_format_can() {
    for format in FORMATS {
        let (_dir, path) = copy(format);
        let r = Replica::open(&path).unwrap();
        let status = r.status().unwrap();
        let reasons: Vec<&str> = status.parked.iter().map(|p| p.reason.as_str()).collect();
        for reason in [
            "no such table",
            "no such column",
            "table was dropped",
            "column was dropped",
            "required values missing",
            "constraint failed",
        ] {
            assert!(reasons.contains(&reason), "nothing waits for: {reason}");
        }
        assert!(status.tables.iter().any(|t| t.tombstones > 1 && t.rows > 100));
        assert_eq!((status.clock, status.mode, status.merge_equal_values), ("hlc", "shared", true));
        assert_eq!(int(&r, "SELECT crsql_config_get('drift-ms')"), 90_000);
        assert_eq!(status.vector.iter().count(), 3, "two ids of its own and the peer's");
        assert_eq!(int(&r, "SELECT count(DISTINCT site_id) FROM crsql_changes"), 5);
        let gone = "SELECT count(*) FROM crsql_parked WHERE tbl = 'gone' AND reason = 'table was dropped'";
        assert_eq!(int(&r, gone), 1);
        let given_again = "SELECT group_concat(name || life || iif(ended, ' ended', ''), ', ') FROM (SELECT * FROM crsql_names \
             WHERE name = 'before' OR tbl = (SELECT id FROM crsql_tables WHERE name = 'before') ORDER BY tbl, id, name)";
        assert_eq!(texts(&r, given_again), ["before0, before1, was_x0, x0, y0 ended, x1, y1"]);
        let list = texts(&r, "SELECT what FROM todo WHERE list = 'home' ORDER BY place");
        assert_eq!(list, ["shop", "cook", "lay the table", "eat"]);
    }
}

#[test]
fn an_old_file_goes_on() {
    for format in FORMATS {
        let (dir, path) = copy(format);
        let r = Replica::open(&path).unwrap();
        let (old, version) = (texts(&r, CHANGES), r.db_version().unwrap());
        run(&r, "UPDATE item SET amount = amount + 1 WHERE id IN (5, 600); DELETE FROM item WHERE id = 60");
        run(
            &r,
            "UPDATE tag SET note = 'new' WHERE name = 'tag 1'; INSERT INTO tag VALUES ('TAG 8', 'third', 1)",
        );
        run(
            &r,
            "UPDATE \"stock in \"\"shops\"\"\" SET \"any value\" = 1, nr = nr + 1000 WHERE shop = 'south'",
        );
        run(&r, "INSERT INTO todo_fractindex(id, list, what, after_id) VALUES (5, 'home', 'wash up', 2)");
        run(&r, "INSERT INTO mark VALUES (3.5); INSERT INTO after VALUES (3, 'c')");
        assert_sound(&r);
        let fresh = format!("{CHANGES} WHERE db_version > {version}");
        let fresh = texts(&r, &fresh);
        assert_eq!(fresh.len(), 18, "{fresh:#?}");
        let kept = texts(&r, &format!("{CHANGES} WHERE db_version <= {version}"));
        assert!(kept.iter().all(|c| old.contains(c)), "a write changed what it did not touch");
        // What waits finds its place.
        run(
            &r,
            "CREATE TABLE nowhere (a TEXT, b INTEGER, v, PRIMARY KEY (a, b)); SELECT crsql_as_crr('nowhere')",
        );
        run(&r, "ALTER TABLE item ADD COLUMN colour; UPDATE item SET name = name || '!' WHERE id = 11");
        assert_eq!(texts(&r, "SELECT v FROM nowhere"), ["no table"]);
        assert_eq!(texts(&r, "SELECT colour FROM item WHERE id = 10"), ["no column"]);
        assert_sound(&r);
        // A new replica of the schema as it is now takes all of it and becomes equal.
        let peer = Replica::open(dir.path().join("peer.db")).unwrap();
        run(&peer, "SELECT crsql_config_set('merge-equal-values', 1)");
        for table in TABLES {
            let make = format!("SELECT sql FROM sqlite_schema WHERE name = '{}'", table.replace('\'', "''"));
            run(&peer, &texts(&r, &make).remove(0));
            peer.replicate(table).unwrap();
        }
        pull(&r, &peer).unwrap();
        for table in TABLES {
            let all = |r: &Replica| {
                let mut all = rows(r, &format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")));
                all.sort();
                all
            };
            assert_eq!(all(&peer), all(&r), "{table}");
        }
        assert_equal(&r, &peer, "item");
        assert_equal(&r, &peer, "tag");
        assert_eq!(peer.vector().unwrap(), r.vector().unwrap());
        assert_sound(&peer);
    }
}
