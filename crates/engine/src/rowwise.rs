//! `INSERT INTO crsql_changes`: one change at a time, as cr-sqlite's peers send them.

use crate::changes::COLUMNS;
use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::merge::{Cell, Incoming, is_sentinel, merge_row};
use crate::parked::{Parked, Reason, SENTINEL};
use crate::value::from_sql;
use rejoin_crdt::limits::{check_cl, check_col_version, check_db_version, check_version};
use rejoin_crdt::meta::{Sentinel, Stamp};
use rejoin_crdt::site::SiteId;
use rejoin_sqlite::{Args, ValueRef};
use std::rc::Rc;

/// Names longer than this are refused.
const NAME_BYTES_MAX: usize = 1024;

struct Row<'a> {
    table: &'a str,
    pk: &'a [u8],
    cid: &'a str,
    val: ValueRef<'a>,
    col_version: i64,
    db_version: i64,
    site: Option<SiteId>,
    cl: u32,
    seq: i64,
}

fn bad(why: impl Into<String>) -> Error {
    Error::BadChange { why: why.into() }
}

fn name<'a>(what: &str, v: ValueRef<'a>) -> Result<&'a str> {
    let ValueRef::Text(bytes) = v else {
        return Err(bad(format!("\"{what}\" must be text")));
    };
    if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX {
        return Err(bad(format!("\"{what}\" must be a name of 1 to {NAME_BYTES_MAX} bytes")));
    }
    std::str::from_utf8(bytes).map_err(|_| bad(format!("\"{what}\" is not UTF-8")))
}

fn int(what: &str, v: ValueRef<'_>) -> Result<i64> {
    match v {
        ValueRef::Integer(i) => Ok(i),
        ValueRef::Real(r) if r.fract() == 0.0 && r.abs() < 9e15 => Ok(r as i64),
        _ => Err(bad(format!("{what} must be an integer"))),
    }
}

fn parse<'a>(core: &Core, args: Args<'a>) -> Result<Row<'a>> {
    let v = |i: usize| args.get(i).value();
    let pk = match v(1) {
        ValueRef::Blob(b) | ValueRef::Text(b) => b,
        _ => return Err(bad("pk must be a blob made by crsql_pack_columns")),
    };
    let site = match v(6) {
        ValueRef::Null => None,
        ValueRef::Blob([]) => None,
        ValueRef::Blob(b) => {
            Some(SiteId::from_slice(b).ok_or_else(|| bad(format!("site_id has {} bytes, not 16", b.len())))?)
        }
        _ => {
            return Err(bad("site_id must be a blob of 16 bytes, or NULL for this replica"));
        }
    };
    let now = core.now();
    let cid = name("cid", v(2))?;
    let col_version = int("col_version", v(4))?;
    let cl = check_cl(int("cl", v(7))?)?;
    let col_version = check_col_version(col_version, now, core.cfg.drift_ms)?;
    // A cell with an even causal length tells of a delete, as a sentinel does.
    let bare = is_sentinel(cid.as_bytes()) || cl & 1 == 0;
    Ok(Row {
        table: name("table", v(0))?,
        pk,
        cid: if bare { SENTINEL } else { cid },
        val: if bare { ValueRef::Null } else { v(3) },
        col_version: if bare { i64::from(cl) } else { col_version },
        db_version: check_db_version(int("db_version", v(5))?, core.tail.db_version)?,
        site,
        cl,
        seq: check_version("seq", int("seq", v(8))?)?,
    })
}

pub fn insert(engine: &Engine, args: Args<'_>) -> Result<()> {
    if args.len() < COLUMNS {
        return Err(bad("a change has nine columns"));
    }
    engine.make_ready()?;
    engine.join()?;
    let rowid = engine.db.last_insert_rowid();
    let mut core = engine.core()?;
    engine.digest(&mut core)?;
    let row = parse(&core, args)?;
    let done = merge(engine, &mut core, &row);
    engine.db.set_last_insert_rowid(rowid);
    core.txn.rows_impacted += done?;
    Ok(())
}

fn merge(engine: &Engine, core: &mut Core, row: &Row<'_>) -> Result<i64> {
    let site = match row.site {
        Some(id) => core.intern_site(id)?,
        None => core.cfg.own,
    };
    let before = core.txn.pending;
    let db_version = core.next_db_version().max(row.db_version);
    let accepted = merge_at(engine, core, row, site, db_version)?;
    core.txn.pending = if accepted > 0 { Some(db_version) } else { before };
    if accepted > 0 {
        core.note_row_wise()?;
    }
    Ok(accepted)
}

