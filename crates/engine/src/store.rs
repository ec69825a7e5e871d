//! Reading and writing row metadata: the overlay of the log's tail, row blocks and key blocks.
//!
//! **Invariant:** an overlay entry is newer than what the blocks say of that row: a transaction that writes
//! blocks folds the overlay into them first.

use crate::block::{KeyBytes, KeyEntry, RowBlock, SHIFT, StoredRow, decode_keys, encode_keys};
use crate::catalog::Table;
use crate::error::Result;
use crate::log::KeyRange;
use rejoin_sqlite::{Db, Stmt, ValueRef};
use std::collections::HashMap;
use std::rc::Rc;

/// Key blocks are split into blocks of this many entries when they exceed one and a half times it.
const KEYS_PER_BLOCK: usize = 64;

/// A block that grows to so many entries is written before it takes more.
const KEYS_AT_ONCE: usize = 16 * KEYS_PER_BLOCK;

/// Where a row's metadata stands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Loc {
    Row(i64),
    Key(Rc<[u8]>),
}

/// A record of the store: metadata, key hash, and for key blocks the shown spelling of the key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    pub row: StoredRow,
    pub spelling: Option<Rc<[u8]>>,
}

/// The statements on one table's metadata, prepared when first used.
pub struct TableStore {
    rows_get: Option<Stmt>,
    rows_put: Option<Stmt>,
    rows_del: Option<Stmt>,
    keys_find: Option<Stmt>,
    keys_next: Option<Stmt>,
    keys_put: Option<Stmt>,
    keys_add: Option<Stmt>,
    keys_del: Option<Stmt>,
    row_cache: Option<(i64, RowBlock)>,
    key_cache: Option<KeyBlock>,
    /// There is no key block at all.
    keys_empty: bool,
    hashed: bool,
    rows: String,
    keys: String,
    db: Db,
}

struct KeyBlock {
    id: i64,
    first: Vec<u8>,
    /// First key of the next block; None: this is the last one.
    next: Option<Vec<u8>>,
    entries: Vec<KeyEntry>,
}

fn lazy(slot: &mut Option<Stmt>, db: Db, sql: impl FnOnce() -> String) -> Result<&mut Stmt> {
    if slot.is_none() {
        *slot = Some(db.prepare(&sql())?);
    }
    // The slot was filled above.
    slot.as_mut().ok_or_else(|| crate::error::Error::damaged("statement slot"))
}

impl TableStore {
    pub fn new(db: Db, t: &Table) -> TableStore {
        TableStore {
            rows_get: None,
            rows_put: None,
            rows_del: None,
            keys_find: None,
            keys_next: None,
            keys_put: None,
            keys_add: None,
            keys_del: None,
            row_cache: None,
            key_cache: None,
            keys_empty: false,
            hashed: t.kind == crate::catalog::KeyKind::Hashed,
            rows: t.rows_table(),
            keys: t.keys_table(),
            db,
        }
    }

    /// Forgets what was read: the file may have changed.
    pub fn forget(&mut self) {
        self.row_cache = None;
        self.key_cache = None;
        self.keys_empty = false;
    }

    pub fn load(&mut self, loc: &Loc) -> Result<Option<Record>> {
        match loc {
            Loc::Row(row) => {
                let slot = (row & 63) as u8;
                let block = self.row_block(row >> SHIFT)?;
                Ok(block.get(slot).map(|r| Record { row: r.clone(), spelling: None }))
            }
            Loc::Key(key) => {
                let Some(block) = self.key_block(key)? else {
                    return Ok(None);
                };
                let found = block.entries.binary_search_by(|e| e.key.as_slice().cmp(key));
                Ok(found.ok().and_then(|i| block.entries.get(i)).map(record_of))
            }
        }
    }

    pub fn row_block(&mut self, block: i64) -> Result<&RowBlock> {
        if self.row_cache.as_ref().is_none_or(|c| c.0 != block) {
            let read = self.read_rows(block)?;
            self.row_cache = Some((block, read));
        }
        Ok(&self.row_cache.get_or_insert_with(Default::default).1)
    }

