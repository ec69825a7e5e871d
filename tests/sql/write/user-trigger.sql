-- What a trigger of the user's own writes belongs to the transaction.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x);
CREATE TABLE log (n INTEGER PRIMARY KEY NOT NULL, what);
SELECT crsql_as_crr('t'), crsql_as_crr('log');
CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (NEW.x, OLD.x); END;
INSERT INTO t VALUES (1, 10);
UPDATE t SET x = 20;
SELECT * FROM log;
SELECT "table", hex(pk), cid, quote(val), db_version FROM crsql_changes ORDER BY "table";
