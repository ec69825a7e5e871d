//! Capture: events of replicated tables enter the journal, from triggers in the file or from the preupdate hook.
//!
//! The triggers call `crsql_capture(table id, file id, kind, ...)`; what follows are rowid and key columns as
//! `triggers` writes them. They name no other column, so ALTER TABLE needs no ceremony.

use crate::catalog::{Catalog, KeyKind, Table};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::image::{RowReader, Target};
use crate::journal::{Event, Journal, Kind, Slice};
use crate::value;
use rejoin_crdt::ValueRef;
use rejoin_crdt::key::Affinity;
use rejoin_sqlite::{Arg, Args, Db, Stmt};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

pub const FUNCTION: &str = "crsql_capture";

const INSERT: i64 = 1;
const UPDATE: i64 = 2;
const DELETE: i64 = 3;
const REPLACE: i64 = 4;
const MOVE: i64 = 5;

#[derive(Default)]
pub struct Capture {
    pub catalog: Rc<Catalog>,
    pub file_id: i64,
    pub hash_key: (u64, u64),
    pub journal: Journal,
    /// The statement that joins, and the schema version that it was compiled for.
    pub join: Option<(i64, Stmt)>,
    readers: HashMap<u32, RowReader>,
    finders: HashMap<u32, Stmt>,
    /// The table of the last event.
    recent: Option<Rc<Table>>,
    /// For each image its version of the table.
    pub layouts: Vec<Rc<Table>>,
    scratch: Vec<u8>,
}

impl Capture {
    pub fn forget_statements(&mut self) {
        self.readers.clear();
        self.finders.clear();
        self.join = None;
    }

    pub fn end(&mut self) {
        self.journal.clear();
        self.layouts.clear();
    }

    /// New schema: readers and finders are made anew.
    pub fn set_catalog(&mut self, catalog: Rc<Catalog>, file_id: i64, hash_key: (u64, u64)) {
        if !Rc::ptr_eq(&self.catalog, &catalog) {
            self.readers.clear();
            self.finders.clear();
        }
        self.recent = None;
        (self.catalog, self.file_id, self.hash_key) = (catalog, file_id, hash_key);
    }

    fn table(&mut self, id: u32) -> Option<Rc<Table>> {
        if self.recent.as_ref().is_none_or(|t| t.id != id) {
            self.recent = self.catalog.get(id).cloned();
        }
        self.recent.clone()
    }

    fn layout(&mut self, t: &Rc<Table>) -> u32 {
        if self.layouts.last().is_none_or(|l| !Rc::ptr_eq(l, t)) {
            let known = self.layouts.iter().position(|l| Rc::ptr_eq(l, t));
            if let Some(i) = known {
                return i as u32;
            }
            self.layouts.push(Rc::clone(t));
        }
        self.layouts.len() as u32 - 1
    }

    /// Packs key columns from the arguments into the arena.
    pub fn key(&mut self, t: &Table, args: &[Arg<'_>]) -> Result<(Slice, u64)> {
        let (mut plain, mut null) = (t.plain, false);
        let values = args.iter().map(|a| {
            let value = value::from_sql(a.value());
            plain &= !matches!(value, ValueRef::Real(_));
            null |= value.is_null();
            value
        });
        let slice = self.journal.store(|arena| rejoin_crdt::key::pack_into(arena, values));
        let slice = slice.map_err(|e| Error::Capture { why: e.to_string() })?;
        if null {
            return Err(Error::Capture {
                why: format!("table \"{}\" is replicated, its primary key cannot be NULL", t.name),
            });
        }
        let packed = self.journal.bytes(slice);
        let hash = if plain {
            value::hash(self.hash_key, packed)
        } else {
            value::hash(self.hash_key, &value::identity_of_stored(t, packed)?.key)
        };
        Ok((slice, hash))
    }

    /// Keeps the row as it is now. False: it is not there.
    fn image(&mut self, db: Db, t: &Rc<Table>, target: Option<i64>, key: Slice) -> Result<Slice> {
        if let Entry::Vacant(none) = self.readers.entry(t.id) {
            none.insert(RowReader::new(db, t)?);
        }
        let layout = self.layout(t);
        let hash_key = self.hash_key;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&layout.to_le_bytes());
        let Some(reader) = self.readers.get_mut(&t.id) else {
            return Ok(Slice::default());
        };
        let target = match target {
            Some(row) => Target::Row(row),
            None => Target::Key(self.journal.bytes(key)),
        };
        let found = reader.seek(target);
        if let Ok(true) = found {
            reader.image(hash_key, &mut scratch);
        }
        reader.done();
        let slice = match found {
            Ok(true) => self.journal.store(|arena| {
                arena.extend_from_slice(&scratch);
                Ok::<(), Error>(())
            }),
            Ok(false) => Ok(Slice::default()),
            Err(e) => Err(e),
        };
        self.scratch = scratch;
        slice
    }

