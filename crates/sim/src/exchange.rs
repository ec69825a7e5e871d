//! How changes leave and enter a replica: row by row (`crsql_changes`) and by cuts (changesets).

use crate::replica::{Entry, OpError, Replica};
use crate::row::{Cell, ColId, Row, Stamp, packed};
use crate::schema::{self, Met, Name, Named, State, Table, meet};
use rejoin_crdt::limits;
use rejoin_crdt::vector::{Ranges, VersionVector};
use rejoin_crdt::{SiteId, Value, chain, key};
use std::collections::{BTreeMap, BTreeSet};

/// One row of `crsql_changes`; `cid` "-1" is the sentinel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub table: String,
    pub pk: Vec<u8>,
    pub cid: String,
    pub val: Value,
    pub col_version: i64,
    pub db_version: i64,
    pub site_id: SiteId,
    pub cl: u32,
    pub seq: i64,
}

/// A name as it travels natively: what it is called at the sender, and all the names it had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Naming {
    pub current: Name,
    pub names: BTreeSet<Name>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NativeChange {
    pub table: Naming,
    /// None: the sentinel.
    pub column: Option<Naming>,
    /// With a change of a live table and column: all its live columns, for their names.
    pub columns: Vec<Naming>,
    pub key: Vec<Value>,
    pub cl: u32,
    pub value: Value,
    pub col_version: i64,
    pub site: SiteId,
    pub seq: i64,
}

/// One transaction of a cut; `changes` is what is left of it at the sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tx {
    pub site: SiteId,
    pub version: u64,
    pub changes: Vec<NativeChange>,
}

/// Everything up to the head of the sender that the receiver misses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// What the sender took the receiver to hold; a receiver that does not must ask again (finding 14).
    pub base: VersionVector,
    pub txs: Vec<Tx>,
    /// Missing versions of which nothing is left.
    pub empty: VersionVector,
    /// Chain hash and nonce of each missing version.
    pub hashes: BTreeMap<(SiteId, u64), (u64, u64)>,
    /// Chain hash of the last version of each site in `base`.
    pub heads: BTreeMap<(SiteId, u64), u64>,
    pub horizon: VersionVector,
}

/// Why a cut was refused; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The receiver lacks something that the sender took for granted.
    Gap,
    /// The two have different histories of this site at this version.
    Fork { site: SiteId, version: u64 },
}

/// One listed cell or sentinel.
struct Listed<'a> {
    table: u32,
    column: Option<ColId>,
    row: &'a Row,
    cell: Option<&'a Cell>,
    stamp: Stamp,
}

