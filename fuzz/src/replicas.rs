//! Replicas for the targets, and what must hold of them whatever was done to them.

use rejoin::Replica;
use rusqlite::types::{Value, ValueRef};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// A key of each kind, required columns, a CHECK, names that need quotes.
pub const SCHEMA: &str = "
CREATE TABLE i(k INTEGER PRIMARY KEY, x DEFAULT 0, y CHECK (y IS NOT 'bad'));
CREATE TABLE t(k TEXT NOT NULL COLLATE NOCASE PRIMARY KEY, x, y NOT NULL);
CREATE TABLE u(k NOT NULL, l INTEGER NOT NULL, x DEFAULT 7, \"y \"\"z\", PRIMARY KEY (k, l)) WITHOUT ROWID;
CREATE TABLE p(a BLOB NOT NULL, b REAL NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE plain(k INTEGER PRIMARY KEY, x);
SELECT crsql_as_crr('i'); SELECT crsql_as_crr('t'); SELECT crsql_as_crr('u'); SELECT crsql_as_crr('p');
SELECT crsql_config_set('merge-equal-values', 1);
";

/// Rows, a tombstone, a moved key, a second life.
pub const ROWS: &str = "
INSERT INTO i VALUES (1, 'a', 1), (2, 2.5, NULL), (-9, x'00ff', 3);
INSERT INTO t VALUES ('a', 1, 1), ('B', 2, 2), ('c', NULL, 'long enough to be kept as a hash, which is so above some length');
BEGIN; INSERT INTO u VALUES (1, 1, 1, 1), (1.0, 2, 2, 2), ('x', 3, 3, 3); INSERT INTO p VALUES (x'01', 1), (x'02', 2.5); COMMIT;
DELETE FROM i WHERE k = 2; UPDATE t SET k = 'd' WHERE k = 'c'; DELETE FROM t WHERE k = 'a';
INSERT INTO t VALUES ('A', 5, 5); UPDATE i SET x = 9; DELETE FROM p WHERE b > 2;
";

/// A replica in memory on which these texts were run. Most of the time would go into running them, so each later one is a
/// copy of the first, under an id of its own.
pub fn replica(texts: &[&str]) -> Replica {
    thread_local! {
        static MADE: RefCell<HashMap<String, Vec<u8>>> = RefCell::default();
    }
    let mut conn = rusqlite::Connection::open_in_memory().expect("memory");
    let text = texts.concat();
    let known = MADE.with_borrow(|made| made.get(&text).cloned());
    let copy = known.is_some();
    if let Some(bytes) = known {
        conn.deserialize_read_exact("main", bytes.as_slice(), bytes.len(), false).expect("a database");
    }
    let mut replica = Replica::attach(conn).expect("a connection without an engine");
    if copy {
        replica.new_site_id().expect("a new id");
    } else {
        replica.connection().execute_batch(&text).expect("statements without a fault");
        let bytes = replica.connection_mut().serialize("main").expect("a database").to_vec();
        MADE.with_borrow_mut(|made| made.insert(text, bytes));
    }
    replica
}

/// A failed statement names its cause; a panic that was caught on the way is no cause.
pub fn tolerate<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(e) => {
            let told = e.to_string();
            assert!(!told.contains("internal error"), "{told}");
            assert!(!told.contains("metadata is damaged"), "{told}");
            None
        }
    }
}

type Row = Vec<Value>;

