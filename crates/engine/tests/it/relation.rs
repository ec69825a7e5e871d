//! How schemas stand to each other, and taking over a peer's.

use crate::util::{Files, pull, run};
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

const SHOP: &str = "CREATE TABLE shop (id INTEGER PRIMARY KEY, a, b)";

/// A replica that went through these steps, each seen by Rejoin.
fn migrated(steps: &[&str]) -> Replica {
    let r = replica(&[SHOP, "CREATE TABLE seen (id INTEGER PRIMARY KEY)"]);
    for step in steps {
        r.connection().execute_batch(&format!("{step}; SELECT crsql_as_crr('seen')")).unwrap();
    }
    r
}

#[track_caller]
fn stands(ours: &Replica, theirs: &Replica, expected: Relation) {
    assert_eq!(ours.compare_schema(&theirs.schema().unwrap()).unwrap(), expected);
    let mirrored = theirs.compare_schema(&ours.schema().unwrap()).unwrap();
    match (&expected, mirrored) {
        (Relation::Same, Relation::Same) => {}
        (Relation::Ahead(_), Relation::Behind(_)) | (Relation::Behind(_), Relation::Ahead(_)) => {}
        (Relation::Diverged(_), Relation::Diverged(_)) => {}
        (Relation::Incompatible(_), Relation::Incompatible(_)) => {}
        (_, other) => panic!("{expected:?}, but {other:?}"),
    }
}

#[test]
fn names_that_were_given_again_tell_schemas_apart() {
    let old = migrated(&[]);
    assert!(!old.schema().unwrap().contains("names"));
    let again = migrated(&["ALTER TABLE shop DROP b", "ALTER TABLE shop ADD b"]);
    let told = "the other side lacks column \"b\" of \"shop\", the drop of column \"b\" of \"shop\"";
    stands(&again, &old, Relation::Ahead(told.into()));
    stands(&again, &migrated(&["ALTER TABLE shop DROP b", "ALTER TABLE shop ADD b"]), Relation::Same);
    let renamed = ["ALTER TABLE shop RENAME b TO old_b", "ALTER TABLE shop ADD b"];
    let told = "the other side lacks column \"b\" of \"shop\", the name \"old_b\" of column \"b\"";
    stands(&migrated(&renamed), &old, Relation::Ahead(told.into()));
    stands(&migrated(&renamed), &migrated(&renamed), Relation::Same);
    let table =
        migrated(&["ALTER TABLE shop RENAME TO store", &format!("{SHOP}; SELECT crsql_as_crr('shop')")]);
    let told = "the other side lacks table \"shop\", the name \"store\" of table \"shop\"";
    stands(&table, &old, Relation::Ahead(told.into()));
    let gone = migrated(&["DROP TABLE shop"]);
    stands(&old, &gone, Relation::Behind("this side lacks the drop of table \"shop\"".into()));
    // Each renamed it in its own way.
    let other = migrated(&["ALTER TABLE shop RENAME b TO c"]);
    let both =
        "the other side lacks the name \"d\" of column \"c\", this side the name \"c\" of column \"d\"";
    stands(&migrated(&["ALTER TABLE shop RENAME b TO d"]), &other, Relation::Diverged(both.into()));
    // A fresh file of the final schema.
    let fresh = replica(&["CREATE TABLE shop (id INTEGER PRIMARY KEY, a, old_b, b)"]);
    let why = "table \"shop\": column \"old_b\" is two at the other side, \"old_b\" and \"b\"";
    stands(&migrated(&renamed), &fresh, Relation::Incompatible(why.into()));
    let fresh = replica(&[SHOP, "CREATE TABLE seen (id INTEGER PRIMARY KEY)"]);
    assert!(matches!(again.compare_schema(&fresh.schema().unwrap()).unwrap(), Relation::Ahead(_)));
}

#[test]
fn a_column_that_nothing_was_written_to_yet_has_its_name() {
    let (ours, theirs) = (replica(&[SHOP]), replica(&[SHOP]));
    for r in [&ours, &theirs] {
        r.connection().execute_batch("ALTER TABLE shop ADD c DEFAULT 5").unwrap();
    }
    stands(&ours, &theirs, Relation::Same);
    // Two steps, of which nobody was told.
    for r in [&ours, &theirs] {
        r.connection().execute_batch("ALTER TABLE shop ADD d; ALTER TABLE shop ADD e").unwrap();
    }
    stands(&ours, &theirs, Relation::Same);
    let behind = replica(&[SHOP]);
    let lacks =
        "this side lacks column \"c\" of \"shop\", column \"d\" of \"shop\", column \"e\" of \"shop\"";
    stands(&behind, &theirs, Relation::Behind(lacks.into()));
}

