-- The key codec, byte for byte.
.load ./rejoin
SELECT hex(crsql_pack_columns(0)), hex(crsql_pack_columns(1)), hex(crsql_pack_columns(127)),
  hex(crsql_pack_columns(128)), hex(crsql_pack_columns(255)), hex(crsql_pack_columns(256));
SELECT hex(crsql_pack_columns(-1)), hex(crsql_pack_columns(9223372036854775807)), hex(crsql_pack_columns(1.5));
SELECT hex(crsql_pack_columns('')), hex(crsql_pack_columns('abc')), hex(crsql_pack_columns(x'')), hex(crsql_pack_columns(x'00'));
SELECT hex(crsql_pack_columns(NULL)), hex(crsql_pack_columns(1, 'b', NULL, 2.0));
SELECT quote(cell) FROM crsql_unpack_columns(crsql_pack_columns(1, 'b', NULL, 2.5, x'0f', -9));
SELECT length(crsql_pack_columns(zeroblob(300)));
.print -- not a key
SELECT * FROM crsql_unpack_columns(x'');
SELECT * FROM crsql_unpack_columns(x'01');
SELECT * FROM crsql_unpack_columns(x'010b05616263');
SELECT * FROM crsql_unpack_columns(x'0149ffffffffffffffff00');
SELECT * FROM crsql_unpack_columns(x'010901ff');
SELECT * FROM crsql_unpack_columns(NULL);
