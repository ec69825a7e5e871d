//! Adoption: what a server has rejected is taken back, in one commit.
//!
//! The rejected transactions, and the later ones of this replica that wrote to the same rows, and so on, move to
//! `crsql_rejected` and become void. Each row that they touched is put into the server's state, whatever the rules of
//! merging say, and what else was written here and the server has not seen is merged on top.
//!
//! Cells of the server's state stand under the transaction that wrote them if it is held here, and are named in its log row,
//! so that they travel with it. A transaction that is not held must not seem to be: its cells stand under the adopting
//! commit, a relay transaction of this replica, and are known again when it comes.
//!
//! What is given up may have overwritten here what others wrote, and the server tells that only if it has it. So a state that
//! is older than what came here meanwhile is asked for again; and if the server lacks what came here from elsewhere, the file
//! remembers to ask again later (`crsql_wanted`).

use crate::VersionVector;
use crate::checked::{Rejection, RowKey};
use crate::core::{Core, Header, LogRow, read_log_head};
use crate::cut::LOG;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target};
use crate::listing::{Filter, ListedRow};
use crate::log::Changes;
use crate::place::place;
use crate::rejected::Lost;
use crate::rowstate::{RowState, Ties};
use crate::store::Loc;
use crate::told::{At, Attribution, Told, identity};
use crate::value::{from_sql, identity_of_stored};
use crate::void::Void;
use rejoin_crdt::ValueRef;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The code of what is given up because it depends on a rejected transaction.
pub const CODE_DEPENDS: &str = "depends";

/// What came of an adoption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adopted {
    /// The versions that were rejected or given up: the server records them as void.
    pub voids: Vec<Void>,
    /// Not empty: nothing was done, for the server's state of these rows is needed too.
    pub wanted: Vec<RowKey>,
}

/// Why a transaction is given up.
#[derive(Clone, Debug)]
pub struct Cause {
    pub code: String,
    pub reason: String,
}

/// A transaction of the log.
struct Txn {
    header: Header,
    rows: Vec<LogRow>,
    /// It is void already, or nothing else is left of it.
    empty: bool,
}

/// A transaction by local ordinal of its site and version.
type Name = (u32, u64);

/// What is given up, and which rows that touches.
#[derive(Default)]
struct Plan {
    /// The transactions that may have to go.
    log: BTreeMap<Name, Txn>,
    by_version: BTreeMap<i64, Name>,
    causes: BTreeMap<Name, Cause>,
    /// Per row the smallest db_version of what is given up.
    rows: BTreeMap<At, i64>,
    /// What is given up and not yet followed.
    open: Vec<Name>,
}

pub fn adopt(engine: &Engine, rejections: &[Rejection], rows: &[&[u8]]) -> Result<Adopted> {
    engine.make_ready()?;
    engine.flush()?;
    engine.scoped("crsql_adopt", || {
        engine.join()?;
        engine.flush()?;
        let rowid = engine.db.last_insert_rowid();
        let mut core = engine.core()?;
        core.refresh(true)?;
        let done = whole(engine, &mut core, rejections, rows);
        engine.db.set_last_insert_rowid(rowid);
        done
    })
}

fn whole(engine: &Engine, core: &mut Core, rejections: &[Rejection], rows: &[&[u8]]) -> Result<Adopted> {
    core.next_txn();
    let told = Told::read(core, rows)?;
    let mut held = VersionVector::new();
    told.holds.iter().for_each(|h| held.merge(h));
    let mut plan = Plan::default();
    plan.read_log(core, rejections)?;
    plan.begin(core, rejections, &held)?;
    while let Some(name) = plan.open.pop() {
        plan.follow(core, name, &held)?;
    }
    let wanted: Vec<At> = plan.rows.keys().filter(|at| !told.is_enough(core, at)).cloned().collect();
    if !wanted.is_empty() {
        let key = |(tbl, pk): At| Some(RowKey { table: core.catalog.get(tbl)?.name.clone(), pk });
        let wanted = wanted.into_iter().filter_map(key).collect();
        return Ok(Adopted { wanted, ..Adopted::default() });
    }
    if !plan.causes.is_empty() {
        plan.carry_out(engine, core, &told)?;
    }
    Ok(Adopted { voids: plan.voids(core, rejections), ..Adopted::default() })
}

