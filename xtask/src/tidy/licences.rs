//! Licences: ours are stated, those of dependencies allow both of ours.

use super::{Finding, Package};

const OURS: &str = "MIT OR Apache-2.0";

const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "0BSD",
    "CC0-1.0",
    "ISC",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().filter_map(|p| Some(Finding { place: place(p), message: complaint(p)? })).collect()
}

fn place(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

fn complaint(package: &Package) -> Option<String> {
    let licence = match &package.licence {
        Some(licence) => licence,
        None if package.ours => return Some(format!("no licence; say license = \"{OURS}\"")),
        // A licence file may say anything: somebody has to read it and name the package here.
        None if package.licence_file => {
            return Some("a licence file instead of a licence".to_owned());
        }
        None => return Some("no licence".to_owned()),
    };
    if package.ours {
        return (licence != OURS).then(|| format!("licence {licence} instead of {OURS}"));
    }
    match allowed(licence) {
        Some(true) => None,
        Some(false) => Some(format!("licence {licence} is not on the list of xtask/src/tidy/licences.rs")),
        None => Some(format!("licence {licence} cannot be read")),
    }
}

/// Whether an SPDX expression can be satisfied with the allowed licences; `None` if it is none.
fn allowed(expression: &str) -> Option<bool> {
    // The old spelling of OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = any(&tokens, &mut at)?;
    (at == tokens.len()).then_some(value)
}

fn any(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = all(tokens, at)?;
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= all(tokens, at)?;
    }
    Some(value)
}

fn all(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = one(tokens, at)?;
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= one(tokens, at)?;
    }
    Some(value)
}

fn one(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let token = *tokens.get(*at)?;
    *at += 1;
    if token == "(" {
        let value = any(tokens, at)?;
        *at += 1;
        return (tokens.get(*at - 1) == Some(&")")).then_some(value);
    }
    if matches!(token, ")" | "OR" | "AND" | "WITH") {
        return None;
    }
    if tokens.get(*at) == Some(&"WITH") {
        let exception = *tokens.get(*at + 1)?;
        *at += 2;
        return Some(ALLOWED.contains(&format!("{token} WITH {exception}").as_str()));
    }
    Some(ALLOWED.contains(&token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        assert_eq!(allowed("MIT OR Apache-2.0"), Some(true));
        assert_eq!(allowed("MIT/GPL-3.0"), Some(true));
        assert_eq!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"), Some(true));
        assert_eq!(allowed("GPL-3.0 OR LGPL-3.0 AND MIT"), Some(false));
        assert_eq!(allowed("MIT AND GPL-2.0-only"), Some(false));
        assert_eq!(allowed("Apache-2.0 WITH LLVM-exception"), Some(true));
        assert_eq!(allowed("MIT WITH Some-exception"), Some(false));
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND MIT"] {
            assert_eq!(allowed(broken), None, "{broken}");
        }
    }

    #[test]
    fn packages_without_a_good_licence_are_found() {
        let package = |ours, licence: Option<&str>, licence_file| Package {
            ours,
            licence: licence.map(str::to_owned),
            licence_file,
            ..Package::default()
        };
        assert_eq!(check(&[package(true, Some(OURS), false), package(false, Some("ISC"), false)]), []);
        for bad in [
            package(true, None, true),
            package(true, Some("MIT"), false),
            package(false, None, false),
            package(false, None, true),
            package(false, Some("AGPL-3.0"), false),
            package(false, Some("MIT OR"), false),
        ] {
            assert_eq!(check(std::slice::from_ref(&bad)).len(), 1, "{bad:?}");
        }
    }
}
