//! The loadable extension: Rejoin inside any SQLite host.
