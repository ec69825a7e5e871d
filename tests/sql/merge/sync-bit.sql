-- User triggers can tell a merge from a local write.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
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
CREATE TABLE log (what);
CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('insert ' || crsql_internal_sync_bit()); END;
CREATE TRIGGER u AFTER UPDATE ON t WHEN crsql_internal_sync_bit() = 0 BEGIN INSERT INTO log VALUES ('local update'); END;
.read a.txt
SELECT DISTINCT what FROM log;
DELETE FROM log;
UPDATE t SET x = 'local';
INSERT INTO t VALUES (2, 'c', 'd');
SELECT * FROM log;
SELECT crsql_internal_sync_bit();
