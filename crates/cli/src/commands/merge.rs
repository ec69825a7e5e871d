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
    let sites = || Ok::<_, Failure>([a.site_id()?, b.site_id()?]);
    let before = sites()?;
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
    for ((path, before), now) in [&args.a, &args.b].into_iter().zip(before).zip(sites()?) {
        if before != now {
            eprintln!(
                "rejoin: {} was a copy of a file that was written to as well; it writes under the site id {now} from \
                 here on",
                path.display()
            );
        }
    }
    Ok(())
}
