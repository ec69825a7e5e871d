//! The counter-examples of `docs/model-findings.md`, one test each, and the listing of local writes.

use rejoin_crdt::key::{Affinity, Fold};
use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, Value, key};
use rejoin_sim::{
    Change, Clock, ColumnDef, KeyColumn, Meeting, Op, OpError, Refused, Replica, Side, TableDef,
};

fn site(n: u8) -> SiteId {
    SiteId([n; 16])
}

fn column(name: &str, not_null: bool) -> ColumnDef {
    ColumnDef { name: name.into(), default: if not_null { Value::Null } else { Value::Int(0) }, not_null }
}

fn table(name: &str, fold: Fold, columns: Vec<ColumnDef>) -> Op {
    let key = vec![KeyColumn { name: "k".into(), affinity: Affinity::Text, fold }];
    Op::CreateTable(TableDef { name: name.into(), key, columns })
}

/// A replica with t(k, x DEFAULT 0, y DEFAULT 0).
fn replica(n: u8) -> Replica {
    let mut r = Replica::new(site(n));
    r.clock = Clock::Lamport;
    run(&mut r, [table("t", Fold::NoCase, vec![column("x", false), column("y", false)])]);
    r
}

fn replicas() -> [Replica; 3] {
    [replica(1), replica(2), replica(3)]
}

/// One transaction.
fn run(r: &mut Replica, ops: impl IntoIterator<Item = Op>) {
    for op in ops {
        r.apply(op.clone()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
    r.commit(u64::from(r.site.0[0]));
}

fn k(text: &str) -> Vec<Value> {
    vec![Value::text(text)]
}

fn values(set: &[(&str, i64)]) -> Vec<(String, Value)> {
    set.iter().map(|(name, n)| ((*name).to_owned(), Value::Int(*n))).collect()
}

fn insert(key: &str, set: &[(&str, i64)]) -> Op {
    Op::Insert { table: "t".into(), key: k(key), values: values(set), or_replace: false }
}

fn replace(key: &str, set: &[(&str, i64)]) -> Op {
    Op::Insert { table: "t".into(), key: k(key), values: values(set), or_replace: true }
}

fn update(key: &str, set: &[(&str, i64)]) -> Op {
    Op::Update { table: "t".into(), key: k(key), set: values(set) }
}

fn set_key(key: &str, to: &str) -> Op {
    Op::SetKey { table: "t".into(), key: k(key), to: k(to), set: vec![], or_replace: true }
}

fn delete(key: &str) -> Op {
    Op::Delete { table: "t".into(), key: k(key) }
}

fn rename(from: &str, to: &str) -> Op {
    Op::RenameColumn { table: "t".into(), column: from.into(), to: to.into() }
}

fn add(name: &str) -> Op {
    Op::AddColumn { table: "t".into(), column: column(name, false) }
}

fn drop_column(name: &str) -> Op {
    Op::DropColumn { table: "t".into(), column: name.into() }
}

fn send(from: &Replica, to: &mut Replica) {
    let cut = from.cut_for(to.vector());
    to.apply_cut(&cut).expect("no gap");
}

fn exchange(a: &mut Replica, b: &mut Replica) {
    send(a, b);
    send(b, a);
}

/// The rows of t: key and columns, as SQL literals.
fn shown(r: &Replica) -> Vec<String> {
    r.rows("t").unwrap_or_default().values().map(|row| format!("{row:?}")).collect()
}

/// cid, col_version, cl, seq of the changes after `since`.
fn listed(r: &Replica, since: i64) -> Vec<(String, String, i64, u32, i64)> {
    let one = |c: Change| {
        let pk = key::unpack_owned(&c.pk).unwrap();
        (format!("{:?}", pk[0]), c.cid, c.col_version, c.cl, c.seq)
    };
    r.changes(since).into_iter().map(one).collect()
}

fn change(pk: &str, cid: &str, cl: u32, db_version: i64) -> Change {
    let col_version = if cid == "-1" { i64::from(cl) } else { 5 };
    let pk = key::pack([Value::text(pk).as_ref()]).unwrap();
    let (val, site_id) = (Value::Int(5), site(9));
    Change { table: "t".into(), pk, cid: cid.into(), val, col_version, db_version, site_id, cl, seq: 0 }
}

fn entry(pk: &str, cid: &str, col_version: i64, cl: u32, seq: i64) -> (String, String, i64, u32, i64) {
    (format!("'{pk}'"), cid.to_owned(), col_version, cl, seq)
}

#[test]
fn local_writes_are_listed_as_cr_sqlite_lists_them() {
    let mut r = replica(1);
    run(&mut r, [insert("a", &[]), update("a", &[("x", 3)])]);
    assert_eq!(listed(&r, 0), [entry("a", "y", 1, 1, 1), entry("a", "x", 2, 1, 2)]);
    run(&mut r, [delete("a"), insert("a", &[])]);
    let again = [entry("a", "-1", 3, 3, 1), entry("a", "x", 1, 3, 2), entry("a", "y", 1, 3, 3)];
    assert_eq!(listed(&r, 1), again);
    run(&mut r, [insert("b", &[]), delete("b")]);
    assert_eq!(listed(&r, 2), [entry("b", "-1", 2, 2, 2)]);
    run(&mut r, [update("a", &[("x", 0)])]);
    assert_eq!(r.db_version(), 3, "an update to equal values writes nothing");
    run(&mut r, [replace("a", &[])]);
    assert_eq!(listed(&r, 3), [entry("a", "x", 2, 3, 1), entry("a", "y", 2, 3, 2)]);
}

#[test]
fn a_key_change_lists_cells_then_both_sentinels() {
    let mut r = replica(1);
    run(&mut r, [insert("a", &[("x", 1)]), update("a", &[("x", 2)])]);
    run(&mut r, [set_key("a", "b")]);
    let moved = [
        entry("b", "x", 2, 1, 0),
        entry("b", "y", 1, 1, 1),
        entry("a", "-1", 2, 2, 2),
        entry("b", "-1", 1, 1, 3),
    ];
    assert_eq!(listed(&r, 1), moved);
}

#[test]
fn poison_is_refused() {
    let mut r = replica(1);
    for (bad, poison) in [
        (Change { col_version: -1, ..change("a", "x", 1, 1) }, true),
        (Change { cl: 0, ..change("a", "x", 1, 1) }, true),
        (Change { col_version: 7, ..change("a", "-1", 1, 1) }, true),
        (Change { db_version: 1 << 41, ..change("a", "x", 1, 1) }, true),
        (Change { col_version: 1 << 50, ..change("a", "x", 1, 1) }, true),
        (Change { pk: vec![2, 5, 5], ..change("a", "x", 1, 1) }, false),
        (Change { pk: vec![], ..change("a", "x", 1, 1) }, false),
    ] {
        let before = r.clone();
        assert_eq!(matches!(r.insert_change(&bad), Err(OpError::Poison(_))), poison, "{bad:?}");
        assert_eq!(r, before);
    }
}

#[test]
fn finding_1_sentinels_tie() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[])]);
    send(&a, &mut b);
    (a.merge_equal_values, b.merge_equal_values) = (true, true);
    run(&mut a, [delete("k")]);
    run(&mut b, [delete("k")]);
    exchange(&mut a, &mut b);
    assert_eq!(a.metadata(), b.metadata());
    assert!(a.metadata().values().all(|m| m.site == site(2)));
}

