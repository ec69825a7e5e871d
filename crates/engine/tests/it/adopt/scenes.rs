use super::room::{Policy, adopt, clean, has_bad, pull, push, rejected, sync, told};
use crate::util::{Files, assert_equal, int, rows, run, state};
use rejoin::{CODE_DEPENDS, Error, Replica, RowKey};
use std::cell::RefCell;
use std::rc::Rc;

const SCHEMAS: [&str; 3] = [
    "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b DEFAULT 5); SELECT crsql_as_crr('t');",
    "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, a, b DEFAULT 5); SELECT crsql_as_crr('t');",
    "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, a, b DEFAULT 5) WITHOUT ROWID; SELECT crsql_as_crr('t');",
];

fn policy() -> Policy<'static> {
    Policy { refuses: &has_bad }
}

/// A server and two clients that have rows 1 to 3.
struct Shop {
    files: Files,
    a: Replica,
    b: Replica,
    server: Replica,
}

impl Shop {
    fn new(schema: &str) -> Shop {
        let files = Files::new();
        let (a, b) = (files.open("a.db", schema), files.open("b.db", schema));
        let server = files.open("server.db", schema);
        run(&a, "INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)");
        let shop = Shop { files, a, b, server };
        shop.sync();
        shop
    }

    fn sync(&self) {
        for _ in 0..2 {
            sync(&self.a, &self.server, &mut policy());
            sync(&self.b, &self.server, &mut policy());
        }
        for r in [&self.a, &self.b, &self.server] {
            clean(r);
            assert_equal(r, &self.server, "t");
            assert_eq!(r.vector().unwrap(), self.server.vector().unwrap());
        }
    }
}

#[test]
fn a_rejected_update_is_taken_back_and_kept_readable() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        let before = state(&shop.server, "t");
        run(&shop.a, "UPDATE t SET a = 'bad', b = 9 WHERE k = 2");
        shop.sync();
        assert_eq!(state(&shop.a, "t"), before);
        let kept = rows(&shop.a, "SELECT version, cid, val, code, reason FROM crsql_rejected ORDER BY cid");
        assert_eq!(
            kept,
            [
                "Integer(2) Text([97]) Text([98, 97, 100]) Text([112, 111, 108, 105, 99, 121]) \
                 Text([116, 104, 101, 32, 112, 111, 108, 105, 99, 121, 32, 115, 97, 121, 115, 32, 110, 111])",
                "Integer(2) Text([98]) Integer(9) Text([112, 111, 108, 105, 99, 121]) \
                 Text([116, 104, 101, 32, 112, 111, 108, 105, 99, 121, 32, 115, 97, 121, 115, 32, 110, 111])",
            ]
        );
        let cells = shop.a.rejected().unwrap();
        assert!(cells.iter().all(|c| c.site == shop.a.site_id().unwrap() && c.code == "policy"));
        assert_eq!(
            int(
                &shop.a,
                "SELECT count(*) FROM crsql_rejected WHERE pk = crsql_pack_columns((SELECT k FROM t ORDER BY k LIMIT 1 OFFSET 1))"
            ),
            2
        );
        // The void version is held by all and told by nobody.
        let void = (shop.a.site_id().unwrap(), 2);
        for r in [&shop.a, &shop.b, &shop.server] {
            assert!(r.vector().unwrap().contains(&void.0, void.1) && !told(r).contains(&void));
        }
        // What comes after goes on.
        run(&shop.a, "UPDATE t SET a = 'good' WHERE k = 2");
        shop.sync();
        assert_eq!(int(&shop.b, "SELECT count(*) FROM t WHERE a = 'good'"), 1);
    }
}

#[test]
fn inserts_deletes_and_moves_are_taken_back() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        let before = state(&shop.server, "t");
        // A table of its own tells the policy of a transaction what it is about.
        run(
            &shop.a,
            "BEGIN; INSERT INTO t VALUES (4, 'bad', 1); DELETE FROM t WHERE k = 1; UPDATE t SET k = 7 WHERE k = 2; COMMIT",
        );
        shop.sync();
        assert_eq!(state(&shop.a, "t"), before);
        let kept = rows(
            &shop.a,
            "SELECT cid, col_version & 1, count(*) FROM crsql_rejected GROUP BY 1, 2 ORDER BY 1, 2",
        );
        // Deleted: 1 and 2; inserted: 4 and 7, with two cells each.
        assert_eq!(kept[0], "Text([45, 49]) Integer(0) Integer(2)");
        assert_eq!(kept[1], "Text([45, 49]) Integer(1) Integer(2)");
        assert_eq!(int(&shop.a, "SELECT count(*) FROM crsql_rejected WHERE cid <> '-1'"), 4);
        // An insert that was taken back leaves nothing, not even a tombstone.
        assert_eq!(
            int(
                &shop.a,
                "SELECT count(*) FROM crsql_changes WHERE pk IN (crsql_pack_columns(4), crsql_pack_columns('4'))"
            ),
            0
        );
        run(&shop.a, "INSERT INTO t VALUES (4, 'again', 1)");
        shop.sync();
    }
}

