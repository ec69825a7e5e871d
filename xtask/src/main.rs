//! `cargo xtask`: everything a contributor runs, one file per subcommand.
//!
//! The tool has few dependencies on purpose (it is compiled before anything else happens) and knows nothing of the
//! engine: it starts cargo, the `sqlite3` shell, Python and Node, and adds up what they report.

mod args;
mod bench;
mod demo;
mod ext;
mod fuzz;
mod proc;
mod report;
mod sanitize;
mod setup;
mod sim;
mod sql;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

Commands:
  setup     check the tools that the tests need and install what is missing
  test      run every check and every test; the last line is `N passed, N failed`
  ext       build the loadable extension; its path is the last line of stdout
  sql       run the SQL tests alone (or rewrite their expectations with --bless)
  fuzz      run a fuzz target for some seconds
  sim       run the simulation of clients and a server, or one seed of it
  sanitize  run tests under AddressSanitizer or Miri
  bench     run a benchmark
  demo      a server and three shops: edit apart, sync, one is malicious
  tidy      check the rules of the house: dependencies, unsafe, licences, advisories

`cargo xtask COMMAND --help` shows options and examples.

Examples:
  cargo xtask test
  cargo xtask demo
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(command) = words.next() else {
        print!("{HELP}");
        return ExitCode::from(2);
    };
    let rest: Vec<String> = words.collect();
    let result = match command.as_str() {
        "setup" => setup::main(rest),
        "test" => test::main(rest),
        "ext" => ext::main(rest),
        "sql" => sql::main(rest),
        "fuzz" => fuzz::main(rest),
        "sim" => sim::main(rest),
        "bench" => bench::main(rest),
        "sanitize" => sanitize::main(rest),
        "demo" => demo::main(rest),
        "tidy" => tidy::main(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("there is no command `{other}`; `cargo xtask --help` lists them")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
