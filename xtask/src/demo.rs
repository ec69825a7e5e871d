//! `cargo xtask demo`: the story of a server and three shops, told by the crate in `examples/demo`.

use crate::args::Args;
use crate::proc::{self, Result};
use std::process::Command;

const HELP: &str = "\
cargo xtask demo [--data CSV] [--check]

A sync server on a free port of this machine, and a room with a book catalogue in a temporary folder. Three shops clone
it, and sell, receive, re-price and delete books offline; one adds a column, they overlap on purpose, and the third has a
program that was tampered with. Then they sync: shown are the transactions, the conflicts, what the server rejected, and
what it answered to forged tokens, names and frames. Exits with 1 unless the room and all three replicas are equal in the
end.

  --data CSV   the catalogue to start from; without it one is generated
  --check      print little; for tests

Examples:
  cargo xtask demo
  cargo xtask demo --data books.csv
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let words = args.rest();
    // The demo runs in the workspace root; a relative path means the user's own directory.
    let mut resolved = Vec::with_capacity(words.len());
    let mut path_next = false;
    for word in words {
        resolved.push(match word.strip_prefix("--data=") {
            _ if path_next => absolute(&word)?,
            Some(path) => format!("--data={}", absolute(path)?),
            None => word.clone(),
        });
        path_next = word == "--data";
    }
    proc::run(command().args(resolved))
}

pub fn command() -> Command {
    let mut command = proc::cargo();
    command.args(["run", "--quiet", "--release", "-p", "rejoin-demo", "--"]);
    command
}

fn absolute(path: &str) -> Result<String> {
    let path = std::path::absolute(path).map_err(|e| format!("{path}: {e}"))?;
    Ok(path.to_string_lossy().into_owned())
}
