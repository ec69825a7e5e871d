//! The `rejoin` command: replicas made, looked at, merged and mended from a shell.
//!
//! One file per subcommand in `commands`; it does nothing that a user of the crate `rejoin` could not do.

mod commands;
mod csv_file;
mod failure;
mod files;
mod output;
mod progress;
mod stop;

use clap::{Parser, Subcommand};
use commands::{
    apply, changes, clone, compact, diff, import, init, merge, rejected, replicate, serve, status, sync,
    upgrade, verify,
};
use failure::{Kind, Result};
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    diff: the two differ; verify: something contradicts itself
  2    wrong usage
  3    a file is missing, cannot be read or written, or is no database
  4    a database of another kind: cr-sqlite's, a newer Rejoin's, or without replicated tables
  5    refused: data, a table, a changeset or SQL that does not fit
  6    busy: another program is writing
  7    damaged; `rejoin verify DB --repair` may help
  8    the system: disk full, I/O error, out of memory
  9    incompatible: the server does not take this database or client
  10   rejected: the server did not take some transactions
  11   behind: a schema or transactions are missing on one side
  12   offline: the server was not reached
  130  interrupted; what was begun was taken back

Examples:
  rejoin init shop.db --schema schema.sql
  rejoin import shop.db books books.csv --key book_id
  rejoin merge shop.db laptop.db
  rejoin diff shop.db laptop.db
  rejoin clone wss://sync.example.org/shop till2.db --token-file till2.jwt
  rejoin sync till2.db wss://sync.example.org/shop --token-file till2.jwt --watch";

/// Replicated SQLite: ordinary tables that every device writes at once and that become equal when devices meet.
#[derive(Parser)]
#[command(name = "rejoin", version, after_help = EXIT_CODES, propagate_version = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Seconds to wait for another program that is writing to the file
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(..=86_400))]
    wait: u32,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Import(import::Args),
    Replicate(replicate::Args),
    Status(status::Args),
    Changes(changes::Args),
    Apply(apply::Args),
    Merge(merge::Args),
    Sync(sync::Args),
    Clone(clone::Args),
    Rejected(rejected::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    Compact(compact::Args),
    Upgrade(upgrade::Args),
    Serve(serve::Args),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Init(args) => init::run(args),
            Command::Import(args) => import::run(args),
            Command::Replicate(args) => replicate::run(args),
            Command::Status(args) => status::run(args),
            Command::Changes(args) => changes::run(args),
            Command::Apply(args) => apply::run(args),
            Command::Merge(args) => merge::run(args),
            Command::Sync(args) => sync::run(args),
            Command::Clone(args) => clone::run(args),
            Command::Rejected(args) => rejected::run(args),
            Command::Diff(args) => diff::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Compact(args) => compact::run(args),
            Command::Upgrade(args) => upgrade::run(args),
            Command::Serve(args) => serve::run(args),
        }
    }

    /// What became of the work when it was interrupted.
    fn aftermath(&self) -> &'static str {
        match self {
            Command::Merge(_) => "each direction is taken whole or not at all; run it again to go on",
            Command::Sync(_) => "what is not yet acknowledged stays pending",
            Command::Clone(_) => "run it again to go on",
            Command::Status(_) | Command::Changes(_) | Command::Diff(_) => "nothing was changed",
            _ => "the database is as it was before",
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The server ends gracefully, in its own way.
    if !matches!(cli.command, Command::Serve(_)) {
        stop::install();
    }
    files::set_wait(cli.wait);
    let aftermath = cli.command.aftermath();
    let Err(failure) = cli.command.run() else {
        return ExitCode::SUCCESS;
    };
    match failure.kind {
        // The reader of a pipe has seen enough.
        Kind::Pipe => ExitCode::SUCCESS,
        _ if stop::requested() => {
            eprintln!("rejoin: interrupted; {aftermath}");
            ExitCode::from(Kind::Interrupted.code())
        }
        kind => {
            if !failure.message.is_empty() {
                eprintln!("rejoin: {}", failure.message);
            }
            ExitCode::from(kind.code())
        }
    }
}
