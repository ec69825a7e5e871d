-- Reading changes while writing the table.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd');
CREATE TABLE copy AS SELECT "table", hex(pk) AS pk, cid, val FROM crsql_changes;
SELECT * FROM copy;
INSERT INTO t SELECT id + 10, x, y FROM t;
SELECT count(*), crsql_db_version() FROM crsql_changes;
UPDATE t SET x = (SELECT count(*) FROM crsql_changes c WHERE c.pk = crsql_pack_columns(t.id));
SELECT * FROM t;
SELECT count(*), crsql_db_version() FROM crsql_changes;
