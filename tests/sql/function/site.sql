-- The id of a replica is made once and stored.
.open a.db
.load ./rejoin
SELECT typeof(crsql_site_id()), length(crsql_site_id());
CREATE TABLE seen AS SELECT crsql_site_id() AS id;
.open a.db
.load ./rejoin
SELECT id = crsql_site_id() FROM seen;
SELECT crsql_version() IS NOT NULL, crsql_sha() IS NOT NULL;
SELECT crsql_internal_sync_bit();
SELECT crsql_rows_impacted();
.once finalize.txt
SELECT crsql_finalize();
SELECT crsql_site_id() = id FROM seen;
