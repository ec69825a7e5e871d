//! Row states as they came: read, held against what is here, and put in terms of this file.

use crate::catalog::{KeyKind, Table};
use crate::changeset::wire;
use crate::core::Core;
use crate::cut::only;
use crate::error::{Error, Result};
use crate::names::State;
use crate::rowstate::{Origin, Place, RowState, StateCell, ToldCell, ToldRow};
use crate::value::{identity_of_foreign, packed_rowid};
use crate::{SiteId, VersionVector};
use rejoin_crdt::ValueRef;
use rejoin_crdt::limits::check_col_version;
use rejoin_crdt::meta::{Sentinel, Stamp};
use rejoin_wire::{Reader, Row};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// A row by table and packed key identity.
pub type At = (u32, Vec<u8>);

/// What was told of rows, and what its sender held then.
pub struct Told {
    pub rows: BTreeMap<At, (usize, Vec<ToldRow>)>,
    pub holds: Vec<VersionVector>,
}

fn malformed(why: &str) -> Error {
    Error::Changeset { why: why.into() }
}

/// The key under which a row's parked changes, and whatever else is said of it, stand.
pub fn identity(t: &Table, packed: &[u8]) -> Result<Vec<u8>> {
    match t.kind {
        KeyKind::RowId => {
            let row = packed_rowid(t, packed)?;
            rejoin_crdt::key::pack([ValueRef::Int(row)]).map_err(|e| Error::damaged(e.to_string()))
        }
        _ => Ok(identity_of_foreign(t, packed)?.key.to_vec()),
    }
}

impl Told {
    /// Reads row states; of a row that is told twice the last counts. Tables that are not here are passed over.
    pub fn read(core: &mut Core, all: &[&[u8]]) -> Result<Told> {
        let mut told = Told { rows: BTreeMap::new(), holds: Vec::new() };
        for (n, bytes) in all.iter().enumerate() {
            let reader = Reader::open(bytes).map_err(wire)?;
            if !reader.is_row_states() {
                return Err(malformed("it is a changeset, not row states"));
            }
            if let (Some(ours), Some(theirs)) = (core.cfg.lineage, reader.header().lineage)
                && ours != theirs
            {
                let hex = |id: [u8; 16]| SiteId(id).to_string();
                return Err(Error::OtherLineage { ours: hex(ours), theirs: hex(theirs) });
            }
            told.holds.push(reader.holds());
            for index in 0..reader.table_count() {
                told.table(core, &reader, index, n)?;
            }
        }
        Ok(told)
    }

    fn table(&mut self, core: &mut Core, reader: &Reader<'_>, index: usize, n: usize) -> Result<()> {
        let mut rows = reader.table(index).map_err(wire)?;
        let Some(t) = core.table_of(rows.name())? else { return Ok(()) };
        let owned = |n: rejoin_wire::Name<'_>| (n.text.to_owned(), n.life);
        let names: Vec<Rc<[(String, u32)]>> =
            rows.columns().iter().map(|c| c.all().map(owned).collect()).collect();
        while let Some(row) = rows.next_row().map_err(wire)? {
            let at = (t.id, identity(&t, row.key)?);
            let one = told_row(core, reader, &names, &row)?;
            let slot = self.rows.entry(at).or_insert_with(|| (n, Vec::new()));
            if slot.0 != n {
                *slot = (n, Vec::new());
            }
            slot.1.push(one);
        }
        Ok(())
    }

    /// Whether the sender of a row's state held all that is held here of others.
    pub fn covers_ours(&self, core: &Core, at: &At) -> bool {
        let foreign = core.vector.missing_from(&only(&core.vector, &core.own_site()));
        self.held(at).is_some_and(|held| held.covers(&foreign))
    }

    /// Whether a row's state needs not be asked for again. What was asked for last is as new as can be.
    pub fn is_enough(&self, core: &Core, at: &At) -> bool {
        let last = self.holds.len().checked_sub(1);
        self.rows.get(at).is_some_and(|r| Some(r.0) == last) || self.covers_ours(core, at)
    }

    /// What the sender of a row's state held.
    pub fn held(&self, at: &At) -> Option<&VersionVector> {
        self.holds.get(self.rows.get(at)?.0)
    }

    /// The transactions that the rows name.
    pub fn origins<'a>(&'a self, rows: impl Iterator<Item = &'a At>) -> HashSet<(SiteId, u64)> {
        let of = |row: &'a ToldRow| row.sentinel.iter().chain(row.cells.iter().map(|c| &c.origin));
        let parts = rows.filter_map(|at| self.rows.get(at)).flat_map(|r| &r.1);
        parts.flat_map(of).map(|o| (o.site, o.version)).collect()
    }
}

