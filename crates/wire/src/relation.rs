//! What a comparison of two schemas says.

/// How two schemas stand to each other, seen from the side that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    Same,
    /// This side has tables or columns that the other lacks; a sentence names them.
    Ahead(String),
    /// The other side has tables or columns that this one lacks.
    Behind(String),
    /// Both.
    Diverged(String),
    /// What both have is not the same: nothing can be exchanged.
    Incompatible(String),
}
