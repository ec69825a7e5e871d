//! Rules about single files.

use super::{Finding, code};

/// The rooms of unsafe code: the FFI layer, the extension's entry points, browser storage, the wasm exports.
const UNSAFE_ROOMS: [&str; 4] = ["crates/sqlite/", "crates/ext/", "crates/vfs/", "crates/wasm/"];

const SOURCE: [&str; 9] = ["rs", "py", "ts", "tsx", "js", "mjs", "sh", "css", "html"];
/// Written by people as well, and ASCII for the same reason.
const PROSE: [&str; 4] = ["md", "toml", "yml", "yaml"];

const LINES_MAX: usize = 800;

/// Unfinished marks. Written in two halves so that this file passes its own rules.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders of somebody's machine, which mean nothing to anybody else.
const MACHINE: [&str; 6] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("C:\\", "Users"),
    concat!("/wo", "rk/"),
    concat!("/tmp/", "plan"),
];

/// The public registries; a lock file that names another was made behind somebody's mirror.
const REGISTRIES: [&str; 2] =
    ["registry+https://github.com/rust-lang/crates.io-index", "https://registry.npmjs.org/"];

pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let extension = path.rsplit_once('.').map_or("", |(_, e)| e);
    let source = SOURCE.contains(&extension);
    let prose = PROSE.contains(&extension);
    let lock = path.ends_with("Cargo.lock") || path.ends_with("package-lock.json");
    let mut findings = Vec::new();
    let mut found = |line: usize, message: String| {
        findings.push(Finding { place: format!("{path}:{line}"), message });
    };
    if extension == "rs" && !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
        for line in code::lines_with_word(&code::bare(text), "unsafe") {
            found(line, "unsafe outside its rooms".to_owned());
        }
    }
    let lines = text.lines().count();
    if source && lines > LINES_MAX {
        found(lines, format!("{lines} lines; {LINES_MAX} at most, split it by what its parts do"));
    }
    for (number, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l)) {
        if (source || prose)
            && let Some(c) = line.chars().find(|c| !c.is_ascii())
        {
            found(number, format!("{} is not ASCII", c.escape_unicode()));
        }
        if (source || prose || extension == "sql")
            && let Some(mark) = code::first_word_of(line, &MARKS)
        {
            found(number, format!("{mark}: finish it or open an issue"));
        }
        if !lock && let Some(folder) = MACHINE.iter().find(|f| line.contains(**f)) {
            found(number, format!("{folder} is a place on somebody's machine"));
        }
        if lock && let Some(registry) = foreign_registry(line) {
            found(number, format!("{registry} is not a public registry"));
        }
    }
    findings
}

/// The value of a `source` or `resolved` line of a lock file that points elsewhere.
fn foreign_registry(line: &str) -> Option<&str> {
    let line = line.trim();
    let value = line
        .strip_prefix("source = ")
        .or_else(|| line.strip_prefix("\"resolved\": "))?
        .trim_end_matches(',')
        .trim_matches('"');
    (!REGISTRIES.iter().any(|r| value.starts_with(r))).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ordinary_files_pass() {
        assert_eq!(messages("crates/crdt/src/lib.rs", "//! Pure.\npub fn f() {}\n"), Vec::<String>::new());
        assert_eq!(messages("crates/sqlite/src/x.rs", "unsafe {}\n"), Vec::<String>::new());
        assert_eq!(messages("tests/sql/names.sql", "SELECT '\u{e9}';\n"), Vec::<String>::new());
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        assert_eq!(messages("Cargo.lock", lock), Vec::<String>::new());
    }

    #[test]
    fn each_rule_fails_on_a_bad_file() {
        let one = |path: &str, text: &str, part: &str| {
            let said = messages(path, text);
            assert!(said.len() == 1 && said[0].contains(part), "{path}: {said:?}");
        };
        one("crates/engine/src/a.rs", "fn f() { unsafe { g() } }\n", "a.rs:1: unsafe");
        one("crates/engine/src/b.rs", &"\n".repeat(801), "801 lines");
        one("docs/c.md", "caf\u{e9}\n", "is not ASCII");
        one("d.toml", &format!("# {}\n", MARKS[0]), "finish it");
        one("e.py", &format!("# {}: x\n", MARKS[1]), "finish it");
        one("f.md", &format!("see {}me\n", MACHINE[0]), "somebody's machine");
        one("g/package-lock.json", "\"resolved\": \"https://mirror.example/x.tgz\",\n", "public registry");
        one("Cargo.lock", "source = \"git+https://example.org/x\"\n", "public registry");
    }
}
