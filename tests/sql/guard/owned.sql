-- A file that one program owns is read by the extension, which has no preupdate hook, and not written to.
.open a.db
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
SELECT crsql_config_get('mode');
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a'), (2, 'b');
SELECT crsql_config_set('mode', 'owned');
SELECT crsql_config_get('mode');
.print -- as its owner leaves it
.open a.db
UPDATE crsql_meta SET value = 'owned' WHERE name = 'mode';
DROP TRIGGER crsql_insert_1;
DROP TRIGGER crsql_update_1;
DROP TRIGGER crsql_delete_1;
DROP TRIGGER crsql_move_1;
.open a.db
.load ./rejoin
SELECT crsql_config_get('mode'), crsql_db_version();
SELECT "table", hex(pk), cid, val, col_version, db_version, cl, seq FROM crsql_changes;
INSERT INTO t VALUES (3, 'c');
UPDATE t SET x = 'z';
DELETE FROM t;
INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(3), 'x', 'c', 1, 1, x'00112233445566778899aabbccddeeff', 1, 0);
CREATE TABLE u (id INTEGER PRIMARY KEY NOT NULL);
SELECT crsql_as_crr('u');
SELECT * FROM t;
.print -- shared again, with what was written meanwhile
.open a.db
INSERT INTO t VALUES (4, 'd');
DELETE FROM t WHERE id = 2;
.load ./rejoin
SELECT crsql_config_set('mode', 'shared');
SELECT crsql_config_get('mode');
SELECT "table", hex(pk), cid, val, col_version, db_version, cl, seq FROM crsql_changes;
INSERT INTO t VALUES (5, 'e');
UPDATE t SET x = 'z' WHERE id = 1;
SELECT "table", hex(pk), cid, val, col_version, db_version, cl, seq FROM crsql_changes;
SELECT count(*) FROM sqlite_temp_schema WHERE type = 'trigger';
