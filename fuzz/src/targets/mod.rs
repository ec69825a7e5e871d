//! One file per target.

pub mod key_codec;
