-- Compound keys in the order of their clause, and tables that are nothing but key.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE k (a TEXT NOT NULL, b BLOB NOT NULL, c REAL NOT NULL, v, PRIMARY KEY (c, a, b)) WITHOUT ROWID;
SELECT crsql_as_crr('k');
INSERT INTO k VALUES ('x', x'00ff', 1.5, 'v');
CREATE TABLE only (a INTEGER PRIMARY KEY NOT NULL);
SELECT crsql_as_crr('only');
INSERT INTO only VALUES (-1), (0), (255), (256);
SELECT * FROM c;
DELETE FROM only WHERE a = 0;
UPDATE k SET v = 'w';
SELECT * FROM c WHERE db_version > 2;