impl Replica {
    fn listed(&self) -> Vec<Listed<'_>> {
        let mut all = Vec::new();
        for (table, t) in &self.tables {
            for row in t.rows.values() {
                let one = |column, cell, stamp| Listed { table: *table, column, row, cell, stamp };
                all.extend(row.sentinel.map(|stamp| one(None, None, stamp)));
                all.extend(row.cells.iter().map(|(col, cell)| one(Some(*col), Some(cell), cell.stamp)));
            }
        }
        all.sort_by_key(|l| (l.stamp.db_version, l.stamp.seq));
        all
    }

    /// `SELECT * FROM crsql_changes WHERE db_version > since`, in natural order.
    pub fn changes(&self, since: i64) -> Vec<Change> {
        let change = |l: Listed<'_>| {
            let t = self.tables.get(&l.table)?;
            let cid = match l.column {
                None => "-1".to_owned(),
                Some(col) => schema::text_of(&t.columns, col)?,
            };
            Some(Change {
                table: schema::text_of(&self.tables, l.table)?,
                pk: packed(&l.row.key),
                cid,
                val: l.cell.map_or(Value::Null, |c| c.value.clone()),
                col_version: l.cell.map_or(i64::from(l.row.cl), |c| c.col_version),
                db_version: l.stamp.db_version,
                site_id: l.stamp.site,
                cl: l.row.cl,
                seq: l.stamp.seq,
            })
        };
        self.listed().into_iter().filter(|l| l.stamp.db_version > since).filter_map(change).collect()
    }

    /// `INSERT INTO crsql_changes`, part of the open transaction; true if something was stored.
    pub fn insert_change(&mut self, change: &Change) -> Result<bool, OpError> {
        self.check(change).map_err(OpError::Poison)?;
        let key = key::unpack_owned(&change.pk).map_err(|_| OpError::KeyWidth)?;
        let table = schema::by_text(&self.tables, &change.table)
            .unwrap_or_else(|| add_parked(&mut self.tables, &change.table, Table::parked));
        let equal = self.merge_equal_values;
        let db_version = self.open.pending.max(self.db_version + 1).max(change.db_version);
        let batch = self.batches + 2;
        let stamp = Stamp { batch, db_version, site: change.site_id, seq: change.seq };
        let Some(t) = self.tables.get_mut(&table) else {
            return Err(OpError::NoTable);
        };
        if t.state.live().is_some_and(|live| live.key.len() != key.len()) {
            return Err(OpError::KeyWidth);
        }
        let column = (change.cid != "-1" && change.cl & 1 == 1).then(|| {
            let parked = |names| schema::Column { names, state: State::Parked };
            schema::by_text(&t.columns, &change.cid)
                .unwrap_or_else(|| add_parked(&mut t.columns, &change.cid, parked))
        });
        let (value, col_version) = (change.val.clone(), change.col_version);
        let cell = column.map(|col| (col, Cell { value, col_version, stamp }));
        let stored = merge(t, &key, change.cl, stamp, cell, equal);
        if stored {
            self.open.pending = db_version;
            self.open.last = self.open.last.max(db_version);
            self.open.touched = true;
            self.open.rows_impacted += 1;
            if column.is_some() {
                self.largest = self.largest.max(change.col_version);
            }
        }
        Ok(stored)
    }

    fn check(&self, change: &Change) -> Result<(), limits::Poison> {
        limits::check_cl(i64::from(change.cl))?;
        limits::check_version("seq", change.seq)?;
        limits::check_db_version(change.db_version, self.db_version)?;
        limits::check_col_version(change.col_version, self.now_ms, self.drift_ms)?;
        if change.cid == "-1" && change.col_version != i64::from(change.cl) {
            return Err(limits::Poison::Sentinel {
                col_version: change.col_version,
                cl: i64::from(change.cl),
            });
        }
        Ok(())
    }

    /// What a peer with this vector misses.
    pub fn cut_for(&self, theirs: &VersionVector) -> Cut {
        let missing = self.vector.missing_from(theirs);
        let mut left = missing.clone();
        let entries: Vec<&Entry> = self.log.iter().filter(|e| missing.contains(&e.site, e.version)).collect();
        let mut txs: Vec<Tx> = Vec::new();
        let mut listed = self.listed();
        for entry in entries {
            let mut changes = Vec::new();
            listed.retain(|l| {
                let covered = l.stamp.batch == entry.batch;
                changes.extend(covered.then(|| self.native(l)).flatten());
                !covered
            });
            txs.push(Tx { site: entry.site, version: entry.version, changes });
            left = without(&left, entry);
        }
        let hash = |(at, hash): (&(SiteId, u64), &u64)| {
            missing.contains(&at.0, at.1).then(|| (*at, (*hash, self.nonces.get(at).copied().unwrap_or(0))))
        };
        let hashes = self.hashes.iter().filter_map(hash).collect();
        let head = |(site, held): (&SiteId, &Ranges)| {
            let at = (*site, held.max());
            Some((at, *self.hashes.get(&at)?))
        };
        let base = theirs.missing_from(&theirs.missing_from(&self.vector));
        let heads = base.iter().filter_map(head).collect();
        Cut { base, heads, txs, empty: left, hashes, horizon: self.horizon.clone() }
    }

    fn native(&self, l: &Listed<'_>) -> Option<NativeChange> {
        let t = self.tables.get(&l.table)?;
        let column = match l.column {
            None => None,
            Some(col) => Some(naming(t.columns.get(&col)?)?),
        };
        let live = l.column.is_none_or(|col| t.columns.get(&col).is_some_and(|c| c.state.live().is_some()));
        let columns = t.live_columns().into_iter().filter(|_| live);
        let columns = columns.filter_map(|(col, _)| naming(t.columns.get(&col)?)).collect();
        Some(NativeChange {
            table: naming(t)?,
            column,
            columns,
            key: l.row.key.clone(),
            cl: l.row.cl,
            value: l.cell.map_or(Value::Null, |c| c.value.clone()),
            col_version: l.cell.map_or(0, |c| c.col_version),
            site: l.stamp.site,
            seq: l.stamp.seq,
        })
    }

    /// Applies a cut in one commit. The number of changes stored.
    pub fn apply_cut(&mut self, cut: &Cut) -> Result<usize, Refused> {
        if !self.vector.covers(&cut.base) {
            return Err(Refused::Gap);
        }
        self.check_chains(cut)?;
        self.collect(&cut.horizon);
        let mut stored = 0;
        for tx in &cut.txs {
            if self.vector.contains(&tx.site, tx.version) {
                continue;
            }
            let db_version = self.db_version + 1;
            let count = tx.changes.iter().filter(|c| self.merge_native(c, db_version)).count();
            if count > 0 {
                self.db_version = db_version;
                self.batches += 1;
                self.log.push(Entry { site: tx.site, version: tx.version, batch: self.batches });
            }
            self.vector.insert(tx.site, tx.version);
            stored += count;
        }
        self.vector.merge(&cut.empty);
        for (at, (hash, nonce)) in &cut.hashes {
            self.hashes.insert(*at, *hash);
            self.nonces.insert(*at, *nonce);
        }
        Ok(stored)
    }

    fn check_chains(&self, cut: &Cut) -> Result<(), Refused> {
        let told = cut.heads.iter().map(|(at, hash)| (at, *hash));
        for (at, hash) in told.chain(cut.hashes.iter().map(|(at, (hash, _))| (at, *hash))) {
            if self.hashes.get(at).is_some_and(|mine| *mine != hash) {
                return Err(Refused::Fork { site: at.0, version: at.1 });
            }
        }
        for ((site, version), (hash, nonce)) in &cut.hashes {
            let before = (*site, version - 1);
            let known = self.hashes.get(&before).or(cut.hashes.get(&before).map(|(hash, _)| hash));
            if known.is_some_and(|known| chain::next(*known, *version, *nonce) != *hash) {
                return Err(Refused::Fork { site: *site, version: *version });
            }
        }
        Ok(())
    }

    pub(crate) fn merge_native(&mut self, c: &NativeChange, db_version: i64) -> bool {
        let batch = self.batches + 1;
        let equal = self.merge_equal_values;
        let table = self.resolve_table(&c.table);
        let Some(t) = self.tables.get_mut(&table) else {
            return false;
        };
        if t.state.live().is_some_and(|live| live.key.len() != c.key.len()) {
            return false;
        }
        let mut live = BTreeSet::new();
        for n in &c.columns {
            let (col, clash) = t.resolve(&n.names, &n.current, equal);
            // Two that the sender has cannot be one here.
            let one = t.columns.get(&col).is_some_and(|c| c.state.live().is_some()) && !live.insert(col);
            self.incompatible |= clash || one;
        }
        let column = c.column.as_ref().map(|n| t.resolve(&n.names, &n.current, equal));
        self.incompatible |= column.is_some_and(|(_, clash)| clash);
        let stamp = Stamp { batch, db_version, site: c.site, seq: c.seq };
        let (value, col_version) = (c.value.clone(), c.col_version);
        let cell = column.map(|(col, _)| (col, Cell { value, col_version, stamp }));
        self.largest = self.largest.max(col_version);
        merge(t, &c.key, c.cl, stamp, cell, equal)
    }

    fn resolve_table(&mut self, n: &Naming) -> u32 {
        match meet(&self.tables, &n.names, &n.current) {
            Met::Clash(id) => {
                self.incompatible = true;
                id
            }
            Met::Nothing => {
                let id = schema::next_id(&self.tables);
                self.tables.insert(id, Table::parked(n.names.clone()));
                id
            }
            Met::One(id, parked) => {
                let equal = self.merge_equal_values;
                for other in parked {
                    let gone = self.tables.remove(&other);
                    if let (Some(gone), Some(t)) = (gone, self.tables.get_mut(&id)) {
                        self.incompatible |= t.absorb(gone, equal);
                    }
                }
                if let Some(t) = self.tables.get_mut(&id) {
                    t.names.extend(n.names.iter().cloned());
                }
                id
            }
        }
    }
}

