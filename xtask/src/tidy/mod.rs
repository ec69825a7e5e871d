//! `cargo xtask tidy`: the rules of the house that no compiler checks.

mod advisories;
mod code;
mod edges;
mod licences;
mod sources;

use crate::args::Args;
use crate::proc::{self, Result};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

const HELP: &str = "\
cargo xtask tidy

Checks, without network: which crate may depend on which; unsafe code outside its rooms; files over 800 lines; source
that is not ASCII; unfinished marks; paths of somebody's machine and registries in tracked files; licences of the
workspace and of its dependencies; dependencies with a known advisory (advisories.toml).

Examples:
  cargo xtask tidy
";

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// File and line, or package.
    pub place: String,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

pub fn main(words: Vec<String>) -> Result<()> {
    let Some(args) = Args::new(words, HELP) else {
        return Ok(());
    };
    if let Some(word) = args.last()? {
        return Err(format!("unexpected `{word}`; see --help"));
    }
    let findings = run()?;
    findings.iter().for_each(|f| println!("{f}"));
    match findings.len() {
        0 => Ok(()),
        n => Err(format!("{n} broken rules")),
    }
}

pub fn run() -> Result<Vec<Finding>> {
    let root = proc::root();
    let metadata = proc::output(proc::cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = packages(&metadata);
    let mut findings = edges::check(&packages);
    findings.extend(licences::check(&packages));
    let list = root.join("advisories.toml");
    let list = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    findings.extend(advisories::check(&advisories::read(&list)?, &packages));
    for path in tracked(root)? {
        // A deleted file stays listed until the deletion is committed; binary files have no source rules.
        let Ok(bytes) = std::fs::read(root.join(&path)) else {
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        findings.extend(sources::check(&path.to_string_lossy().replace('\\', "/"), &text));
    }
    Ok(findings)
}

/// What the rules need to know of a package.
#[derive(Debug, Clone, Default)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub ours: bool,
    pub licence: Option<String>,
    pub licence_file: bool,
    /// Name, and whether only tests and build scripts of the package see it.
    pub dependencies: Vec<(String, bool)>,
}

fn packages(metadata: &Value) -> Vec<Package> {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let members = list(&metadata["workspace_members"]);
    let package = |p: &Value| Package {
        name: text(&p["name"]),
        version: text(&p["version"]),
        ours: members.contains(&p["id"]),
        licence: p["license"].as_str().map(str::to_owned),
        licence_file: !p["license_file"].is_null(),
        dependencies: list(&p["dependencies"])
            .iter()
            .map(|d| (text(&d["name"]), d["kind"] == "dev"))
            .collect(),
    };
    list(&metadata["packages"]).iter().map(package).collect()
}

/// Files that git tracks or would add; without git, whatever is not a build product.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    if let Ok(list) = proc::output(&mut git) {
        let names = list.split('\0').filter(|n| !n.is_empty());
        return Ok(names.map(PathBuf::from).collect());
    }
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let product = name.starts_with("target") || name == "node_modules" || name == ".git";
            if path.is_dir() && !product {
                folders.push(path);
            } else if path.is_file() {
                files.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    Ok(files)
}
