//! What the open transaction wrote to replicated tables, event by event, with marks for savepoints.
//!
//! Events stay until commit: a ROLLBACK TO that undoes metadata already written must be able to write the
//! earlier part of it again.

use rejoin_crdt::meta::ColSet;
use std::collections::HashSet;

/// What happened to a row. `row`s are rowids; of WITHOUT ROWID tables the key's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Insert,
    Delete,
    /// An UPDATE is about to happen; `data` is the row as it was (triggers).
    Image,
    /// An UPDATE happened; `mask` is the set of changed columns (hooks).
    Mask,
    /// The key or rowid changed from `row` to `row2`.
    Move,
    /// An UPDATE that would change the key or rowid is about to happen (triggers).
    MaybeMove,
    /// The next insert of this key replaces the row.
    Replaces,
    /// The rowid changed from `row` to `row2` and the key did not (hooks).
    #[cfg_attr(not(feature = "owned"), allow(dead_code))]
    Rowid,
    /// A write that must not be committed; `data` says why.
    Refused,
    /// `row` changes were rolled back: as in cr-sqlite, the counter does not go back.
    Gap,
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub kind: Kind,
    pub tbl: u32,
    pub row: i64,
    pub row2: i64,
    /// Hash of the key identity, and of the new one in a move; 0 where the key is the rowid.
    pub hash: u64,
    pub hash2: u64,
    /// Packed keys and further data in the arena.
    pub key: Slice,
    pub key2: Slice,
    pub data: Slice,
    /// Which set of columns an UPDATE changed (hooks).
    pub mask: u64,
    /// SQLite's count of changes when the row was deleted.
    pub count: i64,
}

impl Event {
    pub fn new(kind: Kind, tbl: u32, row: i64) -> Event {
        let none = Slice::default();
        Event {
            kind,
            tbl,
            row,
            row2: row,
            hash: 0,
            hash2: 0,
            key: none,
            key2: none,
            data: none,
            mask: 0,
            count: 0,
        }
    }
}

/// Bytes in the arena, which stand after their length there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice(u64);

