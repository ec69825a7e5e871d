//! Storage without rows: transactions by site and version, and nothing else.

use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, chain};
use rejoin_sync::frame::{Bytes, Id, Void};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const DRIFT_MS: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tx {
    pub nonce: u64,
    pub chain: u64,
    pub stamp_ms: u64,
    pub void: bool,
}

/// A cut of this storage.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bundle {
    base: Vec<u8>,
    holds: Vec<u8>,
    pub transactions: Vec<(Id, u64, Tx)>,
    padding: Bytes,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Gap,
    Fork(Id),
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    pub site: Id,
    pub mine: Vec<Id>,
    pub lineage: Option<Id>,
    pub transactions: BTreeMap<(Id, u64), Tx>,
    pub acknowledged: VersionVector,
    pub clock_offset_ms: i64,
    /// Rejections that the application has not dealt with.
    pub rejected: u64,
    /// Counts every change, as the server's `db_version` does.
    pub order: Vec<(Id, u64)>,
}

impl Store {
    pub fn new(site: Id) -> Store {
        Store { site, mine: vec![site], ..Store::default() }
    }

    pub fn vector(&self) -> VersionVector {
        let mut vector = VersionVector::new();
        self.transactions.keys().for_each(|(site, version)| vector.insert(SiteId(*site), *version));
        vector
    }

    pub fn head(&self) -> Option<(u64, u64)> {
        self.last(self.site)
    }

    pub fn last(&self, site: Id) -> Option<(u64, u64)> {
        self.transactions.range((site, 0)..=(site, u64::MAX)).next_back().map(|(k, tx)| (k.1, tx.chain))
    }

    fn put(&mut self, site: Id, version: u64, tx: Tx) {
        self.transactions.insert((site, version), tx);
        self.order.push((site, version));
    }

    pub fn commit(&mut self, nonce: u64, now_ms: u64) {
        let (version, before) = self.head().unwrap_or_default();
        let stamp_ms = now_ms.saturating_add_signed(self.clock_offset_ms);
        let chain = chain::next(before, version + 1, nonce);
        self.put(self.site, version + 1, Tx { nonce, chain, stamp_ms, void: false });
    }

    pub fn take_site(&mut self, site: Id) {
        self.site = site;
        self.mine.push(site);
    }

    /// What came after `common` of the own site goes on under a new one.
    pub fn give_way(&mut self, common: u64, new: Id) {
        let old = self.site;
        let moved: Vec<(u64, Tx)> = self
            .transactions
            .range((old, common + 1)..=(old, u64::MAX))
            .map(|(k, tx)| (k.1, tx.clone()))
            .collect();
        self.take_site(new);
        for (version, tx) in moved {
            self.transactions.remove(&(old, version));
            let (last, before) = self.head().unwrap_or_default();
            let chain = chain::next(before, last + 1, tx.nonce);
            self.put(new, last + 1, Tx { chain, ..tx });
        }
        self.order.retain(|key| self.transactions.contains_key(key));
    }

    pub fn latest_ms(&self) -> i64 {
        self.transactions.values().map(|tx| tx.stamp_ms as i64).max().unwrap_or(0)
    }

    pub fn restamp(&mut self, acknowledged: &VersionVector, offset_ms: i64, clock_ms: u64) {
        let by = offset_ms - self.clock_offset_ms;
        let now_ms = clock_ms.saturating_add_signed(offset_ms);
        for ((site, version), tx) in &mut self.transactions {
            if self.mine.contains(site) && !acknowledged.contains(&SiteId(*site), *version) {
                tx.stamp_ms = tx.stamp_ms.saturating_add_signed(by).min(now_ms);
            }
        }
        self.clock_offset_ms = offset_ms;
    }

    /// For one who holds `theirs`.
    pub fn cut(
        &self,
        theirs: &VersionVector,
        own_only: bool,
        padding: usize,
    ) -> Option<(Bundle, VersionVector)> {
        let mut brings = VersionVector::new();
        let mut transactions = Vec::new();
        for (&(site, version), tx) in &self.transactions {
            let wanted = !own_only || self.mine.contains(&site);
            if wanted && !theirs.contains(&SiteId(site), version) {
                brings.insert(SiteId(site), version);
                transactions.push((site, version, tx.clone()));
            }
        }
        let (base, holds) = if own_only {
            (theirs.missing_from(&theirs.missing_from(&self.vector())), brings.clone())
        } else {
            (self.vector().missing_from(&brings), self.vector())
        };
        let bundle = Bundle {
            base: base.encode(),
            holds: holds.encode(),
            transactions,
            // Does not compress, but nothing does here.
            padding: Bytes(vec![7; padding]),
        };
        (!bundle.transactions.is_empty()).then_some((bundle, brings))
    }

    pub fn check(&self, bundle: &Bundle) -> Result<(), Refusal> {
        let base = VersionVector::decode(&bundle.base).expect("a vector");
        if !self.vector().covers(&base) {
            return Err(Refusal::Gap);
        }
        for (site, version, tx) in &bundle.transactions {
            if self.transactions.get(&(*site, *version)).is_some_and(|ours| ours.chain != tx.chain) {
                return Err(Refusal::Fork(*site));
            }
        }
        Ok(())
    }

    pub fn apply(&mut self, bundle: Bundle) {
        for (site, version, tx) in bundle.transactions {
            if !self.transactions.contains_key(&(site, version)) {
                self.put(site, version, tx);
            }
        }
    }

    pub fn void(&mut self, version: u64) -> Option<Void> {
        let tx = self.transactions.get_mut(&(self.site, version))?;
        self.rejected += u64::from(!tx.void);
        tx.void = true;
        Some(Void { site: self.site, version, nonce: tx.nonce, chain: tx.chain })
    }

    pub fn record_void(&mut self, site: Id, void: &Void) {
        let tx = Tx { nonce: void.nonce, chain: void.chain, stamp_ms: 0, void: true };
        if !self.transactions.contains_key(&(site, void.version)) {
            self.put(site, void.version, tx);
        }
    }
}

impl Bundle {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("encodes")
    }

    pub fn decode(bytes: &[u8]) -> Option<Bundle> {
        let bundle: Bundle = postcard::from_bytes(bytes).ok()?;
        VersionVector::decode(&bundle.base).ok()?;
        VersionVector::decode(&bundle.holds).ok()?;
        Some(bundle)
    }

    pub fn holds(&self) -> VersionVector {
        VersionVector::decode(&self.holds).expect("checked by decode")
    }
}
