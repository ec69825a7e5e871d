//! Time and chance: the machine's, or, in a simulation, what it has put in their place on its thread.
//!
//! The feature `simulation` is for the crate that runs one; without it this is the system's clock and its random numbers.

use crate::error::{Error, Result};

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    if let Some(now) = simulated::now_ms() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Fills `bytes` with random ones.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    if simulated::fill(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes).map_err(|e| Error::State { why: format!("no random numbers: {e}") })
}

/// What a simulation does wrong on purpose, to see that it would be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// A client acknowledges what it has not applied.
    AcknowledgeFirst,
    /// Deletions of others are not heeded.
    DropTombstone,
    /// What is here stays, whatever is newer.
    ClockBackwards,
    /// The server acknowledges what it did not apply.
    AcknowledgeRefused,
}

/// Whether that is to be done wrong now.
#[inline]
pub fn makes(mistake: Mistake) -> bool {
    simulated::makes(mistake)
}

#[cfg(not(feature = "simulation"))]
mod simulated {
    pub fn makes(_: super::Mistake) -> bool {
        false
    }

    pub fn now_ms() -> Option<i64> {
        None
    }

    pub fn fill(_: &mut [u8]) -> bool {
        false
    }
}

#[cfg(feature = "simulation")]
pub use simulated::{set_chance, set_mistake, set_now};

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<Option<i64>> = const { Cell::new(None) };
        static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
        static MISTAKE: Cell<Option<super::Mistake>> = const { Cell::new(None) };
    }

    /// What this thread takes for the time from here on; None: the system's clock.
    pub fn set_now(unix_ms: Option<i64>) {
        NOW.set(unix_ms);
    }

    /// From what this thread's random numbers are made from here on; None: the system's.
    pub fn set_chance(seed: Option<u64>) {
        CHANCE.set(seed);
    }

    /// What is done wrong on this thread from here on.
    pub fn set_mistake(mistake: Option<super::Mistake>) {
        MISTAKE.set(mistake);
    }

    pub fn makes(mistake: super::Mistake) -> bool {
        MISTAKE.get() == Some(mistake)
    }

    pub fn now_ms() -> Option<i64> {
        NOW.get()
    }

    pub fn fill(bytes: &mut [u8]) -> bool {
        let Some(mut state) = CHANCE.get() else { return false };
        for part in bytes.chunks_mut(8) {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            part.iter_mut().zip((z ^ (z >> 31)).to_le_bytes()).for_each(|(byte, random)| *byte = random);
        }
        CHANCE.set(Some(state));
        true
    }
}
