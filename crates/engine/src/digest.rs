//! From events to metadata: what each write of the transaction means for the versions of its row.

use crate::capture::Capture;
use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Work};
use crate::emit::Emit;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target, changed};
use crate::journal::{Event, Journal, Kind, Slice};
use crate::store::Loc;
use crate::value;
use rejoin_crdt::hlc;
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

type RowKey = (u32, i64);

/// Turns the events that were not yet into works.
pub fn digest(core: &mut Core, cap: &mut Capture) -> Result<()> {
    let from = cap.journal.digested;
    let to = cap.journal.len();
    if from == to {
        return Ok(());
    }
    let masks = resolve(core, cap, from)?;
    let moves = moves(&cap.journal, from, &masks);
    let rekeyed: HashSet<usize> = moves.values().copied().collect();
    for (i, e) in cap.journal.since(from) {
        let e = &e;
        if e.kind == Kind::Gap {
            core.txn.seq += e.row;
            continue;
        }
        if e.kind == Kind::Refused {
            let why = String::from_utf8_lossy(cap.journal.bytes(e.data)).into_owned();
            return Err(Error::Capture { why });
        }
        let Some(t) = core.catalog.get(e.tbl).cloned() else {
            continue;
        };
        let mut step = Step { core, journal: &cap.journal, t };
        match e.kind {
            Kind::Insert => step.insert(e)?,
            Kind::Delete => step.delete(e)?,
            Kind::Image | Kind::Mask => match masks.get(&i) {
                // The UPDATE changed the key too: the move stamps all cells.
                Some(_) if rekeyed.contains(&i) => {}
                Some(mask) => step.update(e, mask)?,
                None => {}
            },
            Kind::Move => step.change_key(e, moves.get(&i).and_then(|image| masks.get(image)))?,
            Kind::Rowid => step.change_key(e, None)?,
            Kind::MaybeMove if masks.contains_key(&i) => {
                step.change_key(e, moves.get(&i).and_then(|image| masks.get(image)))?
            }
            Kind::MaybeMove => {}
            Kind::Replaces => step.replaces(e)?,
            Kind::Gap | Kind::Refused => {}
        }
    }
    cap.journal.digested = to;
    Ok(())
}

/// For each UPDATE that changed something: the columns. A key in the map for a `MaybeMove` says that it happened
/// without the trigger on key columns having told (`SET rowid = ...`).
fn resolve(core: &mut Core, cap: &mut Capture, from: usize) -> Result<HashMap<usize, ColSet>> {
    let mut masks = HashMap::new();
    // With each image the packed key under which the row stands now.
    let mut open: HashMap<RowKey, (usize, Slice)> = HashMap::new();
    let announced = announced(&cap.journal, from);
    for (i, e) in cap.journal.since(from) {
        let at = (e.tbl, e.row);
        match e.kind {
            Kind::Image => {
                if let Some((before, _)) = open.insert(at, (i, e.key)) {
                    let now = images(cap, e.data);
                    let before_it = cap.journal.get(before);
                    let old = before_it.and_then(|b| images(cap, b.data));
                    if let (Some(old), Some(now)) = (old, now) {
                        note(&mut masks, before, changed(old, now));
                    }
                }
            }
            Kind::Mask => {
                let Some(t) = core.catalog.get(e.tbl) else { continue };
                note(&mut masks, i, cap.journal.mask(&e).intersect(&t.col_set));
            }
            Kind::Move => {
                if let Some((before, _)) = open.remove(&at) {
                    open.insert((e.tbl, e.row2), (before, e.key2));
                }
            }
            Kind::MaybeMove => {
                let moved = match announced.get(&i) {
                    Some(Some(moved)) => *moved,
                    Some(None) => moved(core, cap, &e)?,
                    None => false,
                };
                if moved {
                    masks.insert(i, ColSet::EMPTY);
                    if let Some(before) = open.remove(&at) {
                        open.insert((e.tbl, e.row2), before);
                    }
                }
            }
            Kind::Delete => {
                open.remove(&at);
            }
            // An insert keeps it open: a younger trigger of the user's updates the new row before we hear of it.
            Kind::Insert | Kind::Replaces | Kind::Gap | Kind::Rowid | Kind::Refused => {}
        }
    }
    let mut left: Vec<(RowKey, (usize, Slice))> = open.into_iter().collect();
    left.sort_unstable_by_key(|(at, (event, _))| (*at, *event));
    compare_with_table(core, cap, &left, &mut masks)?;
    Ok(masks)
}

