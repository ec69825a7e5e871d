//! The virtual table `crsql_changes`.

use crate::catalog::{KeyKind, Table};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::hasher::Seeded;
use crate::image::{RowReader, Target};
use crate::listing::{Filter, Listed, Unit, What};
use crate::parked::SENTINEL;
use crate::rowwise;
use crate::store::Loc;
use crate::value::{from_sql, shown_key, to_sql};
use rejoin_sqlite::{
    Args, Change, ConstraintOp, Context, Db, IndexInfo, ModuleKind, Result as SqlResult, Risk, VTab,
    VTabCursor, ValueRef,
};
use std::collections::HashMap;
use std::rc::Rc;

const SCHEMA: &str = "CREATE TABLE x([table] TEXT NOT NULL, [pk] BLOB NOT NULL, [cid] TEXT NOT NULL, [val] ANY, \
     [col_version] INTEGER NOT NULL, [db_version] INTEGER NOT NULL, [site_id] BLOB NOT NULL, \
     [cl] INTEGER NOT NULL, [seq] INTEGER NOT NULL)";

pub const COLUMNS: usize = 9;
const TABLE: i32 = 0;
const PK: i32 = 1;
const CID: i32 = 2;
const VAL: i32 = 3;
const COL_VERSION: i32 = 4;
const DB_VERSION: i32 = 5;
const SITE_ID: i32 = 6;
const CL: i32 = 7;
const SEQ: i32 = 8;

pub fn register(engine: &Rc<Engine>) -> Result<()> {
    Ok(engine.db.create_module::<Engine, Changes>(
        "crsql_changes",
        ModuleKind::EponymousOnly,
        Rc::clone(engine),
    )?)
}

struct Changes(Rc<Engine>);

/// How a pushed-down constraint is written in the plan: a column and one of these.
fn op_code(op: ConstraintOp) -> Option<u8> {
    Some(match op {
        ConstraintOp::Eq | ConstraintOp::Is => b'=',
        ConstraintOp::Gt => b'>',
        ConstraintOp::Ge => b'g',
        ConstraintOp::Lt => b'<',
        ConstraintOp::Le => b'l',
        ConstraintOp::Ne | ConstraintOp::IsNot => b'!',
        _ => return None,
    })
}

fn pushed(column: i32, op: u8) -> bool {
    match column {
        DB_VERSION => op != b'!',
        SITE_ID => op == b'=' || op == b'!',
        TABLE | PK | CID => op == b'=',
        _ => false,
    }
}

impl VTab<Engine> for Changes {
    type Cursor = Cursor;
    const WRITABLE: bool = true;
    const RISK: Risk = Risk::Innocuous;

    fn connect(_db: Db, engine: &Rc<Engine>) -> SqlResult<(String, Self)> {
        Ok((SCHEMA.into(), Changes(Rc::clone(engine))))
    }

    fn best_index(&self, info: &mut IndexInfo<'_>) -> SqlResult<()> {
        let mut plan = String::new();
        let (mut lower, mut one_row) = (false, 0);
        for c in info.constraints() {
            let Some(op) = op_code(c.op).filter(|op| c.usable && pushed(c.column, *op)) else {
                continue;
            };
            plan.push(char::from(b'0' + c.column as u8));
            plan.push(char::from(op));
            info.use_constraint(c.index, (plan.len() / 2) as i32, false);
            lower |= c.column == DB_VERSION && matches!(op, b'>' | b'g' | b'=');
            one_row |= i32::from(op == b'=') << c.column & 0b11;
        }
        let natural: Vec<i32> = info.order_bys().filter(|o| !o.desc).map(|o| o.column).collect();
        if natural.len() == info.order_bys().count() && [DB_VERSION, SEQ].starts_with(&natural) {
            info.set_order_consumed(true);
        }
        let (cost, rows) = match (one_row == 0b11, lower) {
            (true, _) => (5.0, 4),
            (_, true) => (100.0, 100),
            _ => (1e7, 1_000_000),
        };
        info.set_cost(cost);
        info.set_rows(rows);
        info.set_idx_str(plan)
    }

    fn open(&self) -> SqlResult<Cursor> {
        Ok(Cursor::new(Rc::clone(&self.0)))
    }

    fn update(&self, change: Change<'_>) -> SqlResult<i64> {
        let Change::Insert { values, .. } = change else {
            let why = "Only INSERT and SELECT statements are allowed against the crsql changes table; \
                       to change data, write to the table itself"
                .to_owned();
            return Err(Error::State { why }.into());
        };
        rowwise::insert(&self.0, values)?;
        Ok(0)
    }
}

