-- What this replica has no place for yet is kept, relayed and applied later.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, z);
CREATE TABLE later (id INTEGER PRIMARY KEY NOT NULL, v);
SELECT crsql_as_crr('t'), crsql_as_crr('later');
INSERT INTO t VALUES (1, 'a', 'new column');
INSERT INTO later VALUES (1, 'new table');
.mode insert crsql_changes
.once a.txt
SELECT * FROM crsql_changes;
.mode list
.open b.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t');
.read a.txt
SELECT * FROM t;
.print -- relayed onward
SELECT "table", cid, val FROM crsql_changes ORDER BY "table", cid;
.print -- the column appears
ALTER TABLE t ADD COLUMN z;
UPDATE t SET x = 'b';
SELECT * FROM t;
.print -- the table appears
CREATE TABLE later (id INTEGER PRIMARY KEY NOT NULL, v);
SELECT crsql_as_crr('later');
SELECT * FROM later;
