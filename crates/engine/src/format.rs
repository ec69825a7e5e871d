//! The metadata tables of a replicated file. `docs/storage-format.md` is the specification.

/// The version of the storage format that this build writes.
pub const FORMAT: i64 = 1;

/// Shared by all replicated tables; per table `<id>` there are `crsql_rows_<id>` and `crsql_keys_<id>`.
pub const SCHEMA: &str = "
CREATE TABLE main.crsql_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE main.crsql_sites(ordinal INTEGER PRIMARY KEY, site_id BLOB NOT NULL UNIQUE);
CREATE TABLE main.crsql_tables(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, kind INTEGER NOT NULL,
  root INTEGER NOT NULL, sql TEXT NOT NULL);
CREATE TABLE main.crsql_columns(
  tbl INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT NOT NULL COLLATE NOCASE, decl TEXT NOT NULL,
  pos INTEGER NOT NULL, PRIMARY KEY(tbl, id)) WITHOUT ROWID;
CREATE TABLE main.crsql_names(
  tbl INTEGER NOT NULL, name TEXT NOT NULL COLLATE NOCASE, life INTEGER NOT NULL, id INTEGER NOT NULL,
  ended INTEGER NOT NULL, PRIMARY KEY(tbl, name, life)) WITHOUT ROWID;
CREATE INDEX main.crsql_names_of_tables ON crsql_names(id) WHERE tbl = 0;
CREATE TABLE main.crsql_log(
  id INTEGER PRIMARY KEY, db_version INTEGER NOT NULL, site INTEGER NOT NULL, version INTEGER NOT NULL,
  clock INTEGER NOT NULL, nonce INTEGER, chain INTEGER, high INTEGER, changes BLOB NOT NULL);
CREATE TABLE main.crsql_vector(
  site INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, chain INTEGER,
  PRIMARY KEY(site, first)) WITHOUT ROWID;
CREATE TABLE main.crsql_waiting(
  id INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, pk BLOB NOT NULL, col INTEGER NOT NULL,
  val, col_version INTEGER NOT NULL, db_version INTEGER NOT NULL, site INTEGER NOT NULL, cl INTEGER NOT NULL,
  seq INTEGER NOT NULL, reason TEXT NOT NULL, UNIQUE(tbl, pk, col));
CREATE INDEX main.crsql_waiting_version ON crsql_waiting(db_version);
CREATE VIEW main.crsql_parked(id, tbl, pk, cid, val, col_version, db_version, site, cl, seq, reason) AS SELECT
  w.id,
  coalesce((SELECT t.name FROM crsql_tables AS t WHERE t.id = w.tbl),
    (SELECT n.name FROM crsql_names AS n WHERE n.tbl = 0 AND n.id = w.tbl ORDER BY n.name DESC LIMIT 1)),
  w.pk,
  CASE WHEN w.col < 0 THEN '-1' ELSE
    coalesce((SELECT c.name FROM crsql_columns AS c WHERE c.tbl = w.tbl AND c.id = w.col),
      (SELECT n.name FROM crsql_names AS n WHERE n.tbl = w.tbl AND n.id = w.col ORDER BY n.name DESC LIMIT 1)) END,
  w.val, w.col_version, w.db_version, w.site, w.cl, w.seq, w.reason FROM crsql_waiting AS w;
CREATE TABLE main.crsql_rowids(name TEXT PRIMARY KEY);
CREATE TABLE main.crsql_rejected(
  \"table\" TEXT NOT NULL, pk BLOB NOT NULL, cid TEXT NOT NULL, val, col_version INTEGER NOT NULL, site_id BLOB NOT NULL,
  version INTEGER NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY(version, site_id, \"table\", pk, cid)) WITHOUT ROWID;
CREATE TABLE main.crsql_wanted(tbl INTEGER NOT NULL, pk BLOB NOT NULL, PRIMARY KEY(tbl, pk)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.crsql_tracked_peers(
  \"site_id\" BLOB NOT NULL, \"version\" INTEGER NOT NULL, \"seq\" INTEGER DEFAULT 0, \"tag\" INTEGER,
  \"event\" INTEGER, PRIMARY KEY (\"site_id\", \"tag\", \"event\")) STRICT;
";

/// A name as an SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
