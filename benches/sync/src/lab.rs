//! A scratch directory, files in it, and rows to put into them.

use crate::Result;
use rejoin::Replica;
use rusqlite::params;
use std::path::PathBuf;

pub struct Lab {
    pub rejoin: PathBuf,
    pub quick: bool,
    pub profile: bool,
    dir: tempfile::TempDir,
}

/// An article of a bookshop: a key and four cells.
pub const TABLE: &str = "CREATE TABLE article (id INTEGER PRIMARY KEY NOT NULL, title TEXT, author TEXT, stock INTEGER, \
    price REAL)";

impl Lab {
    pub fn new(rejoin: PathBuf, quick: bool, profile: bool) -> Result<Lab> {
        Ok(Lab { rejoin, quick, profile, dir: tempfile::Builder::new().prefix("rejoin-bench").tempdir()? })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many: in a real run, and in a quick one.
    pub fn sized<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A replica in WAL mode, as `rejoin init` makes one.
    pub fn replica(&self, name: &str) -> Result<Replica> {
        let replica = Replica::open(self.path(name))?;
        replica.connection().pragma_update(None, "journal_mode", "wal")?;
        Ok(replica)
    }

    /// The same with an empty table.
    pub fn with_table(&self, name: &str) -> Result<Replica> {
        let replica = self.replica(name)?;
        replica.connection().execute_batch(TABLE)?;
        replica.replicate("article")?;
        Ok(replica)
    }
}

/// Some words of text, the same in every run.
const WORDS: [&str; 16] = [
    "river", "winter", "garden", "silence", "letters", "island", "memory", "night", "glass", "mountain",
    "stranger", "house", "summer", "shadow", "ocean", "paper",
];

/// SplitMix64 of a number.
pub fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes articles in transactions of so many rows.
pub fn insert_articles(replica: &Replica, ids: std::ops::RangeInclusive<i64>, each: usize) -> Result<()> {
    let conn = replica.connection();
    let mut insert = conn.prepare("INSERT INTO article VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let ids: Vec<i64> = ids.collect();
    for some in ids.chunks(each) {
        conn.execute_batch("BEGIN")?;
        for &id in some {
            let r = random(id as u64);
            let word = |at: u32| WORDS.get((r >> at) as usize % WORDS.len()).copied().unwrap_or("");
            let title = format!("The {} of the {} {}", word(0), word(4), word(8));
            let author = format!("{}. {}{}", char::from(b'A' + (r >> 12) as u8 % 26), word(20), r % 97);
            insert.execute(params![
                id,
                title,
                author,
                ((r >> 32) % 200) as i64,
                4.0 + ((r >> 40) % 4000) as f64 / 100.0
            ])?;
        }
        conn.execute_batch("COMMIT")?;
    }
    Ok(())
}
