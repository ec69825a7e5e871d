//! `cargo xtask fuzz`: the fuzz targets, two ways.
//!
//! The smoke is a plain binary of the crate in `fuzz/`, built by the stable compiler together with the tests: it
//! mutates a seed corpus deterministically for some seconds. `--coverage` runs the same functions under cargo-fuzz,
//! guided by coverage, which needs the nightly compiler; the glue for it lies in `fuzz/coverage`.

use crate::args::Args;
use crate::proc::{self, Result};
use std::process::Command;

const HELP: &str = "\
cargo xtask fuzz [TARGET] [--seconds N] [--seed N] [--input FILE] [--coverage]

Runs a fuzz target; without one, lists them. An input that fails is kept, and the command that repeats it printed.

  --seconds N    how long, 10 if not given
  --seed N       another deterministic run
  --input FILE   only this input
  --coverage     under cargo-fuzz, guided by coverage: needs `rustup toolchain install nightly` and
                 `cargo install cargo-fuzz`

Examples:
  cargo xtask fuzz
  cargo xtask fuzz key_codec --seconds 60
  cargo xtask fuzz apply_changeset --coverage --seconds 3600
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(mut args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let seconds = args.number("--seconds")?.unwrap_or(10);
    let seed = args.number("--seed")?;
    let input = args.value("--input")?;
    let coverage = args.flag("--coverage");
    let Some(target) = args.last()? else {
        targets()?.iter().for_each(|t| println!("{t}"));
        return Ok(());
    };
    if !targets()?.contains(&target) {
        return Err(format!("there is no target `{target}`; `cargo xtask fuzz` lists them"));
    }
    match input {
        Some(file) => {
            let file = std::path::absolute(&file).map_err(|e| format!("{file}: {e}"))?;
            proc::run(binary()?.arg(&target).arg("--input").arg(file))
        }
        None if coverage => guided(&target, seconds),
        None => smoke(&target, seconds, seed),
    }
}

/// The names that the crate knows.
pub fn targets() -> Result<Vec<String>> {
    let list = proc::output(binary()?.arg("--list"))?;
    Ok(list.lines().map(str::to_owned).collect())
}

pub fn smoke(target: &str, seconds: u32, seed: Option<u64>) -> Result<()> {
    let (seed, artifacts) = (seed.unwrap_or(1), proc::target_dir()?.join("fuzz"));
    let kept = artifacts.join(format!("{target}-{seed}.bin"));
    let mut command = bounded(&binary()?);
    command.args([target, "--seconds", &seconds.to_string(), "--seed", &seed.to_string()]);
    command.arg("--artifacts").arg(&artifacts);
    let result = proc::run(&mut command);
    // A process that died could not say it itself.
    if result.is_err() && kept.exists() {
        eprintln!("repeat with: cargo xtask fuzz {target} --input {}", kept.display());
    }
    result
}

/// The same program with at most 2 GB of memory, so that a length taken from the input on trust is a failure.
fn bounded(command: &Command) -> Command {
    if cfg!(not(unix)) {
        let mut same = Command::new(command.get_program());
        same.current_dir(proc::root());
        return same;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 2097152 && exec \"$0\" \"$@\""]).arg(command.get_program());
    shell.current_dir(proc::root());
    shell
}

fn binary() -> Result<Command> {
    let mut command = Command::new(proc::built("rejoin-fuzz")?);
    command.current_dir(proc::root());
    Ok(command)
}

fn guided(target: &str, seconds: u32) -> Result<()> {
    let there = proc::output(Command::new("cargo").args(["+nightly", "fuzz", "--version"]));
    there.map_err(|_| "coverage needs `rustup toolchain install nightly` and `cargo install cargo-fuzz`")?;
    // libFuzzer adds what it finds to the first folder; the checked-in inputs only feed it.
    let found = proc::target_dir()?.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&found).map_err(|e| format!("{}: {e}", found.display()))?;
    proc::run(binary()?.arg(target).arg("--write-seeds").arg(&found))?;
    let mut command = Command::new("cargo");
    command.current_dir(proc::root());
    command.args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz/coverage", target]).arg(&found);
    let kept = proc::root().join("fuzz/corpus").join(target);
    if kept.exists() {
        command.arg(kept);
    }
    command.args(["--", &format!("-max_total_time={seconds}")]);
    proc::run(&mut command)
}