/// The UPDATE behind a change of key: event of the change to event of the image that was taken just before.
fn moves(journal: &Journal, from: usize, masks: &HashMap<usize, ColSet>) -> HashMap<usize, usize> {
    let mut pairs = HashMap::new();
    for (i, e) in journal.since(from) {
        // `SET rowid = ...` changes a key where that is the rowid.
        let rowid = e.kind == Kind::MaybeMove && e.key.is_none() && masks.contains_key(&i);
        if e.kind != Kind::Move && !rowid {
            continue;
        }
        let taken = |&j: &usize| {
            journal.get(j).is_some_and(|b| {
                matches!(b.kind, Kind::Image | Kind::Mask) && (b.tbl, b.row) == (e.tbl, e.row)
            })
        };
        if let Some(image) = (from.max(i.saturating_sub(8))..i).rev().find(taken) {
            pairs.insert(i, image);
        }
    }
    pairs
}

/// For the announced changes of rowid that no trigger on key columns confirmed: whether they happened, as far as the
/// next event on the row tells. The table may know of a later place only.
fn announced(journal: &Journal, from: usize) -> HashMap<usize, Option<bool>> {
    let mut told = HashMap::new();
    if !journal.since(from).any(|(_, e)| e.kind == Kind::MaybeMove) {
        return told;
    }
    // What is next heard of a row: where it is (by key), or whether another comes to its place (by rowid).
    let mut next: HashMap<(u32, u64), (i64, bool)> = HashMap::new();
    for (i, e) in journal.since(from).rev() {
        let keyed = !e.key.is_none();
        let id = |row: i64, hash: u64| (e.tbl, if keyed { hash } else { row as u64 });
        match e.kind {
            Kind::Gap | Kind::Refused => {}
            Kind::MaybeMove => {
                let confirmed =
                    |n: Event| n.kind == Kind::Move && (n.tbl, n.row, n.row2) == (e.tbl, e.row, e.row2);
                if journal.since(i + 1).take(8).any(|(_, n)| confirmed(n)) {
                    continue;
                }
                let heard = next.get(&id(e.row, e.hash));
                let moved = heard.map(|&(row, came)| if keyed { row == e.row2 } else { came });
                told.insert(i, moved);
                if moved == Some(true) && !keyed {
                    next.insert(id(e.row2, 0), (e.row2, true));
                }
            }
            _ => {
                if e.row != e.row2 && !keyed {
                    next.insert(id(e.row2, 0), (e.row2, true));
                }
                next.insert(id(e.row, e.hash), (e.row, e.kind == Kind::Insert));
            }
        }
    }
    told
}

fn note(masks: &mut HashMap<usize, ColSet>, event: usize, mask: ColSet) {
    if !mask.is_empty() {
        masks.insert(event, mask);
    }
}

pub fn images(cap: &Capture, data: Slice) -> Option<(&Table, &[u8])> {
    let bytes = cap.journal.bytes(data);
    let (layout, image) = bytes.split_at_checked(4)?;
    let layout = u32::from_le_bytes(layout.try_into().ok()?);
    Some((cap.layouts.get(layout as usize)?.as_ref(), image))
}

/// Whether an announced change of rowid happened that no later event tells of: the row is not where it was, or its key
/// stands at the new place.
fn moved(core: &mut Core, cap: &Capture, e: &Event) -> Result<bool> {
    let Some(t) = core.catalog.get(e.tbl).cloned() else {
        return Ok(false);
    };
    let mut reader = RowReader::new(core.db, &t)?;
    if t.kind == KeyKind::RowId {
        return Ok(!reader.seek(Target::Row(e.row))?);
    }
    if !reader.seek(Target::Row(e.row2))? {
        return Ok(false);
    }
    let packed = rejoin_crdt::key::pack((0..t.keys.len()).map(|n| value::from_sql(reader.key(n))));
    let packed = packed.map_err(|e| Error::damaged(e.to_string()))?;
    Ok(value::hash(cap.hash_key, &value::identity_of_stored(&t, &packed)?.key) == e.hash)
}

