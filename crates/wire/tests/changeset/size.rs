//! A small changed cell costs at most 8 bytes in a batch of 10,000, before compression.

use rejoin_crdt::meta::{ColSet, Stamp};
use rejoin_crdt::{SiteId, Value};
use rejoin_wire::{GroupRecord, Header, RowRecord, Transaction};

use crate::model::{Changeset, More, Row, Table, int_key, read, write};

const CELLS: i64 = 10_000;

/// A number without a pattern, the same in every run.
fn noise(i: i64, below: i64) -> i64 {
    // The finalizer of SplitMix64: no pattern that a compressor could find.
    let x = (i as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x >> 33) % below as u64) as i64
}

/// One column updated in 10,000 rows; the arguments say what the i-th row is.
fn update(
    id: impl Fn(i64) -> i64,
    seq: impl Fn(i64) -> i64,
    ver: impl Fn(i64) -> i64,
    val: impl Fn(i64) -> Value,
) -> Changeset {
    let site = SiteId([3; 16]);
    let row = |i| {
        let mut record = RowRecord { cl: 1, ..RowRecord::default() };
        let stamp = Stamp { col_version: ver(i), db_version: 0, site: 0 };
        let cols = ColSet::single(2);
        record.groups.push(GroupRecord { live: cols.clone(), cols, stamp, seq: seq(i) });
        Row { key: int_key(id(i)), record, values: vec![val(i)] }
    };
    Changeset {
        header: Header { site, lineage: Some([1; 16]) },
        sites: vec![site],
        transactions: vec![Transaction {
            origin: 0,
            version: 17,
            clock: 1 << 50,
            nonce: 1 << 60,
            chain: 1 << 61,
            relay: false,
            db_version: 33,
        }],
        empty_ranges: vec![],
        base: vec![],
        tables: vec![Table {
            name: "item".into(),
            keys: vec!["id".into()],
            columns: ["a", "b", "stock", "d"].map(String::from).to_vec(),
            more: More::new(),
            waiting: false,
            rows: (0..CELLS).map(row).collect(),
        }],
    }
}

fn check(what: &str, changeset: &Changeset, plain_max: f64, packed_max: f64) {
    let cost = |compress| {
        let bytes = write(changeset, compress).unwrap();
        assert_eq!(read(&bytes).unwrap().tables[0].rows.len() as i64, CELLS);
        bytes.len() as f64 / CELLS as f64
    };
    let (plain, packed) = (cost(false), cost(true));
    println!("{what}: {plain:.2} bytes a cell, {packed:.2} compressed");
    assert!(plain <= plain_max, "{what}: {plain:.2} bytes a cell, allowed are {plain_max}");
    assert!(packed <= packed_max, "{what}: {packed:.2} bytes a cell compressed, allowed are {packed_max}");
}

#[test]
fn bytes_a_cell() {
    let in_order = update(|i| i + 1, |i| i, |_| 2, |i| Value::Int(noise(i, 500)));
    check("stock of all items, in key order", &in_order, 3.1, 3.1);
    let words =
        update(|i| i + 1, |i| i, |_| 2, |i| Value::text(["new", "sold", "gone"][noise(i, 3) as usize]));
    check("a short word", &words, 6.0, 2.5);
    let prices = update(|i| i + 1, |i| i, |_| 2, |i| Value::Real(noise(i, 9000) as f64 / 100.0));
    check("prices as reals", &prices, 4.0, 4.0);
    // Sparse ids, written in no order, each cell with a history of its own.
    let worst = update(
        |i| i * 300 + noise(i, 300),
        |i| noise(i * 31, CELLS),
        |i| 1 + noise(i, 60),
        |i| Value::Int(noise(i, 5000)),
    );
    check("sparse keys, random order, mixed versions", &worst, 8.0, 8.0);
}