/// A constraint with its value.
struct Bound {
    column: i32,
    op: u8,
    blob: Option<Vec<u8>>,
}

/// The change that the cursor stands on.
#[derive(Clone, Copy)]
struct Now {
    listed: Listed,
    cl: i64,
    site: [u8; 16],
}

const NOWHERE: Now = Now {
    listed: Listed { seq: 0, row: u32::MAX, what: What::Sentinel, col_version: 0, site: u32::MAX },
    cl: 0,
    site: [0; 16],
};

struct Cursor {
    engine: Rc<Engine>,
    filter: Filter,
    bounds: Vec<Bound>,
    next_lsn: i64,
    /// Versions after this one are not wanted.
    last_version: i64,
    unit: Unit,
    at: usize,
    count: i64,
    done: bool,
    readers: HashMap<u32, RowReader, Seeded>,
    /// The row that the reader of its table stands on.
    open_row: Option<u32>,
    pk: Vec<u8>,
    own_site: [u8; 16],
    now: Now,
    /// For one row alone: its metadata and the versions still to list, last first.
    single: Option<(Rc<crate::listing::ListedRow>, Vec<i64>, Rc<Table>)>,
}

impl Cursor {
    fn new(engine: Rc<Engine>) -> Cursor {
        Cursor {
            engine,
            filter: Filter::default(),
            bounds: Vec::new(),
            next_lsn: 0,
            last_version: i64::MAX,
            unit: Unit::default(),
            at: 0,
            count: 0,
            done: true,
            readers: HashMap::default(),
            open_row: None,
            pk: Vec::new(),
            own_site: [0; 16],
            now: NOWHERE,
            single: None,
        }
    }

    fn start(&mut self, plan: &str, args: Args<'_>) -> Result<()> {
        let engine = Rc::clone(&self.engine);
        engine.before_read()?;
        let mut core = engine.core()?;
        core.refresh(false)?;
        *self = Cursor { count: self.count, ..Cursor::new(Rc::clone(&engine)) };
        if !core.ready {
            return Ok(());
        }
        self.done = false;
        self.own_site = core.own_site().0;
        let (mut first, mut table, mut pk) = (i64::MIN, None, None);
        for (i, code) in plan.as_bytes().chunks_exact(2).enumerate() {
            let (column, op, value) = (i32::from(code[0] - b'0'), code[1], args.get(i).value());
            match (column, op) {
                (DB_VERSION, op) => {
                    let (low, high) = version_range(op, value);
                    first = first.max(low);
                    self.last_version = self.last_version.min(high);
                }
                (TABLE, _) => table = Some(text_of(value)),
                (PK, _) => pk = Some(blob_of(value)),
                _ => self.bounds.push(Bound { column, op, blob: blob_of(value) }),
            }
        }
        if let Some(name) = &table {
            let name = name.as_deref().unwrap_or_default();
            match core.catalog.find(name).cloned() {
                Some(t) if t.name == name => {
                    self.filter.table = Some(t.id);
                    if let Some(pk) = &pk
                        && !core.is_parked_row(&t, pk.as_deref().unwrap_or_default())?
                    {
                        return self.single_row(&mut core, &t, pk.as_deref(), first);
                    }
                }
                // Only parked changes can name a table that is not replicated here.
                _ if !core.has_parked()? => self.done = true,
                _ => {}
            }
        }
        self.next_lsn = if first == i64::MIN { 0 } else { core.first_log_row(first)? };
        Ok(())
    }

    /// All changes of one row, whatever their version.
    fn single_row(
        &mut self,
        core: &mut crate::core::Core,
        t: &Rc<Table>,
        pk: Option<&[u8]>,
        first: i64,
    ) -> Result<()> {
        self.next_lsn = i64::MAX;
        let row = match pk {
            Some(pk) => core.row_by_key(t, pk)?,
            None => None,
        };
        let Some(row) = row else { return Ok(()) };
        let mut versions: Vec<i64> = row.meta.groups.iter().map(|g| g.stamp.db_version).collect();
        versions.extend(row.meta.sentinel.map(|s| s.db_version));
        versions.retain(|v| *v >= first && *v <= self.last_version);
        versions.sort_unstable();
        versions.dedup();
        let table = Rc::clone(t);
        self.single = Some((Rc::new(row), versions.into_iter().rev().collect(), table));
        Ok(())
    }

