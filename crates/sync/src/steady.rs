//! Time that never goes back. What is waited for is measured in it: who sets the clock of a machine back by a year must not
//! make it wait for a year.

#[derive(Debug)]
pub struct Steady {
    clock_ms: u64,
    /// The clock as it would be if nobody had set it back.
    ms: u64,
}

impl Steady {
    /// The two agree until the clock is set back.
    pub fn new(clock_ms: u64) -> Steady {
        Steady { clock_ms, ms: clock_ms }
    }

    /// The steady time when the clock shows this.
    pub fn at(&mut self, clock_ms: u64) -> u64 {
        self.ms += clock_ms.saturating_sub(self.clock_ms);
        self.clock_ms = clock_ms;
        self.ms
    }

    /// What the clock will show then, if nobody sets it.
    pub fn clock(&self, at_ms: u64) -> u64 {
        self.clock_ms + at_ms.saturating_sub(self.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::Steady;

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_it() {
        let mut time = Steady::new(1_000);
        assert_eq!((time.at(1_500), time.clock(2_000)), (1_500, 2_000));
        assert_eq!((time.at(100), time.clock(2_000)), (1_500, 600));
        assert_eq!((time.at(600), time.clock(2_000)), (2_000, 600));
        // Nor does one that is set ahead: what was waited for is due.
        assert_eq!(time.at(9_600), 11_000);
    }
}
