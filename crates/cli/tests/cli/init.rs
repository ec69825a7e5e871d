use crate::{BOOKS, Folder};

#[test]
fn a_schema_makes_a_replica() {
    let f = Folder::new();
    f.write(
        "s.sql",
        format!("\u{feff}-- books\n{BOOKS}\nINSERT INTO books(id) VALUES (1); CREATE TABLE own(x);"),
    );
    let ran = f.run("init a.db --schema s.sql").ok();
    assert!(ran.out.contains("1 replicated table, site "), "{}", ran.out);
    let status = f.run("status a.db --json").ok().json();
    assert_eq!(status["tables"][0]["rows"], 1);
    assert_eq!(status["site_id"].as_str().map(str::len), Some(32));
    assert_eq!(f.rows("a.db", "PRAGMA journal_mode"), "wal");
    f.run("verify a.db").ok();
    // A second schema goes into the same file.
    f.init("a.db", "CREATE TABLE more(id TEXT PRIMARY KEY); SELECT crsql_as_crr('more');");
    assert_eq!(f.run("status a.db --json").ok().json()["tables"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_fails_leaves_nothing() {
    let f = Folder::new();
    f.write("bad.sql", format!("{BOOKS} INSERT INTO books(id) VALUES (1); INSERT INTO nowhere VALUES (1);"));
    f.run("init a.db --schema bad.sql").fails(5, &["bad.sql", "nowhere"]);
    assert!(!f.path("a.db").exists() && !f.path("a.db-wal").exists());
    f.init("a.db", "CREATE TABLE t(x);");
    f.run("init a.db --schema bad.sql").fails(5, &["nowhere"]);
    assert_eq!(f.rows("a.db", "SELECT group_concat(name) FROM sqlite_schema"), "t");
    f.run_with_input("init b.db --schema -", b"SELECT FROM WHERE").fails(5, &["syntax error", "at: FROM"]);
    f.run_with_input(
        "init b.db --schema -",
        b"CREATE TABLE t(id PRIMARY KEY, u UNIQUE); SELECT crsql_as_crr('t');",
    )
    .fails(5, &["\"t\" cannot be replicated", "UNIQUE"]);
    f.run_with_input("init b.db --schema -", b"CREATE TABLE t\xe9(x)").fails(5, &["not UTF-8"]);
    f.run_with_input("init b.db --schema -", b"BEGIN; CREATE TABLE t(x);").fails(5, &["COMMIT is missing"]);
    f.run("init b.db --schema nothing.sql").fails(3, &["nothing.sql"]);
    assert!(!f.path("b.db").exists());
    f.run("init no/such/folder/a.db --schema bad.sql").fails(3, &["no/such/folder/a.db"]);
}

#[test]
fn transactions_and_pragmas_of_its_own() {
    let f = Folder::new();
    f.init(
        "a.db",
        "PRAGMA page_size = 8192; PRAGMA journal_mode = DELETE; CREATE TABLE t(id INTEGER PRIMARY KEY, n INT); \
         BEGIN; INSERT INTO t VALUES (1, 1); COMMIT; /* and */ SELECT crsql_as_crr('t'); VACUUM; PRAGMA user_version = 3;",
    );
    assert_eq!(f.rows("a.db", "SELECT * FROM t"), "1|1");
    assert_eq!(f.rows("a.db", "PRAGMA user_version"), "3");
    f.run("verify a.db").ok();
}

#[test]
fn an_empty_schema_says_what_is_missing() {
    let f = Folder::new();
    let ran = f.run_with_input("init a.db --schema -", b" -- nothing\n").ok();
    assert!(ran.out.contains("no replicated table"), "{}", ran.out);
    f.run("changes a.db").fails(4, &["rejoin replicate"]);
    f.run("merge a.db a2.db").fails(4, &["no replicated tables"]);
}
