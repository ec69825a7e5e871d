//! `cargo xtask test`: everything that must hold before a change is merged, in one table.

use crate::args::Args;
use crate::proc::{self, Captured, Result};
use crate::report::{self, Counts, Report, Step};
use crate::setup::Tools;
use crate::{bench, demo, ext, fuzz, setup, sim, sql, tidy};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const HELP: &str = "\
cargo xtask test [--long] [FILTER]

Format, lints, the rules of the house, Rust tests, documented examples, the extension, SQL tests, Python tests, interop
tests, short runs of the fuzz targets, the simulation, instruction counts and a small run of the sync benchmark (both on Linux), and the
demo. Prints the time of every step; the last line is `N passed, N failed`.

  --long    also the tests that take minutes: ignored tests, more random cases, ten minutes a fuzz target
  FILTER    only tests whose name contains it, without format, lints, rules, counts and demo

Examples:
  cargo xtask test
  cargo xtask test savepoint
  cargo xtask test --long
";

const FUZZ_SECONDS: u32 = 10;
const FUZZ_SECONDS_LONG: u32 = 600;
/// Of the simulation.
const SEEDS: u32 = 300;
const SEEDS_LONG: u32 = 10_000;

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(mut args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let long = args.flag("--long");
    let filter = args.last()?;
    let mut run = Run { long, filter, report: Report::default() };
    let result = run.all();
    print!("\n{}", run.report.table());
    result?;
    let total = run.report.total();
    if total.passed + total.failed == 0 {
        return Err("no test has that in its name".to_owned());
    }
    if total.failed > 0 { Err("not everything passed".to_owned()) } else { Ok(()) }
}

struct Run {
    long: bool,
    filter: Option<String>,
    report: Report,
}

impl Run {
    fn all(&mut self) -> Result<()> {
        let tools = self.needed("setup", setup::run)?;
        if self.filter.is_none() {
            self.checks();
        }
        self.rust(&tools);
        // Without the extension there is nothing to say about the suites that load it.
        if let Ok(extension) = self.needed("extension", ext::build) {
            self.sql(&tools, &extension);
            self.python(&tools, &extension);
            self.interop(&tools, &extension);
        }
        self.fuzz();
        if self.filter.is_none() {
            let seeds = if self.long { SEEDS_LONG } else { SEEDS };
            self.step(&format!("simulation, {seeds} seeds"), || Ok(check(&sim::seeds(seeds)?)));
            // Where valgrind and /proc are.
            if cfg!(target_os = "linux") {
                self.step("instruction counts", || Ok(check(&proc::tee(bench::command().arg("--check"))?)));
                // That it works; times are not judged, so it is not optimised.
                self.step("sync benchmark, small", || {
                    Ok(check(&proc::tee(bench::sync_command(false)?.arg("--quick"))?))
                });
            }
            self.step("demo", || Ok(check(&proc::tee(demo::command().arg("--check"))?)));
        }
        Ok(())
    }

    fn checks(&mut self) {
        self.step("format", || Ok(check(&proc::tee(proc::cargo().args(["fmt", "--all", "--check"]))?)));
        let lint = |scope: &[&str]| {
            let mut command = proc::cargo();
            command.args(["clippy", "--quiet", "--all-targets"]).args(scope).args(["--", "-D", "warnings"]);
            Ok(check(&proc::tee(&mut command)?))
        };
        self.step("lints", || lint(&HOSTS));
        self.step("lints, extension", || lint(&["-p", "rejoin-ext"]));
        self.step("tidy", || {
            let findings = tidy::run()?;
            findings.iter().for_each(|f| println!("{f}"));
            Ok(Counts::check(findings.is_empty()))
        });
    }

    fn rust(&mut self, tools: &Tools) {
        let filter: Vec<String> = self.filter.iter().cloned().collect();
        let long = self.long;
        if tools.nextest {
            self.step("Rust tests", || {
                let mut command = proc::cargo();
                command.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"]).args(HOSTS);
                let ignored: &[&str] = if long { &["--run-ignored", "all"] } else { &[] };
                let out = proc::tee(prepare(command.args(ignored).args(&filter), long))?;
                Ok(report::nextest(&out.text).with_exit(out.ok))
            });
        } else {
            self.step("Rust tests", || {
                let mut command = proc::cargo();
                command.args(["test", "--no-fail-fast", "--all-targets"]).args(HOSTS).arg("--").args(&filter);
                let ignored: &[&str] = if long { &["--include-ignored"] } else { &[] };
                let out = proc::tee(prepare(command.args(ignored), long))?;
                Ok(report::cargo_test(&out.text).with_exit(out.ok))
            });
        }
        self.step("documented examples", || {
            let mut command = proc::cargo();
            command.args(["test", "--doc", "--no-fail-fast"]).args(HOSTS).arg("--").args(&filter);
            let out = proc::tee(&mut command)?;
            Ok(report::cargo_test(&out.text).with_exit(out.ok))
        });
    }

