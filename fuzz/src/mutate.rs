//! Mutations of byte strings, reproducible from a seed.

/// SplitMix64: small, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 when `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.draw() % end as u64) as usize }
    }
}

/// Numbers at which lengths, versions and counters go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    (1 << 53) - 1,
    1 << 53,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// One to four mutations of `input`, at most `len_max` long; `other` is spliced in now and then.
pub fn mutate(input: &[u8], other: &[u8], len_max: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(4) {
        once(&mut bytes, other, rng);
        bytes.truncate(len_max);
    }
    bytes
}

fn once(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.below(bytes.len());
    match rng.below(9) {
        0 => flip(bytes, at, rng),
        1 => replace(bytes, at, &[rng.draw() as u8]),
        2 => bytes.truncate(at),
        3 => {
            let end = at + rng.below(bytes.len() - at + 1);
            bytes.drain(at..end);
        }
        4 => {
            let end = at + rng.below(bytes.len() - at + 1).min(64);
            let copy = bytes[at..end].to_vec();
            insert(bytes, at, &copy);
        }
        5 => {
            let number = EDGES[rng.below(EDGES.len())].to_be_bytes();
            let width = [1, 2, 4, 8][rng.below(4)];
            replace(bytes, at, &number[8 - width..]);
        }
        6 => {
            let number = EDGES[rng.below(EDGES.len())].to_le_bytes();
            insert(bytes, at, &number[..1 + rng.below(8)]);
        }
        7 => {
            let from = rng.below(other.len());
            let end = from + rng.below(other.len() - from + 1);
            insert(bytes, at, &other[from..end]);
        }
        _ => {
            // The head of one and the tail of the other.
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.below(other.len())..]);
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

fn replace(bytes: &mut [u8], at: usize, by: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(by) {
        *byte = *new;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    bytes.splice(at..at, new.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_they_differ() {
        let inputs = |seed| -> Vec<Vec<u8>> {
            let mut rng = Rng::new(seed);
            (0..2000).map(|_| mutate(b"hello, world", b"other bytes", 64, &mut rng)).collect()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        let distinct: HashSet<Vec<u8>> = inputs(7).into_iter().collect();
        assert!(distinct.len() > 1500, "{} distinct inputs", distinct.len());
        assert!(distinct.iter().all(|i| i.len() <= 64));
    }

    #[test]
    fn empty_inputs_can_be_mutated() {
        let mut rng = Rng::new(1);
        let longest = (0..1000).map(|_| mutate(b"", b"", 16, &mut rng).len()).max();
        assert!(longest > Some(0));
    }
}
