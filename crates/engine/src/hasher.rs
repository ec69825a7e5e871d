//! A hash for maps that are asked once or more per changed row: one multiplication, seeded at random, for peers choose
//! rowids and must not be able to choose collisions.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Clone)]
pub struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Seeded {
        Seeded(RandomState::new().hash_one(0u64) | 1)
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    #[inline]
    fn build_hasher(&self) -> Folding {
        Folding { state: self.0, seed: self.0 }
    }
}

pub struct Folding {
    state: u64,
    seed: u64,
}

impl Folding {
    #[inline]
    fn mix(&mut self, v: u64) {
        // Both halves of the product, so that no bit of the input is lost.
        let product = u128::from(self.state ^ v).wrapping_mul(u128::from(self.seed ^ 0x9e37_79b9_7f4a_7c15));
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folding {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word.iter_mut().zip(chunk).for_each(|(w, b)| *w = *b);
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u32(&mut self, v: u32) {
        self.mix(u64::from(v));
    }

    #[inline]
    fn write_u64(&mut self, v: u64) {
        self.mix(v);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

/// A map by table and row (or key hash).
pub type ByRow<V> = HashMap<(u32, u64), V, Seeded>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbours_spread() {
        let seeded = Seeded::default();
        for step in [1u64, 64, 1 << 32, 1 << 54] {
            let low: HashSet<u64> =
                (0..1000u64).map(|i| seeded.hash_one((3u32, i.wrapping_mul(step))) & 0xffff).collect();
            assert!(low.len() > 900, "step {step}: {} of 1000", low.len());
        }
        assert_ne!(seeded.hash_one((1u32, 2u64)), seeded.hash_one((2u32, 1u64)));
        assert_eq!(seeded.hash_one((1u32, 2u64)), seeded.hash_one((1u32, 2u64)));
    }
}
