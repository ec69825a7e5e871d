//! How schemas stand to each other, and taking over a peer's.

use rejoin::{Relation, Replica};

const BOOKS: &str = "CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, title TEXT, price INT DEFAULT 5)";

fn replica(tables: &[&str]) -> Replica {
    let replica = Replica::open(":memory:").unwrap();
    for sql in tables {
        replica.connection().execute_batch(sql).unwrap();
        if let Some(name) = sql.strip_prefix("CREATE TABLE ") {
            let name = match name.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap(),
                None => name.split(' ').next().unwrap(),
            };
            replica.replicate(name).unwrap();
        }
    }
    replica
}

fn compare(ours: &[&str], theirs: &[&str]) -> Relation {
    replica(ours).compare_schema(&replica(theirs).schema().unwrap()).unwrap()
}

#[test]
fn relations_name_what_is_lacking() {
    let more = "CREATE TABLE books (ISBN text PRIMARY KEY NOT NULL, title VARCHAR(9), price INT DEFAULT 5, shelf INT)";
    let orders = "CREATE TABLE orders (id INTEGER PRIMARY KEY)";
    assert_eq!(compare(&[BOOKS], &[BOOKS]), Relation::Same);
    assert_eq!(compare(&[], &[]), Relation::Same);
    let shelf = "the other side lacks column \"shelf\" of \"books\"".to_owned();
    assert_eq!(compare(&[more], &[BOOKS]), Relation::Ahead(shelf));
    let shelf = "this side lacks column \"shelf\" of \"books\", table \"orders\"".to_owned();
    assert_eq!(compare(&[BOOKS], &[more, orders]), Relation::Behind(shelf));
    let both = "the other side lacks table \"orders\", this side column \"shelf\" of \"books\"".to_owned();
    assert_eq!(compare(&[BOOKS, orders], &[more]), Relation::Diverged(both));
    // Tables that are not replicated are nobody's business.
    let private = "create table private (x)";
    assert_eq!(compare(&[BOOKS, private], &[BOOKS]), Relation::Same);
}

#[test]
fn contradictions_are_incompatible() {
    for (theirs, what) in [
        ("CREATE TABLE books (isbn INT PRIMARY KEY NOT NULL, title TEXT)", "primary keys"),
        ("CREATE TABLE books (isbn TEXT PRIMARY KEY COLLATE NOCASE NOT NULL, title TEXT)", "primary keys"),
        (
            "CREATE TABLE books (isbn TEXT NOT NULL, title TEXT NOT NULL, PRIMARY KEY (isbn, title))",
            "primary keys",
        ),
        ("CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, title BLOB)", "\"title\" has two types"),
        (
            "CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, price INT DEFAULT 6)",
            "\"price\" has two defaults",
        ),
        ("CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, price INT)", "\"price\" has two defaults"),
        (
            "CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL)",
            "\"title\" has to have a value",
        ),
    ] {
        let Relation::Incompatible(why) = compare(&[BOOKS], &[theirs]) else { panic!("{theirs} was taken") };
        assert!(why.contains(what), "{why}");
    }
    let spelled = "CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, title TEXT DEFAULT NULL, price INTEGER DEFAULT  5)";
    assert_eq!(compare(&[BOOKS], &[spelled]), Relation::Same);
}

#[test]
fn what_another_has_more_is_taken_over() {
    let theirs = replica(&[
        "CREATE TABLE books (isbn TEXT PRIMARY KEY NOT NULL, title TEXT, price INT DEFAULT 5, n INT NOT NULL DEFAULT 1 CHECK (n > 0))",
        "CREATE TABLE \"odd; name\" (\"a \"\"b\" INTEGER PRIMARY KEY, c REAL) STRICT",
        "CREATE INDEX by_title ON books (title COLLATE NOCASE) WHERE n > 1",
    ]);
    let ours = replica(&[BOOKS]);
    ours.connection().execute("INSERT INTO books VALUES ('1', 'one', 1)", []).unwrap();
    let text = theirs.schema().unwrap();
    assert!(ours.adopt_schema(&text).unwrap());
    assert!(!ours.adopt_schema(&text).unwrap());
    assert_eq!(ours.compare_schema(&text).unwrap(), Relation::Same);
    assert!(ours.schema().unwrap().contains("CREATE INDEX by_title"));
    let refused = ours.connection().execute("UPDATE books SET n = 0", []);
    assert!(refused.unwrap_err().to_string().contains("CHECK"));
    ours.connection().execute("INSERT INTO \"odd; name\" VALUES (1, 2.5)", []).unwrap();
    theirs.apply_changeset(&ours.changeset_since(0).unwrap()).unwrap();
    let c: f64 = theirs.connection().query_row("SELECT c FROM \"odd; name\"", [], |r| r.get(0)).unwrap();
    assert_eq!(c, 2.5);
    // Nothing is taken away, and an empty schema adopts nothing.
    assert!(!ours.adopt_schema("").unwrap());
    assert!(ours.verify().unwrap().problems.is_empty());
}

#[test]
fn a_schema_from_a_peer_does_nothing_but_make_tables() {
    let ours = replica(&[BOOKS]);
    for (theirs, what) in [
        ("CREATE TABLE x AS SELECT 1", "authorized"),
        ("CREATE TABLE x (id INTEGER PRIMARY KEY); INSERT INTO x VALUES (1)", "authorized"),
        ("CREATE TABLE x (id INTEGER PRIMARY KEY); DROP TABLE x", "authorized"),
        ("ATTACH 'file:evil?mode=memory' AS evil", "authorized"),
        ("PRAGMA journal_mode = off", "authorized"),
        ("CREATE VIEW v AS SELECT 1", "authorized"),
        ("CREATE TEMP TABLE t (id INTEGER PRIMARY KEY)", "authorized"),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", "authorized"),
        (
            "CREATE TABLE x (id INTEGER PRIMARY KEY); CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END",
            "authorized",
        ),
        ("BEGIN", "authorized"),
        ("SELECT 1", "authorized"),
        ("CREATE TABLE x (a)", "PRIMARY KEY"),
        ("CREATE TABLE crsql_x (id INTEGER PRIMARY KEY)", "reserved"),
        ("CREATE TABLE Rejoin_Server_Sites (id INTEGER PRIMARY KEY)", "reserved"),
        ("CREATE TABLE x (id INTEGER PRIMARY KEY, y DEFAULT (load_extension('y')))", "load_extension"),
        ("CREATE TABLE x (id INTEGER PRIMARY KEY, y DEFAULT (crsql_new_site_id()))", "function of Rejoin"),
        ("CREATE TABLE x (id INTEGER PRIMARY KEY, y CHECK (nonsense(y)))", "nonsense"),
        ("gibberish", "syntax"),
    ] {
        let error = ours.adopt_schema(theirs).unwrap_err().to_string();
        assert!(error.contains(what), "{theirs}: {error}");
    }
    assert_eq!(ours.schema().unwrap(), format!("{BOOKS};\n"));
}