#[test]
fn what_depends_goes_too_and_what_does_not_stays() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        run(&shop.a, "UPDATE t SET b = 10 WHERE k = 3"); // 2 stays
        run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1"); // 3 is refused
        let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
        assert_eq!(refused.iter().map(|r| r.version).collect::<Vec<_>>(), [3]);
        // Written before the rejection was heard of.
        run(&shop.a, "UPDATE t SET b = 11 WHERE k IN (1, 2)"); // 4 depends on 3
        run(&shop.a, "INSERT INTO t VALUES (9, 'nine', 9)"); // 5 stays
        run(&shop.a, "UPDATE t SET a = 'x' WHERE k = 2"); // 6 depends on 4
        run(&shop.a, "UPDATE t SET a = 'y' WHERE k = 3"); // 7 stays
        run(&shop.b, "UPDATE t SET b = 77 WHERE k = 2");
        sync(&shop.b, &shop.server, &mut policy());
        let site = shop.a.site_id().unwrap();
        let voids = adopt(&shop.a, &shop.server, &refused, || ());
        clean(&shop.a);
        let versions: Vec<u64> = voids.iter().filter(|v| v.site == site).map(|v| v.version).collect();
        assert_eq!(versions, [3, 4, 6]);
        let codes = rows(&shop.a, "SELECT DISTINCT version, code = 'depends' FROM crsql_rejected ORDER BY 1");
        assert_eq!(codes, ["Integer(3) Integer(0)", "Integer(4) Integer(1)", "Integer(6) Integer(1)"]);
        assert!(
            shop.a
                .rejected()
                .unwrap()
                .iter()
                .any(|c| c.code == CODE_DEPENDS && c.reason.contains("version 3"))
        );
        // The server's row came with the states, before its transaction.
        assert_eq!(
            rows(&shop.a, "SELECT b FROM t WHERE k IN (1, 2, 3) ORDER BY k"),
            ["Integer(1)", "Integer(77)", "Integer(10)"]
        );
        assert!(!shop.a.vector().unwrap().contains(&shop.b.site_id().unwrap(), 1));
        // The voids are lost on the way; the next cut tells of them.
        shop.sync();
        assert_eq!(rows(&shop.b, "SELECT k FROM t WHERE a IN ('nine', 'y')").len(), 2);
        for version in [3, 4, 6] {
            assert!(!told(&shop.server).contains(&(site, version)));
        }
    }
}

#[test]
fn adoption_again_changes_nothing_and_spares_what_came_after() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
        let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
        let voids = adopt(&shop.a, &shop.server, &refused, || ());
        let (kept, vector) = (rejected(&shop.a), shop.a.vector().unwrap());
        assert_eq!(adopt(&shop.a, &shop.server, &refused, || ()), voids);
        assert_eq!((rejected(&shop.a), shop.a.vector().unwrap()), (kept.clone(), vector));
        // A retry writes to the same row; the old rejection comes once more.
        run(&shop.a, "UPDATE t SET a = 'better' WHERE k = 1");
        assert_eq!(adopt(&shop.a, &shop.server, &refused, || ()), voids);
        assert_eq!(rejected(&shop.a), kept);
        assert_eq!(int(&shop.a, "SELECT a = 'better' FROM t WHERE k = 1"), 1);
        assert_eq!(shop.server.void(&voids).unwrap(), 1);
        shop.sync();
        assert_eq!(int(&shop.b, "SELECT a = 'better' FROM t WHERE k = 1"), 1);
        // The connection and the process are gone: the file remembers.
        let Shop { files, a, .. } = shop;
        drop(a);
        let a = files.open("a.db", schema);
        assert_eq!(rejected(&a), kept);
        clean(&a);
    }
}

#[test]
fn writes_while_the_server_is_asked_are_seen() {
    let shop = Shop::new(SCHEMAS[1]);
    run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
    let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
    let mut once = true;
    let voids = adopt(&shop.a, &shop.server, &refused, || {
        if std::mem::take(&mut once) {
            run(
                &shop.a,
                "BEGIN; UPDATE t SET b = 8 WHERE k = 1; INSERT INTO t VALUES ('New', 'x', 1); COMMIT",
            );
        }
    });
    assert_eq!(voids.len(), 2);
    clean(&shop.a);
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t"), 3);
    assert_eq!(int(&shop.a, "SELECT count(*) FROM crsql_rejected WHERE pk = crsql_pack_columns('New')"), 3);
    shop.sync();
}

