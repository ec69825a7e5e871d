//! Copies of a file: two writers under one site id would corrupt everybody's vectors.
//!
//! - A copy takes a new id ([`new_site`]); in a file that was rolled back it happens when a peer knows more of the file's
//!   own site than the file does.
//! - Two histories of one site are a fork, refused when they meet. One side gives way ([`give_way`]): its transactions
//!   after the common one go on as transactions of its own id. Cells keep their stamps; only log rows are relabelled.
//!   If it is this replica's own site, that happens at once, and the next exchange finds no fork.

use crate::apply::{Told, told};
use crate::core::{Core, Header, LogRow, read_log_head};
use crate::cut::LOG;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::Changes;
use rejoin_crdt::chain;
use rejoin_crdt::site::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::ValueRef;
use rejoin_wire::{EmptyRange, Reader};
use std::collections::{BTreeMap, HashMap};

/// `crsql_new_site_id()`: from here on this replica writes under another id; it keeps its data.
pub fn new_site(engine: &Engine) -> Result<SiteId> {
    in_transaction(engine, |core| {
        core.next_txn();
        core.take_new_site()
    })
}

/// The file was rolled back: it goes on under another id, and what it wrote under the old one is still its own.
pub fn renew_site(engine: &Engine) -> Result<SiteId> {
    in_transaction(engine, |core| {
        core.next_txn();
        let former = core.own_sites();
        let bytes: Vec<u8> = former.iter().flat_map(|id| id.0).collect();
        core.set_meta("former-sites", ValueRef::Blob(&bytes))?;
        core.cfg.former = former;
        core.take_new_site()
    })
}

fn in_transaction<R>(engine: &Engine, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
    engine.make_ready()?;
    engine.scoped("crsql_copy", || {
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        core.refresh(true)?;
        f(&mut core)
    })
}

/// After a changeset was refused, or taken over a gap: what it tells of this replica's own sites. `fork`: the site of
/// which it has another history.
pub fn heed(engine: &Engine, reader: &Reader<'_>, fork: Option<&str>) -> Result<()> {
    let (behind, forked) = {
        let mut core = engine.core()?;
        core.refresh(false)?;
        let own = core.own_site();
        let max = core.vector.max(&own);
        let ours = |r: &EmptyRange| reader.sites().get(r.site as usize) == Some(&own) && r.to > max;
        let forked = core.own_sites().into_iter().find(|site| fork == Some(site.to_string().as_str()));
        (reader.base().iter().any(ours), forked)
    };
    match (fork, forked) {
        (Some(_), Some(site)) => give_way_before(engine, reader, site),
        (None, _) if behind => renew_site(engine).map(drop),
        _ => Ok(()),
    }
}

/// Of two histories of a site that of a changeset's sender stands.
fn give_way_before(engine: &Engine, reader: &Reader<'_>, site: SiteId) -> Result<()> {
    let common = engine.core()?.common(reader, site)?;
    give_way(engine, site, common)
}

/// The chain hash of one version, if it is known.
pub fn chain_at(engine: &Engine, site: SiteId, version: u64) -> Result<Option<u64>> {
    let mut core = engine.core()?;
    core.refresh(false)?;
    Ok(core.chains_at(&[(site, version)])?.get(&(site, version)).copied())
}

/// The chain hashes that a replica knows of one site.
pub fn chains(engine: &Engine, site: SiteId) -> Result<BTreeMap<u64, u64>> {
    let mut core = engine.core()?;
    core.refresh(false)?;
    let Some(ordinal) = core.sites.ordinal(&site) else { return Ok(BTreeMap::new()) };
    let mut all: BTreeMap<u64, u64> = core.chains.get(&ordinal).copied().into_iter().collect();
    let mut q = core
        .db
        .prepare_transient("SELECT version, chain FROM main.crsql_log WHERE site = ?1 AND version > 0")?;
    q.bind_int(1, i64::from(ordinal))?;
    while q.step()? {
        all.insert(q.column_int(0) as u64, q.column_int(1) as u64);
    }
    all.retain(|_, chain| *chain != 0);
    Ok(all)
}

/// The last version of which two histories agree, and whether the first gives way: the one with the smaller hash at
/// the first version where they differ. None: they do not differ.
pub fn parting(ours: &BTreeMap<u64, u64>, theirs: &BTreeMap<u64, u64>) -> Option<(u64, bool)> {
    let common = shared(ours, theirs);
    let mut both = ours.iter().filter_map(|(v, mine)| Some((*v, *mine, *theirs.get(v)?)));
    let (_, mine, other) = both.find(|(v, a, b)| *v > common && a != b)?;
    Some((common, mine < other))
}

/// The last version that is known to be the same in both.
pub fn shared(ours: &BTreeMap<u64, u64>, theirs: &BTreeMap<u64, u64>) -> u64 {
    ours.iter().rev().find(|(v, mine)| theirs.get(v) == Some(mine)).map_or(0, |(v, _)| *v)
}

