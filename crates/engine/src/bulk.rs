//! The short way for large transactions: many events of one kind on one table, by ascending rowid.
//!
//! They go block by block straight into the store, without a work for each row. What comes otherwise (mixed kinds,
//! rows twice, key changes, folded keys, parked changes) takes the general way in `digest.rs`; the results are equal.

use crate::block::{RowBlock, SHIFT, StoredRow};
use crate::capture::Capture;
use crate::catalog::{KeyKind, Table};
use crate::core::Core;
use crate::digest::images;
use crate::emit::Emit;
use crate::error::Result;
use crate::format::quote;
use crate::image::{changed, put_value};
use crate::journal::{Event, Journal, Kind, Slice};
use crate::log::{Changes, union};
use crate::store::Record;
use rejoin_crdt::key::{Affinity, Fold};
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel};
use rejoin_sqlite::{Db, Stmt};
use std::rc::Rc;

/// Fewer events are not worth a fold of the overlay.
const EVENTS_MIN: usize = 64;
/// A gap of more rowids is jumped over, a smaller one stepped through.
const GAP_MAX: i64 = 16;

/// Handles all waiting events if they are of the simple kind. False: nothing was done.
pub fn flush(core: &mut Core, cap: &mut Capture) -> Result<bool> {
    let from = cap.journal.digested;
    let Some(t) = suitable(core, &cap.journal, from)? else { return Ok(false) };
    core.mint();
    core.fold()?;
    let mut run = Run::new(core, &t, cap, from)?;
    let (emit, dead) = run.go(core)?;
    let blocks = run.blocks;
    (core.txn.seq, core.txn.high) = (emit.seq, emit.high);
    let mut changes = Changes::default();
    let list = changes.tables.entry(t.id).or_default();
    list.blocks = union(blocks);
    if !dead.is_empty() {
        list.keys = core.store(&t).apply_keys(tombstones(&cap.journal, &dead))?;
    }
    if !list.blocks.is_empty() || !list.keys.is_empty() {
        core.put_log(emit.db_version, changes, None)?;
    }
    cap.journal.digested = cap.journal.len();
    core.fold()?;
    Ok(true)
}

fn suitable(core: &mut Core, journal: &Journal, from: usize) -> Result<Option<Rc<Table>>> {
    if journal.len() < from + EVENTS_MIN {
        return Ok(None);
    }
    let Some(first) = journal.get(from) else { return Ok(None) };
    let kinds = [Kind::Insert, Kind::Delete, Kind::Image, Kind::Mask];
    if !kinds.contains(&first.kind)
        || !core.txn.works.is_empty()
        || core.txn.at_current
        || core.has_parked()?
    {
        return Ok(None);
    }
    if !journal.is_ascending(from) {
        return Ok(None);
    }
    let Some(t) = core.catalog.get(first.tbl).cloned() else { return Ok(None) };
    let simple = match t.kind {
        KeyKind::RowId => true,
        KeyKind::Keyed => false,
        KeyKind::Hashed => {
            // Only keys that are their own identity, and for inserts none that lived before.
            let plain = |k: &crate::catalog::KeyColumn| {
                k.fold == Fold::None && matches!(k.affinity, Affinity::Integer | Affinity::Text)
            };
            let blobs = t.keys.iter().all(|k| plain(k) || k.affinity == Affinity::Blob);
            blobs
                && (first.kind != Kind::Insert || core.store(&t).has_no_keys()?)
                && core.txn.orphans.is_empty()
        }
    };
    Ok(simple.then_some(t))
}

/// A deleted row whose metadata goes to the key blocks.
struct Dead {
    key: Slice,
    cl: u32,
    sentinel: Option<Sentinel>,
}

/// The records of deleted rows by ascending key.
fn tombstones<'a>(
    journal: &'a Journal,
    dead: &'a [Dead],
) -> impl Iterator<Item = (&'a [u8], Option<Record>)> + 'a {
    let key = |i: usize| dead.get(i).map_or(&[][..], |d| journal.bytes(d.key));
    // Keys begin alike, and mostly differ in the eight bytes after that: these are at hand when sorting.
    let common = |n: usize, i| key(i).iter().zip(key(0)).take(n).take_while(|(a, b)| a == b).count();
    let skip = (0..dead.len()).fold(key(0).len(), common);
    let head = |i| {
        let mut word = [0; 8];
        word.iter_mut().zip(key(i).iter().skip(skip)).for_each(|(w, b)| *w = *b);
        u64::from_be_bytes(word)
    };
    let mut order: Vec<(u64, usize)> = (0..dead.len()).map(|i| (head(i), i)).collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a.1).cmp(key(b.1))));
    order.into_iter().filter_map(|(_, i)| dead.get(i)).map(|d| {
        let meta = RowMeta { cl: d.cl, sentinel: d.sentinel, ..RowMeta::default() };
        (journal.bytes(d.key), Some(Record { row: StoredRow { meta, hash: 0 }, spelling: None }))
    })
}

