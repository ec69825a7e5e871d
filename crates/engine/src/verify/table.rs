//! One table: its rows against its records.

use super::log::{Listed, Verdict};
use super::{Findings, Problem, UNKNOWN_SITE};
use crate::block::{KeyBytes, KeyEntry, RowBlock, SHIFT, StoredRow, decode_keys};
use crate::catalog::{KeyKind, Table};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Loc, Record};
use crate::value::{from_sql, hash, identity_of_stored, to_sql};
use rejoin_crdt::limits::{CL_MAX, VERSION_MAX};
use rejoin_crdt::meta::RowMeta;
use rejoin_crdt::{Value, key};
use rejoin_sqlite::{Stmt, ValueRef};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

const RESYNC: &str = "`repair` compares the table with its metadata and takes the row over as it is now";
const REWRITE: &str = "`repair` lists the table's rows anew";

pub(super) fn check(core: &mut Core, t: &Rc<Table>, listed: &mut Listed, found: &mut Findings) -> Result<()> {
    found.report.tables += 1;
    let mut check = Check::new(core, t, listed, found)?;
    if t.kind.has_rows() {
        check.rows()?;
    }
    if t.kind.has_keys() {
        check.keys()?;
    }
    Ok(())
}

struct Check<'a> {
    core: &'a mut Core,
    t: &'a Rc<Table>,
    listed: &'a mut Listed,
    found: &'a mut Findings,
    /// What each column shows where nothing was written; None: that cannot be told.
    defaults: Vec<Option<Value>>,
    required: bool,
}

