//! The parts of cr-sqlite's surface beside capture and merging: the key codec, ordered lists, automigrate, peers.

use crate::sql::{error, file, memory, row, rows};

#[test]
fn unpacking_joins_with_changes() {
    let conn = memory();
    conn.execute_batch(
        "CREATE TABLE t (a INTEGER NOT NULL, b TEXT NOT NULL, x, PRIMARY KEY (a, b)); SELECT crsql_as_crr('t'); \
         INSERT INTO t VALUES (1, 'p', 'v'), (2, 'q', 'w')",
    )
    .unwrap();
    for sql in [
        "SELECT c.val, u.cell FROM crsql_changes AS c, crsql_unpack_columns AS u WHERE u.package = c.pk",
        "SELECT c.val, u.cell FROM crsql_unpack_columns AS u JOIN crsql_changes AS c ON c.pk = u.package",
        "SELECT c.val, u.cell FROM crsql_changes AS c CROSS JOIN crsql_unpack_columns(c.pk) AS u",
    ] {
        assert_eq!(rows(&conn, sql), ["v|1", "v|p", "w|2", "w|q"], "{sql}");
    }
    let list =
        "SELECT group_concat(cell) FROM crsql_unpack_columns WHERE package IN (x'010907', x'020907090A')";
    assert_eq!(row(&conn, list), "7,7,10");
    assert_eq!(rows(&conn, "SELECT cell FROM crsql_unpack_columns(NULL)"), Vec::<String>::new());
}

#[test]
fn what_is_no_package() {
    let conn = memory();
    for (sql, why) in [
        ("SELECT cell FROM crsql_unpack_columns", "needs a packed key"),
        ("SELECT cell FROM crsql_unpack_columns(x'')", "empty"),
        ("SELECT cell FROM crsql_unpack_columns(x'02010B')", "ends inside column 1"),
        ("SELECT cell FROM crsql_unpack_columns(x'0151')", "10 bytes"),
        ("SELECT cell FROM crsql_unpack_columns(x'01FF')", "type byte"),
        ("SELECT cell FROM crsql_unpack_columns(x'0144FFFFFFFFFFFFFFFF')", "ends inside"),
        ("SELECT cell FROM crsql_unpack_columns(5)", "must be a blob"),
        ("SELECT cell FROM crsql_unpack_columns('text')", "must be a blob"),
        ("DELETE FROM crsql_unpack_columns", "may not be modified"),
    ] {
        let e = error(&conn, sql);
        assert!(e.contains(why), "{sql}: {e}");
    }
}

#[test]
fn lists_of_any_name_and_key() {
    let conn = memory();
    conn.execute_batch(
        "CREATE TABLE \"my \"\"list\" (\"k 1\" TEXT NOT NULL, k2 BLOB NOT NULL, \"in\" TEXT, \"the \"\"pos\" TEXT, \
           twice AS (\"k 1\" || \"k 1\"), PRIMARY KEY (\"k 1\", k2)) WITHOUT ROWID; \
         SELECT crsql_as_crr('my \"list'); SELECT crsql_fract_as_ordered('MY \"list', 'The \"pos', 'IN'); \
         INSERT INTO \"my \"\"list\" VALUES ('a', x'01', 'l', 1), ('b', x'01', 'l', 1), ('c', x'01', 'l', -1); \
         INSERT INTO \"my \"\"list_fractindex\" (\"k 1\", k2, \"in\", \"after_k 1\", after_k2) VALUES ('d', x'02', 'l', 'a', x'01'); \
         UPDATE \"my \"\"list_fractindex\" SET \"k 1\" = 'e', \"after_k 1\" = 'b', after_k2 = x'01' WHERE \"k 1\" = 'c'",
    )
    .unwrap();
    let order = rows(&conn, "SELECT \"k 1\", twice FROM \"my \"\"list\" ORDER BY \"the \"\"pos\"");
    assert_eq!(order, ["a|aa", "d|dd", "b|bb", "e|ee"]);
}

#[test]
fn lists_of_null_keys_and_twins_without_list() {
    let conn = memory();
    conn.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, pos); SELECT crsql_fract_as_ordered('t', 'pos'); \
         INSERT INTO t VALUES (1, 'a!'), (2, 'a!'), (3, 'a!'); \
         INSERT INTO t_fractindex (id, after_id) VALUES (4, 2); UPDATE t_fractindex SET after_id = 3 WHERE id = 1",
    )
    .unwrap();
    // 2 moved up for 4; then 3 moved up for 1.
    assert_eq!(rows(&conn, "SELECT id FROM t ORDER BY pos"), ["2", "4", "3", "1"]);
    assert_eq!(row(&conn, "SELECT count(DISTINCT pos) FROM t"), "4");
}

