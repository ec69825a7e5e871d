use crate::failure::{Failure, Result, usage};
use crate::files::{self, Access};
use crate::output::{self, line};
use crate::{progress, stop};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Each gets what the other has and it lacks, in one transaction each. Afterwards tables of the same schema are equal; \
`rejoin diff` says so. Changes to tables and columns that one of them does not have wait there (`rejoin status`).

Examples:
  rejoin merge shop.db laptop.db
  rejoin merge shop.db /mnt/stick/shop.db && rejoin diff shop.db /mnt/stick/shop.db";

/// Merge two databases, both ways
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    a: PathBuf,
    b: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if files::same(&args.a, &args.b) {
        return Err(usage("both are the same file; there is nothing to merge"));
    }
    let a = files::open_replica(&args.a, Access::Write)?;
    let b = files::open_replica(&args.b, Access::Write)?;
    let copies = a.site_id()? == b.site_id()?;
    let spinner = progress::spinner("merging");
    let merged = a.merge_with(&b);
    spinner.finish_and_clear();
    stop::check()?;
    let (here, there) = merged.map_err(|e| {
        let pair = format!("{} and {}", args.a.display(), args.b.display());
        Failure::from(e).at(pair)
    })?;
    if args.json {
        output::json(&json!({ "a": output::applied(&here), "b": output::applied(&there) }))?;
    } else {
        line(format!("{} <- {}", args.a.display(), output::applied_text(&here)))?;
        line(format!("{} <- {}", args.b.display(), output::applied_text(&there)))?;
    }
    if copies && a.site_id()? == b.site_id()? {
        eprintln!(
            "rejoin: {} is a copy of {} under the same site id. Before both are written to, give one of them an id of \
             its own: SELECT crsql_new_site_id()",
            args.b.display(),
            args.a.display()
        );
    }
    Ok(())
}
