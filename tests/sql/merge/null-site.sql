-- A change without a site is one of this replica.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO crsql_changes VALUES ('t', crsql_pack_columns(7), 'x', 'v', 3, 5, NULL, 1, 2);
SELECT * FROM t;
SELECT * FROM c;
SELECT crsql_db_version();
