//! Foreign changes meet local rows. The decisions are `rejoin_crdt::merge`'s; here they are carried out.

use crate::ambient::{Mistake, makes};
use crate::catalog::{KeyKind, Table};
use crate::core::{Core, Work};
use crate::digest::work_at;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::image::{RowReader, Target};
use crate::parked::{Parked, Reason, SENTINEL};
use crate::store::Loc;
use crate::value::{self, from_sql, to_sql};
use crate::writers::{Place, Way, Writers};
use rejoin_crdt::ValueRef;
use rejoin_crdt::merge::{Causal, SentinelRef, Verdict, by_value, by_version, causal, sentinel};
use rejoin_crdt::meta::{ColSet, RowMeta, Sentinel, Stamp};
use rejoin_sqlite::ValueRef as Sql;
use std::rc::Rc;

/// A cell of an incoming row: stamp with local site ordinal and db_version.
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    pub col: u32,
    pub stamp: Stamp,
    pub seq: i64,
    pub val: ValueRef<'a>,
}

/// What came of one row in one call. A row-wise change is one cell or a sentinel.
pub struct Incoming<'a> {
    pub cl: u32,
    pub sentinel: Option<Sentinel>,
    /// The stamp for a sentinel that a bare change of an even causal length makes.
    pub mark: Sentinel,
    pub cells: &'a [Cell<'a>],
    pub spelling: Option<Rc<[u8]>>,
}

type Params<'a> = smallvec::SmallVec<[Sql<'a>; 16]>;

impl Core {
    /// Where the work of a row that a peer names is; it is opened if nobody has asked for it yet.
    pub fn work_foreign(&mut self, t: &Rc<Table>, packed: &[u8]) -> Result<(u32, u64)> {
        let (at, work) = self.take_foreign(t, packed)?;
        self.txn.works.insert(at, work);
        Ok(at)
    }

    /// The work of a row that a peer names, out of its place.
    pub fn take_foreign(&mut self, t: &Rc<Table>, packed: &[u8]) -> Result<((u32, u64), Work)> {
        let named = self.name_foreign(t, packed)?;
        let at = named.at;
        match self.txn.works.swap_remove(&at) {
            Some(work) if named.is(&work, packed) => Ok((at, work)),
            Some(other) => {
                self.txn.works.insert(at, other);
                Err(named.collides(t))
            }
            None => Ok((at, self.open_foreign(t, packed, named)?)),
        }
    }

    /// What a packed key that a peer sent names.
    pub fn name_foreign(&mut self, t: &Rc<Table>, packed: &[u8]) -> Result<Named> {
        if t.kind == KeyKind::RowId {
            let row = value::packed_rowid(t, packed)?;
            return Ok(Named { at: work_at(t, row, 0), row: Some(row), identity: None, hash: 0 });
        }
        let own = value::is_own_identity(t, packed, &mut self.scratch)?;
        let identity = if own { None } else { Some(value::identity_of_foreign(t, packed)?) };
        let hash = value::hash(self.cfg.hash_key, identity.as_ref().map_or(packed, |i| &i.key));
        Ok(Named { at: work_at(t, 0, hash), row: None, identity, hash })
    }

    pub fn open_foreign(&mut self, t: &Rc<Table>, packed: &[u8], named: Named) -> Result<Work> {
        let Named { mut row, identity, hash, .. } = named;
        let identity = match identity {
            None if t.kind != KeyKind::RowId => Some(value::Identity { key: packed.into(), spelling: None }),
            other => other,
        };
        if let (KeyKind::Hashed, Some(i)) = (t.kind, &identity) {
            row = self.find_row(t, &i.key)?;
        }
        let mut work = self.open_work(t, row, identity, hash)?;
        if t.kind == KeyKind::Hashed && matches!(work.stored, Some(Loc::Row(_))) {
            // The spelling that stands; the incoming one is weighed with its sentinel.
            work.spelling = self.live_spelling(t, row, work.key.as_deref())?;
        }
        Ok(work)
    }

