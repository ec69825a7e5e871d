//! The n-th call fails. The step gives an error or succeeds; the state is that before it or after it; everything
//! goes on as if nothing had been, on the same connection and on what a loss of power at that moment leaves.

use super::workloads::NAMES;
use super::{Plan, SETTINGS, assert_clean, assert_told, open, point, points, power_off};
use rejoin::Replica;
use rejoin_sqlite::disk::{Call, Disk, Fault, Image};
use rejoin_sqlite::ffi;

/// Points of failure for each workload, setting and manner if it is to be short.
const SHORT: u64 = 5;

struct Manner {
    name: &'static str,
    call: Option<Call>,
    lasting: bool,
    code: Option<i32>,
}

const MANNERS: [Manner; 3] = [
    Manner { name: "once", call: None, lasting: false, code: None },
    Manner { name: "lasting", call: None, lasting: true, code: None },
    Manner { name: "full", call: Some(Call::Write), lasting: true, code: Some(ffi::SQLITE_FULL) },
];

/// What a run came to: the step that failed, and what a loss of power then left.
type Failed = Option<(usize, Image)>;

/// Runs all steps; the first error ends the trouble, and the rest goes on from what the replica shows then.
fn run(plan: &Plan, disk: &Disk) -> Failed {
    let opened = open(disk, plan.setting);
    if let Err(e) = &opened {
        assert_told(e, plan.setting);
        let left = power_off(disk);
        disk.heal();
        let r = open(disk, plan.setting).unwrap_or_else(|e| panic!("it does not open afterwards: {e}"));
        plan.find(&r, 0, 0);
        plan.finish(&r, 0);
        return Some((0, left));
    }
    let r = opened.ok()?;
    for (at, step) in plan.steps.iter().enumerate() {
        if let Err(e) = step.run(&r) {
            assert_told(&e, plan.setting);
            let left = power_off(disk);
            let found = recover(plan, disk, &r, at);
            plan.finish(&r, found);
            return Some((at, left));
        }
    }
    // Some calls may fail without harm: reading ahead, checkpoints.
    disk.heal();
    plan.finish(&r, plan.steps.len());
    None
}

fn recover(plan: &Plan, disk: &Disk, r: &Replica, at: usize) -> usize {
    let conn = r.connection();
    if !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    disk.heal();
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK").unwrap_or_else(|e| panic!("it cannot be rolled back: {e}"));
    }
    assert_clean(r);
    plan.find(r, at, at + 1)
}

fn fail_each(workload: &str) {
    let (disk, other) = (Disk::new(), Disk::new());
    for setting in SETTINGS {
        let plan = Plan::new(workload, setting);
        for manner in &MANNERS {
            disk.restore(&plan.start);
            run(&plan, &disk);
            let calls = disk.calls(manner.call);
            assert!(calls > 10, "{calls} calls");
            let mut failed = 0;
            let every = workload == "tiny" && manner.name == "once" && setting.owned == setting.wal;
            let short = if every { calls } else { SHORT };
            for n in points(calls, short) {
                point(&format!("{workload}/{setting}/{}/{n}", manner.name), || {
                    disk.restore(&plan.start);
                    disk.fail(Fault {
                        call: manner.call,
                        nth: n,
                        lasting: manner.lasting,
                        code: manner.code,
                    });
                    if let Some((at, left)) = run(&plan, &disk) {
                        failed += 1;
                        let (r, found) = plan.reopen(&other, &left, at);
                        plan.finish(&r, found);
                    }
                });
            }
            assert!(
                failed > 0 || super::chosen().is_some(),
                "{workload}/{setting}/{}: no fault was felt",
                manner.name
            );
        }
    }
}

/// The disk has room for so many bytes more.
fn fill_up(workload: &str) {
    let (disk, other) = (Disk::new(), Disk::new());
    for setting in SETTINGS {
        let plan = Plan::new(workload, setting);
        for room in points(40, SHORT).map(|k| (k - 1) * 1000) {
            point(&format!("{workload}/{setting}/room/{room}"), || {
                disk.restore(&plan.start);
                disk.set_room(Some(disk.used() + room));
                if let Some((at, left)) = run(&plan, &disk) {
                    let (r, found) = plan.reopen(&other, &left, at);
                    plan.finish(&r, found);
                } else {
                    assert!(room > 0, "a full disk was not felt");
                }
            });
        }
    }
}

macro_rules! workloads {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            fail_each(stringify!($name));
            fill_up(stringify!($name));
        })*

        #[test]
        fn all_workloads_are_here() {
            assert_eq!([$(stringify!($name)),*], NAMES);
        }
    };
}

workloads!(
    adopt,
    writes,
    bulk,
    folding,
    savepoints,
    alter,
    rebuild,
    rowwise,
    changeset,
    stream,
    upgrade,
    settings,
    automigrate,
    collection,
    tiny
);
