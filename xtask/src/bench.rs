//! `cargo xtask bench`: the benchmarks, built with optimisation.

use crate::args::Args;
use crate::proc::{self, Result};

const HELP: &str = "\
cargo xtask bench engine [OPTIONS...]

Measures the engine against plain SQLite on the same rows in the same run. Everything after `engine` goes to the
benchmark itself; `cargo xtask bench engine -- --help` lists its options.

Examples:
  cargo xtask bench engine
  cargo xtask bench engine -- --help
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let mut words = args.rest().into_iter();
    match words.next().as_deref() {
        Some("engine") => {
            let rest = words.filter(|w| w != "--");
            let mut command = proc::cargo();
            command
                .args([
                    "run",
                    "--quiet",
                    "--release",
                    "-p",
                    "rejoin-bench",
                    "--",
                    "engine",
                ])
                .args(rest);
            proc::run(&mut command)
        }
        Some(other) => Err(format!(
            "there is no benchmark `{other}`; the one there is: engine"
        )),
        None => Err("say which benchmark: cargo xtask bench engine".to_owned()),
    }
}
