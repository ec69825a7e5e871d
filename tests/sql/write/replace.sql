-- REPLACE of a living row is an update of all its columns, of a deleted one a re-insert.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd');
INSERT OR REPLACE INTO t VALUES (1, 'a', 'z'), (3, 'e', 'f');
SELECT * FROM t;
SELECT * FROM c;
.print -- a tombstone
DELETE FROM t WHERE id = 2;
REPLACE INTO t VALUES (2, 'g', 'h');
SELECT * FROM c WHERE "hex(pk)" = '010902';
