//! Starting other programs.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub type Result<T> = std::result::Result<T, String>;

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace")
}

/// The cargo that started us, so that a toolchain override holds for everything below.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo builds, whatever the user's settings say.
pub fn target_dir() -> Result<&'static Path> {
    static DIR: OnceLock<Result<PathBuf>> = OnceLock::new();
    let found = DIR.get_or_init(|| {
        let text = output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
        json["target_directory"]
            .as_str()
            .map(PathBuf::from)
            .ok_or_else(|| "cargo metadata names no target directory".to_owned())
    });
    found.as_deref().map_err(Clone::clone)
}

/// A program of this workspace. Built with the features of the whole, so that what the tests have compiled is not compiled again.
pub fn built(name: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--workspace", "--exclude", "rejoin-ext", "--bin", name]);
    run_quiet_stdout(&mut build)?;
    Ok(target_dir()?.join("debug").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// A scratch directory of this process under the target directory, empty at return.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let dir = target_dir()?.join("xtask").join(format!("{name}-{}", std::process::id()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs with our own stdin, stdout and stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|e| format!("{}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// Like `run`, for a program whose chatter must not reach our stdout.
pub fn run_quiet_stdout(command: &mut Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    if let Some(mut out) = child.stdout.take() {
        std::io::copy(&mut out, &mut std::io::stderr()).map_err(|e| e.to_string())?;
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// Stdout of a program that must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::piped()).output().map_err(|e| format!("{}: {e}", shown(command)))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{}: {}\n{}", shown(command), out.status, said.trim_end()))
}

/// What a program printed on both streams, and whether it succeeded.
pub struct Captured {
    pub ok: bool,
    pub text: String,
}

/// Runs a program, shows its output line by line as it comes, and keeps it.
pub fn tee(command: &mut Command) -> Result<Captured> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let err_text = std::thread::spawn(move || err.map(copy_lines).unwrap_or_default());
    let mut text = out.map(copy_lines).unwrap_or_default();
    text.push_str(&err_text.join().unwrap_or_default());
    let status = child.wait().map_err(|e| format!("{}: {e}", shown(command)))?;
    Ok(Captured { ok: status.success(), text })
}

fn copy_lines(stream: impl Read) -> String {
    let mut text = String::new();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        let shown = String::from_utf8_lossy(&line);
        // A closed terminal is no reason to stop the tests.
        let _ = std::io::stdout().write_all(shown.as_bytes());
        text.push_str(&shown);
        line.clear();
    }
    text
}
