-- Writes that change nothing take no version.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 1, 'b');
UPDATE t SET x = 1, y = 'b';
UPDATE t SET id = 1;
DELETE FROM t WHERE id = 5;
BEGIN;
COMMIT;
SELECT crsql_db_version();
SELECT * FROM c;
.print -- another type is another value
UPDATE t SET x = 1.0;
UPDATE t SET x = '1';
SELECT * FROM c;