    /// The spelling that the table shows, where it is not the identity form.
    pub fn live_spelling(
        &mut self,
        t: &Rc<Table>,
        row: Option<i64>,
        key: Option<&[u8]>,
    ) -> Result<Option<Rc<[u8]>>> {
        let Some(row) = row.filter(|_| key.is_some_and(|key| !value::one_spelling(t, key))) else {
            return Ok(None);
        };
        let mut reader = RowReader::new(self.db, t)?;
        if !reader.seek(Target::Row(row))? {
            return Ok(None);
        }
        let packed = rejoin_crdt::key::pack((0..t.keys.len()).map(|n| from_sql(reader.key(n))));
        let packed = packed.map_err(|e| Error::damaged(e.to_string()))?;
        Ok(value::identity_of_stored(t, &packed)?.spelling)
    }

    pub fn find_row(&mut self, t: &Rc<Table>, key: &[u8]) -> Result<Option<i64>> {
        let values: Params<'_> = unpacked(key)?.map(to_sql).collect();
        Ok(self.writers.find(t)?.query_row(&values, |q| Ok(q.column_int(0)))?)
    }

    /// Whether a living row stands in the table; it does not while values are missing or refused.
    pub fn is_visible(&mut self, work: &Work) -> Result<bool> {
        if !work.meta.is_alive() {
            return Ok(false);
        }
        // What waits has none of its cells among the metadata.
        if !work.meta.groups.is_empty() {
            return Ok(true);
        }
        if work.table.kind == KeyKind::Hashed {
            return Ok(work.row.is_some());
        }
        let mut reader = RowReader::new(self.db, &work.table)?;
        Ok(match (work.table.kind, work.row, &work.key) {
            (KeyKind::Keyed, _, Some(key)) => reader.seek(Target::Key(key))?,
            (_, Some(row), _) => reader.seek(Target::Row(row))?,
            _ => false,
        })
    }
}

/// What a packed key names.
pub struct Named {
    pub at: (u32, u64),
    row: Option<i64>,
    /// None: the packed key itself.
    identity: Option<value::Identity>,
    hash: u64,
}

impl Named {
    /// Whether a work that stands where this one would is of the same row. Two keys of one hash can be found by who knows
    /// the file's hash key, as everybody does who has a copy of the file.
    pub fn is(&self, work: &Work, packed: &[u8]) -> bool {
        let key = self.identity.as_ref().map_or(packed, |i| &i.key);
        self.row.is_some() || work.key.as_deref().is_none_or(|other| other == key)
    }

    pub fn collides(&self, t: &Table) -> Error {
        Error::BadChange {
            why: format!("two keys of table \"{}\" in one transaction have the same hash", t.name),
        }
    }
}

/// The spelling that a change with this packed key stands for, None: the identity form. A sentinel and whatever
/// begins a life brings its own.
pub fn spelling(work: &Work, packed: &[u8], cl: u32, sentinel: bool) -> Result<Option<Rc<[u8]>>> {
    if work.table.kind == KeyKind::RowId || value::is_plain(&work.table, packed)? {
        return Ok(None);
    }
    if sentinel || cl > work.meta.cl {
        return Ok(value::identity_of_foreign(&work.table, packed)?.spelling);
    }
    Ok(work.spelling.clone())
}

fn unpacked(key: &[u8]) -> Result<impl Iterator<Item = ValueRef<'_>>> {
    rejoin_crdt::key::unpack(key).map_err(|e| Error::damaged(e.to_string()))
}

/// What the versions alone say of a cell.
pub enum Known {
    Wins,
    Loses,
    /// There is more to it.
    Open,
}

/// What most changes are is a cell of a row that is shown.
pub fn decide(meta: &RowMeta, cl: u32, cell: &Cell<'_>) -> Known {
    if meta.cl != cl || !meta.is_alive() || meta.groups.is_empty() {
        return Known::Open;
    }
    match by_version(meta.cell(cell.col).map(|c| c.0.col_version), cell.stamp.col_version) {
        Some(Verdict::Win | Verdict::Lose) if makes(Mistake::ClockBackwards) => Known::Loses,
        Some(Verdict::Win) => Known::Wins,
        Some(Verdict::Lose) => Known::Loses,
        _ => Known::Open,
    }
}

/// Takes a cell that stands in the table now.
pub fn takes(meta: &mut RowMeta, cell: &Cell<'_>) {
    meta.write(ColSet::single(cell.col), cell.stamp, cell.seq);
}