impl Plan {
    /// The log of the sites concerned, from the first rejected version on.
    fn read_log(&mut self, core: &mut Core, rejections: &[Rejection]) -> Result<()> {
        let mut from: HashMap<u32, u64> = HashMap::new();
        let mut first = i64::MAX;
        for r in rejections {
            let held = core.vector.contains(&r.site, r.version);
            let Some(site) = core.sites.ordinal(&r.site).filter(|_| held) else {
                let why = format!("version {} of site {} is not held here", r.version, r.site);
                return Err(Error::BadArgument { function: "adopt", why });
            };
            let least = from.entry(site).or_insert(r.version);
            *least = r.version.min(*least);
        }
        let mut q = core.db.prepare_transient(&format!("{LOG} ORDER BY id"))?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            let h = row.header;
            if from.get(&h.site).is_some_and(|least| h.version >= *least) {
                first = first.min(row.db_version);
            }
            // What came before the first of them depends on none.
            let concerned = h.site == core.cfg.own || from.contains_key(&h.site);
            if h.version == 0 || row.db_version < first || !concerned {
                continue;
            }
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            let empty = row.changes.empty_from.is_some();
            let fresh = || Txn { header: h, rows: Vec::new(), empty };
            if !empty {
                self.by_version.insert(row.db_version, (h.site, h.version));
            }
            self.log.entry((h.site, h.version)).or_insert_with(fresh).rows.push(row);
        }
        Ok(())
    }

    fn give_up(&mut self, name: Name, cause: Cause) {
        if let Entry::Vacant(slot) = self.causes.entry(name) {
            slot.insert(cause);
            self.open.push(name);
        }
    }

    /// The rejected transactions themselves.
    fn begin(&mut self, core: &mut Core, rejections: &[Rejection], held: &VersionVector) -> Result<()> {
        for r in rejections.iter().filter(|r| !held.contains(&r.site, r.version)) {
            let Some(site) = core.sites.ordinal(&r.site) else { continue };
            let name = (site, r.version);
            let Some(entry) = self.log.get(&name).filter(|e| !e.empty) else { continue };
            let db_version = entry.rows.iter().map(|row| row.db_version).min().unwrap_or(0);
            self.give_up(name, Cause { code: r.code.clone(), reason: r.reason.clone() });
            if let Some(row) = &r.row
                && let Some(t) = core.table_by_text(&row.table)?
            {
                let at = (t.id, identity(&t, &row.pk)?);
                self.touch(core, at, db_version, held)?;
            }
        }
        Ok(())
    }

    /// The rows that a transaction wrote to and that still show it.
    fn follow(&mut self, core: &mut Core, name: Name, held: &VersionVector) -> Result<()> {
        let rows = self.log.get(&name).map(|e| e.rows.clone()).unwrap_or_default();
        for row in rows {
            let unit = core.unit(std::slice::from_ref(&row), &Filter::default())?;
            let mut touched: BTreeSet<At> = BTreeSet::new();
            for listed in &unit.rows {
                touched.extend(core.place_of(listed)?);
            }
            for p in &unit.parked {
                if let Some(t) = core.catalog.get(p.change.table).cloned() {
                    touched.insert((t.id, identity(&t, &p.change.pk)?));
                }
            }
            for at in touched {
                self.touch(core, at, row.db_version, held)?;
            }
        }
        Ok(())
    }

    /// Gives up what was written to a row after a db_version.
    fn touch(&mut self, core: &mut Core, at: At, db_version: i64, held: &VersionVector) -> Result<()> {
        let floor = self.rows.get(&at).copied().unwrap_or(i64::MAX);
        if floor <= db_version {
            return Ok(());
        }
        let Some(t) = core.catalog.get(at.0).cloned() else { return Ok(()) };
        let (_, work) = core.take_foreign(&t, &at.1)?;
        let versions = RowState::local(core, &work)?.versions();
        self.rows.insert(at, db_version);
        let before = self.by_version.get(&db_version).map_or(0, |n| n.1);
        for version in versions.range(db_version + 1..) {
            let Some(name) = self.by_version.get(version).copied() else { continue };
            let site = core.sites.id(name.0).unwrap_or_default();
            if held.contains(&site, name.1) {
                continue;
            }
            let reason = format!("depends on version {before}, which was rejected: it wrote to the same row");
            self.give_up(name, Cause { code: CODE_DEPENDS.into(), reason });
        }
        Ok(())
    }

    fn carry_out(&mut self, engine: &Engine, core: &mut Core, told: &Told) -> Result<()> {
        // Records are taken away below, and nothing of them may stand in the overlay.
        core.fold()?;
        let own = core.next_db_version();
        core.txn.due.push(own);
        let attribution = Attribution::new(core, told.origins(self.rows.keys()), own)?;
        for at in self.rows.keys() {
            let (Some(t), Some((_, parts))) = (core.catalog.get(at.0).cloned(), told.rows.get(at)) else {
                continue;
            };
            // First what was told: its names can join columns that wait here.
            let mut target = attribution.state(core, &t, parts)?;
            let (id, work) = core.take_foreign(&t, &at.1)?;
            let before = RowState::local(core, &work)?;
            let holds = told.held(at).cloned().unwrap_or_default();
            let surviving = self.surviving(core, &before, &holds)?;
            let lost =
                Lost { table: &t, work: &work, before: &before, server_cl: target.cl, causes: &self.causes };
            lost.keep(core, &self.by_version, &target)?;
            let ties = Ties { sites: &core.sites, merge_equal: core.cfg.merge_equal, identity: &at.1 };
            if let Some(surviving) = surviving {
                let held = surviving.held.clone();
                target.merge(surviving, &ties);
                target.held = held;
            }
            place(engine, core, work, id, &before, &target, own)?;
            if !told.covers_ours(core, at) {
                core.want(at)?;
            }
        }
        core.write_out()?;
        for name in self.causes.keys() {
            self.empty(core, name)?;
        }
        core.txn.rows_stale = true;
        core.settle_rows()?;
        core.next_txn();
        Ok(())
    }

    /// What of a row is neither given up nor known to the server; None: nothing.
    fn surviving(
        &self,
        core: &mut Core,
        before: &RowState,
        holds: &VersionVector,
    ) -> Result<Option<RowState>> {
        let mut stays: HashMap<i64, bool> = HashMap::new();
        for version in before.versions() {
            let name = match self.by_version.get(&version) {
                Some(name) => Some(*name),
                None => core.header_of(version)?.map(|h| (h.site, h.version)),
            };
            let known = |n: Name| core.sites.id(n.0).is_some_and(|site| holds.contains(&site, n.1));
            stays.insert(version, name.is_some_and(|n| !self.causes.contains_key(&n) && !known(n)));
        }
        let stays = |version: i64| stays.get(&version).copied().unwrap_or(false);
        let mut left = before.clone();
        left.cells.retain(|_, c| stays(c.stamp.db_version));
        left.held.retain(|p| stays(p.db_version));
        left.sentinel = left.sentinel.filter(|s| stays(s.db_version));
        if left.sentinel != before.sentinel {
            // The spelling goes with the sentinel that brought it.
            left.spelling = None;
        }
        let any = left.sentinel.is_some() || !left.cells.is_empty() || !left.held.is_empty();
        Ok(any.then_some(left))
    }

    /// Lets a log row say that nothing is left of its transaction.
    fn empty(&self, core: &mut Core, name: &Name) -> Result<()> {
        for row in self.log.get(name).iter().flat_map(|e| &e.rows) {
            let mut row = row.clone();
            row.changes = Changes { empty_from: Some(row.header.version), ..Changes::default() };
            let bytes = row.changes.encode(&row.base());
            core.write_log_row(&row, &bytes)?;
        }
        Ok(())
    }

    /// Everything that is void now of what was asked, and what depends on it.
    fn voids(&self, core: &Core, rejections: &[Rejection]) -> Vec<Void> {
        let asked = rejections.iter().filter_map(|r| Some((core.sites.ordinal(&r.site)?, r.version)));
        let is_void = |n: &Name| self.causes.contains_key(n) || self.log.get(n).is_some_and(|e| e.empty);
        let all: BTreeSet<Name> = self.causes.keys().copied().chain(asked.filter(is_void)).collect();
        let void = |n: Name| {
            let Header { nonce, chain, .. } = self.log.get(&n)?.header;
            Some(Void { site: core.sites.id(n.0)?, version: n.1, nonce, chain })
        };
        all.into_iter().filter_map(void).collect()
    }
}

