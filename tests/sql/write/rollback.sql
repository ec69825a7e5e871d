-- A rolled back transaction takes no version and leaves no change.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'a');
BEGIN;
UPDATE t SET x = 'b';
DELETE FROM t;
INSERT INTO t VALUES (9, 'n', 'n');
ROLLBACK;
SELECT * FROM t;
SELECT * FROM c;
SELECT crsql_db_version(), crsql_next_db_version(), crsql_get_seq();
INSERT INTO t VALUES (2, 'c', 'c');
SELECT * FROM c WHERE db_version > 1;
