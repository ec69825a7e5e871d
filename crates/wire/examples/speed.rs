//! CPU time to write and read 100,000 rows of an integer key and four columns:
//! `cargo run --release -p rejoin-wire --example speed`.

use std::hint::black_box;
use std::time::Instant;

use rejoin_crdt::meta::{ColSet, Stamp};
use rejoin_crdt::{SiteId, ValueRef};
use rejoin_wire::{GroupRecord, Header, Naming, Reader, Result, RowRecord, Transaction, Writer};

const ROWS: i64 = 100_000;

fn key(id: i64) -> Vec<u8> {
    let digits = id.to_be_bytes();
    let skip = (id.leading_zeros() / 8) as usize;
    let mut out = vec![1, ((8 - skip) as u8) << 3 | 1];
    out.extend_from_slice(&digits[skip..]);
    out
}

fn write(keys: &[Vec<u8>], texts: &[String], compress: bool) -> Result<Vec<u8>> {
    let mut w = Writer::new(Header { site: SiteId([7; 16]), lineage: None });
    let site = w.site(&SiteId([7; 16]));
    let transaction =
        Transaction { origin: site, version: 1, clock: 1, nonce: 2, chain: 3, relay: false, db_version: 1 };
    let index = w.transaction(transaction);
    w.begin_table(
        &Naming::new("item"),
        &["id"],
        &["title", "stock", "price", "note"].map(Naming::new),
        false,
    )?;
    let stamp = Stamp { col_version: 1, db_version: i64::from(index), site };
    let cols = ColSet::from_low(0b1111);
    let mut record = RowRecord { cl: 1, ..RowRecord::default() };
    record.groups.push(GroupRecord { live: cols.clone(), cols, stamp, seq: 0 });
    for (i, (key, text)) in keys.iter().zip(texts).enumerate() {
        record.groups[0].seq = i as i64 * 4;
        let price = (i % 5000) as f64 / 100.0;
        let values = [
            ValueRef::Text(text.as_bytes()),
            ValueRef::Int(i as i64 * 7919 % 1000),
            ValueRef::Real(price),
            ValueRef::Null,
        ];
        w.row(key, &record, values)?;
    }
    w.finish(compress)
}

fn read(bytes: &[u8]) -> Result<i64> {
    let mut reader = Reader::open(bytes)?;
    let mut sum = 0;
    while let Some(mut table) = reader.next_table()? {
        while let Some(row) = table.next_row()? {
            sum += row.values.len() as i64 + row.key.len() as i64 + row.meta.groups[0].seq;
        }
    }
    Ok(sum)
}

/// The fastest of several runs, in milliseconds: one thread that waits for nothing, so this is CPU time.
fn best_ms<T>(mut run: impl FnMut() -> T) -> f64 {
    let once = |run: &mut dyn FnMut() -> T| {
        let start = Instant::now();
        black_box(run());
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..15).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<()> {
    let keys: Vec<Vec<u8>> = (1..=ROWS).map(key).collect();
    let texts: Vec<String> = (0..ROWS).map(|i| format!("title of the book number {i}")).collect();
    for compress in [false, true] {
        let bytes = write(&keys, &texts, compress)?;
        let write_ms = best_ms(|| write(&keys, &texts, compress));
        let read_ms = best_ms(|| read(&bytes));
        let size = bytes.len() as f64 / ROWS as f64;
        println!("compress {compress}: write {write_ms:.1} ms, read {read_ms:.1} ms, {size:.1} bytes a row");
    }
    Ok(())
}
