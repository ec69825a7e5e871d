//! The catalogue: from a CSV file, or generated.

use crate::Result;
use rejoin::Replica;
use rusqlite::params;
use std::path::Path;

pub const SCHEMA: &str = "
CREATE TABLE books (
  book_id  INTEGER PRIMARY KEY,
  isbn     TEXT,
  title    TEXT NOT NULL DEFAULT '',
  authors  TEXT,
  year     INTEGER,
  language TEXT,
  rating   REAL,
  cents    INTEGER NOT NULL DEFAULT 0 CHECK (cents >= 0),
  stock    INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE sales (
  sale_id  BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)),
  shop     TEXT,
  book_id  INTEGER,
  copies   INTEGER,
  cents    INTEGER
);
SELECT crsql_as_crr('books');
SELECT crsql_as_crr('sales');
";

pub struct Book {
    pub id: i64,
    pub isbn: Option<String>,
    pub title: String,
    pub authors: String,
    pub year: Option<i64>,
    pub language: Option<String>,
    pub rating: Option<f64>,
}

/// Numbers that look random and are the same in every run (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.roll(words.len())).copied().unwrap_or_default()
    }
}

const WHAT: [&str; 16] = [
    "House",
    "River",
    "Garden",
    "Letter",
    "Winter",
    "Harbour",
    "Map",
    "Orchard",
    "Clock",
    "Island",
    "Library",
    "Night",
    "Road",
    "Summer",
    "Window",
    "Lighthouse",
];
const KIND: [&str; 12] = [
    "Silent", "Last", "Hidden", "Long", "Broken", "Golden", "Other", "Northern", "Paper", "Second", "Quiet",
    "Lost",
];
const WHOSE: [&str; 8] =
    ["Stars", "the Clockmaker", "Salt", "Two Cities", "Small Things", "Glass", "the Sea", "Ash"];
const FIRST: [&str; 10] =
    ["Ada", "Bruno", "Clara", "Dario", "Edith", "Farid", "Greta", "Henri", "Ines", "Jonas"];
const LAST: [&str; 10] =
    ["Abbot", "Brandt", "Costa", "Dubois", "Eklund", "Fontane", "Gruber", "Hassan", "Ito", "Jansen"];

pub fn generate(count: i64) -> Vec<Book> {
    let mut dice = Dice::new(1);
    let book = |id| {
        let title = format!("The {} {} of {}", dice.pick(&KIND), dice.pick(&WHAT), dice.pick(&WHOSE));
        Book {
            id,
            isbn: Some(format!("978{:010}", id * 7919 % 9_999_999_967)),
            title,
            authors: format!("{} {}", dice.pick(&FIRST), dice.pick(&LAST)),
            year: Some(1900 + dice.roll(126) as i64),
            language: Some(dice.pick(&["eng", "fre", "ger", "spa", "ita"]).to_owned()),
            rating: Some(250.0 + dice.roll(250) as f64).map(|r| r / 100.0),
        }
    };
    (1..=count).map(book).collect()
}

/// Columns are found by name; `book_id` and `title` must be there.
pub fn read(path: &Path) -> Result<Vec<Book>> {
    let place = path.display();
    let mut reader = csv::Reader::from_path(path).map_err(|e| format!("{place}: {e}"))?;
    let headers = reader.headers().map_err(|e| format!("{place}: {e}"))?.clone();
    let at = |name: &str| headers.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
    let columns = ["isbn", "authors", "original_publication_year", "language_code", "average_rating"].map(at);
    let (Some(id), Some(title)) = (at("book_id"), at("title")) else {
        return Err(format!("{place} has no columns book_id and title").into());
    };
    let mut books = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| format!("{place}: {e}"))?;
        let text =
            |at: Option<usize>| at.and_then(|i| record.get(i)).map(str::trim).filter(|t| !t.is_empty());
        let [isbn, authors, year, language, rating] = columns.map(text);
        let Some(id) = text(Some(id)).and_then(|t| t.parse().ok()) else {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(format!("{place}, line {line}: book_id is no whole number").into());
        };
        books.push(Book {
            id,
            isbn: isbn.map(str::to_owned),
            title: text(Some(title)).unwrap_or("(no title)").to_owned(),
            authors: authors.unwrap_or_default().to_owned(),
            year: year.and_then(|y| y.parse::<f64>().ok()).map(|y| y as i64),
            language: language.map(str::to_owned),
            rating: rating.and_then(|r| r.parse().ok()),
        });
    }
    if books.len() < 100 {
        return Err(format!("{place} has {} books; the story needs 100", books.len()).into());
    }
    Ok(books)
}

pub fn fill(shop: &Replica, books: &[Book]) -> Result<()> {
    let tx = shop.connection().unchecked_transaction()?;
    let mut dice = Dice::new(2);
    {
        let mut insert = tx.prepare("INSERT INTO books VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
        for b in books {
            let cents = 499 + 50 * dice.roll(60) as i64;
            let stock = dice.roll(12) as i64;
            insert.execute(params![
                b.id, b.isbn, b.title, b.authors, b.year, b.language, b.rating, cents, stock
            ])?;
        }
    }
    tx.commit()?;
    Ok(())
}
