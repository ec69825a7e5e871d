//! Power is lost at any moment. Whatever the disk made of what was not synced, the file is whole and shows a state that is
//! not older than the last transaction whose COMMIT returned, and a peer that had all of that syncs on.

use super::workloads::NAMES;
use super::{Plan, SETTINGS, Setting, assert_clean, look, open, point, workloads};
use crate::util::{int, pull};
use rejoin::{Error, Replica, VersionVector};
use rejoin_sqlite::disk::{Disk, Loss};
use rusqlite::Connection;

/// Moments for each workload and setting if it is to be short.
const SHORT: u64 = 5;

/// A peer that was sent these.
fn peer(changesets: &[Vec<u8>]) -> Replica {
    let peer = Replica::attach(Connection::open_in_memory().unwrap()).unwrap();
    peer.connection().execute_batch(&workloads::schema()).unwrap();
    for bytes in changesets {
        peer.apply_changeset(bytes).unwrap();
    }
    peer
}

/// The workload has got so far that there is metadata.
fn is_replica(r: &Replica) -> bool {
    int(r, "SELECT count(*) FROM sqlite_schema WHERE name = 'crsql_meta'") > 0
}

/// What `r` has beyond `known`, if it is a replica yet.
fn news(r: &Replica, known: &mut VersionVector) -> Option<Vec<u8>> {
    if !is_replica(r) {
        return None;
    }
    let bytes = r.changeset_for(known).unwrap();
    *known = r.vector().unwrap();
    bytes
}

fn crash_everywhere(workload: &str) {
    let (disk, other) = (Disk::new(), Disk::new());
    for setting in SETTINGS {
        let plan = Plan::new(workload, setting);
        disk.restore(&plan.start);
        let r = open(&disk, setting).unwrap();
        disk.record();
        let mut known = VersionVector::new();
        let mut sent: Vec<Vec<u8>> = news(&r, &mut known).into_iter().collect();
        let mut marks = vec![(0, sent.len())];
        for step in &plan.steps {
            step.run(&r).unwrap();
            let position = disk.position();
            sent.extend(news(&r, &mut known));
            marks.push((position, sent.len()));
        }
        drop(r);
        let log = disk.take_log().unwrap();
        let mut replay = log.replay();
        for n in super::points(log.len() as u64, SHORT) {
            replay.advance_to(n as usize);
            let at = marks.iter().rposition(|(position, _)| *position <= n as usize).unwrap();
            let losses = [Loss::All, Loss::None, Loss::Some { seed: n }, Loss::Torn { seed: n }];
            for (loss, kind) in losses.into_iter().zip(["all", "none", "some", "torn"]) {
                point(&format!("{workload}/{setting}/crash-{kind}/{n}"), || {
                    let (r, found) = plan.reopen(&other, &replay.image(loss), at);
                    if is_replica(&r) {
                        sync(&r, &peer(&sent[..marks[at].1]));
                    }
                    plan.finish(&r, found);
                });
            }
        }
    }
}

fn sync(r: &Replica, peer: &Replica) {
    pull(r, peer).unwrap();
    pull(peer, r).unwrap();
    assert_eq!(peer.vector().unwrap(), r.vector().unwrap());
    assert_clean(peer);
    assert_clean(r);
}

/// A replica that lost what it was told was committed, because its log was not synced, and that its peer has. What it
/// writes from then on has the versions of what it lost; merging tells the two apart, and both keep everything.
#[test]
fn what_a_replica_lost_comes_back_from_its_peer() {
    let (disk, other) = (Disk::new(), Disk::new());
    for owned in [false, true] {
        let plan = Plan::new("writes", Setting { owned, wal: true });
        disk.restore(&plan.start);
        let r = open(&disk, plan.setting).unwrap();
        r.connection().execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0").unwrap();
        disk.record();
        plan.steps.iter().for_each(|step| step.run(&r).unwrap());
        let all = r.changeset_since(0).unwrap();
        let mut lost = 0;
        for seed in 0..8 {
            point(&format!("writes/{}/rolled-back/{seed}", plan.setting), || {
                other.restore(&disk.crash(if seed == 0 { Loss::All } else { Loss::Some { seed } }));
                let r = open(&other, plan.setting).unwrap();
                assert_clean(&r);
                let found = plan.find(&r, 0, plan.steps.len());
                lost += u64::from(found < plan.steps.len());
                let write = "INSERT INTO items(id, name) VALUES (7777, 'after the crash')";
                r.connection().execute_batch(write).unwrap();
                let peer = peer(std::slice::from_ref(&all));
                if found < plan.steps.len() {
                    let told = pull(&r, &peer).map(|_| ()).and_then(|()| pull(&peer, &r).map(drop));
                    assert!(matches!(told, Err(Error::Fork { .. })), "{told:?}");
                }
                r.merge_with(&peer).unwrap();
                sync(&r, &peer);
                let tables = |r: &Replica| look(r).unwrap().tables;
                assert_eq!(tables(&r), tables(&peer));
                let count = "SELECT count(*) FROM items WHERE id = 7777";
                assert_eq!(int(&peer, count), 1);
            });
        }
        assert!(lost > 0 || super::chosen().is_some(), "nothing was lost");
    }
}

macro_rules! workloads {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            crash_everywhere(stringify!($name));
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
