//! The disk that fails and crashes, under SQLite alone.

use rejoin_sqlite::disk::{Call, Disk, Fault, Image, Loss};
use rusqlite::{Connection, ErrorCode, OpenFlags};

fn open(disk: &Disk) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    Connection::open_with_flags_and_vfs("main.db", flags, disk.vfs()).expect("open")
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).expect("count")
}

fn is_sound(conn: &Connection) -> bool {
    conn.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).expect("check") == "ok"
}

const ROWS: &str = "INSERT INTO t(v) SELECT randomblob(300) FROM (VALUES (1), (2), (3)), (VALUES (1), (2), (3)), \
     (VALUES (1), (2), (3))";

/// A database of 27 rows in that journal mode, closed.
fn start(disk: &Disk, mode: &str) -> Image {
    let conn = open(disk);
    let set: String =
        conn.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |r| r.get(0)).expect("mode");
    assert_eq!(set, mode);
    conn.execute_batch(&format!("CREATE TABLE t(k INTEGER PRIMARY KEY, v); {ROWS}")).expect("rows");
    drop(conn);
    disk.live()
}

#[test]
fn connections_share_a_file_and_lock_each_other_out() {
    for mode in ["wal", "delete"] {
        let disk = Disk::new();
        start(&disk, mode);
        let (a, b) = (open(&disk), open(&disk));
        for conn in [&a, &b] {
            conn.busy_timeout(std::time::Duration::ZERO).expect("timeout");
        }
        a.execute_batch(&format!("BEGIN IMMEDIATE; {ROWS}")).expect("write");
        assert_eq!(count(&b), 27);
        let refused = b.execute_batch("BEGIN IMMEDIATE").expect_err("locked");
        assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
        // A reader holds off the commit of a rollback journal only.
        b.execute_batch("BEGIN").expect("begin");
        assert_eq!(count(&b), 27);
        assert_eq!(a.execute_batch("COMMIT").is_ok(), mode == "wal");
        assert_eq!(count(&b), 27);
        b.execute_batch("COMMIT").expect("end");
        if mode == "delete" {
            a.execute_batch("COMMIT").expect("nobody reads");
        }
        assert_eq!((count(&a), count(&b)), (54, 54));
    }
}

#[test]
fn the_nth_call_fails_and_the_next_does_not() {
    for mode in ["wal", "delete"] {
        let disk = Disk::new();
        let image = start(&disk, mode);
        for call in [Call::Write, Call::Sync, Call::Read, Call::Lock] {
            disk.restore(&image);
            let conn = open(&disk);
            disk.fail(Fault { call: Some(call), nth: 1, lasting: false, code: None });
            let failed = conn.execute_batch(ROWS).expect_err("it fails");
            // SQLite waits for locks of others, not for a disk.
            assert_eq!(failed.sqlite_error_code(), Some(ErrorCode::SystemIoFailure), "{mode} {call:?}");
            assert_eq!(disk.failures(), 1);
            assert_eq!(count(&conn), 27);
            conn.execute_batch(ROWS).expect("it does not fail again");
            assert_eq!(count(&conn), 54);
            assert!(is_sound(&conn));
        }
    }
}

#[test]
fn a_lasting_fault_ends_when_the_disk_heals() {
    let disk = Disk::new();
    start(&disk, "delete");
    let conn = open(&disk);
    disk.fail(Fault { call: None, nth: 5, lasting: true, code: None });
    for _ in 0..3 {
        conn.execute_batch(ROWS).expect_err("it fails");
    }
    disk.heal();
    conn.execute_batch(ROWS).expect("healed");
    assert_eq!(count(&conn), 54);
}

#[test]
fn a_small_disk_is_full() {
    let disk = Disk::new();
    start(&disk, "delete");
    let conn = open(&disk);
    disk.set_room(Some(disk.used() + 10_000));
    let full = conn.execute_batch(&format!("{ROWS}; {ROWS}; {ROWS}")).expect_err("full");
    assert_eq!(full.sqlite_error_code(), Some(ErrorCode::DiskFull));
    disk.set_room(None);
    conn.execute_batch(ROWS).expect("room again");
    assert!(is_sound(&conn));
}

/// The database that an image makes.
fn recovered(image: &Image) -> i64 {
    let disk = Disk::new();
    disk.restore(image);
    let conn = open(&disk);
    assert!(is_sound(&conn), "{image:?}");
    count(&conn)
}

#[test]
fn every_crash_leaves_a_state_that_was_committed() {
    for (mode, synchronous) in
        [("wal", "FULL"), ("delete", "EXTRA"), ("truncate", "FULL"), ("persist", "FULL")]
    {
        let disk = Disk::new();
        let image = start(&disk, mode);
        disk.restore(&image);
        let conn = open(&disk);
        conn.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = {synchronous}"))
            .expect("set");
        disk.record();
        let mut acknowledged = vec![(0, 27)];
        for n in 1..4 {
            conn.execute_batch(ROWS).expect("write");
            acknowledged.push((disk.position(), 27 + 27 * n));
        }
        drop(conn);
        let log = disk.take_log().expect("a log");
        let mut replay = log.replay();
        for position in 0..=log.len() {
            replay.advance_to(position);
            let held = acknowledged.iter().rfind(|(at, _)| *at <= position).expect("the first").1;
            for loss in [Loss::All, Loss::None, Loss::Some { seed: position as u64 }, Loss::Torn { seed: 7 }]
            {
                let rows = recovered(&replay.image(loss));
                assert!(rows == held || rows == held + 27, "{mode} {position} {loss:?}: {rows}, {held}");
            }
        }
        assert_eq!(recovered(&replay.image(Loss::None)), 108);
    }
}

#[test]
fn without_syncs_a_crash_is_felt() {
    let disk = Disk::new();
    let conn = open(&disk);
    conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t(v)").expect("table");
    assert_eq!(disk.crash(Loss::All).files().count(), 0);
    assert_eq!(disk.crash(Loss::None), disk.live());
    assert_eq!(disk.calls(Some(Call::Sync)), 0);
    assert!(disk.calls(None) > 5);
}

#[test]
fn a_kept_statement_can_be_run_again_after_an_error() {
    let disk = Disk::new();
    start(&disk, "delete");
    let conn = open(&disk);
    let db = crate::handle(&conn);
    let mut q = db.prepare("SELECT count(*) FROM t WHERE k > ?1").expect("prepare");
    disk.fail(Fault { call: Some(Call::Read), nth: 1, lasting: true, code: None });
    for k in [0, 7] {
        q.bind_int(1, k).expect("bind");
        assert_eq!(q.step().expect_err("the disk fails").primary_code(), rusqlite::ffi::SQLITE_IOERR);
    }
    disk.heal();
    q.bind_int(1, 7).expect("bind");
    assert!(q.step().expect("step"));
    assert_eq!(q.column_int(0), 20);
}
