//! Changes that cannot be applied yet: their table, column or a required value is missing. They are kept, listed
//! and relayed, and applied when what they wait for appears.

use crate::catalog::{Table, text};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::names::State;
use crate::value::{from_sql, to_sql};
use rejoin_crdt::merge::{Verdict, by_value, by_version};
use rejoin_crdt::meta::{ColSet, Stamp};
use rejoin_crdt::site::SiteId;
use rejoin_crdt::{Value, ValueRef};
use rejoin_sqlite::{Stmt, ValueRef as Sql};

pub const SENTINEL: &str = "-1";

/// Why a change waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    NoTable,
    NoColumn,
    /// The table or column was dropped here: kept for others only.
    TableDropped,
    Dropped,
    /// A NOT NULL column without DEFAULT has no value yet.
    Incomplete,
    /// A constraint of the table refuses the value.
    Constraint,
}

impl Reason {
    /// Why a change of such a column of such a table waits; `NoColumn` also if it waits for nothing any more.
    pub fn of(table: State, column: State) -> Reason {
        match (table, column) {
            (State::Waits, _) => Reason::NoTable,
            (State::Ended, _) => Reason::TableDropped,
            (State::Here, State::Ended) => Reason::Dropped,
            (State::Here, _) => Reason::NoColumn,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Reason::NoTable => "no such table",
            Reason::NoColumn => "no such column",
            Reason::TableDropped => "table was dropped",
            Reason::Dropped => "column was dropped",
            Reason::Incomplete => "required values missing",
            Reason::Constraint => "constraint failed",
        }
    }
}

/// One change as it came, with local ordinals and versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    pub id: i64,
    pub table: u32,
    pub pk: Vec<u8>,
    /// None: the sentinel.
    pub col: Option<u32>,
    pub val: Value,
    pub col_version: i64,
    pub db_version: i64,
    pub site: u32,
    pub cl: u32,
    pub seq: i64,
    pub reason: String,
}

const COLUMNS: &str = "id, tbl, pk, col, val, col_version, db_version, site, cl, seq, reason";

fn read(q: &Stmt) -> Result<Parked> {
    let small = |v: i64| u32::try_from(v).map_err(|_| Error::damaged("parked change"));
    Ok(Parked {
        id: q.column_int(0),
        table: small(q.column_int(1))?,
        pk: q.column_blob(2).to_vec(),
        col: Some(q.column_int(3)).filter(|c| *c >= 0).map(small).transpose()?,
        val: from_sql(q.column(4)).to_owned(),
        col_version: q.column_int(5),
        db_version: q.column_int(6),
        site: small(q.column_int(7))?,
        cl: small(q.column_int(8))?,
        seq: q.column_int(9),
        reason: text(q.column_text(10)),
    })
}

impl Core {
    pub fn has_parked(&mut self) -> Result<bool> {
        if let Some(known) = self.parked_rows {
            return Ok(known);
        }
        let mut q = self.db.prepare_transient("SELECT EXISTS (SELECT 1 FROM main.crsql_waiting)")?;
        q.step()?;
        let any = q.column_int(0) != 0;
        self.parked_rows = Some(any);
        Ok(any)
    }

    /// Whether a parked change of a table that is there can be tried: not if it waits for other values of its row.
    pub fn is_due(t: &Table, p: &Parked) -> bool {
        let known = p.col.is_none_or(|col| t.column_by_id(col).is_some());
        p.reason == Reason::NoTable.name() || known && p.reason != Reason::Incomplete.name()
    }

    /// A local insert meets a living row that waited for values: what waits becomes its past.
    pub fn absorb_parked(&mut self, at: (u32, u64)) -> Result<()> {
        if !self.has_parked()? {
            return Ok(());
        }
        let Some(work) = self.txn.works.get(&at) else { return Ok(()) };
        let (t, cl) = (std::rc::Rc::clone(&work.table), work.meta.cl);
        let pk = Core::parked_key(&t, work.row, work.key.as_deref());
        for p in self.parked_of_row(t.id, &pk)?.into_iter().filter(|p| p.cl == cl) {
            let Some(column) = p.col.and_then(|col| t.column_by_id(col)) else { continue };
            let stamp = Stamp { col_version: p.col_version, db_version: p.db_version, site: p.site };
            if let Some(work) = self.txn.works.get_mut(&at)
                && work.meta.cell(column.id).is_none()
            {
                work.meta.write(ColSet::single(column.id), stamp, p.seq);
            }
            self.unpark(p.id)?;
        }
        Ok(())
    }

    /// What is parked of a row goes with it to its new key.
    pub fn move_parked(&mut self, old: (u32, u64), new: (u32, u64)) -> Result<()> {
        if !self.has_parked()? {
            return Ok(());
        }
        let key = |core: &Core, at| {
            let work = core.txn.works.get(&at)?;
            let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
            Some((work.table.id, pk, work.meta.cl))
        };
        let (Some((table, from, _)), Some((_, to, cl))) = (key(self, old), key(self, new)) else {
            return Ok(());
        };
        let (db_version, site) = (self.next_db_version(), self.cfg.own);
        let (clock, lamport) = (self.txn.clock.unwrap_or(0), self.cfg.lamport);
        for p in self.parked_of_row(table, &from)?.into_iter().filter(|p| p.col.is_some()) {
            self.unpark(p.id)?;
            let col_version = if lamport { p.col_version } else { rejoin_crdt::hlc::for_cell(0, clock) };
            let seq = self.txn.seq;
            self.txn.seq += 1;
            let reason = if p.reason == Reason::Dropped.name() { Reason::Dropped } else { Reason::NoColumn };
            let moved = Parked { pk: to.clone(), cl, col_version, db_version, site, seq, ..p };
            self.park(&moved, reason)?;
        }
        Ok(())
    }

