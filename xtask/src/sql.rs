//! SQL tests as data: `tests/sql/**/*.sql` through the real `sqlite3` shell, compared with `*.expected`.
//!
//! A case runs in a directory of its own that holds nothing but a link to the extension, so that it starts with
//! `.load ./rejoin` and can be repeated by hand. What the shell prints on stdout and stderr is compared after these
//! normalisations, which take out what differs between versions of the shell: `Parse error near line 3: x` and its
//! relatives become `error: x`, the error number at the end goes, and so does the excerpt of the statement below.
//!
//! The SQL in README.md and docs/*.md runs the same way: see `documents`.

mod documents;

use crate::args::Args;
use crate::proc::{self, Result};
use crate::report::Counts;
use crate::{ext, setup};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
cargo xtask sql [--bless] [FILTER]

Runs the SQL tests (tests/sql, and the SQL blocks of README.md and docs/*.md) through the sqlite3 shell with the
extension. FILTER takes the cases whose name contains it.

  --bless   rewrite the expectations of tests/sql by what came out; read the diff before you commit it

Examples:
  cargo xtask sql
  cargo xtask sql merge/
  cargo xtask sql --bless basic/reinsert
";

const CASE_TIMEOUT: Duration = Duration::from_secs(120);
const WORKERS: usize = 2;

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(mut args) = Args::new(words, HELP) else {
        return Ok(());
    };
    let bless = args.flag("--bless");
    let filter = args.last()?;
    let tools = setup::run()?;
    let counts = run(&tools.sqlite3, &ext::build()?, filter.as_deref(), bless)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed == 0 { Ok(()) } else { Err("SQL tests failed".to_owned()) }
}

/// One script and what it must print.
pub struct Case {
    pub name: String,
    pub script: String,
    /// `None` while a case has no expectation yet.
    pub expected: Option<String>,
    /// Where `--bless` writes; documents are corrected by hand.
    pub expected_file: Option<PathBuf>,
}

pub fn run(sqlite3: &Path, extension: &Path, filter: Option<&str>, bless: bool) -> Result<Counts> {
    let mut cases = files(&proc::root().join("tests/sql"))?;
    cases.extend(documents::cases(proc::root())?);
    cases.retain(|case| filter.is_none_or(|f| case.name.contains(f)));
    let shell = Shell { sqlite3, extension, scratch: proc::scratch("sql")? };
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = shell.check(case, bless);
                    outcomes.lock().expect("no panic holds it").push((&case.name, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic holds it");
    outcomes.sort_by_key(|(name, _)| name.as_str());
    let mut counts = Counts::default();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => counts.passed += 1,
            Err(message) => {
                counts.failed += 1;
                println!("FAIL sql {name}\n{message}");
            }
        }
    }
    if counts.failed == 0 {
        let _ = fs::remove_dir_all(&shell.scratch);
    }
    Ok(counts)
}

fn files(dir: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(folder) = pending.pop() {
        let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "sql") {
                cases.push(file_case(dir, &path)?);
            } else if path.extension().is_some_and(|e| e == "expected")
                && !path.with_extension("sql").exists()
            {
                return Err(format!("{} has no .sql beside it", path.display()));
            }
        }
    }
    Ok(cases)
}

fn file_case(dir: &Path, path: &Path) -> Result<Case> {
    let script = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let expected_file = path.with_extension("expected");
    let name = path.strip_prefix(dir).unwrap_or(path).with_extension("");
    Ok(Case {
        name: name.to_string_lossy().replace('\\', "/"),
        script,
        expected: fs::read_to_string(&expected_file).ok(),
        expected_file: Some(expected_file),
    })
}

struct Shell<'a> {
    sqlite3: &'a Path,
    extension: &'a Path,
    scratch: PathBuf,
}

impl Shell<'_> {
    fn check(&self, case: &Case, bless: bool) -> Result<()> {
        let dir = self.scratch.join(case.name.replace(['/', ' '], "_"));
        let raw = self.run(case, &dir)?;
        let got = normalise(&raw);
        if case.expected.as_deref() == Some(got.as_str()) {
            return fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()));
        }
        match (&case.expected_file, &case.expected) {
            (Some(file), _) if bless => {
                fs::write(file, &got).map_err(|e| format!("{}: {e}", file.display()))?;
                println!("blessed {}", case.name);
                Ok(())
            }
            (_, Some(expected)) => Err(format!("{}in {}\n", diff(expected, &got), dir.display())),
            (_, None) => Err(format!("no expectation; cargo xtask sql --bless {}\n{got}", case.name)),
        }
    }

    /// What the shell prints, both streams in order.
    fn run(&self, case: &Case, dir: &Path) -> Result<String> {
        let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(fail)?;
        let library = dir.join(format!("rejoin.{}", std::env::consts::DLL_EXTENSION));
        link(self.extension, &library).map_err(fail)?;
        let script = dir.join("case.txt");
        fs::write(&script, &case.script).map_err(fail)?;
        let mut output = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(dir.join("output.txt"))
            .map_err(fail)?;
        let mut child = Command::new(self.sqlite3)
            .args(["-batch", "-init", "/dev/null", ":memory:"])
            .current_dir(dir)
            .env("HOME", dir)
            .env("TZ", "UTC")
            .stdin(File::open(&script).map_err(fail)?)
            .stdout(Stdio::from(output.try_clone().map_err(fail)?))
            .stderr(Stdio::from(output.try_clone().map_err(fail)?))
            .spawn()
            .map_err(|e| format!("{}: {e}", self.sqlite3.display()))?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(fail)? {
                break status;
            }
            if started.elapsed() > CASE_TIMEOUT {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end after {} s", CASE_TIMEOUT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = Vec::new();
        output.rewind().and_then(|()| output.read_to_end(&mut text)).map_err(fail)?;
        let mut text = String::from_utf8_lossy(&text).into_owned();
        // The shell's exit code only says that some statement failed, which is often the point of a case.
        if status.code().is_none() {
            text.push_str(&format!("the shell died: {status}\n"));
        }
        Ok(text)
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to).map(|_| ())
}

fn normalise(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut after_error = false;
    for line in text.lines() {
        // The excerpt: the statement, indented, and an arrow below it.
        if after_error && line.trim_start().starts_with("^---") {
            lines.pop();
            continue;
        }
        let error = error_message(line);
        after_error = error.is_some() || (after_error && line.starts_with("  "));
        lines.push(error.unwrap_or_else(|| line.trim_end().to_owned()));
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn error_message(line: &str) -> Option<String> {
    let kinds = ["Parse error", "Runtime error", "Error"];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    let rest = match rest.strip_prefix(" near line ").or_else(|| rest.strip_prefix(": near line ")) {
        Some(numbered) => numbered.split_once(':')?.1,
        None => rest.strip_prefix(':')?,
    };
    let message = rest.trim();
    let message = match message.rsplit_once(" (") {
        Some((text, number)) if number.trim_end_matches(')').parse::<u32>().is_ok() => text,
        _ => message,
    };
    Some(format!("error: {message}"))
}

/// The lines that differ, with two lines of context, by longest common subsequence.
fn diff(expected: &str, got: &str) -> String {
    let a: Vec<&str> = expected.lines().collect();
    let b: Vec<&str> = got.lines().collect();
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        let window = lines.iter().skip(at.saturating_sub(2)).take(5.min(at + 3));
        window.into_iter().any(|(mark, _)| *mark != ' ')
    };
    let mut text = String::from("--- expected, +++ got\n");
    for (at, (mark, line)) in lines.iter().enumerate() {
        if near(at) {
            text.push_str(&format!("{mark}{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_the_same_in_every_shell() {
        let old = "1\nError: near line 4: no such table: nope\n";
        let new = "1\nParse error near line 4: no such table: nope\n  select * from nope;\n                ^--- error here\n";
        assert_eq!(normalise(old), "1\nerror: no such table: nope\n");
        assert_eq!(normalise(new), normalise(old));
        let runtime = "Runtime error near line 13: CHECK constraint failed: a>0 (19)\n2\n";
        assert_eq!(normalise(runtime), "error: CHECK constraint failed: a>0\n2\n");
        assert_eq!(normalise("Error: unknown command\n"), "error: unknown command\n");
        assert_eq!(normalise("Errors are data too\n"), "Errors are data too\n");
    }

    #[test]
    fn a_difference_is_shown_with_its_surroundings() {
        let text = diff("1\n2\n3\n4\n5\n6\n7\n", "1\n2\n3\n4\nfive\n6\n7\n");
        assert_eq!(text, "--- expected, +++ got\n 3\n 4\n-5\n+five\n 6\n 7\n");
    }

    #[test]
    fn a_wrong_expectation_fails() {
        let sqlite3 = crate::setup::find_sqlite3().expect("the tests need the sqlite3 shell");
        let scratch = crate::proc::scratch("sql-self-test").expect("scratch");
        let shell = Shell { sqlite3: &sqlite3, extension: Path::new("none"), scratch: scratch.clone() };
        let case = |expected: &str| Case {
            name: "self".to_owned(),
            script: "SELECT 1;\nSELECT x;\n".to_owned(),
            expected: Some(expected.to_owned()),
            expected_file: None,
        };
        assert_eq!(shell.check(&case("1\nerror: no such column: x\n"), false), Ok(()));
        assert!(shell.check(&case("2\nerror: no such column: x\n"), false).is_err());
        assert!(shell.check(&case("1\n"), false).is_err());
        fs::remove_dir_all(scratch).expect("scratch goes");
    }
}
