//! Starting over from a snapshot, with what only the old file has.

use crate::apply::{self, Applied, Options};
use crate::changeset::{make, wire};
use crate::copies;
use crate::core::{Core, LogRow, Tail};
use crate::cut::{Part, Reader};
use crate::error::Result;
use crate::replica::{Replica, writing};
use rejoin_crdt::limits::check_col_version;
use rejoin_sqlite::ValueRef;

/// What of an old file went onto a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Transactions that the snapshot lacked.
    pub transactions: u64,
    /// Changes of theirs that it took, in transactions of its own.
    pub changes: u64,
    /// Changes that lost, to other changes or because the row was deleted meanwhile.
    pub lost: u64,
    /// Rows of the snapshot that the old file had deleted and forgotten.
    pub deleted: u64,
}

impl Replica {
    /// For a replica that is below the horizon of others ([`crate::Error::BelowHorizon`]): what it has and the snapshot lacks is
    /// written to that under its own site id, and the snapshot is what the replica goes on with; if it fails, the snapshot is of
    /// no use.
    ///
    /// A change of a row that the snapshot does not know was made to a row that has been deleted, and that is forgotten: it is
    /// lost, unless everything of the row is new. Tables that are not replicated stay behind, and what is noted of the server;
    /// what was rejected comes along.
    ///
    /// A snapshot that is older than what was forgotten here, because the room was restored, may have rows that are deleted here
    /// and forgotten. They are deleted in it, too.
    pub fn replay_onto(&self, snapshot: &Replica) -> Result<Replayed> {
        self.give_way_to(snapshot)?;
        let theirs = snapshot.vector()?;
        // One state of the old file.
        let parts = self.engine.scoped("crsql_replay", || {
            let part = |part| make(&self.engine, Reader::Replay(&theirs, part)).map(|made| (part, made));
            Ok([part(Part::Whole)?, part(Part::Rest)?])
        })?;
        let (lamport, high, offset_ms) = self.reading(|e| {
            let core = e.core()?;
            Ok((core.cfg.lamport, core.tail.high, core.cfg.clock_offset_ms))
        })?;
        let rejected = self.rejected()?;
        let clock = if lamport { "lamport" } else { "hlc" };
        let engine = &snapshot.engine;
        let mut replayed = Replayed { transactions: parts[0].1.versions, ..Replayed::default() };
        let mut replayed = writing(engine, || {
            engine.scoped("crsql_replay", || {
                crate::config::set(engine, "clock", ValueRef::Text(clock.as_bytes()))?;
                // By the clock as it is are the old file's versions judged.
                crate::restamp::set_offset(&mut *engine.core()?, offset_ms)?;
                for (part, made) in parts.iter().filter(|(_, made)| made.versions > 0) {
                    let reader = rejoin_wire::Reader::open(&made.bytes).map_err(wire)?;
                    let options = Options { any_lineage: true, over_gap: true, replay: Some(*part) };
                    let Applied { cells_won, cells_lost, .. } =
                        apply::apply_watched(engine, &reader, options, None)?;
                    replayed.changes += cells_won;
                    replayed.lost += cells_lost;
                }
                let mut core = engine.core()?;
                rejected.iter().try_for_each(|cell| cell.put(&core))?;
                core.go_on_from(high)?;
                Ok(replayed)
            })
        })?;
        replayed.deleted = writing(engine, || crate::forgotten::delete_again(self, snapshot, &theirs))?;
        Ok(replayed)
    }
}

impl Replica {
    /// Of two histories of one site the snapshot's stands, and what this file has instead goes on under its own id: else
    /// it would be taken for what the snapshot has under the same versions. A file that was rolled back and written to
    /// has one of its own site. Writes to this file; a second time it finds nothing.
    pub fn give_way_to(&self, snapshot: &Replica) -> Result<()> {
        let (theirs, own) = (snapshot.vector()?, self.site_id()?);
        let acknowledged = self.server()?.map(|note| note.acknowledged).unwrap_or_default();
        for (site, ours) in self.vector()?.iter().filter(|(site, _)| theirs.ranges(site).is_some()) {
            let last = ours.max().min(theirs.max(site));
            let here = copies::chain_at(&self.engine, *site, last)?;
            if here.is_some() && here == copies::chain_at(&snapshot.engine, *site, last)? {
                continue;
            }
            let (mine, others) =
                (copies::chains(&self.engine, *site)?, copies::chains(&snapshot.engine, *site)?);
            let common = match copies::parting(&mine, &others) {
                Some((common, _)) => common,
                // What the hashes were is forgotten there. What was not acknowledged here may be another's.
                None if *site == own => copies::shared(&mine, &others).max(acknowledged.max(site)),
                None => continue,
            };
            if common < last {
                self.give_way(*site, common)?;
            }
        }
        Ok(())
    }
}

impl Core {
    /// What is written from here on comes after what the old file wrote, unless its clock was wrong.
    fn go_on_from(&mut self, high: i64) -> Result<()> {
        let (now, drift_ms) = (self.now(), self.cfg.drift_ms);
        if high <= self.tail.high || check_col_version(high, now, drift_ms).is_err() {
            return Ok(());
        }
        let (lsn, db_version) = (self.tail.lsn + 1, self.tail.db_version);
        let mark = LogRow { lsn, db_version, high, ..LogRow::default() };
        self.write_log_row(&mark, &[])?;
        self.tail = Tail { lsn, db_version, high, chain: 0 };
        Ok(())
    }
}
