//! The application: its tables, and what it writes.

use crate::dice::Dice;
use crate::ledger::{Cell, End, Transaction};
use crate::weather::Weather;
use rejoin::{Replica, Value};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::collections::{BTreeMap, BTreeSet};

/// The rows of `own`, and the bundles of pairs.
const OWN: u64 = 6;
const PAIRS: u64 = 4;
/// Keys of the tables in which anything may happen.
const KEYS: u64 = 9;

pub const TABLES: [&str; 8] = ["receipt", "own", "pair_a", "pair_b", "mark", "stock", "line", "word"];

/// Columns that come later, one by one.
pub const STEPS: [&str; 4] = [
    "ALTER TABLE own ADD COLUMN extra INTEGER",
    "ALTER TABLE stock ADD COLUMN shelf TEXT NOT NULL DEFAULT 'A1'",
    "ALTER TABLE line ADD COLUMN price REAL DEFAULT 0.5",
    "ALTER TABLE word ADD COLUMN seen INTEGER NOT NULL DEFAULT 0",
];

pub fn create(replica: &Replica, w: &Weather) {
    let tail = if w.without_rowid { "WITHOUT ROWID" } else { "" };
    let sql = format!(
        "CREATE TABLE receipt (id INTEGER PRIMARY KEY, node INTEGER);
         CREATE TABLE own (id INTEGER PRIMARY KEY, v INTEGER, note INTEGER);
         CREATE TABLE pair_a (k TEXT PRIMARY KEY NOT NULL, v INTEGER) {tail};
         CREATE TABLE pair_b (a INTEGER NOT NULL, b TEXT NOT NULL, v INTEGER, PRIMARY KEY (a, b)) {tail};
         CREATE TABLE mark (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
         CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER NOT NULL);
         CREATE TABLE line (a INTEGER NOT NULL, b TEXT NOT NULL, qty INTEGER, note, PRIMARY KEY (a, b)) {tail};
         CREATE TABLE word (w TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, n) {tail};"
    );
    replica.connection().execute_batch(&sql).expect("tables");
    for table in TABLES {
        replica.replicate(table).expect("a replicated table");
    }
}

pub fn configure(replica: &Replica, w: &Weather) {
    let set = |name: &str, value: &dyn rusqlite::ToSql| {
        let sql = "SELECT crsql_config_set(?1, ?2)";
        replica.connection().query_row(sql, params![name, value], |_| Ok(())).expect("a setting");
    };
    set("clock", &if w.lamport { "lamport" } else { "hlc" });
    set("merge-equal-values", &i64::from(w.equal_values));
}

pub fn has_tables(conn: &Connection) -> bool {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('receipt', 'word') AND type = 'table'";
    conn.query_row(sql, [], |r| r.get::<_, i64>(0)).expect("a count") == 2
}

fn has_column(conn: &Connection, table: &str, column: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2)";
    conn.query_row(sql, [table, column], |r| r.get(0))
}

/// Takes a step of the schema, if the column is not there yet.
pub fn take_step(conn: &Connection, step: usize) -> Result<bool> {
    let sql = STEPS[step];
    let words: Vec<&str> = sql.split(' ').collect();
    if has_column(conn, words[2], words[5])? {
        return Ok(false);
    }
    conn.execute_batch(sql)?;
    Ok(true)
}

/// One statement or some, of one kind, in the open transaction.
struct Write<'a> {
    conn: &'a Connection,
    dice: &'a mut Dice,
    weather: &'a Weather,
    number: i64,
    done: Transaction,
    told: Vec<String>,
}

/// Writes a transaction; what it wrote, and in words. An error: nothing was written.
pub fn transaction(
    conn: &Connection,
    dice: &mut Dice,
    weather: &Weather,
    number: i64,
    node: usize,
) -> Result<(Transaction, String)> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let done = Transaction { node, ..Transaction::default() };
    let mut write = Write { conn, dice, weather, number, done, told: Vec::new() };
    let wrote = write.all();
    let ended = match &wrote {
        Ok(()) => conn.execute_batch("COMMIT"),
        Err(_) => Ok(()),
    };
    let (done, told) = (write.done, write.told.join("; "));
    if wrote.is_err() || ended.is_err() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    wrote.and(ended)?;
    Ok((done, told))
}

