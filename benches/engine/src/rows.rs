//! The rows: an article of a bookshop, about 70 bytes beside the key.

/// SplitMix64: the same rows in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[derive(Clone)]
pub enum Id {
    Int(i64),
    Blob([u8; 16]),
}

impl rusqlite::ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Id::Int(i) => i.to_sql(),
            Id::Blob(b) => b.as_slice().to_sql().map(|_| b.as_slice().into()),
        }
    }
}

#[derive(Clone)]
pub struct Row {
    pub id: Id,
    pub title: String,
    pub author: String,
    pub stock: i64,
    pub price: f64,
}

const WORDS: [&str; 24] = [
    "river", "winter", "garden", "silence", "letters", "island", "memory", "night", "glass", "mountain",
    "stranger", "house", "summer", "shadow", "ocean", "paper", "bridge", "history", "light", "train",
    "orchard", "city", "north", "door",
];
const NAMES: [&str; 12] = [
    "Lindqvist",
    "Okafor",
    "Moreau",
    "Tanaka",
    "Schneider",
    "Alvarez",
    "Novak",
    "Rossi",
    "Haddad",
    "Bergstrom",
    "Petrov",
    "Whitfield",
];

pub fn rows(n: usize, uuid: bool) -> Vec<Row> {
    let mut random = Random::new(42);
    (1..=n as i64)
        .map(|i| {
            let mut word = || WORDS[random.below(WORDS.len())];
            let title = format!("The {} of the {} {}", word(), word(), word());
            let author = format!(
                "{}. {}",
                char::from(b'A' + random.below(26) as u8),
                NAMES[random.below(NAMES.len())]
            );
            let id = if uuid {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&random.next().to_le_bytes());
                bytes[8..].copy_from_slice(&random.next().to_le_bytes());
                Id::Blob(bytes)
            } else {
                Id::Int(i)
            };
            let price = 4.0 + (random.below(4000) as f64) / 100.0;
            Row { id, title, author, stock: random.below(200) as i64, price }
        })
        .collect()
}