fn merge(
    t: &mut Table,
    key: &[Value],
    cl: u32,
    stamp: Stamp,
    cell: Option<(ColId, Cell)>,
    equal: bool,
) -> bool {
    let key = t.spelling(key);
    let row = t.rows.entry(t.identity(&key)).or_default();
    match cell {
        None => row.merge_sentinel(cl, &key, stamp, equal),
        Some((col, cell)) => row.merge_cell(cl, &key, col, cell, equal),
    }
}

/// A parked one for a name that nobody here has: its first life.
fn add_parked<N: Named>(
    all: &mut BTreeMap<u32, N>,
    text: &str,
    make: impl FnOnce(BTreeSet<Name>) -> N,
) -> u32 {
    let id = schema::next_id(all);
    all.insert(id, make(BTreeSet::from([Name::new(text, 0)])));
    id
}

fn naming<N: Named>(one: &N) -> Option<Naming> {
    let names = one.names().clone();
    let text = one.current().map(str::to_ascii_lowercase);
    let called = |n: &&Name| text.as_ref().is_none_or(|text| n.text == *text);
    // The last life of the current name; of a parked one any name will do.
    let current = names.iter().rev().find(called).cloned()?;
    Some(Naming { current, names })
}

fn without(vector: &VersionVector, entry: &Entry) -> VersionVector {
    let mut one = VersionVector::new();
    one.insert(entry.site, entry.version);
    vector.missing_from(&one)
}
