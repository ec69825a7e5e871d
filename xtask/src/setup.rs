//! `cargo xtask setup`: the tools that the tests need.
//!
//! Every tool is probed by using it, not by its presence: a Python whose `sqlite3` cannot load extensions is no use.
//! Nothing is installed that is there already, so a second run takes about a second.

use crate::args::Args;
use crate::proc::{self, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HELP: &str = "\
cargo xtask setup

Checks the tools that the tests need and installs what is missing:
  rustfmt and clippy        rustup component add
  cargo-nextest             cargo install; without it the tests run under cargo test
  sqlite3 3.40+, python3 whose sqlite3 loads extensions, node 18+, a C compiler
                            apt-get, on Debian and as root; elsewhere a sentence says what to install
  valgrind                  the same, on Linux: it counts instructions
  curl                      the same, on Linux: first syncs are compared with it
  pytest                    into a virtual environment in the target directory

Examples:
  cargo xtask setup
";

/// What the other subcommands start.
pub struct Tools {
    pub nextest: bool,
    pub sqlite3: PathBuf,
    /// The interpreter of the virtual environment.
    pub python: PathBuf,
    pub node: PathBuf,
}

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    if let Some(word) = args.last()? {
        return Err(format!("unexpected `{word}`; see --help"));
    }
    let tools = run()?;
    println!("sqlite3  {}", tools.sqlite3.display());
    println!("python   {}", tools.python.display());
    println!("node     {}", tools.node.display());
    println!("nextest  {}", if tools.nextest { "yes" } else { "no, cargo test instead" });
    Ok(())
}

pub fn run() -> Result<Tools> {
    rust_components()?;
    system_packages()?;
    let sqlite3 = find_sqlite3().ok_or(NEED_SQLITE3)?;
    let node = find_node().ok_or(NEED_NODE)?;
    let python = venv(&find_python().ok_or(NEED_PYTHON)?)?;
    Ok(Tools { nextest: nextest(), sqlite3, python, node })
}

const NEED_SQLITE3: &str = "the tests need the sqlite3 shell, 3.40 or newer and able to load extensions; \
    install it (https://sqlite.org/download.html) and put it first on PATH";
const NEED_PYTHON: &str = "the tests need a python3 with venv whose sqlite3 module can load extensions (many pyenv \
    and macOS builds cannot); on Debian: apt-get install python3 python3-venv";
const NEED_NODE: &str = "the tests need node 18 or newer with npm; install it and put it on PATH";
const NEED_VALGRIND: &str =
    "counting instructions needs valgrind; on Debian: apt-get install valgrind, which runs on Linux";
const NEED_CURL: &str = "the sync benchmark needs curl; on Debian: apt-get install curl";
const NEED_CC: &str = "building SQLite needs a C compiler; on Debian: apt-get install build-essential";

fn rust_components() -> Result<()> {
    for (name, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if succeeds(proc::cargo().args([subcommand, "--version"])) {
            continue;
        }
        eprintln!("setup: adding {name}");
        proc::run_quiet_stdout(Command::new("rustup").args(["component", "add", name]))
            .map_err(|e| format!("{name} is missing and rustup cannot add it: {e}"))?;
    }
    Ok(())
}

/// Whether cargo-nextest is there, after one attempt to install it.
fn nextest() -> bool {
    let there = || succeeds(proc::cargo().args(["nextest", "--version"]));
    if there() {
        return true;
    }
    eprintln!("setup: installing cargo-nextest");
    let installed = proc::run_quiet_stdout(proc::cargo().args(["install", "cargo-nextest", "--locked"]));
    if let Err(e) = installed {
        eprintln!("setup: {e}; the tests run under cargo test instead");
    }
    there()
}

/// What is missing, installed in one call of apt-get, where there is one and we may use it.
fn system_packages() -> Result<()> {
    let mut missing: Vec<(&str, &str)> = Vec::new();
    if !succeeds(Command::new("cc").arg("--version")) {
        missing.push(("build-essential", NEED_CC));
    }
    if find_sqlite3().is_none() {
        missing.push(("sqlite3", NEED_SQLITE3));
    }
    if find_python().is_none() {
        missing.extend([("python3", NEED_PYTHON), ("python3-venv", NEED_PYTHON)]);
    }
    if find_node().is_none() {
        missing.extend([("nodejs", NEED_NODE), ("npm", NEED_NODE)]);
    }
    if cfg!(target_os = "linux") && !has_valgrind() {
        missing.push(("valgrind", NEED_VALGRIND));
    }
    if cfg!(target_os = "linux") && !has_curl() {
        missing.push(("curl", NEED_CURL));
    }
    install(&missing)
}

