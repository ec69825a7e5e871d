//! The merge of whole rows is a join: commutative, associative, idempotent, for every column type.

use super::*;
use crate::value::Value;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Debug)]
struct Cell {
    version: i64,
    value: Value,
    site: SiteId,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Row {
    cl: u32,
    sentinel: Option<(Vec<u8>, SiteId)>,
    cells: BTreeMap<u8, Cell>,
}

/// Brings the row to the causal length of a change; false: the change is stale.
fn enter(row: &mut Row, cl: u32) -> bool {
    match causal(row.cl, cl) {
        Causal::Stale => return false,
        Causal::Same => {}
        Causal::Create | Causal::Delete | Causal::Resurrect => {
            *row = Row { cl, ..Row::default() };
        }
    }
    true
}

fn merge(local: &Row, incoming: &Row, equal: bool) -> Row {
    let mut row = local.clone();
    if let Some((key, site)) = &incoming.sentinel
        && enter(&mut row, incoming.cl)
    {
        let old = row.sentinel.as_ref().map(|(key, site)| SentinelRef { key, site });
        if sentinel(old, SentinelRef { key, site }, equal) != Verdict::Lose {
            row.sentinel = incoming.sentinel.clone();
        }
    }
    for (col, new) in &incoming.cells {
        if !enter(&mut row, incoming.cl) {
            continue;
        }
        let old = row.cells.get(col);
        let verdict = by_version(old.map(|c| c.version), new.version).or_else(|| {
            let old = old?;
            Some(by_value(old.value.as_ref(), &old.site, new.value.as_ref(), &new.site, equal))
        });
        if matches!(verdict, Some(Verdict::Win | Verdict::TakeStamp)) {
            row.cells.insert(*col, new.clone());
        }
    }
    row
}

type Shown = (u32, Option<Vec<u8>>, BTreeMap<u8, (i64, Value)>);

/// What users see: everything but the sites.
fn shown(row: &Row) -> Shown {
    let cells = row.cells.iter().map(|(c, cell)| (*c, (cell.version, cell.value.clone()))).collect();
    (row.cl, row.sentinel.as_ref().map(|s| s.0.clone()), cells)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (-2i64..3).prop_map(Value::Int),
        any::<i64>().prop_map(Value::Int),
        prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(f64::INFINITY), -9.0..9.0].prop_map(Value::Real),
        "[ab]{0,2}".prop_map(|t| Value::text(&t)),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::Text),
        prop::collection::vec(0u8..3, 0..3).prop_map(Value::Blob),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let site = (0u8..3).prop_map(|b| SiteId([b; 16]));
    let cell =
        (0i64..3, value(), site.clone()).prop_map(|(version, value, site)| Cell { version, value, site });
    let cells = prop::collection::btree_map(0u8..3, cell, 0..4);
    let stamp = (prop::collection::vec(0u8..2, 0..2), site);
    (0u32..5, prop::option::of(stamp), cells).prop_map(|(cl, sentinel, cells)| {
        // A state that a replica can be in: dead rows have no cells, rows without cells have a sentinel.
        let cells = if cl & 1 == 1 { cells } else { BTreeMap::new() };
        let needed = cl > 0 && cells.is_empty();
        let sentinel = if cl == 0 { None } else { sentinel.or(needed.then(Default::default)) };
        Row { cl, sentinel, cells }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn metadata_is_a_join_with_merge_equal_values(a in row(), b in row(), c in row()) {
        prop_assert_eq!(merge(&a, &a, true), a.clone());
        let ab = merge(&a, &b, true);
        prop_assert_eq!(&ab, &merge(&b, &a, true));
        prop_assert_eq!(merge(&ab, &b, true), ab.clone());
        prop_assert_eq!(merge(&ab, &c, true), merge(&a, &merge(&b, &c, true), true));
    }

    #[test]
    fn shown_values_are_a_join_without_it(a in row(), b in row(), c in row()) {
        prop_assert_eq!(merge(&a, &a, false), a.clone());
        let ab = merge(&a, &b, false);
        prop_assert_eq!(shown(&ab), shown(&merge(&b, &a, false)));
        prop_assert_eq!(shown(&merge(&ab, &c, false)), shown(&merge(&a, &merge(&b, &c, false), false)));
    }

    #[test]
    fn merging_never_goes_back(a in row(), b in row()) {
        let ab = merge(&a, &b, true);
        prop_assert!(ab.cl >= a.cl.max(b.cl));
        for (col, old) in &a.cells {
            if ab.cl == a.cl {
                let new = &ab.cells[col];
                prop_assert!((new.version, &new.value, new.site) >= (old.version, &old.value, old.site));
            }
        }
    }
}
