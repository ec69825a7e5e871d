//! `cargo xtask bench engine`: what the engine costs, as a ratio to plain SQLite.
//!
//! Every scenario runs on plain SQLite and on each capture mode in turn, round after round, so that what else
//! the machine does meets them alike; the least CPU time of the rounds counts.
#![forbid(unsafe_code)]

mod cpu;
mod hot;
mod lab;
mod measure;
mod options;
mod report;
mod rows;
mod scenarios;
mod scenarios_big;
mod scenarios_merge;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> std::process::ExitCode {
    let done =
        options::Options::parse(std::env::args().skip(1).collect()).and_then(|options| match options {
            Some(options) => options.run(),
            None => Ok(true),
        });
    match done {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: {e}");
            std::process::ExitCode::from(2)
        }
    }
}