#[test]
fn a_list_asked_again_follows_new_columns() {
    let conn = memory();
    conn.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, l, pos); SELECT crsql_as_crr('t'); \
         SELECT crsql_fract_as_ordered('t', 'pos'); ALTER TABLE t ADD COLUMN extra; \
         SELECT crsql_fract_as_ordered('t', 'pos', 'l'); \
         INSERT INTO t_fractindex (id, l, extra) VALUES (1, 1, 'x'), (2, 2, 'y'); UPDATE t SET pos = 1 WHERE id = 1",
    )
    .unwrap();
    assert_eq!(rows(&conn, "SELECT * FROM t"), ["1|1|a |x", "2|2|a |y"]);
}

#[test]
fn no_list() {
    let conn = memory();
    conn.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, pos, g AS (id)); CREATE TABLE u (pos); CREATE VIEW v AS SELECT * FROM t",
    )
    .unwrap();
    for (args, why) in [
        ("'nope', 'pos'", "does not exist"),
        ("'v', 'pos'", "does not exist"),
        ("'t', 'nope'", "no column"),
        ("'t', 'g'", "generated"),
        ("'t', 'id'", "part of the key"),
        ("'u', 'pos'", "no PRIMARY KEY"),
        ("'t', NULL", "must be text"),
        ("x'00', 'pos'", "must be text"),
        ("'t'", "takes the table"),
    ] {
        let e = error(&conn, &format!("SELECT crsql_fract_as_ordered({args})"));
        assert!(e.contains(why), "{args}: {e}");
    }
    for args in [
        "",
        "'t'",
        "'t', 'pos', 'l', 'id', 1",
        "'t', 'pos', -1, 'id'",
        "'t', 'pos', -1, 'id', 9",
        "1, 2, -1, 3, 4",
    ] {
        error(&conn, &format!("SELECT crsql_fract_fix_conflict_return_old_key({args})"));
    }
}

const BEFORE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y); CREATE TABLE old (x); \
     CREATE INDEX ty ON t(y); CREATE TABLE list (id INTEGER PRIMARY KEY NOT NULL, a, pos); \
     SELECT crsql_as_crr('t'); SELECT crsql_as_crr('list'); SELECT crsql_fract_as_ordered('list', 'pos', 'a'); \
     INSERT INTO t VALUES (1, 'x', 'y'); INSERT INTO list VALUES (1, 1, 1)";

#[test]
fn definitions_of_added_columns_stay_whole() {
    let conn = memory();
    conn.execute_batch(BEFORE).unwrap();
    // On one line: cr-sqlite would have skipped it because of the call.
    let schema = "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, x, -- y is gone, \
         \n [new one] TEXT COLLATE NOCASE DEFAULT 'a,b' CHECK ([new one] <> ''), g AS (x || 1)); SELECT crsql_as_crr('t')";
    conn.query_row("SELECT crsql_automigrate(?1)", [schema], |_| Ok(())).unwrap();
    assert_eq!(rows(&conn, "SELECT *, [new one] = 'A,B' FROM t"), ["1|x|a,b|x1|1"]);
    assert!(error(&conn, "UPDATE t SET [new one] = ''").contains("CHECK"));
    let left = rows(
        &conn,
        "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'crsql%' AND name NOT LIKE 'sqlite%'",
    );
    assert_eq!(left, ["t"]);
    conn.execute("UPDATE t SET [new one] = 'n'", []).unwrap();
    let changes = rows(&conn, "SELECT \"table\", cid, val FROM crsql_changes");
    assert_eq!(changes, ["t|x|x", "t|new one|n"]);
}

#[test]
fn lists_survive_dropped_columns() {
    let conn = memory();
    conn.execute_batch(BEFORE).unwrap();
    let schema = "CREATE TABLE IF NOT EXISTS list (id INTEGER PRIMARY KEY NOT NULL, b DEFAULT 7, pos);\n\
         SELECT crsql_as_crr('list'); SELECT crsql_fract_as_ordered('list', 'pos', 'b');";
    for _ in 0..2 {
        conn.query_row("SELECT crsql_automigrate(?1, NULL)", [schema], |_| Ok(())).unwrap();
    }
    conn.execute("INSERT INTO list_fractindex (id, b, after_id) VALUES (2, 7, 1)", []).unwrap();
    assert_eq!(rows(&conn, "SELECT id, b, pos FROM list ORDER BY pos"), ["1|7|a ", "2|7|a!"]);
}

