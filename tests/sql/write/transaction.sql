-- One transaction is one version; its changes are counted over all tables and can be read before the commit.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

CREATE TABLE u (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('u');
BEGIN;
SELECT crsql_db_version(), crsql_next_db_version(), crsql_get_seq();
INSERT INTO t VALUES (1, 'a', 'b');
SELECT crsql_db_version(), crsql_next_db_version(), crsql_get_seq();
INSERT INTO u VALUES (1, 'c');
UPDATE t SET x = 'e';
.print -- inside
SELECT * FROM c;
COMMIT;
.print -- after
SELECT crsql_db_version(), crsql_next_db_version(), crsql_get_seq();
SELECT * FROM c;