impl Write<'_> {
    fn all(&mut self) -> Result<()> {
        let (number, node) = (self.number, self.done.node as i64);
        self.conn.execute("INSERT INTO receipt (id, node) VALUES (?1, ?2)", [number, node])?;
        for _ in 0..1 + self.dice.below(3) {
            match self.dice.below(10) {
                0 | 1 => self.own()?,
                2 => self.pair()?,
                3 | 4 => self.mark()?,
                5 | 6 => self.stock()?,
                7 | 8 => self.line()?,
                _ => self.word()?,
            }
        }
        if self.dice.one_in(12) {
            self.savepoint()?;
        }
        Ok(())
    }

    fn note(&mut self, what: String) {
        self.told.push(what);
    }

    fn own(&mut self) -> Result<()> {
        let (id, number) = (self.dice.below(OWN) as i64, self.number);
        let column = self.dice.pick(&["v", "note"]);
        let sql = format!("SELECT {column} FROM own WHERE id = ?1");
        let before: Option<i64> = self.conn.query_row(&sql, [id], |r| r.get(0)).optional()?;
        match before {
            // An insert writes every column.
            None => {
                self.conn.execute("INSERT INTO own (id, v, note) VALUES (?1, ?2, ?2)", [id, number])?;
                self.done.cells.extend([((id, "v"), None), ((id, "note"), None)]);
            }
            Some(before) if before != number => {
                self.conn.execute(&format!("UPDATE own SET {column} = ?2 WHERE id = ?1"), [id, number])?;
                self.done.cells.push(((id, column), Some(before)));
            }
            Some(_) => {}
        }
        self.note(format!("own {id} {column}, was {before:?}"));
        Ok(())
    }

    fn pair(&mut self) -> Result<()> {
        let (i, number) = (self.dice.below(PAIRS) as i64, self.number);
        // The second of two writes of one value counts for REPLACE alone.
        let there = "SELECT EXISTS (SELECT 1 FROM pair_a WHERE v = ?1)";
        if self.conn.query_row(there, [number], |r| r.get(0))? {
            return Ok(());
        }
        self.conn.execute("INSERT OR REPLACE INTO pair_a (k, v) VALUES ('p' || ?1, ?2)", [i, number])?;
        for b in ["x", "y"] {
            self.conn.execute(
                "INSERT INTO pair_b (a, b, v) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET v = ?3",
                params![i, b, number],
            )?;
        }
        self.note(format!("pair {i}"));
        Ok(())
    }

    fn mark(&mut self) -> Result<()> {
        let number = self.number;
        let marks: Vec<i64> = column(self.conn, "SELECT id FROM mark ORDER BY id")?;
        match self.dice.below(3) {
            0 if !marks.is_empty() => {
                let mark = self.dice.pick(&marks);
                self.conn.execute("DELETE FROM mark WHERE id = ?1", [mark])?;
                self.done.died.push(mark);
                self.note(format!("delete mark {mark}"));
            }
            1 if !marks.is_empty() => {
                let mark = self.dice.pick(&marks);
                self.conn.execute("UPDATE mark SET what = 'by ' || ?2 WHERE id = ?1", [mark, number])?;
                self.done.changed.push(mark);
                self.note(format!("update mark {mark}"));
            }
            _ if !self.done.born.contains(&number) && !self.done.died.contains(&number) => {
                self.conn.execute("INSERT INTO mark (id, what) VALUES (?1, 'new')", [number])?;
                self.done.born.push(number);
                self.note(format!("mark {number}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn value(&mut self) -> i64 {
        if self.weather.small_values { self.dice.below(3) as i64 } else { self.number * 10 }
    }

    fn stock(&mut self) -> Result<()> {
        let (id, other) = (self.dice.below(KEYS) as i64, self.dice.below(KEYS) as i64);
        let amount = match self.dice.below(6) {
            0 if self.weather.policies => -1 - self.dice.below(5) as i64,
            1 if self.weather.policies => 950,
            _ => self.value(),
        };
        let shelf = has_column(self.conn, "stock", "shelf")? && self.dice.one_in(2);
        let how = self.dice.below(6);
        match how {
            0 => self.conn.execute("DELETE FROM stock WHERE id = ?1", [id])?,
            1 => self.conn.execute("UPDATE OR IGNORE stock SET id = ?2 WHERE id = ?1", [id, other])?,
            2 => self.conn.execute("UPDATE stock SET name = 'n' || ?2 WHERE id = ?1", [id, amount])?,
            3 => self.conn.execute(
                "INSERT OR REPLACE INTO stock (id, name, amount) VALUES (?1, 'r', ?2)",
                [id, amount],
            )?,
            4 if shelf => self.conn.execute("UPDATE stock SET shelf = 's' || ?2 WHERE id = ?1", [id, amount])?,
            _ => self.conn.execute(
                "INSERT INTO stock (id, name, amount) VALUES (?1, 'i', ?2) ON CONFLICT DO UPDATE SET amount = ?2",
                [id, amount],
            )?,
        };
        self.note(format!("stock {how} {id} {other} {amount}"));
        Ok(())
    }

    fn line(&mut self) -> Result<()> {
        let (a, b) = (self.dice.below(3) as i64, self.dice.pick(&["u", "v", "W"]));
        let (c, d, qty) = (self.dice.below(3) as i64, self.dice.pick(&["u", "v", "W"]), self.value());
        let price = has_column(self.conn, "line", "price")? && self.dice.one_in(2);
        let how = self.dice.below(6);
        match how {
            0 => self.conn.execute("DELETE FROM line WHERE a = ?1 AND b = ?2", params![a, b])?,
            1 => self.conn.execute(
                "UPDATE OR REPLACE line SET a = ?3, b = ?4 WHERE a = ?1 AND b = ?2",
                params![a, b, c, d],
            )?,
            2 => self.conn.execute("DELETE FROM line WHERE a = ?1", [a])?,
            3 if price => self.conn.execute("UPDATE line SET price = ?2 WHERE a = ?1", [a, qty])?,
            4 => self.conn.execute(
                "UPDATE line SET note = CAST(x'00ff' || ?3 AS BLOB) WHERE a = ?1 AND b = ?2",
                params![a, b, qty],
            )?,
            _ => self.conn.execute(
                "INSERT INTO line (a, b, qty) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET qty = ?3",
                params![a, b, qty],
            )?,
        };
        self.note(format!("line {how} {a}{b} {c}{d} {qty}"));
        Ok(())
    }

    fn word(&mut self) -> Result<()> {
        let (word, n) = (self.dice.pick(&["abc", "Abc", "ABC", "d", "D", "e"]), self.value());
        let seen = has_column(self.conn, "word", "seen")? && self.dice.one_in(2);
        let how = self.dice.below(4);
        match how {
            0 => self.conn.execute("DELETE FROM word WHERE w = ?1", [word])?,
            1 => self.conn.execute("UPDATE word SET w = ?1 WHERE w = ?1", [word])?,
            2 if seen => self.conn.execute("UPDATE word SET seen = ?2 WHERE w = ?1", params![word, n])?,
            _ => self.conn.execute(
                "INSERT INTO word (w, n) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET n = ?2",
                params![word, n],
            )?,
        };
        self.note(format!("word {how} {word} {n}"));
        Ok(())
    }

    /// What is taken back must leave nothing.
    fn savepoint(&mut self) -> Result<()> {
        self.conn.execute_batch("SAVEPOINT s")?;
        let kept = (self.done.clone(), self.told.len());
        self.own()?;
        self.line()?;
        self.stock()?;
        self.conn.execute_batch("ROLLBACK TO s; RELEASE s")?;
        self.done = kept.0;
        self.told.truncate(kept.1);
        Ok(())
    }
}

fn column<T: rusqlite::types::FromSql>(conn: &Connection, sql: &str) -> Result<Vec<T>> {
    let mut q = conn.prepare(sql)?;
    q.query_map([], |r| r.get(0))?.collect()
}

/// Bundles that a reader sees half.
pub fn torn(conn: &Connection) -> Vec<String> {
    let sql = "SELECT 'pair ' || i || ': ' || coalesce(a, 'none') || ' ' || coalesce(x, 'none') || ' ' || coalesce(y, 'none') FROM (
        SELECT i, (SELECT v FROM pair_a WHERE k = 'p' || i) AS a,
            (SELECT v FROM pair_b WHERE a = i AND b = 'x') AS x, (SELECT v FROM pair_b WHERE a = i AND b = 'y') AS y
        FROM (SELECT 0 AS i UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3)) WHERE a IS NOT x OR a IS NOT y";
    column(conn, sql).expect("the pairs are read")
}

pub fn end(conn: &Connection) -> End {
    let set = |sql: &str| column::<i64>(conn, sql).expect("a column").into_iter().collect::<BTreeSet<i64>>();
    let mut cells: BTreeMap<Cell, Option<i64>> = BTreeMap::new();
    for name in ["v", "note"] {
        let mut q = conn.prepare(&format!("SELECT id, {name} FROM own")).expect("a query");
        let rows = q.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Option<i64>>(1)?)));
        for row in rows.expect("rows") {
            let (id, value) = row.expect("a row");
            cells.insert((id, name), value);
        }
    }
    End { receipts: set("SELECT id FROM receipt"), marks: set("SELECT id FROM mark"), cells }
}