#[test]
fn finding_2_spellings_are_carried() {
    let [mut a, mut b, mut c] = replicas();
    run(&mut a, [insert("ABC", &[])]);
    run(&mut b, [insert("abc", &[("x", 9), ("y", 9)])]);
    send(&b, &mut c);
    send(&a, &mut b);
    send(&b, &mut c);
    assert_eq!(shown(&c), ["['ABC', 9, 9]"]);
    assert_eq!(shown(&b), shown(&c));
}

#[test]
fn finding_3_replace_with_another_spelling_is_another_life() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("ABC", &[])]);
    send(&a, &mut b);
    run(&mut a, [replace("abc", &[("x", 1)])]);
    send(&a, &mut b);
    assert_eq!(shown(&b), ["['abc', 1, 0]"]);
    assert!(listed(&b, 0).iter().all(|change| change.3 == 3));
}

#[test]
fn finding_4_a_row_moved_onto_a_living_one_brings_every_column() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k1", &[])]);
    run(&mut a, [add("z"), insert("k2", &[("z", 5)])]);
    run(&mut b, [add("z")]);
    send(&a, &mut b);
    run(&mut a, [set_key("k1", "k2")]);
    send(&a, &mut b);
    assert_eq!(shown(&a), ["['k2', 0, 0, 0]"]);
    assert_eq!(shown(&b), shown(&a));
}

#[test]
fn finding_4_parked_cells_move_with_their_row() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [add("z"), insert("k1", &[("z", 5)])]);
    send(&a, &mut b);
    run(&mut b, [set_key("k1", "k2")]);
    exchange(&mut a, &mut b);
    assert_eq!(shown(&a), ["['k2', 0, 0, 5]"]);
    run(&mut b, [add("z")]);
    assert_eq!(shown(&b), shown(&a));
}

