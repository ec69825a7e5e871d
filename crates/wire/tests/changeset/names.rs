//! The names of a schema, and what a hostile peer can make of them.

use rejoin_wire::{Error, Name, Naming, SchemaNames, TableNames};

use crate::forge::{sized, varint};

fn naming(all: &[(&'static str, u32)]) -> Naming<'static> {
    let mut all = all.iter().map(|(text, life)| Name { text, life: *life });
    Naming { current: all.next().unwrap(), others: all.collect() }
}

fn some() -> SchemaNames<'static> {
    SchemaNames {
        tables: vec![
            TableNames {
                table: naming(&[("book", 1), ("Books", 0)]),
                columns: vec![
                    naming(&[("old_price", 0), ("price", 0)]),
                    naming(&[("price", 1)]),
                    naming(&[("x", 0)]),
                ],
                dropped: vec![Name { text: "price", life: 2 }],
            },
            TableNames { table: naming(&[("", 0)]), columns: vec![], dropped: vec![] },
        ],
        dropped: vec![Name { text: "book", life: 0 }],
    }
}

#[test]
fn the_bytes_stay() {
    let bytes = some().encode().unwrap();
    let expected: Vec<u8> = [
        &[2][..],
        // The table is of life 1 and was Books; the first column was price, and the second is price of life 1.
        b"\x04book\x03\x09old_price\x05price\x01x\x08\x01\x01\x00\x05Books\x00\x02\x05price\x00\x03\x01\x01\x05price\x02",
        b"\x00\x00\x00\x00",
        b"\x01\x04book\x00",
    ]
    .concat();
    assert_eq!(bytes, expected);
    assert_eq!(SchemaNames::decode(&bytes).unwrap(), some());
    assert_eq!(SchemaNames::decode(&[0, 0]).unwrap(), SchemaNames::default());
}

#[test]
fn damage_is_refused() {
    let good = some().encode().unwrap();
    for len in 0..good.len() {
        assert!(SchemaNames::decode(&good[..len]).is_err(), "{len} bytes");
    }
    for at in 0..good.len() {
        for new in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = new;
            if let Ok(names) = SchemaNames::decode(&bad) {
                assert_eq!(names.encode().unwrap(), bad);
            }
        }
    }
}

#[test]
fn what_no_schema_says_is_refused() {
    let table = |name: &[u8], rest: &[u8]| [&sized(name)[..], rest].concat();
    let what = |parts: &[&[u8]]| match SchemaNames::decode(&parts.concat()) {
        Err(Error::Malformed { what } | Error::TooLarge { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    const COUNT: &str = "a count is larger than its content";
    assert_eq!(what(&[&varint(u64::MAX)]), COUNT);
    assert_eq!(what(&[&varint(65_537), &[0; 4 * 65_537]]), "tables");
    assert_eq!(what(&[&[1], &table(b"t", &varint(1 << 40))]), COUNT);
    assert_eq!(what(&[&[1], &table(b"t", &varint(32_768)), &[0; 32_768]]), "columns of a table");
    assert_eq!(what(&[&[1], &table(b"t", &[0, 0]), &varint(1 << 40)]), COUNT);
    assert_eq!(what(&[&[1], &table(b"t", &[0, 0]), &varint(65_537), &[0; 2 * 65_537]]), "dropped names");
    assert_eq!(what(&[&[1], &table(b"t", &[0, 1]), &[0, 0, 0]]), "a schema of columns that are not there");
    assert_eq!(what(&[&[1], &table(b"t", &[1, 1, b'a', 0, 1, 1, b'A', 0, 0])]), "two columns of one name");
    assert_eq!(what(&[&[1], &table(b"t", &[0, 0, 0]), &[1, 1, b'T', 0]]), "two tables of one name");
    assert_eq!(
        what(&[&[2], &table(b"t", &[0, 0, 0]), &table(b"T", &[0, 0, 0]), &[0]]),
        "two tables of one name"
    );
    assert_eq!(what(&[&[0, 1, 1, b't'], &varint((1 << 20) + 1)]), "life of a name");
    assert_eq!(what(&[&[0, 1, 1, b't'], &varint(u64::MAX)]), "life of a name");
    assert_eq!(what(&[&[0, 1, 1, 0xff, 0]]), "a name is not UTF-8");
    assert_eq!(what(&[&[0, 0, 0]]), "bytes left over behind the names");
    let twice = naming(&[("a", 0)]);
    let bad = TableNames { table: naming(&[("t", 0)]), columns: vec![twice.clone(), twice], dropped: vec![] };
    assert!(SchemaNames { tables: vec![bad], dropped: vec![] }.encode().is_err());
}
