//! Executable model of Rejoin: the merge rules over maps, without SQLite; the oracle of the tests.
