use crate::failure::{Failure, Result, usage};
use crate::files::{self, Access};
use crate::output::{self, count, hex, line, literal, owned, written};
use crate::{progress, stop};
use rejoin::{Replica, Value};
use rusqlite::Row;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
One line per cell that was written, in the order of versions; there is no history, only who wrote last. A cid of -1 is \
the row itself: made again, deleted (cl even), or without other columns. --json gives one object a line.

With --out the changes go to a file in binary form, for `rejoin apply`. One who has everything up to version V takes \
the file of --since V.

Examples:
  rejoin changes shop.db
  rejoin changes shop.db --since 41 --json
  rejoin changes shop.db --out full.changeset
  rejoin changes shop.db --since 41 --out - | ssh laptop rejoin apply shop.db -";

/// Print changes, or write them to a file for `rejoin apply`
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// Only what is newer than this version of the database
    #[arg(long, value_name = "VERSION", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    since: i64,
    /// One JSON object a line
    #[arg(long, conflicts_with = "out")]
    json: bool,
    /// Write a binary changeset to this file; `-` is stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let replica = files::open_replica(&args.db, Access::Read)?;
    match &args.out {
        Some(out) => export(&replica, args.since, out),
        None => print(&replica, args.since, args.json),
    }
}

fn export(replica: &Replica, since: i64, out: &Path) -> Result<()> {
    if files::same(Path::new(replica.connection().path().unwrap_or_default()), out) {
        return Err(usage("the changes cannot be written over the database itself"));
    }
    let spinner = progress::spinner("writing changes");
    let bytes = replica.changeset_since(since)?;
    stop::check()?;
    if out == Path::new("-") {
        let mut stdout = std::io::stdout().lock();
        written(stdout.write_all(&bytes).and_then(|()| stdout.flush()))?;
    } else {
        std::fs::write(out, &bytes).map_err(|e| Failure::io(out, e))?;
    }
    spinner.finish_and_clear();
    if out != Path::new("-") {
        let version = replica.db_version()?;
        let size = count(bytes.len() as u64, "byte");
        line(format!("{}: {size}, versions {since} to {version}", out.display()))?;
    }
    Ok(())
}

/// A row of `crsql_changes`.
struct Change {
    table: String,
    pk: Vec<u8>,
    cid: String,
    val: Value,
    col_version: i64,
    db_version: i64,
    site: Vec<u8>,
    cl: i64,
    seq: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Change> {
    Ok(Change {
        table: row.get(0)?,
        pk: row.get(1)?,
        cid: row.get(2)?,
        val: owned(row.get_ref(3)?),
        col_version: row.get(4)?,
        db_version: row.get(5)?,
        site: row.get::<_, Option<Vec<u8>>>(6)?.unwrap_or_default(),
        cl: row.get(7)?,
        seq: row.get(8)?,
    })
}

fn print(replica: &Replica, since: i64, json: bool) -> Result<()> {
    let mut q = replica.connection().prepare(
        "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes \
         WHERE db_version > ?1 ORDER BY db_version, seq",
    )?;
    let mut rows = q.query([since])?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(row) = rows.next()? {
        let c = read(row)?;
        let line = if json { as_json(&c) } else { as_text(&c) };
        written(writeln!(out, "{line}"))?;
    }
    written(out.flush())
}

fn as_json(c: &Change) -> String {
    let key: Vec<serde_json::Value> =
        rejoin::unpack_key(&c.pk).unwrap_or_default().iter().map(output::value).collect();
    json!({
        "table": c.table, "key": key, "pk": hex(&c.pk), "cid": c.cid, "val": output::value(&c.val),
        "col_version": c.col_version, "db_version": c.db_version, "site_id": hex(&c.site), "cl": c.cl, "seq": c.seq,
    })
    .to_string()
}

fn as_text(c: &Change) -> String {
    let what = match (c.cid.as_str(), c.cl % 2) {
        ("-1", 0) => "deleted".to_owned(),
        ("-1", _) => "exists".to_owned(),
        (cid, _) => format!("{cid} = {}", literal(&c.val)),
    };
    let key = rejoin::key_text(&c.pk);
    let site = hex(&c.site).chars().take(8).collect::<String>();
    format!(
        "{}.{} {} {key}: {what}  [site {site}, version {}, cl {}]",
        c.db_version, c.seq, c.table, c.col_version, c.cl
    )
}
