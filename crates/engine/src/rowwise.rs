//! `INSERT INTO crsql_changes`: one change at a time, as cr-sqlite's peers send them.

use crate::catalog::Table;
use crate::changes::COLUMNS;
use crate::core::{Core, Work};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::merge::{Cell, Incoming, is_sentinel, merge_cell, merge_taken};
use crate::names::{Met, State, TABLES};
use crate::openblock;
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
    /// The table and the column, where they are those that the catalog has under just these names.
    known: Option<&'a Rc<Table>>,
    column: Option<u32>,
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

/// What the names of a change mean here.
struct Place {
    table: Met,
    /// None: the sentinel.
    column: Option<Met>,
}

impl Place {
    fn of(core: &mut Core, row: &Row<'_>) -> Result<Place> {
        if let Some(t) = row.known {
            let here = |id| Met { id, state: State::Here };
            if is_sentinel(row.cid.as_bytes()) || row.column.is_some() {
                return Ok(Place { table: here(t.id), column: row.column.map(here) });
            }
        }
        let table = core.by_text_or_waits(TABLES, row.table)?;
        if is_sentinel(row.cid.as_bytes()) {
            return Ok(Place { table, column: None });
        }
        let t = core.catalog.get(table.id).cloned();
        if let Some(t) = t.filter(|t| t.column(row.cid).is_none())
            && t.keys.iter().any(|k| k.name.eq_ignore_ascii_case(row.cid))
        {
            return Err(bad(format!("cid \"{}\" is a key column of \"{}\" here", row.cid, t.name)));
        }
        Ok(Place { table, column: Some(core.by_text_or_waits(table.id, row.cid)?) })
    }

