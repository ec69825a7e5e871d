use crate::failure::Result;
use crate::files::{self, Access};
use crate::output::{line, number};
use crate::progress;
use std::path::PathBuf;

const EXAMPLES: &str = "\
All tables are made replicated, or none. It is no error if one is already.

Examples:
  rejoin replicate shop.db books orders
  rejoin replicate shop.db \"order lines\"";

/// Make tables replicated, with the rows that they have
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let replica = files::open(&args.db, Access::Write)?;
    let conn = replica.connection();
    let spinner = progress::spinner("stamping rows");
    let tx = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
    for table in &args.tables {
        spinner.set_message(format!("stamping the rows of {table}"));
        replica.replicate(table)?;
    }
    tx.commit()?;
    spinner.finish_and_clear();
    let status = replica.status()?;
    let mine = |name: &str| args.tables.iter().any(|t| t.eq_ignore_ascii_case(name));
    for t in status.tables.iter().filter(|t| mine(&t.name)) {
        line(format!("{}: replicated, {} rows", t.name, number(t.rows)))?;
    }
    Ok(())
}
