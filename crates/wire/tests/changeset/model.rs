//! A changeset as plain data, and the way through writer and reader and back.

use rejoin_crdt::{SiteId, Value, ValueRef};
use rejoin_wire::{EmptyRange, Header, Name, Naming, Reader, Result, RowRecord, Transaction, Writer};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Changeset {
    pub header: Header,
    pub sites: Vec<SiteId>,
    pub transactions: Vec<Transaction>,
    pub empty_ranges: Vec<EmptyRange>,
    pub base: Vec<EmptyRange>,
    pub tables: Vec<Table>,
}

/// Of the table (0) and its columns (1, 2, ...): the life of the name, and further names with theirs.
pub type More = BTreeMap<usize, (u32, Vec<(String, u32)>)>;

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub keys: Vec<String>,
    pub columns: Vec<String>,
    pub more: More,
    pub waiting: bool,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub key: Vec<u8>,
    pub record: RowRecord,
    pub values: Vec<Value>,
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn naming<'n>(text: &'n str, subject: usize, more: &'n More) -> Naming<'n> {
    let mut naming = Naming::new(text);
    if let Some((life, others)) = more.get(&subject) {
        naming.current.life = *life;
        naming.others = others.iter().map(|(text, life)| Name { text, life: *life }).collect();
    }
    naming
}

/// What is not one name of life 0.
fn more<'n>(all: impl Iterator<Item = &'n Naming<'n>>) -> More {
    let of = |n: &Naming<'_>| {
        let others: Vec<(String, u32)> = n.others.iter().map(|n| (n.text.to_owned(), n.life)).collect();
        (n.current.life, others)
    };
    all.map(of).enumerate().filter(|(_, m)| *m != (0, Vec::new())).collect()
}

pub fn write(c: &Changeset, compress: bool) -> Result<Vec<u8>> {
    let mut w = Writer::new(c.header);
    for (i, site) in c.sites.iter().enumerate() {
        assert_eq!(w.site(site), i as u32);
        assert_eq!(w.site(site), i as u32);
    }
    for (i, t) in c.transactions.iter().enumerate() {
        assert_eq!(w.transaction(*t), i as u32);
    }
    c.empty_ranges.iter().for_each(|r| w.empty_range(*r));
    c.base.iter().for_each(|r| w.base_range(*r));
    for t in &c.tables {
        let columns: Vec<Naming<'_>> =
            t.columns.iter().enumerate().map(|(i, n)| naming(n, i + 1, &t.more)).collect();
        w.begin_table(&naming(&t.name, 0, &t.more), &strs(&t.keys), &columns, t.waiting)?;
        for r in &t.rows {
            w.row(&r.key, &r.record, r.values.iter().map(Value::as_ref))?;
        }
    }
    w.finish(compress)
}

pub fn read(bytes: &[u8]) -> Result<Changeset> {
    let mut reader = Reader::open(bytes)?;
    let infos: Vec<(String, u64)> =
        reader.tables().map(|t| (t.name.current.text.to_owned(), t.rows)).collect();
    let mut tables = Vec::new();
    while let Some(mut t) = reader.next_table()? {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let texts: Vec<&str> = t.columns().iter().map(|n| n.current.text).collect();
        let (keys, columns, name) = (owned(t.keys()), owned(&texts), t.name().current.text.to_owned());
        let more = more([t.name()].into_iter().chain(t.columns()));
        let mut rows = Vec::new();
        while let Some(row) = t.next_row()? {
            assert_eq!(row.columns, row.meta.live().iter().collect::<Vec<_>>());
            assert_eq!(row.columns.len(), row.values.len());
            rows.push(Row {
                key: row.key.to_vec(),
                record: row.meta.clone(),
                values: row.values.iter().copied().map(ValueRef::to_owned).collect(),
            });
        }
        assert_eq!(infos[tables.len()], (name.clone(), rows.len() as u64));
        tables.push(Table { name, keys, columns, more, waiting: t.is_waiting(), rows });
    }
    assert_eq!(infos.len(), tables.len());
    Ok(Changeset {
        header: *reader.header(),
        sites: reader.sites().to_vec(),
        transactions: reader.transactions().to_vec(),
        empty_ranges: reader.empty_ranges().to_vec(),
        base: reader.base().to_vec(),
        tables,
    })
}

/// Values to the bit: NaN equals itself, 0.0 is not -0.0, text is not a blob.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a.as_ref(), b.as_ref()) {
        (ValueRef::Null, ValueRef::Null) => true,
        (ValueRef::Int(a), ValueRef::Int(b)) => a == b,
        (ValueRef::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (ValueRef::Text(a), ValueRef::Text(b)) | (ValueRef::Blob(a), ValueRef::Blob(b)) => a == b,
        _ => false,
    }
}

pub fn assert_same(a: &Changeset, b: &Changeset) {
    assert_eq!((a.header, &a.sites), (b.header, &b.sites));
    assert_eq!((&a.transactions, &a.empty_ranges, &a.base), (&b.transactions, &b.empty_ranges, &b.base));
    assert_eq!(a.tables.len(), b.tables.len());
    for (a, b) in a.tables.iter().zip(&b.tables) {
        assert_eq!((&a.name, &a.keys, &a.columns), (&b.name, &b.keys, &b.columns));
        assert_eq!((&a.more, a.waiting), (&b.more, b.waiting));
        assert_eq!(a.rows.len(), b.rows.len());
        for (i, (a, b)) in a.rows.iter().zip(&b.rows).enumerate() {
            assert_eq!((&a.key, &a.record), (&b.key, &b.record), "row {i}");
            assert_eq!(a.values.len(), b.values.len());
            let same = a.values.iter().zip(&b.values).all(|(a, b)| same_value(a, b));
            assert!(same, "row {i}: {:?} is not {:?}", a.values, b.values);
        }
    }
}

/// The packed form of a key of one integer.
pub fn int_key(v: i64) -> Vec<u8> {
    let skip = (v as u64).leading_zeros() as usize / 8;
    let mut out = vec![1, ((8 - skip) as u8) << 3 | 1];
    out.extend_from_slice(&v.to_be_bytes()[skip..]);
    out
}
