-- Changes of one file inserted into another keep site, col_version, cl and seq; doing it twice is doing it once.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
UPDATE t SET x = 'c';
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
INSERT INTO t VALUES (2, 'from b', 'b');
BEGIN;
.read a.txt
SELECT crsql_rows_impacted();
COMMIT;
SELECT crsql_rows_impacted();
SELECT * FROM t;
SELECT * FROM c;
.print -- once more changes nothing
BEGIN;
.read a.txt
SELECT crsql_rows_impacted();
COMMIT;
SELECT * FROM c;
SELECT count(DISTINCT site_id), sum(length(site_id) <> 16) FROM crsql_changes;