impl Core {
    /// The table and key identity of a listed row.
    pub fn place_of(&mut self, row: &ListedRow) -> Result<Option<At>> {
        let t = &row.table;
        let key = match (&row.loc, t.kind) {
            (Loc::Key(key), _) => key.to_vec(),
            (Loc::Row(row), crate::catalog::KeyKind::RowId) => {
                rejoin_crdt::key::pack([ValueRef::Int(*row)]).unwrap_or_default()
            }
            (Loc::Row(id), _) => {
                let mut reader = RowReader::new(self.db, t)?;
                if !reader.seek(Target::Row(*id))? {
                    return Ok(None);
                }
                let values = (0..t.keys.len()).map(|n| from_sql(reader.key(n)));
                let packed = rejoin_crdt::key::pack(values).map_err(|e| Error::damaged(e.to_string()))?;
                identity_of_stored(t, &packed)?.key.to_vec()
            }
        };
        Ok(Some((t.id, key)))
    }
}

/// Merges the server's state of rows into those here, also what came with transactions that are held: the answer to
/// `Replica::restamp`.
pub fn merge_rows(engine: &Engine, rows: &[u8]) -> Result<u64> {
    engine.make_ready()?;
    engine.flush()?;
    engine.scoped("crsql_merge_rows", || {
        engine.join()?;
        engine.flush()?;
        let rowid = engine.db.last_insert_rowid();
        let mut core = engine.core()?;
        core.refresh(true)?;
        let done = merge_all(engine, &mut core, rows);
        engine.db.set_last_insert_rowid(rowid);
        done
    })
}

fn merge_all(engine: &Engine, core: &mut Core, rows: &[u8]) -> Result<u64> {
    core.next_txn();
    let told = Told::read(core, &[rows])?;
    core.fold()?;
    let own = core.next_db_version();
    let attribution = Attribution::new(core, told.origins(told.rows.keys()), own)?;
    let mut changed = 0;
    for (at, (_, parts)) in &told.rows {
        let Some(t) = core.catalog.get(at.0).cloned() else { continue };
        let theirs = attribution.state(core, &t, parts)?;
        let (id, work) = core.take_foreign(&t, &at.1)?;
        let before = RowState::local(core, &work)?;
        let mut target = before.clone();
        let ties = Ties { sites: &core.sites, merge_equal: core.cfg.merge_equal, identity: &at.1 };
        target.merge(theirs, &ties);
        if target != before {
            place(engine, core, work, id, &before, &target, own)?;
            changed += 1;
        }
        if told.covers_ours(core, at) {
            core.no_longer_wanted(at)?;
        }
    }
    if changed > 0 {
        core.txn.due.push(own);
    } else {
        core.txn.pending = None;
    }
    core.write_out()?;
    core.next_txn();
    Ok(changed)
}