    /// REPLACE reports the row that it removes as deleted (to hooks, and to triggers with `recursive_triggers`), in
    /// the same statement: no change was counted in between. The two are one replacement.
    pub fn take_back_delete(&mut self, db: Db, t: &Table, (row, hash): (i64, u64)) {
        let Some(last) = self.journal.len().checked_sub(1).and_then(|i| self.journal.get(i)) else { return };
        let same = match t.kind {
            KeyKind::RowId => last.row == row,
            _ => last.hash == hash,
        };
        let deleted = last.kind == Kind::Delete && last.tbl == t.id && same;
        let open = self.journal.len() > self.journal.digested;
        if deleted && open && last.count == db.total_changes() {
            self.journal.pop();
            if t.kind == KeyKind::Hashed {
                self.journal.push(Event { kind: Kind::Replaces, ..last });
            }
        }
    }

    /// The transaction must not be committed with this write in it.
    #[cfg(feature = "owned")]
    pub fn refuse(&mut self, e: Error) {
        let why = match e {
            Error::Capture { why } => why,
            other => other.to_string(),
        };
        let data = self.journal.store(|arena| {
            arena.extend_from_slice(why.as_bytes());
            Ok::<(), Error>(())
        });
        let mut event = Event::new(Kind::Refused, 0, 0);
        event.data = data.unwrap_or_default();
        self.journal.push(event);
    }

    fn outdated(&self, tbl: u32) -> bool {
        self.readers.get(&tbl).is_some_and(RowReader::outdated)
    }

    /// The row of a rowid table that has this key: rowid, and the key as it is spelled there.
    fn find(&mut self, db: Db, t: &Table, args: Args<'_>, given: Slice) -> Result<Option<(i64, Slice)>> {
        if let Entry::Vacant(none) = self.finders.entry(t.id) {
            let (rowid, keys) = (t.rowid, t.key_list(""));
            none.insert(db.prepare(&format!(
                "SELECT {rowid}, {keys} FROM {} WHERE {}",
                t.quoted(),
                t.key_where(1)
            ))?);
        }
        let Some(q) = self.finders.get_mut(&t.id) else {
            return Ok(None);
        };
        for (i, arg) in args.iter().enumerate() {
            q.bind_arg(i as i32 + 1, arg)?;
        }
        let step = q.step();
        let found = if matches!(step, Ok(true)) {
            let row = q.column_int(0);
            let key = if value::one_spelling(t, self.journal.bytes(given)) {
                Ok(given)
            } else {
                let keys = (1..=t.keys.len()).map(|i| value::from_sql(q.column(i as i32)));
                self.journal.store(|arena| rejoin_crdt::key::pack_into(arena, keys))
            };
            Some((row, key))
        } else {
            None
        };
        q.reset();
        q.clear_bindings();
        step?;
        match found {
            Some((row, Ok(key))) => Ok(Some((row, key))),
            Some((_, Err(e))) => Err(Error::Capture { why: e.to_string() }),
            None => Ok(None),
        }
    }
}

