//! The statements that write merged values into user tables.
//!
//! In a shared file they are *quiet*: compiled without the capture triggers, which would fire for nothing. Worse, a
//! statement that may fire triggers journals the pages that it touches. See `Quiet` for how that is done.

use crate::catalog::{Catalog, Column, KeyKind, Table};
use crate::engine::CAPTURE_TABLE;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::hasher::Seeded;
use crate::image::RowReader;
use rejoin_crdt::meta::ColSet;
use rejoin_sqlite::{Db, Stmt};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// A peer that names every set of columns does not get a statement for each.
const WRITES_MAX: usize = 64;
/// Quiet statements are compiled inside each other, so that many use that much of the stack.
const QUIET_MAX: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Insert,
    Replace,
    Update,
    Delete,
    /// Shows the key in another spelling: the new key's columns, then what names the row.
    Respell,
}

struct Write {
    table: Rc<Table>,
    way: Way,
    cols: ColSet,
    stmt: Stmt,
}

impl Write {
    fn is(&self, t: &Rc<Table>, way: Way, cols: &ColSet) -> bool {
        self.way == way && self.cols == *cols && Rc::ptr_eq(&self.table, t)
    }
}

/// All statements on user tables that merging needs.
pub struct Writers {
    db: Db,
    quiet: Quiet,
    tables: HashMap<u32, Readers, Seeded>,
    /// Last used first.
    loud: Vec<Write>,
}

struct Readers {
    table: Rc<Table>,
    find: Option<Stmt>,
    reader: Option<RowReader>,
}

impl Writers {
    pub fn new(db: Db) -> Writers {
        Writers { db, quiet: Quiet::default(), tables: HashMap::default(), loud: Vec::new() }
    }

    pub fn hush(&self) -> Hush {
        self.quiet.hush.clone()
    }

    pub fn clear(&mut self) {
        self.quiet.all.clear();
        self.tables.clear();
        self.loud.clear();
    }

    /// The statement that writes these columns, in the order of the table.
    pub fn write(&mut self, t: &Rc<Table>, at: &Place<'_>, way: Way, cols: &ColSet) -> Result<&mut Stmt> {
        // Triggers of the user's are to fire.
        if !at.owned
            && !t.user_triggers
            && let Some(i) = self.quiet.find(self.db, at.catalog, t, way, cols)?
        {
            return self.quiet.all.get_mut(i).map(|w| &mut w.stmt).ok_or_else(no_slot);
        }
        match self.loud.iter().position(|w| w.is(t, way, cols)) {
            Some(0) => {}
            Some(i) => self.loud.swap(0, i),
            None => {
                self.loud.retain(|w| at.catalog.holds(&w.table));
                let stmt = self.db.prepare(&sql(t, way, cols, false))?;
                self.loud.truncate(WRITES_MAX - 1);
                self.loud.insert(0, Write { table: Rc::clone(t), way, cols: cols.clone(), stmt });
            }
        }
        self.loud.first_mut().map(|w| &mut w.stmt).ok_or_else(no_slot)
    }

    fn readers(&mut self, t: &Rc<Table>) -> &mut Readers {
        let new = || Readers { table: Rc::clone(t), find: None, reader: None };
        let readers = self.tables.entry(t.id).or_insert_with(new);
        if !Rc::ptr_eq(&readers.table, t) {
            *readers = new();
        }
        readers
    }

    /// The rowid of a key.
    pub fn find(&mut self, t: &Rc<Table>) -> Result<&mut Stmt> {
        let db = self.db;
        let slot = &mut self.readers(t).find;
        if slot.is_none() {
            let sql = format!("SELECT {} FROM {} WHERE {}", t.rowid, t.quoted(), t.key_where(1));
            *slot = Some(db.prepare(&sql)?);
        }
        slot.as_mut().ok_or_else(no_slot)
    }