fn told_row(
    core: &Core,
    reader: &Reader<'_>,
    names: &[Rc<[(String, u32)]>],
    row: &Row<'_>,
) -> Result<ToldRow> {
    let site = |index: u32| reader.sites().get(index as usize).copied();
    let origin = |txn: i64, author: u32, seq: i64| {
        let t = reader.transactions().get(txn as usize)?;
        Some(Origin { site: site(t.origin)?, version: t.version, author: site(author)?, seq })
    };
    let unlisted = || malformed("it names what it does not list");
    let meta = row.meta;
    let sentinel = match meta.sentinel {
        Some(s) => Some(origin(s.db_version, s.site, s.seq).ok_or_else(unlisted)?),
        None => None,
    };
    let mut cells = Vec::new();
    for (&col, &val) in row.columns.iter().zip(row.values) {
        let Some((stamp, seq)) = meta.cell(col) else { continue };
        let found = check_col_version(stamp.col_version, core.now_to_judge(), core.cfg.drift_ms);
        let col_version = found.map_err(|e| Error::Poison { why: e.to_string() })?;
        let origin = origin(stamp.db_version, stamp.site, seq).ok_or_else(unlisted)?;
        let names = names.get(col as usize).cloned().ok_or_else(unlisted)?;
        cells.push(ToldCell { names, col_version, origin, val: val.to_owned() });
    }
    let cells = if meta.cl & 1 == 1 { cells } else { Vec::new() };
    Ok(ToldRow { key: row.key.to_vec(), cl: meta.cl, sentinel, cells })
}

/// Under which db_version what a peer told stands here.
pub struct Attribution {
    /// Of transactions that are held here and have a log row.
    known: HashMap<(SiteId, u64), i64>,
    /// The open transaction's own: for the rest, which would otherwise seem to be held.
    pub own: i64,
}

impl Attribution {
    pub fn new(core: &mut Core, origins: HashSet<(SiteId, u64)>, own: i64) -> Result<Attribution> {
        let mut left: HashMap<(u32, u64), SiteId> = HashMap::new();
        for (site, version) in origins {
            if core.vector.contains(&site, version)
                && let Some(ordinal) = core.sites.ordinal(&site)
            {
                left.insert((ordinal, version), site);
            }
        }
        let mut found: Vec<((SiteId, u64), i64, u32)> = Vec::new();
        if !left.is_empty() {
            let mut q = core
                .db
                .prepare_transient("SELECT site, version, db_version FROM main.crsql_log ORDER BY id DESC")?;
            while !left.is_empty() && q.step()? {
                let at = (q.column_int(0) as u32, q.column_int(1) as u64);
                if let Some(site) = left.remove(&at) {
                    found.push(((site, at.1), q.column_int(2), at.0));
                }
            }
        }
        let mut known = HashMap::new();
        for (origin, db_version, ordinal) in found {
            // An empty row has no cells, and what stands under a shared db_version is the later transaction's.
            let header = core.header_of(db_version)?;
            if header.is_some_and(|h| (h.site, h.version) == (ordinal, origin.1)) {
                known.insert(origin, db_version);
            }
        }
        Ok(Attribution { known, own })
    }

    fn db_version(&self, o: &Origin) -> i64 {
        self.known.get(&(o.site, o.version)).copied().unwrap_or(self.own)
    }

    /// What was told of a row, as a row of this file.
    pub fn state(&self, core: &mut Core, t: &Rc<Table>, parts: &[ToldRow]) -> Result<RowState> {
        let mut all = RowState::default();
        for part in parts {
            let mut one = RowState { cl: part.cl, ..RowState::default() };
            if t.kind != KeyKind::RowId {
                one.spelling = identity_of_foreign(t, &part.key)?.spelling;
            }
            if let Some(o) = &part.sentinel {
                let site = core.intern_site(o.author)?;
                one.sentinel = Some(Sentinel { db_version: self.db_version(o), site, seq: o.seq });
            }
            for c in &part.cells {
                let mut names = c.names.iter().map(|(text, life)| rejoin_wire::Name { text, life: *life });
                let current = names.next().ok_or_else(|| malformed("a column without a name"))?;
                let met = core.meet(t.id, &rejoin_wire::Naming { current, others: names.collect() })?;
                let is_key = || t.keys.iter().any(|k| k.name.eq_ignore_ascii_case(current.text));
                if met.state == State::Waits && is_key() {
                    return Err(malformed("a cell of a key column"));
                }
                let place = Place::of(t, met.id);
                let (db_version, site) = (self.db_version(&c.origin), core.intern_site(c.origin.author)?);
                let stamp = Stamp { col_version: c.col_version, db_version, site };
                one.cells.insert(place, StateCell { stamp, seq: c.origin.seq, val: c.val.clone() });
            }
            let identity = identity(t, &part.key)?;
            let ties = crate::rowstate::Ties {
                sites: &core.sites,
                merge_equal: core.cfg.merge_equal,
                identity: &identity,
            };
            all.merge(one, &ties);
        }
        Ok(all)
    }
}
