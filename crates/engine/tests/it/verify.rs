//! `verify` finds what contradicts itself, `repair` mends it, `status` tells what is there.

use crate::util::{Files, ITEMS, assert_equal, int, rows, run};
use rejoin::{Problem, Replica, Report};
use rusqlite::Connection;

const SCHEMA: &str = "
    CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER DEFAULT 0);
    CREATE TABLE tags(name TEXT COLLATE NOCASE PRIMARY KEY, note TEXT, weight REAL DEFAULT 1);
    CREATE TABLE pairs(a INTEGER, b TEXT, note TEXT, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE TABLE marks(id BLOB PRIMARY KEY);
    SELECT crsql_as_crr('items'); SELECT crsql_as_crr('tags'); SELECT crsql_as_crr('pairs'); SELECT crsql_as_crr('marks');";

const SERIES: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)";

/// Several transactions, long and short, with deletes, key changes, a second life and a merge.
fn fill(files: &Files) -> Replica {
    let (a, b) = (files.open("a.db", SCHEMA), files.open("b.db", SCHEMA));
    run(&a, &format!("INSERT INTO items {SERIES} SELECT i, 'item ' || i, i / 4.0, i % 7 FROM n"));
    run(&a, &format!("INSERT INTO tags(name, note) {SERIES} SELECT 'Tag ' || i, 'n' FROM n"));
    run(&a, &format!("INSERT INTO pairs {SERIES} SELECT i % 10, 'b' || i, 'n' FROM n"));
    run(&a, &format!("INSERT INTO marks {SERIES} SELECT CAST('m' || i AS BLOB) FROM n"));
    for (table, n) in [("items", "id"), ("tags", "rowid"), ("pairs", "substr(b, 2)"), ("marks", "rowid")] {
        run(&a, &format!("DELETE FROM {table} WHERE {n} * 7919 % 11 < 4"));
    }
    run(
        &a,
        "UPDATE items SET stock = stock + 1 WHERE id % 5 = 0; UPDATE tags SET note = 'm' WHERE name LIKE '%7'",
    );
    run(
        &a,
        "UPDATE items SET id = id + 1000 WHERE id % 11 = 0; UPDATE pairs SET a = a + 100 WHERE b LIKE '%3'",
    );
    run(&b, "INSERT INTO items VALUES (1, 'of b', 1, 1), (5000, 'of b', 2, 2)");
    run(&b, "INSERT INTO tags(name) VALUES ('TAG 1'), ('only b'); INSERT INTO pairs VALUES (7, 'x', 'y')");
    a.merge_with(&b).unwrap();
    run(
        &a,
        "INSERT OR REPLACE INTO tags(name, note) VALUES ('tag 2', 'again'); DELETE FROM marks WHERE id = CAST('m9' AS BLOB)",
    );
    run(
        &a,
        "ALTER TABLE items ADD COLUMN shelf TEXT DEFAULT 'A1'; UPDATE items SET shelf = 'B2' WHERE id = 5000",
    );
    assert_clean(&b);
    assert_clean(&a);
    a
}

fn verify(r: &Replica) -> Report {
    r.verify().unwrap()
}

#[track_caller]
fn assert_clean(r: &Replica) {
    let report = verify(r);
    let lines: Vec<String> = report.problems.iter().map(Problem::to_string).collect();
    assert!(report.is_clean(), "{}", lines.join("\n"));
}

/// A connection that knows nothing of Rejoin.
fn plain(files: &Files, name: &str) -> Connection {
    Connection::open(files.dir.path().join(name)).unwrap()
}

