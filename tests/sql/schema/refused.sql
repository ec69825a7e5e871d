-- What cannot be replicated is refused with a sentence, and stays as it was.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE nokey (a, b);
SELECT crsql_as_crr('nokey');
SELECT crsql_as_crr('missing');
CREATE VIEW v AS SELECT 1 AS a;
SELECT crsql_as_crr('v');
SELECT crsql_as_crr('sqlite_schema');
SELECT crsql_as_crr(NULL);
SELECT crsql_as_crr();
SELECT crsql_as_crr('temp', 'nokey');
CREATE TABLE uniq (id INTEGER PRIMARY KEY NOT NULL, x UNIQUE);
SELECT crsql_as_crr('uniq');
CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, x);
SELECT crsql_as_crr('auto');
CREATE TABLE parent (id INTEGER PRIMARY KEY NOT NULL);
CREATE TABLE child (id INTEGER PRIMARY KEY NOT NULL, p REFERENCES parent (id));
SELECT crsql_as_crr('child');
SELECT count(*) FROM sqlite_schema WHERE type = 'trigger';
