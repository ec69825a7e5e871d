//! The command line.

use crate::lab::Lab;
use crate::report::Report;
use crate::{Result, catch_up, clones, fan_out, idle, latency, relay, size};
use std::path::PathBuf;

const HELP: &str = "\
rejoin-bench-sync [OPTIONS]

  --quick          small sizes, whose times and ratios are not judged: that it all works
  --only NAME      this benchmark only; may be given again; --list names them
  --profile        samples the server during `relay` with perf, and prints where its time goes
  --rejoin FILE    the command whose `serve` is measured; without it, the one beside this program
  --list           names the benchmarks

Files are made in TMPDIR. Every commit waits for that disk three times on its way, so latencies are its own where
others use it.

Exits with 1 when a limit is missed, with 2 when something does not work.
";

type Bench = fn(&Lab, &mut Report) -> Result<()>;

const ALL: [(&str, &str, Bench); 7] = [
    ("clone", "a first sync from a snapshot / curl and sha256sum", clones::run),
    ("catch-up", "1,000,000 changes over the socket / the same changeset applied", catch_up::run),
    ("latency", "a commit until another replica has it", latency::run),
    ("fan-out", "990 clients and 10 replicas in a room, 20 commits a second", fan_out::run),
    ("idle", "memory for 10,000 idle sockets", idle::run),
    ("relay", "CPU of the server for a transaction", relay::run),
    ("size", "bytes on the wire for a changed cell", size::run),
];

pub struct Options {
    lab: Lab,
    only: Vec<String>,
}

impl Options {
    /// None: everything was done while reading.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let (mut quick, mut profile, mut only) = (false, false, Vec::new());
        let mut rejoin = std::env::current_exe()?.with_file_name("rejoin");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--help" | "-h" => {
                    print!("{HELP}");
                    return Ok(None);
                }
                "--list" => {
                    ALL.iter().for_each(|(name, text, _)| println!("{name:<10} {text}"));
                    return Ok(None);
                }
                "--quick" => quick = true,
                "--profile" => profile = true,
                "--only" => only.push(value()?),
                "--rejoin" => rejoin = PathBuf::from(value()?),
                other => return Err(format!("unknown option `{other}`; see --help").into()),
            }
        }
        if let Some(name) = only.iter().find(|n| !ALL.iter().any(|b| b.0 == n.as_str())) {
            return Err(format!("there is no benchmark `{name}`; see --list").into());
        }
        Ok(Some(Options { lab: Lab::new(rejoin, quick, profile)?, only }))
    }

    /// Whether every limit is kept.
    pub fn run(&self) -> Result<bool> {
        let mut report = Report::new(self.lab.quick);
        for (name, _, bench) in ALL {
            if self.only.is_empty() || self.only.iter().any(|n| n == name) {
                report.begin(name);
                bench(&self.lab, &mut report).map_err(|e| format!("{name}: {e}"))?;
            }
        }
        Ok(report.all_ok())
    }
}
