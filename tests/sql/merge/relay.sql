-- Changes travel over a third replica and keep their writers.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
.mode insert crsql_changes
.once a.txt
SELECT * FROM crsql_changes;
.mode list
.open b.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
BEGIN;
.read a.txt
COMMIT;
UPDATE t SET x = 'b wrote';
.mode insert crsql_changes
.once b.txt
SELECT * FROM crsql_changes;
.mode list
.open c.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
BEGIN;
.read b.txt
COMMIT;
SELECT * FROM t;
SELECT cid, quote(val), col_version, db_version, cl FROM crsql_changes;
SELECT count(DISTINCT site_id), sum(site_id = crsql_site_id()) FROM crsql_changes;
.open a.db
.load ./rejoin
BEGIN;
.read b.txt
COMMIT;
SELECT * FROM t;
SELECT cid, site_id = crsql_site_id() FROM crsql_changes ORDER BY cid;
