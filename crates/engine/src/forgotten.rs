//! Starting over from a snapshot that is older than what this replica has forgotten: the room was restored from a backup.
//!
//! Rows that were deleted since stand in the snapshot, and no tombstone is left here to tell of them. But a row of which
//! everything in the snapshot was held here once, and of which nothing is known here any more, was deleted: so it is
//! deleted there again.

use crate::VersionVector;
use crate::checked::RowKey;
use crate::error::Result;
use crate::format::quote;
use crate::replica::Replica;
use rusqlite::params_from_iter;
use rusqlite::types::Value;

/// A table of both, by its key.
struct Keyed {
    name: String,
    /// The key's columns, quoted.
    keys: Vec<String>,
}

impl Keyed {
    /// `k1 IS ?1 AND k2 IS ?2`, which uses the key's index.
    fn matches(&self) -> String {
        let terms = self.keys.iter().enumerate().map(|(i, key)| format!("{key} IS ?{}", i + 1));
        terms.collect::<Vec<_>>().join(" AND ")
    }
}

/// A row, by its key.
type Key = Vec<Value>;

/// Deletes from the snapshot, which held `theirs` when it came, what was deleted in the old file and is forgotten there; how
/// many rows.
pub fn delete_again(old: &Replica, snapshot: &Replica, theirs: &VersionVector) -> Result<u64> {
    // A snapshot that has all of the horizon has what was deleted below it.
    if theirs.covers(&old.horizon()?) {
        return Ok(0);
    }
    let held = old.vector()?;
    let mut deleted = 0;
    for table in tables(old, snapshot)? {
        let gone = gone(old, snapshot, &table, &held)?;
        // What else hangs on a row was deleted by its own.
        let sql = format!("DELETE FROM main.{} WHERE {}", quote(&table.name), table.matches());
        let mut delete = snapshot.connection().prepare(&sql)?;
        for key in gone {
            deleted += delete.execute(params_from_iter(&key))? as u64;
        }
    }
    Ok(deleted)
}

fn tables(old: &Replica, snapshot: &Replica) -> Result<Vec<Keyed>> {
    let of = |replica: &Replica| {
        replica.reading(|e| {
            let all = e.core()?.catalog.sorted();
            let keyed = all.iter().map(|t| Keyed {
                name: t.name.clone(),
                keys: t.keys.iter().map(|k| quote(&k.name)).collect(),
            });
            Ok(keyed.collect::<Vec<_>>())
        })
    };
    let known = of(old)?;
    let mut both = of(snapshot)?;
    both.retain(|t| known.iter().any(|k| k.name.eq_ignore_ascii_case(&t.name)));
    Ok(both)
}

/// Rows of the snapshot that were held in the old file once and are unknown there now.
fn gone(old: &Replica, snapshot: &Replica, table: &Keyed, held: &VersionVector) -> Result<Vec<Key>> {
    let (name, keys) = (quote(&table.name), table.keys.join(", "));
    let mut rows = snapshot
        .connection()
        .prepare(&format!("SELECT crsql_pack_columns({keys}), {keys} FROM main.{name}"))?;
    let mut here =
        old.connection().prepare(&format!("SELECT 1 FROM main.{name} WHERE {}", table.matches()))?;
    let mut rows = rows.query([])?;
    let mut gone = Vec::new();
    while let Some(row) = rows.next()? {
        let key = (1..=table.keys.len()).map(|i| row.get(i)).collect::<rusqlite::Result<Key>>()?;
        if here.exists(params_from_iter(&key))? {
            continue;
        }
        let at = [RowKey { table: table.name.clone(), pk: row.get(0)? }];
        // It waits here, or its tombstone does.
        if !writers(old, &at)?.is_empty() {
            continue;
        }
        if held.covers(&writers(snapshot, &at)?) {
            gone.push(key);
        }
    }
    Ok(gone)
}

/// The transactions of which something is left in a row.
fn writers(replica: &Replica, at: &[RowKey]) -> Result<VersionVector> {
    let bytes = replica.row_states(at)?;
    let reader = rejoin_wire::Reader::open(&bytes).map_err(crate::changeset::wire)?;
    let mut all = VersionVector::new();
    for t in reader.transactions() {
        if let Some(site) = reader.sites().get(t.origin as usize) {
            all.insert_range(*site, t.version..=t.version);
        }
    }
    Ok(all)
}
