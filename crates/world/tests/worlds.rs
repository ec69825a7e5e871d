//! Worlds that once failed, that a world is the same each time, and that mistakes are found.

use rejoin_world::{Mistake, run, run_with};

/// What was found, by seeds as they were then: a change of the simulation makes other worlds of them, so what was found has a
/// test of its own where it was mended, too.
const FOUND: [(u64, &str); 7] = [
    (6, "a column was another one on both sides until something was written after it was added"),
    (10, "what a restored client wrote was lost when it started over"),
    (3, "transactions around a void one had no chain any more once they were stamped anew"),
    (49, "green after a cut that could not be applied"),
    (164, "the log did not name a row that was adopted while a part of it waited for its column"),
    (265, "cells of transactions that had given way to another history were not stamped anew with them"),
    (113, "a refusal that met the server's new schema on its way blocked the client for good"),
];

#[test]
fn what_was_found_stays_mended() {
    for (seed, what) in FOUND {
        let outcome = run(seed);
        if let Some(failure) = outcome.failure {
            panic!("cargo xtask sim --seed {seed} (it once found: {what}): {failure}");
        }
    }
}

/// How many seeds it takes at most until a mistake shows.
const SOON: u64 = 40;

fn is_found(mistake: Mistake) {
    // Those that show it are all the same to us.
    let found = (0..SOON).find(|seed| run_with(*seed, Some(mistake)).failure.is_some());
    assert!(found.is_some(), "{mistake:?} is not found by {SOON} seeds");
}

#[test]
fn what_a_client_acknowledges_before_it_applies_it_is_found() {
    is_found(Mistake::AcknowledgeFirst);
}

#[test]
fn a_tombstone_that_is_dropped_is_found() {
    is_found(Mistake::DropTombstone);
}

#[test]
fn versions_that_are_compared_the_wrong_way_are_found() {
    is_found(Mistake::ClockBackwards);
}

#[test]
fn what_is_acknowledged_and_not_applied_is_found() {
    is_found(Mistake::AcknowledgeRefused);
}

#[test]
fn a_seed_is_one_world() {
    for seed in [1, 2, 18] {
        let (one, other) = (run(seed), run(seed));
        let first = one.trace.iter().zip(&other.trace).find(|(a, b)| a != b);
        assert_eq!(first, None, "seed {seed}");
        assert_eq!(one.trace.len(), other.trace.len());
        assert!(one.trace.len() > 100 && one.failure == other.failure);
    }
}