/// What this replica has of `site` after version `common` goes on under its own id, a new one if the site is its own.
pub fn give_way(engine: &Engine, site: SiteId, common: u64) -> Result<()> {
    in_transaction(engine, |core| {
        core.next_txn();
        let Some(ordinal) = core.sites.ordinal(&site) else { return Ok(()) };
        if ordinal == core.cfg.own {
            core.take_new_site()?;
        }
        core.fold()?;
        core.relabel(ordinal, site, common)
    })
}

impl Core {
    /// The last version of `site` that the sender of a changeset has as it is here, as far as that can be known.
    fn common(&mut self, reader: &Reader<'_>, site: SiteId) -> Result<u64> {
        let mut told: Vec<Told> = told(reader)?;
        for r in reader.base() {
            if let Some(site) = reader.sites().get(r.site as usize) {
                told.push(Told { site: *site, from: r.from, to: r.to, chain: r.chain, nonce: None });
            }
        }
        told.retain(|t| t.site == site);
        let wanted: Vec<(SiteId, u64)> = told.iter().map(|t| (t.site, t.to)).collect();
        let ours = self.chains_at(&wanted)?;
        let same = told.iter().filter(|t| ours.get(&(site, t.to)) == Some(&t.chain)).map(|t| t.to).max();
        let from_start = told.iter().any(|t| t.from == 1 && t.nonce.is_some());
        if let Some(same) = same.or(from_start.then_some(0)) {
            return Ok(same);
        }
        // It does not say, so what was not acknowledged before the first that differs may be something else there.
        let differs = told.iter().filter(|t| ours.get(&(site, t.to)).is_some_and(|c| *c != t.chain));
        let first = differs.map(|t| t.to).chain(told.iter().map(|t| t.from).filter(|from| *from > 1)).min();
        let acknowledged = self.server()?.map_or(0, |note| note.acknowledged.max(&site));
        Ok(if first.is_some_and(|first| acknowledged < first) { acknowledged } else { 0 })
    }

    fn relabel(&mut self, ordinal: u32, site: SiteId, common: u64) -> Result<()> {
        let own = self.cfg.own;
        let own_id = self.own_site();
        let mut rows: Vec<LogRow> = Vec::new();
        let mut q =
            self.db.prepare_transient(&format!("{LOG} WHERE site = ?1 AND version > ?2 ORDER BY id"))?;
        q.bind_int(1, i64::from(ordinal))?;
        q.bind_int(2, common as i64)?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            rows.push(row);
        }
        drop(q);
        let mut gone = VersionVector::new();
        gone.insert_range(site, common + 1..=u64::MAX);
        self.vector = self.vector.missing_from(&gone);
        self.lower_horizon(&gone)?;
        let kept = self.chains_at(&[(site, common)])?.get(&(site, common)).copied();
        self.chains.insert(ordinal, (common, kept.unwrap_or(0)));
        let mut headers: HashMap<u64, Header> = HashMap::new();
        for mut row in rows {
            // Its metadata stands in the blocks (the caller has folded), so it need only name the rows.
            row.changes.spill();
            match row.changes.empty_from {
                Some(first) if first <= common => {
                    (row.header.version, row.header.chain) = (common, 0);
                    self.vector.insert_range(site, first..=common);
                }
                Some(_) => {
                    row.changes.empty_from = None;
                    row.header.version = 0;
                }
                None => {
                    let header = match headers.get(&row.header.version) {
                        Some(header) => *header,
                        None => self.next_header(own, own_id, row.header.clock)?,
                    };
                    headers.insert(row.header.version, header);
                    row.header = header;
                }
            }
            let bytes = row.changes.encode(&row.base());
            self.write_log_row(&row, &bytes)?;
            if row.lsn == self.tail.lsn {
                self.tail.chain = row.header.chain;
            }
        }
        self.forget_vector(ordinal)?;
        self.save_whole_vector()?;
        self.mark_rewritten()
    }

    /// The next transaction of a site, held from here on.
    fn next_header(&mut self, site: u32, id: SiteId, clock: i64) -> Result<Header> {
        let version = self.vector.max(&id) + 1;
        let nonce = crate::schema::random_nonce()?;
        let previous = self.chains.get(&site).map_or(0, |c| c.1);
        let chain = chain::next(previous, version, nonce);
        self.vector.insert(id, version);
        self.saw_chain(site, version, chain);
        Ok(Header { site, version, clock, nonce, chain })
    }

    fn forget_vector(&self, ordinal: u32) -> Result<()> {
        let mut del = self.db.prepare_transient("DELETE FROM main.crsql_vector WHERE site = ?1")?;
        del.run(&[ValueRef::Integer(i64::from(ordinal))]).map_err(Error::from)
    }
}