    fn read_rows(&mut self, block: i64) -> Result<RowBlock> {
        let (hashed, rows) = (self.hashed, &self.rows);
        let get = lazy(&mut self.rows_get, self.db, || format!("SELECT data FROM {rows} WHERE block = ?1"))?;
        get.bind_int(1, block)?;
        let found = get.step();
        let decoded = match found {
            Ok(true) => RowBlock::decode(get.column_blob(0), hashed).map_err(Into::into),
            Ok(false) => Ok(RowBlock::default()),
            Err(e) => Err(e.into()),
        };
        get.reset();
        decoded
    }

    pub fn write_rows(&mut self, block: i64, data: &RowBlock, buf: &mut Vec<u8>) -> Result<()> {
        let rows = &self.rows;
        if data.rows.is_empty() {
            let del = lazy(&mut self.rows_del, self.db, || format!("DELETE FROM {rows} WHERE block = ?1"))?;
            return Ok(del.run(&[ValueRef::Integer(block)])?);
        }
        buf.clear();
        data.encode(self.hashed, buf);
        let put = lazy(&mut self.rows_put, self.db, || {
            format!("REPLACE INTO {rows}(block, data) VALUES (?1, ?2)")
        })?;
        Ok(put.run(&[ValueRef::Integer(block), ValueRef::Blob(buf)])?)
    }

    /// A row block to be changed and written back; what is cached of it is given up.
    pub fn take_block(&mut self, block: i64) -> Result<RowBlock> {
        match self.row_cache.take_if(|c| c.0 == block) {
            Some((_, cached)) => Ok(cached),
            None => self.read_rows(block),
        }
    }

    /// Whether no key is stored at all.
    pub fn has_no_keys(&mut self) -> Result<bool> {
        Ok(self.key_block(&[])?.is_none_or(|b| b.entries.is_empty() && b.next.is_none()))
    }

    /// Stores rows (None: removes) given by ascending rowid.
    pub fn apply_rows(&mut self, updates: Vec<(i64, Option<StoredRow>)>) -> Result<()> {
        let mut buf = Vec::new();
        let mut open: Option<(i64, RowBlock)> = None;
        for (row, record) in updates {
            let block = row >> SHIFT;
            if open.as_ref().is_none_or(|o| o.0 != block) {
                if let Some((n, data)) = open.take() {
                    self.write_rows(n, &data, &mut buf)?;
                }
                let cached = self.row_cache.take_if(|c| c.0 == block).map(|c| c.1);
                let data = match cached {
                    Some(data) => data,
                    None => self.read_rows(block)?,
                };
                open = Some((block, data));
            }
            if let Some((_, data)) = &mut open {
                data.set((row & 63) as u8, record);
            }
        }
        if let Some((n, data)) = open {
            self.write_rows(n, &data, &mut buf)?;
            self.row_cache = Some((n, data));
        }
        Ok(())
    }

    fn key_block(&mut self, key: &[u8]) -> Result<Option<&KeyBlock>> {
        let fits = |b: &KeyBlock| b.first.as_slice() <= key && b.next.as_deref().is_none_or(|n| key < n);
        if !self.keys_empty && !self.key_cache.as_ref().is_some_and(fits) {
            self.key_cache = self.read_keys(key)?;
            self.keys_empty = self.key_cache.is_none();
        }
        Ok(self.key_cache.as_ref())
    }

    fn read_keys(&mut self, key: &[u8]) -> Result<Option<KeyBlock>> {
        let keys = &self.keys;
        let find = lazy(&mut self.keys_find, self.db, || {
            format!("SELECT id, first, data FROM {keys} WHERE first <= ?1 ORDER BY first DESC LIMIT 1")
        })?;
        let found = find.query_row(&[ValueRef::Blob(key)], |q| {
            Ok((q.column_int(0), q.column_blob(1).to_vec(), decode_keys(q.column_blob(2))))
        })?;
        let Some((id, first, entries)) = found else {
            return Ok(None);
        };
        let next = lazy(&mut self.keys_next, self.db, || {
            format!("SELECT first FROM {keys} WHERE first > ?1 ORDER BY first LIMIT 1")
        })?;
        let next = next.query_row(&[ValueRef::Blob(&first)], |q| Ok(q.column_blob(0).to_vec()))?;
        Ok(Some(KeyBlock { id, first, next, entries: entries? }))
    }