    /// Goes to the next change that passes the filters, from `self.at` on.
    fn settle(&mut self) -> Result<()> {
        loop {
            while let Some(listed) = self.unit.changes.get(self.at).copied() {
                if self.passes(&listed) && self.seek(&listed)? {
                    self.stand(listed);
                    return Ok(());
                }
                self.at += 1;
            }
            if self.done || !self.load_unit()? {
                self.unit = Unit::default();
                self.done = true;
                return Ok(());
            }
        }
    }

    fn stand(&mut self, listed: Listed) {
        let before = &self.now.listed;
        if before.site != listed.site {
            self.now.site = self.site(&listed);
        }
        let parked = listed.what == What::Parked;
        if before.row != listed.row || parked || before.what == What::Parked {
            self.now.cl = match parked {
                true => self.unit.parked.get(listed.row as usize).map_or(0, |p| i64::from(p.change.cl)),
                false => self.unit.rows.get(listed.row as usize).map_or(0, |r| i64::from(r.meta.cl)),
            };
        }
        self.now.listed = listed;
    }

    fn load_unit(&mut self) -> Result<bool> {
        self.at = 0;
        self.open_row = None;
        self.now = NOWHERE;
        // Values are not older than the metadata that they are shown with.
        self.readers.values_mut().for_each(RowReader::done);
        let engine = Rc::clone(&self.engine);
        let mut core = engine.core()?;
        if let Some((row, versions, table)) = &mut self.single {
            let Some(db_version) = versions.pop() else {
                return Ok(false);
            };
            self.unit = Unit { db_version, ..Unit::default() };
            let (loc, meta, spelling) = (row.loc.clone(), row.meta.clone(), row.spelling.clone());
            self.unit.add_row(crate::listing::ListedRow { table: Rc::clone(table), loc, meta, spelling });
            self.unit.changes.sort_by_key(|c| c.seq);
            return Ok(true);
        }
        let Some((rows, next)) = core.log_unit(self.next_lsn)? else {
            return Ok(false);
        };
        self.next_lsn = next;
        if rows.first().is_some_and(|r| r.db_version > self.last_version) {
            return Ok(false);
        }
        self.unit = core.unit(&rows, &self.filter)?;
        Ok(true)
    }

    fn passes(&self, listed: &Listed) -> bool {
        self.bounds.iter().all(|b| match b.column {
            SITE_ID => {
                let equal = b.blob.as_deref() == Some(self.site(listed).as_slice());
                equal == (b.op == b'=')
            }
            CID => b.blob.as_deref() == Some(self.cid(listed).as_bytes()),
            _ => true,
        })
    }

    fn site(&self, listed: &Listed) -> [u8; 16] {
        let core = self.engine.core.try_borrow();
        core.ok().and_then(|c| c.sites.id(listed.site)).map_or(self.own_site, |s| s.0)
    }

    fn table(&self, listed: &Listed) -> &str {
        match listed.what {
            What::Parked => {
                let names = self.unit.parked.get(listed.row as usize).and_then(|p| p.names.as_ref());
                names.map_or("", |n| n.0.as_str())
            }
            _ => self.unit.rows.get(listed.row as usize).map_or("", |r| r.table.name.as_str()),
        }
    }

    fn key(&self, listed: &Listed) -> &[u8] {
        match listed.what {
            What::Parked => self.unit.parked.get(listed.row as usize).map_or(&[], |p| p.change.pk.as_slice()),
            _ => &self.pk,
        }
    }

    fn cid(&self, listed: &Listed) -> &str {
        match listed.what {
            What::Sentinel => SENTINEL,
            What::Parked => {
                let names = self.unit.parked.get(listed.row as usize).and_then(|p| p.names.as_ref());
                names.map_or("", |n| n.1.as_str())
            }
            What::Cell(n) => {
                let row = self.unit.rows.get(listed.row as usize);
                row.and_then(|r| r.table.cols.get(n as usize)).map_or("", |c| c.name.as_str())
            }
        }
    }

