-- NOT NULL without default, generated columns, STRICT and NOCASE keys are welcome.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE notnull_ (id INTEGER PRIMARY KEY NOT NULL, x TEXT NOT NULL, y INT NOT NULL DEFAULT 3);
CREATE TABLE generated_ (id INTEGER PRIMARY KEY NOT NULL, x INT, twice INT AS (x * 2), stored_ INT AS (x + 1) STORED);
CREATE TABLE strict_ (id INTEGER PRIMARY KEY NOT NULL, x INT, y ANY) STRICT;
CREATE TABLE collated (k TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, x);
SELECT crsql_as_crr('notnull_'), crsql_as_crr('generated_'), crsql_as_crr('strict_'), crsql_as_crr('collated');
INSERT INTO notnull_ (id, x) VALUES (1, 'a');
INSERT INTO generated_ (id, x) VALUES (1, 5);
INSERT INTO strict_ VALUES (1, 2, 'three');
INSERT INTO collated VALUES ('Key', 1);
UPDATE generated_ SET x = 6;
UPDATE collated SET x = 2 WHERE k = 'KEY';
SELECT * FROM generated_;
SELECT * FROM c;