    /// Stores records (None: removes) given by ascending key. Returns the ranges of keys, ends inclusive, in the blocks
    /// that were written.
    pub fn apply_keys<'k>(
        &mut self,
        updates: impl IntoIterator<Item = (&'k [u8], Option<Record>)>,
    ) -> Result<Vec<KeyRange>> {
        let mut ranges: Vec<(&[u8], &[u8])> = Vec::new();
        let mut expected: Option<Vec<u8>> = None;
        let mut updates = updates.into_iter().peekable();
        while let Some(&(key, _)) = updates.peek() {
            self.key_block(key)?;
            let mut block = match self.key_cache.take() {
                Some(block) => block,
                None => self.first_block()?,
            };
            let mut touched: Option<(&[u8], &[u8])> = None;
            let fits = |b: &KeyBlock, key: &[u8]| {
                b.entries.len() < KEYS_AT_ONCE && b.next.as_deref().is_none_or(|n| key < n)
            };
            while let Some((key, record)) = updates.next_if(|u| touched.is_none() || fits(&block, u.0)) {
                set_key(&mut block.entries, key, record);
                touched = Some((touched.map_or(key, |t| t.0), key));
            }
            if let Some((from, to)) = touched {
                match ranges.last_mut() {
                    Some(last) if expected.as_ref() == Some(&block.first) => last.1 = to,
                    _ => ranges.push((from, to)),
                }
            }
            expected.clone_from(&block.next);
            self.write_keys(block)?;
            // The rest of the block may be what comes next.
            if let Some(last) = self.key_cache.as_ref().filter(|c| c.next == expected) {
                let more = updates.peek().is_some_and(|u| last.next.as_deref().is_none_or(|n| u.0 < n));
                expected = if more { Some(last.first.clone()) } else { expected };
            }
        }
        Ok(ranges.into_iter().map(|(from, to)| (from.into(), to.into())).collect())
    }

    fn first_block(&mut self) -> Result<KeyBlock> {
        let id = self.write_entries(None, &[], &mut Vec::new())?;
        self.keys_empty = false;
        Ok(KeyBlock { id, first: Vec::new(), next: None, entries: Vec::new() })
    }

    /// Writes a block, split where it grew large; the last part stays cached.
    fn write_keys(&mut self, mut block: KeyBlock) -> Result<()> {
        let keys = &self.keys;
        if block.entries.is_empty() && !block.first.is_empty() {
            let del = lazy(&mut self.keys_del, self.db, || format!("DELETE FROM {keys} WHERE id = ?1"))?;
            return Ok(del.run(&[ValueRef::Integer(block.id)])?);
        }
        let mut buf = Vec::new();
        if block.entries.len() > KEYS_PER_BLOCK * 3 / 2 {
            let last = (block.entries.len() - 1) / KEYS_PER_BLOCK * KEYS_PER_BLOCK;
            let rest = block.entries.split_off(last);
            for (i, entries) in block.entries.chunks(KEYS_PER_BLOCK).enumerate() {
                self.write_entries((i == 0).then_some(block.id), entries, &mut buf)?;
            }
            let id = self.write_entries(None, &rest, &mut buf)?;
            let first = rest.first().map_or_else(Vec::new, |e| e.key.to_vec());
            block = KeyBlock { id, first, next: block.next, entries: rest };
        } else {
            self.write_entries(Some(block.id), &block.entries, &mut buf)?;
        }
        self.key_cache = Some(block);
        Ok(())
    }

    /// Writes entries as the block of this id, or as a new one; returns its id.
    fn write_entries(&mut self, id: Option<i64>, entries: &[KeyEntry], buf: &mut Vec<u8>) -> Result<i64> {
        let keys = &self.keys;
        buf.clear();
        encode_keys(entries, buf);
        if let Some(id) = id {
            let put =
                lazy(&mut self.keys_put, self.db, || format!("UPDATE {keys} SET data = ?2 WHERE id = ?1"))?;
            put.run(&[ValueRef::Integer(id), ValueRef::Blob(buf)])?;
            return Ok(id);
        }
        let add =
            lazy(&mut self.keys_add, self.db, || format!("INSERT INTO {keys}(first, data) VALUES (?1, ?2)"))?;
        let first = entries.first().map_or(&[][..], |e| e.key.as_slice());
        add.run(&[ValueRef::Blob(first), ValueRef::Blob(buf)])?;
        Ok(self.db.last_insert_rowid())
    }