    fn query_parked(&self, condition: &str, params: &[Sql<'_>]) -> Result<Vec<Parked>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM main.crsql_waiting WHERE {condition} ORDER BY db_version, seq, id"
        );
        let mut q = self.db.prepare_transient(&sql)?;
        for (i, p) in params.iter().enumerate() {
            q.bind(i as i32 + 1, *p)?;
        }
        let mut all = Vec::new();
        while q.step()? {
            all.push(read(&q)?);
        }
        Ok(all)
    }

    pub fn parked_at(&self, db_version: i64) -> Result<Vec<Parked>> {
        self.query_parked("db_version = ?1", &[Sql::Integer(db_version)])
    }

    pub fn parked_of_table(&self, table: u32) -> Result<Vec<Parked>> {
        self.query_parked("tbl = ?1", &[Sql::Integer(i64::from(table))])
    }

    pub fn parked_of_column(&self, table: u32, col: u32) -> Result<Vec<Parked>> {
        let at = [table, col].map(|n| Sql::Integer(i64::from(n)));
        self.query_parked("tbl = ?1 AND col = ?2", &at)
    }

    pub fn parked_of_row(&mut self, table: u32, pk: &[u8]) -> Result<Vec<Parked>> {
        if !self.has_parked()? {
            return Ok(Vec::new());
        }
        self.query_parked("tbl = ?1 AND pk = ?2", &[Sql::Integer(i64::from(table)), Sql::Blob(pk)])
    }

    /// Tables among the parked, each once.
    pub fn parked_tables(&self) -> Result<Vec<u32>> {
        let mut q = self.db.prepare_transient("SELECT DISTINCT tbl FROM main.crsql_waiting")?;
        let mut all = Vec::new();
        while q.step()? {
            all.extend(u32::try_from(q.column_int(0)));
        }
        Ok(all)
    }

    /// Keeps a change that came now, unless a parked one of the same cell wins. True: it was kept.
    pub fn park(&mut self, p: &Parked, reason: Reason) -> Result<bool> {
        let kept = self.keep(p, reason)?;
        if kept {
            self.txn.parked.insert(p.db_version);
            self.txn.parks += 1;
            self.txn.high = self.txn.high.max(p.col.map_or(0, |_| p.col_version));
        }
        Ok(kept)
    }

    /// Keeps a change that the log names already, unless a parked one of the same cell wins. True: it was kept.
    pub fn keep(&mut self, p: &Parked, reason: Reason) -> Result<bool> {
        let earlier = self.parked_of_row(p.table, &p.pk)?;
        if earlier.iter().any(|e| e.cl > p.cl) {
            return Ok(false);
        }
        if earlier.iter().any(|e| e.cl < p.cl) {
            self.unpark_row(p.table, &p.pk, p.cl)?;
        }
        let same = earlier.iter().find(|e| e.cl == p.cl && e.col == p.col);
        if let Some(e) = same
            && !self.beats(p, e)
        {
            return Ok(false);
        }
        self.put_parked(p, reason)?;
        Ok(true)
    }

    /// Writes a parked change as it is: its db_version lists it already, or is about to.
    pub fn put_parked(&mut self, p: &Parked, reason: Reason) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "REPLACE INTO main.crsql_waiting(tbl, pk, col, val, col_version, db_version, site, cl, seq, reason) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        q.run(&[
            Sql::Integer(i64::from(p.table)),
            Sql::Blob(&p.pk),
            Sql::Integer(p.col.map_or(-1, i64::from)),
            to_sql(p.val.as_ref()),
            Sql::Integer(p.col_version),
            Sql::Integer(p.db_version),
            Sql::Integer(i64::from(p.site)),
            Sql::Integer(i64::from(p.cl)),
            Sql::Integer(p.seq),
            Sql::Text(reason.name().as_bytes()),
        ])?;
        self.parked_rows = Some(true);
        Ok(())
    }

    fn beats(&self, new: &Parked, old: &Parked) -> bool {
        let site = |ordinal| self.sites.id(ordinal).unwrap_or(SiteId([0; 16]));
        let verdict = by_version(Some(old.col_version), new.col_version).unwrap_or_else(|| {
            let (a, b): (ValueRef<'_>, ValueRef<'_>) = (old.val.as_ref(), new.val.as_ref());
            by_value(a, &site(old.site), b, &site(new.site), self.cfg.merge_equal)
        });
        verdict != Verdict::Lose
    }

    /// Drops what is parked of a row's lives before `cl`.
    pub fn unpark_row(&mut self, table: u32, pk: &[u8], before_cl: u32) -> Result<()> {
        if !self.has_parked()? {
            return Ok(());
        }
        self.db
            .prepare_transient("DELETE FROM main.crsql_waiting WHERE tbl = ?1 AND pk = ?2 AND cl < ?3")?
            .run(&[Sql::Integer(i64::from(table)), Sql::Blob(pk), Sql::Integer(i64::from(before_cl))])?;
        self.parked_rows = None;
        Ok(())
    }

    pub fn unpark(&mut self, id: i64) -> Result<()> {
        self.db
            .prepare_transient("DELETE FROM main.crsql_waiting WHERE id = ?1")?
            .run(&[Sql::Integer(id)])?;
        self.parked_rows = None;
        Ok(())
    }

    /// The key under which a row's parked changes stand: the rowid packed, or the identity.
    pub fn parked_key(t: &Table, row: Option<i64>, key: Option<&[u8]>) -> Vec<u8> {
        match (key, row) {
            (Some(key), _) => key.to_vec(),
            (None, Some(row)) if t.kind == crate::catalog::KeyKind::RowId => {
                rejoin_crdt::key::pack([ValueRef::Int(row)]).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}
