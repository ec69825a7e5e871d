//! What the open transaction wrote to replicated tables, event by event, with marks for savepoints.
//!
//! Events stay until commit: a ROLLBACK TO that undoes metadata already written must be able to write the
//! earlier part of it again.

use std::collections::HashSet;

/// What happened to a row. `row`s are rowids; of WITHOUT ROWID tables the key's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Insert,
    Delete,
    /// An UPDATE is about to happen; `data` is the row as it was (triggers).
    Image,
    /// An UPDATE happened; `data` is the set of changed columns (hooks).
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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    start: usize,
    len: u32,
}

impl Slice {
    pub fn is_none(self) -> bool {
        self.len == 0
    }
}

impl Event {
    pub fn new(kind: Kind, tbl: u32, row: i64) -> Event {
        let none = Slice::default();
        Event { kind, tbl, row, row2: row, hash: 0, hash2: 0, key: none, key2: none, data: none }
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    level: i32,
    events: usize,
    arena: usize,
    digested: usize,
    pending: Option<i64>,
    rows_impacted: i64,
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
    pub events: Vec<Event>,
    arena: Vec<u8>,
    marks: Vec<Mark>,
    /// Events before this one have been turned into metadata.
    pub digested: usize,
}

impl Journal {
    pub fn clear(&mut self) {
        self.events.clear();
        self.arena.clear();
        self.marks.clear();
        self.digested = 0;
        // A huge transaction should not pin its memory for the life of the connection.
        self.events.shrink_to(1 << 16);
        self.arena.shrink_to(1 << 20);
    }

    pub fn bytes(&self, slice: Slice) -> &[u8] {
        self.arena.get(slice.start..slice.start + slice.len as usize).unwrap_or(&[])
    }

    /// Appends what `f` writes to the arena.
    pub fn store<E>(&mut self, f: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Slice, E> {
        let start = self.arena.len();
        let done = f(&mut self.arena);
        if let Err(e) = done {
            self.arena.truncate(start);
            return Err(e);
        }
        // A packed key or an image is far below 4 GiB: SQLite's own limit on a row is 2 GiB.
        let len = u32::try_from(self.arena.len() - start).unwrap_or(u32::MAX);
        Ok(Slice { start, len })
    }

    pub fn savepoint(&mut self, level: i32, pending: Option<i64>, rows_impacted: i64) {
        self.release(level);
        self.marks.push(Mark {
            level,
            events: self.events.len(),
            arena: self.arena.len(),
            digested: self.digested,
            pending,
            rows_impacted,
        });
    }

    /// The rows that the events speak of which were not yet digested: by rowid or hash.
    pub fn touched(&self) -> HashSet<(u32, u64)> {
        let open = self.events.get(self.digested..).unwrap_or(&[]);
        let keyed = |e: &Event| !e.key.is_none();
        open.iter()
            .flat_map(|e| {
                let ids = if keyed(e) { [e.hash, e.hash2] } else { [e.row as u64, e.row2 as u64] };
                ids.map(|id| (e.tbl, id))
            })
            .collect()
    }

    pub fn release(&mut self, level: i32) {
        self.marks.retain(|m| m.level < level);
    }

    /// Back to the savepoint. The second value tells whether metadata written since then was undone in the file.
    ///
    /// On joining, SQLite announces only the innermost open savepoint, and the one that opened the transaction
    /// never: without a mark of the level, the savepoint is older than the journal.
    pub fn rollback_to(&mut self, level: i32) -> (Restored, bool) {
        let start = Mark { level, events: 0, arena: 0, digested: 0, pending: None, rows_impacted: 0 };
        let mark = self.marks.iter().find(|m| m.level == level).copied().unwrap_or(start);
        self.marks.retain(|m| m.level <= mark.level);
        let cut = self.events.split_off(self.digested.max(mark.events).min(self.events.len()));
        self.events.truncate(mark.events);
        self.arena.truncate(mark.arena);
        let undone = self.digested != mark.digested;
        self.digested = mark.digested;
        let Mark { pending, rows_impacted, .. } = mark;
        (Restored { cut, pending, rows_impacted }, undone)
    }
}
