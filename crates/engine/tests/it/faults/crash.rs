//! Power is lost at any moment. Whatever the disk made of what was not synced, the file is whole and shows a state that is
//! not older than the last transaction whose COMMIT returned, and a peer that had all of that syncs on.

use super::workloads::NAMES;
use super::{Plan, SETTINGS, assert_clean, open, point};
use crate::util::pull;
use rejoin::{Replica, VersionVector};
use rejoin_sqlite::disk::{Disk, Loss};
use rusqlite::Connection;

/// Moments for each workload and setting if it is to be short.
const SHORT: u64 = 5;

/// A peer that was sent these.
fn peer(changesets: &[Vec<u8>]) -> Replica {
    let peer = Replica::attach(Connection::open_in_memory().unwrap()).unwrap();
    for bytes in changesets {
        peer.apply_changeset(bytes).unwrap();
    }
    peer
}

/// What `r` has beyond `known`, if it is a replica yet.
fn news(r: &Replica, known: &mut VersionVector) -> Option<Vec<u8>> {
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name = 'crsql_meta'";
    if r.connection().query_row(ours, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
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
                    let r = plan.assert_survives(&other, &replay.image(loss), at);
                    sync(&r, &peer(&sent[..marks[at].1]));
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
    automigrate
);
