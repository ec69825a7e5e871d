-- A file of cr-sqlite is refused until it is converted; this one is made by hand, in the shape of 0.16.
.open old.db
CREATE TABLE crsql_master (key TEXT PRIMARY KEY, value ANY);
INSERT INTO crsql_master VALUES ('crsqlite_version', 160300), ('pre_compact_dbversion', 7), ('config.merge-equal-values', 1);
CREATE TABLE crsql_tracked_peers (site_id BLOB NOT NULL, version INTEGER NOT NULL, seq INTEGER DEFAULT 0, tag INTEGER,
  event INTEGER, PRIMARY KEY (site_id, tag, event)) STRICT;
INSERT INTO crsql_tracked_peers VALUES (x'ee112233445566778899aabbccddeeff', 12, 0, 0, 1);
CREATE TABLE crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
INSERT INTO crsql_site_id VALUES (x'00112233445566778899aabbccddeeff', 0), (x'ee112233445566778899aabbccddeeff', 1);
CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, x, y);
INSERT INTO t VALUES ('a', 1, 2), ('b', 3, NULL);
CREATE TABLE t__crsql_pks (__crsql_key INTEGER PRIMARY KEY, id);
INSERT INTO t__crsql_pks VALUES (1, 'a'), (2, 'b'), (3, 'deleted');
CREATE TABLE t__crsql_clock (key INTEGER NOT NULL, col_name TEXT NOT NULL, col_version INTEGER NOT NULL,
  db_version INTEGER NOT NULL, site_id INTEGER NOT NULL DEFAULT 0, seq INTEGER NOT NULL, PRIMARY KEY (key, col_name))
  WITHOUT ROWID, STRICT;
INSERT INTO t__crsql_clock VALUES (1, 'x', 4, 5, 1, 0), (1, 'y', 1, 1, 0, 1), (2, '-1', 3, 6, 0, 0), (2, 'x', 1, 6, 0, 1),
  (3, '-1', 2, 3, 0, 0);
CREATE TRIGGER t__crsql_itrig AFTER INSERT ON t BEGIN SELECT crsql_after_insert('t', NEW.id); END;
.load ./rejoin
.print -- before
SELECT * FROM crsql_changes;
SELECT crsql_site_id();
INSERT INTO t VALUES ('c', 1, 1);
SELECT crsql_upgrade();
.print -- after
SELECT "table", hex(pk), cid, quote(val), col_version, db_version, substr(hex(site_id), 1, 2), cl, seq FROM crsql_changes;
SELECT hex(crsql_site_id()), crsql_db_version(), crsql_config_get('clock'), crsql_config_get('merge-equal-values');
SELECT version, event FROM crsql_tracked_peers;
SELECT count(*) FROM sqlite_schema WHERE name LIKE '%\_\_crsql%' ESCAPE '\' OR name IN ('crsql_master', 'crsql_site_id');
INSERT INTO t VALUES ('deleted', 'again', NULL);
UPDATE t SET x = x + 1 WHERE id = 'a';
SELECT "table", hex(pk), cid, quote(val), col_version, db_version, substr(hex(site_id), 1, 2), cl, seq FROM crsql_changes
  WHERE db_version > 7;
SELECT crsql_upgrade();