#[test]
fn finding_5_a_local_insert_updates_a_row_that_waits_for_its_not_null_columns() {
    let make = |n| {
        let mut r = Replica::new(site(n));
        r.clock = Clock::Lamport;
        run(&mut r, [table("t", Fold::None, vec![column("x", true), column("y", true)])]);
        r
    };
    let (mut a, mut b) = (make(1), make(2));
    run(&mut a, [insert("k", &[("x", 1), ("y", 1)])]);
    for n in 2..9 {
        run(&mut a, [update("k", &[("x", n)])]);
    }
    for change in a.changes(0).iter().filter(|c| c.cid == "x") {
        assert_eq!(b.insert_change(change), Ok(true));
    }
    b.commit(1);
    assert!(shown(&b).is_empty());
    run(&mut b, [insert("k", &[("x", 70), ("y", 70)])]);
    exchange(&mut a, &mut b);
    assert_eq!(shown(&b), ["['k', 70, 70]"]);
    assert_eq!(shown(&a), shown(&b));
}

#[test]
fn finding_6_a_name_made_again_is_another_column() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[("x", 1)])]);
    send(&a, &mut b);
    let migrate = |r: &mut Replica| run(r, [rename("x", "x_old"), add("x")]);
    migrate(&mut a);
    run(&mut a, [update("k", &[("x", 7), ("x_old", 2)])]);
    run(&mut b, [update("k", &[("y", 4)])]);
    exchange(&mut a, &mut b);
    assert_eq!(shown(&b), ["['k', 2, 4]"], "the rename does not interrupt the flow");
    migrate(&mut b);
    assert_eq!(shown(&b), ["['k', 2, 4, 7]"]);
    assert_eq!(shown(&a), shown(&b));
}

#[test]
fn finding_6_what_was_dropped_does_not_come_back_under_its_name() {
    let [mut a, mut b, mut c] = replicas();
    run(&mut b, [insert("k", &[("x", 1)])]);
    exchange(&mut a, &mut b);
    let migrate = |r: &mut Replica| run(r, [drop_column("x"), add("x")]);
    migrate(&mut a);
    run(&mut b, [update("k", &[("x", 5)])]);
    exchange(&mut a, &mut b);
    send(&a, &mut c);
    assert_eq!(shown(&a), ["['k', 0, 0]"]);
    assert_eq!(shown(&c), ["['k', 5, 0]"], "but it is relayed to those that still have it");
    migrate(&mut b);
    migrate(&mut c);
    assert_eq!((shown(&b), shown(&c)), (shown(&a), shown(&a)));
}

#[test]
fn finding_6_a_rename_and_back_loses_nothing() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[]), rename("x", "d"), update("k", &[("d", 8)])]);
    send(&a, &mut b);
    run(&mut a, [rename("d", "x")]);
    exchange(&mut a, &mut b);
    assert_eq!(shown(&b), ["['k', 8, 0]"]);
}

#[test]
fn finding_6_two_names_for_one_column_keep_flowing() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[])]);
    send(&a, &mut b);
    run(&mut a, [rename("x", "p"), update("k", &[("p", 1)])]);
    run(&mut b, [rename("x", "q"), update("k", &[("q", 2)])]);
    exchange(&mut a, &mut b);
    assert_eq!((shown(&a), shown(&b)), (vec!["['k', 2, 0]".into()], vec!["['k', 2, 0]".into()]));
    assert!(!a.incompatible && !b.incompatible);
}

#[test]
fn finding_6_a_fresh_file_of_the_final_schema_is_found_incompatible() {
    let [mut a, _, _] = replicas();
    run(&mut a, [rename("x", "x_old"), add("x"), insert("k", &[])]);
    let mut fresh = Replica::new(site(7));
    run(&mut fresh, [table("t", Fold::NoCase, ["x", "x_old", "y"].map(|c| column(c, false)).into())]);
    send(&a, &mut fresh);
    assert!(fresh.incompatible);
}

#[test]
fn finding_7_a_relay_spans_db_versions() {
    let [mut a, mut b, _] = replicas();
    for db_version in [7, 9] {
        let cid = if db_version == 7 { "x" } else { "y" };
        assert_eq!(a.insert_change(&change("k", cid, 1, db_version)), Ok(true));
    }
    a.commit(1);
    assert_eq!(a.changes(0).iter().map(|c| c.db_version).collect::<Vec<_>>(), [7, 9]);
    assert_eq!((a.db_version(), a.vector().max(&site(1))), (9, 1));
    send(&a, &mut b);
    assert_eq!(shown(&b), ["['k', 5, 5]"]);
}

