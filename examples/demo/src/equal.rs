//! Whether two shops hold the same rows.

use crate::Result;
use rejoin::Replica;
use rusqlite::types::Value;

/// The number of rows if all tables are equal; else an error that names the first differing row.
pub fn compare(a: &Replica, b: &Replica) -> Result<u64> {
    let mut count = 0;
    for table in ["books", "sales"] {
        let (left, right) = (rows(a, table)?, rows(b, table)?);
        let pairs = left.iter().zip(&right);
        if let Some((x, y)) = pairs.into_iter().find(|(x, y)| x != y) {
            return Err(format!("{table} differ: {x:?} in the north, {y:?} in the south").into());
        }
        if left.len() != right.len() {
            return Err(
                format!("{table}: {} rows in the north, {} in the south", left.len(), right.len()).into()
            );
        }
        count += left.len() as u64;
    }
    Ok(count)
}

fn rows(shop: &Replica, table: &str) -> Result<Vec<Vec<Value>>> {
    let mut q = shop.connection().prepare(&format!("SELECT * FROM {table} ORDER BY 1"))?;
    let width = q.column_count();
    let rows = q.query_map([], |row| (0..width).map(|i| row.get(i)).collect())?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
