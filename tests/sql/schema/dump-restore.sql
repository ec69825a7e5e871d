-- A dump read into a new file is a replica with the same changes.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd');
UPDATE t SET x = 'e' WHERE id = 2;
DELETE FROM t WHERE id = 1;
SELECT * FROM c;
.once dump.txt
.dump
.open b.db
.read dump.txt
.load ./rejoin
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
.print -- restored: a copy, with an id of its own
SELECT * FROM t;
SELECT * FROM c;
UPDATE t SET y = 'f';
SELECT * FROM c;
