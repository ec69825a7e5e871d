-- A dump does not keep rowids; metadata finds its rows again.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, v, w);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2), ('c', 3, 3), ('d', 4, 4);
UPDATE t SET v = 9 WHERE k = 'c';
DELETE FROM t WHERE k = 'a';
.once dump.txt
.dump
.open b.db
.read dump.txt
.load ./rejoin
UPDATE t SET v = 10 WHERE k = 'c';
SELECT hex(pk), cid, quote(val), col_version, db_version, cl, seq FROM crsql_changes;
