//! One database: its tables, its clock, its transaction log.

use crate::row::{ColId, Row, Stamp};
use crate::schema::{self, ColumnDef, LiveTable, State, Table, TableDef};
use rejoin_crdt::limits::Poison;
use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, Value, chain, hlc};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Hlc,
    Lamport,
}

/// A row that crsql_commit_alter finds: its key and its columns.
pub type NewRow = (Vec<Value>, Vec<(String, Value)>);

/// A local statement. Keys and values are as SQLite holds them, after column affinity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    CreateTable(TableDef),
    DropTable {
        table: String,
    },
    RenameTable {
        table: String,
        to: String,
    },
    AddColumn {
        table: String,
        column: ColumnDef,
    },
    DropColumn {
        table: String,
        column: String,
    },
    RenameColumn {
        table: String,
        column: String,
        to: String,
    },
    Insert {
        table: String,
        key: Vec<Value>,
        values: Vec<(String, Value)>,
        or_replace: bool,
    },
    Update {
        table: String,
        key: Vec<Value>,
        set: Vec<(String, Value)>,
    },
    SetKey {
        table: String,
        key: Vec<Value>,
        to: Vec<Value>,
        set: Vec<(String, Value)>,
        or_replace: bool,
    },
    Delete {
        table: String,
        key: Vec<Value>,
    },
    /// What crsql_commit_alter finds: rows inserted and rows vanished since crsql_begin_alter.
    CommitAlter {
        table: String,
        inserted: Vec<NewRow>,
        vanished: Vec<Vec<Value>>,
    },
}

/// Why a statement failed; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpError {
    NoTable,
    NoColumn,
    NameTaken,
    KeyWidth,
    /// UNIQUE constraint failed.
    Unique,
    NotNull,
    Poison(Poison),
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpError::NoTable => f.write_str("no such table"),
            OpError::NoColumn => f.write_str("no such column"),
            OpError::NameTaken => f.write_str("the name is taken"),
            OpError::KeyWidth => f.write_str("the key has another number of columns"),
            OpError::Unique => f.write_str("UNIQUE constraint failed"),
            OpError::NotNull => f.write_str("NOT NULL constraint failed"),
            OpError::Poison(poison) => poison.fmt(f),
        }
    }
}

impl std::error::Error for OpError {}

/// One origin version and the batch that holds what it changed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub site: SiteId,
    pub version: u64,
    pub batch: u64,
}

/// The open transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Open {
    pub seq: i64,
    pub pending: i64,
    /// The largest db_version that something of the transaction has.
    pub last: i64,
    pub clock: Option<i64>,
    pub rows_impacted: u64,
    pub touched: bool,
    pub altered: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    pub site: SiteId,
    pub clock: Clock,
    pub merge_equal_values: bool,
    /// Wall time in Unix milliseconds; the caller moves it.
    pub now_ms: i64,
    /// How far a col_version may lie ahead of `now_ms`.
    pub drift_ms: i64,
    /// A peer's names joined two living tables or columns of ours.
    pub incompatible: bool,
    pub(crate) db_version: i64,
    /// Batches of commits that ended.
    pub(crate) batches: u64,
    /// The largest col_version ever minted or merged.
    pub(crate) largest: i64,
    pub(crate) tables: BTreeMap<u32, Table>,
    pub(crate) vector: VersionVector,
    pub(crate) log: Vec<Entry>,
    pub(crate) hashes: BTreeMap<(SiteId, u64), u64>,
    pub(crate) nonces: BTreeMap<(SiteId, u64), u64>,
    pub(crate) horizon: VersionVector,
    pub(crate) open: Open,
}

impl Replica {
    pub fn new(site: SiteId) -> Replica {
        Replica {
            site,
            clock: Clock::Hlc,
            merge_equal_values: false,
            now_ms: hlc::EPOCH_MS,
            drift_ms: rejoin_crdt::limits::DRIFT_MS,
            incompatible: false,
            db_version: 0,
            batches: 0,
            largest: 0,
            tables: BTreeMap::new(),
            vector: VersionVector::new(),
            log: Vec::new(),
            hashes: BTreeMap::new(),
            nonces: BTreeMap::new(),
            horizon: VersionVector::new(),
            open: Open::default(),
        }
    }

    /// crsql_db_version(): inside a transaction still the old one.
    pub fn db_version(&self) -> i64 {
        self.db_version
    }