fn compare_with_table(
    core: &mut Core,
    cap: &Capture,
    left: &[(RowKey, (usize, Slice))],
    masks: &mut HashMap<usize, ColSet>,
) -> Result<()> {
    let mut reader: Option<RowReader> = None;
    let mut now = Vec::new();
    for &((tbl, row), (i, key)) in left {
        if reader.as_ref().is_none_or(|r| r.table.id != tbl) {
            let Some(t) = core.catalog.get(tbl).cloned() else {
                continue;
            };
            reader = Some(RowReader::new(core.db, &t)?);
        }
        let (Some(r), Some(e)) = (&mut reader, cap.journal.get(i)) else {
            continue;
        };
        let target = match r.table.kind {
            KeyKind::Keyed => Target::Key(cap.journal.bytes(key)),
            _ => Target::Row(row),
        };
        now.clear();
        let there = r.seek(target)?;
        if there {
            r.image(cap.hash_key, &mut now);
        }
        r.done();
        if there && let Some(old) = images(cap, e.data) {
            note(masks, i, changed(old, (&r.table, &now)));
        }
    }
    Ok(())
}

/// One event applied to its row.
struct Step<'a> {
    core: &'a mut Core,
    journal: &'a Journal,
    t: Rc<Table>,
}

impl Step<'_> {
    fn work(&mut self, row: Option<i64>, key: Slice, hash: u64) -> Result<&mut Work> {
        let packed = self.journal.bytes(key);
        self.core.work_stored(&self.t, row, packed, hash)
    }

    fn insert(&mut self, e: &Event) -> Result<()> {
        let known = self.t.kind == KeyKind::RowId;
        let work = self.work(known.then_some(e.row), e.key, e.hash)?;
        let replaced = work.meta.is_alive();
        work.row = Some(e.row);
        let before = work.spelling.clone();
        let stood = !work.meta.groups.is_empty() || !work.table.cols.iter().any(|c| c.required);
        let at = self.work_at(e.row, e.hash);
        if replaced {
            self.core.absorb_parked(at)?;
        }
        self.core.respell(at, self.journal.bytes(e.key))?;
        let now = self.core.txn.works.get(&at).and_then(|w| w.spelling.as_ref());
        if replaced && now != before.as_ref() {
            // A key spelled anew is another life: every replica shows the smallest spelling of one life.
            if let Some(work) = self.core.txn.works.get_mut(&at) {
                work.meta.cl += 1;
            }
            self.core.born(at, false)?;
            return self.core.forget_parked(at);
        }
        if replaced && !stood {
            // It waited for values: no row was replaced, and no number is skipped.
            let cols = self.t.col_set.clone();
            return self.core.write_cells(at, &cols);
        }
        self.core.born(at, replaced)
    }

    fn work_at(&self, row: i64, hash: u64) -> (u32, u64) {
        work_at(&self.t, row, hash)
    }

    fn delete(&mut self, e: &Event) -> Result<()> {
        self.work(Some(e.row), e.key, e.hash)?;
        let at = self.work_at(e.row, e.hash);
        self.core.died(at)
    }

    fn update(&mut self, e: &Event, mask: &ColSet) -> Result<()> {
        let work = self.work(Some(e.row), e.key, e.hash)?;
        if work.meta.cl == 0 {
            work.meta.cl = 1;
        }
        let at = self.work_at(e.row, e.hash);
        self.core.write_cells(at, mask)
    }

    fn replaces(&mut self, e: &Event) -> Result<()> {
        self.work(Some(e.row), e.key, e.hash).map(drop)
    }

    /// Rule 3.5: the cells under the new key, then the old key's sentinel, then the new key's.
    fn change_key(&mut self, e: &Event, changed: Option<&ColSet>) -> Result<()> {
        let (old_at, new_at) = (self.work_at(e.row, e.hash), self.work_at(e.row2, e.hash2));
        let journal = self.journal;
        let old = self.work(Some(e.row), e.key, e.hash)?;
        if old_at == new_at {
            // The rowid moved, or the key was spelled anew under the same identity.
            old.row = Some(e.row2);
            if e.key != e.key2 && journal.bytes(e.key) != journal.bytes(e.key2) {
                let meta = old.meta.clone();
                old.meta.cl += 1;
                let changed = changed.cloned().unwrap_or_default();
                self.core.respell(old_at, self.journal.bytes(e.key2))?;
                return self.core.take_over(old_at, old_at, &Moved { meta, changed, hit: false });
            }
            return Ok(());
        }
        let moved = old.meta.clone();
        let known = self.t.kind == KeyKind::RowId;
        let new = self.work(known.then_some(e.row2), e.key2, e.hash2)?;
        let (alive, before) = (new.meta.is_alive(), new.spelling.clone());
        new.row = Some(e.row2);
        if alive {
            self.core.absorb_parked(new_at)?;
        }
        self.core.respell(new_at, self.journal.bytes(e.key2))?;
        let now = self.core.txn.works.get(&new_at).and_then(|w| w.spelling.as_ref());
        let hit = alive && now == before.as_ref();
        let changed = changed.cloned().unwrap_or_default();
        self.core.take_over(old_at, new_at, &Moved { meta: moved, changed, hit })
    }
}

