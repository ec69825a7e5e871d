-- A dropped table is forgotten; a new one of that name starts anew.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
DROP TABLE t;
SELECT count(*) FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'new');
SELECT "table", hex(pk), cid, quote(val), col_version, cl FROM crsql_changes;
