-- Constraints mean what they mean on a table.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

CREATE TABLE u (id INTEGER PRIMARY KEY NOT NULL, x);
SELECT crsql_as_crr('u');
INSERT INTO t VALUES (1, 'a', 'b');
INSERT INTO u VALUES (1, 'c');
INSERT INTO t VALUES (2, 'd', 'e');
INSERT INTO crsql_changes VALUES ('u', x'010909', 'x', 'foreign', 1, 10, x'00112233445566778899aabbccddeeff', 1, 0);
.print -- db_version
SELECT "table", cid FROM crsql_changes WHERE db_version > 1 AND db_version <= 3;
SELECT "table", cid FROM crsql_changes WHERE db_version = 2;
SELECT "table", cid FROM crsql_changes WHERE db_version >= 3 AND db_version < 10;
SELECT count(*) FROM crsql_changes WHERE db_version BETWEEN 2 AND 3;
SELECT count(*) FROM crsql_changes WHERE db_version > 10;
SELECT count(*) FROM crsql_changes WHERE db_version > -5;
SELECT count(*) FROM crsql_changes WHERE db_version > 1.5;
SELECT count(*) FROM crsql_changes WHERE db_version > '1';
SELECT count(*) FROM crsql_changes WHERE db_version > NULL;
SELECT count(*) FROM crsql_changes WHERE db_version > 9223372036854775807;
.print -- site
SELECT val FROM crsql_changes WHERE site_id = x'00112233445566778899aabbccddeeff';
SELECT count(*) FROM crsql_changes WHERE site_id <> x'00112233445566778899aabbccddeeff';
SELECT count(*) FROM crsql_changes WHERE site_id IS NOT x'00112233445566778899aabbccddeeff';
SELECT count(*) FROM crsql_changes WHERE site_id IS crsql_site_id() AND db_version > 1;
SELECT count(*) FROM crsql_changes WHERE site_id IS NULL;
SELECT count(*) FROM crsql_changes WHERE site_id IN (crsql_site_id(), x'00112233445566778899aabbccddeeff');
SELECT count(*) FROM crsql_changes WHERE site_id = 'text';
.print -- table, pk, cid
SELECT val FROM crsql_changes WHERE "table" = 'u' ORDER BY val;
SELECT val FROM crsql_changes WHERE "table" = 'nope';
SELECT "table", val FROM crsql_changes WHERE pk = crsql_pack_columns(1);
SELECT val FROM crsql_changes WHERE "table" = 't' AND pk = crsql_pack_columns(2) AND cid = 'y';
SELECT val FROM crsql_changes WHERE cid = 'x' AND db_version > 1;
SELECT val FROM crsql_changes WHERE "table" IN ('t', 'u') AND cid IN ('x', 'y') ORDER BY val;
.print -- others
SELECT val FROM crsql_changes WHERE cl = 1 AND seq = 1;
SELECT "table" FROM crsql_changes WHERE val = 'd';
SELECT a.val, b.val FROM crsql_changes a JOIN crsql_changes b ON a.pk = b.pk AND a."table" = b."table" AND a.cid < b.cid ORDER BY 1;
