//! Tables and columns as sets of names with lives (section 5 and finding 6).
//!
//! A column is *live* (in the table), *parked* (known only from changes of others) or *ended* (dropped here).
//! The same three hold for tables. Parked and ended ones keep what arrives, for relay; a parked one comes alive
//! when a schema change makes its name, an ended one never does, because a name made again gets a new life.

use crate::row::{ColId, Row};
use rejoin_crdt::Value;
use rejoin_crdt::key::{Affinity, Fold, identity, is_canonical, stored};
use std::collections::{BTreeMap, BTreeSet};

/// One life of a name; names compare ASCII case-blind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    pub text: String,
    pub life: u32,
}

impl Name {
    pub fn new(text: &str, life: u32) -> Name {
        Name { text: text.to_ascii_lowercase(), life }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnDef {
    pub name: String,
    pub default: Value,
    /// NOT NULL without DEFAULT.
    pub not_null: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyColumn {
    pub name: String,
    pub affinity: Affinity,
    pub fold: Fold,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableDef {
    pub name: String,
    pub key: Vec<KeyColumn>,
    pub columns: Vec<ColumnDef>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State<L> {
    Live(L),
    Parked,
    Ended,
}

impl<L> State<L> {
    pub fn live(&self) -> Option<&L> {
        match self {
            State::Live(live) => Some(live),
            _ => None,
        }
    }
}

/// What tables and columns have in common: names and a state.
pub trait Named {
    fn names(&self) -> &BTreeSet<Name>;
    fn current(&self) -> Option<&str>;
    fn is_parked(&self) -> bool;
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    pub names: BTreeSet<Name>,
    pub state: State<LiveColumn>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveColumn {
    pub def: ColumnDef,
    pub position: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub names: BTreeSet<Name>,
    pub state: State<LiveTable>,
    pub columns: BTreeMap<ColId, Column>,
    /// By identity; in a table that is not live by the key as it came.
    pub rows: BTreeMap<Vec<Value>, Row>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveTable {
    pub name: String,
    pub key: Vec<KeyColumn>,
}

impl Named for Column {
    fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }
    fn current(&self) -> Option<&str> {
        self.state.live().map(|l| l.def.name.as_str())
    }
    fn is_parked(&self) -> bool {
        self.state == State::Parked
    }
}

impl Named for Table {
    fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }
    fn current(&self) -> Option<&str> {
        self.state.live().map(|l| l.name.as_str())
    }
    fn is_parked(&self) -> bool {
        self.state == State::Parked
    }
}

/// The live one that is called so now.
pub fn find<N: Named>(all: &BTreeMap<u32, N>, text: &str) -> Option<u32> {
    all.iter().find(|(_, n)| n.current().is_some_and(|c| c.eq_ignore_ascii_case(text))).map(|(id, _)| *id)
}

/// The name that a CREATE, ADD or RENAME to `text` makes: the smallest life that is free, parked, or `own`'s
/// already. It depends on the schema changes made here alone, so replicas that make the same ones agree.
pub fn new_name<N: Named>(all: &BTreeMap<u32, N>, text: &str, own: Option<u32>) -> Name {
    let free = |name: &Name| match all.iter().find(|(_, n)| n.names().contains(name)) {
        None => true,
        Some((id, n)) => Some(*id) == own || n.is_parked(),
    };
    (0..).map(|life| Name::new(text, life)).find(free).expect("lives do not run out")
}

/// What a row-wise change means by a name: the live one called so, else one that was, else the last life.
pub fn by_text<N: Named>(all: &BTreeMap<u32, N>, text: &str) -> Option<u32> {
    let text = text.to_ascii_lowercase();
    let life = |n: &N| n.names().iter().filter(|n| n.text == text).map(|n| n.life).max();
    let last = |live: bool| {
        let some = all.iter().filter(|(_, n)| n.current().is_some() == live);
        some.filter_map(|(id, n)| Some((life(n)?, *id))).max().map(|(_, id)| id)
    };
    find(all, &text).or_else(|| last(true)).or_else(|| last(false))
}

/// The name under which a row-wise change of this one reaches it again; None: it has none.
pub fn text_of<N: Named>(all: &BTreeMap<u32, N>, id: u32) -> Option<String> {
    let one = all.get(&id)?;
    if let Some(current) = one.current() {
        return Some(current.to_owned());
    }
    one.names().iter().rev().map(|n| n.text.clone()).find(|text| by_text(all, text) == Some(id))
}

/// What the names of a native change meet here.
pub enum Met {
    Nothing,
    /// This one, after uniting the others in the list with it.
    One(u32, Vec<u32>),
    /// A live one, and others that are or were live here: the schemas do not fit; the change goes to the first.
    Clash(u32),
}

pub fn meet<N: Named>(all: &BTreeMap<u32, N>, names: &BTreeSet<Name>, current: &Name) -> Met {
    let met: Vec<u32> =
        all.iter().filter(|(_, n)| !n.names().is_disjoint(names)).map(|(id, _)| *id).collect();
    let solid: Vec<u32> = met.iter().copied().filter(|id| !all[id].is_parked()).collect();
    let live = solid.iter().any(|id| all[id].current().is_some());
    match (solid.as_slice(), met.as_slice()) {
        (_, []) => Met::Nothing,
        (several, _) if live && several.len() > 1 => {
            let named = several.iter().find(|id| all[*id].names().contains(current));
            Met::Clash(*named.unwrap_or(&several[0]))
        }
        ([one, ..], _) | ([], [one, ..]) => {
            Met::One(*one, met.iter().copied().filter(|id| id != one).collect())
        }
    }
}

pub fn next_id<N>(all: &BTreeMap<u32, N>) -> u32 {
    all.last_key_value().map_or(0, |(id, _)| id + 1)
}

impl Table {
    pub fn parked(names: BTreeSet<Name>) -> Table {
        Table { names, state: State::Parked, columns: BTreeMap::new(), rows: BTreeMap::new() }
    }

    pub fn identity(&self, key: &[Value]) -> Vec<Value> {
        match &self.state {
            State::Live(live) => {
                let pairs = key.iter().zip(&live.key);
                pairs.map(|(v, k)| identity(v.as_ref(), k.affinity, k.fold)).collect()
            }
            _ => key.to_vec(),
        }
    }

    /// The key as SQLite would hold it.
    pub fn spelling(&self, key: &[Value]) -> Vec<Value> {
        match &self.state {
            State::Live(live) => {
                key.iter().zip(&live.key).map(|(v, k)| stored(v.as_ref(), k.affinity)).collect()
            }
            _ => key.to_vec(),
        }
    }

    /// The spelling that needs no sentinel (finding 2).
    pub fn is_canonical(&self, key: &[Value]) -> bool {
        let keys = self.state.live().map_or(&[][..], |l| &l.key);
        key.iter().zip(keys).all(|(v, k)| is_canonical(v.as_ref(), k.affinity, k.fold))
    }

    /// The live columns in declaration order.
    pub fn live_columns(&self) -> Vec<(ColId, &ColumnDef)> {
        let live = |(id, c): (&ColId, &'_ Column)| c.state.live().map(|l| (l.position, *id));
        let mut all: Vec<(u32, ColId)> = self.columns.iter().filter_map(live).collect();
        all.sort_unstable();
        let def = |(_, id)| Some((id, &self.columns.get(&id)?.state.live()?.def));
        all.into_iter().filter_map(def).collect()
    }

    /// Alive, and every NOT NULL column without default has a value (rule 3.7).
    pub fn is_visible(&self, row: &Row) -> bool {
        let missing = |(id, def): &(ColId, &ColumnDef)| {
            def.not_null && row.cells.get(id).is_none_or(|c| c.value.is_null())
        };
        self.state.live().is_some() && row.is_alive() && !self.live_columns().iter().any(missing)
    }

    /// What a SELECT shows: the cell's value, or the default of an unwritten one.
    pub fn shown<'a>(&'a self, row: &'a Row, col: ColId, def: &'a ColumnDef) -> &'a Value {
        row.cells.get(&col).map_or(&def.default, |c| &c.value)
    }

    pub fn add_column(&mut self, def: ColumnDef) {
        let name = new_name(&self.columns, &def.name, None);
        let parked = self.columns.iter().find(|(_, c)| c.names.contains(&name)).map(|(id, _)| *id);
        let id = parked.unwrap_or_else(|| next_id(&self.columns));
        let lived = self.columns.values().filter_map(|c| Some(c.state.live()?.position + 1)).max();
        let column =
            self.columns.entry(id).or_insert_with(|| Column { names: BTreeSet::new(), state: State::Parked });
        column.names.insert(name);
        column.state = State::Live(LiveColumn { def, position: lived.unwrap_or(0) });
    }

    pub fn drop_column(&mut self, id: ColId) {
        if let Some(column) = self.columns.get_mut(&id) {
            column.state = State::Ended;
        }
        self.rows.values_mut().for_each(|row| row.forget(id));
    }

    pub fn rename_column(&mut self, id: ColId, to: &str, equal: bool) {
        let name = new_name(&self.columns, to, Some(id));
        let parked = self.columns.iter().find(|(other, c)| **other != id && c.names.contains(&name));
        if let Some(other) = parked.map(|(other, _)| *other) {
            self.unite_columns(other, id, equal);
        }
        if let Some(column) = self.columns.get_mut(&id) {
            column.names.insert(name);
            if let State::Live(live) = &mut column.state {
                live.def.name = to.to_owned();
            }
        }
    }

    pub fn unite_columns(&mut self, from: ColId, to: ColId, equal: bool) {
        if let (Some(gone), Some(stays)) = (self.columns.remove(&from), self.columns.get_mut(&to)) {
            stays.names.extend(gone.names);
        }
        self.rows.values_mut().for_each(|row| row.unite(from, to, equal));
    }

    /// The local column of a native change's names, made as a parked one if there is none; and if they clash.
    pub fn resolve(&mut self, names: &BTreeSet<Name>, current: &Name, equal: bool) -> (ColId, bool) {
        match meet(&self.columns, names, current) {
            Met::Clash(id) => (id, true),
            Met::Nothing => {
                let id = next_id(&self.columns);
                self.columns.insert(id, Column { names: names.clone(), state: State::Parked });
                (id, false)
            }
            Met::One(id, parked) => {
                parked.into_iter().for_each(|other| self.unite_columns(other, id, equal));
                if let Some(column) = self.columns.get_mut(&id) {
                    column.names.extend(names.iter().cloned());
                }
                (id, false)
            }
        }
    }

    /// Takes over the rows of a parked table that turned out to be this one. A key of the wrong width is no
    /// key of this table.
    pub fn absorb(&mut self, other: Table, equal: bool) -> bool {
        self.names.extend(other.names);
        let mut clash = false;
        let mut ids = BTreeMap::new();
        // Twice: a later column can unite the ones that earlier columns met.
        for (id, column) in other.columns.iter().chain(&other.columns) {
            let Some(current) = column.names.last() else {
                continue;
            };
            let (to, clashed) = self.resolve(&column.names, current, equal);
            clash |= clashed;
            ids.insert(*id, to);
        }
        let width = self.state.live().map(|l| l.key.len());
        for row in other.rows.values() {
            if width.is_none_or(|w| w == row.key.len()) {
                let row = Row { key: self.spelling(&row.key), ..row.clone() };
                let mine = self.rows.entry(self.identity(&row.key)).or_default();
                mine.absorb(&row, &|col| ids.get(&col).copied().unwrap_or(col), equal);
            }
        }
        clash
    }
}