    /// crsql_next_db_version([v]).
    pub fn next_db_version(&mut self, at_least: i64) -> i64 {
        self.open.pending = self.open.pending.max(self.db_version + 1).max(at_least);
        self.open.pending
    }

    pub fn rows_impacted(&self) -> u64 {
        self.open.rows_impacted
    }

    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// The transaction that came last into the log.
    pub fn newest(&self) -> Option<(SiteId, u64)> {
        self.log.last().map(|e| (e.site, e.version))
    }

    /// Executes one statement in the open transaction. A statement that fails changes nothing.
    pub fn apply(&mut self, op: Op) -> Result<(), OpError> {
        let equal = self.merge_equal_values;
        match op {
            Op::CreateTable(def) => self.create_table(def),
            Op::DropTable { table } => self.drop_table(&table),
            Op::RenameTable { table, to } => self.rename_table(&table, &to),
            Op::AddColumn { table, column } => {
                let t = self.table_mut(&table)?;
                if schema::find(&t.columns, &column.name).is_some() {
                    return Err(OpError::NameTaken);
                }
                t.add_column(column);
                Ok(())
            }
            Op::DropColumn { table, column } => {
                let (t, id) = self.column_mut(&table, &column)?;
                t.drop_column(id);
                Ok(())
            }
            Op::RenameColumn { table, column, to } => {
                let (t, id) = self.column_mut(&table, &column)?;
                if schema::find(&t.columns, &to).is_some() {
                    return Err(OpError::NameTaken);
                }
                t.rename_column(id, &to, equal);
                Ok(())
            }
            Op::Insert { table, key, values, or_replace } => self.insert(&table, &key, &values, or_replace),
            Op::Update { table, key, set } => self.update(&table, &key, &set),
            Op::SetKey { table, key, to, set, or_replace } => {
                self.set_key(&table, &key, &to, &set, or_replace)
            }
            Op::Delete { table, key } => self.delete(&table, &key),
            Op::CommitAlter { table, inserted, vanished } => self.commit_alter(&table, &inserted, &vanished),
        }
    }

    /// Ends the open transaction; `nonce` is its random number. True: it wrote something.
    pub fn commit(&mut self, nonce: u64) -> bool {
        let open = std::mem::take(&mut self.open);
        if open.altered {
            self.log_own(self.batches + 1, nonce);
        }
        if open.touched {
            self.log_own(self.batches + 2, nonce);
            self.db_version = open.last;
        }
        let wrote = open.touched || open.altered;
        self.batches += if wrote { 2 } else { 0 };
        wrote
    }

    /// The next origin version of this site.
    pub(crate) fn log_own(&mut self, batch: u64, nonce: u64) {
        let version = self.vector.max(&self.site) + 1;
        let previous = self.hashes.get(&(self.site, version - 1)).copied().unwrap_or(0);
        self.hashes.insert((self.site, version), chain::next(previous, version, nonce));
        self.nonces.insert((self.site, version), nonce);
        self.vector.insert(self.site, version);
        self.log.push(Entry { site: self.site, version, batch });
    }

    pub(crate) fn table_id(&self, table: &str) -> Result<u32, OpError> {
        schema::find(&self.tables, table).ok_or(OpError::NoTable)
    }

    fn table_mut(&mut self, table: &str) -> Result<&mut Table, OpError> {
        let id = self.table_id(table)?;
        self.tables.get_mut(&id).ok_or(OpError::NoTable)
    }

    fn column_mut(&mut self, table: &str, column: &str) -> Result<(&mut Table, ColId), OpError> {
        let t = self.table_mut(table)?;
        let id = schema::find(&t.columns, column).ok_or(OpError::NoColumn)?;
        Ok((t, id))
    }

    fn create_table(&mut self, def: TableDef) -> Result<(), OpError> {
        if self.table_id(&def.name).is_ok() {
            return Err(OpError::NameTaken);
        }
        let name = schema::new_name(&self.tables, &def.name, None);
        let parked = self.tables.iter().find(|(_, t)| t.names.contains(&name)).map(|(id, _)| *id);
        let live = LiveTable { name: def.name, key: def.key };
        let mut table = Table::parked(BTreeSet::from([name]));
        table.state = State::Live(live);
        def.columns.into_iter().for_each(|column| table.add_column(column));
        let id = parked.unwrap_or_else(|| schema::next_id(&self.tables));
        if let Some(parked) = self.tables.remove(&id) {
            self.incompatible |= table.absorb(parked, self.merge_equal_values);
        }
        self.tables.insert(id, table);
        Ok(())
    }

