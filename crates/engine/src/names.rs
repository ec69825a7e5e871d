//! What tables and columns are called, and were: sets of names with lives.
//!
//! `crsql_names` holds every name of every table (under `tbl` 0) and column that this file ever heard of. What a name
//! means is *here* (a replicated table, a column of one), *ended* (dropped here), or it *waits*: only changes of others
//! told of it. A name that is given here takes the smallest life of it that nothing here ever had; a peer's change
//! means what shares any of the names that come with it. The model is `rejoin_sim::schema`.

use crate::catalog::{Table, text};
use crate::core::{Core, cached};
use crate::error::{Error, Result};
use crate::parked::{Parked, Reason};
use rejoin_sqlite::{Stmt, ValueRef as Sql};
use rejoin_wire::{Name, Naming};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Under which the names of tables stand.
pub const TABLES: u32 = 0;

/// What waits is numbered from here on: the numbers of what is here stay dense, for sets of columns are made of them.
pub const WAITING: u32 = 1 << 24;

/// Added to the numbers of columns that get others.
const ASIDE: u32 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Here,
    Waits,
    Ended,
}

/// A life of a name, and the table or column that has it.
#[derive(Clone, Debug)]
struct Known {
    life: u32,
    met: Met,
}

/// The table or column that a name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    pub id: u32,
    pub state: State,
}

/// All names of one table or column.
#[derive(Clone, Debug, Default)]
pub struct Called {
    current: (String, u32),
    others: Vec<(String, u32)>,
}

impl Called {
    /// `current`: what it is called here now; of what is not here any name will do.
    fn new(mut names: Vec<(String, u32)>, current: Option<&str>) -> Called {
        names.sort_by_cached_key(|(text, life)| (text.to_ascii_lowercase(), *life));
        let at = match current {
            Some(text) => names.iter().rposition(|n| n.0.eq_ignore_ascii_case(text)),
            None => names.len().checked_sub(1),
        };
        let found = at.map(|at| names.remove(at));
        let life = found.as_ref().map_or(0, |n| n.1);
        let text = current.map(str::to_owned).or(found.map(|n| n.0)).unwrap_or_default();
        Called { current: (text, life), others: names }
    }

    pub fn naming(&self) -> Naming<'_> {
        let (text, life) = &self.current;
        let others = self.others.iter().map(|(text, life)| Name { text, life: *life });
        Naming { current: Name { text, life: *life }, others: others.collect() }
    }
}

/// Lives of names, to see what two sides share.
#[derive(Clone, Debug, Default)]
pub struct Lives(Vec<(String, u32)>);

impl Lives {
    pub fn of<'n>(names: impl IntoIterator<Item = Name<'n>>) -> Lives {
        Lives(names.into_iter().map(|n| (n.text.to_ascii_lowercase(), n.life)).collect())
    }

    pub fn meets(&self, other: &Lives) -> bool {
        self.0.iter().any(|n| other.0.contains(n))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|n| n.0.eq_ignore_ascii_case(name))
    }

    pub fn names(&self) -> impl Iterator<Item = Name<'_>> {
        self.0.iter().map(|(text, life)| Name { text, life: *life })
    }
}

/// The names that tables and columns get which are made after another's schema.
#[derive(Clone, Debug, Default)]
pub struct Given(HashMap<(String, Option<String>), (Lives, Lives)>);

impl Given {
    pub fn table(&mut self, name: &str, lives: &Lives, dropped: &Lives) {
        self.0.insert((name.to_ascii_lowercase(), None), (lives.clone(), dropped.clone()));
    }

    pub fn column(&mut self, table: &str, name: &str, lives: &Lives) {
        let at = (table.to_ascii_lowercase(), Some(name.to_ascii_lowercase()));
        self.0.insert(at, (lives.clone(), Lives::default()));
    }

    fn find(&self, table: &str, column: Option<&str>) -> Option<(Lives, Lives)> {
        let at = (table.to_ascii_lowercase(), column.map(str::to_ascii_lowercase));
        self.0.get(&at).cloned()
    }
}

/// The plus keeps SQLite from looking at the number when it plans, whether the index of the tables' names would do, and so from
/// compiling the statement again with the next number.
const SELECT: &str = "SELECT life, id, ended, CASE WHEN tbl = 0 \
     THEN EXISTS (SELECT 1 FROM main.crsql_tables AS t WHERE t.id = n.id) \
     ELSE EXISTS (SELECT 1 FROM main.crsql_columns AS c, main.crsql_tables AS t \
     WHERE t.id = n.tbl AND c.tbl = n.tbl AND c.id = n.id) END FROM main.crsql_names AS n WHERE tbl = +?1";

