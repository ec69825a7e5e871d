//! Random content of every kind comes back as it was.

use proptest::prelude::*;
use proptest::sample::subsequence;
use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};
use rejoin_crdt::{SiteId, Value};
use rejoin_wire::limits::{LIFE_MAX, VERSION_MAX};
use rejoin_wire::{EmptyRange, GroupRecord, Header, RowRecord, Transaction};

use crate::model::{Changeset, More, Row, Table, assert_same, int_key, read, write};

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        prop_oneof![any::<i64>(), -100i64..100].prop_map(Value::Int),
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (-100_000i32..100_000).prop_map(|n| f64::from(n) / 100.0),
            Just(-0.0),
            Just(0.1 + 0.2)
        ]
        .prop_map(Value::Real),
        "[a-z ]{0,12}".prop_map(|s| Value::text(&s)),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
    ]
}

/// Values of one column mostly have one type, and long runs of it.
fn typical(seed: u64, i: usize) -> Value {
    match seed % 5 {
        0 => Value::Int(i as i64 * 3 - 50),
        1 => Value::Real(i as f64 / 8.0),
        2 => Value::text(&format!("row {i}")),
        3 => Value::Null,
        _ => Value::Blob(vec![i as u8; i % 7]),
    }
}

fn numbers(transactions: usize, sites: usize) -> impl Strategy<Value = (i64, u32, i64, i64)> {
    let seq = prop_oneof![0i64..50, 0..VERSION_MAX - 70_000];
    (0..transactions as i64, 0..sites as u32, prop_oneof![1i64..4, 0..=VERSION_MAX], seq)
}

fn stamp((db_version, site, col_version, _): (i64, u32, i64, i64)) -> Stamp {
    Stamp { col_version, db_version, site }
}

/// Splits some columns into groups, and makes some of each group's columns dead.
fn record(columns: Vec<u32>, txs: usize, sites: usize) -> impl Strategy<Value = RowRecord> {
    let groups = (subsequence(columns.clone(), 0..=columns.len()), 1usize..4, any::<u64>());
    let sentinel = prop::option::of(numbers(txs, sites));
    let nums = prop::collection::vec(numbers(txs, sites), 3);
    (prop_oneof![1u32..4, 1..=1u32 << 31], sentinel, groups, nums).prop_map(
        move |(cl, sentinel, (cols, parts, dead), nums)| {
            let mut record = RowRecord { cl, ..RowRecord::default() };
            record.sentinel = sentinel.map(|n| Sentinel { db_version: n.0, site: n.1, seq: n.3 });
            for (part, n) in nums.into_iter().take(parts).enumerate() {
                let live: ColSet =
                    cols.iter().enumerate().filter(|(i, _)| i % parts == part).map(|(_, c)| *c).collect();
                let mut wide = live.clone();
                columns.iter().filter(|c| dead >> (**c % 64) & 1 == 1).for_each(|c| wide.insert(*c));
                if !live.is_empty() {
                    record.groups.push(GroupRecord { cols: wide, live, stamp: stamp(n), seq: n.3 });
                }
            }
            record
        },
    )
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop_oneof![any::<i64>(), -5i64..300].prop_map(int_key),
        1 => prop::collection::vec(any::<u8>(), 1..40),
        1 => (0u8..4, prop::collection::vec(any::<u8>(), 60..80)).prop_map(|(n, tail)| [vec![n; 70], tail].concat()),
    ]
}

fn rows(columns: u32, txs: usize, sites: usize) -> impl Strategy<Value = Vec<Row>> {
    // A changeset has few shapes and many rows of each, most of them following one another.
    let all: Vec<u32> = (0..columns).collect();
    let shapes = prop::collection::vec(record(all, txs, sites), 1..4);
    let only_ints = any::<bool>();
    let plan = prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, 0i64..5, any::<u64>()), 0..8);
    (shapes, plan, only_ints, prop::collection::vec(key(), 60), prop::collection::vec(value(), 60)).prop_map(
        move |(shapes, plan, only_ints, keys, values)| {
            let mut out = Vec::new();
            for (shape, count, stride, seed) in plan {
                let mut record = shape.get(&shapes).clone();
                for i in 0..count {
                    let n = record.live().len() as usize;
                    let pick = |col: usize| match seed >> (col % 64) & 1 {
                        0 => typical(seed >> 7, i),
                        _ => values[(i * 7 + col) % values.len()].clone(),
                    };
                    let key =
                        if only_ints { int_key(i as i64 * 5 - 9) } else { keys[i % keys.len()].clone() };
                    out.push(Row { key, record: record.clone(), values: (0..n).map(pick).collect() });
                    record.sentinel.iter_mut().for_each(|s| s.seq += stride);
                    record.groups.iter_mut().for_each(|g| g.seq += stride);
                }
            }
            out
        },
    )
}

