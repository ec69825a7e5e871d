//! The bytes of a small changeset with every feature. Files and peers of this format exist: if this test
//! fails, the format has changed and needs a new version number, not a new fixture.

use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};
use rejoin_crdt::{SiteId, Value};
use rejoin_wire::{EmptyRange, GroupRecord, Header, RowRecord, Transaction};

use crate::model::{Changeset, More, Row, Table, assert_same, int_key, read, write};

const PLAIN: &str = include_str!("../fixtures/changeset-v1.hex");
const COMPRESSED: &str = include_str!("../fixtures/changeset-v1-lz4.hex");

fn group(cols: &[u32], live: &[u32], numbers: (i64, i64, u32, i64)) -> GroupRecord {
    let (col_version, db_version, site, seq) = numbers;
    GroupRecord {
        cols: cols.iter().copied().collect(),
        live: live.iter().copied().collect::<ColSet>(),
        stamp: Stamp { col_version, db_version, site },
        seq,
    }
}

fn row(key: Vec<u8>, cl: u32, sentinel: Option<Sentinel>, groups: &[GroupRecord], values: &[Value]) -> Row {
    let record = RowRecord { cl, sentinel, groups: groups.iter().cloned().collect() };
    Row { key, record, values: values.to_vec() }
}

fn items() -> Table {
    let text = Value::text;
    let mut rows: Vec<Row> = (0..5)
        .map(|i| {
            let written = [group(&[0, 1, 2], &[0, 1, 2], (1, 0, 0, i * 3))];
            let values = [text(&format!("book {i}")), Value::Int(i * 10), Value::Real(i as f64 / 4.0)];
            row(int_key(i + 1), 1, None, &written, &values)
        })
        .collect();
    // Updated, with the older group half overwritten.
    let update = [group(&[1], &[1], (2, 1, 1, 0)), group(&[0, 1, 2], &[0, 2], (1, 0, 0, 15))];
    rows.push(row(int_key(300), 1, None, &update, &[Value::Null, Value::Int(-1), Value::Real(0.75)]));
    // A sequence number that is shorter than its difference to the one before.
    let early = [group(&[2], &[2], (1, 2, 0, 3))];
    rows.push(row(int_key(302), 1, None, &early, &[Value::Real(1.25)]));
    let late = [group(&[2], &[2], (1, 2, 0, 9000))];
    rows.push(row(int_key(303), 1, None, &late, &[Value::Real(0.125)]));
    rows.push(row(int_key(304), 1, None, &early, &[Value::Real(-7.0)]));
    // Deleted; deleted and inserted again.
    let deleted = Some(Sentinel { db_version: 2, site: 1, seq: 1 });
    rows.push(row(int_key(-2), 2, deleted, &[], &[]));
    let again = [group(&[0], &[0], ((1 << 53) - 1, 2, 0, 4))];
    rows.push(row(int_key(301), 3, Some(Sentinel { db_version: 2, site: 1, seq: 2 }), &again, &[text("")]));
    let more = More::from([
        (0, (0, vec![("article".into(), 1)])),
        (2, (2, vec![])),
        (3, (1, vec![("cost".into(), 0), ("price".into(), 0)])),
    ]);
    Table {
        name: "item".into(),
        keys: vec!["id".into()],
        columns: names(&["title", "stock", "price"]),
        more,
        waiting: true,
        rows,
    }
}