#[test]
fn retry_writes_again_and_drop_lets_go() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        run(
            &shop.a,
            "BEGIN; INSERT INTO t VALUES ('Key', 'bad', 1) ON CONFLICT DO NOTHING; COMMIT"
                .replace("'Key'", if schema == SCHEMAS[0] { "40" } else { "'Key'" })
                .as_str(),
        );
        run(&shop.a, "UPDATE t SET b = 2 WHERE a = 'bad'");
        run(&shop.a, "DELETE FROM t WHERE k = 3; UPDATE t SET a = 'bad' WHERE k = 2");
        sync(&shop.a, &shop.server, &mut policy());
        let versions = rows(&shop.a, "SELECT DISTINCT version FROM crsql_rejected ORDER BY 1");
        assert_eq!(versions, ["Integer(2)", "Integer(3)", "Integer(5)"]);
        let no = |sql: &str| {
            shop.a.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap_err().to_string()
        };
        assert!(
            no("SELECT crsql_rejected_retry(3)").contains("retry the transaction that inserted it first")
        );
        assert!(no("SELECT crsql_rejected_retry(77)").contains("no rejected transaction has version 77"));
        assert!(no("SELECT crsql_rejected_retry('x')").contains("must be an integer"));
        assert!(no("SELECT crsql_rejected_retry()").contains("takes a version"));
        assert!(no("SELECT crsql_rejected_drop(1, x'00')").contains("16 bytes"));
        let before = shop.a.db_version().unwrap();
        assert_eq!(int(&shop.a, "SELECT crsql_rejected_retry(2)"), 2);
        assert_eq!(shop.a.retry_rejected(3, None).unwrap(), 1);
        assert_eq!(shop.a.db_version().unwrap(), before + 2);
        assert_eq!(int(&shop.a, "SELECT b FROM t WHERE a = 'bad' AND k NOT IN (2)"), 2);
        let bits = int(
            &shop.a,
            "SELECT count(*) FROM crsql_changes WHERE site_id = crsql_site_id() AND db_version > (SELECT max(db_version) - 2 FROM crsql_changes)",
        );
        assert!(bits > 0, "a retry is a local write");
        assert_eq!(int(&shop.a, "SELECT crsql_rejected_drop(5)"), 1);
        assert_eq!(int(&shop.a, "SELECT crsql_rejected_drop(5)"), 0);
        assert_eq!(shop.a.rejected().unwrap(), []);
        // The server has not changed its mind: it comes back under other versions.
        sync(&shop.a, &shop.server, &mut policy());
        assert!(shop.a.rejected().unwrap().len() >= 3);
        let changed = Policy { refuses: &|_| false };
        let versions: Vec<u64> = shop.a.rejected().unwrap().iter().map(|c| c.version).collect();
        for version in std::collections::BTreeSet::from_iter(versions) {
            shop.a.retry_rejected(version, None).unwrap();
        }
        sync(&shop.a, &shop.server, &mut { changed });
        assert_equal(&shop.a, &shop.server, "t");
        assert_eq!(int(&shop.server, "SELECT count(*) FROM t WHERE a = 'bad'"), 1);
        clean(&shop.a);
    }
}

#[test]
fn a_rejected_delete_can_be_retried() {
    let shop = Shop::new(SCHEMAS[2]);
    let keep = Policy { refuses: &|row| row.new.is_none() };
    run(&shop.a, "DELETE FROM t WHERE k = 1");
    sync(&shop.a, &shop.server, &mut { keep });
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t"), 3);
    assert_eq!(shop.a.retry_rejected(2, None).unwrap(), 1);
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t"), 2);
    shop.sync();
    assert_eq!(int(&shop.b, "SELECT count(*) FROM t"), 2);
}

