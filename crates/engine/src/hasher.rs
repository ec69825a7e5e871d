//! Maps that are asked once or more per changed row: a fast hash, seeded at random, for peers choose rowids and must not
//! be able to choose collisions.

use std::collections::HashMap;

pub use foldhash::fast::RandomState as Seeded;

/// A map by table and row (or key hash).
pub type ByRow<V> = HashMap<(u32, u64), V, Seeded>;