/// Keys that are not integers, values of mixed types, more than 64 columns, no column.
fn others() -> [Table; 3] {
    let key = |s: &str| [&[1, 1 << 3 | 3, s.len() as u8], s.as_bytes()].concat();
    let one = |i: i64| [group(&[0], &[0], (1, 0, 0, 100 + i * 7))];
    let values = [
        Value::Real(f64::NAN),
        Value::Real(-0.0),
        Value::Int(i64::MIN),
        Value::Null,
        Value::text("caf\u{e9}"),
        Value::Blob(vec![0, 255]),
        Value::Text(vec![0xff, 0]),
    ];
    let keys = ["aa", "aab", "b", "b", "", "aab", "aabc"];
    let rows = keys.iter().zip(values).enumerate();
    let rows = rows.map(|(i, (k, v))| row(key(k), 1, None, &one(i as i64), &[v])).collect();
    let mixed = Table {
        name: "my \"table\" \u{20ac}".into(),
        keys: vec!["k".into()],
        columns: names(&["v"]),
        more: More::new(),
        waiting: false,
        rows,
    };
    let columns = (0..70).map(|i| format!("c{i}")).collect();
    let wide = [group(&[0, 69], &[69], (9, 1, 0, 1))];
    let rows = vec![row(int_key(0), 1, None, &wide, &[Value::Int(5)])];
    let wide = Table {
        name: "wide".into(),
        keys: vec!["a".into()],
        columns,
        more: More::new(),
        waiting: false,
        rows,
    };
    let pair = vec![2, 1 << 3 | 1, 7, 5];
    let rows = vec![row(pair, 1, Some(Sentinel { db_version: 0, site: 0, seq: 9 }), &[], &[])];
    [
        mixed,
        wide,
        Table {
            name: "link".into(),
            keys: names(&["a", "b"]),
            columns: vec![],
            more: More::new(),
            waiting: false,
            rows,
        },
    ]
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

pub fn every_feature() -> Changeset {
    let transaction = |origin, version, relay| Transaction {
        origin,
        version,
        clock: 0x1_2345_6789 + version as i64,
        nonce: 0x0102_0304_0506_0708,
        chain: 0x1112_1314_1516_1718 + version,
        relay,
        db_version: 40 + version as i64,
    };
    Changeset {
        header: Header { site: SiteId([0xaa; 16]), lineage: Some([0xbb; 16]) },
        sites: vec![SiteId([0xaa; 16]), SiteId([0xcc; 16])],
        transactions: vec![transaction(0, 7, false), transaction(1, 3, true), transaction(0, 8, false)],
        empty_ranges: vec![
            EmptyRange { site: 0, from: 1, to: 6, chain: 0x2122_2324_2526_2728 },
            EmptyRange { site: 1, from: 2, to: 2, chain: u64::MAX },
        ],
        base: vec![EmptyRange { site: 1, from: 1, to: 1, chain: 0x3132_3334_3536_3738 }],
        tables: [items()].into_iter().chain(others()).collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|l| l.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n");
    lines.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn the_bytes_stay() {
    // Left beside the build for comparison. (What LZ4 makes of them is the business of its encoder.)
    let made = hex(&write(&every_feature(), false).unwrap());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("changeset-v1.hex");
    std::fs::write(&path, &made).unwrap();
    assert!(made == PLAIN, "other bytes than the fixture's: {}", path.display());
}

#[test]
fn old_bytes_open() {
    for fixture in [PLAIN, COMPRESSED] {
        assert_same(&every_feature(), &read(&unhex(fixture)).unwrap());
    }
}

/// The bytes that docs/changeset-format.md takes apart.
#[test]
fn the_documented_example() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/changeset-format.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let example = text.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    let bytes: String = example.lines().filter_map(|line| line.split(';').next()).collect();
    let written = |i: i64| [group(&[0, 1], &[0, 1], (1, 0, 0, 2 * i))];
    let values = [
        [Value::Int(10), Value::text("x")],
        [Value::Int(11), Value::Null],
        [Value::Int(12), Value::text("yz")],
    ];
    let rows = (0..).zip(values).map(|(i, v)| row(int_key(i + 1), 1, None, &written(i), &v));
    let example = Changeset {
        header: Header { site: SiteId([0xaa; 16]), lineage: None },
        sites: vec![SiteId([0xaa; 16])],
        transactions: vec![Transaction {
            origin: 0,
            version: 7,
            clock: 1000,
            nonce: 0x0807_0605_0403_0201,
            chain: 0x1817_1615_1413_1211,
            relay: false,
            db_version: 9,
        }],
        empty_ranges: vec![EmptyRange { site: 0, from: 5, to: 6, chain: 0x2827_2625_2423_2221 }],
        base: vec![EmptyRange { site: 0, from: 1, to: 4, chain: 0x3837_3635_3433_3231 }],
        tables: vec![Table {
            name: "t".into(),
            keys: names(&["k"]),
            columns: names(&["a", "b"]),
            more: More::new(),
            waiting: false,
            rows: rows.collect(),
        }],
    };
    assert_eq!(hex(&unhex(&bytes)), hex(&write(&example, false).unwrap()), "{}", path.display());
}