#[test]
fn adoption_is_no_local_write_and_triggers_see_the_sync_bit() {
    for owned in [false, true] {
        let schema = SCHEMAS[1];
        let shop = Shop::new(schema);
        if owned {
            run(&shop.a, "SELECT crsql_config_set('mode', 'owned')");
        }
        run(
            &shop.a,
            "CREATE TABLE seen(op, bit); \
             CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO seen VALUES ('i', crsql_internal_sync_bit()); END; \
             CREATE TRIGGER u AFTER UPDATE ON t BEGIN INSERT INTO seen VALUES ('u', crsql_internal_sync_bit()); END; \
             CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO seen VALUES ('d', crsql_internal_sync_bit()); END;",
        );
        run(
            &shop.a,
            "BEGIN; UPDATE t SET a = 'bad' WHERE k = 1; INSERT INTO t VALUES ('n', 1, 1); DELETE FROM t WHERE k = 2; COMMIT; DELETE FROM seen",
        );
        let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
        let commits = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&commits);
        shop.a.observe(move |c| sink.borrow_mut().push(c.clone())).unwrap();
        adopt(&shop.a, &shop.server, &refused, || ());
        clean(&shop.a);
        let seen = rows(&shop.a, "SELECT op, bit FROM seen ORDER BY 1");
        assert_eq!(seen, ["Text([100]) Integer(1)", "Text([105]) Integer(1)", "Text([117]) Integer(1)"]);
        // One commit of the adopting transaction, in which no cell is this replica's own.
        let commits = commits.take();
        assert!(commits.iter().all(|c| !c.local));
        let newest = commits.last().unwrap();
        assert_eq!(newest.db_version, shop.a.db_version().unwrap());
        assert_eq!((newest.tables.len(), newest.tables[0].keys.len()), (1, 3));
        assert_eq!(
            int(
                &shop.a,
                "SELECT count(*) FROM crsql_changes WHERE site_id = crsql_site_id() AND db_version = crsql_db_version()"
            ),
            0
        );
        assert_eq!(shop.a.connection().last_insert_rowid(), shop.a.connection().last_insert_rowid());
        shop.sync();
    }
}

#[test]
fn cells_of_others_that_the_server_lacks_survive() {
    let shop = Shop::new(SCHEMAS[0]);
    // B tells A directly, and the server hears of it last.
    run(&shop.b, "UPDATE t SET b = 50 WHERE k = 1");
    crate::util::pull(&shop.b, &shop.a).unwrap();
    run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
    sync(&shop.a, &shop.server, &mut policy());
    assert_eq!(rows(&shop.a, "SELECT a, b FROM t WHERE k = 1"), ["Text([111, 110, 101]) Integer(50)"]);
    shop.sync();
    assert_eq!(int(&shop.server, "SELECT b FROM t WHERE k = 1"), 50);
}

#[test]
fn bulk_is_taken_back_too() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        run(
            &shop.a,
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 700) \
                      SELECT i, CASE i WHEN 400 THEN 'bad' ELSE 'bulk' END, i FROM n",
        );
        run(&shop.a, "UPDATE t SET b = 0 WHERE k BETWEEN 200 AND 299");
        run(&shop.a, "UPDATE t SET b = -1 WHERE k = 2");
        sync(&shop.a, &shop.server, &mut policy());
        assert_eq!(int(&shop.a, "SELECT count(*) FROM t"), 3);
        // 601 rows with a mark that they were inserted; two cells each.
        assert_eq!(int(&shop.a, "SELECT count(*) FROM crsql_rejected"), 601 * 3);
        assert_eq!(int(&shop.server, "SELECT b FROM t WHERE k = 2"), -1);
        shop.sync();
    }
}

#[test]
fn the_shortest_spelling_and_lives_are_the_servers() {
    let shop = Shop::new(SCHEMAS[1]);
    run(&shop.b, "INSERT INTO t VALUES ('KEY', 'b', 1)");
    shop.sync();
    run(&shop.a, "UPDATE t SET k = 'key', a = 'bad' WHERE k = 'KEY'");
    shop.sync();
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t WHERE k = 'KEY' COLLATE BINARY AND a = 'b'"), 1);
    run(&shop.a, "DELETE FROM t WHERE k = 'key'; INSERT INTO t VALUES ('kEy', 'bad', 3)");
    shop.sync();
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t WHERE k = 'KEY' COLLATE BINARY AND a = 'b'"), 1);
    run(&shop.b, "DELETE FROM t WHERE k = 'key'");
    run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 'key'");
    sync(&shop.b, &shop.server, &mut policy());
    shop.sync();
    assert_eq!(int(&shop.a, "SELECT count(*) FROM t WHERE k = 'key'"), 0);
}

