//! FFI safety layer over SQLite: statements, functions, virtual tables that join transactions, hooks.
