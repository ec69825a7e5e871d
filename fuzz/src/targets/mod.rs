//! One file per target.

pub mod apply_changeset;
pub mod client_session;
pub mod frame;
pub mod insert_changes;
pub mod key_codec;
pub mod server_session;
