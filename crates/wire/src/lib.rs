//! Binary changesets of Rejoin: layout, limits, golden bytes.
