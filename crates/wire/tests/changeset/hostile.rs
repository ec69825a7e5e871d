//! Damage and malice: refused with an error, quickly, whatever the bytes are.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use rejoin_crdt::Value;
use rejoin_wire::{Error, Reader};

use crate::forge::{Column, Forge, HEADER, front, reseal, seal, sized, varint};
use crate::golden::every_feature;
use crate::model::{assert_same, read, write};

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
            let expected = if len < 4 { Error::NotAChangeset } else { Error::Corrupt };
            assert_eq!(error, Some(expected), "{len} bytes");
        }
        assert_eq!(Reader::open(&[&good[..], &[0]].concat()).err(), Some(Error::Corrupt));
    }
}

/// Bytes with a right checksum are refused, or they say something that can be said again.
fn refused_or_sound(bytes: &[u8]) -> bool {
    match read(bytes) {
        Ok(content) => {
            assert_same(&content, &read(&write(&content, false).unwrap()).unwrap());
            true
        }
        Err(Error::Malformed { .. } | Error::TooLarge { .. } | Error::UnsupportedVersion { .. }) => false,
        Err(other) => panic!("{other:?} for sealed bytes"),
    }
}

#[test]
fn every_byte_changed_under_a_right_checksum() {
    for compress in [false, true] {
        let good = write(&every_feature(), compress).unwrap();
        let (mut sound, mut refused) = (0, 0);
        for at in 4..good.len() - 16 {
            let old = good[at];
            for new in [0, 1, 0x7f, 0x80, 0xff, old ^ 1, old ^ 0x40, old.wrapping_add(1), old.wrapping_sub(1)]
            {
                let mut bad = good.clone();
                bad[at] = new;
                let counter = if refused_or_sound(&reseal(&bad)) { &mut sound } else { &mut refused };
                *counter += 1;
            }
        }
        assert!(
            sound > 500 && refused > 500,
            "{sound} sound, {refused} refused: the test has lost its point"
        );
    }
}