    fn reason(&self) -> Reason {
        Reason::of(self.table.state, self.column.map_or(State::Here, |c| c.state))
    }
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

/// Reads a change. `last` is a table of the catalog that it may name.
fn parse<'a>(core: &mut Core, args: Args<'a>, last: Option<&'a Rc<Table>>) -> Result<Row<'a>> {
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
    let known = last.filter(|t| matches!(v(0), ValueRef::Text(name) if name == t.name.as_bytes()));
    let column = known.and_then(|t| match v(2) {
        ValueRef::Text(name) => t.cols.iter().find(|c| c.name.as_bytes() == name),
        _ => None,
    });
    let cid = match column {
        Some(c) => &c.name,
        None => name("cid", v(2))?,
    };
    let col_version = int("col_version", v(4))?;
    let cl = check_cl(int("cl", v(7))?)?;
    if !(0..=core.txn.checked).contains(&col_version) {
        let now = core.now_to_judge();
        core.txn.checked = check_col_version(col_version, now, core.cfg.drift_ms)?;
    }
    // A cell with an even causal length tells of a delete, as a sentinel does.
    let bare = is_sentinel(cid.as_bytes()) || cl & 1 == 0;
    Ok(Row {
        known,
        column: column.map(|c| c.id),
        table: match known {
            Some(t) => &t.name,
            None => name("table", v(0))?,
        },
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
    if !engine.is_settled()? {
        engine.make_ready()?;
        engine.join()?;
    }
    let rowid = engine.db.last_insert_rowid();
    let mut core = engine.core()?;
    engine.digest(&mut core)?;
    let last = core.merged.clone().filter(|t| core.catalog.holds(t));
    let row = parse(&mut core, args, last.as_ref())?;
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
    let place = Place::of(core, row)?;
    let accepted = merge_at(engine, core, row, &place, (site, db_version, true))?;
    core.txn.pending = if accepted > 0 { Some(db_version) } else { before };
    if accepted > 0 {
        core.note_row_wise()?;
    }
    Ok(accepted)
}

/// A change that gets this db_version here, a new one or an old one.
fn merge_at(
    engine: &Engine,
    core: &mut Core,
    row: &Row<'_>,
    place: &Place,
    (site, db_version, new): (u32, i64, bool),
) -> Result<i64> {
    let t = match row.known {
        Some(t) => Rc::clone(t),
        None => match core.catalog.get(place.table.id).cloned() {
            Some(t) => Rc::clone(core.merged.insert(t)),
            None => return park(core, row, place, site, db_version),
        },
    };
    let bare = place.column.is_none() || row.cl & 1 == 0;
    let stamp = Stamp { col_version: row.col_version, db_version, site };
    let mut cell = Cell { col: 0, stamp, seq: row.seq, val: from_sql(row.val) };
    if let Some(column) = place.column.filter(|_| !bare) {
        if row.column.is_none() && t.column_by_id(column.id).is_none() {
            let (at, work) = core.take_foreign(&t, row.pk)?;
            return park_cell(engine, core, (at, work), row, place, (site, db_version));
        }
        cell.col = column.id;
    }
    let named = core.name_foreign(&t, row.pk)?;
    let at = named.at;
    let mark = Sentinel { db_version, site, seq: row.seq };
    let (sentinel, cells) = if bare { (Some(mark), &[][..]) } else { (None, std::slice::from_ref(&cell)) };
    if new {
        let incoming = Incoming { cl: row.cl, sentinel, mark, cells, spelling: None };
        if let Some(accepted) = openblock::merge(engine, core, &t, at, &incoming)? {
            return Ok(accepted);
        }
    }
    let mut opened = match core.txn.works.get(&at) {
        Some(work) if named.is(work, row.pk) => None,
        Some(_) => return Err(named.collides(&t)),
        None => Some(core.open_foreign(&t, row.pk, named)?),
    };
    if !bare {
        if let Some(work) = opened.take_if(|work| work.meta.cl == row.cl) {
            core.txn.works.insert(at, work);
        }
        if opened.is_none()
            && let Some(accepted) = merge_cell(engine, core, at, row.cl, &cell)?
        {
            return Ok(accepted);
        }
    }
    let work = match opened {
        Some(work) => work,
        None => core.txn.works.swap_remove(&at).ok_or_else(|| Error::damaged("work"))?,
    };
    merge_with(engine, core, (at, work), row, sentinel, (mark, cells))
}

/// Merges a change into the work of its row.
fn merge_with(
    engine: &Engine,
    core: &mut Core,
    (at, work): ((u32, u64), Work),
    row: &Row<'_>,
    sentinel: Option<Sentinel>,
    (mark, cells): (Sentinel, &[Cell<'_>]),
) -> Result<i64> {
    match crate::merge::spelling(&work, row.pk, row.cl, sentinel.is_some()) {
        Ok(spelling) => {
            let incoming = Incoming { cl: row.cl, sentinel, mark, cells, spelling };
            merge_taken(engine, core, at, work, &incoming)
        }
        Err(e) => {
            core.txn.works.insert(at, work);
            Err(e)
        }
    }
}

fn parked(row: &Row<'_>, place: &Place, site: u32, db_version: i64) -> Parked {
    Parked {
        id: 0,
        table: place.table.id,
        pk: row.pk.to_vec(),
        col: place.column.map(|c| c.id),
        val: from_sql(row.val).to_owned(),
        col_version: row.col_version,
        db_version,
        site,
        cl: row.cl,
        seq: row.seq,
        reason: String::new(),
    }
}

fn park(core: &mut Core, row: &Row<'_>, place: &Place, site: u32, db_version: i64) -> Result<i64> {
    rejoin_crdt::key::unpack(row.pk).map_err(|e| bad(format!("pk: {e}")))?;
    Ok(i64::from(core.park(&parked(row, place, site, db_version), place.reason())?))
}

/// A cell of an unknown column: its row obeys its causal length at once, the value waits.
fn park_cell(
    engine: &Engine,
    core: &mut Core,
    (at, work): ((u32, u64), Work),
    row: &Row<'_>,
    place: &Place,
    (site, db_version): (u32, i64),
) -> Result<i64> {
    let cl = work.meta.cl;
    let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
    if row.cl > cl {
        let mark = Sentinel { db_version, site, seq: row.seq };
        merge_with(engine, core, (at, work), row, None, (mark, &[]))?;
    } else {
        core.txn.works.insert(at, work);
        if row.cl < cl {
            return Ok(0);
        }
    }
    let waits = Parked { pk, ..parked(row, place, site, db_version) };
    Ok(i64::from(core.park(&waits, place.reason())?))
}

/// Applies what waited for a table or column that is there now.
pub fn apply_parked(engine: &Engine, core: &mut Core) -> Result<()> {
    if !core.ready || core.parked_tried == Some(core.catalog.cookie) || !core.has_parked()? {
        return Ok(());
    }
    core.parked_tried = Some(core.catalog.cookie);
    for table in core.parked_tables()? {
        let Some(t) = core.catalog.get(table).cloned() else { continue };
        for p in core.parked_of_table(table)?.iter().filter(|p| Core::is_due(&t, p)) {
            unpark_one(engine, core, p)?;
        }
    }
    Ok(())
}

fn unpark_one(engine: &Engine, core: &mut Core, p: &Parked) -> Result<()> {
    let row = Row {
        known: None,
        column: None,
        table: "",
        pk: &p.pk,
        cid: "",
        val: crate::value::to_sql(p.val.as_ref()),
        col_version: p.col_version,
        db_version: 0,
        site: core.sites.id(p.site),
        cl: p.cl,
        seq: p.seq,
    };
    core.unpark(p.id)?;
    let column = match p.col {
        Some(col) => Some(Met { id: col, state: core.column_state(p.table, col)? }),
        None => None,
    };
    let place = Place { table: Met { id: p.table, state: State::Here }, column };
    let parked = core.txn.parked.clone();
    // It keeps the version under which it came: whoever has that has the change.
    match merge_at(engine, core, &row, &place, (p.site, p.db_version, false)) {
        Ok(_) => Ok(()),
        // The table does not take the value: it goes on waiting.
        Err(Error::Constraint { .. } | Error::BadChange { .. }) => {
            // The try may have parked it again, under another version and for another reason.
            core.txn.parked = parked;
            let again = core.parked_of_row(p.table, &p.pk)?;
            for p in again.iter().filter(|a| a.cl == p.cl && a.col == p.col) {
                core.unpark(p.id)?;
            }
            core.put_parked(p, Reason::Constraint)
        }
        Err(e) => Err(e),
    }
}
