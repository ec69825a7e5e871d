//! What the writer refuses, so that no reader has to.

use rejoin_crdt::meta::{ColSet, Sentinel, Stamp};
use rejoin_crdt::{SiteId, ValueRef};
use rejoin_wire::{
    EmptyRange, Error, GroupRecord, Header, Name, Naming, Result, RowRecord, Transaction, Writer,
};

const TRANSACTION: Transaction =
    Transaction { origin: 0, version: 1, clock: 0, nonce: 0, chain: 0, relay: false, db_version: 0 };

fn writer() -> Writer {
    let mut w = Writer::new(Header { site: SiteId([1; 16]), lineage: None });
    w.site(&SiteId([1; 16]));
    w.transaction(TRANSACTION);
    w
}

fn record() -> RowRecord {
    let stamp = Stamp { col_version: 1, db_version: 0, site: 0 };
    let cols = ColSet::from_low(0b11);
    let group = GroupRecord { live: cols.clone(), cols, stamp, seq: 0 };
    RowRecord { cl: 1, sentinel: None, groups: [group].into_iter().collect() }
}

const VALUES: [ValueRef<'static>; 2] = [ValueRef::Int(1), ValueRef::Null];

/// Writes one changed row between two good ones; the error must come at once and stay.
fn refused(change: impl Fn(&mut RowRecord)) -> &'static str {
    let mut w = writer();
    w.begin_table(&Naming::new("t"), &["k"], &["a", "b"].map(Naming::new), false).unwrap();
    w.row(&[1, 9, 1], &record(), VALUES).unwrap();
    let mut bad = record();
    change(&mut bad);
    let error = w.row(&[1, 9, 2], &bad, VALUES).unwrap_err();
    assert_eq!(w.row(&[1, 9, 3], &record(), VALUES), Err(error.clone()));
    assert_eq!(w.finish(false), Err(error.clone()));
    match error {
        Error::Invalid { what } => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records() {
    assert_eq!(refused(|r| r.cl = 0), "a causal length out of range");
    assert_eq!(refused(|r| r.cl = (1 << 31) + 1), "a causal length out of range");
    let sentinel = Sentinel { db_version: 0, site: 0, seq: -1 };
    assert_eq!(refused(|r| r.sentinel = Some(sentinel)), "a sequence number out of range");
    let unlisted = "a row of a transaction that is not listed";
    assert_eq!(refused(|r| r.groups[0].stamp.db_version = 1), unlisted);
    assert_eq!(refused(|r| r.groups[0].stamp.site = 1), "a row of a site that is not listed");
    assert_eq!(refused(|r| r.groups[0].stamp.col_version = 1 << 53), "a column version out of range");
    assert_eq!(refused(|r| r.groups[0].seq = (1 << 53) - 1), "a sequence number out of range");
    let columns = "a group without columns, or of a column that is not listed";
    assert_eq!(refused(|r| r.groups[0].cols.insert(2)), columns);
    assert_eq!(refused(|r| r.groups[0].live.insert(2)), "live columns outside their group, or none");
    assert_eq!(refused(|r| r.groups[0].live = ColSet::EMPTY), "live columns outside their group, or none");
    assert_eq!(refused(|r| r.groups.push(r.groups[0].clone())), "a cell in two groups");
    assert_eq!(refused(|r| r.groups[0].live.remove(0)), "more values than live columns");
    assert_eq!(refused(|r| r.groups.clear()), "more values than live columns");
}

#[test]
fn rows_without_key_values_or_table() {
    let row = |key: &[u8], values: &[ValueRef<'_>]| -> Result<()> {
        let mut w = writer();
        w.begin_table(&Naming::new("t"), &["k"], &["a", "b"].map(Naming::new), false)?;
        w.row(key, &record(), values.iter().copied())
    };
    assert_eq!(row(&[], &VALUES), Err(Error::Invalid { what: "an empty key" }));
    assert_eq!(row(&[0], &VALUES[..1]), Err(Error::Invalid { what: "fewer values than live columns" }));
    assert_eq!(row(&[0], &VALUES), Ok(()));
    let error = writer().row(&[0], &record(), VALUES);
    assert_eq!(error, Err(Error::Invalid { what: "a row before any table" }));
}

fn naming<'n>(all: &[(&'n str, u32)]) -> Naming<'n> {
    let mut all = all.iter().map(|(text, life)| Name { text, life: *life });
    Naming { current: all.next().unwrap(), others: all.collect() }
}

