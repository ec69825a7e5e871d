-- Any name that SQLite takes.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE "a b""c" ("the key" TEXT PRIMARY KEY NOT NULL, "select" INT, [x-y], `it's` TEXT);
SELECT crsql_as_crr('a b"c');
INSERT INTO "a b""c" VALUES ('k', 1, 2, 'three');
UPDATE "a b""c" SET "x-y" = 5;
CREATE TABLE "b'r" ("schl" TEXT PRIMARY KEY NOT NULL, v);
SELECT crsql_as_crr('b''r');
INSERT INTO "b'r" VALUES ('s', 't');
CREATE TABLE "über" ("größe" INTEGER PRIMARY KEY NOT NULL, "名前");
SELECT crsql_as_crr('über');
INSERT INTO "über" VALUES (1, '☃');
DELETE FROM "b'r";
SELECT * FROM c;
