use crate::failure::{Failure, Kind, Result};
use crate::files::{self, Access};
use crate::output::line;
use crate::progress;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Site id, versions, causal lengths, tombstones, tracked peers and ordered lists stay; peers that still run cr-sqlite 0.16 \
go on syncing row by row. It happens whole or not at all, and there is no way back: keep a copy of the file, and close \
the programs that use it.

Examples:
  cp shop.db shop-before.db && rejoin upgrade shop.db";

/// Convert a database of cr-sqlite (0.15, 0.16, Fly's 0.17)
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let replica = files::open_any(&args.db, Access::Write)?;
    if files::has_metadata(&replica)? {
        let message = format!("{} is a database of Rejoin already", args.db.display());
        return Err(Failure::new(Kind::Foreign, message));
    }
    let spinner = progress::spinner("converting");
    let conn = replica.connection();
    let done = conn.query_row("SELECT crsql_upgrade()", [], |row| row.get::<_, String>(0));
    spinner.finish_and_clear();
    let done = done.map_err(|e| Failure::from(e).at(args.db.display()))?;
    line(format!("{}: {done}", args.db.display()))
}