#[test]
fn parked_changes_of_touched_rows_stay() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        run(&shop.b, "ALTER TABLE t ADD COLUMN later; UPDATE t SET later = 'l' WHERE k = 1");
        run(&shop.server, "ALTER TABLE t ADD COLUMN later");
        sync(&shop.b, &shop.server, &mut policy());
        pull(&shop.server, &shop.a);
        assert_eq!(int(&shop.a, "SELECT count(*) FROM crsql_parked"), 1);
        run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
        sync(&shop.a, &shop.server, &mut policy());
        assert_eq!(int(&shop.a, "SELECT count(*) FROM crsql_parked"), 1);
        run(&shop.a, "ALTER TABLE t ADD COLUMN later");
        run(&shop.a, "UPDATE t SET b = 6 WHERE k = 2");
        shop.sync();
        assert_eq!(int(&shop.a, "SELECT later = 'l' FROM t WHERE k = 1"), 1);
    }
}

#[test]
fn row_states_are_no_changeset_and_a_changeset_is_no_row_states() {
    let shop = Shop::new(SCHEMAS[0]);
    run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
    let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
    let key = |table: &str, pk: &[u8]| RowKey { table: table.into(), pk: pk.to_vec() };
    let all = [key("t", &[1, 9, 1]), key("T", &[1, 9, 1]), key("t", &[1, 9, 99]), key("nowhere", &[1, 9, 1])];
    let states = shop.server.row_states(&all).unwrap();
    assert!(matches!(shop.server.row_states(&[key("t", &[7])]), Err(Error::BadChange { .. })));
    assert!(shop.server.row_states(&[key("nowhere", &[])]).is_err());
    assert!(matches!(shop.a.apply_changeset(&states), Err(Error::Changeset { .. })));
    assert!(matches!(shop.b.apply_checked(&states, &mut policy()), Err(Error::Changeset { .. })));
    let changeset = shop.server.changeset_since(0).unwrap();
    assert!(matches!(shop.a.adopt(&refused, &[&changeset]), Err(Error::Changeset { .. })));
    assert!(matches!(shop.a.merge_rows(&changeset), Err(Error::Changeset { .. })));
    let before = (state(&shop.a, "t"), rejected(&shop.a), shop.a.vector().unwrap());
    for len in 0..states.len() {
        assert!(shop.a.adopt(&refused, &[&states[..len]]).is_err());
    }
    for at in 0..states.len() {
        let mut flipped = states.clone();
        flipped[at] ^= 1;
        assert!(shop.a.adopt(&refused, &[&flipped]).is_err());
        assert!(shop.a.merge_rows(&flipped).is_err());
    }
    let mut unknown = refused.clone();
    unknown[0].version = 99;
    assert!(matches!(shop.a.adopt(&unknown, &[]), Err(Error::BadArgument { .. })));
    assert_eq!(before, (state(&shop.a, "t"), rejected(&shop.a), shop.a.vector().unwrap()));
    clean(&shop.a);
    // The good ones do.
    assert_eq!(shop.a.adopt(&refused, &[&states]).unwrap().voids.len(), 1);
    shop.sync();
}

#[test]
fn another_connection_sees_what_was_adopted() {
    for schema in SCHEMAS {
        let shop = Shop::new(schema);
        let other = shop.files.open("a.db", schema);
        run(&other, "UPDATE t SET b = 20 WHERE k = 3");
        run(&shop.a, "BEGIN; UPDATE t SET a = 'bad' WHERE k = 1; INSERT INTO t VALUES (8, 8, 8); COMMIT");
        assert_eq!(int(&other, "SELECT count(*) FROM t"), 4);
        let refused = push(&shop.a, &shop.server, &mut policy()).unwrap();
        adopt(&shop.a, &shop.server, &refused, || ());
        clean(&other);
        assert_eq!(state(&other, "t"), state(&shop.a, "t"));
        run(&other, "UPDATE t SET b = 21 WHERE k = 1; INSERT INTO t VALUES (8, 'eight', 8)");
        clean(&shop.a);
        clean(&other);
        shop.sync();
    }
}

#[test]
fn starting_over_keeps_what_was_rejected_and_the_offset() {
    let shop = Shop::new(SCHEMAS[0]);
    run(&shop.a, "UPDATE t SET a = 'bad' WHERE k = 1");
    shop.sync();
    shop.a.set_clock_offset_ms(1234).unwrap();
    let kept = rejected(&shop.a);
    assert_eq!(kept.len(), 1);
    let path = shop.files.dir.path().join("snapshot.db");
    shop.a.snapshot_to(&path, &[]).unwrap();
    let stranger = Replica::from_snapshot(&path).unwrap();
    assert_eq!((rejected(&stranger).len(), stranger.clock_offset_ms().unwrap()), (0, 0));
    shop.a.replay_onto(&stranger).unwrap();
    assert_eq!((rejected(&stranger), stranger.clock_offset_ms().unwrap()), (kept, 1234));
    clean(&stranger);
    assert_eq!(stranger.retry_rejected(2, None).unwrap(), 1);
}