    pub fn reader(&mut self, t: &Rc<Table>) -> Result<&mut RowReader> {
        let db = self.db;
        let slot = &mut self.readers(t).reader;
        if slot.is_none() {
            *slot = Some(RowReader::new(db, t)?);
        }
        slot.as_mut().ok_or_else(no_slot)
    }
}

fn no_slot() -> Error {
    Error::damaged("statement slot")
}

/// What statements depend on beside their table.
pub struct Place<'a> {
    pub catalog: &'a Catalog,
    pub owned: bool,
}

/// Statements that fire no triggers.
///
/// Triggers can be switched off for the connection while a statement is compiled; but with each turn of that switch
/// SQLite has all statements compiled anew at their next step, this one too, triggers and all. Only the statement that
/// is being compiled while the switch is turned back keeps what it has. So that happens in the middle: the text names
/// the capture table in a branch that is never taken, SQLite asks that table for a plan after it has looked for
/// triggers, and the answer (`Hush::lift`) turns the switch. All quiet statements must stay, so all are compiled at
/// once, each inside the plan of the one before, and the last one's plan turns the switch.
///
/// What SQLite compiles anew for other reasons fires triggers again. That costs time and changes nothing, for a merge is
/// not captured; it shows in the count of compilations, and all are compiled quietly again.
#[derive(Default)]
struct Quiet {
    hush: Hush,
    all: Vec<Write>,
    /// Where the last one was found: they are mostly wanted in turn.
    last: usize,
}

impl Quiet {
    /// None: there are enough of them already.
    fn find(
        &mut self,
        db: Db,
        catalog: &Catalog,
        t: &Rc<Table>,
        way: Way,
        cols: &ColSet,
    ) -> Result<Option<usize>> {
        let (before, after) = self.all.split_at(self.last.min(self.all.len()));
        let found = after.iter().position(|w| w.is(t, way, cols)).map(|i| i + before.len());
        let found = found.or_else(|| before.iter().position(|w| w.is(t, way, cols)));
        match found {
            Some(i) if self.all[i].stmt.reprepares() == 0 || !db.trigger_enabled()? => {
                self.last = i;
                return Ok(Some(i));
            }
            Some(i) => self.all.swap(0, i),
            None => {
                self.all.retain(|w| catalog.holds(&w.table));
                if self.all.len() >= QUIET_MAX {
                    return Ok(None);
                }
            }
        }
        self.compile(db, t, way, cols)?;
        Ok(Some(0))
    }

    /// Compiles the one that is wanted, which is then the first, and all that there were before.
    fn compile(&mut self, db: Db, t: &Rc<Table>, way: Way, cols: &ColSet) -> Result<()> {
        self.last = 0;
        let mut shapes = vec![(Rc::clone(t), way, cols.clone())];
        shapes.extend(self.all.drain(..).filter(|w| !w.is(t, way, cols)).map(|w| (w.table, w.way, w.cols)));
        let texts = shapes.iter().map(|(t, way, cols)| sql(t, *way, cols, true)).collect();
        for ((table, way, cols), stmt) in shapes.into_iter().zip(self.hush.compile(db, texts)?) {
            match stmt {
                Ok(stmt) => self.all.push(Write { table, way, cols, stmt }),
                Err(e) if self.all.is_empty() => return Err(e.into()),
                // It is compiled anew, and tells its error, when it is wanted.
                Err(_) => {}
            }
        }
        Ok(())
    }
}

type Compiled = std::result::Result<Stmt, rejoin_sqlite::Error>;

#[derive(Default)]
struct Queue {
    /// Triggers are off for the statements in line.
    off: Cell<bool>,
    texts: RefCell<Vec<String>>,
    compiled: RefCell<Vec<(usize, Compiled)>>,
}

/// What SQLite's question to the capture table leads to.
#[derive(Clone, Default)]
pub struct Hush(Rc<Queue>);

