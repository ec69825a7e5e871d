//! What the engine does to a file, in steps.

use super::{Setting, Step, open, sql, txn};
use crate::sql::rows;
use rejoin::Replica;
use rejoin_sqlite::disk::{Disk, Image};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

pub const NAMES: [&str; 15] = [
    "adopt",
    "writes",
    "bulk",
    "folding",
    "savepoints",
    "alter",
    "rebuild",
    "rowwise",
    "changeset",
    "stream",
    "upgrade",
    "settings",
    "automigrate",
    "collection",
    "tiny",
];

const TABLES: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER DEFAULT 0); \
     CREATE TABLE notes(k TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER); \
     CREATE TABLE pairs(a TEXT NOT NULL, b INTEGER NOT NULL, v, PRIMARY KEY (a, b)) WITHOUT ROWID;";

const ADOPT: [&str; 3] =
    ["SELECT crsql_as_crr('items')", "SELECT crsql_as_crr('notes')", "SELECT crsql_as_crr('pairs')"];

const ROWS: &str = "INSERT INTO items SELECT value, 'item ' || value, value * 1.5, value FROM n; \
     INSERT INTO notes SELECT 'note ' || value, 'some text that takes room ' || value, value FROM n; \
     INSERT INTO pairs SELECT 'p' || value % 7, value, 'v' || value FROM n;";

/// `ROWS` for numbers from `from` to `to`.
fn numbered(from: u32, to: u32) -> String {
    ROWS.replace(" FROM n", &format!(" FROM {}", series(from, to)))
}

/// Numbers as a table, without an extension of SQLite's.
fn series(from: u32, to: u32) -> String {
    format!(
        "(WITH RECURSIVE s(value) AS (VALUES ({from}) UNION ALL SELECT value + 1 FROM s WHERE value < {to}) \
         SELECT value FROM s)"
    )
}

/// The start and the steps.
pub fn make(name: &str, disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    let adopted = || adopted(disk, setting);
    match name {
        "adopt" => adopt(disk, setting),
        "writes" => (adopted(), writes()),
        "bulk" => (adopted(), bulk()),
        "folding" => (folding_start(disk, setting), folding()),
        "savepoints" => (adopted(), savepoints()),
        "alter" => (adopted(), alter()),
        "rebuild" => (adopted(), rebuild()),
        "rowwise" => rowwise(adopted(), disk, setting),
        "changeset" => changeset(adopted(), disk, setting),
        "stream" => stream(disk, setting),
        "upgrade" => upgrade(disk, setting),
        "settings" => (adopted(), settings(setting)),
        "automigrate" => (adopted(), automigrate()),
        "collection" => (adopted(), collection()),
        "tiny" => tiny(disk, setting),
        _ => panic!("no workload has the name {name}"),
    }
}

/// Three replicated tables, one for each kind of key, of 20 rows.
pub fn adopted(disk: &Disk, setting: Setting) -> Image {
    start(disk, setting, &[&schema(), &numbered(1, 20)])
}

/// The tables of `adopted`, without rows.
pub fn schema() -> String {
    format!("{TABLES} {}", ADOPT.join("; "))
}

/// A file after these statements, closed.
fn start(disk: &Disk, setting: Setting, sql: &[&str]) -> Image {
    disk.restore(&Image::default());
    begin(disk, setting);
    let r = open(disk, setting).unwrap();
    if setting.owned {
        run(&r, "SELECT crsql_config_set('mode', 'owned')");
    }
    sql.iter().for_each(|sql| run(&r, sql));
    drop(r);
    disk.live()
}

/// Sets what is to be set before anything else.
fn begin(disk: &Disk, setting: Setting) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let conn = Connection::open_with_flags_and_vfs("main.db", flags, disk.vfs()).unwrap();
    rows(&conn, "PRAGMA page_size = 1024");
    rows(&conn, if setting.wal { "PRAGMA journal_mode = wal" } else { "PRAGMA journal_mode = delete" });
}

