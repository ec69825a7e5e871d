//! `cargo xtask bench`: the benchmarks, built with optimisation.

use crate::args::Args;
use crate::proc::{self, Result};
use crate::setup;
use std::process::Command;

const HELP: &str = "\
cargo xtask bench engine [OPTIONS...]

Measures the engine against plain SQLite on the same rows in the same run. Everything after `engine` goes to the
benchmark itself; `cargo xtask bench engine -- --help` lists its options.

cargo xtask bench --check | --bless

Counts the instructions of the hot paths under valgrind and compares them with benches/engine/budgets.txt (a tenth
more is a failure), or writes them there.

Examples:
  cargo xtask bench engine
  cargo xtask bench engine -- --help
  cargo xtask bench engine --quick --only insert
  cargo xtask bench --check
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let mut words = args.rest().into_iter().filter(|w| w != "--");
    match words.next().as_deref() {
        Some("engine") => engine(words.collect()),
        Some(word @ ("--check" | "--bless")) => {
            setup::valgrind()?;
            engine(vec![word.to_owned()])
        }
        Some(other) => Err(format!("there is no benchmark `{other}`; the one there is: engine")),
        None => Err("say which benchmark: cargo xtask bench engine".to_owned()),
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
