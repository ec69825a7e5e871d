-- crsql_changes takes inserts only.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
UPDATE crsql_changes SET val = 1;
DELETE FROM crsql_changes;
INSERT INTO crsql_changes VALUES ('nope', x'010901', 'x', 1, 1, 1, zeroblob(16), 1, 0);
SELECT * FROM t;
SELECT count(*) FROM crsql_changes;
