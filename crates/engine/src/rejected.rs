//! `crsql_rejected`: what this replica wrote and its server did not take. The application reads it, writes it again
//! (`crsql_rejected_retry`) or lets it go (`crsql_rejected_drop`).

use crate::adopt::Cause;
use crate::catalog::Table;
use crate::core::{Core, Work};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::functions::bad;
use crate::parked::SENTINEL;
use crate::rowstate::RowState;
use crate::value::{from_sql, shown_key, to_sql};
use crate::{SiteId, Value};
use rejoin_crdt::ValueRef;
use rejoin_sqlite::{Args, Context, ValueRef as Sql};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One cell, or one life of a row (`cid` `-1`), that was rejected.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RejectedCell {
    pub table: String,
    /// The packed key (`crsql_pack_columns`) as the row showed it.
    pub pk: Vec<u8>,
    /// The column; `-1` where the transaction inserted (odd `col_version`) or deleted (even) the row.
    pub cid: String,
    pub val: Value,
    pub col_version: i64,
    /// The site and version of the transaction, which is void.
    pub site: SiteId,
    pub version: u64,
    /// Why, as a word and as a sentence.
    pub code: String,
    pub reason: String,
    /// When it was moved here, Unix milliseconds.
    pub at_ms: i64,
}

/// A row that gives up what some transactions wrote to it.
pub struct Lost<'a> {
    pub table: &'a Rc<Table>,
    pub work: &'a Work,
    pub before: &'a RowState,
    /// The causal length that the server knows.
    pub server_cl: u32,
    pub causes: &'a BTreeMap<(u32, u64), Cause>,
}

impl Lost<'_> {
    /// Writes what is lost to `crsql_rejected`. What the server has just so is not lost.
    pub fn keep(&self, core: &mut Core, names: &BTreeMap<i64, (u32, u64)>, target: &RowState) -> Result<()> {
        let t = self.table;
        let pk = match &self.work.key {
            Some(identity) => shown_key(t, identity, self.before.spelling.as_deref()),
            None => Core::parked_key(t, self.work.row, None),
        };
        let name = |version: i64| names.get(&version).filter(|n| self.causes.contains_key(n)).copied();
        let before = self.before;
        let mut told = false;
        if let Some(s) = before.sentinel
            && let Some(name) = name(s.db_version)
        {
            self.put(core, &pk, SENTINEL, ValueRef::Null, i64::from(before.cl), name)?;
            told = true;
        }
        // Who inserted a row without saying so: the first of them who wrote to it.
        let born = before.cl & 1 == 1 && self.server_cl < before.cl && !told;
        let first = before.versions().into_iter().find_map(name);
        if let (true, Some(name)) = (born, first) {
            self.put(core, &pk, SENTINEL, ValueRef::Null, i64::from(before.cl), name)?;
        }
        for (place, cell) in &before.cells {
            let same = target.cl == before.cl && target.cells.get(place).is_some_and(|c| c.says_as(cell));
            let Some(name) = name(cell.stamp.db_version).filter(|_| !same) else { continue };
            let cid = core.column_name(t, place.column())?;
            self.put(core, &pk, &cid, cell.val.as_ref(), cell.stamp.col_version, name)?;
        }
        for p in &before.held {
            if let (Some(col), Some(name)) = (p.col, name(p.db_version)) {
                let cid = core.column_name(t, col)?;
                self.put(core, &pk, &cid, p.val.as_ref(), p.col_version, name)?;
            }
        }
        Ok(())
    }

    fn put(
        &self,
        core: &Core,
        pk: &[u8],
        cid: &str,
        val: ValueRef<'_>,
        col_version: i64,
        name: (u32, u64),
    ) -> Result<()> {
        let Some(cause) = self.causes.get(&name) else { return Ok(()) };
        let cell = RejectedCell {
            table: self.table.name.clone(),
            pk: pk.to_vec(),
            cid: cid.to_owned(),
            val: val.to_owned(),
            col_version,
            site: core.sites.id(name.0).unwrap_or_default(),
            version: name.1,
            code: cause.code.clone(),
            reason: cause.reason.clone(),
            at_ms: core.now(),
        };
        cell.put(core)
    }
}

impl RejectedCell {
    pub(crate) fn put(&self, core: &Core) -> Result<()> {
        let mut put = core.db.prepare_transient(
            "REPLACE INTO main.crsql_rejected(\"table\", pk, cid, val, col_version, site_id, version, code, reason, at_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        put.run(&[
            Sql::Text(self.table.as_bytes()),
            Sql::Blob(&self.pk),
            Sql::Text(self.cid.as_bytes()),
            to_sql(self.val.as_ref()),
            Sql::Integer(self.col_version),
            Sql::Blob(self.site.as_bytes()),
            Sql::Integer(self.version as i64),
            Sql::Text(self.code.as_bytes()),
            Sql::Text(self.reason.as_bytes()),
            Sql::Integer(self.at_ms),
        ])?;
        Ok(())
    }
}