#[test]
fn finding_8_commit_alter_reaches_a_peer_that_holds_its_db_version() {
    let [mut a, mut b, mut c] = replicas();
    run(&mut a, [insert("k1", &[])]);
    send(&a, &mut b);
    let inserted = vec![(k("k2"), values(&[("x", 4)]))];
    run(&mut a, [Op::CommitAlter { table: "t".into(), inserted, vanished: vec![] }]);
    assert_eq!(a.db_version(), 1);
    assert!(a.changes(0).iter().all(|c| c.db_version == 1));
    send(&a, &mut c);
    send(&c, &mut b);
    assert_eq!(shown(&b), shown(&a));
}

#[test]
fn finding_10_a_row_that_lost_its_last_cell_is_still_listed() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[]), drop_column("x"), drop_column("y")]);
    send(&a, &mut b);
    assert_eq!(shown(&b), ["['k', 0, 0]"]);
}

#[test]
fn finding_11_the_receiver_collects_first() {
    let [mut a, mut b, _] = replicas();
    run(&mut a, [insert("k", &[]), delete("k")]);
    exchange(&mut a, &mut b);
    let horizon = a.vector().clone();
    a.collect(&horizon);
    assert!(a.changes(0).is_empty());
    run(&mut a, [insert("k", &[("x", 3)])]);
    send(&a, &mut b);
    assert_eq!(shown(&b), ["['k', 3, 0]"]);
}

#[test]
fn finding_12_a_late_peer_revives_nothing_in_part() {
    let [mut a, mut late, _] = replicas();
    run(&mut a, [insert("k", &[("y", 6)])]);
    send(&a, &mut late);
    run(&mut late, [update("k", &[("x", 5)]), insert("mine", &[("x", 2)])]);
    run(&mut a, [delete("k")]);
    let horizon = a.vector().clone();
    a.collect(&horizon);
    assert_eq!(Replica::meet(&late, &a), Meeting::BelowHorizon(Side::Left));
    late.start_over(&a, site(8), 1);
    send(&late, &mut a);
    assert_eq!(shown(&a), ["['mine', 2, 0]"]);
    assert_eq!(shown(&late), shown(&a));
}

#[test]
fn finding_13_a_fork_between_third_parties_heals() {
    let [mut x, mut b, mut c] = replicas();
    run(&mut x, [insert("k", &[])]);
    let mut copy = x.clone();
    run(&mut x, [insert("one", &[])]);
    copy.apply(insert("two", &[])).unwrap();
    copy.commit(77);
    send(&x, &mut b);
    send(&copy, &mut c);
    let Meeting::Fork { site: forked, common, gives_way } = Replica::meet(&b, &c) else {
        panic!("the fork was not seen")
    };
    assert_eq!((forked, common), (site(1), 1));
    if gives_way == Side::Left { &mut b } else { &mut c }.give_way(forked, common, site(8), 5);
    assert_eq!(Replica::meet(&b, &c), Meeting::Fine);
    exchange(&mut b, &mut c);
    assert_eq!(shown(&b).len(), 3);
    assert_eq!(shown(&b), shown(&c));
}

#[test]
fn finding_14_a_cut_names_its_base() {
    let [mut a, mut b, mut c] = replicas();
    run(&mut b, [insert("k", &[("x", 1)])]);
    run(&mut c, [insert("k", &[("x", 1)])]);
    exchange(&mut b, &mut c);
    // The newest of C, sent to a peer that is taken to hold all before it.
    let (newest, version) = c.newest().unwrap();
    let mut one = VersionVector::new();
    one.insert(newest, version);
    let tail = c.cut_for(&c.vector().missing_from(&one));
    let before = a.clone();
    assert!(a.apply_cut(&tail).is_err());
    assert_eq!(a, before);
    send(&c, &mut a);
    assert_eq!(shown(&a), ["['k', 1, 0]"]);
}

#[test]
fn finding_14_a_base_of_another_history_is_a_fork() {
    let [mut x, mut b, mut c] = replicas();
    let mut copy = x.clone();
    run(&mut x, [insert("one", &[])]);
    copy.apply(insert("two", &[])).unwrap();
    copy.commit(77);
    send(&x, &mut b);
    send(&copy, &mut c);
    run(&mut c, [insert("three", &[])]);
    let cut = c.cut_for(b.vector());
    let before = b.clone();
    assert_eq!(b.apply_cut(&cut), Err(Refused::Fork { site: site(1), version: 1 }));
    assert_eq!(b, before);
}