impl<'a> Check<'a> {
    fn new(
        core: &'a mut Core,
        t: &'a Rc<Table>,
        listed: &'a mut Listed,
        found: &'a mut Findings,
    ) -> Result<Check<'a>> {
        let computed = |text: &str| text.contains('(') || text.to_ascii_uppercase().contains("CURRENT_");
        let values = match core.defaults(t) {
            Err(e) if e.is_outside() => return Err(e),
            other => other.unwrap_or_default(),
        };
        let known = |(i, c): (usize, &crate::catalog::Column)| {
            let value = values.get(i).cloned();
            value.filter(|_| !c.default.as_deref().is_some_and(computed))
        };
        let defaults = t.cols.iter().enumerate().map(known).collect();
        let required = t.cols.iter().any(|c| c.required);
        Ok(Check { core, t, listed, found, defaults, required })
    }

    fn problem(&mut self, key: Option<Vec<u8>>, what: impl Into<String>, advice: &str) {
        self.found.add(Problem {
            table: Some(self.t.name.clone()),
            key,
            what: what.into(),
            advice: advice.into(),
            repairable: true,
        });
    }

    fn resync(&mut self, key: Option<Vec<u8>>, what: impl Into<String>) {
        self.found.resync.insert(self.t.id);
        self.problem(key, what, RESYNC);
    }

    /// Rowid tables: rows and row blocks side by side.
    fn rows(&mut self) -> Result<()> {
        let mut blocks = Blocks::new(self.core, self.t)?;
        let mut live = Live::new(self.core, self.t)?;
        loop {
            let record = match blocks.next()? {
                Step::Record(row, stored) => Some((row, stored)),
                Step::Damaged(block) => {
                    self.found.row_blocks.push((self.t.id, block));
                    self.resync(None, format!("the records of row block {block} cannot be decoded"));
                    continue;
                }
                Step::End => None,
            };
            let upto = record.as_ref().map_or(i64::MAX, |r| r.0);
            while let Some(at) = live.at.filter(|at| *at < upto || record.is_none()) {
                // The rows of a block that cannot be decoded are reported with it.
                let lost = self.found.row_blocks.contains(&(self.t.id, at >> SHIFT));
                if !lost {
                    let key = live.packed()?;
                    self.resync(Some(key), "the row has no metadata");
                }
                live.step()?;
            }
            let Some((row, stored)) = record else {
                return Ok(());
            };
            self.found.report.rows += 1;
            if live.at == Some(row) {
                self.pair(row, &stored, &live)?;
                live.step()?;
            } else {
                self.alone(row, &stored)?;
            }
        }
    }

    /// A record and the row of the same rowid.
    fn pair(&mut self, row: i64, stored: &StoredRow, live: &Live) -> Result<()> {
        let packed = live.packed()?;
        if !stored.meta.is_alive() {
            self.resync(Some(packed), "the row is there, but the metadata says that it was deleted");
            return Ok(());
        }
        if self.t.kind == KeyKind::Hashed {
            let hashed = identity_of_stored(self.t, &packed).map(|i| hash(self.core.cfg.hash_key, &i.key));
            match hashed {
                Ok(h) if h == stored.hash => {}
                Ok(_) => {
                    self.found.rewrite.insert(self.t.id);
                    self.resync(Some(packed), "the row's metadata belongs to another key");
                    return Ok(());
                }
                Err(_) => {
                    self.problem(
                        Some(packed),
                        "the row has NULL in its primary key",
                        "give the key a value or delete the row; then `repair`",
                    );
                    return Ok(());
                }
            }
        }
        self.cells(&packed, &stored.meta, &live.stmt, 1 + self.t.keys.len())?;
        self.stamps(&packed, &Loc::Row(row), &stored.meta)
    }

    /// A record whose rowid no row has.
    fn alone(&mut self, row: i64, stored: &StoredRow) -> Result<()> {
        let packed = key::pack([rejoin_crdt::ValueRef::Int(row)]).unwrap_or_default();
        let key = (self.t.kind == KeyKind::RowId).then_some(packed.clone());
        let name = |what: &str| match key {
            Some(_) => what.to_owned(),
            None => format!("{what} (rowid {row})"),
        };
        if self.t.kind == KeyKind::Hashed && !stored.meta.is_alive() {
            let what = name("a deleted row's metadata stands among the living");
            self.found.rewrite.insert(self.t.id);
            self.problem(key, what, REWRITE);
            return Ok(());
        }
        // Rows that wait have no rowid yet: with a hashed key they stand among the keys.
        let may_wait = self.t.kind == KeyKind::RowId;
        if stored.meta.is_alive() && !(may_wait && self.waits(&packed, &stored.meta)?) {
            let what = name("the metadata has a living row that the table lacks");
            self.found.resync.insert(self.t.id);
            // Its record may stand in the right place, too.
            self.found.rewrite.extend((self.t.kind == KeyKind::Hashed).then_some(self.t.id));
            self.problem(
                key,
                what,
                "`repair` drops the metadata; merge with a peer that has the row to get it back",
            );
            return Ok(());
        }
        self.stamps(&packed, &Loc::Row(row), &stored.meta)
    }

    /// Whether a living record may do without its row: values are missing or refused.
    fn waits(&mut self, packed: &[u8], meta: &RowMeta) -> Result<bool> {
        if !meta.groups.is_empty() {
            return Ok(false);
        }
        let parked = self.core.parked_of_row(self.t.id, packed)?;
        Ok(self.required || parked.iter().any(|p| p.cl == meta.cl))
    }

    /// What was never written shows the default.
    fn cells(&mut self, packed: &[u8], meta: &RowMeta, row: &Stmt, from: usize) -> Result<()> {
        // The next writer stamps what is found there.
        if self.t.unsure {
            return Ok(());
        }
        let written = meta.written();
        for (n, col) in self.t.cols.iter().enumerate() {
            if written.contains(col.id) {
                continue;
            }
            let value = from_sql(row.column((from + n) as i32));
            let default = self.defaults.get(n).and_then(Option::as_ref);
            if default.is_some_and(|d| !d.as_ref().same(value)) {
                let what = format!("column \"{}\" has a value that no change wrote", col.name);
                self.resync(Some(packed.to_vec()), what);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Every stamp names a site, and a log row that lists this place.
    fn stamps(&mut self, packed: &[u8], loc: &Loc, meta: &RowMeta) -> Result<()> {
        let key = || match (self.t.kind, loc) {
            // The caller knows the key of a living row; that of a rowid is its packed form.
            (KeyKind::Hashed, Loc::Key(k)) => Some(k.to_vec()),
            _ => Some(packed.to_vec()),
        };
        let cl = i64::from(meta.cl);
        if !(1..=CL_MAX).contains(&cl) {
            let what = format!("the causal length {cl} is out of range");
            self.found.resync.insert(self.t.id);
            self.problem(key(), what, RESYNC);
        }
        let sentinel = meta.sentinel.map(|s| (s.db_version, s.site, 0));
        let groups = meta.groups.iter().map(|g| (g.stamp.db_version, g.stamp.site, g.stamp.col_version));
        let mut last = None;
        for (version, site, col_version) in sentinel.into_iter().chain(groups) {
            if self.core.sites.id(site).is_none() {
                self.found.sites.insert(site);
                let what = format!("a cell was written by site number {site}, which has no id");
                self.problem(key(), what, UNKNOWN_SITE);
            }
            if !(0..=VERSION_MAX).contains(&col_version) {
                let what = format!("col_version {col_version} is out of range");
                self.found.resync.insert(self.t.id);
                self.problem(key(), what, RESYNC);
            }
            if last == Some(version) {
                continue;
            }
            last = Some(version);
            let verdict = self.listed.verdict(self.core.db, self.t.id, loc, version)?;
            if verdict != Verdict::Listed {
                let (what, advice) = match verdict {
                    Verdict::NoVersion => {
                        ("the log does not have", "`repair` lists it under a new db_version")
                    }
                    _ => ("the log has, but without this row", REWRITE),
                };
                self.found.rewrite.insert(self.t.id);
                let what = format!("a change of db_version {version}, which {what}: peers will not see it");
                self.problem(key(), what, advice);
            }
        }
        Ok(())
    }

    /// Key blocks: all records of WITHOUT ROWID tables, and tombstones of tables with a hashed key.
    fn keys(&mut self) -> Result<()> {
        let mut find = Point::new(self.core, self.t)?;
        let mut q = self.core.db.prepare_transient(&format!(
            "SELECT id, first, data FROM {} ORDER BY first",
            self.t.keys_table()
        ))?;
        let mut overlay: BTreeMap<Rc<[u8]>, Option<Record>> = self
            .core
            .overlay
            .table(self.t.id)
            .filter_map(|(loc, r)| match loc {
                Loc::Key(k) => Some((Rc::clone(k), r.clone())),
                Loc::Row(_) => None,
            })
            .collect();
        let mut last: Option<KeyBytes> = None;
        let mut living = 0;
        let mut damaged = false;
        while q.step()? {
            let (id, first) = (q.column_int(0), q.column_blob(1).to_vec());
            let Ok(entries) = decode_keys(q.column_blob(2)) else {
                damaged = true;
                self.found.key_blocks.push((self.t.id, id));
                self.resync(
                    None,
                    format!("the records of key block {id} cannot be decoded; deletions that it knew are forgotten"),
                );
                continue;
            };
            for e in entries {
                if e.key.as_slice() < first.as_slice() || last.as_ref().is_some_and(|l| *l >= e.key) {
                    self.found.rewrite.insert(self.t.id);
                    let what = "the record stands in the wrong place or in two";
                    self.problem(Some(e.key.to_vec()), what, REWRITE);
                }
                last = Some(e.key.clone());
                let newer = overlay.remove(e.key.as_slice());
                let record = match newer {
                    Some(None) => continue,
                    Some(Some(r)) => r,
                    None => crate::store::record_of(&e),
                };
                living += u64::from(self.key(&e, &record, &mut find)?);
            }
        }
        for (k, record) in overlay {
            let Some(record) = record else { continue };
            let e = KeyEntry { key: KeyBytes::from_slice(&k), ..KeyEntry::default() };
            living += u64::from(self.key(&e, &record, &mut find)?);
        }
        if self.t.kind == KeyKind::Keyed && !damaged {
            self.rows_without(living)?;
        }
        Ok(())
    }

    /// One record in a key block; true: a row stands for it.
    fn key(&mut self, e: &KeyEntry, record: &Record, find: &mut Point) -> Result<bool> {
        self.found.report.rows += 1;
        let meta = &record.row.meta;
        let there = match find.seek(&e.key) {
            Ok(there) => there,
            Err(Error::Damaged { what }) => {
                self.found.resync.insert(self.t.id);
                self.found.rewrite.insert(self.t.id);
                self.problem(None, what, RESYNC);
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        let expected = self.t.kind == KeyKind::Keyed && meta.is_alive();
        let packed = e.key.to_vec();
        if there && !expected {
            if self.t.kind == KeyKind::Hashed {
                self.found.rewrite.insert(self.t.id);
            }
            let what = if meta.is_alive() {
                "the row has metadata in two places"
            } else {
                "the row is there, but the metadata says that it was deleted"
            };
            self.resync(Some(packed), what);
            return Ok(there);
        }
        if !there && meta.is_alive() && !self.waits(&e.key, meta)? {
            self.found.resync.insert(self.t.id);
            self.problem(
                Some(packed),
                "the metadata has a living row that the table lacks",
                "`repair` drops the metadata; merge with a peer that has the row to get it back",
            );
            return Ok(false);
        }
        if there {
            self.cells(&packed, meta, &find.stmt, 1)?;
        }
        self.stamps(&packed, &Loc::Key(e.key.as_slice().into()), meta)?;
        Ok(there)
    }

    /// WITHOUT ROWID: all living records have rows; have all rows records?
    fn rows_without(&mut self, living: u64) -> Result<()> {
        let mut q = self.core.db.prepare_transient(&format!("SELECT count(*) FROM {}", self.t.quoted()))?;
        q.step()?;
        if q.column_int(0) as u64 == living {
            return Ok(());
        }
        let mut live = Live::new(self.core, self.t)?;
        while live.at.is_some() {
            let packed = live.packed()?;
            let identity = identity_of_stored(self.t, &packed)?;
            let record = self.core.load(self.t, &Loc::Key(identity.key))?;
            if record.is_none() {
                self.resync(Some(packed), "the row has no metadata");
            }
            live.step()?;
        }
        Ok(())
    }
}

enum Step {
    Record(i64, StoredRow),
    Damaged(i64),
    End,
}

/// The records of row blocks with those of the overlay, by rowid.
struct Blocks {
    stmt: Stmt,
    hashed: bool,
    /// The block that the statement stands on.
    stored: Option<i64>,
    overlay: BTreeMap<i64, Vec<(i64, Option<StoredRow>)>>,
    ready: VecDeque<(i64, StoredRow)>,
}

impl Blocks {
    fn new(core: &Core, t: &Table) -> Result<Blocks> {
        let mut overlay: BTreeMap<i64, Vec<(i64, Option<StoredRow>)>> = BTreeMap::new();
        for (loc, record) in core.overlay.table(t.id) {
            if let Loc::Row(row) = loc {
                let record = record.as_ref().map(|r| r.row.clone());
                overlay.entry(row >> SHIFT).or_default().push((*row, record));
            }
        }
        let sql = format!("SELECT block, data FROM {} ORDER BY block", t.rows_table());
        let mut blocks = Blocks {
            stmt: core.db.prepare_transient(&sql)?,
            hashed: t.kind == KeyKind::Hashed,
            stored: None,
            overlay,
            ready: VecDeque::new(),
        };
        blocks.advance()?;
        Ok(blocks)
    }

    fn advance(&mut self) -> Result<()> {
        self.stored = self.stmt.step()?.then(|| self.stmt.column_int(0));
        Ok(())
    }

    fn next(&mut self) -> Result<Step> {
        loop {
            if let Some((row, stored)) = self.ready.pop_front() {
                return Ok(Step::Record(row, stored));
            }
            let newer = self.overlay.first_key_value().map(|(b, _)| *b);
            let Some(block) = self.stored.into_iter().chain(newer).min() else {
                return Ok(Step::End);
            };
            let mut data = Ok(RowBlock::default());
            if self.stored == Some(block) {
                data = RowBlock::decode(self.stmt.column_blob(1), self.hashed);
                self.advance()?;
            }
            let newer = self.overlay.remove(&block).unwrap_or_default();
            let Ok(mut data) = data else {
                return Ok(Step::Damaged(block));
            };
            for (row, record) in newer {
                data.set((row & 63) as u8, record);
            }
            let at = |(slot, r): (u8, StoredRow)| ((block << SHIFT) | i64::from(slot), r);
            self.ready.extend(data.rows.into_iter().map(at));
        }
    }
}

/// The rows of a table by rowid (by key without rowids): rowid, key columns, other columns.
struct Live {
    stmt: Stmt,
    at: Option<i64>,
    keys: usize,
}

impl Live {
    fn new(core: &Core, t: &Table) -> Result<Live> {
        let rowid = match t.kind {
            KeyKind::Keyed => "0",
            _ => t.rowid,
        };
        let order = match t.kind {
            KeyKind::Keyed => t.key_list(""),
            _ => rowid.to_owned(),
        };
        let sql =
            format!("SELECT {rowid}, {}{} FROM {} ORDER BY {order}", t.key_list(""), columns(t), t.quoted());
        let mut live = Live { stmt: core.db.prepare_transient(&sql)?, at: None, keys: t.keys.len() };
        live.step()?;
        Ok(live)
    }

    fn step(&mut self) -> Result<()> {
        self.at = self.stmt.step()?.then(|| self.stmt.column_int(0));
        Ok(())
    }

    fn packed(&self) -> Result<Vec<u8>> {
        let values = (1..=self.keys as i32).map(|i| from_sql(self.stmt.column(i)));
        key::pack(values).map_err(|e| Error::damaged(e.to_string()))
    }
}

/// `, c1, c2`: the columns beside the key.
fn columns(t: &Table) -> String {
    let name = |c: &crate::catalog::Column| format!(", {}", crate::format::quote(&c.name));
    t.cols.iter().map(name).collect()
}

/// The row of one key: 1, other columns.
struct Point {
    stmt: Stmt,
    keys: usize,
}

impl Point {
    fn new(core: &Core, t: &Table) -> Result<Point> {
        let sql = format!("SELECT 1{} FROM {} WHERE {}", columns(t), t.quoted(), t.key_where(1));
        Ok(Point { stmt: core.db.prepare_transient(&sql)?, keys: t.keys.len() })
    }

    fn seek(&mut self, packed: &[u8]) -> Result<bool> {
        let unfit = || Error::damaged(format!("a record has the key {}", super::key_text(packed)));
        let values: Vec<ValueRef<'_>> = key::unpack(packed).map_err(|_| unfit())?.map(to_sql).collect();
        if values.len() != self.keys {
            return Err(unfit());
        }
        self.stmt.reset();
        for (i, value) in values.iter().enumerate() {
            self.stmt.bind(i as i32 + 1, *value)?;
        }
        Ok(self.stmt.step()?)
    }
}
