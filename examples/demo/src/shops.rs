//! What the shops do while they are apart: a day of ordinary work, and books that both have their hands on.

use crate::Result;
use crate::catalogue::Dice;
use rejoin::Replica;
use rusqlite::{Connection, params};

pub const ADD_SHELF: &str = "ALTER TABLE books ADD COLUMN shelf TEXT";

/// Which books the shops take.
pub struct Script {
    books: Vec<i64>,
    dice: Dice,
    next_id: i64,
}

#[derive(Default)]
struct Day {
    sold: u64,
    received: u64,
    repriced: u64,
    deleted: u64,
    added: u64,
}

impl Day {
    fn told(&self, more: &str) -> String {
        let Day { sold, received, repriced, deleted, added } = self;
        format!(
            "{sold} sold, {received} received, {repriced} re-priced, {deleted} deleted, {added} added{more}"
        )
    }
}

impl Script {
    pub fn new(shop: &Replica) -> Result<Script> {
        let mut q = shop.connection().prepare("SELECT book_id FROM books ORDER BY book_id")?;
        let books: Vec<i64> = q.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let next_id = books.last().copied().unwrap_or(0) + 1;
        Ok(Script { books, dice: Dice::new(3), next_id })
    }

    /// One of the books that both shops work on, the same for both.
    fn shared(&self, n: usize) -> i64 {
        self.books.get(7 + n * 3).copied().unwrap_or(1)
    }

    /// Any of the others, so that chance makes no conflicts that the story does not tell of; one of three shops.
    pub fn own(&mut self, shop: usize) -> i64 {
        let rest = self.books.len().saturating_sub(100) / 3;
        let at = 100 + 3 * self.dice.roll(rest) + shop;
        self.books.get(at).or(self.books.last()).copied().unwrap_or(1)
    }

    /// Forty sales, ten deliveries, twenty new prices, ...: each a transaction.
    fn ordinary_day(&mut self, conn: &Connection, name: &str, shop: usize) -> Result<Day> {
        let mut day = Day::default();
        for _ in 0..300 {
            let book = self.own(shop);
            match self.dice.roll(10) {
                0..=4 => {
                    sell(conn, name, book)?;
                    day.sold += 1;
                }
                5..=6 => {
                    conn.execute("UPDATE books SET stock = stock + 10 WHERE book_id = ?1", [book])?;
                    day.received += 1;
                }
                7..=8 => {
                    let cents = 399 + 100 * self.dice.roll(30) as i64;
                    price(conn, book, cents)?;
                    day.repriced += 1;
                }
                _ => {
                    conn.execute("DELETE FROM books WHERE book_id = ?1", [book])?;
                    day.deleted += 1;
                }
            }
        }
        Ok(day)
    }
}

pub fn sell(conn: &Connection, shop: &str, book: i64) -> Result<()> {
    let tx = conn.unchecked_transaction()?;
    tx.execute("UPDATE books SET stock = stock - 1 WHERE book_id = ?1", [book])?;
    tx.execute(
        "INSERT INTO sales(shop, book_id, copies, cents) SELECT ?1, book_id, 1, cents FROM books WHERE book_id = ?2",
        params![shop, book],
    )?;
    Ok(tx.commit()?)
}

pub fn price(conn: &Connection, book: i64, cents: i64) -> Result<()> {
    conn.execute("UPDATE books SET cents = ?2 WHERE book_id = ?1", [book, cents])?;
    Ok(())
}

fn add(conn: &Connection, book: i64, title: &str, cents: i64) -> Result<()> {
    let sql = "INSERT INTO books(book_id, title, authors, cents, stock) VALUES (?1, ?2, 'Ada Abbot', ?3, 1)";
    conn.execute(sql, params![book, title, cents])?;
    Ok(())
}

pub fn north(shop: &Replica, script: &mut Script) -> Result<String> {
    let conn = shop.connection();
    let mut day = script.ordinary_day(conn, "north", 0)?;
    // A column that south does not have.
    conn.execute_batch(ADD_SHELF)?;
    let shelved =
        conn.execute("UPDATE books SET shelf = 'N' || (book_id % 40) WHERE book_id % 50 = 0", [])?;
    // Both set a price.
    for n in 0..4 {
        price(conn, script.shared(n), 1000 + n as i64)?;
    }
    // North sells what south re-prices: no conflict, both are kept.
    for n in 4..7 {
        sell(conn, "north", script.shared(n))?;
    }
    // Both count the stock anew.
    for n in 7..10 {
        conn.execute("UPDATE books SET stock = 20 WHERE book_id = ?1", [script.shared(n)])?;
    }
    // North deletes what south re-prices.
    for n in 10..12 {
        conn.execute("DELETE FROM books WHERE book_id = ?1", [script.shared(n)])?;
    }
    // North edits what south deletes.
    conn.execute("UPDATE books SET title = 'A title of north' WHERE book_id = ?1", [script.shared(12)])?;
    // Both delete.
    conn.execute("DELETE FROM books WHERE book_id = ?1", [script.shared(13)])?;
    // North deletes a book and takes it back; south only edits it.
    let back = script.shared(14);
    conn.execute("DELETE FROM books WHERE book_id = ?1", [back])?;
    add(conn, back, "Deleted and taken back", 1500)?;
    // Both make a book under one number.
    add(conn, script.next_id, "New at north", 2200)?;
    day.repriced += 4;
    day.sold += 3;
    day.deleted += 4;
    day.added += 2;
    Ok(day.told(&format!(", a new column with {shelved} shelves")))
}

/// North has the last word on two prices.
pub fn evening(shop: &Replica, script: &Script) -> Result<()> {
    for n in [1, 3] {
        price(shop.connection(), script.shared(n), 1100 + n as i64)?;
    }
    Ok(())
}

pub fn south(shop: &Replica, script: &mut Script) -> Result<String> {
    let conn = shop.connection();
    let mut day = script.ordinary_day(conn, "south", 1)?;
    for n in 0..7 {
        price(conn, script.shared(n), 900 + n as i64)?;
    }
    for n in 7..10 {
        conn.execute("UPDATE books SET stock = 15 WHERE book_id = ?1", [script.shared(n)])?;
    }
    for n in 10..12 {
        price(conn, script.shared(n), 777)?;
    }
    for n in 12..14 {
        conn.execute("DELETE FROM books WHERE book_id = ?1", [script.shared(n)])?;
    }
    conn.execute("UPDATE books SET title = 'A title of south' WHERE book_id = ?1", [script.shared(14)])?;
    add(conn, script.next_id, "New at south", 2100)?;
    day.repriced += 9;
    day.deleted += 2;
    day.added += 1;
    Ok(day.told(""))
}