/// Who wrote, as the trigger's arguments say.
pub fn captured(engine: &Engine, args: Args<'_>) -> Result<()> {
    if args.len() < 3 {
        return Err(Error::BadArgument {
            function: FUNCTION,
            why: "is for the capture triggers only".into(),
        });
    }
    let tbl = args.get(0).int() as u32;
    if engine.is_merging(tbl) || engine.is_suspended(tbl)? {
        return Ok(());
    }
    let op = args.get(2).int();
    engine.join()?;
    if engine.should_look(op == UPDATE) {
        engine.look(true)?;
    }
    let mut cap = engine.cap.borrow_mut();
    cap.journal.hear();
    if args.get(1).int() != cap.file_id {
        return Err(Error::Capture {
            why: "the table belongs to another database file than the main one of this connection; \
                  open that file as main to write to it"
                .into(),
        });
    }
    let Some(t) = cap.table(tbl) else {
        return Err(Error::Capture { why: format!("the replication metadata knows no table {tbl}") });
    };
    record(engine.db, &mut cap, &t, op, args.skip(3))?;
    if cap.outdated(tbl) {
        // The schema changed in this transaction: the next image must see the new columns.
        drop(cap);
        engine.reload_catalog()?;
    }
    Ok(())
}

fn kind_of(op: i64) -> Option<Kind> {
    Some(match op {
        INSERT => Kind::Insert,
        DELETE => Kind::Delete,
        UPDATE => Kind::Image,
        MOVE => Kind::Move,
        REPLACE => Kind::Replaces,
        _ => return None,
    })
}

/// How many rowids and key columns the trigger of a kind passes.
fn argument_count(t: &Table, op: i64) -> usize {
    let n = t.keys.len();
    match (t.kind, op) {
        (KeyKind::RowId, UPDATE | MOVE) => 2,
        (KeyKind::RowId, _) => 1,
        (KeyKind::Hashed, UPDATE) => n + 2,
        (KeyKind::Hashed, MOVE) => 2 * n + 2,
        (KeyKind::Hashed, REPLACE) => n,
        (KeyKind::Hashed, _) => n + 1,
        (KeyKind::Keyed, MOVE) => 2 * n,
        (KeyKind::Keyed, _) => n,
    }
}

fn record(db: Db, cap: &mut Capture, t: &Rc<Table>, op: i64, args: Args<'_>) -> Result<()> {
    let n = t.keys.len();
    let Some(kind) = kind_of(op).filter(|_| args.len() == argument_count(t, op)) else {
        let why = "is for the capture triggers only".into();
        return Err(Error::BadArgument { function: FUNCTION, why });
    };
    let mut e = Event::new(kind, t.id, 0);
    let rowids = match (t.kind, op) {
        (KeyKind::Keyed, _) | (KeyKind::Hashed, REPLACE) => 0,
        (_, UPDATE | MOVE) => 2,
        _ => 1,
    };
    if rowids > 0 {
        e.row = args.get(0).int();
        e.row2 = args.get(rowids - 1).int();
    }
    if t.kind != KeyKind::RowId {
        let keys = args.skip(rowids).as_slice();
        (e.key, e.hash) = cap.key(t, keys.get(..n).unwrap_or(&[]))?;
        if op == MOVE {
            (e.key2, e.hash2) = cap.key(t, keys.get(n..).unwrap_or(&[]))?;
        }
        if t.kind == KeyKind::Keyed {
            (e.row, e.row2) = (e.hash as i64, if op == MOVE { e.hash2 } else { e.hash } as i64);
        }
        if op == REPLACE {
            let Some((row, key)) = cap.find(db, t, args, e.key)? else {
                return Ok(());
            };
            (e.row, e.row2, e.key) = (row, row, key);
        }
    }
    if op == UPDATE {
        let target = (t.kind != KeyKind::Keyed).then_some(e.row);
        e.data = cap.image(db, t, target, e.key)?;
        if e.row != e.row2 {
            let image = Event { row2: e.row, ..e };
            cap.journal.push(image);
            e.kind = Kind::MaybeMove;
            (e.hash2, e.key2) = (e.hash, e.key);
        }
    }
    if op == DELETE {
        e.count = db.total_changes();
    }
    match op {
        INSERT => cap.take_back_delete(db, t, (e.row, e.hash)),
        MOVE => cap.take_back_delete(db, t, (e.row2, e.hash2)),
        _ => {}
    }
    cap.journal.push(e);
    Ok(())
}