/// A change that gets this db_version here.
fn merge_at(engine: &Engine, core: &mut Core, row: &Row<'_>, site: u32, db_version: i64) -> Result<i64> {
    let Some(t) = core.catalog.find(row.table).cloned() else {
        return park(core, row, site, db_version, Reason::NoTable);
    };
    let sentinel = is_sentinel(row.cid.as_bytes());
    let stamp = Stamp { col_version: row.col_version, db_version, site };
    let mark = Sentinel { db_version, site, seq: row.seq };
    let mut cells = [Cell { col: 0, stamp, seq: row.seq, val: from_sql(row.val) }];
    let bare = sentinel || row.cl & 1 == 0;
    if !bare {
        match column(core, &t, row.cid)? {
            Ok(id) => cells[0].col = id,
            Err(_) if t.keys.iter().any(|k| k.name.eq_ignore_ascii_case(row.cid)) => {
                return Err(bad(format!("cid \"{}\" is a key column of \"{}\" here", row.cid, t.name)));
            }
            Err(reason) => {
                let at = core.work_foreign(&t, row.pk)?;
                return park_cell(engine, core, at, row, site, db_version, reason);
            }
        }
    }
    let at = core.work_foreign(&t, row.pk)?;
    let spelling = match core.txn.works.get(&at) {
        Some(work) => crate::merge::spelling(work, row.pk, row.cl, bare)?,
        None => None,
    };
    let incoming = Incoming {
        cl: row.cl,
        sentinel: bare.then_some(mark),
        mark,
        cells: if bare { &[] } else { &cells },
        spelling,
    };
    merge_row(engine, core, at, &incoming)
}

/// The local column that a name means: by name, by a former name; or why there is none.
pub fn column(
    core: &Core,
    t: &Rc<crate::catalog::Table>,
    name: &str,
) -> Result<std::result::Result<u32, Reason>> {
    if let Some(c) = t.column(name) {
        return Ok(Ok(c.id));
    }
    Ok(match core.column_alias(t.id, name.as_bytes())? {
        Some(id) if id >= 0 && t.column_by_id(id as u32).is_some() => Ok(id as u32),
        Some(_) => Err(Reason::Dropped),
        None => Err(Reason::NoColumn),
    })
}

fn parked(row: &Row<'_>, site: u32, db_version: i64) -> Parked {
    Parked {
        id: 0,
        table: row.table.to_owned(),
        pk: row.pk.to_vec(),
        cid: row.cid.to_owned(),
        val: from_sql(row.val).to_owned(),
        col_version: row.col_version,
        db_version,
        site,
        cl: row.cl,
        seq: row.seq,
        reason: String::new(),
    }
}

fn park(core: &mut Core, row: &Row<'_>, site: u32, db_version: i64, reason: Reason) -> Result<i64> {
    rejoin_crdt::key::unpack(row.pk).map_err(|e| bad(format!("pk: {e}")))?;
    Ok(i64::from(core.park(&parked(row, site, db_version), reason)?))
}

/// A cell of an unknown column: its row obeys its causal length at once, the value waits.
fn park_cell(
    engine: &Engine,
    core: &mut Core,
    at: (u32, u64),
    row: &Row<'_>,
    site: u32,
    db_version: i64,
    reason: Reason,
) -> Result<i64> {
    let Some(work) = core.txn.works.get(&at) else {
        return Err(Error::damaged("work"));
    };
    let (cl, table) = (work.meta.cl, work.table.name.clone());
    let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
    if row.cl < cl {
        return Ok(0);
    }
    let spelling = crate::merge::spelling(work, row.pk, row.cl, false)?;
    if row.cl > cl {
        let mark = Sentinel { db_version, site, seq: row.seq };
        let incoming = Incoming { cl: row.cl, sentinel: None, mark, cells: &[], spelling };
        merge_row(engine, core, at, &incoming)?;
    }
    Ok(i64::from(core.park(&Parked { table, pk, ..parked(row, site, db_version) }, reason)?))
}

/// Applies what waited for a table or column that is there now.
pub fn apply_parked(engine: &Engine, core: &mut Core) -> Result<()> {
    if !core.ready || core.parked_tried == Some(core.catalog.cookie) || !core.has_parked()? {
        return Ok(());
    }
    core.parked_tried = Some(core.catalog.cookie);
    for name in core.parked_tables()? {
        let Some(t) = core.catalog.find(&name).cloned() else { continue };
        for p in core.parked_of_table(&name)? {
            let sentinel = is_sentinel(p.cid.as_bytes());
            let place = sentinel || matches!(column(core, &t, &p.cid)?, Ok(id) if core.is_due(&t, &p, id)?);
            if place {
                unpark_one(engine, core, &p)?;
            }
        }
    }
    Ok(())
}

fn unpark_one(engine: &Engine, core: &mut Core, p: &Parked) -> Result<()> {
    let row = Row {
        table: &p.table,
        pk: &p.pk,
        cid: &p.cid,
        val: crate::value::to_sql(p.val.as_ref()),
        col_version: p.col_version,
        db_version: 0,
        site: core.sites.id(p.site),
        cl: p.cl,
        seq: p.seq,
    };
    core.unpark(p.id)?;
    let parked = core.txn.parked.clone();
    // It keeps the version under which it came: whoever has that has the change.
    match merge_at(engine, core, &row, p.site, p.db_version) {
        Ok(_) => Ok(()),
        // The table does not take the value: it goes on waiting.
        Err(Error::Constraint { .. } | Error::BadChange { .. }) => {
            // The try may have parked it again, under another version and for another reason.
            core.txn.parked = parked;
            let again = core.parked_of_row(&p.table, &p.pk)?;
            for p in again.iter().filter(|a| a.cl == p.cl && a.cid.eq_ignore_ascii_case(&p.cid)) {
                core.unpark(p.id)?;
            }
            core.put_parked(p, Reason::Constraint)
        }
        Err(e) => Err(e),
    }
}