    fn drop_table(&mut self, table: &str) -> Result<(), OpError> {
        let t = self.table_mut(table)?;
        *t = Table { state: State::Ended, ..Table::parked(std::mem::take(&mut t.names)) };
        Ok(())
    }

    fn rename_table(&mut self, table: &str, to: &str) -> Result<(), OpError> {
        let id = self.table_id(table)?;
        if self.table_id(to).is_ok() {
            return Err(OpError::NameTaken);
        }
        let name = schema::new_name(&self.tables, to, Some(id));
        let parked = self.tables.iter().find(|(other, t)| **other != id && t.names.contains(&name));
        let parked = parked.map(|(other, _)| *other).and_then(|other| self.tables.remove(&other));
        let equal = self.merge_equal_values;
        let Some(t) = self.tables.get_mut(&id) else {
            return Err(OpError::NoTable);
        };
        t.names.insert(name);
        if let State::Live(live) = &mut t.state {
            live.name = to.to_owned();
        }
        if let Some(parked) = parked {
            self.incompatible |= t.absorb(parked, equal);
        }
        Ok(())
    }

    /// The rows that a SELECT shows, by key identity: the key as spelled, and the columns in order.
    pub fn rows(&self, table: &str) -> Option<BTreeMap<Vec<Value>, Vec<Value>>> {
        let t = self.tables.get(&self.table_id(table).ok()?)?;
        let columns = t.live_columns();
        let show = |(id, row): (&Vec<Value>, &Row)| {
            let values = columns.iter().map(|(col, def)| t.shown(row, *col, def).clone());
            (id.clone(), row.key.iter().cloned().chain(values).collect())
        };
        Some(t.rows.iter().filter(|(_, row)| t.is_visible(row)).map(show).collect())
    }

    /// The columns beside the key, in order.
    pub fn columns(&self, table: &str) -> Option<Vec<ColumnDef>> {
        let t = self.tables.get(&self.table_id(table).ok()?)?;
        Some(t.live_columns().into_iter().map(|(_, def)| def.clone()).collect())
    }

    /// The identity of a key of this table; None: it has another width.
    pub fn identity(&self, table: &str, key: &[Value]) -> Option<Vec<Value>> {
        let t = self.tables.get(&self.table_id(table).ok()?)?;
        (t.state.live()?.key.len() == key.len()).then(|| t.identity(key))
    }

    /// The tables that there are, with their columns (key columns left out).
    pub fn schema(&self) -> BTreeMap<String, Vec<String>> {
        let live = |t: &Table| {
            let columns = t.live_columns().into_iter().map(|(_, def)| def.name.to_ascii_lowercase());
            Some((t.state.live()?.name.to_ascii_lowercase(), columns.collect()))
        };
        self.tables.values().filter_map(live).collect()
    }

    /// The metadata of the living tables: per table, key identity and column ("-1": the sentinel).
    pub fn metadata(&self) -> BTreeMap<(String, Vec<Value>, String), Meta> {
        let mut all = BTreeMap::new();
        for t in self.tables.values() {
            let Some(live) = t.state.live() else { continue };
            for (id, row) in &t.rows {
                let at = |column: &str| (live.name.to_ascii_lowercase(), id.clone(), column.to_owned());
                let meta = |value, col_version, stamp: &Stamp| Meta {
                    cl: row.cl,
                    value,
                    col_version,
                    site: stamp.site,
                    seq: stamp.seq,
                };
                if let Some(stamp) = &row.sentinel {
                    all.insert(at("-1"), meta(Value::Null, i64::from(row.cl), stamp));
                }
                for (col, def) in t.live_columns() {
                    if let Some(cell) = row.cells.get(&col) {
                        let name = def.name.to_ascii_lowercase();
                        all.insert(at(&name), meta(cell.value.clone(), cell.col_version, &cell.stamp));
                    }
                }
            }
        }
        all
    }
}

/// Metadata of one cell or sentinel that replicas must agree on with merge-equal-values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    pub cl: u32,
    pub value: Value,
    pub col_version: i64,
    pub site: SiteId,
    pub seq: i64,
}
