//! Maps that are asked once or more per changed row: a fast hash, seeded at random, for peers choose rowids and must not
//! be able to choose collisions.

use indexmap::IndexMap;

pub use foldhash::fast::RandomState as Seeded;

/// A map by table and row (or key hash), in the order in which rows came: they are written in order of rowids, and mostly
/// come in that order, too.
pub type ByRow<V> = IndexMap<(u32, u64), V, Seeded>;
