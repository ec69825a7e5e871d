use crate::failure::{Failure, Kind, Result};
use crate::files::{self, Access};
use crate::output::{self, line};
use crate::{progress, stop};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
All of the file is taken in one transaction, or nothing. What is known already is skipped; taking a file twice changes \
nothing. A file that builds on transactions which this database lacks is refused with their numbers.

Examples:
  rejoin apply laptop.db shop.changeset
  rejoin changes shop.db --out - | rejoin apply laptop.db -";

/// Take in a file of changes that `rejoin changes --out` wrote
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// The changeset; `-` is stdin
    file: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let bytes = read(&args.file)?;
    if bytes.starts_with(b"SQLite format 3\0") {
        let message = format!(
            "{} is a database, not a file of changes; `rejoin merge` merges databases",
            args.file.display()
        );
        return Err(Failure::new(Kind::Refused, message));
    }
    let replica = files::open(&args.db, Access::Write)?;
    let spinner = progress::spinner("taking changes");
    let applied = replica.apply_changeset(&bytes);
    spinner.finish_and_clear();
    let applied = applied.map_err(|e| Failure::from(e).at(args.file.display()))?;
    if args.json {
        return output::json(&output::applied(&applied));
    }
    line(output::applied_text(&applied))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let read = if path == Path::new("-") { stop::read_all(std::io::stdin()) } else { std::fs::read(path) };
    read.map_err(|e| Failure::io(path, e))
}