/// Does harm, expects a problem that says `expected`, repairs, and expects nothing to be left.
#[track_caller]
fn harm(damage: &[&str], expected: &str) -> (Files, Replica) {
    let files = Files::new();
    drop(fill(&files));
    let c = plain(&files, "a.db");
    for sql in damage {
        c.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    drop(c);
    let a = files.open("a.db", "");
    let report = verify(&a);
    let lines: Vec<String> = report.problems.iter().map(Problem::to_string).collect();
    assert!(lines.iter().any(|l| l.contains(expected)), "{expected}: {}", lines.join("\n"));
    let after = a.repair().unwrap();
    let left: Vec<String> = after.problems.iter().map(Problem::to_string).collect();
    assert!(after.is_clean(), "left: {}", left.join("\n"));
    assert!(after.repaired > 0);
    run(
        &a,
        "INSERT INTO items(id, name) VALUES (70000, 'new'); UPDATE tags SET note = 'still' WHERE name = 'tag 2'",
    );
    assert_clean(&a);
    // What is there reaches a peer.
    let c = files.open("c.db", SCHEMA);
    run(&c, "ALTER TABLE items ADD COLUMN shelf TEXT DEFAULT 'A1'");
    a.merge_with(&c).unwrap();
    for table in ["items", "tags", "pairs", "marks"] {
        let sql = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let sql = if table == "marks" { sql.replace(", 2", "") } else { sql };
        assert_eq!(rows(&a, &sql), rows(&c, &sql), "{table}");
    }
    assert_clean(&c);
    (files, a)
}

/// Runs SQL as a program does that drops the triggers to write.
fn without_triggers(files: &Files, name: &str, sql: &str) {
    let c = plain(files, name);
    let mut q = c
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'crsql_%'")
        .unwrap();
    let triggers: Vec<(String, String)> =
        q.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect();
    assert!(!triggers.is_empty());
    for (name, _) in &triggers {
        c.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    c.execute_batch(sql).unwrap();
    for (_, sql) in &triggers {
        c.execute_batch(sql).unwrap();
    }
}

#[test]
fn all_is_well_after_ordinary_work() {
    let files = Files::new();
    let a = fill(&files);
    let report = verify(&a);
    assert_eq!(report.tables, 4);
    assert!(report.rows > 1000 && report.transactions > 10, "{report:?}");
    run(&a, "VACUUM");
    assert_clean(&a);
    run(&a, "BEGIN; INSERT INTO items(id) VALUES (9000); SAVEPOINT s; DELETE FROM items; ROLLBACK TO s");
    assert_clean(&a);
    run(&a, "COMMIT");
    assert_clean(&a);
    assert_eq!(a.repair().unwrap().repaired, 0);
}

#[test]
fn a_file_without_metadata_has_nothing_to_verify() {
    let files = Files::new();
    let a = files.open("a.db", "CREATE TABLE t(x)");
    let report = verify(&a);
    assert!(report.is_clean());
    assert_eq!((report.tables, report.transactions), (0, 0));
    let status = a.status().unwrap();
    assert_eq!((status.site_id, status.db_version, status.tables.len()), (None, 0, 0));
    assert_eq!(int(&a, "SELECT count(*) FROM sqlite_schema"), 1);
}

#[test]
fn writes_that_nobody_captured_are_found_and_taken_over() {
    let files = Files::new();
    drop(fill(&files));
    without_triggers(
        &files,
        "a.db",
        "INSERT INTO items(id, name) VALUES (8000, 'smuggled'); DELETE FROM items WHERE id = 5000; \
         INSERT INTO tags(name) VALUES ('Smuggled'); DELETE FROM tags WHERE name = 'only b'; \
         INSERT INTO pairs(a, b) VALUES (8000, 's'); DELETE FROM pairs WHERE a = 7 AND b = 'x'; \
         INSERT INTO marks VALUES (x'00')",
    );
    let a = files.open("a.db", "");
    let report = verify(&a);
    let of = |table: &str, key: &str, what: &str| {
        report.problems.iter().any(|p| {
            let line = p.to_string();
            p.repairable
                && line.contains(&format!("\"{table}\""))
                && line.contains(key)
                && line.contains(what)
        })
    };
    for (table, key) in
        [("items", "8000"), ("tags", "'Smuggled'"), ("pairs", "(8000, 's')"), ("marks", "x'00'")]
    {
        assert!(of(table, key, "the row has no metadata"), "{table}: {:?}", report.problems);
    }
    for (table, key) in [("items", "5000"), ("tags", "rowid"), ("pairs", "(7, 'x')")] {
        assert!(of(table, key, "living row that the table lacks"), "{table}: {:?}", report.problems);
    }
    let after = a.repair().unwrap();
    assert!(after.is_clean(), "{:?}", after.problems);
    assert_eq!(after.repaired, 7);
    assert_eq!(
        int(&a, "SELECT col_version FROM crsql_changes WHERE pk = crsql_pack_columns(8000) AND cid = 'name'"),
        1
    );
    let c = files.open("c.db", SCHEMA);
    a.merge_with(&c).unwrap();
    assert_eq!(int(&c, "SELECT count(*) FROM items WHERE id IN (8000, 5000)"), 1);
}

#[test]
fn an_owned_file_written_to_by_others_is_repaired() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "SELECT crsql_config_set('mode', 'owned'); INSERT INTO items(id) VALUES (1), (2)");
    assert_eq!(a.status().unwrap().mode, "owned");
    drop(a);
    plain(&files, "a.db")
        .execute_batch("INSERT INTO items(id) VALUES (3); DELETE FROM items WHERE id = 1")
        .unwrap();
    let a = files.open("a.db", "");
    assert_eq!(verify(&a).problems.len(), 2);
    assert!(a.repair().unwrap().is_clean());
    assert_eq!(int(&a, "SELECT count(*) FROM crsql_changes WHERE pk = crsql_pack_columns(3)"), 3);
}