/// Merges a cell into a work where nothing waits and the versions alone decide; None: there is more to it.
pub fn merge_cell(
    engine: &Engine,
    core: &mut Core,
    at: (u32, u64),
    cl: u32,
    cell: &Cell<'_>,
) -> Result<Option<i64>> {
    if core.has_parked()? {
        return Ok(None);
    }
    let Some(work) = core.txn.works.get_mut(&at) else { return Ok(None) };
    match decide(&work.meta, cl, cell) {
        Known::Open => return Ok(None),
        Known::Loses => return Ok(Some(0)),
        Known::Wins => {}
    }
    let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
    // Nothing is taken down before the table has the value: a statement that fails leaves all as it was.
    set_with(engine, &mut core.writers, &place, work, std::slice::from_ref(cell))?;
    takes(&mut work.meta, cell);
    work.touch(cell.stamp.db_version);
    core.txn.high = core.txn.high.max(cell.stamp.col_version);
    Ok(Some(1))
}

/// Applies what came of one row; returns how many changes were accepted. Its work is out of its place while statements of
/// the user's table run, and put back whatever they say.
pub fn merge_taken(
    engine: &Engine,
    core: &mut Core,
    at: (u32, u64),
    mut work: Work,
    inc: &Incoming<'_>,
) -> Result<i64> {
    let (row, spelling) = (work.row, work.spelling.clone());
    let before = (work.meta.cl > 0).then(|| (work.meta.clone(), work.touched.clone()));
    let done = merge_work(engine, core, &mut work, inc);
    if done.is_err() {
        (work.meta, work.touched) = before.unwrap_or_default();
        (work.row, work.spelling) = (row, spelling);
    }
    core.txn.works.insert(at, work);
    done
}

/// A row of which nothing is known here; None: one stands in the table nevertheless, and nothing was changed.
pub fn merge_fresh(
    engine: &Engine,
    core: &mut Core,
    work: &mut Work,
    inc: &Incoming<'_>,
) -> Result<Option<i64>> {
    match new_life(engine, core, work, inc, Standing::Absent) {
        Err(Error::Constraint { code, .. }) if is_taken(code) => Ok(None),
        other => other.map(Some),
    }
}

/// Applies what came of one row to its work. After an error the work is good for nothing more.
pub fn merge_work(engine: &Engine, core: &mut Core, work: &mut Work, inc: &Incoming<'_>) -> Result<i64> {
    let old = causal(work.meta.cl, inc.cl);
    match old {
        Causal::Stale => Ok(0),
        Causal::Delete if makes(Mistake::DropTombstone) => Ok(0),
        Causal::Delete => {
            if core.is_visible(work)? {
                delete_row(engine, core, work)?;
            }
            work.meta.cl = inc.cl;
            work.meta.groups.clear();
            work.meta.sentinel = Some(inc.sentinel.unwrap_or(inc.mark));
            work.spelling.clone_from(&inc.spelling);
            work.touch(inc.mark.db_version);
            let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
            core.unpark_row(work.table.id, &pk, inc.cl)?;
            Ok(1)
        }
        Causal::Create | Causal::Resurrect => new_life(engine, core, work, inc, Standing::Unknown),
        Causal::Same => same_life(engine, core, work, inc),
    }
}

/// What a new life finds in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    /// No row of this key; if there is one, that is for the caller to know.
    Absent,
    /// The table refused the values.
    Refused,
}

fn new_life(
    engine: &Engine,
    core: &mut Core,
    work: &mut Work,
    inc: &Incoming<'_>,
    standing: Standing,
) -> Result<i64> {
    let refused = standing == Standing::Refused;
    let t = Rc::clone(&work.table);
    let known = work.meta.cl > 0;
    let pk = |work: &Work| Core::parked_key(&t, work.row, work.key.as_deref());
    if core.has_parked()? {
        core.unpark_row(t.id, &pk(work), inc.cl)?;
    }
    work.spelling.clone_from(&inc.spelling);
    let have: ColSet = inc.cells.iter().map(|c| c.col).collect();
    let complete = !refused && t.cols.iter().all(|c| !c.required || have.contains(c.id));
    let reason = if refused { Reason::Constraint } else { Reason::Incomplete };
    let visible = work.meta.is_alive() && core.is_visible(work)?;
    if complete {
        let ways = match standing {
            Standing::Absent => &[Way::Insert][..],
            _ if visible => &[Way::Replace],
            _ => &PUT,
        };
        put_row(engine, core, work, inc.cells, ways)?;
    } else if visible {
        delete_row(engine, core, work)?;
    }
    work.meta.cl = inc.cl;
    work.meta.groups.clear();
    // A life that only cells told of has no sentinel: a made-up one would pass for a real one elsewhere.
    work.meta.sentinel = inc.sentinel;
    work.touch(inc.mark.db_version);
    if complete {
        take_cells(core, work, inc.cells);
    } else {
        let pk = pk(work);
        for c in inc.cells {
            park_cell(core, work, &pk, c, reason)?;
        }
    }
    let resurrected = known && inc.sentinel.is_none() && !inc.cells.is_empty();
    Ok(i64::from(resurrected) + inc.cells.len() as i64 + i64::from(inc.sentinel.is_some()))
}

