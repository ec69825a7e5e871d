-- Equal versions and values: the local change stays, or with merge-equal-values that of the larger site.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

SELECT crsql_config_get('merge-equal-values');
INSERT INTO t VALUES (1, 'a', 'b');
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'a', 1, 9, x'ffffffffffffffffffffffffffffffff', 1, 0);
SELECT cid, db_version, site_id = crsql_site_id() FROM crsql_changes ORDER BY cid;
SELECT crsql_config_set('merge-equal-values', 1);
SELECT crsql_config_get('merge-equal-values');
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'a', 1, 9, x'ffffffffffffffffffffffffffffffff', 1, 0);
SELECT cid, db_version, site_id = crsql_site_id() FROM crsql_changes ORDER BY cid;
.print -- the smaller site loses
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'a', 1, 12, zeroblob(16), 1, 0);
SELECT cid, db_version, hex(site_id) = 'FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF' FROM crsql_changes ORDER BY cid;
