-- begin_alter and commit_alter stamp what they find at the current version.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd');
SELECT crsql_begin_alter('t');
ALTER TABLE t ADD COLUMN z DEFAULT 5;
UPDATE t SET z = 6 WHERE id = 1;
INSERT INTO t VALUES (3, 'e', 'f', 5);
DELETE FROM t WHERE id = 2;
SELECT crsql_commit_alter('t');
SELECT crsql_db_version();
SELECT hex(pk), cid, quote(val), col_version, db_version, site_id = crsql_site_id(), cl FROM crsql_changes ORDER BY 1, 2;
UPDATE t SET z = 7 WHERE id = 3;
SELECT crsql_db_version();
SELECT * FROM c WHERE db_version > 1;
