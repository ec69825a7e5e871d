//! `cargo xtask sim`: the simulation of clients and a server (`crates/world`).

use crate::args::Args;
use crate::proc::{self, Captured, Result};
use std::process::Command;

const HELP: &str = "\
cargo xtask sim [--seed S | --seeds N] [--from F] [--threads N]

Clients and a server with real engines, sessions and files; network, clocks, people and all chance from a seed. The same
seed is the same run. What fails is said with the command that repeats it.

  --seed S      this one alone, with a line for everything that happens
  --seeds N     so many, 300 if not given
  --from F      the first of them, 0 if not given
  --threads N   so many at once, 2 if not given

Examples:
  cargo xtask sim
  cargo xtask sim --seed 41
  cargo xtask sim --seeds 10000 --from 300
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    proc::run(binary()?.args(args.rest()))
}

/// What the tests run.
pub fn seeds(seeds: u32) -> Result<Captured> {
    proc::tee(binary()?.args(["--seeds", &seeds.to_string()]))
}

fn binary() -> Result<Command> {
    let mut command = Command::new(proc::built("rejoin-world")?);
    command.current_dir(proc::root());
    Ok(command)
}
