-- The version and the counter of a transaction can be read and raised.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

SELECT crsql_db_version(), crsql_next_db_version();
BEGIN;
SELECT crsql_next_db_version(7);
SELECT crsql_next_db_version();
SELECT crsql_next_db_version(3);
INSERT INTO t VALUES (1, 'a', 'b');
COMMIT;
SELECT crsql_db_version(), crsql_next_db_version();
BEGIN;
SELECT crsql_next_db_version(20);
ROLLBACK;
SELECT crsql_next_db_version();
BEGIN;
SELECT crsql_increment_and_get_seq(), crsql_increment_and_get_seq(), crsql_get_seq();
INSERT INTO t VALUES (2, 'c', 'd');
COMMIT;
SELECT crsql_get_seq();
SELECT * FROM c;