impl Hush {
    /// The capture table is asked for a plan.
    pub fn lift(&self, db: Db) {
        while self.0.off.get() {
            match self.next(db) {
                Some(true) => return,
                // It was not asked for its plan: the next one is.
                Some(false) => {}
                None => {
                    self.0.off.set(false);
                    // `compile` does it if this fails.
                    let _ = db.set_triggers_enabled(true);
                }
            }
        }
    }

    /// Compiles the last one in line; whether that went well.
    fn next(&self, db: Db) -> Option<bool> {
        let (at, text) = {
            let mut texts = self.0.texts.borrow_mut();
            let text = texts.pop()?;
            (texts.len(), text)
        };
        let compiled = db.prepare(&text);
        let well = compiled.is_ok();
        self.0.compiled.borrow_mut().push((at, compiled));
        Some(well)
    }

    /// Compiles all without triggers, in their order.
    fn compile(&self, db: Db, texts: Vec<String>) -> Result<Vec<Compiled>> {
        let on = db.trigger_enabled()?;
        db.set_triggers_enabled(false)?;
        self.0.off.set(on);
        *self.0.texts.borrow_mut() = texts;
        while self.next(db).is_some() {}
        self.0.off.set(false);
        db.set_triggers_enabled(on)?;
        let mut compiled = self.0.compiled.take();
        compiled.sort_by_key(|c| c.0);
        Ok(compiled.into_iter().map(|c| c.1).collect())
    }
}

/// `WHERE` for one row: by rowid where there is one.
fn by_row(t: &Table, first: usize) -> String {
    match t.kind {
        KeyKind::Keyed => t.key_where(first),
        _ => format!("{} = ?{first}", t.rowid),
    }
}

fn sql(t: &Table, way: Way, cols: &ColSet, quiet: bool) -> String {
    let named = t.cols.iter().filter(|c: &&Column| cols.contains(c.id)).map(|c| quote(&c.name));
    let keys = t.keys.iter().map(|k| quote(&k.name));
    let set = |names: &[String]| {
        let set: Vec<String> = names.iter().enumerate().map(|(i, n)| format!("{n} = ?{}", i + 1)).collect();
        format!("UPDATE {} SET {} WHERE {}", t.quoted(), set.join(", "), by_row(t, names.len() + 1))
    };
    let only = |sql: String, names: usize| {
        let row = if t.kind == KeyKind::Keyed { t.keys.len() } else { 1 };
        match quiet {
            // The parameter stays NULL.
            true => {
                format!("{sql} AND (?{} IS NULL OR EXISTS (SELECT 1 FROM {CAPTURE_TABLE}))", names + row + 1)
            }
            false => sql,
        }
    };
    match way {
        Way::Update => {
            let names: Vec<String> = named.collect();
            only(set(&names), names.len())
        }
        Way::Respell => {
            let names: Vec<String> = keys.collect();
            only(set(&names), names.len())
        }
        Way::Delete => only(format!("DELETE FROM {} WHERE {}", t.quoted(), by_row(t, 1)), 0),
        Way::Insert => put_sql(t, "INSERT", &keys.chain(named).collect::<Vec<_>>(), quiet),
        Way::Replace => put_sql(t, "REPLACE", &keys.chain(named).collect::<Vec<_>>(), quiet),
    }
}

fn put_sql(t: &Table, verb: &str, names: &[String], quiet: bool) -> String {
    let mut marks: Vec<String> = (1..=names.len()).map(|i| format!("?{i}")).collect();
    if let Some(first) = marks.first_mut().filter(|_| quiet) {
        let never = format!("(SELECT 1 FROM {CAPTURE_TABLE})");
        *first = format!("CASE WHEN ?{} IS NULL THEN ?1 ELSE {never} END", names.len() + 1);
    }
    format!("{verb} INTO {} ({}) VALUES ({})", t.quoted(), names.join(", "), marks.join(", "))
}
