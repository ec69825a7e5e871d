//! Names of rooms: a name is part of a URL and of a file name, so little is allowed.

use std::fmt;
use std::path::{Path, PathBuf};

pub const NAME_BYTES_MAX: usize = 64;
/// Paths of the server's own.
const RESERVED: [&str; 2] = ["healthz", "metrics"];

/// A room's name: 1 to 64 letters, digits, `.`, `_`, `-`, the first one not a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(String);

impl RoomName {
    pub fn parse(name: &str) -> Option<RoomName> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits =
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && !RESERVED.contains(&name);
        (fits && name.bytes().all(good)).then(|| RoomName(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The room's file in the data directory. The suffix keeps rooms apart from what SQLite puts beside them.
    pub fn file(&self, data: &Path) -> PathBuf {
        data.join(format!("{}.db", self.0))
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "shop", "Shop-1_2.x", "0", "-", "a..b", &"x".repeat(64)] {
            assert!(RoomName::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", ".", "..", ".a", "a/b", "a\\b", "a b", "a%2f", "a\0", "metrics", "\u{e4}", &"x".repeat(65)]
        {
            assert!(RoomName::parse(bad).is_none(), "{bad:?}");
        }
    }
}
