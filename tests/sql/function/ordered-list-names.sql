-- An ordered list with a compound key, odd names, twins on one position, and a second call.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE "to ""do" ("a b" TEXT NOT NULL, c INTEGER NOT NULL, "list" TEXT, "at" TEXT, PRIMARY KEY ("a b", c)) WITHOUT ROWID;
SELECT crsql_as_crr('to "do');
SELECT crsql_fract_as_ordered('to "do', 'at', 'list');
INSERT INTO "to ""do" VALUES ('x', 1, 'l', 1), ('y', 1, 'l', 1), ('z', 1, 'l', -1);
INSERT INTO "to ""do_fractindex" ("a b", c, list, "after_a b", after_c) VALUES ('w', 2, 'l', 'x', 1);
SELECT "a b", at FROM "to ""do" ORDER BY at;
.print -- twins
UPDATE "to ""do" SET at = 'a!' WHERE "a b" = 'w';
INSERT INTO "to ""do_fractindex" ("a b", c, list, "after_a b", after_c) VALUES ('v', 3, 'l', 'w', 2);
SELECT "a b", at FROM "to ""do" ORDER BY at;
.print -- a new column is passed on after a second call
ALTER TABLE "to ""do" ADD COLUMN what;
SELECT crsql_fract_as_ordered('to "do', 'at', 'list');
UPDATE "to ""do_fractindex" SET what = 'moved to the front', "after_a b" = NULL WHERE "a b" = 'y';
SELECT "a b", at, what FROM "to ""do" ORDER BY at;
.print -- what is no list
SELECT crsql_fract_as_ordered('nope', 'at');
SELECT crsql_fract_as_ordered('to "do', 'nope');
SELECT crsql_fract_as_ordered('to "do', 'c');
SELECT crsql_fract_as_ordered('to "do');
SELECT crsql_fract_as_ordered();