    /// Calls `f` for every stored row of the table's row blocks from block `from` to block `to`.
    pub fn scan_rows(
        &self,
        from: i64,
        to: i64,
        mut f: impl FnMut(i64, &StoredRow) -> Result<()>,
    ) -> Result<()> {
        let mut q = self.db.prepare_transient(&format!(
            "SELECT block, data FROM {} WHERE block BETWEEN ?1 AND ?2 ORDER BY block",
            self.rows
        ))?;
        q.bind_int(1, from)?;
        q.bind_int(2, to)?;
        while q.step()? {
            let block = q.column_int(0);
            for (slot, row) in &RowBlock::decode(q.column_blob(1), self.hashed)?.rows {
                f((block << SHIFT) | i64::from(*slot), row)?;
            }
        }
        Ok(())
    }

    /// Calls `f` for every stored key from `from` to `to` (None: to the end).
    pub fn scan_keys(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut f: impl FnMut(&KeyEntry) -> Result<()>,
    ) -> Result<()> {
        let keys = &self.keys;
        let mut q = self.db.prepare_transient(&format!(
            "SELECT data FROM {keys} WHERE first >= coalesce((SELECT max(first) FROM {keys} WHERE first <= ?1), x'') \
             AND (?2 IS NULL OR first <= ?2) ORDER BY first"
        ))?;
        q.bind_blob(1, from)?;
        match to {
            Some(to) => q.bind_blob(2, to)?,
            None => q.bind_null(2)?,
        }
        while q.step()? {
            for entry in &decode_keys(q.column_blob(0))? {
                if entry.key.as_slice() >= from && to.is_none_or(|to| entry.key.as_slice() <= to) {
                    f(entry)?;
                }
            }
        }
        Ok(())
    }
}

pub fn record_of(e: &KeyEntry) -> Record {
    Record { row: StoredRow { meta: e.meta.clone(), hash: 0 }, spelling: e.spelling.as_deref().map(Rc::from) }
}

fn set_key(entries: &mut Vec<KeyEntry>, key: &[u8], record: Option<Record>) {
    let entry = record.map(|r| KeyEntry {
        key: KeyBytes::from_slice(key),
        spelling: r.spelling.as_deref().map(<[u8]>::to_vec),
        meta: r.row.meta,
    });
    let at = match entries.last() {
        Some(last) if last.key.as_slice() < key => Err(entries.len()),
        _ => entries.binary_search_by(|e| e.key.as_slice().cmp(key)),
    };
    match (at, entry) {
        (Ok(i), Some(entry)) => entries[i] = entry,
        (Ok(i), None) => drop(entries.remove(i)),
        (Err(i), Some(entry)) => entries.insert(i, entry),
        (Err(_), None) => {}
    }
}

/// The metadata written by the last transactions, which still stands in their log rows only.
#[derive(Default)]
pub struct Overlay {
    tables: HashMap<u32, HashMap<Loc, Option<Record>>>,
    pub len: usize,
}

impl Overlay {
    pub fn get(&self, tbl: u32, loc: &Loc) -> Option<&Option<Record>> {
        if self.len == 0 {
            return None;
        }
        self.tables.get(&tbl)?.get(loc)
    }

    pub fn set(&mut self, tbl: u32, loc: Loc, record: Option<Record>) {
        self.len += usize::from(self.tables.entry(tbl).or_default().insert(loc, record).is_none());
    }

    pub fn drop_table(&mut self, tbl: u32) {
        self.len -= self.tables.remove(&tbl).map_or(0, |t| t.len());
    }

    pub fn clear(&mut self) {
        self.tables.clear();
        self.len = 0;
    }

    pub fn take(&mut self) -> HashMap<u32, HashMap<Loc, Option<Record>>> {
        self.len = 0;
        std::mem::take(&mut self.tables)
    }

    /// The entries of one table.
    pub fn table(&self, tbl: u32) -> impl Iterator<Item = (&Loc, &Option<Record>)> {
        self.tables.get(&tbl).into_iter().flatten()
    }
}
