//! Pure merge rules, values, versions, ids and the key codec of Rejoin.
//!
//! Nothing here touches a connection, a clock or a file: every function is a function of its arguments.

#![forbid(unsafe_code)]

pub mod chain;
pub mod fract;
pub mod hlc;
pub mod key;
pub mod limits;
pub mod merge;
pub mod meta;
pub mod site;
mod utc;
pub mod value;
pub mod vector;

pub use site::SiteId;
pub use value::{Value, ValueRef};