fn small(v: i64) -> Result<u32> {
    u32::try_from(v).map_err(|_| Error::damaged("a name"))
}

fn known(q: &mut Stmt) -> Result<Vec<Known>> {
    let mut all = Vec::new();
    while q.step()? {
        let state = match (q.column_int(2), q.column_int(3)) {
            (0, 0) => State::Waits,
            (0, _) => State::Here,
            _ => State::Ended,
        };
        all.push(Known { life: small(q.column_int(0))?, met: Met { id: small(q.column_int(1))?, state } });
    }
    q.reset();
    Ok(all)
}

fn int(v: u32) -> Sql<'static> {
    Sql::Integer(i64::from(v))
}

impl Core {
    /// All lives of a name.
    fn lives(&mut self, tbl: u32, name: &str) -> Result<Vec<Known>> {
        let sql = format!("{SELECT} AND name = ?2");
        let q = cached(&mut self.q.lives, self.db, &sql)?;
        q.bind_int(1, i64::from(tbl))?;
        q.bind_text(2, name.as_bytes())?;
        known(q)
    }

    /// What has this life of a name.
    fn life(&mut self, tbl: u32, name: Name<'_>) -> Result<Option<Met>> {
        let sql = format!("{SELECT} AND name = ?2 AND life = ?3");
        let q = cached(&mut self.q.life, self.db, &sql)?;
        q.bind_int(1, i64::from(tbl))?;
        q.bind_text(2, name.text.as_bytes())?;
        q.bind_int(3, i64::from(name.life))?;
        Ok(known(q)?.first().map(|k| k.met))
    }

    fn names_of(&mut self, tbl: u32, id: u32) -> Result<Vec<(String, u32)>> {
        // In so many words, or the index of the tables' names is not used.
        let (slot, sql) = match tbl {
            TABLES => (
                &mut self.q.names_of_table,
                "SELECT name, life FROM main.crsql_names WHERE tbl = 0 AND id = ?2",
            ),
            _ => (
                &mut self.q.names_of_column,
                "SELECT name, life FROM main.crsql_names WHERE tbl = +?1 AND id = ?2",
            ),
        };
        let mut all = Vec::new();
        cached(slot, self.db, sql)?.with_bound(&[int(tbl), int(id)], |q| {
            while q.step()? {
                all.push((text(q.column_text(0)), small(q.column_int(1))));
            }
            Ok(())
        })?;
        all.into_iter().map(|(name, life)| Ok((name, life?))).collect()
    }

    /// Whether a column of a table that is here is here, too.
    pub fn column_state(&self, tbl: u32, id: u32) -> Result<State> {
        if self.catalog.get(tbl).is_some_and(|t| t.column_by_id(id).is_some()) {
            return Ok(State::Here);
        }
        let sql = "SELECT 1 FROM main.crsql_names WHERE tbl = ?1 AND id = ?2 AND ended = 1";
        let mut q = self.db.prepare_transient(sql)?;
        q.bind_int(1, i64::from(tbl))?;
        q.bind_int(2, i64::from(id))?;
        Ok(if q.step()? { State::Ended } else { State::Waits })
    }

    /// What a row-wise change would call a column of a table that is here; of one that has no such name any.
    pub fn column_name(&mut self, t: &Table, id: u32) -> Result<String> {
        if let Some(text) = self.text_of(t.id, id)? {
            return Ok(text);
        }
        Ok(self.names_of(t.id, id)?.pop().map(|n| n.0).unwrap_or_default())
    }

    /// The table that is here and meant by a name without a life.
    pub fn table_by_text(&mut self, name: &str) -> Result<Option<Rc<Table>>> {
        let met = self.by_text(TABLES, name)?;
        Ok(met.and_then(|met| self.catalog.get(met.id)).cloned())
    }

    /// The table that is here and that a peer means by these names. Nothing is learned from them.
    pub fn table_of(&mut self, naming: &Naming<'_>) -> Result<Option<Rc<Table>>> {
        for name in naming.all() {
            if let Some(Met { id, state: State::Here }) = self.life(TABLES, name)? {
                return Ok(self.catalog.get(id).cloned());
            }
        }
        Ok(None)
    }

