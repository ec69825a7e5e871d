-- A write that hears of a DROP is a statement under way, in which nothing can be dropped: it goes on all the same.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
CREATE TABLE u (id TEXT PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t'), crsql_as_crr('u');
INSERT INTO u VALUES ('a', 1);
INSERT INTO t VALUES (1, 'a');
DROP TABLE u;
INSERT INTO t VALUES (2, 'b');
SELECT "table", hex(pk), val FROM crsql_changes;
.print -- in the same transaction
CREATE TABLE u (id TEXT PRIMARY KEY NOT NULL, x);
BEGIN;
SELECT crsql_as_crr('u');
INSERT INTO u VALUES ('b', 2);
DROP TABLE u;
UPDATE t SET x = 'c' WHERE id = 1;
COMMIT;
SELECT "table", hex(pk), val FROM crsql_changes;
.print -- a row of a peer tells of it
CREATE TABLE u (id TEXT PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('u');
DROP TABLE u;
INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(3), 'x', 'd', 1, 1, x'00112233445566778899aabbccddeeff', 1, 0);
SELECT * FROM t;
.print -- nothing is left of them
SELECT crsql_as_crr('t');
CREATE TABLE v (id INTEGER PRIMARY KEY NOT NULL);
SELECT crsql_as_crr('v');
SELECT count(*) FROM sqlite_schema WHERE name GLOB 'crsql_rows_*' OR name GLOB 'crsql_keys_*' AND type = 'table';
SELECT count(*) FROM crsql_tables;
.print -- while a table is read
CREATE TABLE names AS SELECT 'v' AS name;
SELECT crsql_as_table(name) FROM names;
SELECT count(*) FROM crsql_tables;
PRAGMA integrity_check;
