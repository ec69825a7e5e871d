//! `cargo xtask bench`: the benchmarks, built with optimisation.

use crate::args::Args;
use crate::proc::{self, Result};
use crate::setup;
use std::process::Command;

const HELP: &str = "\
cargo xtask bench engine [OPTIONS...]

Measures the engine against plain SQLite on the same rows in the same run. Everything after `engine` goes to the
benchmark itself; `cargo xtask bench engine -- --help` lists its options.

cargo xtask bench sync [OPTIONS...]

Measures sync over loopback between the real server and real clients: first syncs, catching up, latency, fan-out, idle sockets,
CPU for a transaction, bytes for a cell. Options go to the benchmark in the same way. Fails if a limit is missed.

cargo xtask bench --check | --bless

Counts the instructions of the hot paths under valgrind and compares them with benches/engine/budgets.txt (a tenth
more is a failure), or writes them there.

Examples:
  cargo xtask bench engine
  cargo xtask bench engine -- --help
  cargo xtask bench engine --quick --only insert
  cargo xtask bench sync
  cargo xtask bench sync --only relay --profile
  cargo xtask bench --check
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let mut words = args.rest().into_iter().filter(|w| w != "--");
    match words.next().as_deref() {
        Some("engine") => engine(words.collect()),
        Some("sync") => {
            setup::curl()?;
            proc::run(sync_command(true)?.args(words))
        }
        Some(word @ ("--check" | "--bless")) => {
            setup::valgrind()?;
            engine(vec![word.to_owned()])
        }
        Some(other) => Err(format!("there is no benchmark `{other}`; there are: engine, sync")),
        None => Err("say which benchmark: cargo xtask bench engine, or sync".to_owned()),
    }
}

fn engine(words: Vec<String>) -> Result<()> {
    proc::run(command().args(words))
}

/// The benchmark of the engine; options follow.
pub fn command() -> Command {
    let mut command = proc::cargo();
    command.args(["run", "--quiet", "--release", "-p", "rejoin-bench", "--"]);
    command
}

/// The benchmark of sync, built together with the command whose server it starts; options follow.
pub fn sync_command(optimised: bool) -> Result<Command> {
    let mut build = proc::cargo();
    build.args(["build", "--quiet", "-p", "rejoin-cli", "-p", "rejoin-bench-sync"]);
    let folder = if optimised { "release" } else { "debug" };
    proc::run(if optimised { build.arg("--release") } else { &mut build })?;
    let name = format!("rejoin-bench-sync{}", std::env::consts::EXE_SUFFIX);
    Ok(Command::new(proc::target_dir()?.join(folder).join(name)))
}
