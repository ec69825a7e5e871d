-- Only main is replicated; attached files can be read from.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
.open b.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (5, 'c', 'd');
ATTACH 'a.db' AS other;
SELECT * FROM other.t;
INSERT INTO t SELECT * FROM other.t;
SELECT * FROM c;
SELECT crsql_as_crr('other', 't');
ATTACH ':memory:' AS plain;
CREATE TABLE plain.p (a);
BEGIN;
INSERT INTO plain.p VALUES (1);
UPDATE t SET x = 'z' WHERE id = 1;
COMMIT;
SELECT * FROM plain.p;
SELECT count(*), crsql_db_version() FROM crsql_changes;
