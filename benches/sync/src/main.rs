//! `cargo xtask bench sync`: what sync costs, between the real server (`rejoin serve`, a process of its own, so that its CPU
//! and memory can be read apart) and real clients, over loopback.
//!
//! Where there is a baseline it is measured in the same run, in turn with what is held against it; medians count.
#![forbid(unsafe_code)]

mod catch_up;
mod clones;
mod fan_out;
mod idle;
mod lab;
mod latency;
mod light;
mod live;
mod options;
mod relay;
mod report;
mod server;
mod size;
mod usage;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> std::process::ExitCode {
    let done = options::Options::parse(std::env::args().skip(1)).and_then(|options| match options {
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