#[test]
fn every_payload_cut_short_under_a_right_checksum() {
    let good = write(&every_feature(), false).unwrap();
    for len in 0..good.len() - 16 - 6 {
        assert!(!refused_or_sound(&seal(&good[6..6 + len])), "{len} bytes of payload");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_moved_about(edits in prop::collection::vec((any::<Index>(), any::<Index>(), 0usize..9, any::<u8>()), 1..6)) {
        let mut payload = write(&every_feature(), false).unwrap();
        payload.truncate(payload.len() - 16);
        payload.drain(..6);
        for (from, to, len, byte) in edits {
            let start = from.index(payload.len());
            let piece = payload[start..payload.len().min(start + len)].to_vec();
            let to = to.index(payload.len());
            payload.splice(to..payload.len().min(to + usize::from(byte % 4)), piece);
        }
        refused_or_sound(&seal(&payload));
    }
}

fn what(bytes: &[u8]) -> &'static str {
    let start = Instant::now();
    let error = read(bytes).expect_err("must be refused");
    assert!(start.elapsed() < Duration::from_secs(1), "refused too late");
    match error {
        Error::Malformed { what } | Error::TooLarge { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

fn forged(change: impl FnOnce(&mut Forge)) -> Vec<u8> {
    let mut forge = Forge::good();
    change(&mut forge);
    forge.bytes()
}

#[test]
fn the_forge_itself_is_sound() {
    let table = &read(&Forge::good().bytes()).unwrap().tables[0];
    let seqs: Vec<i64> = table.rows.iter().map(|r| r.record.groups[0].seq).collect();
    assert_eq!(seqs, [0, 2, 4]);
    assert_eq!(table.rows[2].key, [1, 1 << 3 | 1, 3]);
    assert!(matches!(&table.rows[2].values[..], [Value::Int(12), Value::Text(t)] if t == b"yz"));
    assert!(matches!(table.rows[1].values[..], [Value::Int(11), Value::Null]));
}

#[test]
fn runs_that_promise_more_than_there_is() {
    let billion = |f: &mut Forge| {
        f.runs.pop();
        f.runs.extend(varint(999_999_998));
    };
    assert_eq!(what(&forged(billion)), "a run of more rows than the table has");
    let rows = |f: &mut Forge| {
        billion(f);
        f.rows = 1_000_000_000;
    };
    assert_eq!(what(&forged(rows)), "more rows than bytes");
    // As many rows as the body has bytes, but not as many as the key stream has.
    let padded = |f: &mut Forge| {
        f.rows = 9;
        f.columns[1].bytes = vec![0; 1000];
    };
    assert_eq!(what(&forged(padded)), "the streams do not fill the table");
    let keys_only = |f: &mut Forge| {
        f.rows = 1_000_000;
        f.keys = vec![2; 1_000_000];
        f.runs.pop();
        f.runs.extend(varint(999_998));
    };
    assert_eq!(what(&forged(keys_only)), "a part ends before its content");
    // An endless run of NULLs still takes a byte for 32 of them.
    let nulls = |f: &mut Forge| {
        keys_only(f);
        f.columns = [(); 2].map(|()| Column { types: vec![31 << 3; 1000], ..Column::default() });
    };
    assert_eq!(what(&forged(nulls)), "a part ends before its content");
}

#[test]
fn row_records_out_of_range() {
    let runs = |runs: &[u8]| what(&forged(|f| f.runs = runs.to_vec()));
    // flags, shape, [deltas], [stride], [sequence], count
    assert_eq!(runs(&[64, 1]), "the first run of a table has no shape");
    assert_eq!(runs(&[1 | 64, 1, 1]), "a shape that was not defined");
    assert_eq!(runs(&[1 | 64, 0, 0, 2, 1, 3, 0, 1]), "a causal length out of range");
    let cl = [&[1 | 64, 0][..], &varint((1 << 31) + 1), &[2, 1, 3, 0, 1]].concat();
    assert_eq!(runs(&cl), "a causal length out of range");
    assert_eq!(
        runs(&[1 | 64, 0, 1, 2, 0, 0, 1]),
        "a group without columns, or of a column that is not listed"
    );
    assert_eq!(
        runs(&[1 | 64, 0, 1, 2, 1, 7, 0, 1]),
        "a group without columns, or of a column that is not listed"
    );
    assert_eq!(runs(&[1 | 64, 0, 1, 2, 1, 1, 1, 3, 1]), "live columns outside their group, or none");
    assert_eq!(runs(&[1 | 64, 0, 1, 4, 1, 1, 0, 1, 1, 0, 1]), "a cell in two groups");
    assert_eq!(runs(&[1 | 64, 0, 1, 2, 2, 3, 0, 0, 1]), "a column set is too long");
    let many = [&[1 | 64, 0, 1][..], &varint(u64::MAX), &[1, 3, 0, 1, 1, 0, 1]].concat();
    assert_eq!(runs(&many), "a cell in two groups");
    let numbers = |flags: u8, rest: &[u8]| runs(&[&[flags | 1 | 64, 0, 1, 2, 1, 3, 0], rest].concat());
    assert_eq!(numbers(2, &[2, 1]), "a row of a transaction that is not listed");
    assert_eq!(numbers(2, &[1, 1]), "a row of a transaction that is not listed");
    assert_eq!(numbers(4, &[2, 1]), "a row of a site that is not listed");
    assert_eq!(numbers(8, &[1, 1]), "a column version out of range");
    assert_eq!(numbers(8, &[&varint(1 << 54)[..], &[1]].concat()), "a column version out of range");
    assert_eq!(numbers(128, &[&varint((1 << 53) - 1)[..], &[1]].concat()), "a sequence number out of range");
    assert_eq!(numbers(128, &[&varint(u64::MAX)[..], &[1]].concat()), "a number of a run overflows");
    assert_eq!(numbers(32 | 128, &[1]), "a run with two kinds of sequence numbers");
    // Right at its first row, wrong or overflowing at its last.
    assert_eq!(numbers(16 | 128, &[1, 1, 1]), "a sequence number out of range");
    let stride = varint(u64::MAX - 1);
    assert_eq!(numbers(16 | 128, &[&stride[..], &[1, 1]].concat()), "a number of a run overflows");
}

#[test]
fn keys_and_values_out_of_shape() {
    let bytes = |keys: &[u8]| what(&forged(|f| (f.key_form, f.keys) = (0, keys.to_vec())));
    assert_eq!(bytes(&[0, 1, 9, 1, 0, 2, 0, 0]), "a key shares more than there is");
    assert_eq!(bytes(&[0, 1, 9, 0, 0, 0, 1, 9]), "a key is empty or too long");
    assert_eq!(bytes(&[0, 1, 9, 1, 0, 1, 9]), "a count is larger than its content");
    let long = [&[0, 70][..], &[9; 70], &[65, 0, 0, 0]].concat();
    assert_eq!(bytes(&long), "a key shares more than there is");
    assert_eq!(what(&forged(|f| f.key_form = 3)), "unknown form of a key stream");
    for types in [5, 6, 7] {
        assert_eq!(what(&forged(|f| f.columns[1].types[1] = types)), "unknown type of a value");
    }
    assert_eq!(what(&forged(|f| f.columns[0].types = vec![2])), "a real without its bytes");
    assert_eq!(what(&forged(|f| f.columns[0].ints.0 = 2)), "unknown form of a number stream");
    assert_eq!(what(&forged(|f| f.columns[0].reals = (16, vec![1]))), "unknown form of a number stream");
    assert_eq!(what(&forged(|f| f.columns[1].lengths = vec![1, 3])), "a part ends before its content");
    let huge = |f: &mut Forge| f.columns[1].lengths = [vec![1], varint(1 << 40)].concat();
    assert_eq!(what(&forged(huge)), "bytes of a value");
}

#[test]
fn nothing_may_be_left_over() {
    const LEFT: &str = "bytes left over behind the last row";
    assert_eq!(what(&forged(|f| f.keys.push(2))), LEFT);
    assert_eq!(what(&forged(|f| f.runs.push(0))), LEFT);
    assert_eq!(what(&forged(|f| f.columns[0].ints.1.push(2))), LEFT);
    assert_eq!(what(&forged(|f| f.columns[0].types.push(0))), LEFT);
    assert_eq!(what(&forged(|f| f.columns[0].types[0] += 8)), LEFT);
    assert_eq!(what(&forged(|f| f.columns[0].reals = (0, vec![0; 8]))), LEFT);
    assert_eq!(what(&forged(|f| f.columns[1].lengths.push(0))), LEFT);
    assert_eq!(what(&forged(|f| f.columns[1].bytes.push(0))), LEFT);
    // An error stays: it is not followed by more rows or by the end.
    let bytes = forged(|f| f.columns[1].bytes = b"x".to_vec());
    let mut reader = Reader::open(&bytes).unwrap();
    let mut table = reader.next_table().unwrap().unwrap();
    assert!(table.next_row().is_ok_and(|row| row.is_some()));
    assert!(table.next_row().is_ok_and(|row| row.is_some()));
    assert!(table.next_row().is_err() && table.next_row().is_err());
}

#[test]
fn fronts_out_of_shape() {
    const COUNT: &str = "a count is larger than its content";
    let sealed = |parts: &[&[u8]]| what(&seal(&parts.concat()));
    assert_eq!(sealed(&[&[0; 16], &[8]]), "unknown marks");
    for count in [1 << 20, 1 << 40, u64::MAX] {
        assert_eq!(sealed(&[&HEADER, &varint(count)]), COUNT);
        assert_eq!(sealed(&[&HEADER, &[0], &varint(count)]), COUNT);
        assert_eq!(sealed(&[&HEADER, &[0, 0], &varint(count)]), COUNT);
        assert_eq!(sealed(&[&HEADER, &[0, 0, 0], &varint(count)]), COUNT);
        assert_eq!(sealed(&[&HEADER, &[0, 0, 0, 0], &varint(count)]), COUNT);
    }
    assert_eq!(sealed(&[&HEADER, &[0, 1], &[0, 2, 0, 0], &[7; 16], &[0, 0]]), "a site that is not listed");
    let site = [&HEADER[..], &[1], &[5; 16]].concat();
    assert_eq!(sealed(&[&site, &[1], &[0, 0, 0, 0], &[7; 16], &[0, 0]]), "a version out of range");
    assert_eq!(sealed(&[&site, &[1], &[0, 2, 0, 1], &[7; 16], &[0, 0]]), "a db_version out of range");
    assert_eq!(sealed(&[&site, &[0, 1], &[0, 0, 0], &[7; 8], &[0]]), "a version out of range");
    let endless = varint(u64::MAX);
    assert_eq!(sealed(&[&site, &[0, 1], &[0, 1], &endless, &[7; 8], &[0]]), "a version out of range");
    assert_eq!(sealed(&[&front(), &[0], &[0]]), "the tables do not fill the changeset");
}

#[test]
fn tables_out_of_shape() {
    let table = |keys: &[&[u8]], columns: &[&[u8]], rest: &[u8]| {
        let names = |names: &[&[u8]]| {
            let each: Vec<u8> = names.iter().flat_map(|n| sized(n)).collect();
            [varint(names.len() as u64), each].concat()
        };
        what(&seal(&[&front()[..], &[1], &sized(b"t"), &names(keys), &names(columns), rest].concat()))
    };
    const TWICE: &str = "a table without a key, or with two key columns of one name";
    let body = [0, 0, 3, 0, 0, 0];
    assert_eq!(table(&[], &[], &body), TWICE);
    assert_eq!(table(&[b"k", b"K"], &[], &body), TWICE);
    assert_eq!(table(&[b"k"], &[b"a", b"A"], &body), "two columns of one name");
    assert_eq!(table(&[b"k"], &[b"\xff"], &body), "a name is not UTF-8");
    let many: Vec<Vec<u8>> = (0..32_767).map(|i| format!("c{i}").into_bytes()).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    assert_eq!(table(&[b"k"], &many, &body), "columns of a table");
    assert_eq!(table(&[&vec![b'n'; (1 << 20) + 1]], &[], &body), "bytes of a name");
    let tables = [front(), varint(65_537), vec![0; 8 * 65_537]].concat();
    assert_eq!(what(&seal(&tables)), "tables");
}

#[test]
fn further_names_out_of_shape() {
    let more = |entries: &[&[u8]]| {
        let count = varint(2 * entries.len() as u64);
        forged(|f| f.more = [count, entries.concat()].concat())
    };
    let refused = |entries: &[&[u8]]| what(&more(entries));
    // The table once was u; a is of life 2, and once was t of life 5.
    let good = read(&more(&[b"\x00\x01u\x00", b"\x03\x02", b"\x00\x01t\x05"])).unwrap();
    let table = (0, vec![("u".to_owned(), 0)]);
    let a = (2, vec![("t".to_owned(), 5)]);
    assert_eq!(good.tables[0].more.clone().into_iter().collect::<Vec<_>>(), [(0, table), (1, a)]);
    const TWICE: &str = "two columns of one name";
    assert_eq!(refused(&[b"\x02\x01B\x00"]), TWICE, "another column is called so");
    assert_eq!(refused(&[b"\x02\x01a\x00"]), TWICE, "it is called so itself");
    assert_eq!(refused(&[b"\x02\x01c\x07", b"\x02\x01C\x07"]), TWICE, "two share a former name");
    assert_eq!(refused(&[b"\x00\x01T\x00"]), TWICE);
    let unlisted = "a name of a column that is not listed";
    assert_eq!(refused(&[b"\x06\x01c\x00"]), unlisted);
    assert_eq!(refused(&[b"\x02\x01c\x00", b"\x04\x01c\x01"]), unlisted);
    assert_eq!(refused(&[&[&varint(u64::MAX)[..], b"\x01"].concat()]), unlisted);
    let steps = [varint(4), vec![1, b'c', 0], varint(u64::MAX - 1), vec![1, b'c', 1]].concat();
    assert_eq!(what(&forged(|f| f.more = [&[4], &steps[..]].concat())), unlisted);
    let late = "a life that does not follow its name";
    assert_eq!(refused(&[b"\x03\x00"]), late, "0 is not said");
    assert_eq!(refused(&[b"\x03\x01", b"\x01\x02"]), late);
    assert_eq!(refused(&[b"\x02\x01c\x00", b"\x01\x02"]), late);
    let life = |n: u64| refused(&[&[&[3], &varint(n)[..]].concat()]);
    assert_eq!(life((1 << 20) + 1), "life of a name");
    assert_eq!(life(u64::MAX), "life of a name");
    assert_eq!(what(&forged(|f| f.more = varint(2 * 65_536))), "a name of a column that is not listed");
    assert_eq!(what(&forged(|f| f.more = varint(2 * 65_537))), "names of a table");
    assert_eq!(what(&forged(|f| f.more = varint(u64::MAX))), "names of a table");
    assert_eq!(refused(&[b"\x02\x01\xff\x00"]), "a name is not UTF-8");
}

#[test]
fn compressed_parts_that_lie() {
    let lz4 = |len: u64, block: &[u8]| reseal(&[b"RJCS\x01\x01", &varint(len)[..], block, &[0; 16]].concat());
    let payload = [&HEADER[..], &[0; 5]].concat();
    let block = lz4_flex::block::compress(&payload);
    assert!(read(&lz4(payload.len() as u64, &block)).is_ok());
    const UNREADABLE: &str = "the compressed bytes cannot be read";
    for len in [payload.len() as u64 - 1, payload.len() as u64 + 1] {
        assert_eq!(what(&lz4(len, &block)), UNREADABLE);
    }
    assert_eq!(what(&lz4(100, &[0xff; 40])), UNREADABLE);
    assert_eq!(what(&lz4(1 << 29, &block)), "more is promised than the compressed bytes can hold");
    assert_eq!(what(&lz4(1 << 31, &block)), "bytes of a changeset");
    let bound = Reader::open_bounded(&lz4(payload.len() as u64, &block), payload.len() - 1).err();
    assert!(matches!(bound, Some(Error::TooLarge { .. })));
}

#[test]
fn other_bytes_and_other_formats() {
    assert_eq!(Reader::open(b"").err(), Some(Error::NotAChangeset));
    assert_eq!(Reader::open(b"SQLite format 3\0").err(), Some(Error::NotAChangeset));
    assert_eq!(Reader::open(b"RJCS").err(), Some(Error::Corrupt));
    let other = |version: u8, flags: u8| {
        Reader::open(&reseal(&[b"RJCS", &[version, flags][..], &HEADER, &[0; 21]].concat())).err()
    };
    assert_eq!(other(1, 0), None);
    assert_eq!(other(2, 0), Some(Error::UnsupportedVersion { version: 2 }));
    assert_eq!(other(1, 2), None);
    assert_eq!(other(1, 4), Some(Error::Malformed { what: "unknown flags" }));
    let good = write(&every_feature(), false).unwrap();
    assert!(matches!(Reader::open_bounded(&good, good.len() - 1).err(), Some(Error::TooLarge { .. })));
    assert!(Reader::open_bounded(&good, good.len()).is_ok());
}