#[test]
fn names() {
    let begin = |table: &[(&str, u32)], column: &[(&str, u32)]| {
        let other = Naming { current: Name { text: "b", life: 1 }, others: vec![] };
        writer().begin_table(&naming(table), &["k"], &[naming(column), other], false).err()
    };
    let twice = Some(Error::Invalid { what: "two columns of one name" });
    assert_eq!(begin(&[("t", 3)], &[("a", 0), ("b", 0), ("a", 1)]), None);
    assert_eq!(begin(&[("t", 0)], &[("a", 0), ("B", 1)]), twice);
    assert_eq!(begin(&[("t", 0)], &[("a", 0), ("A", 0)]), twice);
    assert_eq!(begin(&[("t", 0), ("s", 2), ("T", 0)], &[("a", 0)]), twice);
    let life = Some(Error::TooLarge { what: "life of a name", limit: 1 << 20 });
    assert_eq!(begin(&[("t", (1 << 20) + 1)], &[("a", 0)]), life);
    assert_eq!(begin(&[("t", 0)], &[("a", 0), ("c", u32::MAX)]), life);
    let many: Vec<(&str, u32)> = (0..65_536).map(|life| ("a", life)).collect();
    assert!(matches!(begin(&[("t", 0)], &many), Some(Error::TooLarge { what: "names of a table", .. })));
}

#[test]
fn tables_and_log() {
    let table = |keys: &[&str], columns: &[&str]| {
        let columns: Vec<Naming<'_>> = columns.iter().copied().map(Naming::new).collect();
        writer().begin_table(&Naming::new("t"), keys, &columns, false).err()
    };
    assert_eq!(table(&["k"], &[]), None);
    assert_eq!(table(&[], &["a"]), Some(Error::Invalid { what: "a table without a key" }));
    assert_eq!(table(&["k", "K"], &[]), Some(Error::Invalid { what: "two key columns of one name" }));
    assert_eq!(table(&["k"], &["a", "A"]), Some(Error::Invalid { what: "two columns of one name" }));
    assert_eq!(table(&["k"], &["k"]), None, "a column may have been called so");
    assert!(matches!(table(&["k"; 40_000], &[]), Some(Error::TooLarge { .. })));
    let log = |change: fn(&mut Transaction)| {
        let (mut w, mut t) = (writer(), TRANSACTION);
        change(&mut t);
        w.transaction(t);
        w.finish(false).err()
    };
    let bad = Some(Error::Invalid { what: "a transaction with a number out of range" });
    assert_eq!(log(|_| ()), None);
    assert_eq!(log(|t| t.origin = 1), bad);
    assert_eq!(log(|t| t.version = 0), bad);
    assert_eq!(log(|t| t.db_version = -1), bad);
    for (site, from, to) in [(1, 1, 1), (0, 0, 1), (0, 2, 1), (0, 1, 1 << 53)] {
        let mut w = writer();
        w.empty_range(EmptyRange { site, from, to, chain: 0 });
        let error = Error::Invalid { what: "an empty range with a number out of range" };
        assert_eq!(w.finish(false), Err(error));
    }
}

#[test]
fn only_row_states_have_absent_rows_and_these_have_nothing() {
    let absent = RowRecord::default();
    let states = || {
        let mut w = writer().row_states();
        w.begin_table(&Naming::new("t"), &["k"], &["a", "b"].map(Naming::new), false).unwrap();
        w
    };
    let mut w = states();
    w.row(&[1, 9, 1], &absent, []).unwrap();
    w.row(&[1, 9, 2], &record(), VALUES).unwrap();
    w.row(&[1, 9, 3], &absent, []).unwrap();
    w.row(&[1, 9, 4], &absent, []).unwrap();
    for compress in [false, true] {
        let mut again = states();
        again.row(&[1, 9, 1], &absent, []).unwrap();
        again.row(&[1, 9, 2], &record(), VALUES).unwrap();
        again.row(&[1, 9, 3], &absent, []).unwrap();
        (0..100).for_each(|i| again.row(&[1, 9, i], &absent, []).unwrap());
        let bytes = again.finish(compress).unwrap();
        let reader = rejoin_wire::Reader::open(&bytes).unwrap();
        assert!(reader.is_row_states());
        let mut rows = reader.table(0).unwrap();
        let mut cls = Vec::new();
        while let Some(row) = rows.next_row().unwrap() {
            cls.push(row.meta.cl);
        }
        assert_eq!((&cls[..4], cls.len()), (&[0, 1, 0, 0][..], 103));
    }
    let bytes = w.finish(false).unwrap();
    // The same bytes under the flags of a cut.
    let mut cut = bytes[..bytes.len() - 16].to_vec();
    cut[5] = 0;
    let hash = blake3::hash(&cut);
    cut.extend_from_slice(&hash.as_bytes()[..16]);
    let reader = rejoin_wire::Reader::open(&cut).unwrap();
    assert!(!reader.is_row_states());
    let error = reader.table(0).unwrap().next_row().unwrap_err();
    assert_eq!(error, Error::Malformed { what: "a causal length out of range" });
    let sentinel = Some(Sentinel { db_version: 0, site: 0, seq: 0 });
    let bad = [RowRecord { sentinel, ..absent.clone() }, RowRecord { cl: 0, ..record() }];
    for record in bad {
        let error = states().row(&[1, 9, 1], &record, VALUES).unwrap_err();
        assert_eq!(error, Error::Invalid { what: "a causal length out of range" });
    }
}
