-- Pulls by db_version carry key changes and deletes.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
UPDATE t SET id = 2;
.mode insert crsql_changes
.once one.txt
SELECT * FROM crsql_changes WHERE db_version > 0;
.mode list
INSERT INTO t VALUES (3, 'new', 'b');
UPDATE t SET id = 4 WHERE id = 2;
DELETE FROM t WHERE id = 3;
SELECT * FROM t;
.mode insert crsql_changes
.once two.txt
SELECT * FROM crsql_changes WHERE db_version > 2;
.mode list
.open b.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
.read one.txt
SELECT * FROM t;
.read two.txt
SELECT * FROM t;
SELECT "hex(pk)", cid, "quote(val)", col_version, cl FROM c WHERE cid <> '-1' OR cl > 1 ORDER BY 1, 2;
