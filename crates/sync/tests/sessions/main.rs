//! Both machines against each other: whatever the line, the disks and the people do, all become equal again, and
//! nobody is shown a green light meanwhile that means nothing.

mod client;
mod room;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use world::{Faults, World};

/// After a storm all must be well within this time: the longest back-off, some heartbeats, and a refusal.
const WELL_MS: u64 = 300_000;

/// Runs `seeds`, or the one that `REJOIN_SEED` names.
fn runs(name: &str, seeds: u64, run: impl Fn(u64)) {
    let one = std::env::var("REJOIN_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    for seed in one.map_or(0..seeds, |s| s..s + 1) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("REJOIN_SEED={seed} cargo nextest run -p rejoin-sync {name}");
            resume_unwind(panic);
        }
    }
}

fn storm(name: &str, seeds: u64, faults: Faults) {
    runs(name, seeds, |seed| {
        let mut world = World::new(seed, 3, faults);
        world.storm(20_000);
        let took = world.calm(WELL_MS);
        let states: Vec<_> = world
            .nodes
            .iter()
            .map(|n| format!("{} {}", n.state, n.store.vector().covers(&world.room.store.vector())))
            .collect();
        assert!(took.is_some(), "not well after {WELL_MS} ms: {states:?}");
    });
}

#[test]
fn in_calm_weather_all_become_equal() {
    runs("calm_weather", 40, |seed| {
        let mut world = World::new(seed, 3, Faults::default());
        world.storm(20_000);
        // Where nothing is lost nobody may wait until he gives the connection up, which is after 20 heartbeats of a second.
        let took = world.calm(WELL_MS);
        assert!(took.is_some_and(|ms| ms < 15_000), "well after {took:?} ms");
    });
}

#[test]
fn lines_that_are_cut() {
    storm("cut", 60, Faults { cuts: true, ..Faults::default() });
}

#[test]
fn large_cuts_on_lines_that_are_cut() {
    storm("large", 6, Faults { cuts: true, large: true, gaps: true, ..Faults::default() });
}

#[test]
fn both_sides_are_killed() {
    storm("killed", 60, Faults { cuts: true, kills: true, ..Faults::default() });
}

#[test]
fn both_sides_are_restored_from_old_copies() {
    storm("restored", 100, Faults { cuts: true, kills: true, restores: true, ..Faults::default() });
}

#[test]
fn two_copies_write_under_one_id() {
    storm("one_id", 60, Faults { cuts: true, kills: true, forks: true, ..Faults::default() });
}

#[test]
fn gaps_and_failures_of_the_storage() {
    storm("gaps", 60, Faults { gaps: true, cuts: true, ..Faults::default() });
}

#[test]
fn rejections() {
    storm(
        "rejections",
        80,
        Faults { rejections: true, cuts: true, kills: true, gaps: true, ..Faults::default() },
    );
}

#[test]
fn wrong_clocks() {
    storm("clocks", 40, Faults { skew: true, cuts: true, kills: true, ..Faults::default() });
}

#[test]
fn refused_clients_come_back() {
    storm("refused", 40, Faults { denials: true, schemas: true, cuts: true, ..Faults::default() });
}

#[test]
fn frames_that_vanish() {
    storm("vanish", 60, Faults { losses: true, ..Faults::default() });
}

#[test]
fn frames_that_arrive_damaged_break_nothing_here() {
    let synced = std::cell::Cell::new(0);
    runs("damaged", 100, |seed| {
        let faults = Faults { damage: true, cuts: true, rejections: true, ..Faults::default() };
        let mut world = World::new(seed, 3, faults);
        world.storm(20_000);
        synced.set(synced.get() + world.seen.get("synced").copied().unwrap_or(0));
    });
    assert!(synced.get() > 0, "no frame ever arrived whole");
}
