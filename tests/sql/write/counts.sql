-- changes() and last_insert_rowid() say what they say of a plain table.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE p (id INTEGER PRIMARY KEY, x);
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('t');
.print -- replicated
INSERT INTO t VALUES (7, 'a'), (8, 'b');
SELECT changes(), last_insert_rowid();
UPDATE t SET x = 'c' WHERE id > 6;
SELECT changes(), last_insert_rowid();
DELETE FROM t WHERE id = 7;
SELECT changes(), last_insert_rowid();
INSERT OR REPLACE INTO t VALUES (8, 'd');
SELECT changes(), last_insert_rowid();
SELECT x, changes() FROM t;
.print -- plain
INSERT INTO p VALUES (7, 'a'), (8, 'b');
SELECT changes(), last_insert_rowid();
UPDATE p SET x = 'c' WHERE id > 6;
SELECT changes(), last_insert_rowid();
DELETE FROM p WHERE id = 7;
SELECT changes(), last_insert_rowid();
INSERT OR REPLACE INTO p VALUES (8, 'd');
SELECT changes(), last_insert_rowid();
SELECT x, changes() FROM p;