fn run(r: &Replica, sql: &str) {
    r.connection().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn adopt(disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    disk.restore(&Image::default());
    begin(disk, setting);
    let r = open(disk, setting).unwrap();
    run(&r, TABLES);
    run(&r, &numbered(1, 75));
    drop(r);
    let mut steps = Vec::new();
    if setting.owned {
        // The metadata and the mode are two transactions.
        steps.push(sql("SELECT crsql_site_id()"));
        steps.push(sql("SELECT crsql_config_set('mode', 'owned')"));
    }
    steps.extend(ADOPT.map(sql));
    steps.push(sql("INSERT INTO items(id, name) VALUES (1000, 'new')"));
    steps.push(sql("SELECT crsql_as_table('notes')"));
    (disk.live(), steps)
}

fn writes() -> Vec<Step> {
    vec![
        txn(&[
            "INSERT INTO items(id, name) VALUES (100, 'a'), (101, 'b'), (102, 'c')",
            "INSERT INTO notes VALUES ('x', 'body', 1), ('y', NULL, 2)",
            "INSERT INTO pairs VALUES ('x', 1, 'v'), ('y', 2, x'00')",
            "UPDATE items SET stock = stock + 1 WHERE id % 2 = 0",
            "UPDATE notes SET body = 'new' WHERE n < 5",
            "UPDATE pairs SET v = NULL WHERE b = 3",
            "DELETE FROM items WHERE id IN (3, 101)",
            "DELETE FROM notes WHERE k = 'note 7'",
            "DELETE FROM pairs WHERE b > 18",
        ]),
        txn(&[
            "UPDATE items SET id = id + 1000 WHERE id IN (5, 6)",
            "UPDATE notes SET k = 'moved ' || n WHERE n IN (8, 9)",
            "UPDATE pairs SET b = b + 500 WHERE b IN (10, 11)",
            "INSERT INTO items(id, name) VALUES (3, 'again'), (5, 'in place')",
            "INSERT OR REPLACE INTO notes VALUES ('note 10', 'replaced', 0)",
            "INSERT INTO pairs VALUES ('p1', 1, 'up') ON CONFLICT DO UPDATE SET v = excluded.v",
        ]),
        sql("DELETE FROM pairs"),
        sql("UPDATE notes SET n = n + 1"),
    ]
}

fn bulk() -> Vec<Step> {
    vec![
        sql(&format!("BEGIN; {} COMMIT", numbered(1001, 1080))),
        txn(&["UPDATE items SET price = price + 1", "UPDATE notes SET body = body || '!'"]),
        sql("DELETE FROM items WHERE id > 1005"),
        txn(&["DELETE FROM notes", "DELETE FROM pairs"]),
    ]
}

/// Many small transactions before: the overlay is about to be folded.
fn folding_start(disk: &Disk, setting: Setting) -> Image {
    let updates: Vec<String> =
        (0..251).map(|i| format!("UPDATE items SET stock = stock + 1 WHERE id = {}", 1001 + i)).collect();
    let many = format!("INSERT INTO items(id, name) SELECT value, 'x' FROM {}", series(1001, 1260));
    start(disk, setting, &[TABLES, &ADOPT.join("; "), &numbered(1, 20), &many, &updates.join("; ")])
}

fn folding() -> Vec<Step> {
    let mut steps: Vec<Step> =
        (0..4).map(|i| sql(&format!("UPDATE items SET stock = stock + 1 WHERE id = {}", 1252 + i))).collect();
    steps.push(sql("UPDATE notes SET n = n + 1 WHERE n < 4"));
    steps.push(sql("INSERT INTO pairs VALUES ('z', 1, 1)"));
    steps.push(sql("DELETE FROM items WHERE id < 3"));
    steps
}

fn savepoints() -> Vec<Step> {
    let many = format!("INSERT INTO items(id, name) SELECT value, 'x' FROM {}", series(2000, 2100));
    vec![
        txn(&[
            "INSERT INTO items(id, name) VALUES (100, 'kept')",
            "SAVEPOINT one",
            "UPDATE items SET stock = 7",
            &many,
            "SAVEPOINT two",
            "DELETE FROM notes",
            "ROLLBACK TO two",
            "UPDATE notes SET body = 'between' WHERE n = 1",
            "RELEASE two",
            "ROLLBACK TO one",
            "INSERT INTO pairs VALUES ('kept', 1, 2)",
            "RELEASE one",
            "UPDATE items SET stock = 8 WHERE id = 100",
        ]),
        txn(&[
            "SAVEPOINT a",
            "INSERT INTO notes VALUES ('s', 't', 1)",
            "RELEASE a",
            "SELECT count(*) FROM crsql_changes",
            "SAVEPOINT b",
            "UPDATE notes SET body = 'u' WHERE k = 's'",
            "SELECT count(*) FROM crsql_changes",
            "ROLLBACK TO b",
            "UPDATE notes SET n = 2 WHERE k = 's'",
        ]),
    ]
}

fn alter() -> Vec<Step> {
    vec![
        sql("ALTER TABLE items ADD COLUMN note TEXT DEFAULT 'none'"),
        sql("UPDATE items SET note = 'some' WHERE id < 4"),
        sql("ALTER TABLE items RENAME COLUMN name TO title"),
        sql("UPDATE items SET title = 'renamed' WHERE id = 2"),
        txn(&["UPDATE items SET stock = 7 WHERE id = 2", "ALTER TABLE items DROP COLUMN price"]),
        sql("ALTER TABLE notes RENAME TO memos"),
        txn(&[
            "SELECT crsql_begin_alter('pairs')",
            "ALTER TABLE pairs ADD COLUMN w DEFAULT 1",
            "UPDATE pairs SET w = 2 WHERE b = 1",
            "DELETE FROM pairs WHERE b = 2",
            "SELECT crsql_commit_alter('pairs')",
        ]),
        sql("INSERT INTO memos VALUES ('after', 'the rename', 1)"),
        sql("DROP TABLE pairs"),
        sql("INSERT INTO items(id, title) VALUES (50, 'end')"),
    ]
}

fn rebuild() -> Vec<Step> {
    vec![
        txn(&[
            "CREATE TABLE new_items(id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT '', price REAL, stock INTEGER DEFAULT 0, extra)",
            "INSERT INTO new_items(id, name, price, stock) SELECT id, name, price, stock FROM items",
            "DROP TABLE items",
            "ALTER TABLE new_items RENAME TO items",
            "SELECT crsql_as_crr('items')",
        ]),
        sql("INSERT INTO items(id, name, extra) VALUES (70, 'seventy', 1)"),
        txn(&[
            "CREATE TABLE new_notes(k TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER, m)",
            "INSERT INTO new_notes(k, body, n) SELECT k, body, n FROM notes ORDER BY k DESC",
            "DROP TABLE notes",
            "ALTER TABLE new_notes RENAME TO notes",
            "SELECT crsql_as_crr('notes')",
            "UPDATE notes SET m = 1 WHERE n = 4",
        ]),
        sql("VACUUM"),
        sql("UPDATE notes SET body = 'end' WHERE n > 15"),
    ]
}

/// A peer that has the start, after these statements.
fn peer(start: &Image, sql: &[&str]) -> Replica {
    let r = Replica::attach(Connection::open_in_memory().unwrap()).unwrap();
    r.set_clock(|| 1_700_000_000_500).unwrap();
    run(&r, TABLES);
    run(&r, &ADOPT.join("; "));
    let disk = Disk::new();
    disk.restore(start);
    let from = Replica::attach(
        Connection::open_with_flags_and_vfs("main.db", OpenFlags::SQLITE_OPEN_READ_WRITE, disk.vfs())
            .unwrap(),
    )
    .unwrap();
    r.apply_changeset(&from.changeset_since(0).unwrap()).unwrap();
    sql.iter().for_each(|sql| run(&r, sql));
    r
}

const THERE: [&str; 5] = [
    "UPDATE items SET name = 'theirs', stock = 99 WHERE id IN (1, 2, 3)",
    "BEGIN; DELETE FROM notes WHERE n < 4; INSERT INTO notes VALUES ('theirs', 'b', 5); COMMIT",
    "BEGIN; UPDATE pairs SET b = b + 100 WHERE b = 6; UPDATE items SET id = 600 WHERE id = 6; COMMIT",
    "CREATE TABLE unknown(k PRIMARY KEY NOT NULL, v); SELECT crsql_as_crr('unknown'); INSERT INTO unknown VALUES (1, 2)",
    "INSERT INTO notes VALUES ('note 1', 'back again', 1)",
];

fn rowwise(start: Image, disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    disk.restore(&start);
    let known = open(disk, setting).unwrap().db_version().unwrap();
    let p = peer(&start, &THERE);
    let of = |condition: &str| {
        rows(
            p.connection(),
            &format!(
                "SELECT 'INSERT INTO crsql_changes VALUES (' || quote(\"table\") || ',' || quote(pk) || ',' || quote(cid) || \
                 ',' || quote(val) || ',' || col_version || ',' || db_version || ',' || quote(site_id) || ',' || cl || ',' || \
                 seq || ')' FROM crsql_changes WHERE site_id = crsql_site_id() AND {condition} ORDER BY db_version, seq"
            ),
        )
    };
    let local = "UPDATE items SET price = 3 WHERE id = 2";
    let mut mixed = of("\"table\" <> 'unknown'");
    mixed.insert(mixed.len() / 2, local.into());
    assert!(mixed.len() > 15 && known > 0);
    let table = "CREATE TABLE unknown(k PRIMARY KEY NOT NULL, v); SELECT crsql_as_crr('unknown')";
    let steps = vec![
        Step::Txn(of("\"table\" = 'unknown'")),
        Step::Txn(mixed),
        Step::Txn(of("1")),
        Step::Txn(table.split("; ").map(str::to_owned).collect()),
        sql("UPDATE unknown SET v = 3"),
    ];
    (start, steps)
}

fn changeset(start: Image, disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    disk.restore(&start);
    let known = open(disk, setting).unwrap().vector().unwrap();
    let mut steps = Vec::new();
    let p = peer(&start, &[]);
    let mut theirs = known;
    for sql in THERE {
        run(&p, sql);
        steps.push(Step::Apply(p.changeset_for(&theirs).unwrap().unwrap()));
        theirs = p.vector().unwrap();
    }
    steps.insert(2, sql("UPDATE items SET stock = 1 WHERE id < 5"));
    let table = ["CREATE TABLE unknown(k PRIMARY KEY NOT NULL, v)", "SELECT crsql_as_crr('unknown')"];
    steps.push(txn(&table));
    run(&p, &format!("BEGIN; {} COMMIT", numbered(3001, 3070)));
    steps.push(Step::Apply(p.changeset_for(&theirs).unwrap().unwrap()));
    (start, steps)
}

fn stream(disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    let empty = start(disk, setting, &[TABLES, &ADOPT.join("; ")]);
    let p = peer(&empty, &[]);
    run(&p, &numbered(1, 140));
    run(&p, "UPDATE items SET stock = 5 WHERE id % 10 = 0; DELETE FROM notes WHERE n % 9 = 0");
    let all = p.changeset_since(0).unwrap();
    (empty, vec![Step::Apply(all.clone()), sql("UPDATE items SET stock = 6 WHERE id = 10"), Step::Apply(all)])
}

fn upgrade(disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cr-sqlite/vlcn-0.16.3.db");
    disk.restore(&Image::from_files([("main.db", std::fs::read(path).unwrap())]));
    begin(disk, setting);
    let mut steps = vec![sql("SELECT crsql_upgrade()")];
    if setting.owned {
        steps.push(sql("SELECT crsql_config_set('mode', 'owned')"));
    }
    steps.push(sql("UPDATE book SET price = price + 1"));
    steps.push(sql("DELETE FROM line"));
    (disk.live(), steps)
}

fn settings(setting: Setting) -> Vec<Step> {
    let (other, same) = if setting.owned { ("shared", "owned") } else { ("owned", "shared") };
    vec![
        sql("SELECT crsql_config_set('clock', 'lamport')"),
        sql("UPDATE items SET stock = 1 WHERE id = 1"),
        sql(&format!("SELECT crsql_config_set('mode', '{other}')")),
        sql("UPDATE items SET stock = 2 WHERE id < 5"),
        sql(&format!("SELECT crsql_config_set('mode', '{same}')")),
        sql("UPDATE items SET stock = 3 WHERE id < 5"),
        Step::Call(|r| r.new_site_id().map(drop)),
        sql("UPDATE notes SET n = 0 WHERE n = 1"),
    ]
}

fn automigrate() -> Vec<Step> {
    let wanted = "CREATE TABLE IF NOT EXISTS items(id INTEGER PRIMARY KEY, name TEXT, stock INTEGER DEFAULT 0, colour TEXT); \
         CREATE TABLE IF NOT EXISTS notes(k TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER); CREATE INDEX IF NOT EXISTS by_body ON notes(body); \
         CREATE TABLE IF NOT EXISTS more(id INTEGER PRIMARY KEY NOT NULL, x); SELECT crsql_as_crr(''more'');";
    vec![
        sql(&format!("SELECT crsql_automigrate('{wanted}')")),
        sql("INSERT INTO items(id, colour) VALUES (900, 'red')"),
        sql("INSERT INTO more VALUES (1, 2)"),
    ]
}

/// Everybody is taken to have what is here.
fn collect(r: &Replica) -> rejoin::Result<()> {
    r.collect(&r.vector()?).map(drop)
}

fn collection() -> Vec<Step> {
    vec![
        txn(&[
            "DELETE FROM items WHERE id > 3",
            "DELETE FROM notes WHERE n > 3",
            "DELETE FROM pairs WHERE b > 3",
        ]),
        sql("UPDATE items SET stock = 0"),
        Step::Call(collect),
        sql("INSERT INTO items(id, name) VALUES (10, 'again')"),
        sql("DELETE FROM notes"),
        Step::Call(collect),
        sql("UPDATE items SET stock = 1"),
    ]
}

/// So little that every call can fail once, always.
fn tiny(disk: &Disk, setting: Setting) -> (Image, Vec<Step>) {
    let start = start(disk, setting, &[&schema(), &numbered(1, 3)]);
    let theirs = peer(&start, &["INSERT INTO notes VALUES ('theirs', 'new', 4)"]).changeset_since(0).unwrap();
    let steps = vec![
        sql("DELETE FROM pairs WHERE b = 1"),
        Step::Apply(theirs),
        txn(&["UPDATE notes SET n = 9", "SAVEPOINT s", "INSERT INTO items(id) VALUES (9)", "RELEASE s"]),
        sql("ALTER TABLE items ADD COLUMN extra"),
        sql("UPDATE items SET extra = 1"),
        Step::Call(|r| r.new_site_id().map(drop)),
        sql("UPDATE items SET extra = 2"),
    ];
    (start, steps)
}
