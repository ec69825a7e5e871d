//! One file per target.

pub mod apply_changeset;
pub mod insert_changes;
pub mod key_codec;
