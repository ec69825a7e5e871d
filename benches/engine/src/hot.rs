//! Instruction counts of the hot paths: the same in every run of one build, so that a regression shows at once,
//! on a loaded machine too. `budgets.txt` holds them; a tenth more is a failure.

use crate::Result;
use crate::lab::{Lab, Side, has_function};
use crate::measure::{ALL, Scenario};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many rows: enough that what is done once does not count.
const ROWS: usize = 2_000;
const SLACK: f64 = 1.10;

const PATHS: [&str; 10] = [
    "insert",
    "insert-commits",
    "update",
    "delete",
    "read-changes",
    "read-changeset",
    "merge",
    "merge-changeset",
    "merge-newer",
    "merge-newer-changeset",
];

fn scenario(name: &str) -> Result<&'static Scenario> {
    let found = ALL.iter().find(|s| s.name == name);
    found.ok_or_else(|| format!("there is no scenario `{name}`").into())
}

fn sides() -> [Side; 2] {
    [Side::Shared, Side::Owned]
}

/// Runs one path, `insert/int/shared` say: what callgrind counts.
pub fn run(path: &str) -> Result<()> {
    let mut words = path.split('/');
    let mut word = || words.next().unwrap_or("");
    let (name, key, side) = (word(), word(), word());
    let side = sides().into_iter().find(|s| s.name() == side).unwrap_or(Side::Plain);
    let rows = word().parse().unwrap_or(ROWS);
    let lab = Lab::new(key == "uuid", false, rows)?;
    println!("{:.3} ms", (scenario(name)?.run)(&lab, side)?);
    Ok(())
}

fn budgets_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("budgets.txt")
}

fn read_budgets() -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(budgets_file())?;
    let mut budgets = BTreeMap::new();
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let (path, count) = line.split_once(' ').ok_or_else(|| format!("budgets.txt: {line}"))?;
        budgets.insert(path.to_owned(), count.trim().parse()?);
    }
    Ok(budgets)
}

/// The instructions of the measured part.
fn count(path: &str) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*rejoin_bench::cpu::measured*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["--hot", path])
        .output()
        .map_err(|e| format!("valgrind does not start ({e}); it is in the package `valgrind`"))?;
    if !done.status.success() {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    let text = std::fs::read_to_string(out)?;
    let total = text.lines().find_map(|l| l.strip_prefix("totals: ").or_else(|| l.strip_prefix("summary: ")));
    let total = total.ok_or_else(|| format!("{path}: callgrind tells no total"))?;
    Ok(total.trim().parse()?)
}

/// The paths that this build of the engine can run.
fn paths() -> Result<Vec<String>> {
    let lab = Lab::new(false, false, ROWS)?;
    let db = lab.open(Side::Shared, &lab.path())?;
    let owned = lab.empty(Side::Owned).is_ok();
    let mut all = Vec::new();
    for name in PATHS {
        let there = scenario(name)?.needs.map_or(Ok(true), |f| has_function(&db, f))?;
        for side in sides().into_iter().filter(|s| there && (*s == Side::Shared || owned)) {
            for key in ["int", "uuid"] {
                all.push(format!("{name}/{key}/{}", side.name()));
            }
        }
    }
    Ok(all)
}

/// The counts of all paths; as many run at a time as there are processors, which does not change them.
fn counts(paths: &[String]) -> Result<BTreeMap<String, u64>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            mine.push((path.clone(), count(path).map_err(|e| e.to_string())?));
        }
        Ok::<_, String>(mine)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let done: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        all.into_iter().map(|w| w.join().unwrap_or_else(|_| Err("a worker panicked".into()))).collect()
    });
    let mut counts = BTreeMap::new();
    for mine in done {
        counts.extend(mine?);
    }
    Ok(counts)
}

/// Compares the counts with the budgets, or writes them as such.
pub fn check(bless: bool) -> Result<()> {
    let budgets = if bless { BTreeMap::new() } else { read_budgets()? };
    let counts = counts(&paths()?)?;
    let mut over = Vec::new();
    for (path, &now) in &counts {
        let budget = budgets.get(path).copied();
        let ratio = budget.map_or(1.0, |b| now as f64 / b as f64);
        let per_row = now / ROWS as u64;
        println!("{path:<36} {now:>12} {per_row:>7} a row  {:>+6.1} %", (ratio - 1.0) * 100.0);
        if ratio > SLACK || (budget.is_none() && !bless) {
            over.push(path.clone());
        }
    }
    if bless {
        let mut text = format!(
            "# Instructions of the hot paths over {ROWS} rows; `cargo xtask bench --bless` writes them.\n",
        );
        for (path, count) in &counts {
            text += &format!("{path} {count}\n");
        }
        return Ok(std::fs::write(budgets_file(), text)?);
    }
    if over.is_empty() {
        return Ok(());
    }
    Err(format!("over the budget by more than a tenth, or without one: {}", over.join(", ")).into())
}