/// Takes cells that stand in the table now: those that were written together in one go.
fn take_cells(core: &mut Core, work: &mut Work, cells: &[Cell<'_>]) {
    let mut at = 0;
    while let Some(first) = cells.get(at) {
        let mut cols = ColSet::single(first.col);
        let mut last = first.col;
        let mut n = 1;
        while let Some(c) = cells.get(at + n)
            && c.stamp == first.stamp
            && c.seq == first.seq + n as i64
            && c.col > last
        {
            cols.insert(c.col);
            last = c.col;
            n += 1;
        }
        work.meta.write(cols, first.stamp, first.seq);
        work.touch(first.stamp.db_version);
        core.txn.high = core.txn.high.max(first.stamp.col_version);
        at += n;
    }
}

fn take_cell(core: &mut Core, work: &mut Work, c: &Cell<'_>) {
    work.meta.write(ColSet::single(c.col), c.stamp, c.seq);
    work.touch(c.stamp.db_version);
    core.txn.high = core.txn.high.max(c.stamp.col_version);
}

fn park_cell(core: &mut Core, work: &Work, pk: &[u8], c: &Cell<'_>, reason: Reason) -> Result<bool> {
    let p = Parked {
        id: 0,
        table: work.table.id,
        pk: pk.to_vec(),
        col: Some(c.col),
        val: c.val.to_owned(),
        col_version: c.stamp.col_version,
        db_version: c.stamp.db_version,
        site: c.stamp.site,
        cl: work.meta.cl,
        seq: c.seq,
        reason: String::new(),
    };
    core.park(&p, reason)
}

fn same_life(engine: &Engine, core: &mut Core, work: &mut Work, inc: &Incoming<'_>) -> Result<i64> {
    let mut accepted = 0;
    if let Some(new) = inc.sentinel
        && weigh_sentinel(engine, core, work, inc, new)?
    {
        accepted += 1;
    }
    if inc.cells.is_empty() || !work.meta.is_alive() {
        return Ok(accepted);
    }
    if !core.is_visible(work)? {
        return Ok(accepted + complete_row(engine, core, work, inc)?);
    }
    let mut winners: smallvec::SmallVec<[Cell<'_>; 8]> = smallvec::SmallVec::new();
    for c in inc.cells {
        match weigh_cell(core, work, c)? {
            Verdict::Lose => {}
            Verdict::Win => winners.push(*c),
            Verdict::TakeStamp => {
                take_cell(core, work, c);
                accepted += 1;
            }
        }
    }
    if !winners.is_empty() {
        accepted += winners.len() as i64;
        if retry_refused(engine, core, work, &winners)? {
            return Ok(accepted);
        }
        set_cells(engine, core, work, &winners)?;
        take_cells(core, work, &winners);
    }
    Ok(accepted)
}

/// What came of one row and is refused by a constraint of its table (rule 3.9 in its interim form): a new life is
/// known but not shown, new values of a living row wait beside the old ones.
pub fn park_refused(
    engine: &Engine,
    core: &mut Core,
    at: (u32, u64),
    inc: &Incoming<'_>,
    why: Error,
) -> Result<i64> {
    let Some(mut work) = core.txn.works.swap_remove(&at) else {
        return Err(Error::damaged("work"));
    };
    let done = match causal(work.meta.cl, inc.cl) {
        Causal::Create | Causal::Resurrect => new_life(engine, core, &mut work, inc, Standing::Refused),
        Causal::Same if work.meta.is_alive() => wait_refused(engine, core, &mut work, inc),
        // A trigger of the user's refuses a delete.
        _ => Err(why),
    };
    core.txn.works.insert(at, work);
    done
}

fn wait_refused(engine: &Engine, core: &mut Core, work: &mut Work, inc: &Incoming<'_>) -> Result<i64> {
    let pk = Core::parked_key(&work.table, work.row, work.key.as_deref());
    let visible = core.is_visible(work)?;
    let mut accepted = 0;
    if let Some(new) = inc.sentinel {
        accepted += i64::from(weigh_sentinel(engine, core, work, inc, new)?);
    }
    for c in inc.cells {
        if !visible || weigh_cell(core, work, c)? == Verdict::Win {
            accepted += i64::from(park_cell(core, work, &pk, c, Reason::Constraint)?);
        }
    }
    Ok(accepted)
}

/// Tries values that were refused before together with new ones of the same row. False: there are none.
fn retry_refused(engine: &Engine, core: &mut Core, work: &mut Work, winners: &[Cell<'_>]) -> Result<bool> {
    if !core.has_parked()? {
        return Ok(false);
    }
    let t = Rc::clone(&work.table);
    let pk = Core::parked_key(&t, work.row, work.key.as_deref());
    let waits = |p: &Parked| p.cl == work.meta.cl && p.reason == Reason::Constraint.name();
    if !core.parked_of_row(t.id, &pk)?.iter().any(waits) {
        return Ok(false);
    }
    for c in winners {
        park_cell(core, work, &pk, c, Reason::Constraint)?;
    }
    let parked = core.parked_of_row(t.id, &pk)?;
    let all = waiting(&t, work, &parked, Some(Reason::Constraint));
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for (c, id) in &all {
        if weigh_cell(core, work, c)? == Verdict::Win {
            cells.push(*c);
        } else {
            core.unpark(*id)?;
        }
    }
    match set_cells(engine, core, work, &cells) {
        Err(Error::Constraint { .. }) => return Ok(true),
        other => other?,
    }
    for (c, id) in &all {
        if cells.iter().any(|won| won.col == c.col) {
            take_cell(core, work, c);
            core.unpark(*id)?;
        }
    }
    Ok(true)
}

/// The parked cells of this life of a row whose columns are here, with the ids of their records.
fn waiting<'p>(t: &Table, work: &Work, parked: &'p [Parked], reason: Option<Reason>) -> Vec<(Cell<'p>, i64)> {
    let of_life = |p: &&Parked| p.cl == work.meta.cl && reason.is_none_or(|r| r.name() == p.reason);
    let cell = |p: &'p Parked| {
        let col = t.column_by_id(p.col?)?.id;
        let stamp = Stamp { col_version: p.col_version, db_version: p.db_version, site: p.site };
        Some((Cell { col, stamp, seq: p.seq, val: p.val.as_ref() }, p.id))
    };
    parked.iter().filter(of_life).filter_map(cell).collect()
}

/// A sentinel of the life that the row already has: true if it is stored.
fn weigh_sentinel(
    engine: &Engine,
    core: &mut Core,
    work: &mut Work,
    inc: &Incoming<'_>,
    new: Sentinel,
) -> Result<bool> {
    let site = |core: &Core, ordinal| core.sites.id(ordinal).unwrap_or_default();
    let identity = work.key.clone().unwrap_or_else(|| Rc::from([].as_slice()));
    let mine = work.spelling.clone().unwrap_or_else(|| Rc::clone(&identity));
    let theirs = inc.spelling.clone().unwrap_or(identity);
    let my_site = work.meta.sentinel.map(|s| site(core, s.site));
    let local = my_site.as_ref().map(|site| SentinelRef { key: &mine, site });
    let their_site = site(core, new.site);
    let verdict = sentinel(local, SentinelRef { key: &theirs, site: &their_site }, core.cfg.merge_equal);
    if verdict == Verdict::Lose {
        return Ok(false);
    }
    work.meta.sentinel = Some(new);
    work.touch(new.db_version);
    if mine != theirs {
        work.spelling.clone_from(&inc.spelling);
        if work.meta.is_alive() && core.is_visible(work)? {
            respell_row(engine, core, work, &theirs)?;
        }
    }
    Ok(true)
}

fn weigh_cell(core: &mut Core, work: &Work, c: &Cell<'_>) -> Result<Verdict> {
    let local = work.meta.cell(c.col).map(|l| l.0);
    if let Some(verdict) = by_version(local.map(|l| l.col_version), c.stamp.col_version) {
        return Ok(verdict);
    }
    let mine = local.and_then(|l| core.sites.id(l.site)).unwrap_or_default();
    let theirs = core.sites.id(c.stamp.site).unwrap_or_default();
    let merge_equal = core.cfg.merge_equal;
    let t = &work.table;
    let reader = core.writers.reader(t)?;
    let found = match (&work.key, work.row) {
        (Some(key), _) if t.kind == KeyKind::Keyed => reader.seek(Target::Key(key)),
        (_, Some(row)) => reader.seek(Target::Row(row)),
        _ => Ok(false),
    };
    let n = t.cols.iter().position(|col| col.id == c.col);
    let verdict = found.map(|there| match n.filter(|_| there) {
        Some(n) => by_value(from_sql(reader.column(n)), &mine, c.val, &theirs, merge_equal),
        None => Verdict::Win,
    });
    reader.done();
    verdict
}

/// A cell of a living row that does not stand in the table yet: with it, it may.
fn complete_row(engine: &Engine, core: &mut Core, work: &mut Work, inc: &Incoming<'_>) -> Result<i64> {
    let t = Rc::clone(&work.table);
    let pk = Core::parked_key(&t, work.row, work.key.as_deref());
    let mut accepted = 0;
    for c in inc.cells {
        accepted += i64::from(park_cell(core, work, &pk, c, Reason::Incomplete)?);
    }
    let parked = core.parked_of_row(t.id, &pk)?;
    let waiting = waiting(&t, work, &parked, None);
    let have: ColSet = waiting.iter().map(|(c, _)| c.col).collect();
    if !t.cols.iter().all(|c| !c.required || have.contains(c.id)) {
        return Ok(accepted);
    }
    let cells: Vec<Cell<'_>> = waiting.iter().map(|(c, _)| *c).collect();
    put_row(engine, core, work, &cells, &PUT)?;
    for (cell, id) in &waiting {
        take_cell(core, work, cell);
        core.unpark(*id)?;
    }
    Ok(accepted)
}

fn constraint(t: &Table, e: rejoin_sqlite::Error) -> Error {
    if e.is_constraint() {
        return Error::Constraint { table: t.name.clone(), why: e.message, code: e.code };
    }
    Error::Sqlite(e)
}

/// The values of cells in the order of the table's columns.
fn values<'v>(t: &Table, cells: &[Cell<'v>], params: &mut Params<'v>) {
    if t.ordered && cells.windows(2).all(|w| w[0].col < w[1].col) {
        params.extend(cells.iter().map(|c| to_sql(c.val)));
        return;
    }
    for col in &t.cols {
        params.extend(cells.iter().find(|c| c.col == col.id).map(|c| to_sql(c.val)));
    }
}