#[test]
fn a_value_that_no_change_wrote() {
    let files = Files::new();
    let a = fill(&files);
    run(&a, "ALTER TABLE items ADD COLUMN later INTEGER; INSERT INTO items(id, later) VALUES (6000, 1)");
    drop(a);
    without_triggers(&files, "a.db", "UPDATE items SET later = 4 WHERE id = 5000");
    let a = files.open("a.db", "");
    let report = verify(&a);
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].what.contains("column \"later\""), "{report:?}");
    assert!(a.repair().unwrap().is_clean());
    assert_eq!(int(&a, "SELECT count(*) FROM crsql_changes WHERE cid = 'later'"), 2);
}

#[test]
fn metadata_blocks_that_are_lost_or_garbled() {
    for table in [1, 2, 4] {
        harm(&[&format!("DELETE FROM crsql_rows_{table} WHERE block = 0")], "the row has no metadata");
        let garble = format!("UPDATE crsql_rows_{table} SET data = x'ff' || data WHERE block = 1");
        harm(&[&garble], "row block 1 cannot be decoded");
    }
    for table in [2, 3, 4] {
        harm(
            &[&format!(
                "UPDATE crsql_keys_{table} SET data = substr(data, 1, length(data) - 1) WHERE first = x''"
            )],
            "cannot be decoded",
        );
    }
    harm(&["DELETE FROM crsql_keys_3 WHERE first = x''"], "the row has no metadata");
}

#[test]
fn metadata_of_other_rows() {
    // The tombstones of the whole table say nothing any more; deleted rows come to life.
    harm(
        &["UPDATE crsql_rows_2 SET data = (SELECT data FROM crsql_rows_2 WHERE block = 1) WHERE block = 0"],
        "another key",
    );
    harm(
        &["UPDATE crsql_rows_1 SET data = (SELECT data FROM crsql_rows_1 WHERE block = 1) WHERE block = 0"],
        "table \"items\"",
    );
}

