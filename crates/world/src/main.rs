//! Runs seeds of the simulation: `cargo xtask sim`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

struct Asked {
    from: u64,
    seeds: u64,
    threads: u64,
    /// The trace is printed whatever comes of it.
    trace: bool,
}

fn main() -> ExitCode {
    let mut asked = Asked { from: 0, seeds: 300, threads: 2, trace: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|n| n.parse::<u64>().ok());
        match (word.as_str(), number) {
            ("--seed", Some(n)) => (asked.from, asked.seeds, asked.trace) = (n, 1, true),
            ("--seeds", Some(n)) => asked.seeds = n,
            ("--from", Some(n)) => asked.from = n,
            ("--threads", Some(n)) => asked.threads = n.max(1),
            _ => {
                eprintln!("usage: rejoin-world [--seed S | --seeds N] [--from F] [--threads N]");
                return ExitCode::from(2);
            }
        }
    }
    if run(&asked) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many seeds failed.
fn run(asked: &Asked) -> u64 {
    let began = Instant::now();
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stats = Mutex::new(BTreeMap::<&str, u64>::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..asked.threads.min(asked.seeds) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= asked.seeds {
                        return;
                    }
                    let seed = asked.from + n;
                    let outcome = rejoin_world::run(seed);
                    if let Some(failure) = &outcome.failure {
                        stop.store(failed.fetch_add(1, Ordering::Relaxed) >= 20, Ordering::Relaxed);
                        tell(asked, seed, &outcome.trace, failure);
                    } else if asked.trace {
                        outcome.trace.iter().for_each(|line| println!("{line}"));
                    }
                    let mut all = stats.lock().expect("nobody panics with it");
                    outcome.stats.iter().for_each(|(what, n)| *all.entry(what).or_default() += n);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done % 50 == 0 {
                        eprintln!("{done} of {} seeds, {:.0} s", asked.seeds, began.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let (done, failed) = (done.into_inner(), failed.into_inner());
    let stats = stats.into_inner().unwrap_or_default();
    let list: Vec<_> = stats.iter().map(|(what, n)| format!("{n} {what}")).collect();
    println!("{}", list.join(", "));
    println!("{done} seeds, {failed} failed, {:.1} s", began.elapsed().as_secs_f64());
    failed
}

fn tell(asked: &Asked, seed: u64, trace: &[String], failure: &str) {
    let last = if asked.trace { trace.len() } else { 0 };
    let lines = trace.iter().skip(trace.len() - last).cloned().collect::<Vec<_>>().join("\n");
    println!("{lines}\nseed {seed} failed: {failure}\nrepeat with: cargo xtask sim --seed {seed}\n");
}
