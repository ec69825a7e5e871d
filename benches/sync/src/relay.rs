//! CPU time for a transaction that one replica sends and another one gets, each on its own.

use crate::Result;
use crate::lab::{Lab, insert_articles};
use crate::live::{Commits, paced, two, until};
use crate::report::{Report, median};
use crate::server::{Server, signal};
use crate::usage::{own_cpu, spent};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A client may send 500 frames a second, and a transaction takes two.
const EVERY: Duration = Duration::from_millis(5);

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let server = Server::start(lab, "relay")?;
    let commits = Arc::new(Commits::default());
    let names = ["relay-a.db", "relay-b.db"].map(str::to_owned);
    drop(lab.with_table(&names[0])?);
    let [a, b] = two(lab, &names, &server, "shop", &commits)?;
    let count = lab.sized(4000, 50);
    let profile =
        if lab.profile { Some(Profile::start(server.pid(), lab.path("relay.perf"))?) } else { None };
    let (before, own) = (server.cpu()?, own_cpu());
    paced(count, EVERY, |n| a.commit(&commits, n + 1))?;
    until("all commits in the other replica", || Ok(b.arrived() >= count as usize))?;
    let (cpu, own) = (server.cpu()? - before, own_cpu() - own);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count as f64;
    report.note(&format!("server CPU for each of {count} relayed transactions"), each(cpu), "us");
    report.note("CPU of its writer and of both clients", each(own), "us");
    // What a replica takes for the same row when nobody syncs.
    let alone = lab.with_table("relay-alone.db")?;
    let mut each_alone = Vec::new();
    // At the same distances: in a loop it finds everything in the processor's caches.
    paced(lab.sized(1000, 50), EVERY, |n| {
        each_alone.push(spent(|| insert_articles(&alone, n..=n, 1))?.0.cpu_ms * 1e3);
        Ok(())
    })?;
    report.note("a row's commit in a replica that nobody syncs, CPU", median(&mut each_alone), "us");
    match profile {
        Some(profile) => profile.print(),
        None => Ok(()),
    }
}

/// `perf record` on a process.
struct Profile {
    perf: Child,
    file: PathBuf,
}

impl Profile {
    fn start(pid: u32, file: PathBuf) -> Result<Profile> {
        let perf = Command::new("perf")
            .args(["record", "--quiet", "-F", "4999", "-p", &pid.to_string(), "-o"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("perf: {e}"))?;
        Ok(Profile { perf, file })
    }

    fn print(mut self) -> Result<()> {
        signal(&self.perf, Signal::INT)?;
        self.perf.wait()?;
        for sort in ["comm", "dso", "sym"] {
            print!("{}", entries(&self.file, sort)?);
        }
        Ok(())
    }
}

/// The largest entries of a profile.
fn entries(file: &Path, sort: &str) -> Result<String> {
    let mut perf = Command::new("perf");
    let out = perf
        .args(["report", "--stdio", "--percent-limit", "0.5", "--sort", sort, "-i"])
        .arg(file)
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).take(40);
    Ok(lines.map(|l| format!("{}\n", l.trim_end())).collect())
}
