//! The chain of a site's transactions: two histories under one site id show themselves by different hashes.
//!
//! `next = first 8 bytes, little-endian, of blake3(previous, origin version, nonce)`, each as 8 bytes
//! little-endian; the first transaction has previous 0. The nonce is random, so that two copies of a file that
//! commit the same writes at the same version still differ.

/// The hash of the transaction `origin_version`, given the hash of the one before it.
pub fn next(previous: u64, origin_version: u64, nonce: u64) -> u64 {
    let mut input = [0u8; 24];
    for (part, number) in input.chunks_exact_mut(8).zip([previous, origin_version, nonce]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    let hash = blake3::hash(&input);
    let first: [u8; 8] = std::array::from_fn(|i| hash.as_bytes()[i]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn every_argument_counts() {
        let base = next(1, 2, 3);
        assert_eq!(base, next(1, 2, 3));
        assert!([next(2, 2, 3), next(1, 3, 3), next(1, 2, 4)].iter().all(|h| *h != base));
    }

    #[test]
    fn the_hash_of_all_zeros_stays() {
        let hash = blake3::hash(&[0; 24]);
        assert_eq!(next(0, 0, 0).to_le_bytes(), hash.as_bytes()[..8]);
    }
}
