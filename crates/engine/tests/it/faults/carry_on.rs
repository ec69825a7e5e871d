//! An application that carries on after an error: it leaves out the statement that failed, and commits what remains.
//!
//! A statement can also be interrupted at any moment, which leaves the transaction open more often.
//!
//! SQLite takes back a statement that failed, or the whole transaction. Whichever it was, afterwards metadata and tables
//! agree, and a peer that follows by changesets, or row by row, gets exactly what stands in the tables.

use super::{SETTINGS, assert_clean, look, open, point, points, workloads};
use crate::util::{pull, rows};
use rejoin::Replica;
use rejoin_sqlite::disk::{Call, Disk, Fault, Image};
use rejoin_sqlite::ffi;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHORT: u64 = 25;

fn statements() -> Vec<String> {
    let many = |from: u32, to: u32| {
        format!(
            "INSERT INTO items(id, name) WITH RECURSIVE s(v) AS (VALUES ({from}) UNION ALL SELECT v + 1 FROM s \
             WHERE v < {to}) SELECT v, 'row ' || v FROM s"
        )
    };
    [
        "BEGIN",
        "INSERT INTO items(id, name) VALUES (100, 'a'), (101, 'b')",
        "UPDATE notes SET body = 'new' WHERE n < 9",
        "SAVEPOINT one",
        "UPDATE pairs SET v = 'x' WHERE b < 9",
        "DELETE FROM items WHERE id IN (3, 101)",
        "SELECT count(*) FROM crsql_changes",
        "SAVEPOINT two",
        "UPDATE notes SET k = 'moved ' || n WHERE n IN (8, 9)",
        &many(2000, 2080),
        "ROLLBACK TO two",
        "INSERT OR REPLACE INTO notes VALUES ('note 10', 'replaced', 0)",
        "RELEASE one",
        "UPDATE items SET stock = stock + 1",
        &many(3000, 3080),
        "INSERT INTO crsql_changes VALUES ('items', x'010901', 'name', 'merged', 250190233605000, 1, x'00112233445566778899aabbccddeeff', 1, 0), \
         ('items', x'010902', 'name', 'merged', 250190233605000, 1, x'00112233445566778899aabbccddeeff', 1, 1), \
         ('pairs', x'020b01300907', '-1', NULL, 2, 1, x'00112233445566778899aabbccddeeff', 2, 2)",
        "DELETE FROM pairs WHERE b > 15",
        "COMMIT",
        "UPDATE notes SET n = n + 1",
        "DELETE FROM items WHERE id = 1",
    ]
    .iter()
    .map(|s| (*s).to_string())
    .collect()
}

/// Runs a statement to its end; whether it succeeded.
fn attempt(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut q = conn.prepare(sql)?;
    let mut found = q.query([])?;
    while found.next()?.is_some() {}
    Ok(())
}

/// All statements, whatever they say; what of `crsql_changes` a peer that pulls row by row takes afterwards.
fn carry_on(r: &Replica, disk: &Disk) {
    for sql in statements() {
        let _ = attempt(r.connection(), &sql);
    }
    disk.heal();
    if !r.connection().is_autocommit() {
        // A COMMIT that failed may leave it open.
        let committed = attempt(r.connection(), "COMMIT");
        if committed.is_err() && !r.connection().is_autocommit() {
            attempt(r.connection(), "ROLLBACK").unwrap();
        }
    }
}

fn peer(start: &Image, setting: super::Setting) -> (Replica, i64) {
    let disk = Disk::new();
    disk.restore(start);
    let from = open(&disk, setting).unwrap();
    let peer = Replica::attach(Connection::open_in_memory().unwrap()).unwrap();
    peer.connection().execute_batch(&workloads::schema()).unwrap();
    pull(&from, &peer).unwrap();
    (peer, from.db_version().unwrap())
}

/// What a cursor at `since` has not seen, row by row.
fn pull_rows(from: &Replica, to: &Replica, since: i64) {
    let columns = "\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq";
    let mut q = from
        .connection()
        .prepare(&format!(
            "SELECT {columns} FROM crsql_changes WHERE db_version > ?1 ORDER BY db_version, seq"
        ))
        .unwrap();
    let mut found = q.query([since]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let values: Vec<rusqlite::types::Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
        let sql = format!("INSERT INTO crsql_changes({columns}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
        to.connection().execute(&sql, rusqlite::params_from_iter(values)).unwrap();
    }
}

fn tables(r: &Replica) -> Vec<Vec<String>> {
    ["items", "notes", "pairs"].map(|t| rows(r, &format!("SELECT * FROM {t} ORDER BY 1, 2"))).into()
}

fn assert_followed(r: &Replica, start: &Image, setting: super::Setting) {
    assert_clean(r);
    look(r).unwrap_or_else(|e| panic!("the replica cannot be read any more: {e}"));
    let (native, _) = peer(start, setting);
    pull(r, &native).unwrap();
    assert_eq!(tables(r), tables(&native), "by changesets");
    let (rowwise, since) = peer(start, setting);
    pull_rows(r, &rowwise, since);
    assert_eq!(tables(r), tables(&rowwise), "row by row");
}

#[test]
fn what_remains_is_what_peers_get() {
    let disk = Disk::new();
    let manners: [(&str, Option<Call>, bool, Option<i32>); 4] = [
        ("once", None, false, None),
        ("read", Some(Call::Read), false, None),
        ("full-once", Some(Call::Write), false, Some(ffi::SQLITE_FULL)),
        ("full", Some(Call::Write), true, Some(ffi::SQLITE_FULL)),
    ];
    for setting in SETTINGS {
        let start = workloads::adopted(&disk, setting);
        for (manner, call, lasting, code) in manners {
            disk.restore(&start);
            let r = open(&disk, setting).unwrap();
            for sql in statements() {
                attempt(r.connection(), &sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            }
            let calls = disk.calls(call);
            assert_followed(&r, &start, setting);
            drop(r);
            for n in points(calls, SHORT) {
                point(&format!("carry-on/{setting}/{manner}/{n}"), || {
                    disk.restore(&start);
                    disk.fail(Fault { call, nth: n, lasting, code });
                    let Ok(r) = open(&disk, setting) else { return disk.heal() };
                    carry_on(&r, &disk);
                    assert_followed(&r, &start, setting);
                });
            }
        }
    }
}

/// How many instructions of SQLite's between two moments of interruption.
const OPS: i32 = 10;

/// Interrupts the connection once, at the n-th moment; the moments are counted.
fn interrupt_at(r: &mut Replica, n: u64) -> Arc<AtomicU64> {
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let handler = move || count.fetch_add(1, Ordering::Relaxed) + 1 == n;
    r.connection_mut().progress_handler(OPS, Some(handler)).unwrap();
    seen
}

#[test]
fn what_was_not_interrupted_is_what_peers_get() {
    let disk = Disk::new();
    for setting in SETTINGS.into_iter().filter(|s| s.wal) {
        let start = workloads::adopted(&disk, setting);
        disk.restore(&start);
        let mut r = open(&disk, setting).unwrap();
        let seen = interrupt_at(&mut r, 0);
        carry_on(&r, &disk);
        let all = seen.load(Ordering::Relaxed);
        assert!(all > 500, "{all} moments");
        drop(r);
        for n in points(all, 2 * SHORT) {
            point(&format!("carry-on/{setting}/interrupt/{n}"), || {
                disk.restore(&start);
                let mut r = open(&disk, setting).unwrap();
                interrupt_at(&mut r, n);
                carry_on(&r, &disk);
                assert_followed(&r, &start, setting);
            });
        }
    }
}
