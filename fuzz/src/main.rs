//! `rejoin-fuzz`, started by `cargo xtask fuzz`.

use rejoin_fuzz::runner::{self, Options, Outcome};
use rejoin_fuzz::{TARGETS, Target, target};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "rejoin-fuzz --list | TARGET [--seconds N] [--seed N] [--artifacts DIR] | TARGET --input FILE | TARGET --write-seeds DIR";

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let name = words.next().ok_or(USAGE)?;
    if name == "--list" {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        return Ok(());
    }
    let target = target(&name).ok_or_else(|| format!("there is no target `{name}`"))?;
    let mut options = Options {
        seconds: 10,
        seed: 1,
        artifacts: std::env::temp_dir(),
        corpus: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")),
    };
    while let Some(option) = words.next() {
        let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{option} needs a number"));
        match option.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--artifacts" => options.artifacts = PathBuf::from(&value),
            "--input" => return one(target, Path::new(&value)),
            "--write-seeds" => return write_seeds(target, Path::new(&value)),
            _ => return Err(USAGE.to_owned()),
        }
    }
    match runner::run(target, &options).map_err(|e| e.to_string())? {
        Outcome::Passed { inputs } => {
            println!("{name}: {inputs} inputs in {} s", options.seconds);
            Ok(())
        }
        Outcome::Failed { input } => Err(format!("{name} failed; the input is in {}", input.display())),
    }
}

fn one(target: &Target, file: &Path) -> Result<(), String> {
    let input = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    (target.run)(&input);
    println!("{}: passed", target.name);
    Ok(())
}

fn write_seeds(target: &Target, dir: &Path) -> Result<(), String> {
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let file = dir.join(format!("seed-{number}"));
        std::fs::write(&file, seed).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}
