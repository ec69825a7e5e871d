-- A connection without the extension reads a replicated table and cannot write to it.
.open a.db
.load ./rejoin
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
.print -- without the extension
.open a.db
SELECT * FROM t;
SELECT count(*) > 0 FROM (SELECT 1 FROM t WHERE x = 'a');
BEGIN;
INSERT INTO t VALUES (2, 'c', 'd');
UPDATE t SET y = 'z';
DELETE FROM t;
DELETE FROM t WHERE id = 1;
INSERT OR REPLACE INTO t VALUES (1, 'c', 'd');
COMMIT;
SELECT * FROM t;
.print -- with it
.load ./rejoin
SELECT * FROM t;
SELECT count(*) FROM crsql_changes;
