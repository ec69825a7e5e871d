-- The columns of keys beside their changes, in either order of the join.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TABLE line (note INTEGER NOT NULL, isbn TEXT NOT NULL, n, PRIMARY KEY (note, isbn));
SELECT crsql_as_crr('line');
INSERT INTO line VALUES (1, 'a', 10), (2, 'b', 20);
SELECT c.val, u.cell FROM crsql_changes AS c, crsql_unpack_columns AS u WHERE u.package = c.pk;
SELECT c.val, u.cell FROM crsql_unpack_columns AS u JOIN crsql_changes AS c ON u.package = c.pk;
SELECT group_concat(cell, ' ') FROM crsql_unpack_columns(crsql_pack_columns('x', 2, 3.5));
SELECT count(*) FROM crsql_unpack_columns(NULL);
.print -- no package, no blob
SELECT * FROM crsql_unpack_columns;
SELECT * FROM crsql_unpack_columns('text');
INSERT INTO crsql_unpack_columns VALUES (1);
