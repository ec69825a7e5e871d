//! Random programs on the engine, with the model of `rejoin-sim` as the oracle.
//!
//! After every step both connections of the replica must list what the model lists and show the rows that it shows;
//! at the end all exchange everything and must be equal, metadata too.
//!
//! `REJOIN_SEED=n cargo test -p rejoin --test it properties::NAME` runs one program of a property,
//! `REJOIN_CASES=n` that many; `REJOIN_TRACE=1` prints the statements.

mod peer;
mod program;
mod sql;
mod world;

use program::{Family, Program};
use world::World;

fn run(program: &Program, clean: bool) -> Result<(), String> {
    World::new(program, clean)?.run()
}

fn property(name: &str, cases: u64, family: &Family) {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let cases = number("REJOIN_CASES").unwrap_or(cases);
    let seeds = match number("REJOIN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..cases,
    };
    for seed in seeds {
        let program = Program::random(seed, family);
        if run(&program, !family.failures).is_ok() {
            continue;
        }
        let (program, how) = program.shrink(&|p| run(p, !family.failures).err());
        let steps: Vec<String> = program.steps.iter().map(|s| format!("  {s:?}")).collect();
        panic!(
            "{how}\nclocks {:?} skew {:?} equal {:?} layouts {:?} owned {:?} migrations {:?}\n{}\n\
             REJOIN_SEED={seed} cargo test -p rejoin --test it properties::{name}",
            program.clocks,
            program.skew_ms,
            program.merge_equal_values,
            program.layouts,
            program.owned,
            program.migrations,
            steps.join("\n")
        );
    }
}

#[test]
fn local_writes() {
    let family = Family { replicas_max: 1, ..Family::default() };
    property("local_writes", 60, &family);
}

#[test]
fn failures_and_rollbacks() {
    let family = Family { replicas_max: 1, failures: true, ..Family::default() };
    property("failures_and_rollbacks", 60, &family);
}

#[test]
fn changesets() {
    let family = Family { replicas_max: 4, native: true, bulk: true, ..Family::default() };
    property("changesets", 60, &family);
}

#[test]
fn collection_with_a_late_peer() {
    let family = Family { replicas_max: 4, native: true, collection: true, ..Family::default() };
    property("collection_with_a_late_peer", 60, &family);
}

#[test]
fn changesets_and_row_wise() {
    let family = Family { replicas_max: 4, native: true, merges: true, failures: true, ..Family::default() };
    property("changesets_and_row_wise", 60, &family);
}

#[test]
fn schema_changes() {
    let family = Family { replicas_max: 1, migrations: true, rebuilds: true, ..Family::default() };
    property("schema_changes", 60, &family);
}

#[test]
fn schema_changes_and_changesets() {
    let family =
        Family { replicas_max: 3, native: true, migrations: true, rebuilds: true, ..Family::default() };
    property("schema_changes_and_changesets", 60, &family);
}

#[test]
fn names_given_again() {
    let family = Family {
        replicas_max: 4,
        native: true,
        migrations: true,
        remade: true,
        rebuilds: true,
        ..Family::default()
    };
    property("names_given_again", 60, &family);
}

#[test]
fn schemas_that_come_apart() {
    let family = Family { replicas_max: 4, native: true, apart: true, remade: true, ..Family::default() };
    property("schemas_that_come_apart", 60, &family);
}

#[test]
fn schema_changes_and_row_wise() {
    let family =
        Family { replicas_max: 3, merges: true, migrations: true, rebuilds: true, ..Family::default() };
    property("schema_changes_and_row_wise", 60, &family);
}

#[test]
fn row_wise() {
    let family = Family { replicas_max: 4, merges: true, ..Family::default() };
    property("row_wise", 60, &family);
}

#[test]
fn row_wise_with_failures() {
    let family = Family { replicas_max: 3, merges: true, failures: true, bulk: true, ..Family::default() };
    property("row_wise_with_failures", 60, &family);
}
