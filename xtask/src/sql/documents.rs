//! The SQL in documents is run, so that no example is wrong.
//!
//! In README.md and docs/*.md every fenced block marked `sql` is a statement of what works. The blocks under one
//! heading are one session, which starts in an empty directory with the extension loaded; a fenced block marked `text`
//! behind an `sql` block is what that block prints. A block without one must print nothing. `sql no-run` is for
//! fragments that cannot run alone.

use super::Case;
use crate::proc::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// Printed between the blocks; no example prints it.
const MARK: &str = "-- next block --";

pub fn cases(root: &Path) -> Result<Vec<Case>> {
    let mut files = vec![root.join("README.md")];
    if let Ok(entries) = fs::read_dir(root.join("docs")) {
        let paths = entries.filter_map(|e| e.ok()).map(|e| e.path());
        files.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|f| f.exists()) {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        cases.extend(document(&name, &text)?);
    }
    Ok(cases)
}

/// A block of SQL and the text that must follow it.
#[derive(Default)]
struct Block {
    sql: String,
    prints: String,
}

fn document(name: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut heading = String::from("top");
    let mut blocks: Vec<Block> = Vec::new();
    let mut open_for_text = false;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            cases.extend(case(name, &heading, &std::mem::take(&mut blocks)));
            heading = title.trim_start_matches('#').trim().to_owned();
            open_for_text = false;
        } else if let Some(info) = line.strip_prefix("```") {
            let mut body = String::new();
            let closed = lines.by_ref().any(|(_, l)| {
                let end = l.starts_with("```");
                if !end {
                    body.push_str(l);
                    body.push('\n');
                }
                end
            });
            if !closed {
                return Err(format!("{name}:{}: the block has no end", number + 1));
            }
            match (info.trim(), blocks.last_mut()) {
                ("sql", _) => {
                    blocks.push(Block { sql: body, prints: String::new() });
                    open_for_text = true;
                }
                ("text", Some(block)) if open_for_text => {
                    block.prints = body;
                    open_for_text = false;
                }
                _ => open_for_text = false,
            }
        }
    }
    cases.extend(case(name, &heading, &blocks));
    Ok(cases)
}

fn case(name: &str, heading: &str, blocks: &[Block]) -> Option<Case> {
    if blocks.is_empty() {
        return None;
    }
    let mut script = String::from(".load ./rejoin\n");
    let mut expected = String::new();
    for block in blocks {
        script.push_str(&format!("{}.print {MARK}\n", block.sql));
        expected.push_str(&format!("{}{MARK}\n", block.prints));
    }
    let name = format!("{name} {heading}");
    // A hint for whoever repeats the case by hand comes with the directory; documents are not blessed.
    Some(Case { name, script, expected: Some(expected), expected_file: None::<PathBuf> })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_heading_are_one_session() {
        let text = "# A\n```sql\nSELECT 1;\n```\n```text\n1\n```\n```rust\nfn x() {}\n```\n```sql\nSELECT 2;\n```\n\
                    # B\n```sql no-run\nnonsense\n```\n";
        let cases = document("d.md", text).expect("well formed");
        let [case] = cases.as_slice() else { panic!("one case, not {}", cases.len()) };
        assert_eq!(case.name, "d.md A");
        assert_eq!(
            case.script,
            format!(".load ./rejoin\nSELECT 1;\n.print {MARK}\nSELECT 2;\n.print {MARK}\n")
        );
        assert_eq!(case.expected.as_deref(), Some(format!("1\n{MARK}\n{MARK}\n").as_str()));
    }

    #[test]
    fn an_open_block_is_an_error() {
        assert!(document("d.md", "```sql\nSELECT 1;\n").is_err());
    }
}
