-- Ordered lists: first, last, behind a row, moved.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, list INTEGER, what TEXT, place TEXT);
SELECT crsql_as_crr('todo');
SELECT crsql_fract_as_ordered('todo', 'place', 'list');
INSERT INTO todo VALUES (1, 1, 'first', 1);
INSERT INTO todo VALUES (2, 1, 'second', 1);
INSERT INTO todo VALUES (3, 1, 'before all', -1);
INSERT INTO todo VALUES (4, 2, 'another list', 1);
SELECT what FROM todo WHERE list = 1 ORDER BY place;
INSERT INTO todo_fractindex (id, list, what, after_id) VALUES (5, 1, 'after the first', 1);
SELECT what FROM todo WHERE list = 1 ORDER BY place;
UPDATE todo_fractindex SET after_id = 2 WHERE id = 3;
SELECT what FROM todo WHERE list = 1 ORDER BY place;
SELECT list, what, place FROM todo ORDER BY list, place;