#[test]
fn what_is_adopted_has_the_names_that_it_has_there() {
    let theirs = migrated(&[
        "ALTER TABLE shop RENAME b TO old_b",
        "ALTER TABLE shop ADD b",
        "ALTER TABLE shop DROP a",
        "ALTER TABLE shop ADD a",
        "ALTER TABLE seen ADD x",
        "ALTER TABLE seen DROP x",
        "ALTER TABLE seen ADD x",
        "ALTER TABLE shop RENAME TO store",
    ]);
    theirs.connection().execute("INSERT INTO store VALUES (1, 'old b', 'b', 'a')", []).unwrap();
    let room = replica(&[]);
    let text = theirs.schema().unwrap();
    assert!(room.adopt_schema(&text).unwrap() && !room.adopt_schema(&text).unwrap());
    stands(&room, &theirs, Relation::Same);
    assert_eq!(room.schema().unwrap().lines().last(), text.lines().last());
    room.apply_changeset(&theirs.changeset_since(0).unwrap()).unwrap();
    let row = "SELECT old_b || b || a FROM store";
    let row: String = room.connection().query_row(row, [], |r| r.get(0)).unwrap();
    assert_eq!(row, "old bba");
    // A late client's write to what was dropped waits in the room, too.
    let late = migrated(&[]);
    late.connection().execute("INSERT INTO shop VALUES (2, 'dropped', 'renamed')", []).unwrap();
    room.apply_changeset(&late.changeset_since(0).unwrap()).unwrap();
    let row = "SELECT old_b, b, a FROM store WHERE id = 2";
    let row: (String, Option<String>, Option<String>) =
        room.connection().query_row(row, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
    assert_eq!(row, ("renamed".into(), None, None));
    // What is called otherwise here is not added a second time; what was dropped here does not come back.
    let behind = migrated(&["ALTER TABLE seen ADD x", "ALTER TABLE seen DROP x"]);
    behind.adopt_schema(&text).unwrap();
    assert!(behind.schema().unwrap().starts_with(
        "CREATE TABLE seen (id INTEGER PRIMARY KEY, x);\nCREATE TABLE shop (id INTEGER PRIMARY KEY, a, b);\n"
    ));
    assert!(matches!(behind.compare_schema(&text).unwrap(), Relation::Behind(_)));
    assert!(behind.verify().unwrap().problems.is_empty());
}

#[test]
fn names_of_a_hostile_peer_are_refused() {
    let ours = replica(&[SHOP]);
    let theirs = migrated(&["ALTER TABLE shop RENAME b TO c"]).schema().unwrap();
    let (text, line) = theirs.trim_end().rsplit_once('\n').unwrap();
    let hex = line.strip_prefix("-- names: ").unwrap();
    for (line, what) in [
        (format!("-- names: {hex}0"), "not hex"),
        ("-- names: 0g".into(), "not hex"),
        ("-- names: \u{e9}\u{e9}".into(), "not hex"),
        (format!("-- names: {hex}00"), "left over"),
        ("-- names: 00".into(), "before its content"),
        ("-- names: 0000".into(), "other tables"),
        (format!("-- names: {}", &hex[..hex.len() - 4]), "names of the other schema"),
        (format!("-- names: {}", hex.replace("7368", "7369")), "other tables"),
        (format!("-- names: {}", hex.replace("0161", "0162")), "two columns of one name"),
        (format!("-- names: {}", hex.replace("0161", "0164")), "other tables or columns"),
    ] {
        let error = ours.compare_schema(&format!("{text}\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains(what), "{line}: {error}");
    }
    // Only the last line is one.
    let comment = format!("-- names: 00\n{SHOP};\n");
    assert_eq!(ours.compare_schema(&comment).unwrap(), Relation::Same);
}

/// What was answered once is not answered again when it is no longer so, whoever changed it and however it ended.
#[test]
fn the_text_of_the_schema_is_never_an_old_one() {
    let files = Files::new();
    let one =
        files.open("one.db", "CREATE TABLE books (id INTEGER PRIMARY KEY NOT NULL, title TEXT, price INT)");
    one.replicate("books").unwrap();
    let other = Replica::open(files.dir.path().join("one.db")).unwrap();
    let mut last = String::new();
    let mut check = |what: &str, changed: bool| {
        let fresh = Replica::open(files.dir.path().join("one.db")).unwrap().schema().unwrap();
        for asked in [&one, &other, &one] {
            assert_eq!(asked.schema().unwrap(), fresh, "{what}");
        }
        assert_eq!(last != fresh, changed, "{what}");
        last = fresh;
    };
    check("made", true);
    check("nothing", false);
    run(&one, "INSERT INTO books VALUES (1, 'a', 1)");
    check("a row", false);
    run(&other, "ALTER TABLE books RENAME COLUMN title TO name");
    check("renamed by another connection", true);
    run(&one, "BEGIN; ALTER TABLE books ADD COLUMN shelf INT");
    let within = one.schema().unwrap();
    assert!(within.contains("shelf"));
    run(&one, "ROLLBACK");
    check("taken back", false);
    run(&one, "ALTER TABLE books ADD COLUMN place INT");
    check("another column in its place", true);
    run(&one, "CREATE INDEX by_name ON books (name)");
    check("an index", true);
    // A peer has renamed a column and renamed it back: here only the names are new.
    let peer = Replica::open(":memory:").unwrap();
    run(&peer, "CREATE TABLE books (id INTEGER PRIMARY KEY NOT NULL, name TEXT, price INT)");
    peer.replicate("books").unwrap();
    for (from, to) in [("price", "cost"), ("cost", "amount"), ("amount", "price")] {
        run(&peer, &format!("ALTER TABLE books RENAME COLUMN {from} TO {to}"));
    }
    run(&peer, "INSERT INTO books VALUES (2, 'b', 2)");
    run(&one, "BEGIN");
    pull(&peer, &one).unwrap();
    run(&one, "ROLLBACK");
    check("names that were taken back", false);
    pull(&peer, &other).unwrap();
    check("names", true);
    run(&one, "DROP TABLE books");
    check("dropped", true);
}
