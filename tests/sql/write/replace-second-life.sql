-- REPLACE of a row in its second life leaves its sentinel where it was.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
DELETE FROM t;
INSERT INTO t VALUES (1, 'c', 'd');
REPLACE INTO t VALUES (1, 'e', 'd');
SELECT * FROM c;
