-- The 12-step rebuild keeps versions and tombstones.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd');
UPDATE t SET x = 'aa' WHERE id = 1;
DELETE FROM t WHERE id = 2;
SELECT * FROM c;
BEGIN;
CREATE TABLE new_t (id INTEGER PRIMARY KEY NOT NULL, x TEXT, y TEXT DEFAULT 'd' CHECK (y <> ''));
INSERT INTO new_t SELECT id, x, y FROM t;
DROP TABLE t;
ALTER TABLE new_t RENAME TO t;
SELECT crsql_as_crr('t');
COMMIT;
.print -- rebuilt
SELECT * FROM t;
SELECT * FROM c;
UPDATE t SET y = 'e';
SELECT * FROM c WHERE cid = 'y';
