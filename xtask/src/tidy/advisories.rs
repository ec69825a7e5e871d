//! Known advisories, from a list in the repository: the check needs no network and gives the same answer tomorrow.

use super::{Finding, Package};
use semver::{Version, VersionReq};

#[derive(Debug)]
pub struct Advisory {
    id: String,
    package: String,
    affected: Vec<VersionReq>,
    title: String,
    source: String,
}

pub fn read(text: &str) -> Result<Vec<Advisory>, String> {
    let table: toml::Table = text.parse().map_err(|e| format!("advisories.toml: {e}"))?;
    let list = table.get("advisory").and_then(|v| v.as_array());
    let list = list.ok_or("advisories.toml: no [[advisory]]")?;
    list.iter().map(advisory).collect()
}

fn advisory(entry: &toml::Value) -> Result<Advisory, String> {
    let text = |key: &str| {
        let value = entry.get(key).and_then(|v| v.as_str());
        value.map(str::to_owned).ok_or_else(|| format!("advisories.toml: `{key}` is missing in {entry:?}"))
    };
    let id = text("id")?;
    let ranges = entry.get("affected").and_then(|v| v.as_array());
    let ranges = ranges.filter(|r| !r.is_empty()).ok_or(format!("{id}: no affected versions"))?;
    let range = |r: &toml::Value| {
        let text = r.as_str().ok_or_else(|| format!("{id}: a range is a string"))?;
        VersionReq::parse(text).map_err(|e| format!("{id}: {text}: {e}"))
    };
    let affected = ranges.iter().map(range).collect::<Result<_, _>>()?;
    Ok(Advisory { package: text("package")?, affected, title: text("title")?, source: text("source")?, id })
}

pub fn check(advisories: &[Advisory], packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.iter().filter(|p| !p.ours) {
        let place = format!("{} {}", package.name, package.version);
        let Ok(mut version) = Version::parse(&package.version) else {
            findings.push(Finding { place, message: "a version that is none".to_owned() });
            continue;
        };
        // A range without a pre-release would never match one.
        version.pre = semver::Prerelease::EMPTY;
        for advisory in advisories.iter().filter(|a| a.package == package.name) {
            if advisory.affected.iter().any(|range| range.matches(&version)) {
                let message = format!("{} ({}), see {}", advisory.id, advisory.title, advisory.source);
                findings.push(Finding { place: place.clone(), message });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[[advisory]]\nid = \"A-1\"\npackage = \"zip\"\naffected = [\"<0.11.6\", \">=0.12.0, <0.12.1\"]\n\
                        title = \"leaks\"\nsource = \"https://example.org/A-1\"\n";

    fn package(version: &str) -> Package {
        Package { name: "zip".to_owned(), version: version.to_owned(), ..Package::default() }
    }

    #[test]
    fn affected_versions_are_found() {
        let list = read(LIST).expect("well formed");
        for bad in ["0.11.5", "0.12.0", "0.12.0-rc.1", "none"] {
            assert_eq!(check(&list, &[package(bad)]).len(), 1, "{bad}");
        }
        for good in ["0.11.6", "0.12.1", "1.0.0"] {
            assert_eq!(check(&list, &[package(good)]), [], "{good}");
        }
        let said = check(&list, &[package("0.12.0")]);
        assert_eq!(said[0].to_string(), "zip 0.12.0: A-1 (leaks), see https://example.org/A-1");
    }

    #[test]
    fn a_broken_list_is_an_error() {
        assert!(read("").is_err());
        assert!(read(&LIST.replace("title", "heading")).is_err());
        assert!(read(&LIST.replace("<0.11.6", "before 3")).is_err());
        assert!(read(&LIST.replace("[\"<0.11.6\", \">=0.12.0, <0.12.1\"]", "[]")).is_err());
    }
}