/// Whatever stops a migration, nothing of it is left.
#[test]
fn migrations_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let conn = file(&dir.path().join("a.db"));
    conn.execute_batch(BEFORE).unwrap();
    let state = || {
        let schema = rows(&conn, "SELECT name, sql FROM sqlite_schema ORDER BY 1");
        (schema, rows(&conn, "SELECT * FROM crsql_changes"), row(&conn, "SELECT crsql_db_version()"))
    };
    let before = state();
    for (schema, why) in [
        ("nonsense", "syntax error"),
        (
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, x); SELECT fail_here()",
            "fail_here",
        ),
        ("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY NOT NULL, id, y)", "primary key (id)"),
        ("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, z NOT NULL)", "NOT NULL"),
        ("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, z UNIQUE)", "UNIQUE"),
        (
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL); CREATE TABLE n (x); SELECT crsql_as_crr('n')",
            "\"n\"",
        ),
    ] {
        for outer in [false, true] {
            if outer {
                conn.execute_batch("BEGIN; INSERT INTO old VALUES (1)").unwrap();
            }
            let e =
                conn.query_row("SELECT crsql_automigrate(?1)", [schema], |_| Ok(())).unwrap_err().to_string();
            assert!(e.contains(why), "{schema}: {e}");
            assert_eq!(conn.is_autocommit(), !outer, "{schema}");
            if outer {
                assert_eq!(row(&conn, "SELECT count(*) FROM old"), "1");
                conn.execute_batch("ROLLBACK").unwrap();
            }
            assert_eq!(state(), before, "{schema}");
        }
    }
    conn.execute_batch(
        "UPDATE t SET x = 'z'; INSERT INTO list_fractindex (id, a, after_id) VALUES (2, 1, 1)",
    )
    .unwrap();
    assert_eq!(rows(&conn, "SELECT id, pos FROM list"), ["1|a ", "2|a!"]);
}

#[test]
fn a_file_without_metadata_migrates_without_any() {
    let conn = memory();
    let schema = "CREATE TABLE IF NOT EXISTS t (a, b); CREATE INDEX IF NOT EXISTS i ON t(a) WHERE b > 1";
    let migrate = |s: &str| conn.query_row("SELECT crsql_automigrate(?1)", [s], |_| Ok(())).unwrap();
    migrate(schema);
    migrate(&schema.replace("b > 1", "b > 2"));
    let all = rows(&conn, "SELECT sql FROM sqlite_schema");
    assert_eq!(all, ["CREATE TABLE t (a, b)", "CREATE INDEX i ON t(a) WHERE b > 2"]);
}

#[test]
fn full_text_tables_and_their_shadows() {
    let conn = memory();
    let schema = "CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(body)";
    let migrate = |s: &str| conn.query_row("SELECT crsql_automigrate(?1)", [s], |_| Ok(())).unwrap();
    migrate(schema);
    conn.execute("INSERT INTO f VALUES ('hello world')", []).unwrap();
    migrate(schema);
    assert_eq!(row(&conn, "SELECT * FROM f WHERE f MATCH 'hello'"), "hello world");
    migrate("");
    assert_eq!(row(&conn, "SELECT count(*) FROM sqlite_schema"), "0");
}

#[test]
fn peers_can_be_tracked_at_once() {
    let conn = memory();
    let insert = |or: &str, tag: &str| {
        format!(
            "INSERT {or} INTO crsql_tracked_peers (site_id, version, tag, event) VALUES (x'01', 5, {tag}, 1)"
        )
    };
    assert_eq!(rows(&conn, "SELECT version FROM crsql_tracked_peers WHERE tag = 0"), Vec::<String>::new());
    conn.execute_batch("UPDATE crsql_tracked_peers SET seq = 1; DELETE FROM crsql_tracked_peers").unwrap();
    assert!(error(&conn, &insert("", "NULL")).contains("NOT NULL"));
    conn.execute_batch("BEGIN").unwrap();
    conn.execute(&insert("", "0"), []).unwrap();
    conn.execute_batch("ROLLBACK").unwrap();
    assert_eq!(row(&conn, "SELECT count(*) FROM sqlite_schema"), "0");
    conn.execute(&insert("OR REPLACE", "0"), []).unwrap();
    assert!(error(&conn, &insert("", "0")).contains("UNIQUE"));
    let upsert = format!("{} ON CONFLICT DO UPDATE SET version = 9", insert("", "0"));
    conn.execute(&upsert, []).unwrap();
    assert_eq!(rows(&conn, "SELECT * FROM crsql_tracked_peers"), ["01|9|0|0|1"]);
    assert_eq!(row(&conn, "SELECT crsql_db_version()"), "0");
}

/// Metadata that is made inside a statement that writes, and taken back with its transaction.
#[test]
fn first_use_within_statements() {
    for undo in ["ROLLBACK", "ROLLBACK TO s; COMMIT"] {
        let conn = memory();
        conn.execute_batch("BEGIN; SAVEPOINT s; CREATE TABLE a(x)").unwrap();
        conn.execute("INSERT INTO a SELECT crsql_site_id() UNION ALL SELECT crsql_site_id()", []).unwrap();
        assert_eq!(row(&conn, "SELECT count(DISTINCT x), max(x) = crsql_site_id() FROM a"), "1|1");
        conn.execute_batch(undo).unwrap();
        assert_eq!(row(&conn, "SELECT count(*) FROM sqlite_schema"), "0");
        assert_eq!(row(&conn, "SELECT length(crsql_site_id())"), "16");
        assert!(row(&conn, "SELECT count(*) FROM crsql_sites") == "1", "{undo}");
    }
    let conn = memory();
    let change = "INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'm', 5, 1, x'00112233445566778899AABBCCDDEEFF', 1, 0)";
    conn.execute(change, []).unwrap();
    assert_eq!(row(&conn, "SELECT count(*), max(val) FROM crsql_changes"), "1|m");
}