    /// Makes the key and the values of the change's row readable. False: the row is not there.
    fn seek(&mut self, listed: &Listed) -> Result<bool> {
        if listed.what == What::Parked {
            self.open_row = None;
            return Ok(true);
        }
        if self.open_row == Some(listed.row) {
            return Ok(true);
        }
        let Some(row) = self.unit.rows.get(listed.row as usize) else {
            return Ok(false);
        };
        let t = &row.table;
        self.pk.clear();
        self.open_row = Some(listed.row);
        if t.kind == KeyKind::RowId
            && let Loc::Row(id) = row.loc
        {
            let packed = rejoin_crdt::key::pack_into(&mut self.pk, [rejoin_crdt::ValueRef::Int(id)]);
            packed.map_err(|e| Error::damaged(e.to_string()))?;
        }
        if let Loc::Key(key) = &row.loc {
            self.pk = shown_key(t, key, row.spelling.as_deref());
        }
        if !row.meta.is_alive() || row.meta.groups.is_empty() && t.kind == KeyKind::RowId {
            return Ok(true);
        }
        let readers = &mut self.readers;
        if readers.get(&t.id).is_none_or(|r| !Rc::ptr_eq(&r.table, t)) {
            readers.insert(t.id, RowReader::scanning(self.engine.db, t)?);
        }
        let Some(reader) = readers.get_mut(&t.id) else {
            return Ok(false);
        };
        let there = match &row.loc {
            Loc::Row(id) => reader.seek(Target::Row(*id))?,
            Loc::Key(key) => {
                reader.done();
                reader.seek(Target::Key(key))?
            }
        };
        if there && t.kind != KeyKind::RowId {
            self.pk.clear();
            let packed =
                rejoin_crdt::key::pack_into(&mut self.pk, (0..t.keys.len()).map(|n| from_sql(reader.key(n))));
            packed.map_err(|e| Error::damaged(e.to_string()))?;
        }
        // A living row without its row waits for required values; its sentinel is listed, cells it has none.
        Ok(there || matches!(listed.what, What::Sentinel) && !self.pk.is_empty())
    }

    fn value(&self, listed: &Listed, ctx: &mut Context) {
        match listed.what {
            What::Sentinel => ctx.set_null(),
            What::Parked => {
                if let Some(p) = self.unit.parked.get(listed.row as usize) {
                    ctx.set(to_sql(p.change.val.as_ref()));
                }
            }
            What::Cell(n) => {
                let table = self.unit.rows.get(listed.row as usize).map(|r| r.table.id);
                if let Some(reader) = table.and_then(|t| self.readers.get(&t)) {
                    ctx.set_arg(reader.column_arg(n as usize));
                }
            }
        }
    }
}

fn text_of(v: ValueRef<'_>) -> Option<String> {
    match v {
        ValueRef::Text(t) => Some(String::from_utf8_lossy(t).into_owned()),
        _ => None,
    }
}

fn blob_of(v: ValueRef<'_>) -> Option<Vec<u8>> {
    match v {
        ValueRef::Text(b) | ValueRef::Blob(b) => Some(b.to_vec()),
        _ => None,
    }
}

/// The db_versions that satisfy `db_version op value`; SQLite checks again.
fn version_range(op: u8, value: ValueRef<'_>) -> (i64, i64) {
    let all = (i64::MIN, i64::MAX);
    let (floor, ceil) = match value {
        ValueRef::Integer(i) => (i, i),
        ValueRef::Real(r) => (r.floor() as i64, r.ceil() as i64),
        ValueRef::Null => return (i64::MAX, i64::MIN),
        _ => return all,
    };
    match op {
        b'=' => (ceil, floor),
        b'>' => (floor.saturating_add(1), i64::MAX),
        b'g' => (ceil, i64::MAX),
        b'<' => (i64::MIN, ceil.saturating_sub(1)),
        b'l' => (i64::MIN, floor),
        _ => all,
    }
}

impl VTabCursor for Cursor {
    fn filter(&mut self, _n: i32, plan: Option<&str>, args: Args<'_>) -> SqlResult<()> {
        self.start(plan.unwrap_or(""), args)?;
        Ok(self.settle()?)
    }

    fn next(&mut self) -> SqlResult<()> {
        self.at += 1;
        self.count += 1;
        Ok(self.settle()?)
    }

    fn eof(&self) -> bool {
        self.done && self.at >= self.unit.changes.len()
    }

    fn column(&self, ctx: &mut Context, i: i32) -> SqlResult<()> {
        let Now { listed, cl, site } = &self.now;
        match i {
            TABLE => ctx.set_text(self.table(listed).as_bytes()),
            PK => ctx.set_blob(self.key(listed)),
            CID => ctx.set_text(self.cid(listed).as_bytes()),
            VAL => self.value(listed, ctx),
            COL_VERSION => ctx.set_int(listed.col_version),
            DB_VERSION => ctx.set_int(self.unit.db_version),
            SITE_ID => ctx.set_blob(site),
            CL => ctx.set_int(*cl),
            SEQ => ctx.set_int(listed.seq),
            _ => {}
        }
        Ok(())
    }

    fn rowid(&self) -> SqlResult<i64> {
        Ok(self.count)
    }
}
