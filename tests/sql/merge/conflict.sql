-- The larger version wins, then the larger value by type; a delete beats every edit of the life that it ends.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'same'), (2, 5, NULL), (3, 'row', 'three');
UPDATE t SET x = 'aa' WHERE id = 1;
DELETE FROM t WHERE id = 3;
.mode insert crsql_changes
.once a.txt
SELECT * FROM crsql_changes;
.mode list
.open b.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'z', 'same'), (2, 5.5, 'text'), (3, 'row b', 'b');
UPDATE t SET y = 'later' WHERE id = 3;
UPDATE t SET y = 'latest' WHERE id = 3;
.mode insert crsql_changes
.once b.txt
SELECT * FROM crsql_changes;
.mode list
.read a.txt
SELECT * FROM t;
SELECT "hex(pk)", cid, "quote(val)", col_version, cl FROM c ORDER BY 1, 2;
.open a.db
.load ./rejoin
.read b.txt
.print -- the other side
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
SELECT * FROM t;
SELECT "hex(pk)", cid, "quote(val)", col_version, cl FROM c ORDER BY 1, 2;
