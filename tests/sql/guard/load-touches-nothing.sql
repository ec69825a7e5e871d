-- Loading the extension does not touch the file, and plain tables stay plain.
.open fresh.db
.load ./rejoin
.print -- nothing was written
SELECT count(*) FROM sqlite_schema;
PRAGMA page_count;
SELECT crsql_db_version();
CREATE TABLE plain (a);
INSERT INTO plain VALUES (1);
.open fresh.db
INSERT INTO plain VALUES (2);
SELECT * FROM plain;
