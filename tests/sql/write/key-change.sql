-- A key change is the cells under the new key, the old sentinel, the new sentinel.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
UPDATE t SET id = 2;
SELECT * FROM t;
SELECT * FROM c;
.print -- and back
UPDATE t SET id = 1;
SELECT * FROM c;
.print -- a pull after version 1 carries the cells
SELECT "hex(pk)", cid FROM c WHERE db_version > 1;