fn select(replica: &Replica, text: &str) -> Vec<Row> {
    let mut stmt = replica.connection().prepare(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let columns = stmt.column_count();
    let value = |v: ValueRef<'_>| match v {
        // A text that is not UTF-8 is told by its bytes.
        ValueRef::Text(t) => Value::Text(format!("{:?}", String::from_utf8_lossy(t))),
        other => other.try_into().unwrap_or(Value::Null),
    };
    let rows = stmt.query_map([], |row| (0..columns).map(|i| Ok(value(row.get_ref(i)?))).collect());
    let rows = rows.and_then(Iterator::collect);
    rows.unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub fn changes(replica: &Replica) -> Vec<Row> {
    select(
        replica,
        "SELECT db_version, seq, \"table\", pk, cid, val, col_version, site_id, cl FROM crsql_changes",
    )
}

fn tables(replica: &Replica) -> BTreeMap<String, Vec<String>> {
    let names = select(replica, "SELECT t.name FROM crsql_tables AS t JOIN sqlite_schema USING (name)");
    let mut all = BTreeMap::new();
    for name in names {
        let Some(Value::Text(name)) = name.first() else { continue };
        let mut rows: Vec<String> =
            select(replica, &format!("SELECT * FROM {name}")).iter().map(|r| format!("{r:?}")).collect();
        rows.sort();
        all.insert(name.clone(), rows);
    }
    all
}

/// Cells and sentinels with everything that does not depend on who holds them.
fn cells(replica: &Replica) -> BTreeMap<String, String> {
    changes(replica)
        .iter()
        .filter_map(|c| {
            // Names of what waits for a table are told as somebody spelled them.
            let at = format!("{:?} {:?} {:?}", c.get(2)?, c.get(3)?, c.get(4)?).to_ascii_lowercase();
            let sentinel = c.get(4) == Some(&Value::Text("\"-1\"".into()));
            // A sentinel that is made of a cell has that cell's seq and site.
            let rest = if sentinel { format!("{:?}", c.get(8)?) } else { format!("{:?}", c.get(5..)?) };
            Some((at, rest))
        })
        .collect()
}

/// Metadata agrees with the tables, and a peer that is told everything has the same.
pub fn check(replica: &Replica, schema: Option<&str>) {
    let report = replica.verify().expect("verify reads");
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let listed = changes(replica);
    let order = |c: &Row| match (c.first(), c.get(1)) {
        (Some(Value::Integer(v)), Some(Value::Integer(seq))) => (*v, *seq),
        _ => panic!("{c:?}"),
    };
    assert!(listed.iter().map(order).is_sorted(), "not in order: {listed:#?}");
    let Some(schema) = schema else { return };
    let by_rows = crate::replicas::replica(&[schema]);
    copy_rows(replica, &by_rows);
    same(replica, &by_rows, "row by row");
    let natively = crate::replicas::replica(&[schema]);
    let all = replica.changeset_for(&natively.vector().expect("a vector")).expect("a changeset");
    if let Some(all) = all {
        natively.apply_changeset(&all).expect("an honest changeset");
    }
    same(replica, &natively, "as a changeset");
}

fn copy_rows(from: &Replica, to: &Replica) {
    let mut stmt = from.connection().prepare("SELECT * FROM crsql_changes").expect("crsql_changes");
    let insert = "INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let mut insert = to.connection().prepare(insert).expect("crsql_changes");
    to.connection().execute_batch("BEGIN").expect("a transaction");
    let mut rows = stmt.query([]).expect("crsql_changes");
    while let Some(row) = rows.next().expect("a change") {
        for i in 0..9 {
            let value = rusqlite::types::ToSqlOutput::Borrowed(row.get_ref(i).expect("nine columns"));
            insert.raw_bind_parameter(i + 1, value).expect("bound");
        }
        insert.raw_execute().expect("an honest change");
    }
    to.connection().execute_batch("COMMIT").expect("a commit");
}

fn same(a: &Replica, b: &Replica, how: &str) {
    let (left, right) = (tables(a), tables(b));
    assert_eq!(left, right, "tables differ {how}");
    if std::env::var_os("REJOIN_TRACE").is_some() {
        eprintln!("here {:#?}\nthere {:#?}", changes(a), changes(b));
    }
    let (left, right) = (cells(a), cells(b));
    let only = |x: &BTreeMap<String, String>, y: &BTreeMap<String, String>| -> Vec<String> {
        x.iter().filter(|(k, v)| y.get(*k) != Some(v)).map(|(k, v)| format!("{k}: {v}")).collect()
    };
    assert!(
        left == right,
        "changes differ {how}\nhere: {:#?}\nthere: {:#?}",
        only(&left, &right),
        only(&right, &left)
    );
}
