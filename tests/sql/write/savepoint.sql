-- What a savepoint takes back never was, at any depth.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

BEGIN;
INSERT INTO t VALUES (1, 'a', 'a');
SAVEPOINT one;
INSERT INTO t VALUES (2, 'b', 'b');
SAVEPOINT two;
DELETE FROM t WHERE id = 1;
ROLLBACK TO two;
SELECT id FROM t;
SELECT "table", hex(pk), cid, quote(val), cl FROM crsql_changes ORDER BY pk, cid;
ROLLBACK TO one;
RELEASE one;
UPDATE t SET x = 'z' WHERE id = 1;
COMMIT;
.print -- committed
SELECT * FROM t;
SELECT "table", hex(pk), cid, quote(val), col_version, db_version, cl FROM crsql_changes ORDER BY pk, cid;
.print -- an outermost savepoint is a transaction
SAVEPOINT s;
INSERT INTO t VALUES (3, 'c', 'c');
ROLLBACK TO s;
RELEASE s;
SELECT crsql_db_version(), count(*) FROM crsql_changes;
SAVEPOINT s;
INSERT INTO t VALUES (4, 'c', 'c');
RELEASE s;
SELECT crsql_db_version(), count(*) FROM crsql_changes;
