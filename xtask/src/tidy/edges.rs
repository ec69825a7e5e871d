//! Which crate may depend on which: the map of ARCHITECTURE.md as data.

use super::{Finding, Package};

struct Room {
    name: &'static str,
    /// Crates of this workspace that it may use.
    uses: &'static [&'static str],
    /// Those that only its tests may use.
    tests_use: &'static [&'static str],
    /// Whether SQLite may be known here at all.
    sqlite: bool,
}

const fn room(
    name: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
    sqlite: bool,
) -> Room {
    Room { name, uses, tests_use, sqlite }
}

/// Rooms that are not built yet stand here too, so that they begin inside the map.
const MAP: &[Room] = &[
    room("rejoin-crdt", &[], &["rejoin-sim"], false),
    room("rejoin-wire", &["rejoin-crdt"], &[], false),
    room("rejoin-sync", &["rejoin-wire", "rejoin-crdt"], &["rejoin-sim"], false),
    room("rejoin-sqlite", &[], &[], true),
    room("rejoin", &["rejoin-crdt", "rejoin-wire", "rejoin-sqlite"], &["rejoin-sim"], true),
    // The entry points hand the raw arguments of SQLite to the unsafe room.
    room("rejoin-ext", &["rejoin", "rejoin-sqlite"], &[], true),
    room("rejoin-vfs", &[], &[], true),
    room("rejoin-wasm", &["rejoin", "rejoin-sync", "rejoin-vfs"], &[], true),
    room("rejoin-server", &["rejoin-sync", "rejoin-wire", "rejoin"], &["rejoin-client"], true),
    room("rejoin-client", &["rejoin-sync", "rejoin-wire", "rejoin"], &["rejoin-server"], true),
    room("rejoin-cli", &["rejoin", "rejoin-client", "rejoin-server"], &["rejoin-wire"], true),
    room("rejoin-sim", &["rejoin-crdt"], &[], false),
    // Nothing may depend on it: its features put simulated time and chance into the others.
    room(
        "rejoin-world",
        &[
            "rejoin",
            "rejoin-client",
            "rejoin-server",
            "rejoin-sync",
            "rejoin-wire",
            "rejoin-crdt",
            "rejoin-sim",
        ],
        &[],
        true,
    ),
    room("rejoin-bench", &["rejoin"], &[], true),
    room("rejoin-bench-sync", &["rejoin", "rejoin-client", "rejoin-sync", "rejoin-wire"], &[], true),
    room("rejoin-demo", &["rejoin", "rejoin-client", "rejoin-server", "rejoin-wire"], &[], true),
    room("rejoin-fuzz", &["rejoin", "rejoin-crdt", "rejoin-sync", "rejoin-wire"], &[], true),
    room("xtask", &[], &[], false),
];

const SQLITE: [&str; 2] = ["rusqlite", "libsqlite3-sys"];

/// Crates whose `loadable_extension` feature would spoil every program that brings its own SQLite.
const NEVER_USED: [&str; 1] = ["rejoin-ext"];

pub fn check(packages: &[Package]) -> Vec<Finding> {
    let ours: Vec<&Package> = packages.iter().filter(|p| p.ours).collect();
    let is_ours = |name: &str| ours.iter().any(|p| p.name == name);
    let mut findings = Vec::new();
    for package in &ours {
        let mut found = |message| findings.push(Finding { place: package.name.clone(), message });
        let Some(room) = MAP.iter().find(|r| r.name == package.name) else {
            found("the crate is not in the map of xtask/src/tidy/edges.rs".to_owned());
            continue;
        };
        for (dependency, dev) in &package.dependencies {
            let name = dependency.as_str();
            let allowed = room.uses.contains(&name) || (*dev && room.tests_use.contains(&name));
            if is_ours(name) && (NEVER_USED.contains(&name) || !allowed) {
                found(format!("must not depend on {name}"));
            } else if SQLITE.contains(&name) && !room.sqlite {
                found(format!("must not know SQLite, but depends on {name}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect();
        Package { name: name.to_owned(), ours: true, dependencies, ..Package::default() }
    }

    fn messages(packages: &[Package]) -> Vec<String> {
        check(packages).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_of_the_map_are_fine() {
        let packages = [
            package("rejoin-crdt", &[]),
            package("rejoin-sim", &[("rejoin-crdt", false)]),
            package("rejoin", &[("rejoin-crdt", false), ("rejoin-sim", true), ("rusqlite", false)]),
        ];
        assert_eq!(messages(&packages), Vec::<String>::new());
    }

    #[test]
    fn other_edges_are_found() {
        let packages = [
            package("rejoin-crdt", &[("rejoin", false), ("rusqlite", false)]),
            package("rejoin-sim", &[]),
            package("rejoin-ext", &[]),
            package("rejoin", &[("rejoin-sim", false), ("rejoin-ext", true)]),
            package("rejoin-new", &[]),
        ];
        assert_eq!(
            messages(&packages),
            [
                "rejoin-crdt: must not depend on rejoin",
                "rejoin-crdt: must not know SQLite, but depends on rusqlite",
                "rejoin: must not depend on rejoin-sim",
                "rejoin: must not depend on rejoin-ext",
                "rejoin-new: the crate is not in the map of xtask/src/tidy/edges.rs",
            ]
        );
    }
}
