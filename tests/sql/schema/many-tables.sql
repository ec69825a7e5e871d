-- More tables than cr-sqlite takes.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TEMP TABLE n AS WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 600) SELECT i FROM s;
.once make.txt
SELECT 'CREATE TABLE t' || i || ' (id INTEGER PRIMARY KEY NOT NULL, x); SELECT crsql_as_crr(''t' || i || ''');' FROM n;
.output made.txt
BEGIN;
.read make.txt
COMMIT;
.output
INSERT INTO t1 VALUES (1, 'a');
INSERT INTO t600 VALUES (1, 'b');
SELECT "table", cid, val FROM crsql_changes;
