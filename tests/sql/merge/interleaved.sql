-- Changes of two rows that arrive interleaved are listed once each, also after one of the rows moved on.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (2, 'c', 'd');
BEGIN;
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'a', 1, 4, zeroblob(16), 1, 0);
INSERT INTO crsql_changes VALUES ('t', x'010902', 'x', 'n', 2, 4, zeroblob(16), 1, 0);
INSERT INTO crsql_changes VALUES ('t', x'010901', 'y', 'b', 1, 4, zeroblob(16), 1, 1);
COMMIT;
SELECT hex(pk), cid, quote(val), col_version, db_version, cl, seq FROM crsql_changes ORDER BY db_version, seq, pk;
UPDATE t SET x = 'z', y = 'z' WHERE id = 2;
SELECT hex(pk), cid, quote(val), col_version, db_version, cl, seq FROM crsql_changes ORDER BY db_version, seq, pk;
SELECT count(*) FROM crsql_changes WHERE pk = x'010901';
