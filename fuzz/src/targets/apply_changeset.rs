//! `crsql_apply_changeset` with what was a changeset before it was mutated. Its hash is made right again, or nothing
//! behind the hash would ever be looked at.

use crate::Target;
use crate::replicas::{ROWS, SCHEMA, changes, check, replica, tolerate};

pub const TARGET: Target = Target { name: "apply_changeset", run, seeds };

const HASH: usize = 16;

fn sealed(data: &[u8]) -> Vec<u8> {
    let body = &data[..data.len().saturating_sub(HASH)];
    let hash = blake3::hash(body);
    [body, &hash.as_bytes()[..HASH]].concat()
}

fn run(data: &[u8]) {
    let bytes = sealed(data);
    // Into a database that has none of it, and into one that has its own.
    for rows in ["", ROWS] {
        let replica = replica(&[SCHEMA, rows]);
        let before = changes(&replica);
        let applied = tolerate(replica.apply_changeset(&bytes));
        if applied.is_none() {
            assert_eq!(before, changes(&replica), "a refused changeset left something");
        }
        check(&replica, Some(SCHEMA));
        let again = tolerate(replica.apply_changeset(&bytes));
        if applied.is_some() {
            assert!(again.is_some_and(|a| a.cells_won == 0), "the second time it is known: {again:?}");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let all = |texts: &[&str]| {
        let replica = replica(texts);
        let empty = rejoin::VersionVector::new();
        replica.changeset_for(&empty).expect("a changeset")
    };
    let programs: [&[&str]; 5] = [
        &[SCHEMA, ROWS],
        &[SCHEMA, "INSERT INTO i VALUES (1, 1, 1)"],
        &[SCHEMA, "INSERT INTO t VALUES ('A', 1, 1); DELETE FROM t; INSERT INTO t VALUES ('a', 2, 2)"],
        &[SCHEMA, "INSERT INTO u VALUES (1.0, 1, 1, 1); ALTER TABLE u ADD COLUMN w; UPDATE u SET w = 5"],
        &[
            SCHEMA,
            "INSERT INTO crsql_changes VALUES ('nowhere', x'010901', 'c', 1, 1, 1, zeroblob(16), 1, 0); \
             INSERT INTO crsql_changes VALUES ('t', x'010b0141', 'x', 1, 1, 1, x'01010101010101010101010101010101', 1, 0)",
        ],
    ];
    programs.iter().filter_map(|texts| all(texts)).collect()
}