/// Puts a row with these cells into the table, in the place of whatever stands there.
pub fn put_row(
    engine: &Engine,
    core: &mut Core,
    work: &mut Work,
    cells: &[Cell<'_>],
    ways: &[Way],
) -> Result<()> {
    let t = Rc::clone(&work.table);
    let set: ColSet = cells.iter().map(|c| c.col).collect();
    let shown = work.spelling.clone().or_else(|| work.key.clone());
    let mut params = Params::new();
    match (&shown, work.row) {
        (Some(key), _) if t.kind != KeyKind::RowId => params.extend(unpacked(key)?.map(to_sql)),
        (_, Some(row)) => params.push(Sql::Integer(row)),
        _ => return Err(Error::damaged("work without a key")),
    }
    values(&t, cells, &mut params);
    let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
    let mut done = Ok(());
    for way in ways {
        let q = core.writers.write(&t, &place, *way, &set)?;
        done = engine.merging(t.id, || q.run(&params));
        if !matches!(&done, Err(e) if is_taken(e.code)) {
            break;
        }
    }
    done.map_err(|e| constraint(&t, e))?;
    if t.kind == KeyKind::Hashed {
        work.row = Some(core.db.last_insert_rowid());
    }
    Ok(())
}

/// REPLACE journals each page that it touches, in case that it must be undone: only where a row is in the way.
pub const PUT: [Way; 2] = [Way::Insert, Way::Replace];

/// A row stands there although the metadata does not know it.
fn is_taken(code: i32) -> bool {
    use rejoin_sqlite::ffi::{
        SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE,
    };
    [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE].contains(&code)
}

fn row_param<'a>(work: &'a Work, params: &mut Params<'a>) -> Result<()> {
    match (&work.key, work.row) {
        (Some(key), _) if work.table.kind == KeyKind::Keyed => params.extend(unpacked(key)?.map(to_sql)),
        (_, Some(row)) => params.push(Sql::Integer(row)),
        _ => return Err(Error::damaged("a living row has no place")),
    }
    Ok(())
}

