//! What sync sessions ask of a replica: who it is, where it stands, and the changesets that another one lacks.

use crate::changeset::{BYTES_MAX, Made, make, make_telling};
use crate::copies;
use crate::core::Core;
use crate::cut::Reader;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::replica::{Replica, writing};
use crate::{SiteId, VersionVector};
use rejoin_crdt::hlc;
use rejoin_sqlite::ValueRef;

/// What a cut is to be made for.
#[derive(Clone, Copy, Debug)]
pub struct CutRequest<'a> {
    /// What the receiver holds.
    pub theirs: &'a VersionVector,
    /// Only transactions of this replica's own sites ([`Replica::own_sites`]): the receiver does not take those of others from it. The base then
    /// names only what the receiver has, so a transaction of which nothing is left here because another's, which
    /// the receiver still lacks, has overwritten it arrives empty: it shows what it overwrites when the other one comes.
    pub own_only: bool,
    /// Transactions that the receiver does not take from this replica: they are left out, and the base does not name them.
    /// Of a site, all versions from one on.
    pub without: Option<&'a VersionVector>,
    /// Versions that are void here. Of those that the receiver holds it is told so: it may have them from elsewhere, with what was
    /// in them ([`Replica::holds_void`]).
    pub voids: Option<&'a VersionVector>,
    /// How large a changeset the receiver takes. A cut ends at the head of the log and cannot be divided, so one that comes out
    /// larger is made all the same, and [`Cut::oversized`] says so.
    pub bytes_max: u64,
}

impl<'a> CutRequest<'a> {
    /// All that a replica with this vector lacks.
    pub fn new(theirs: &'a VersionVector) -> CutRequest<'a> {
        CutRequest { theirs, own_only: false, without: None, voids: None, bytes_max: BYTES_MAX }
    }
}

/// One changeset, which is applied whole or not at all, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// For [`Replica::apply_changeset`].
    pub bytes: Vec<u8>,
    /// The versions that the receiver holds afterwards, empty ones included.
    pub brings: VersionVector,
    /// How many versions that is.
    pub transactions: u64,
    /// Where in this replica's log it ends: [`Replica::tail_cut`] goes on from here.
    pub upto: Position,
    /// It has more bytes than the request allowed.
    pub oversized: bool,
    /// It tells of a horizon, of which also those must hear who have everything that it brings.
    pub horizon: bool,
}

/// A place in the log of one replica between two commits; later ones are larger. It means nothing to other replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub i64);

/// The newest transaction of this replica's own site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub site: SiteId,
    /// 0: it has none yet.
    pub version: u64,
    /// The chain hash of that version.
    pub chain: u64,
    /// The latest time that anything here carries, Unix milliseconds.
    pub clock_ms: i64,
}

impl Replica {
    /// What a receiver lacks, as one changeset; None: nothing. It is made of what is committed, in one read transaction.
    ///
    /// [`Error::TooLarge`] if no changeset can hold it.
    pub fn cut_for(&self, request: &CutRequest<'_>) -> Result<Option<Cut>> {
        let reader = if request.own_only {
            Reader::Own(request.theirs)
        } else {
            Reader::Session(request.theirs, request.without)
        };
        Ok(cut(make_telling(&self.engine, reader, request.voids)?, request.bytes_max))
    }

    /// Everything that was committed after a position, for all who have everything up to it; None: nothing.
    pub fn tail_cut(&self, since: Position, bytes_max: u64) -> Result<Option<Cut>> {
        Ok(cut(make(&self.engine, Reader::After(since.0))?, bytes_max))
    }

    /// The end of the log as it is now.
    pub fn position(&self) -> Result<Position> {
        self.reading(|e| Ok(Position(e.core()?.tail.lsn)))
    }

    /// The room that the database belongs to; None: it has never synced with one.
    pub fn lineage(&self) -> Result<Option<[u8; 16]>> {
        self.reading(|e| Ok(e.core()?.cfg.lineage))
    }

    /// Takes a room's lineage. [`Error::OtherLineage`] if the database has another one.
    pub fn set_lineage(&self, lineage: [u8; 16]) -> Result<()> {
        if self.lineage()? == Some(lineage) {
            return Ok(());
        }
        settled(&self.engine, |core| match core.cfg.lineage {
            Some(ours) if ours != lineage => {
                let hex = |id: [u8; 16]| SiteId(id).to_string();
                Err(Error::OtherLineage { ours: hex(ours), theirs: hex(lineage) })
            }
            _ => core.set_lineage(lineage),
        })
    }

    /// The lineage, made if there is none: for a new room.
    pub fn make_lineage(&self) -> Result<[u8; 16]> {
        if let Some(lineage) = self.lineage()? {
            return Ok(lineage);
        }
        settled(&self.engine, |core| match core.cfg.lineage {
            Some(lineage) => Ok(lineage),
            None => {
                let lineage = crate::schema::random_id()?;
                core.set_lineage(lineage)?;
                Ok(lineage)
            }
        })
    }

    /// This replica's own site and its newest transaction.
    pub fn own_head(&self) -> Result<Head> {
        self.engine.make_ready()?;
        self.reading(|e| {
            let core = e.core()?;
            let (site, own) = (core.own_site(), core.cfg.own);
            let version = core.vector.max(&site);
            let chain = core.chains.get(&own).filter(|h| h.0 == version).map_or(0, |h| h.1);
            let clock_ms = hlc::unix_ms(core.tail.high);
            Ok(Head { site, version, chain, clock_ms })
        })
    }

    /// The chain hash of one transaction; None: it is not held, or came here without its hash.
    pub fn chain_at(&self, site: SiteId, version: u64) -> Result<Option<u64>> {
        self.reading(|e| copies::chain_at(e, site, version))
    }
}

fn cut(made: Made, bytes_max: u64) -> Option<Cut> {
    (made.versions > 0).then_some(Cut {
        oversized: made.bytes.len() as u64 > bytes_max,
        bytes: made.bytes,
        transactions: made.versions,
        brings: made.brings,
        upto: Position(made.upto),
        horizon: made.horizon,
    })
}

impl Core {
    fn set_lineage(&mut self, lineage: [u8; 16]) -> Result<()> {
        self.set_meta("lineage", ValueRef::Blob(&lineage))?;
        self.cfg.lineage = Some(lineage);
        Ok(())
    }
}

/// Runs `f` in a write transaction to which everything before it has been written out.
pub fn settled<R>(engine: &Engine, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
    engine.make_ready()?;
    writing(engine, || {
        engine.scoped("crsql_settled", || {
            engine.join()?;
            engine.flush()?;
            let mut core = engine.core()?;
            core.refresh(true)?;
            f(&mut core)
        })
    })
}
