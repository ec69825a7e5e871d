-- Plain ALTER TABLE needs no ceremony and emits no change.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
ALTER TABLE t ADD COLUMN z INTEGER DEFAULT 7;
.print -- added: no change
SELECT crsql_db_version(), count(*) FROM crsql_changes;
UPDATE t SET z = 8;
SELECT * FROM c;
.print -- renamed
ALTER TABLE t RENAME COLUMN x TO xx;
INSERT INTO t (id, xx) VALUES (2, 'n');
SELECT * FROM c;
.print -- dropped
ALTER TABLE t DROP COLUMN y;
UPDATE t SET xx = 'm' WHERE id = 2;
SELECT * FROM t;
SELECT * FROM c;