pub fn set_cells(engine: &Engine, core: &mut Core, work: &Work, cells: &[Cell<'_>]) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
    set_with(engine, &mut core.writers, &place, work, cells)
}

fn set_with(
    engine: &Engine,
    writers: &mut Writers,
    place: &Place<'_>,
    work: &Work,
    cells: &[Cell<'_>],
) -> Result<()> {
    let t = &work.table;
    if let ([cell], Some(row), KeyKind::RowId | KeyKind::Hashed) = (cells, work.row, t.kind) {
        return set_by_row(engine, writers, place, t, row, cell);
    }
    let set: ColSet = cells.iter().map(|c| c.col).collect();
    let mut params = Params::new();
    values(t, cells, &mut params);
    row_param(work, &mut params)?;
    let q = writers.write(t, place, Way::Update, &set)?;
    engine.merging(t.id, || q.run(&params)).map_err(|e| constraint(t, e))
}

/// Puts one value into a row of a rowid table.
pub fn set_by_row(
    engine: &Engine,
    writers: &mut Writers,
    place: &Place<'_>,
    t: &Rc<Table>,
    row: i64,
    cell: &Cell<'_>,
) -> Result<()> {
    let q = writers.write(t, place, Way::Update, &ColSet::single(cell.col))?;
    let params = [to_sql(cell.val), Sql::Integer(row)];
    engine.merging(t.id, || q.run(&params)).map_err(|e| constraint(t, e))
}

pub fn delete_row(engine: &Engine, core: &mut Core, work: &mut Work) -> Result<()> {
    let t = Rc::clone(&work.table);
    {
        let mut params = Params::new();
        row_param(work, &mut params)?;
        let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
        let q = core.writers.write(&t, &place, Way::Delete, &ColSet::EMPTY)?;
        engine.merging(t.id, || q.run(&params)).map_err(|e| constraint(&t, e))?;
    }
    if t.kind == KeyKind::Hashed {
        work.row = None;
    }
    Ok(())
}

/// Shows the key in the winning spelling.
pub fn respell_row(engine: &Engine, core: &mut Core, work: &mut Work, packed: &[u8]) -> Result<()> {
    let t = &work.table;
    let mut params: Params<'_> = unpacked(packed)?.map(to_sql).collect();
    row_param(work, &mut params)?;
    let place = Place { catalog: &core.catalog, owned: core.cfg.owned };
    let q = core.writers.write(t, &place, Way::Respell, &ColSet::EMPTY)?;
    engine.merging(t.id, || q.run(&params)).map_err(|e| constraint(t, e))
}

/// Whether a cid is the row sentinel.
pub fn is_sentinel(cid: &[u8]) -> bool {
    cid == SENTINEL.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Replica;

    /// Nobody finds two keys of one hash in the time of a test: one is put where the other belongs.
    #[test]
    fn two_keys_of_one_hash_do_not_share_their_metadata() {
        let replica = Replica::open(":memory:").expect("memory");
        replica
            .connection()
            .execute_batch("CREATE TABLE t(k TEXT NOT NULL PRIMARY KEY, x)")
            .expect("a table");
        replica.replicate("t").expect("replicated");
        let pack = |k: &str| rejoin_crdt::key::pack([ValueRef::Text(k.as_bytes())]).expect("a key");
        let (a, b) = (pack("a"), pack("b"));
        let engine = &replica.engine;
        let done = engine.scoped("crsql_test", || {
            engine.join()?;
            let mut core = engine.core()?;
            core.refresh(true)?;
            let t = core.catalog.find("t").cloned().expect("the table");
            let (_, work) = core.take_foreign(&t, &a)?;
            let at = core.name_foreign(&t, &b)?.at;
            core.txn.works.insert(at, work);
            let refused = core.take_foreign(&t, &b).map(drop);
            // What was there stays.
            assert!(core.txn.works.swap_remove(&at).is_some_and(|w| w.key.as_deref() == Some(&a)));
            refused
        });
        assert!(matches!(done, Err(Error::BadChange { why }) if why.contains("the same hash")));
    }
}
