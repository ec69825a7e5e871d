//! A world in one thread, from one seed: clients and a server with the real engine on real files, the real sessions, and
//! the real code between the two; the network, the clocks, the application and all chance are simulated.
//!
//! `cargo xtask sim` runs it; `docs/testing.md` says what is simulated, and what is not.
#![forbid(unsafe_code)]

mod app;
mod checks;
mod dice;
mod faults;
mod frames;
mod ledger;
mod node;
mod room;
mod weather;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use world::World;

/// What became of a seed.
pub struct Outcome {
    pub trace: Vec<String>,
    /// What did not hold, and where.
    pub failure: Option<String>,
    pub stats: BTreeMap<&'static str, u64>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub use rejoin::ambient::Mistake;

/// Runs a world to its end.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, None)
}

/// The same, with something done wrong on purpose.
pub fn run_with(seed: u64, mistake: Option<Mistake>) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            PANIC.set(Some(info.to_string()));
        }));
    });
    rejoin::ambient::set_mistake(mistake);
    let mut world = None;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(World::new(seed));
        world.storm();
        world.settle();
        world.check_end();
        world.sum_up();
    }));
    rejoin::ambient::set_now(None);
    rejoin::ambient::set_chance(None);
    rejoin::ambient::set_mistake(None);
    let failure = lived.err().map(|_| PANIC.take().unwrap_or_else(|| "a panic without a word".into()));
    let (trace, stats) = world.map_or_else(Default::default, |w| (w.trace, w.stats));
    Outcome { trace, failure, stats }
}
