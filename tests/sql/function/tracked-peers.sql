-- The table for sync layers of the user's own.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
INSERT INTO crsql_tracked_peers (site_id, version, seq, tag, event) VALUES (x'00112233445566778899aabbccddeeff', 5, 2, 0, 1);
INSERT OR REPLACE INTO crsql_tracked_peers (site_id, version, seq, tag, event) VALUES (x'00112233445566778899aabbccddeeff', 9, 0, 0, 1);
SELECT hex(site_id), version, seq, tag, event FROM crsql_tracked_peers;
SELECT count(*), crsql_db_version() FROM crsql_changes;
