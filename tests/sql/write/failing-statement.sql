-- A statement that fails half-way leaves exactly what its conflict clause lets stand.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x CHECK (x <> 'bad'));
SELECT crsql_as_crr('t');
BEGIN;
INSERT INTO t VALUES (1, 'a');
INSERT INTO t VALUES (2, 'b'), (3, 'bad');
INSERT OR FAIL INTO t VALUES (4, 'c'), (5, 'bad'), (6, 'd');
INSERT OR IGNORE INTO t VALUES (7, 'e'), (8, 'bad');
COMMIT;
SELECT * FROM t;
SELECT "table", hex(pk), cid, quote(val), col_version, db_version, cl FROM crsql_changes ORDER BY pk;
.print -- a statement of its own
INSERT INTO t VALUES (9, 'f'), (10, 'bad');
SELECT crsql_db_version(), count(*) FROM crsql_changes;
.print -- OR ROLLBACK ends the transaction
BEGIN;
INSERT INTO t VALUES (11, 'g');
INSERT OR ROLLBACK INTO t VALUES (12, 'bad');
SELECT crsql_db_version(), count(*), crsql_get_seq() FROM crsql_changes;
