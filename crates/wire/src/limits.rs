//! What a changeset may hold at most. Writers keep them, readers refuse what breaks them.

pub use rejoin_crdt::limits::{CL_MAX, VERSION_MAX};

/// Bytes of a whole changeset, and of its payload after decompression.
pub const BYTES_MAX: usize = 1 << 30;
/// Bytes of one text or blob, and of one packed key (SQLite's own default limit on a string).
pub const VALUE_BYTES_MAX: usize = 1_000_000_000;
/// Tables of one changeset.
pub const TABLES_MAX: usize = 65_536;
/// Columns of one table, key columns included (SQLite's own hard limit).
pub const COLUMNS_MAX: usize = 32_767;
/// How often a name may have been given anew, and so the largest life of one.
pub const LIFE_MAX: u32 = 1 << 20;
/// Names of a table and its columns beyond one of life 0 each.
pub const MORE_NAMES_MAX: usize = 65_536;
/// Bytes of the name of a table or column.
pub const NAME_BYTES_MAX: usize = 1 << 20;
/// A key shares at most this many leading bytes with the one before it: more would let
/// two bytes of input stand for a key of any length.
pub const KEY_SHARED_MAX: usize = 64;
/// Row shapes up to this many bytes can be referred to again; longer ones are spelled out
/// each time, so that the work of reading stays in proportion to the input.
pub const SHAPE_BYTES_MAX: usize = 64;
/// Bytes of one frame, whatever was agreed.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Bytes of a version vector in a frame.
pub const VECTOR_BYTES_MAX: usize = 8 << 20;
