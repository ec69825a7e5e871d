use crate::failure::{Failure, Kind, Result};
use crate::files::{self, Access};
use crate::output::{self, count, line, number};
use crate::progress;
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Compares the metadata with the tables and with itself: every row has its record and every living record its row, keys \
and hashes fit, the log lists every change, the version vector says what the log says, the triggers stand, and SQLite's \
own integrity check. Each problem comes with what to do about it.

--repair does what can be done, in one transaction: the tables are right, and what the metadata cannot explain is taken \
over as if it were old, so that it beats nobody's edit.

Examples:
  rejoin verify shop.db
  rejoin verify shop.db --repair";

/// Check the metadata against the tables, and repair it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let access = if args.repair { Access::Write } else { Access::Read };
    let replica = files::open_any(&args.db, access)?;
    let spinner = progress::spinner("comparing");
    let report = if args.repair { replica.repair() } else { replica.verify() };
    spinner.finish_and_clear();
    let report = report.map_err(|e| Failure::from(e).at(args.db.display()))?;
    if args.json {
        let problems: Vec<Value> = report.problems.iter().map(output::problem).collect();
        output::json(&json!({
            "ok": report.is_clean(), "tables": report.tables, "rows": report.rows,
            "transactions": report.transactions, "repaired": report.repaired, "problems": problems,
            "more": report.more,
        }))?;
    } else {
        for p in &report.problems {
            line(p.to_string())?;
        }
        if report.more > 0 {
            line(format!("and {} more", number(report.more)))?;
        }
        let looked = format!(
            "{}, {}, {}",
            count(report.tables, "table"),
            count(report.rows, "record"),
            count(report.transactions, "transaction")
        );
        if report.repaired > 0 {
            line(format!("{} repaired", count(report.repaired, "problem")))?;
        }
        match report.problems.len() as u64 + report.more {
            0 => line(format!("{looked}: all is well"))?,
            n => line(format!("{looked}: {}", count(n, "problem")))?,
        }
    }
    if report.is_clean() {
        return Ok(());
    }
    let hint = if !args.repair && report.problems.iter().any(|p| p.repairable) {
        format!("`rejoin verify {} --repair` mends what can be mended", args.db.display())
    } else {
        String::new()
    };
    Err(Failure::new(Kind::Differs, hint))
}
