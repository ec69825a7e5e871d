//! Void versions: what a server has rejected and its origin has given up. They are held, and nothing is in them.
//!
//! In the log a void version is a row that stands for itself as an empty range (section kind 6), with the nonce that it
//! was made with: the chain goes on over it.

use crate::changeset::wire;
use crate::core::Header;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::{SiteId, VersionVector};
use rejoin_crdt::chain;
use rejoin_crdt::limits::VERSION_MAX;
use rejoin_wire::Reader;

/// A version of which nothing is left because it was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Void {
    pub site: SiteId,
    pub version: u64,
    pub nonce: u64,
    pub chain: u64,
}

/// The first version that is void where a changeset comes from, and here is not: who made the changeset tells it of versions
/// that its reader was taken to hold, which are in the base, too.
pub fn held(engine: &Engine, bytes: &[u8]) -> Result<Option<(SiteId, u64)>> {
    let reader = Reader::open(bytes).map_err(wire)?;
    let base = reader.builds_on();
    let mut void = VersionVector::new();
    for r in reader.empty_ranges() {
        if let Some(site) = reader.sites().get(r.site as usize) {
            void.insert_range(*site, r.from..=r.to);
        }
    }
    let void = void.common(&base);
    if void.is_empty() {
        return Ok(None);
    }
    let mut core = engine.core()?;
    core.refresh(false)?;
    let void = void.common(&core.vector);
    let rows = core.rows_of(&void)?;
    let full = rows.into_iter().find(|r| r.changes.empty_from.is_none());
    Ok(full.and_then(|r| Some((core.sites.id(r.header.site)?, r.header.version))))
}

fn bad(why: &str) -> Error {
    Error::BadArgument { function: "void", why: why.into() }
}

/// Records void versions of others.
pub fn record(engine: &Engine, voids: &[Void]) -> Result<u64> {
    let mut voids = voids.to_vec();
    voids.sort_unstable();
    voids.dedup();
    if voids.iter().any(|v| !(1..=VERSION_MAX as u64).contains(&v.version)) {
        return Err(bad("a version out of range"));
    }
    if voids.windows(2).any(|w| (w[0].site, w[0].version) == (w[1].site, w[1].version)) {
        return Err(bad("one version with two hashes"));
    }
    engine.make_ready()?;
    engine.flush()?;
    engine.scoped("crsql_void", || {
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.refresh(true)?;
        core.next_txn();
        let own = core.own_site();
        let at = |v: &Void| [(v.site, v.version), (v.site, v.version - 1)];
        let wanted: Vec<(SiteId, u64)> = voids.iter().flat_map(at).filter(|w| w.1 > 0).collect();
        let mut known = core.chains_at(&wanted)?;
        let mut recorded = 0;
        for v in &voids {
            let fork = || Error::Fork { site: v.site.to_string(), version: v.version };
            if core.vector.contains(&v.site, v.version) {
                // 0 is no hash: the version came as part of an empty range.
                if known.get(&(v.site, v.version)).is_some_and(|c| *c != v.chain) {
                    return Err(fork());
                }
                continue;
            }
            if v.site == own {
                return Err(bad("the replica's own versions are given up by adoption"));
            }
            let first = (v.version == 1).then_some(0);
            let previous = first.or_else(|| known.get(&(v.site, v.version - 1)).copied());
            if previous.is_some_and(|p| chain::next(p, v.version, v.nonce) != v.chain) {
                return Err(fork());
            }
            let site = core.intern_site(v.site)?;
            let db_version = core.tail.db_version.max(core.txn.base_db_version);
            let Void { version, nonce, chain, .. } = *v;
            core.log_range(db_version, Header { site, version, clock: 0, nonce, chain }, version)?;
            known.insert((v.site, version), chain);
            recorded += 1;
        }
        core.next_txn();
        Ok(recorded)
    })
}
