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
CREATE TABLE main.crsql_aliases(
  tbl INTEGER NOT NULL, name TEXT NOT NULL COLLATE NOCASE, id INTEGER NOT NULL,
  PRIMARY KEY(tbl, name)) WITHOUT ROWID;
CREATE TABLE main.crsql_log(
  id INTEGER PRIMARY KEY, db_version INTEGER NOT NULL, site INTEGER NOT NULL, version INTEGER NOT NULL,
  clock INTEGER NOT NULL, nonce INTEGER, chain INTEGER, high INTEGER, changes BLOB NOT NULL);
CREATE TABLE main.crsql_vector(
  site INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, chain INTEGER,
  PRIMARY KEY(site, first)) WITHOUT ROWID;
CREATE TABLE main.crsql_parked(
  id INTEGER PRIMARY KEY, tbl TEXT NOT NULL COLLATE NOCASE, pk BLOB NOT NULL, cid TEXT NOT NULL COLLATE NOCASE,
  val, col_version INTEGER NOT NULL, db_version INTEGER NOT NULL, site INTEGER NOT NULL, cl INTEGER NOT NULL,
  seq INTEGER NOT NULL, reason TEXT NOT NULL, UNIQUE(tbl, pk, cid));
CREATE INDEX main.crsql_parked_version ON crsql_parked(db_version);
CREATE TABLE main.crsql_rowids(name TEXT PRIMARY KEY);
CREATE TABLE main.crsql_rejected(
  \"table\" TEXT NOT NULL, pk BLOB NOT NULL, cid TEXT NOT NULL, val, col_version INTEGER NOT NULL, site_id BLOB NOT NULL,
  version INTEGER NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY(version, site_id, \"table\", pk, cid)) WITHOUT ROWID;
CREATE TABLE main.crsql_wanted(tbl TEXT NOT NULL COLLATE NOCASE, pk BLOB NOT NULL, PRIMARY KEY(tbl, pk)) WITHOUT ROWID;
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
