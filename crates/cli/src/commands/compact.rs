use crate::failure::{Failure, Result, refused};
use crate::files::{self, Access};
use crate::output::{self, count, line, number};
use crate::progress;
use rejoin::{Replica, VersionVector};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Forgets deleted rows and overwritten transactions that everybody has acknowledged: in a server's file, what all replicas \
have that were there within --unseen-days; in another, what its server has said. Rows and values stay as they are, and so \
does what anybody can still need. A replica that has not been there for longer, and comes back, starts over from a snapshot \
and keeps what only it has.

--force declares that every replica has everything that this file holds. One that has not is refused from then on and has to \
start over. It is also needed where changes were ever inserted into crsql_changes: who pulls them row by row is known to nobody, \
and never hears of a deletion that it has not pulled yet.

Examples:
  rejoin compact shop.db
  rejoin compact rooms/north.db --unseen-days 90 --vacuum
  rejoin compact alone.db --force";

/// Forget deleted rows and overwritten transactions that everybody has acknowledged
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// Do not wait for replicas that were not there for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=36_500))]
    unseen_days: u32,
    /// Declare that nobody is behind
    #[arg(long)]
    force: bool,
    /// Give the free space back to the file system: takes the file's size again while it runs
    #[arg(long)]
    vacuum: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let replica = files::open_replica(&args.db, Access::Write)?;
    let at = |e: rejoin::Error| Failure::from(e).at(args.db.display());
    let horizon = horizon(&replica, &args)?;
    let before = size(&args.db)?;
    let spinner = progress::spinner("reading the metadata");
    let mut done = replica.collect(&horizon);
    if args.vacuum && done.is_ok() {
        spinner.set_message("writing the file anew");
        // In WAL mode it shrinks with the checkpoint.
        let vacuum = replica.connection().execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
        done = vacuum.map_err(rejoin::Error::from).and(done);
    }
    spinner.finish_and_clear();
    crate::stop::check()?;
    let done = done.map_err(at)?;
    let after = size(&args.db)?;
    let held = transactions(&replica.vector().map_err(at)?);
    let covered = transactions(&replica.horizon().map_err(at)?);
    if args.json {
        return output::json(&json!({
            "tombstones": done.tombstones, "log_rows": done.log_rows, "transactions": held, "below_horizon": covered,
            "bytes_before": before, "bytes": after,
        }));
    }
    line(format!(
        "{} forgotten, {} merged into ranges; {} of {} acknowledged",
        count(done.tombstones, "deleted row"),
        count(done.log_rows, "log row"),
        number(covered),
        count(held, "transaction")
    ))?;
    if args.vacuum { line(format!("{} bytes, before {}", number(after), number(before))) } else { Ok(()) }
}

/// Up to where everybody has acknowledged everything.
fn horizon(replica: &Replica, args: &Args) -> Result<VersionVector> {
    let at = |e: rejoin::Error| Failure::from(e).at(args.db.display());
    if args.force {
        return replica.vector().map_err(at);
    }
    let refuse = |why: &str| Err(refused(format!("{}: {why}", args.db.display())));
    if replica.exchanged_row_wise().map_err(at)? {
        return refuse(
            "changes came in row by row (crsql_changes), so there may be peers that nobody knows of, which would never hear \
             of a deletion that is forgotten; --force if there are none, or if they are all up to date",
        );
    }
    let days = Duration::from_secs(u64::from(args.unseen_days) * 86_400);
    let since = SystemTime::now().checked_sub(days).and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let since_ms = since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    if let Some(acknowledged) = replica.acknowledged(since_ms).map_err(at)? {
        return Ok(acknowledged);
    }
    let known = replica.horizon().map_err(at)?;
    if known.is_empty() {
        return refuse(
            "nobody has told this file what they have: it is no server's, and its server has not said either; --force \
             declares that all its replicas are up to date, or that there are none",
        );
    }
    Ok(known)
}

fn transactions(vector: &VersionVector) -> u64 {
    vector.iter().flat_map(|(_, ranges)| ranges.iter()).map(|r| r.end() - r.start() + 1).sum()
}

/// The file with what waits in its log.
fn size(path: &Path) -> Result<u64> {
    let main = std::fs::metadata(path).map_err(|e| Failure::io(path, e))?.len();
    let mut wal = path.to_owned().into_os_string();
    wal.push("-wal");
    Ok(main + std::fs::metadata(wal).map_or(0, |m| m.len()))
}
