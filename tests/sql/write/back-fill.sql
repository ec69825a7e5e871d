-- Rows that were there become replicated data at version 1; making a table replicated twice changes nothing.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y);
INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', NULL);
SELECT crsql_as_crr('t');
SELECT crsql_db_version();
SELECT * FROM c;
.print -- again
SELECT crsql_as_crr('t');
SELECT crsql_db_version();
UPDATE t SET x = 'd' WHERE id = 2;
SELECT * FROM c WHERE db_version > 1;
