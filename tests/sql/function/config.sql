-- Settings are kept; unknown ones and unknown values are refused.
.load ./rejoin
SELECT crsql_config_set('clock', 'lamport');
CREATE TEMP VIEW c AS SELECT "table", hex(pk), cid, quote(val), col_version, db_version,
  site_id = crsql_site_id(), cl, seq FROM crsql_changes;
SELECT crsql_config_get('clock');
SELECT crsql_config_set('clock', 'hlc');
SELECT crsql_config_get('clock');
SELECT crsql_config_set('clock', 'sundial');
SELECT crsql_config_get('clock');
SELECT crsql_config_set('nonsense', 1);
SELECT crsql_config_get('nonsense');