/// A transaction that stands in `crsql_rejected`. It has many receipts if it was replayed.
pub struct Rejected {
    pub receipts: BTreeSet<i64>,
    pub site: rejoin::SiteId,
    pub version: u64,
    pub code: String,
}

pub fn rejected(replica: &Replica) -> Vec<Rejected> {
    let mut all: BTreeMap<(rejoin::SiteId, u64), (BTreeSet<i64>, String)> = BTreeMap::new();
    for cell in replica.rejected().expect("the rejected are read") {
        let entry = all.entry((cell.site, cell.version)).or_insert((BTreeSet::new(), cell.code.clone()));
        if cell.table == "receipt"
            && let Some([Value::Int(id)]) = rejoin::unpack_key(&cell.pk).as_deref()
        {
            entry.0.insert(*id);
        }
    }
    let one = |((site, version), (receipts, code))| Rejected { receipts, site, version, code };
    all.into_iter().map(one).collect()
}

/// Inserts into one what the other lists after `since`: how many changes, and up to where.
pub fn exchange(from: &Replica, to: &Replica, since: i64) -> Result<(usize, i64)> {
    const COLUMNS: &str = "\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq";
    let mut q = from.connection().prepare(&format!(
        "SELECT {COLUMNS} FROM crsql_changes WHERE db_version > ?1 ORDER BY db_version, seq"
    ))?;
    let own = from.site_id()?.0;
    let rows = q.query_map([since], |r| (0..9).map(|i| r.get::<_, rusqlite::types::Value>(i)).collect());
    let mut rows: Vec<Vec<rusqlite::types::Value>> = rows?.collect::<Result<_>>()?;
    let upto = from.db_version()?;
    let conn = to.connection();
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let sql = format!("INSERT INTO crsql_changes ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    let done = (|| {
        let mut insert = conn.prepare(&sql)?;
        for row in &mut rows {
            if row[6] == rusqlite::types::Value::Null {
                row[6] = rusqlite::types::Value::Blob(own.to_vec());
            }
            insert.execute(rusqlite::params_from_iter(row.iter()))?;
        }
        conn.execute_batch("COMMIT")
    })();
    if done.is_err() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    done.map(|()| (rows.len(), upto))
}