/// Lives and further names of some of the columns and of the table.
fn more(columns: usize) -> impl Strategy<Value = More> {
    let names = (prop_oneof![3 => Just(0u32), 1 => 0..=LIFE_MAX], prop::collection::vec(0..=LIFE_MAX, 0..3));
    let more = prop::collection::btree_map(0..=columns, names, 0..4);
    more.prop_map(|all| {
        let named = |(subject, (life, others)): (usize, (u32, Vec<u32>))| {
            let others = others.into_iter().enumerate();
            (subject, (life, others.map(|(i, life)| (format!("was {i} of {subject}"), life)).collect()))
        };
        all.into_iter().map(named).filter(|(_, m): &(usize, (u32, Vec<_>))| *m != (0, vec![])).collect()
    })
}

fn table(txs: usize, sites: usize) -> impl Strategy<Value = Table> {
    let columns = prop_oneof![4 => 0u32..6, 1 => 60u32..70, 1 => 200u32..300];
    ("[a-z\"' \u{e9}]{0,9}", 1usize..3, columns).prop_flat_map(move |(name, keys, columns)| {
        (rows(columns, txs, sites), more(columns as usize)).prop_map(move |(rows, more)| Table {
            name: name.clone(),
            keys: (0..keys).map(|i| format!("k{i}")).collect(),
            columns: (0..columns).map(|i| format!("c{i}")).collect(),
            waiting: more.len() == 2,
            more,
            rows,
        })
    })
}

fn transaction(sites: usize) -> impl Strategy<Value = Transaction> {
    let numbers = (1..=VERSION_MAX as u64, any::<i64>(), any::<u64>(), any::<u64>(), 0..=VERSION_MAX);
    (0..sites as u32, numbers, any::<bool>()).prop_map(|(origin, n, relay)| {
        let (version, clock, nonce, chain, db_version) = n;
        Transaction { origin, version, clock, nonce, chain, relay, db_version }
    })
}

fn empty_range(sites: usize) -> impl Strategy<Value = EmptyRange> {
    let bounds = (1..=VERSION_MAX as u64, 1..=VERSION_MAX as u64);
    (0..sites as u32, bounds, any::<u64>()).prop_map(|(site, (a, b), chain)| EmptyRange {
        site,
        from: a.min(b),
        to: a.max(b),
        chain,
    })
}

pub fn changeset() -> impl Strategy<Value = Changeset> {
    (1usize..4, 1usize..5).prop_flat_map(|(sites, txs)| {
        (
            (any::<[u8; 16]>(), any::<Option<[u8; 16]>>()),
            prop::collection::vec(transaction(sites), txs),
            [(); 2].map(|()| prop::collection::vec(empty_range(sites), 0..4)),
            prop::collection::vec(table(txs, sites), 0..3),
        )
            .prop_map(move |((site, lineage), transactions, [empty_ranges, base], tables)| {
                Changeset {
                    header: Header { site: SiteId(site), lineage },
                    sites: (0..sites).map(|i| SiteId([i as u8 + 1; 16])).collect(),
                    transactions,
                    empty_ranges,
                    base,
                    tables,
                }
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_written_is_read(changeset in changeset(), compress in any::<bool>()) {
        let bytes = write(&changeset, compress).unwrap();
        assert_same(&changeset, &read(&bytes).unwrap());
    }
}

#[test]
fn an_empty_changeset() {
    let header = Header { site: SiteId([9; 16]), lineage: None };
    let empty = Changeset {
        header,
        sites: vec![],
        transactions: vec![],
        empty_ranges: vec![],
        base: vec![],
        tables: vec![],
    };
    let bytes = write(&empty, false).unwrap();
    assert_eq!(bytes.len(), 6 + 16 + 1 + 5 + 16);
    assert_same(&empty, &read(&bytes).unwrap());
}

/// More columns than SQLite's default allows, with a group for each of many: long column sets.
#[test]
fn a_very_wide_row() {
    let columns = 5000u32;
    let mut record = RowRecord { cl: 3, ..RowRecord::default() };
    for col in (0..columns).step_by(7) {
        let stamp = Stamp { col_version: i64::from(col), db_version: 0, site: 0 };
        let cols = ColSet::single(col);
        record.groups.push(GroupRecord { live: cols.clone(), cols, stamp, seq: i64::from(col) });
    }
    let values: Vec<Value> = (0..record.live().len()).map(|i| Value::Int(i64::from(i))).collect();
    let rows = (0..3).map(|i| Row { key: int_key(i), record: record.clone(), values: values.clone() });
    let transaction =
        Transaction { origin: 0, version: 1, clock: 0, nonce: 0, chain: 0, relay: true, db_version: 0 };
    let wide = Changeset {
        header: Header { site: SiteId([1; 16]), lineage: None },
        sites: vec![SiteId([1; 16])],
        transactions: vec![transaction],
        empty_ranges: vec![],
        base: vec![],
        tables: vec![Table {
            name: "wide".into(),
            keys: vec!["id".into()],
            columns: (0..columns).map(|i| format!("c{i}")).collect(),
            more: More::new(),
            waiting: false,
            rows: rows.collect(),
        }],
    };
    assert_same(&wide, &read(&write(&wide, true).unwrap()).unwrap());
}
