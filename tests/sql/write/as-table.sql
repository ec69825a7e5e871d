-- Back to a plain table.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
SELECT crsql_as_table('t');
SELECT count(*) FROM crsql_changes;
SELECT * FROM t;
UPDATE t SET x = 'c';
INSERT INTO t VALUES (2, 'd', 'e');
SELECT * FROM t;
SELECT count(*) FROM crsql_changes;
.print -- no trigger is left
SELECT count(*) FROM sqlite_schema WHERE type = 'trigger';
