//! Pure merge rules, values, versions, ids and the key codec of Rejoin.