/// A row on its way to another key.
struct Moved {
    meta: RowMeta,
    /// Columns that the same UPDATE changed.
    changed: ColSet,
    /// A living row stands under the new key (UPDATE OR REPLACE).
    hit: bool,
}

pub fn work_at(t: &Table, row: i64, hash: u64) -> (u32, u64) {
    match t.kind {
        KeyKind::RowId => (t.id, row as u64),
        _ => (t.id, hash),
    }
}

impl Core {
    /// The work of a row that stands (or stood) in the table: its key has the columns' affinity. `row` is the
    /// rowid under which metadata of a living row may be found.
    pub fn work_stored(
        &mut self,
        t: &Rc<Table>,
        row: Option<i64>,
        packed: &[u8],
        hash: u64,
    ) -> Result<&mut Work> {
        let at = work_at(t, row.unwrap_or(0), hash);
        if !self.txn.works.contains_key(&at) {
            let identity =
                if t.kind == KeyKind::RowId { None } else { Some(value::identity_of_stored(t, packed)?) };
            let work = self.open_work(t, row, identity, hash)?;
            self.txn.works.insert(at, work);
        }
        self.txn.works.get_mut(&at).ok_or_else(|| Error::damaged("work"))
    }

    /// Reads a row's metadata into a new work.
    pub fn open_work(
        &mut self,
        t: &Rc<Table>,
        row: Option<i64>,
        identity: Option<value::Identity>,
        hash: u64,
    ) -> Result<Work> {
        let (key, spelling) = identity.map_or((None, None), |i| (Some(i.key), i.spelling));
        let mut work = Work {
            table: Rc::clone(t),
            row,
            key,
            spelling,
            hash: if t.kind == KeyKind::Hashed { hash } else { 0 },
            meta: RowMeta::default(),
            stored: None,
            touched: smallvec::SmallVec::new(),
        };
        let mut found = None;
        if let Some(row) = row.filter(|_| t.kind != KeyKind::Keyed) {
            let loc = Loc::Row(row);
            found = self
                .load(t, &loc)?
                .filter(|r| t.kind == KeyKind::RowId || r.row.hash == hash)
                .map(|r| (loc, r));
        }
        if found.is_none()
            && let Some(key) = &work.key
        {
            let loc = Loc::Key(Rc::clone(key));
            found = self.load(t, &loc)?.map(|r| (loc, r));
        }
        if let Some((loc, record)) = found {
            work.meta = record.row.meta;
            // Of a row that stands in the table under its rowid the spelling is in the table, not here.
            if record.spelling.is_some() || matches!(loc, Loc::Key(_)) {
                work.spelling = record.spelling;
            }
            work.stored = Some(loc);
        } else if let Some(record) = self.txn.orphans.remove(&(t.id, hash)) {
            work.meta = record.row.meta;
        }
        Ok(work)
    }

    /// The clock value of the open transaction's local writes: minted with the first of them, above all that the
    /// transaction merged before.
    pub fn mint(&mut self) {
        if self.txn.clock.is_none() && !self.cfg.lamport {
            let high = self.tail.high.max(self.txn.high);
            self.txn.clock = Some(hlc::mint(high, self.now()));
        }
    }

    /// The numbers that the next local write takes.
    pub fn emit(&mut self) -> Emit {
        self.mint();
        Emit {
            db_version: self.next_db_version(),
            site: self.cfg.own,
            clock: self.txn.clock.unwrap_or(0),
            lamport: self.cfg.lamport,
            seq: self.txn.seq,
            high: self.txn.high,
        }
    }

    /// Runs a local write on a work's metadata.
    fn emitting(&mut self, at: (u32, u64), f: impl FnOnce(&mut Emit, &mut Work) -> bool) -> bool {
        let mut emit = self.emit();
        let Some(work) = self.txn.works.get_mut(&at) else { return false };
        let did = f(&mut emit, work);
        if did {
            work.touch(emit.db_version);
        }
        (self.txn.seq, self.txn.high) = (emit.seq, emit.high);
        did
    }

