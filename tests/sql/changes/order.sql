-- ORDER BY is right in every direction.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

BEGIN; INSERT INTO t VALUES (1, 'a', 'b'), (2, 'c', 'd'); COMMIT;
UPDATE t SET x = 'e' WHERE id = 1;
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (3, 'f', 'g');
SELECT crsql_config_set('merge-equal-values', 0);
.print -- natural
SELECT db_version, seq, cid FROM crsql_changes;
.print -- ascending
SELECT db_version, seq, cid FROM crsql_changes ORDER BY db_version, seq;
.print -- descending
SELECT db_version, seq, cid FROM crsql_changes ORDER BY db_version DESC, seq DESC;
.print -- mixed
SELECT db_version, seq, cid FROM crsql_changes ORDER BY db_version DESC, seq ASC;
SELECT db_version, seq, cid FROM crsql_changes ORDER BY seq, db_version;
.print -- limited
SELECT db_version, seq, cid FROM crsql_changes ORDER BY db_version DESC, seq DESC LIMIT 2;
SELECT db_version, seq, cid FROM crsql_changes ORDER BY db_version, seq LIMIT 2 OFFSET 1;
.print -- by key
SELECT hex(pk), cid FROM crsql_changes ORDER BY pk DESC, cid;
SELECT max(db_version), min(seq), count(*) FROM crsql_changes;
