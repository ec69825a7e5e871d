-- The life of a row: cells, a tombstone, a second life whose sentinel comes first.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b');
SELECT * FROM c;
.print -- update
UPDATE t SET x = 11 WHERE id = 1;
SELECT * FROM c;
.print -- delete
DELETE FROM t WHERE id = 1;
SELECT * FROM c;
.print -- re-insert
INSERT INTO t VALUES (1, 12, 'c');
SELECT * FROM c;
SELECT crsql_db_version();