impl Slice {
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// An event as it is kept: large transactions have many, and what only some kinds have stands elsewhere.
#[derive(Clone, Copy)]
struct Packed {
    kind: Kind,
    tbl: u32,
    row: i64,
    hash: u64,
    key: Slice,
    /// By kind: data, mask, count, or the place among the moves.
    more: u64,
}

/// Where a row goes.
#[derive(Clone, Copy)]
struct Destination {
    row: i64,
    hash: u64,
    key: Slice,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    level: i32,
    events: usize,
    arena: usize,
    moves: usize,
    masks: usize,
    digested: usize,
    pending: Option<i64>,
    rows_impacted: i64,
    /// A trigger has told of an event since.
    heard: bool,
}

/// What a rolled back savepoint goes back to.
pub struct Restored {
    /// The events that were cut off before they were digested.
    pub cut: Vec<Event>,
    pub pending: Option<i64>,
    pub rows_impacted: i64,
}

#[derive(Default)]
pub struct Journal {
    events: Vec<Packed>,
    arena: Vec<u8>,
    moves: Vec<Destination>,
    masks: Vec<ColSet>,
    marks: Vec<Mark>,
    /// Events before this one have been turned into metadata.
    pub digested: usize,
}

/// Bytes of the length before a slice.
const PREFIX: usize = 4;

impl Journal {
    pub fn clear(&mut self) {
        self.events.clear();
        self.arena.clear();
        self.moves.clear();
        self.masks.clear();
        self.marks.clear();
        self.digested = 0;
        // A huge transaction should not pin its memory for the life of the connection.
        self.events.shrink_to(1 << 16);
        self.arena.shrink_to(1 << 20);
        self.moves.shrink_to(1 << 10);
        self.masks.shrink_to(1 << 10);
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn push(&mut self, e: Event) {
        let more = match e.kind {
            Kind::Image | Kind::Refused => e.data.0,
            Kind::Mask => e.mask,
            Kind::Delete => e.count as u64,
            Kind::Move | Kind::MaybeMove | Kind::Rowid => {
                self.moves.push(Destination { row: e.row2, hash: e.hash2, key: e.key2 });
                self.moves.len() as u64 - 1
            }
            Kind::Insert | Kind::Replaces | Kind::Gap => 0,
        };
        let Event { kind, tbl, row, hash, key, .. } = e;
        self.events.push(Packed { kind, tbl, row, hash, key, more });
    }

    #[inline]
    fn unpack(&self, p: &Packed) -> Event {
        let mut e = Event { hash: p.hash, key: p.key, ..Event::new(p.kind, p.tbl, p.row) };
        match p.kind {
            Kind::Image | Kind::Refused => e.data = Slice(p.more),
            Kind::Mask => e.mask = p.more,
            Kind::Delete => e.count = p.more as i64,
            Kind::Move | Kind::MaybeMove | Kind::Rowid => {
                if let Some(to) = self.moves.get(p.more as usize) {
                    (e.row2, e.hash2, e.key2) = (to.row, to.hash, to.key);
                }
            }
            Kind::Insert | Kind::Replaces | Kind::Gap => {}
        }
        e
    }

    pub fn get(&self, i: usize) -> Option<Event> {
        self.events.get(i).map(|p| self.unpack(p))
    }

    /// The events from one on, with their numbers.
    pub fn since(&self, from: usize) -> impl DoubleEndedIterator<Item = (usize, Event)> + ExactSizeIterator {
        let events = self.events.get(from..).unwrap_or(&[]);
        events.iter().enumerate().map(move |(i, p)| (from + i, self.unpack(p)))
    }

    /// Whether all events from one on are of one kind, on one table, and by ascending row.
    pub fn is_ascending(&self, from: usize) -> bool {
        let events = self.events.get(from..).unwrap_or(&[]);
        let alike = |w: &[Packed]| w[1].kind == w[0].kind && w[1].tbl == w[0].tbl && w[1].row > w[0].row;
        events.windows(2).all(alike)
    }

    pub fn pop(&mut self) -> Option<Event> {
        let last = self.events.pop()?;
        Some(self.unpack(&last))
    }

    #[inline]
    pub fn bytes(&self, slice: Slice) -> &[u8] {
        let start = slice.0 as usize;
        let len = start.checked_sub(PREFIX).and_then(|at| self.arena.get(at..start)?.try_into().ok());
        let len = len.map_or(0, u32::from_le_bytes) as usize;
        self.arena.get(start..start + len).unwrap_or(&[])
    }

    /// Appends what `f` writes to the arena.
    #[inline]
    pub fn store<E>(&mut self, f: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Slice, E> {
        let before = self.arena.len();
        self.arena.extend_from_slice(&[0; PREFIX]);
        let start = before + PREFIX;
        let done = f(&mut self.arena);
        if let Err(e) = done {
            self.arena.truncate(before);
            return Err(e);
        }
        // A packed key or an image is far below 4 GiB: SQLite's own limit on a row is 2 GiB.
        let len = u32::try_from(self.arena.len() - start).unwrap_or(u32::MAX);
        if let Some(prefix) = self.arena.get_mut(before..start) {
            prefix.copy_from_slice(&len.to_le_bytes());
        }
        Ok(Slice(start as u64))
    }

    /// Keeps a set of columns; the rows of one statement have one, mostly.
    #[cfg(feature = "owned")]
    pub fn store_mask(&mut self, mask: ColSet) -> u64 {
        if self.masks.last() != Some(&mask) {
            self.masks.push(mask);
        }
        self.masks.len() as u64 - 1
    }

    pub fn mask(&self, e: &Event) -> &ColSet {
        self.masks.get(e.mask as usize).unwrap_or(&ColSet::EMPTY)
    }

    pub fn savepoint(&mut self, level: i32, pending: Option<i64>, rows_impacted: i64) {
        self.release(level);
        self.marks.push(Mark {
            level,
            events: self.events.len(),
            arena: self.arena.len(),
            moves: self.moves.len(),
            masks: self.masks.len(),
            digested: self.digested,
            pending,
            rows_impacted,
            heard: false,
        });
    }

    /// The rows that the events speak of which were not yet digested: by rowid or hash.
    pub fn touched(&self) -> HashSet<(u32, u64)> {
        let ids = |e: Event| {
            let keyed = !e.key.is_none();
            let ids = if keyed { [e.hash, e.hash2] } else { [e.row as u64, e.row2 as u64] };
            ids.map(|id| (e.tbl, id))
        };
        self.since(self.digested).flat_map(|(_, e)| ids(e)).collect()
    }

    /// Forgets the savepoint and those inside it. False: in some of them nothing was heard of.
    pub fn release(&mut self, level: i32) -> bool {
        let mut heard = false;
        while let Some(mark) = self.marks.pop_if(|m| m.level >= level) {
            heard = mark.heard;
            if !heard {
                self.marks.retain(|m| m.level < level);
                break;
            }
        }
        heard
    }

    /// A trigger tells of an event.
    pub fn hear(&mut self) {
        if let Some(mark) = self.marks.last_mut() {
            mark.heard = true;
        }
    }

    /// Back to the savepoint. The second value tells whether metadata written since then was undone in the file.
    ///
    /// On joining, SQLite announces only the innermost open savepoint, and the one that opened the transaction
    /// never: without a mark of the level, the savepoint is older than the journal.
    pub fn rollback_to(&mut self, level: i32) -> (Restored, bool) {
        let start = Mark { level, ..Mark::default() };
        let mark = self.marks.iter().find(|m| m.level == level).copied().unwrap_or(start);
        self.marks.retain(|m| m.level <= mark.level);
        let cut = self.since(self.digested.max(mark.events)).map(|(_, e)| e).collect();
        self.events.truncate(mark.events);
        self.arena.truncate(mark.arena);
        self.moves.truncate(mark.moves);
        self.masks.truncate(mark.masks);
        let undone = self.digested != mark.digested;
        self.digested = mark.digested;
        let Mark { pending, rows_impacted, .. } = mark;
        (Restored { cut, pending, rows_impacted }, undone)
    }
}