#[test]
fn a_log_that_lost_rows() {
    harm(&["DELETE FROM crsql_log WHERE id = 5"], "the version vector claims");
    harm(&["DELETE FROM crsql_log WHERE id = 5"], "which the log does not have");
    harm(&["UPDATE crsql_log SET changes = x'' WHERE id = 6"], "without this row");
    harm(&["UPDATE crsql_log SET changes = x'0102ff' WHERE id = 6"], "cannot be decoded");
    harm(
        &["UPDATE crsql_log SET changes = x'0102ff' WHERE id = (SELECT max(id) FROM crsql_log)"],
        "cannot be decoded",
    );
}

#[test]
fn a_vector_that_lost_versions() {
    harm(&["DELETE FROM crsql_vector WHERE site = 0"], "the version vector lacks");
    harm(&["INSERT INTO crsql_vector VALUES (1, 90, 95, 0)"], "the version vector claims versions 90 to 95");
}

#[test]
fn sites_without_an_id() {
    harm(&["DELETE FROM crsql_sites WHERE ordinal = 1"], "site number 1, which has no id");
}

#[test]
fn triggers_that_are_gone() {
    let (_files, a) =
        harm(&["DROP TRIGGER crsql_replace_2; DROP TRIGGER crsql_replace_4"], "crsql_replace_2");
    run(&a, "INSERT OR REPLACE INTO tags(name, note) VALUES ('TAG 2', 'replaced')");
    assert_clean(&a);
}

#[test]
fn a_broken_chain_is_told_and_cannot_be_repaired() {
    let files = Files::new();
    drop(fill(&files));
    plain(&files, "a.db").execute_batch("UPDATE crsql_log SET nonce = nonce + 1 WHERE id = 3").unwrap();
    let a = files.open("a.db", "");
    let report = a.repair().unwrap();
    assert_eq!(report.problems.len(), 1);
    assert!(!report.problems[0].repairable && report.problems[0].what.contains("the chain"), "{report:?}");
}

#[test]
fn a_damaged_page_is_told() {
    let files = Files::new();
    let a = fill(&files);
    let root = int(&a, "SELECT rootpage FROM sqlite_schema WHERE name = 'crsql_keys_3_first'");
    let size = int(&a, "PRAGMA page_size");
    run(&a, "PRAGMA journal_mode = DELETE");
    drop(a);
    let path = files.dir.path().join("a.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let page = ((root - 1) * size) as usize;
    // An index page without cells.
    bytes[page + 3..page + 5].copy_from_slice(&[0, 0]);
    std::fs::write(&path, bytes).unwrap();
    let a = files.open("a.db", "");
    let report = verify(&a);
    assert!(report.problems.iter().any(|p| p.what.contains("integrity check")), "{report:?}");
}

#[test]
fn rows_that_wait_are_no_problem() {
    let files = Files::new();
    let schema = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INT CHECK (age < 200));
        CREATE TABLE things(id TEXT PRIMARY KEY, n INT CHECK (n > 0));
        SELECT crsql_as_crr('people'); SELECT crsql_as_crr('things');";
    let a = files.open("a.db", schema);
    let loose = schema
        .replace("NOT NULL", "DEFAULT ''")
        .replace("CHECK (age < 200)", "")
        .replace("CHECK (n > 0)", "");
    let b = files.open("b.db", &loose);
    run(
        &b,
        "INSERT INTO people VALUES (1, NULL, 5), (2, 'x', 500), (3, 'y', 30); INSERT INTO things VALUES ('a', -1), ('b', 1)",
    );
    run(
        &a,
        "INSERT INTO crsql_changes VALUES ('people', crsql_pack_columns(9), 'age', 3, 1, 1, x'00112233445566778899aabbccddeeff', 1, 0)",
    );
    a.merge_with(&b).unwrap();
    assert_clean(&a);
    let status = a.status().unwrap();
    let parked: u64 = status.parked.iter().map(|p| p.changes).sum();
    assert!(parked >= 4, "{status:?}");
    assert!(status.parked.iter().any(|p| p.reason == "constraint failed" && p.table == "things"));
    // Nor are they lost by a repair of something else.
    drop(a);
    plain(&files, "a.db").execute_batch("DROP TRIGGER crsql_delete_1; DROP TRIGGER crsql_delete_2").unwrap();
    let a = files.open("a.db", "");
    let after = a.repair().unwrap();
    assert!(after.is_clean(), "{after:?}");
    assert_eq!(a.status().unwrap().parked, status.parked);
    let c = files.open("c.db", &loose);
    a.merge_with(&c).unwrap();
    b.merge_with(&c).unwrap();
    assert_eq!(rows(&b, "SELECT * FROM things ORDER BY id"), rows(&c, "SELECT * FROM things ORDER BY id"));
}