fn has_curl() -> bool {
    succeeds(Command::new("curl").arg("--version"))
}

/// Installs curl if it is not there.
pub fn curl() -> Result<()> {
    if has_curl() { Ok(()) } else { install(&[("curl", NEED_CURL)]) }
}

fn has_valgrind() -> bool {
    succeeds(Command::new("valgrind").arg("--version"))
}

/// Installs valgrind if it is not there.
pub fn valgrind() -> Result<()> {
    if has_valgrind() { Ok(()) } else { install(&[("valgrind", NEED_VALGRIND)]) }
}

/// Installs packages; the sentence of each says who needs it.
fn install(missing: &[(&str, &str)]) -> Result<()> {
    let Some((_, sentence)) = missing.first() else {
        return Ok(());
    };
    let root = proc::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || !succeeds(Command::new("apt-get").arg("--version")) {
        return Err((*sentence).to_owned());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    eprintln!("setup: apt-get install {}", names.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        proc::run_quiet_stdout(command.env("DEBIAN_FRONTEND", "noninteractive").args(args))
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(names);
    apt(&install)
}

pub fn find_sqlite3() -> Option<PathBuf> {
    on_path("sqlite3").into_iter().find(|program| {
        let mut command = Command::new(program);
        command.args(["-batch", "-init", "/dev/null", ":memory:"]);
        command.arg("SELECT sqlite_version(); PRAGMA compile_options;");
        proc::output(command.stdin(Stdio::null())).is_ok_and(|said| fit_sqlite(&said))
    })
}

/// Reads a version, then the compile options.
fn fit_sqlite(said: &str) -> bool {
    let version = said.lines().next().unwrap_or("");
    let mut parts = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version >= (3, 40) && !said.lines().any(|l| l == "OMIT_LOAD_EXTENSION")
}

const PYTHON_PROBE: &str = "\
import ensurepip, sqlite3, sys, venv
assert sys.version_info >= (3, 9) and sqlite3.sqlite_version_info >= (3, 40)
sqlite3.connect(':memory:').enable_load_extension(True)
";

fn find_python() -> Option<PathBuf> {
    let mut candidates = on_path("python3");
    for minor in (9..=16).rev() {
        candidates.extend(on_path(&format!("python3.{minor}")));
    }
    candidates.extend(on_path("python"));
    candidates.into_iter().find(|p| succeeds(Command::new(p).args(["-I", "-c", PYTHON_PROBE])))
}

fn find_node() -> Option<PathBuf> {
    let probe = "process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)";
    let node = on_path("node").into_iter().find(|p| succeeds(Command::new(p).args(["-e", probe])));
    node.filter(|_| !on_path("npm").is_empty())
}

/// The environment in the target directory, made anew when the requirements or the interpreter changed.
fn venv(base: &Path) -> Result<PathBuf> {
    let requirements = proc::root().join("tests/python/requirements.txt");
    let wanted =
        std::fs::read_to_string(&requirements).map_err(|e| format!("{}: {e}", requirements.display()))?;
    let wanted = format!("# {}\n{wanted}", base.display());
    let dir = proc::target_dir()?.join("venv");
    let python = dir.join("bin").join("python");
    let stamp = dir.join("rejoin-stamp.txt");
    let current = std::fs::read_to_string(&stamp).is_ok_and(|text| text == wanted);
    if current && succeeds(Command::new(&python).args(["-I", "-c", "import pytest"])) {
        return Ok(python);
    }
    eprintln!("setup: Python environment in {}", dir.display());
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    proc::run_quiet_stdout(Command::new(base).args(["-I", "-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    proc::run_quiet_stdout(&mut pip)?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("{}: {e}", stamp.display()))?;
    Ok(python)
}

/// Every program of that name on PATH, in order.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&path).map(|dir| dir.join(&name)).filter(|p| p.is_file()).collect()
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::fit_sqlite;

    #[test]
    fn old_and_locked_shells_are_unfit() {
        assert!(fit_sqlite("3.40.1\nENABLE_FTS5\n"));
        assert!(fit_sqlite("4.0.0\n"));
        assert!(!fit_sqlite("3.39.5\n"));
        assert!(!fit_sqlite("3.43.2\nOMIT_LOAD_EXTENSION\n"));
        assert!(!fit_sqlite(""));
    }
}