    /// All names of all tables and columns, as a number.
    pub fn names_hash(&mut self) -> Result<u64> {
        let sql = "SELECT tbl, name, life, id, ended FROM main.crsql_names ORDER BY tbl, name, life";
        let mut hasher = DefaultHasher::new();
        cached(&mut self.q.all_names, self.db, sql)?.with_bound(&[], |q| {
            while q.step()? {
                q.column_text(1).hash(&mut hasher);
                [0, 2, 3, 4].map(|column| q.column_int(column)).hash(&mut hasher);
            }
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    /// The names of a table.
    pub fn table_called(&mut self, id: u32) -> Result<Called> {
        let names = self.names_of(TABLES, id)?;
        Ok(Called::new(names, self.catalog.get(id).map(|t| t.name.as_str())))
    }

    /// The names of each of a table's columns: those that are here, and others.
    pub fn columns_called(&mut self, tbl: u32) -> Result<BTreeMap<u32, Called>> {
        let sql = "SELECT id, name, life FROM main.crsql_names WHERE tbl = +?1";
        let q = cached(&mut self.q.names_of_columns, self.db, sql)?;
        let mut rows = Vec::new();
        q.with_bound(&[int(tbl)], |q| {
            while q.step()? {
                rows.push((small(q.column_int(0)), text(q.column_text(1)), small(q.column_int(2))));
            }
            Ok(())
        })?;
        let mut all: BTreeMap<u32, Vec<(String, u32)>> = BTreeMap::new();
        for (id, name, life) in rows {
            all.entry(id?).or_default().push((name, life?));
        }
        let t = self.catalog.get(tbl);
        let current = |id| t.and_then(|t| t.column_by_id(id)).map(|c| c.name.as_str());
        Ok(all.into_iter().map(|(id, names)| (id, Called::new(names, current(id)))).collect())
    }

    /// What a row-wise change means by a name, which says no life: what is called so here, else what was, else the
    /// last life of the name.
    pub fn by_text(&mut self, tbl: u32, name: &str) -> Result<Option<Met>> {
        let here = |id| Some(Met { id, state: State::Here });
        if tbl == TABLES {
            if let Some(t) = self.catalog.find(name) {
                return Ok(here(t.id));
            }
        } else if let Some(c) = self.catalog.get(tbl).and_then(|t| t.column(name)) {
            return Ok(here(c.id));
        }
        let lives = self.lives(tbl, name)?;
        let last = |here: bool| {
            let some = lives.iter().filter(|k| (k.met.state == State::Here) == here);
            some.max_by_key(|k| k.life).map(|k| k.met)
        };
        Ok(last(true).or_else(|| last(false)))
    }

    /// The same; a name that nothing ever had waits from now on.
    pub fn by_text_or_waits(&mut self, tbl: u32, name: &str) -> Result<Met> {
        if let Some(met) = self.by_text(tbl, name)? {
            return Ok(met);
        }
        let met = Met { id: self.next_waiting(tbl)?, state: State::Waits };
        self.put_name(tbl, Name { text: name, life: 0 }, met)?;
        Ok(met)
    }

    /// The name under which a row-wise change of this reaches it again; None: it has none.
    pub fn text_of(&mut self, tbl: u32, id: u32) -> Result<Option<String>> {
        let here = match tbl {
            TABLES => self.catalog.get(id).map(|t| t.name.clone()),
            _ => self.catalog.get(tbl).and_then(|t| t.column_by_id(id)).map(|c| c.name.clone()),
        };
        if here.is_some() {
            return Ok(here);
        }
        let mut names = self.names_of(tbl, id)?;
        names.sort_by_cached_key(|(text, life)| (text.to_ascii_lowercase(), *life));
        for (text, _) in names.into_iter().rev() {
            if self.by_text(tbl, &text)?.is_some_and(|met| met.id == id) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The life that a name gets when it is given here, and what waits under it: the smallest that is free, waits, or
    /// is `own`'s already. It depends on what was done here alone, so replicas that make the same changes agree.
    fn new_life(&mut self, tbl: u32, name: &str, own: Option<u32>) -> Result<(u32, Option<u32>)> {
        let lives = self.lives(tbl, name)?;
        for life in 0.. {
            match lives.iter().find(|k| k.life == life).map(|k| k.met) {
                None => return Ok((life, None)),
                Some(met) if Some(met.id) == own => return Ok((life, None)),
                Some(Met { id, state: State::Waits }) => return Ok((life, Some(id))),
                Some(_) => {}
            }
        }
        Err(Error::damaged("the lives of a name"))
    }

    /// Gives what is here a name. What waited under it is joined.
    pub fn give_name(&mut self, tbl: u32, id: u32, name: &str) -> Result<()> {
        let to = Met { id, state: State::Here };
        match self.new_life(tbl, name, Some(id))? {
            (_, Some(waits)) => self.join(tbl, waits, to),
            (life, None) => self.put_name(tbl, Name { text: name, life }, to),
        }
    }

    /// Names a new table: as the schema says that it was made after, or by its name alone.
    pub fn name_table(&mut self, id: u32, table: &str) -> Result<()> {
        let Some((lives, dropped)) = self.given.find(table, None) else {
            return self.give_name(TABLES, id, table);
        };
        self.take_names(TABLES, id, &lives)?;
        for name in dropped.names() {
            if self.life(id, name)?.is_none() {
                let ended = Met { id: self.next_waiting(id)?, state: State::Ended };
                self.put_name(id, name, ended)?;
            }
        }
        Ok(())
    }

    /// Names a new column.
    pub fn name_column(&mut self, tbl: u32, id: u32, table: &str, column: &str) -> Result<()> {
        match self.given.find(table, Some(column)) {
            Some((lives, _)) => self.take_names(tbl, id, &lives),
            None => self.give_name(tbl, id, column),
        }
    }

    fn take_names(&mut self, tbl: u32, id: u32, lives: &Lives) -> Result<()> {
        let to = Met { id, state: State::Here };
        for name in lives.names() {
            match self.life(tbl, name)? {
                None => self.put_name(tbl, name, to)?,
                Some(met) if met.id == id => {}
                Some(Met { id: from, state: State::Waits }) => self.join(tbl, from, to)?,
                Some(other) => {
                    let naming = Naming { current: name, others: Vec::new() };
                    return Err(self.incompatible(tbl, to, other, &naming));
                }
            }
        }
        Ok(())
    }

    /// Names of tables or columns that were dropped here.
    pub fn dropped(&self, tbl: u32) -> Result<Lives> {
        let mut all = Lives::default();
        if !self.ready {
            return Ok(all);
        }
        let sql = "SELECT name, life FROM main.crsql_names WHERE tbl = ?1 AND ended = 1 ORDER BY name, life";
        let mut q = self.db.prepare_transient(sql)?;
        q.bind_int(1, i64::from(tbl))?;
        while q.step()? {
            all.0.push((text(q.column_text(0)).to_ascii_lowercase(), small(q.column_int(1))?));
        }
        Ok(all)
    }

    /// What waits under the name that a new table or column gets.
    pub fn waits_for(&mut self, tbl: u32, name: &str) -> Result<Option<u32>> {
        Ok(self.new_life(tbl, name, None)?.1)
    }

    fn put_name(&mut self, tbl: u32, name: Name<'_>, of: Met) -> Result<()> {
        let sql =
            "INSERT OR IGNORE INTO main.crsql_names(tbl, name, life, id, ended) VALUES (?1, ?2, ?3, ?4, ?5)";
        let ended = Sql::Integer(i64::from(of.state == State::Ended));
        let text = Sql::Text(name.text.as_bytes());
        self.names_written += 1;
        Ok(self.db.prepare_transient(sql)?.run(&[int(tbl), text, int(name.life), int(of.id), ended])?)
    }

    /// What was dropped keeps its names, so that nothing else gets them.
    pub fn end_names(&mut self, tbl: u32, id: u32) -> Result<()> {
        let sql = "UPDATE main.crsql_names SET ended = 1 WHERE tbl = ?1 AND id = ?2";
        self.names_written += 1;
        Ok(self.db.prepare_transient(sql)?.run(&[int(tbl), int(id)])?)
    }

    fn next_waiting(&self, tbl: u32) -> Result<u32> {
        let mut q = self.db.prepare_transient("SELECT max(id) FROM main.crsql_names WHERE tbl = ?1")?;
        q.bind_int(1, i64::from(tbl))?;
        q.step()?;
        small(q.column_int(0).max(i64::from(WAITING) - 1) + 1)
    }

    /// The next dense number of a column.
    pub fn next_column(&self, tbl: u32) -> Result<u32> {
        let mut q = self.db.prepare_transient(
            "SELECT coalesce(max(id), -1) + 1 FROM main.crsql_names WHERE tbl = ?1 AND id < ?2",
        )?;
        q.bind_int(1, i64::from(tbl))?;
        q.bind_int(2, i64::from(WAITING))?;
        q.step()?;
        small(q.column_int(0))
    }

    /// What a peer means by these names. It gets those of them that are new here; what only waited is joined with it.
    pub fn meet(&mut self, tbl: u32, naming: &Naming<'_>) -> Result<Met> {
        let mut met: Vec<Met> = Vec::new();
        let mut fresh: Vec<Name<'_>> = Vec::new();
        for name in naming.all() {
            match self.life(tbl, name)? {
                None => fresh.push(name),
                Some(one) if met.contains(&one) => {}
                Some(one) => met.push(one),
            }
        }
        met.sort_by_key(|m| (m.state == State::Waits, m.state == State::Ended, m.id));
        let mut solid = met.iter().filter(|m| m.state != State::Waits);
        if let (Some(a), Some(b)) = (solid.next(), solid.next())
            && a.state == State::Here
        {
            return Err(self.incompatible(tbl, *a, *b, naming));
        }
        let to = match met.first() {
            Some(first) => *first,
            None => Met { id: self.next_waiting(tbl)?, state: State::Waits },
        };
        for other in met.iter().skip(1) {
            self.join(tbl, other.id, to)?;
        }
        for name in fresh {
            self.put_name(tbl, name, to)?;
        }
        Ok(to)
    }

    /// The same of all columns of a table. Two that the peer has cannot be one here.
    pub fn meet_columns(&mut self, tbl: u32, columns: &[Naming<'_>], waiting: bool) -> Result<Vec<Met>> {
        let mut all: Vec<Met> = Vec::with_capacity(columns.len());
        for naming in columns {
            all.push(self.meet(tbl, naming)?);
        }
        let mut seen = BTreeMap::new();
        for (met, naming) in all.iter().zip(columns).filter(|(m, _)| !waiting && m.state == State::Here) {
            if let Some(other) = seen.insert(met.id, naming) {
                let table = self.text_of(TABLES, tbl)?;
                let two = [other, naming].map(|n: &Naming<'_>| format!("\"{}\"", n.current.text));
                let one = format!("\"{}\"", self.text_of(tbl, met.id)?.unwrap_or_default());
                return Err(Error::Incompatible { table, one, two, two_here: false });
            }
        }
        // What waited may have been joined by the names of a later column.
        for (met, naming) in all.iter_mut().zip(columns).filter(|(m, _)| m.state != State::Here) {
            *met = self.meet(tbl, naming)?;
        }
        Ok(all)
    }

    fn incompatible(&mut self, tbl: u32, a: Met, b: Met, naming: &Naming<'_>) -> Error {
        let mut say = |met: Met| {
            let name = match self.text_of(tbl, met.id) {
                Ok(Some(name)) => name,
                _ => self.names_of(tbl, met.id).ok().and_then(|n| n.into_iter().next()).unwrap_or_default().0,
            };
            let gone = if met.state == State::Ended { " (dropped)" } else { "" };
            format!("\"{name}\"{gone}")
        };
        let two = [say(a), say(b)];
        let table = match tbl {
            TABLES => None,
            _ => self.text_of(TABLES, tbl).ok().flatten(),
        };
        let one = format!("\"{}\"", naming.current.text);
        Error::Incompatible { table, one, two, two_here: true }
    }

    /// What waits under `from`, or ended, becomes a part of `to`.
    fn join(&mut self, tbl: u32, from: u32, to: Met) -> Result<()> {
        if tbl == TABLES {
            self.join_tables(from, to)?;
        } else {
            for p in self.parked_of_column(tbl, from)? {
                self.unpark(p.id)?;
                self.keep(&Parked { col: Some(to.id), ..p }, Reason::of(State::Here, to.state))?;
            }
            let sql = "DELETE FROM main.crsql_columns WHERE tbl = ?1 AND id = ?2";
            self.db.prepare_transient(sql)?.run(&[int(tbl), int(from)])?;
        }
        self.names_written += 1;
        let ended = Sql::Integer(i64::from(to.state == State::Ended));
        let sql = "UPDATE main.crsql_names SET id = ?3, ended = ?4 WHERE tbl = ?1 AND id = ?2";
        self.db.prepare_transient(sql)?.run(&[int(tbl), int(from), int(to.id), ended])?;
        self.parked_tried = None;
        Ok(())
    }

    /// Columns and changes of a table that turned out to be another one.
    fn join_tables(&mut self, from: u32, to: Met) -> Result<()> {
        self.names_written += 1;
        let columns = self.columns_called(from)?;
        let mut met = BTreeMap::new();
        // Twice: a later column can join the ones that earlier columns met.
        for (id, called) in columns.iter().chain(&columns) {
            met.insert(*id, self.meet(to.id, &called.naming())?);
        }
        for p in self.parked_of_table(from)? {
            self.unpark(p.id)?;
            let column = p.col.and_then(|col| met.get(&col).copied());
            let state = column.map_or(State::Here, |c| c.state);
            // A column that is unknown here is found out when the change is tried.
            let reason = if to.state == State::Ended { Reason::of(to.state, state) } else { Reason::NoTable };
            self.keep(&Parked { table: to.id, col: column.map(|c| c.id), ..p }, reason)?;
        }
        for table in ["crsql_names", "crsql_columns"] {
            let sql = format!("DELETE FROM main.{table} WHERE tbl = ?1");
            self.db.prepare_transient(&sql)?.run(&[int(from)])?;
        }
        Ok(())
    }

    /// Makes room for other numbers of a table's columns.
    pub fn set_columns_aside(&mut self, tbl: u32) -> Result<()> {
        self.names_written += 1;
        let numbers = [int(tbl), int(ASIDE), int(WAITING)];
        for sql in [
            "UPDATE main.crsql_names SET id = id + ?2 WHERE tbl = ?1 AND id < ?3",
            "UPDATE main.crsql_waiting SET col = col + ?2 WHERE tbl = ?1 AND col BETWEEN 0 AND ?3 - 1",
        ] {
            self.db.prepare_transient(sql)?.run(&numbers)?;
        }
        Ok(self.db.prepare_transient("DELETE FROM main.crsql_columns WHERE tbl = ?1")?.run(&[int(tbl)])?)
    }

    /// A column that was set aside gets another number.
    pub fn take_back_column(&mut self, tbl: u32, old: u32, id: u32) -> Result<()> {
        self.names_written += 1;
        for sql in [
            "UPDATE main.crsql_names SET id = ?3 WHERE tbl = ?1 AND id = ?2",
            "UPDATE main.crsql_waiting SET col = ?3 WHERE tbl = ?1 AND col = ?2",
        ] {
            self.db.prepare_transient(sql)?.run(&[int(tbl), int(ASIDE + old), int(id)])?;
        }
        Ok(())
    }

    /// What is still aside was dropped: it does not need a dense number.
    pub fn leave_columns_aside(&mut self, tbl: u32) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "SELECT DISTINCT id, (SELECT max(id) FROM main.crsql_names WHERE tbl = ?1 AND id < ?2) \
             FROM main.crsql_names WHERE tbl = ?1 AND id >= ?2",
        )?;
        q.bind_int(1, i64::from(tbl))?;
        q.bind_int(2, i64::from(ASIDE))?;
        let mut left = Vec::new();
        while q.step()? {
            left.push((small(q.column_int(0))?, small(q.column_int(1))?.max(WAITING - 1)));
        }
        drop(q);
        for (n, (id, last)) in left.into_iter().enumerate() {
            self.take_back_column(tbl, id - ASIDE, last + 1 + n as u32)?;
        }
        Ok(())
    }

    /// A table that becomes replicated again goes on as `to`, with everything that it was.
    pub fn renumber_table(&mut self, from: u32, to: u32) -> Result<()> {
        self.names_written += 1;
        for table in ["crsql_names", "crsql_columns", "crsql_waiting", "crsql_wanted"] {
            let sql = format!("UPDATE main.{table} SET tbl = ?2 WHERE tbl = ?1");
            self.db.prepare_transient(&sql)?.run(&[int(from), int(to)])?;
        }
        let sql = "UPDATE main.crsql_names SET id = ?2 WHERE tbl = 0 AND id = ?1";
        Ok(self.db.prepare_transient(sql)?.run(&[int(from), int(to)])?)
    }
}