#[test]
fn status_counts() {
    let files = Files::new();
    let a = fill(&files);
    let status = a.status().unwrap();
    assert_eq!(status.site_id, Some(a.site_id().unwrap()));
    assert_eq!(status.db_version, a.db_version().unwrap());
    assert_eq!(status.vector, a.vector().unwrap());
    assert_eq!((status.mode, status.clock, status.format, status.lineage), ("shared", "hlc", 1, None));
    for t in &status.tables {
        assert_eq!(t.rows as i64, int(&a, &format!("SELECT count(*) FROM {}", t.name)), "{}", t.name);
        let dead = int(
            &a,
            &format!(
                "SELECT count(*) FROM crsql_changes WHERE \"table\" = '{}' AND cid = '-1' AND cl % 2 = 0",
                t.name
            ),
        );
        assert_eq!(t.tombstones as i64, dead, "{}", t.name);
        assert!(t.metadata_bytes > 0 && t.metadata_bytes_per_row() < 60.0, "{t:?}");
        assert_eq!(t.unwatched_since, None);
    }
}

#[test]
fn a_rebuild_that_nobody_watched_is_told_until_it_is_acknowledged() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id) VALUES (1), (2)");
    drop(a);
    plain(&files, "a.db")
        .execute_batch(
            "BEGIN; CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER DEFAULT 0);
             INSERT INTO new SELECT * FROM items; DROP TABLE items; ALTER TABLE new RENAME TO items; COMMIT;
             INSERT INTO items(id) VALUES (3)",
        )
        .unwrap();
    let (a, b) = (files.open("a.db", ""), files.open("b.db", ITEMS));
    let told = verify(&a);
    assert!(told.problems.iter().any(|p| p.what.contains("triggers")), "{told:?}");
    // The next call that may write mends it.
    run(&b, "INSERT INTO items(id) VALUES (4)");
    a.merge_with(&b).unwrap();
    assert_clean(&a);
    assert_equal(&a, &b, "items");
    assert_eq!(int(&b, "SELECT count(*) FROM items"), 4);
    assert_eq!(a.status().unwrap().tables[0].unwatched_since, Some(1));
    run(&a, "SELECT crsql_as_crr('items')");
    assert_eq!(a.status().unwrap().tables[0].unwatched_since, None);
    run(
        &a,
        "SELECT crsql_begin_alter('items'); ALTER TABLE items ADD COLUMN x; SELECT crsql_commit_alter('items')",
    );
    assert_eq!(a.status().unwrap().tables[0].unwatched_since, None);
    assert_clean(&a);
}

#[test]
fn versions_do_not_fall_when_a_transaction_wrote_before_commit_alter() {
    let files = Files::new();
    let a = files.open("a.db", ITEMS);
    run(&a, "INSERT INTO items(id) VALUES (1)");
    run(
        &a,
        "BEGIN; INSERT INTO items(id) VALUES (2); SELECT crsql_begin_alter('items'); INSERT INTO items(id) VALUES (3); \
         SELECT crsql_commit_alter('items'); INSERT INTO items(id) VALUES (4); COMMIT",
    );
    assert_clean(&a);
    let b = files.open("b.db", ITEMS);
    a.merge_with(&b).unwrap();
    assert_equal(&a, &b, "items");
}
