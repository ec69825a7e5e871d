//! When to connect again: exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).

/// The first attempt comes within this time, and the longest wait is bounded, so that a device that comes back is seen soon.
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 30_000;

#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure; `random` is any number.
    pub fn next_ms(&mut self, random: u64) -> u64 {
        let most = FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(LONGEST_MS);
        self.failures = self.failures.saturating_add(1);
        // Never at once: a server that refuses is not to be hammered.
        most / 10 + random % (most - most / 10 + 1)
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds() {
        let mut backoff = Backoff::default();
        let mut last_most = 0;
        for round in 0..20 {
            let mut twin = backoff.clone();
            let (least, most) = (twin.clone().next_ms(0), twin.next_ms(u64::MAX - 1).max(1));
            backoff.next_ms(0);
            assert!(least >= FIRST_MS / 10 && most <= LONGEST_MS, "round {round}: {least}..{most}");
            last_most = last_most.max(least);
        }
        assert_eq!(last_most, LONGEST_MS / 10);
        backoff.reset();
        assert!(backoff.next_ms(0) == FIRST_MS / 10);
    }
}