/// Everything in `crsql_rejected`, transaction by transaction.
pub fn all(engine: &Engine) -> Result<Vec<RejectedCell>> {
    let ready = {
        let mut core = engine.core()?;
        core.refresh(false)?;
        core.ready
    };
    if ready {
        read(engine, "1 ORDER BY at_ms, site_id, version, \"table\", pk, cid", &[])
    } else {
        Ok(Vec::new())
    }
}

fn read(engine: &Engine, condition: &str, params: &[Sql<'_>]) -> Result<Vec<RejectedCell>> {
    let mut q = engine.db.prepare_transient(&format!(
        "SELECT \"table\", pk, cid, val, col_version, site_id, version, code, reason, at_ms \
         FROM main.crsql_rejected WHERE {condition}"
    ))?;
    for (i, p) in params.iter().enumerate() {
        q.bind(i as i32 + 1, *p)?;
    }
    let mut all = Vec::new();
    while q.step()? {
        let text = |i| crate::catalog::text(q.column_text(i));
        let site = SiteId::from_slice(q.column_blob(5));
        all.push(RejectedCell {
            table: text(0),
            pk: q.column_blob(1).to_vec(),
            cid: text(2),
            val: from_sql(q.column(3)).to_owned(),
            col_version: q.column_int(4),
            site: site.ok_or_else(|| Error::damaged("a site id in crsql_rejected"))?,
            version: q.column_int(6) as u64,
            code: text(7),
            reason: text(8),
            at_ms: q.column_int(9),
        });
    }
    Ok(all)
}

/// The cells of one rejected transaction. A site need be named only where two sites have that version.
fn of_version(
    engine: &Engine,
    function: &'static str,
    version: u64,
    site: Option<SiteId>,
) -> Result<Vec<RejectedCell>> {
    let ready = {
        let mut core = engine.core()?;
        core.refresh(false)?;
        core.ready
    };
    let version_sql = Sql::Integer(i64::try_from(version).unwrap_or(i64::MAX));
    let mut found = Vec::new();
    if ready {
        found = read(engine, "version = ?1 ORDER BY \"table\", pk, cid", &[version_sql])?;
    }
    found.retain(|c| site.is_none_or(|site| c.site == site));
    if found.windows(2).any(|w| w[0].site != w[1].site) {
        let why = format!(
            "there are rejected transactions {version} of several sites: name one as second argument"
        );
        return Err(bad(function, why));
    }
    Ok(found)
}

const RETRY: &str = "crsql_rejected_retry";
const DROP: &str = "crsql_rejected_drop";

/// Writes the values of a rejected transaction again, as a new local transaction, and takes it out of `crsql_rejected`.
/// Answers how many cells and rows that were.
pub fn retry(engine: &Engine, version: u64, site: Option<SiteId>) -> Result<u64> {
    let found = of_version(engine, RETRY, version, site)?;
    let Some(first) = found.first() else {
        return Err(bad(RETRY, format!("no rejected transaction has version {version}")));
    };
    let site = first.site;
    engine.scoped("crsql_retry", || {
        for row in found.chunk_by(|a, b| (&a.table, &a.pk) == (&b.table, &b.pk)) {
            write_again(engine, row)?;
        }
        forget(engine, version, site)
    })?;
    Ok(found.len() as u64)
}

/// Lets a rejected transaction go. Answers how many cells and rows that were; 0: there is no such transaction.
pub fn drop(engine: &Engine, version: u64, site: Option<SiteId>) -> Result<u64> {
    let found = of_version(engine, DROP, version, site)?;
    if let Some(first) = found.first() {
        engine.scoped("crsql_drop", || forget(engine, version, first.site))?;
    }
    Ok(found.len() as u64)
}

fn forget(engine: &Engine, version: u64, site: SiteId) -> Result<()> {
    let mut del =
        engine.db.prepare_transient("DELETE FROM main.crsql_rejected WHERE version = ?1 AND site_id = ?2")?;
    Ok(del.run(&[Sql::Integer(version as i64), Sql::Blob(site.as_bytes())])?)
}

fn write_again(engine: &Engine, row: &[RejectedCell]) -> Result<()> {
    let Some(first) = row.first() else { return Ok(()) };
    let table = {
        let mut core = engine.core()?;
        core.refresh(true)?;
        core.catalog.find(&first.table).cloned()
    };
    let t = table
        .ok_or_else(|| Error::NoTable { table: first.table.clone(), why: "is not replicated any more" })?;
    let mut key: Vec<Sql<'_>> = Vec::new();
    for v in rejoin_crdt::key::unpack(&first.pk).map_err(|e| Error::damaged(e.to_string()))? {
        key.push(to_sql(v));
    }
    if key.len() != t.keys.len() {
        return Err(bad(RETRY, format!("table \"{}\" has another key now", t.name)));
    }
    let sentinel = row.iter().find(|c| c.cid == SENTINEL);
    if sentinel.is_some_and(|s| s.col_version & 1 == 0) {
        let mut del =
            engine.db.prepare_transient(&format!("DELETE FROM {} WHERE {}", t.quoted(), t.key_where(1)))?;
        return Ok(del.run(&key)?);
    }
    let cells: Vec<&RejectedCell> = row.iter().filter(|c| c.cid != SENTINEL).collect();
    for c in &cells {
        if t.column(&c.cid).is_none() {
            return Err(bad(RETRY, format!("table \"{}\" has no column \"{}\" any more", t.name, c.cid)));
        }
    }
    let mut there =
        engine.db.prepare_transient(&format!("SELECT 1 FROM {} WHERE {}", t.quoted(), t.key_where(1)))?;
    let exists = there.query_row(&key, |_| Ok(()))?.is_some();
    if !exists && sentinel.is_none() {
        let why = format!(
            "row {} of table \"{}\" is not there; retry the transaction that inserted it first",
            crate::key_text(&first.pk),
            t.name
        );
        return Err(bad(RETRY, why));
    }
    if exists && cells.is_empty() {
        return Ok(());
    }
    let sql = if exists { update(&t, &cells) } else { insert(&t, &cells) };
    let values: Vec<Sql<'_>> =
        key.iter().copied().chain(cells.iter().map(|c| to_sql(c.val.as_ref()))).collect();
    let mut write = engine.db.prepare_transient(&sql)?;
    Ok(write.run(&values)?)
}

fn update(t: &Table, cells: &[&RejectedCell]) -> String {
    let first = t.keys.len() + 1;
    let set = |(i, c): (usize, &&RejectedCell)| format!("{} = ?{}", quote(&c.cid), first + i);
    let set: Vec<String> = cells.iter().enumerate().map(set).collect();
    format!("UPDATE {} SET {} WHERE {}", t.quoted(), set.join(", "), t.key_where(1))
}

fn insert(t: &Table, cells: &[&RejectedCell]) -> String {
    let names: Vec<String> =
        t.keys.iter().map(|k| quote(&k.name)).chain(cells.iter().map(|c| quote(&c.cid))).collect();
    let marks: Vec<String> = (1..=names.len()).map(|i| format!("?{i}")).collect();
    format!("INSERT INTO {} ({}) VALUES ({})", t.quoted(), names.join(", "), marks.join(", "))
}

/// `(version [, site_id])`.
fn arguments(function: &'static str, args: Args<'_>) -> Result<(u64, Option<SiteId>)> {
    if args.is_empty() || args.len() > 2 {
        return Err(bad(function, "takes a version, and perhaps the site id that it belongs to"));
    }
    let version = match args.get(0).value() {
        Sql::Integer(v) => u64::try_from(v).map_err(|_| bad(function, "versions count from 1"))?,
        _ => return Err(bad(function, "the version must be an integer")),
    };
    let site = match if args.len() == 2 { args.get(1).value() } else { Sql::Null } {
        Sql::Null => None,
        Sql::Blob(b) => Some(SiteId::from_slice(b).ok_or_else(|| bad(function, "a site id has 16 bytes"))?),
        _ => return Err(bad(function, "the site id must be a blob of 16 bytes")),
    };
    Ok((version, site))
}

/// `crsql_rejected_retry(version [, site_id])`.
pub fn sql_retry(ctx: &mut Context, e: &Engine, args: Args<'_>) -> rejoin_sqlite::Result<()> {
    let (version, site) = arguments(RETRY, args)?;
    ctx.set_int(retry(e, version, site)? as i64);
    Ok(())
}

/// `crsql_rejected_drop(version [, site_id])`.
pub fn sql_drop(ctx: &mut Context, e: &Engine, args: Args<'_>) -> rejoin_sqlite::Result<()> {
    let (version, site) = arguments(DROP, args)?;
    ctx.set_int(drop(e, version, site)? as i64);
    Ok(())
}
