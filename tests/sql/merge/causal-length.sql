-- The larger causal length wins, whatever the versions say.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x, y TEXT DEFAULT 'd');
SELECT crsql_as_crr('t');

INSERT INTO t VALUES (1, 'a', 'b');
.print -- a sentinel with an even length deletes
INSERT INTO crsql_changes VALUES ('t', x'010901', '-1', NULL, 2, 7, zeroblob(16), 2, 0);
SELECT count(*) FROM t;
SELECT * FROM c;
.print -- a shorter length is the past
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'past', 100, 8, zeroblob(16), 1, 0);
SELECT count(*) FROM t;
.print -- a longer odd one resurrects, and older cells are forgotten
INSERT INTO crsql_changes VALUES ('t', x'010901', 'x', 'again', 1, 9, zeroblob(16), 3, 4);
SELECT * FROM t;
SELECT * FROM c;
.print -- a longer sentinel of a living row starts another life
INSERT INTO crsql_changes VALUES ('t', x'010901', '-1', NULL, 5, 10, zeroblob(16), 5, 0);
SELECT * FROM t;
SELECT * FROM c;
