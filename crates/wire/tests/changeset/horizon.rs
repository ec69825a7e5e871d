//! The horizon and the mark of a tail.

use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::{EmptyRange, Error, Header, Reader, Writer};

use crate::forge::reseal;

const A: SiteId = SiteId([1; 16]);
const B: SiteId = SiteId([2; 16]);

fn horizon() -> VersionVector {
    let mut v = VersionVector::new();
    v.insert_range(A, 1..=7);
    v.insert_range(A, 9..=1_000_000);
    v.insert(B, 3);
    v
}

fn write(lineage: Option<[u8; 16]>, horizon: &VersionVector, tail: bool) -> Vec<u8> {
    let mut w = Writer::new(Header { site: A, lineage });
    let site = w.site(&B);
    w.empty_range(EmptyRange { site, from: 4, to: 5, chain: 6 });
    w.horizon(horizon);
    if tail {
        w.mark_tail();
    }
    w.finish(false).unwrap()
}

#[test]
fn they_are_read_as_they_were_written() {
    for lineage in [None, Some([9; 16])] {
        for horizon in [VersionVector::new(), horizon()] {
            for tail in [false, true] {
                let bytes = write(lineage, &horizon, tail);
                let reader = Reader::open(&bytes).unwrap();
                assert_eq!((reader.horizon(), reader.is_tail()), (&horizon, tail));
                assert_eq!(reader.header().lineage, lineage);
                assert_eq!(reader.empty_ranges().len(), 1);
            }
        }
    }
}

#[test]
fn a_horizon_that_breaks_the_rules_is_refused() {
    let good = write(None, &horizon(), false);
    // Magic, format, flags, sender; then the marks.
    assert_eq!(good[22], 2);
    for marks in [0u8, 1, 8, 0x82] {
        let mut bad = good.clone();
        bad[22] = marks;
        assert!(matches!(Reader::open(&reseal(&bad)), Err(Error::Malformed { .. })), "{marks}");
    }
    // Three ranges of 3, 3 + 3 and 3 bytes behind their count, the count of tables, and the hash.
    let ranges = good.len() - 17 - 12;
    assert_eq!(good[ranges], 3);
    for (at, byte) in [(ranges, 0xff), (ranges, 2), (ranges + 1, 9), (ranges + 2, 0)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(matches!(Reader::open(&reseal(&bad)), Err(Error::Malformed { .. })), "{at}");
    }
}

/// A base of many ranges, each before the one before.
#[test]
fn ranges_in_descending_order_are_no_work() {
    let mut w = Writer::new(Header { site: A, lineage: None });
    let site = w.site(&B);
    let count = 400_000;
    (0..count)
        .rev()
        .for_each(|i| w.base_range(EmptyRange { site, from: i * 3 + 1, to: i * 3 + 1, chain: 0 }));
    let bytes = w.finish(true).unwrap();
    let started = std::time::Instant::now();
    let reader = Reader::open(&bytes).unwrap();
    assert_eq!(reader.builds_on().ranges(&B).unwrap().iter().count() as u64, count);
    assert!(started.elapsed().as_secs() < 20);
}