    fn sql(&mut self, tools: &Tools, extension: &Path) {
        let filter = self.filter.clone();
        self.step("SQL tests", || sql::run(&tools.sqlite3, extension, filter.as_deref(), false));
    }

    fn python(&mut self, tools: &Tools, extension: &Path) {
        let (filter, long) = (self.filter.clone(), self.long);
        // Whatever pytest collects there; the expectations of other engines are compared by it, too.
        for (name, folder) in [("Python tests", "python"), ("interop tests", "interop")] {
            let tests = match tests_in(folder, |n| n.starts_with("test_") && n.ends_with(".py")) {
                Ok(tests) if tests.is_empty() => continue,
                Ok(tests) => tests,
                Err(e) => return self.step(name, || Err(e)),
            };
            self.step(name, || {
                let server = proc::built("rejoin")?;
                let mut command = Command::new(&tools.python);
                command.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]).args(tests);
                command.current_dir(proc::root()).env("PYTHONDONTWRITEBYTECODE", "1");
                command.env("REJOIN_EXTENSION", extension).env("REJOIN_SQLITE3", &tools.sqlite3);
                command.env("REJOIN_COMMAND", server);
                if let Some(filter) = &filter {
                    command.args(["-k", filter]);
                }
                let out = proc::tee(prepare(&mut command, long))?;
                let counts = report::pytest(&out.text);
                // pytest fails when the filter takes no test.
                let none = filter.is_some() && counts == Counts::default();
                Ok(counts.with_exit(out.ok || (none && out.text.contains("deselected"))))
            });
        }
    }

    fn interop(&mut self, tools: &Tools, extension: &Path) {
        let is_test = |n: &str| n.ends_with(".test.mjs") || n.ends_with(".test.js");
        let tests = match tests_in("interop", is_test) {
            Ok(tests) if !tests.is_empty() => tests,
            Ok(_) => return,
            Err(e) => return self.step("interop tests, node", || Err(e)),
        };
        let (filter, long) = (self.filter.clone(), self.long);
        self.step("interop tests, node", || {
            let dir = proc::root().join("tests/interop");
            if dir.join("package-lock.json").exists() && !dir.join("node_modules").exists() {
                let mut npm = Command::new("npm");
                proc::run_quiet_stdout(npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir))?;
            }
            let mut command = Command::new(&tools.node);
            command.args(["--test", "--test-reporter=tap"]).current_dir(&dir);
            if let Some(filter) = &filter {
                command.arg(format!("--test-name-pattern={filter}"));
            }
            command.args(&tests).env("REJOIN_EXTENSION", extension);
            command.env("REJOIN_SQLITE3", &tools.sqlite3).env("REJOIN_PYTHON", &tools.python);
            let out = proc::tee(prepare(&mut command, long))?;
            Ok(report::node_tap(&out.text).with_exit(out.ok))
        });
    }

    fn fuzz(&mut self) {
        let seconds = if self.long { FUZZ_SECONDS_LONG } else { FUZZ_SECONDS };
        let targets = match fuzz::targets() {
            Ok(targets) => targets,
            Err(e) => return self.step("fuzz targets", || Err(e)),
        };
        for target in targets {
            if self.filter.as_ref().is_some_and(|f| !target.contains(f.as_str())) {
                continue;
            }
            let name = format!("fuzz {target}, {seconds} s");
            self.step(&name, || Ok(Counts::check(fuzz::smoke(&target, seconds, None).is_ok())));
        }
    }

    /// A step that counts; an error is one failure.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Counts>) {
        println!("\n== {name}");
        let started = Instant::now();
        let counts = work().unwrap_or_else(|e| {
            println!("{name}: {e}");
            Counts::check(false)
        });
        self.report.steps.push(Step { name: name.to_owned(), time: started.elapsed(), counts });
    }

    /// A step that others build upon: not a test, but a failure when it fails.
    fn needed<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut made = Err(String::new());
        self.step(name, || {
            made = work();
            made.as_ref().map(|_| Counts::default()).map_err(Clone::clone)
        });
        made
    }
}

/// All crates but the extension, whose `loadable_extension` feature must not reach programs with their own SQLite.
const HOSTS: [&str; 3] = ["--workspace", "--exclude", "rejoin-ext"];

fn check(out: &Captured) -> Counts {
    Counts::check(out.ok)
}

fn prepare(command: &mut Command, long: bool) -> &mut Command {
    if long {
        command.env("REJOIN_LONG", "1");
        if std::env::var_os("PROPTEST_CASES").is_none() {
            command.env("PROPTEST_CASES", "5000");
        }
    }
    command
}

/// The files of that folder in `tests` whose name says that they are tests.
fn tests_in(folder: &str, is_test: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let dir = proc::root().join("tests").join(folder);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let names = entries.filter_map(|e| e.ok()).map(|e| e.file_name());
    let tests = names.filter(|n| is_test(&n.to_string_lossy())).map(|n| dir.join(n));
    let mut tests: Vec<PathBuf> = tests.collect();
    tests.sort();
    Ok(tests)
}
