-- A migration happens whole or not at all.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y);
CREATE INDEX ty ON t (y);
SELECT crsql_as_crr('t');
INSERT INTO t VALUES (1, 'a', 'b');
.print -- refused
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY NOT NULL, id, y)');
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, z NOT NULL)');
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL); SELECT no_such_function()');
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS n (x); SELECT crsql_as_crr(''n'')');
SELECT crsql_automigrate();
SELECT crsql_automigrate(NULL);
SELECT * FROM t;
SELECT cid, val FROM crsql_changes;
SELECT name FROM sqlite_schema WHERE name IN ('t', 'ty', 'n');
.print -- definitions stay whole, on one line with the call
SELECT crsql_automigrate('CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY NOT NULL, x, z TEXT COLLATE NOCASE DEFAULT ''q'' CHECK (z <> '''')); CREATE INDEX IF NOT EXISTS ty ON t (z); SELECT crsql_as_crr(''t'')', 'SELECT crsql_finalize()');
SELECT *, z = 'Q' FROM t;
UPDATE t SET z = '';
SELECT cid, val FROM crsql_changes;
SELECT name, sql FROM sqlite_schema WHERE name = 'ty';
