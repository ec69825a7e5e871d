//! `cargo xtask sanitize`: tests under AddressSanitizer and under Miri. Both need the nightly compiler.

use crate::args::Args;
use crate::proc::{self, Result};
use std::process::Command;

const HELP: &str = "\
cargo xtask sanitize address|miri

  address   the tests of the FFI layer and of the engine with SQLite and Rust under AddressSanitizer, leaks included;
            needs a clang of the nightly compiler's LLVM
  miri      the unit tests of the crates without SQLite, interpreted: undefined behaviour in what they and the crates
            that they use do

Both need `rustup toolchain install nightly`; what else is missing is added by rustup. They take 10 to 20 minutes, so they
are no part of `cargo xtask test`.

Examples:
  cargo xtask sanitize address
  cargo xtask sanitize miri
";

/// Crates without SQLite.
const PURE: [&str; 3] = ["rejoin-crdt", "rejoin-wire", "rejoin-sync"];
/// The FFI layer forgets payloads of panics that it cannot read; one test throws such.
const SUPPRESSIONS: &str = "leak:panic_any\n";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    match args.last()?.as_deref() {
        Some("address") => address(),
        Some("miri") => miri(),
        Some(other) => Err(format!("there is no sanitizer `{other}`; see --help")),
        None => {
            print!("{HELP}");
            Ok(())
        }
    }
}

fn nightly() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(proc::root()).arg("+nightly").env_remove("RUSTC").env_remove("CARGO");
    command
}

fn component(name: &str) -> Result<()> {
    let mut add = Command::new("rustup");
    proc::run_quiet_stdout(add.args(["+nightly", "component", "add", name]))
        .map_err(|e| format!("{name} needs `rustup toolchain install nightly`: {e}"))
}

fn address() -> Result<()> {
    let said = proc::output(Command::new("rustc").args(["+nightly", "-vV"]))
        .map_err(|e| format!("AddressSanitizer needs `rustup toolchain install nightly`: {e}"))?;
    let field =
        |name: &str| said.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let (host, llvm) = (field("host:"), field("LLVM version:"));
    let clang = format!("clang-{}", llvm.split('.').next().unwrap_or_default());
    proc::output(Command::new(&clang).arg("--version"))
        .map_err(|e| format!("SQLite and Rust must be built for one sanitizer, that of {clang}: {e}"))?;
    let target = proc::target_dir()?.join("asan");
    std::fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
    let leaks = target.join("leaks.txt");
    std::fs::write(&leaks, SUPPRESSIONS).map_err(|e| format!("{}: {e}", leaks.display()))?;
    let mut command = nightly();
    command.args(["test", "-p", "rejoin-sqlite", "-p", "rejoin", "--lib", "--tests", "--no-fail-fast"]);
    command.arg("--target").arg(host).arg("--target-dir").arg(&target);
    command.env("CC", clang).env("CFLAGS", "-fsanitize=address -fno-omit-frame-pointer -g1");
    command.env("RUSTFLAGS", "-Zsanitizer=address -Cforce-frame-pointers=yes");
    command
        .env("ASAN_OPTIONS", "detect_leaks=1")
        .env("LSAN_OPTIONS", format!("suppressions={}", leaks.display()));
    // Random programs are many times slower here.
    command.env("REJOIN_CASES", "10").env("PROPTEST_CASES", "16");
    proc::run(&mut command)
}

fn miri() -> Result<()> {
    component("miri")?;
    component("rust-src")?;
    let mut command = nightly();
    command.args(["miri", "test", "--lib", "--no-fail-fast"]);
    command.args(PURE.iter().flat_map(|name| ["-p", name]));
    command.arg("--target-dir").arg(proc::target_dir()?.join("miri"));
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "2");
    proc::run(&mut command)
}
