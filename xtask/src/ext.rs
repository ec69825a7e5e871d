//! `cargo xtask ext`: the loadable extension.
//!
//! It is built alone, never with the workspace: cargo would unify its `loadable_extension` feature into programs that
//! bring their own SQLite, and those panic at their first open.

use crate::args::Args;
use crate::proc::{self, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const HELP: &str = "\
cargo xtask ext

Builds the loadable extension (release) and prints its path, alone on the last line of stdout. The file is named
`rejoin.so` (`.dylib`, `.dll`), from which SQLite derives the entry point by itself.

Examples:
  cargo xtask ext
  sqlite3 books.db -cmd \".load $(cargo xtask ext | tail -1)\"
";

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    if let Some(word) = args.last()? {
        return Err(format!("unexpected `{word}`; see --help"));
    }
    println!("{}", build()?.display());
    Ok(())
}

pub fn build() -> Result<PathBuf> {
    let mut command = proc::cargo();
    command.args(["build", "--release", "-p", "rejoin-ext", "--message-format=json-render-diagnostics"]);
    let out =
        command.stderr(Stdio::inherit()).output().map_err(|e| format!("{}: {e}", proc::shown(&command)))?;
    if !out.status.success() {
        return Err("the extension does not build".to_owned());
    }
    let built =
        artifact(&String::from_utf8_lossy(&out.stdout)).ok_or("cargo reported no library for rejoin-ext")?;
    install(&built)
}

/// The path of the cdylib in cargo's JSON messages.
fn artifact(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let library = messages.filter(|m| {
        m["reason"] == "compiler-artifact"
            && m["target"]["name"] == "rejoin"
            && m["target"]["kind"].as_array().is_some_and(|k| k.iter().any(|k| k == "cdylib"))
    });
    let names: Vec<serde_json::Value> =
        library.filter_map(|m| m["filenames"].as_array().cloned()).flatten().collect();
    let wanted =
        |path: &&str| Path::new(path).extension().is_some_and(|e| e == std::env::consts::DLL_EXTENSION);
    names.iter().filter_map(|n| n.as_str()).find(wanted).map(PathBuf::from)
}

/// Copies to `target/ext/rejoin.so`, by rename: a process that has the old file loaded keeps it.
fn install(built: &Path) -> Result<PathBuf> {
    let dir = proc::target_dir()?.join("ext");
    let place = dir.join(format!("rejoin.{}", std::env::consts::DLL_EXTENSION));
    let fail = |e: std::io::Error| format!("{}: {e}", place.display());
    std::fs::create_dir_all(&dir).map_err(fail)?;
    let new = dir.join(format!("rejoin.new.{}", std::process::id()));
    std::fs::copy(built, &new).map_err(fail)?;
    std::fs::rename(&new, &place).map_err(fail)?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::artifact;
    use std::path::PathBuf;

    #[test]
    fn the_library_is_found_among_the_messages() {
        let so = format!("/t/librejoin.{}", std::env::consts::DLL_EXTENSION);
        let text = format!(
            "{{\"reason\":\"compiler-artifact\",\"target\":{{\"name\":\"rejoin\",\"kind\":[\"lib\"]}},\"filenames\":[\"/t/librejoin.rlib\"]}}\n\
             {{\"reason\":\"compiler-artifact\",\"target\":{{\"name\":\"rejoin\",\"kind\":[\"cdylib\"]}},\"filenames\":[\"{so}\"]}}\n\
             {{\"reason\":\"build-finished\"}}"
        );
        assert_eq!(artifact(&text), Some(PathBuf::from(so)));
        assert_eq!(artifact("{\"reason\":\"build-finished\"}"), None);
    }
}
