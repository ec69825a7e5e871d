//! Damage and malice: refused with an error, quickly, whatever the bytes are.

use rejoin_wire::{Error, Reader};

use crate::golden::every_feature;
use crate::model::write;

#[test]
fn every_flipped_bit_is_corrupt() {
    for compress in [false, true] {
        let good = write(&every_feature(), compress).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Reader::open(&bad).err(), Some(Error::Corrupt), "bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for compress in [false, true] {
        let good = write(&every_feature(), compress).unwrap();
        for len in 0..good.len() {
            let error = Reader::open(&good[..len]).err();
            let expected = if len < 4 {
                Error::NotAChangeset
            } else {
                Error::Corrupt
            };
            assert_eq!(error, Some(expected), "{len} bytes");
        }
        assert_eq!(
            Reader::open(&[&good[..], &[0]].concat()).err(),
            Some(Error::Corrupt)
        );
    }
}
