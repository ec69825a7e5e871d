-- A renamed table goes on under its new name.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
ALTER TABLE t RENAME TO u;
SELECT * FROM c;
INSERT INTO u VALUES (2, 'c', 'd');
DELETE FROM u WHERE id = 1;
SELECT * FROM c;
