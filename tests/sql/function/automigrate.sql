-- A schema text instead of migrations.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, gone);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
CREATE TABLE old (id INTEGER PRIMARY KEY NOT NULL);
SELECT crsql_automigrate('
  CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, x, z DEFAULT 3);
  CREATE TABLE IF NOT EXISTS fresh (id INTEGER PRIMARY KEY NOT NULL, v);
  CREATE INDEX IF NOT EXISTS tx ON t (x);
  SELECT crsql_as_crr(''t'');
  SELECT crsql_as_crr(''fresh'');
');
SELECT * FROM t;
INSERT INTO fresh VALUES (1, 'n');
UPDATE t SET z = 4;
SELECT "table", hex(pk), cid, quote(val), col_version, cl FROM crsql_changes;
SELECT type, name FROM sqlite_schema WHERE name IN ('t', 'old', 'fresh', 'tx') ORDER BY name;
SELECT crsql_automigrate('not sql');
SELECT count(*) FROM t;