/// The capture triggers of a table: name and text.
pub fn triggers(t: &Table, file_id: i64) -> Vec<(String, String)> {
    let on = quote(&t.name);
    let id = t.id;
    let rowid = |p: &str| match t.kind {
        KeyKind::RowId => format!(", {p}{}", quote(&t.keys[0].name)),
        KeyKind::Hashed => format!(", {p}{}", t.rowid),
        KeyKind::Keyed => String::new(),
    };
    let keys = |p: &str| match t.kind {
        KeyKind::RowId => String::new(),
        _ => format!(", {}", t.key_list(p)),
    };
    let call = |op: i64, args: String| format!("BEGIN SELECT {FUNCTION}({id}, {file_id}, {op}{args}); END");
    let mut all = vec![
        (
            format!("crsql_insert_{id}"),
            format!("AFTER INSERT ON {on} {}", call(INSERT, rowid("NEW.") + &keys("NEW."))),
        ),
        (
            format!("crsql_update_{id}"),
            format!("BEFORE UPDATE ON {on} {}", call(UPDATE, rowid("OLD.") + &rowid("NEW.") + &keys("OLD."))),
        ),
        (
            format!("crsql_delete_{id}"),
            format!("AFTER DELETE ON {on} {}", call(DELETE, rowid("OLD.") + &keys("OLD."))),
        ),
    ];
    let of: Vec<String> = t.keys.iter().map(|k| quote(&k.name)).collect();
    let differs: Vec<String> = t
        .keys
        .iter()
        .map(|k| {
            let name = quote(&k.name);
            let differs = format!("OLD.{name} IS NOT NEW.{name} COLLATE BINARY");
            // 1 and 1.0 are equal but two spellings, where the column can hold both.
            match k.affinity {
                Affinity::Blob => format!("{differs} OR typeof(OLD.{name}) IS NOT typeof(NEW.{name})"),
                _ => differs,
            }
        })
        .collect();
    let (of, differs) = (of.join(", "), differs.join(" OR "));
    all.push((
        format!("crsql_move_{id}"),
        format!(
            "AFTER UPDATE OF {of} ON {on} WHEN {differs} {}",
            call(MOVE, rowid("OLD.") + &rowid("NEW.") + &keys("OLD.") + &keys("NEW."))
        ),
    ));
    if t.kind == KeyKind::Hashed {
        let eq: Vec<String> = t.keys.iter().map(|k| format!("{0} = NEW.{0}", quote(&k.name))).collect();
        let there = format!("EXISTS (SELECT 1 FROM {on} WHERE {})", eq.join(" AND "));
        all.push((
            format!("crsql_replace_{id}"),
            format!("BEFORE INSERT ON {on} WHEN {there} {}", call(REPLACE, keys("NEW."))),
        ));
        // UPDATE OR REPLACE removes a row that stands under the new key.
        all.push((
            format!("crsql_onto_{id}"),
            format!(
                "BEFORE UPDATE OF {of} ON {on} WHEN ({differs}) AND {there} {}",
                call(REPLACE, keys("NEW."))
            ),
        ));
    }
    all.into_iter()
        .map(|(name, body)| {
            let sql = format!("CREATE TRIGGER main.{name} {body}");
            (name, sql)
        })
        .collect()
}
