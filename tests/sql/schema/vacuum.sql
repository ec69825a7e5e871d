-- VACUUM may give rows new rowids.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3);
DELETE FROM t WHERE k = 'a';
VACUUM;
UPDATE t SET x = 4 WHERE k = 'b';
SELECT * FROM t;
SELECT * FROM c;