struct Run<'a> {
    cap: &'a Capture,
    t: &'a Rc<Table>,
    from: usize,
    emit: Emit,
    dead: Vec<Dead>,
    blocks: Vec<(i64, i64)>,
    reader: Option<Sweep>,
    image: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(core: &mut Core, t: &'a Rc<Table>, cap: &'a Capture, from: usize) -> Result<Run<'a>> {
        let images = cap.journal.get(from).is_some_and(|e| e.kind == Kind::Image);
        let reader = if images { Some(Sweep::new(core.db, t)?) } else { None };
        let emit = core.emit();
        Ok(Run { cap, t, from, emit, dead: Vec::new(), blocks: Vec::new(), reader, image: Vec::new() })
    }

    fn go(&mut self, core: &mut Core) -> Result<(Emit, Vec<Dead>)> {
        let cap = self.cap;
        let mut events = cap.journal.since(self.from).map(|(_, e)| e).peekable();
        let mut buf = Vec::new();
        while let Some(number) = events.peek().map(|e| e.row >> SHIFT) {
            let store = core.store(self.t);
            let mut block = store.take_block(number)?;
            let mut touched = false;
            while let Some(e) = events.next_if(|e| e.row >> SHIFT == number) {
                touched |= self.one(&e, &mut block)?;
            }
            if touched {
                core.store(self.t).write_rows(number, &block, &mut buf)?;
                match self.blocks.last_mut() {
                    Some(last) if last.1 + 1 == number => last.1 = number,
                    _ => self.blocks.push((number, number)),
                }
            }
        }
        Ok((self.emit, std::mem::take(&mut self.dead)))
    }

    /// Applies one event to its slot. False: nothing changed.
    fn one(&mut self, e: &Event, block: &mut RowBlock) -> Result<bool> {
        let slot = (e.row & 63) as u8;
        let hash = if self.t.kind == KeyKind::Hashed { e.hash } else { 0 };
        match e.kind {
            Kind::Insert => {
                let row = block.slot(slot, hash);
                let replaced = row.meta.is_alive();
                self.emit.born(self.t, &mut row.meta, false, replaced);
            }
            Kind::Delete if self.t.kind == KeyKind::Hashed => {
                let mut row = block.remove(slot).filter(|r| r.hash == hash).unwrap_or_default();
                self.emit.died(&mut row.meta);
                self.dead.push(Dead { key: e.key, cl: row.meta.cl, sentinel: row.meta.sentinel });
            }
            Kind::Delete => {
                let row = block.slot(slot, hash);
                if !self.emit.died(&mut row.meta) {
                    return Ok(false);
                }
            }
            _ => {
                let mask = self.mask(e)?;
                if mask.is_empty() {
                    return Ok(false);
                }
                let row = block.slot(slot, hash);
                row.meta.cl = row.meta.cl.max(1);
                self.emit.wrote(self.t, &mut row.meta, &mask);
            }
        }
        Ok(true)
    }

    fn mask(&mut self, e: &Event) -> Result<ColSet> {
        let Some(reader) = &mut self.reader else { return Ok(self.cap.journal.mask(e).clone()) };
        let Some(old) = images(self.cap, e.data) else { return Ok(ColSet::EMPTY) };
        self.image.clear();
        if !reader.image(e.row, self.cap.hash_key, &mut self.image)? {
            return Ok(ColSet::EMPTY);
        }
        Ok(changed(old, (self.t, &self.image)))
    }
}

/// Reads rows in ascending order by one scan.
struct Sweep {
    stmt: Stmt,
    cols: usize,
    /// The rowid that the scan stands on; None: not begun.
    at: Option<i64>,
    end: bool,
}

impl Sweep {
    fn new(db: Db, t: &Table) -> Result<Sweep> {
        let cols: Vec<String> = t.cols.iter().map(|c| format!(", {}", quote(&c.name))).collect();
        let (rowid, from) = (t.rowid, t.quoted());
        let sql = format!("SELECT {rowid}{} FROM {from} WHERE {rowid} >= ?1 ORDER BY {rowid}", cols.concat());
        Ok(Sweep { stmt: db.prepare_transient(&sql)?, cols: t.cols.len(), at: None, end: false })
    }

    /// Appends the image of a row; false: it is not there.
    fn image(&mut self, row: i64, hash_key: (u64, u64), out: &mut Vec<u8>) -> Result<bool> {
        let far = self.at.is_none_or(|at| at.saturating_add(GAP_MAX) < row);
        if far && !self.end {
            self.stmt.reset();
            self.stmt.bind_int(1, row)?;
            self.advance()?;
        }
        while !self.end && self.at.is_some_and(|at| at < row) {
            self.advance()?;
        }
        if self.end || self.at != Some(row) {
            return Ok(false);
        }
        for n in 1..=self.cols {
            put_value(out, self.stmt.column(n as i32), hash_key);
        }
        Ok(true)
    }

    fn advance(&mut self) -> Result<()> {
        self.end = !self.stmt.step()?;
        self.at = (!self.end).then(|| self.stmt.column_int(0));
        Ok(())
    }
}

impl RowBlock {
    /// The row of a slot, made if it is not there or is another key's.
    fn slot(&mut self, slot: u8, hash: u64) -> &mut StoredRow {
        let i = match self.rows.last() {
            Some(last) if last.0 < slot => Err(self.rows.len()),
            None => Err(0),
            _ => self.rows.binary_search_by_key(&slot, |r| r.0),
        };
        let i = match i {
            Ok(i) => i,
            Err(i) => {
                self.rows.insert(i, (slot, StoredRow::default()));
                i
            }
        };
        let row = &mut self.rows[i].1;
        if row.hash != hash {
            *row = StoredRow { hash, ..StoredRow::default() };
        }
        row
    }

    fn remove(&mut self, slot: u8) -> Option<StoredRow> {
        let i = self.rows.binary_search_by_key(&slot, |r| r.0).ok()?;
        Some(self.rows.remove(i).1)
    }
}
