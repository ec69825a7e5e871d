-- UPSERT is an insert or an update of the cells that differ.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
INSERT INTO t VALUES (1, 'c', 'd'), (2, 'e', 'f') ON CONFLICT (id) DO UPDATE SET x = excluded.x;
SELECT * FROM t;
SELECT * FROM c;
INSERT INTO t VALUES (1, 'g', 'h') ON CONFLICT DO NOTHING;
SELECT crsql_db_version();
