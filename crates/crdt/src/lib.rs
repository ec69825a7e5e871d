//! Pure merge rules, values, versions, ids and the key codec of Rejoin.
//!
//! Nothing here touches a connection, a clock or a file: every function is a function of its arguments.

pub mod meta;