    /// A row was inserted, or put in the place of a living one.
    pub fn born(&mut self, at: (u32, u64), replaced: bool) -> Result<()> {
        self.emitting(at, |emit, work| {
            let table = Rc::clone(&work.table);
            emit.born(&table, &mut work.meta, work.spelling.is_some(), replaced);
            // The same row of keys alone again may stand in another place now, but nothing was written.
            !(replaced && table.cols.is_empty())
        });
        Ok(())
    }

    /// A row was deleted.
    pub fn died(&mut self, at: (u32, u64)) -> Result<()> {
        if !self.emitting(at, |emit, work| emit.died(&mut work.meta)) {
            return Ok(());
        }
        self.forget_parked(at)
    }

    /// What waits for an older life of a row goes with it.
    fn forget_parked(&mut self, at: (u32, u64)) -> Result<()> {
        if !self.has_parked()? {
            return Ok(());
        }
        let Some(work) = self.txn.works.get(&at) else { return Ok(()) };
        let (table, cl) = (Rc::clone(&work.table), work.meta.cl);
        let pk = Core::parked_key(&table, work.row, work.key.as_deref());
        self.unpark_row(table.id, &pk, cl)
    }

    /// A local write of some cells.
    pub fn write_cells(&mut self, at: (u32, u64), cols: &ColSet) -> Result<()> {
        if !cols.is_empty() {
            self.emitting(at, |emit, work| {
                let table = Rc::clone(&work.table);
                emit.wrote(&table, &mut work.meta, cols);
                true
            });
        }
        Ok(())
    }

    /// The key was spelled otherwise.
    pub fn respell(&mut self, at: (u32, u64), packed: &[u8]) -> Result<()> {
        let Some(work) = self.txn.works.get_mut(&at) else {
            return Ok(());
        };
        if work.table.kind != KeyKind::RowId {
            let plain = value::is_plain(&work.table, packed)?;
            work.spelling =
                if plain { None } else { value::identity_of_stored(&work.table, packed)?.spelling };
        }
        Ok(())
    }

    /// The row `old` goes on under the key of `new` (rule 3.5).
    fn take_over(&mut self, old: (u32, u64), new: (u32, u64), moved: &Moved) -> Result<()> {
        self.mint();
        let (db_version, site) = (self.next_db_version(), self.cfg.own);
        let (clock, lamport, hit) = (self.txn.clock.unwrap_or(0), self.cfg.lamport, moved.hit);
        let txn = &mut self.txn;
        let Some(work) = txn.works.get_mut(&new) else {
            return Ok(());
        };
        let before = std::mem::take(&mut work.meta);
        work.meta.cl = match before.cl {
            0 => 1,
            cl if hit => cl,
            cl => cl + 1 + (cl & 1),
        };
        work.meta.sentinel = before.sentinel.filter(|_| hit);
        let table = Rc::clone(&work.table);
        for col in &table.cols {
            let from = moved.meta.cell(col.id).map(|c| c.0.col_version);
            // A living row that is replaced gets every column: elsewhere it keeps none of its own either.
            let Some(from) = from.or_else(|| (hit || moved.changed.contains(col.id)).then_some(0)) else {
                continue;
            };
            let there = before.cell(col.id).filter(|_| hit).map_or(0, |c| c.0.col_version);
            let col_version = if lamport {
                (from + i64::from(moved.changed.contains(col.id))).max(there + i64::from(hit)).max(1)
            } else {
                hlc::for_cell(there, clock)
            };
            work.meta.write(ColSet::single(col.id), Stamp { col_version, db_version, site }, txn.seq);
            txn.seq += 1;
            txn.high = txn.high.max(col_version);
        }
        work.touch(db_version);
        self.move_parked(old, new)?;
        if old == new {
            // The old spelling's sentinel, which the new one's covers at once.
            self.txn.seq += 1;
        } else {
            self.died(old)?;
        }
        let seq = self.txn.seq;
        if let Some(work) = self.txn.works.get_mut(&new)
            && work.meta.sentinel.is_none()
        {
            work.meta.sentinel = Some(Sentinel { db_version, site, seq });
            self.txn.seq += 1;
        }
        Ok(())
    }
}
