//! What the file's schema is, and what of it is replicated.

use crate::error::{Error, Result};
use crate::format::quote;
use crate::hasher::Seeded;
use rejoin_crdt::key::{Affinity, Fold};
use rejoin_crdt::meta::ColSet;
use rejoin_sqlite::{Db, ValueRef};
use std::collections::HashMap;
use std::rc::Rc;

/// Where a table's metadata is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// The key is the rowid: blocks by rowid hold living and deleted rows.
    RowId,
    /// A rowid table with another key: blocks by rowid hold the living rows, key blocks the rest.
    Hashed,
    /// WITHOUT ROWID: key blocks hold all rows.
    Keyed,
}

impl KeyKind {
    pub fn number(self) -> i64 {
        match self {
            KeyKind::RowId => 0,
            KeyKind::Hashed => 1,
            KeyKind::Keyed => 2,
        }
    }

    pub fn has_rows(self) -> bool {
        self != KeyKind::Keyed
    }

    pub fn has_keys(self) -> bool {
        self != KeyKind::RowId
    }
}

#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub name: String,
    /// Position in the table.
    pub pos: usize,
    pub affinity: Affinity,
    pub fold: Fold,
}

#[derive(Clone, Debug)]
pub struct Column {
    /// Local id, never used again after a DROP.
    pub id: u32,
    pub name: String,
    pub pos: usize,
    /// NOT NULL without DEFAULT: a row without a value for it cannot exist.
    pub required: bool,
    pub default: Option<String>,
    pub decl: String,
}

/// A replicated table as it is now.
#[derive(Debug)]
pub struct Table {
    pub id: u32,
    pub name: String,
    pub kind: KeyKind,
    /// In key order.
    pub keys: Vec<KeyColumn>,
    /// Columns beside the key and not generated, by ascending position.
    pub cols: Vec<Column>,
    pub col_set: ColSet,
    /// Column ids ascend with the position, as they do until columns are moved by a rebuild.
    pub ordered: bool,
    /// A name of the rowid that no column hides; empty for WITHOUT ROWID.
    pub rowid: &'static str,
    /// No key column has a collation that makes different spellings one key.
    pub plain: bool,
    /// Triggers of the user's own, which must fire on merged writes too.
    pub user_triggers: bool,
    /// No capture triggers stand on it although the file is shared.
    pub unwatched: bool,
    /// An owned file's table was made anew, and its rows have not been compared with the metadata yet.
    pub rebuilt: bool,
    /// What a column holds that counts as new has not been compared with its default yet.
    pub unsure: bool,
    /// The text that made it.
    pub sql: String,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.cols.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    pub fn column_by_id(&self, id: u32) -> Option<&Column> {
        if self.ordered {
            return self.cols.binary_search_by_key(&id, |c| c.id).ok().map(|i| &self.cols[i]);
        }
        self.cols.iter().find(|c| c.id == id)
    }

    pub fn rows_table(&self) -> String {
        format!("main.crsql_rows_{}", self.id)
    }

    pub fn keys_table(&self) -> String {
        format!("main.crsql_keys_{}", self.id)
    }

    pub fn quoted(&self) -> String {
        format!("main.{}", quote(&self.name))
    }

    /// `k1, k2` as quoted names with a prefix such as `NEW.`.
    pub fn key_list(&self, prefix: &str) -> String {
        let names: Vec<String> = self.keys.iter().map(|k| format!("{prefix}{}", quote(&k.name))).collect();
        names.join(", ")
    }

    /// `k1 = ?1 AND k2 = ?2`, counting from `first`.
    pub fn key_where(&self, first: usize) -> String {
        let eq = |(i, k): (usize, &KeyColumn)| format!("{} IS ?{}", quote(&k.name), first + i);
        self.keys.iter().enumerate().map(eq).collect::<Vec<_>>().join(" AND ")
    }
}

/// One column as SQLite describes it.
#[derive(Clone, Debug)]
pub struct LiveColumn {
    pub name: String,
    pub decl_type: String,
    pub not_null: bool,
    pub default: Option<String>,
    /// 1-based place in the key, 0 if none.
    pub pk: usize,
    pub generated: bool,
}

impl LiveColumn {
    /// What of a column must be equal on all replicas; also tells a rename from a drop and an add.
    pub fn decl(&self) -> String {
        let default = self.default.as_deref().unwrap_or("");
        format!("{}|{}|{}", self.decl_type.to_ascii_uppercase(), u8::from(self.not_null), default)
    }
}

/// A table as SQLite describes it.
#[derive(Clone, Debug)]
pub struct LiveTable {
    pub name: String,
    pub sql: String,
    pub root: i64,
    pub without_rowid: bool,
    pub strict: bool,
    pub columns: Vec<LiveColumn>,
}

pub fn text(v: &[u8]) -> String {
    String::from_utf8_lossy(v).into_owned()
}

pub fn describe(db: Db, name: &str) -> Result<Option<LiveTable>> {
    let mut q = db.prepare_transient(
        "SELECT s.name, s.sql, s.rootpage, l.wr, l.strict FROM main.sqlite_schema AS s \
         JOIN pragma_table_list(s.name) AS l ON l.schema = 'main' AND l.name = s.name \
         WHERE s.type = 'table' AND s.name = ?1 COLLATE NOCASE",
    )?;
    q.bind_text(1, name.as_bytes())?;
    if !q.step()? {
        return Ok(None);
    }
    let mut table = LiveTable {
        name: text(q.column_text(0)),
        sql: text(q.column_text(1)),
        root: q.column_int(2),
        without_rowid: q.column_int(3) != 0,
        strict: q.column_int(4) != 0,
        columns: Vec::new(),
    };
    let mut q = db.prepare_transient(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    q.bind_text(1, table.name.as_bytes())?;
    while q.step()? {
        let default = match q.column(3) {
            ValueRef::Text(t) => Some(text(t)),
            _ => None,
        };
        table.columns.push(LiveColumn {
            name: text(q.column_text(0)),
            decl_type: text(q.column_text(1)),
            not_null: q.column_int(2) != 0,
            default,
            pk: q.column_int(4) as usize,
            generated: q.column_int(5) >= 2,
        });
    }
    Ok(Some(table))
}

/// SQLite's rules for the affinity of a declared type (section 3.1 of its "Datatypes" page).
pub fn affinity(decl_type: &str, strict: bool) -> Affinity {
    let t = decl_type.to_ascii_uppercase();
    if strict && t == "ANY" {
        Affinity::Blob
    } else if t.contains("INT") {
        Affinity::Integer
    } else if t.contains("CHAR") || t.contains("CLOB") || t.contains("TEXT") {
        Affinity::Text
    } else if t.contains("BLOB") || t.is_empty() {
        Affinity::Blob
    } else if t.contains("REAL") || t.contains("FLOA") || t.contains("DOUB") {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

fn unsupported(table: &str, what: impl Into<String>, advice: &str) -> Error {
    Error::Unsupported { table: table.to_owned(), what: what.into(), advice: advice.to_owned() }
}

/// The key of a table: its kind and columns, or why it cannot be replicated.
pub fn key_of(db: Db, live: &LiveTable) -> Result<(KeyKind, Vec<KeyColumn>)> {
    let mut keys: Vec<(usize, KeyColumn)> = Vec::new();
    for (pos, c) in live.columns.iter().enumerate().filter(|(_, c)| c.pk > 0) {
        let affinity = affinity(&c.decl_type, live.strict);
        keys.push((c.pk, KeyColumn { name: c.name.clone(), pos, affinity, fold: Fold::None }));
    }
    keys.sort_by_key(|k| k.0);
    let mut keys: Vec<KeyColumn> = keys.into_iter().map(|k| k.1).collect();
    if keys.is_empty() {
        return Err(unsupported(
            &live.name,
            "it has no PRIMARY KEY",
            "declare one: rows are told apart by it",
        ));
    }
    let mut q = db.prepare_transient("SELECT name FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'")?;
    q.bind_text(1, live.name.as_bytes())?;
    if !q.step()? {
        return Ok((KeyKind::RowId, keys));
    }
    let index = text(q.column_text(0));
    let mut q =
        db.prepare_transient("SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key = 1")?;
    q.bind_text(1, index.as_bytes())?;
    while q.step()? {
        let (column, coll) = (text(q.column_text(0)), text(q.column_text(1)));
        let Some(key) = keys.iter_mut().find(|k| k.name.eq_ignore_ascii_case(&column)) else {
            continue;
        };
        key.fold = match coll.to_ascii_uppercase().as_str() {
            "BINARY" => Fold::None,
            "NOCASE" => Fold::NoCase,
            "RTRIM" => Fold::RTrim,
            _ => {
                return Err(unsupported(
                    &live.name,
                    format!("key column \"{column}\" has the collation {coll}"),
                    "use BINARY, NOCASE or RTRIM: every replica must tell keys apart in the same way",
                ));
            }
        };
    }
    Ok((if live.without_rowid { KeyKind::Keyed } else { KeyKind::Hashed }, keys))
}

/// Refuses what merging cannot keep (rule 3.9 in its interim form).
pub fn check_replicable(db: Db, live: &LiveTable) -> Result<()> {
    let t = &live.name;
    if live.sql.trim_start().to_ascii_uppercase().starts_with("CREATE VIRTUAL") {
        return Err(unsupported(t, "it is a virtual table", "replicate the ordinary table behind it"));
    }
    let lower = t.to_ascii_lowercase();
    if lower.starts_with("crsql_") || lower.starts_with("sqlite_") || lower.contains("__crsql_") {
        return Err(unsupported(t, "its name is reserved", "choose a name that does not begin with crsql_"));
    }
    let mut q = db.prepare_transient(
        "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" = 1 AND origin <> 'pk'",
    )?;
    q.bind_text(1, t.as_bytes())?;
    if q.step()? {
        let index = text(q.column_text(0));
        return Err(unsupported(
            t,
            format!("UNIQUE index \"{index}\" beside the primary key"),
            "replicas that write apart can both be right and still violate it; drop it, use an ordinary index, \
             or make its columns the primary key",
        ));
    }
    let mut q =
        db.prepare_transient("SELECT \"from\", \"table\" FROM pragma_foreign_key_list(?1, 'main')")?;
    q.bind_text(1, t.as_bytes())?;
    if q.step()? {
        let (from, to) = (text(q.column_text(0)), text(q.column_text(1)));
        return Err(unsupported(
            t,
            format!("FOREIGN KEY from \"{from}\" to \"{to}\""),
            "a merge can delete the row that it points to; declare the column without REFERENCES",
        ));
    }
    for c in live.columns.iter().filter(|c| c.pk > 0) {
        if db.column_meta(t, &c.name)?.autoincrement {
            return Err(unsupported(
                t,
                "AUTOINCREMENT",
                "two replicas would hand out the same numbers; use INTEGER PRIMARY KEY with random ids, or a UUID",
            ));
        }
    }
    if live.columns.len() > 2000 {
        return Err(unsupported(t, "more than 2,000 columns", "split the table"));
    }
    Ok(())
}

/// All replicated tables of the file at one schema version.
#[derive(Debug, Default)]
pub struct Catalog {
    pub cookie: i64,
    pub tables: HashMap<u32, Rc<Table>, Seeded>,
    pub by_name: HashMap<String, u32, Seeded>,
}

impl Catalog {
    pub fn get(&self, id: u32) -> Option<&Rc<Table>> {
        self.tables.get(&id)
    }

    /// Whether this is what a table is now.
    pub fn holds(&self, t: &Rc<Table>) -> bool {
        self.get(t.id).is_some_and(|now| Rc::ptr_eq(now, t))
    }

    pub fn find(&self, name: &str) -> Option<&Rc<Table>> {
        if let Some(id) = self.by_name.get(name) {
            return self.tables.get(id);
        }
        self.by_name.get(&name.to_ascii_lowercase()).and_then(|id| self.tables.get(id))
    }

    pub fn insert(&mut self, table: Table) {
        self.insert_shared(Rc::new(table));
    }

    pub fn insert_shared(&mut self, table: Rc<Table>) {
        self.by_name.insert(table.name.clone(), table.id);
        self.by_name.insert(table.name.to_ascii_lowercase(), table.id);
        self.tables.insert(table.id, table);
    }

    pub fn sorted(&self) -> Vec<Rc<Table>> {
        let mut all: Vec<_> = self.tables.values().cloned().collect();
        all.sort_by_key(|t| t.id);
        all
    }
}

/// A column as the file's metadata remembers it.
#[derive(Clone, Debug)]
pub struct SavedColumn {
    pub id: u32,
    pub name: String,
    pub decl: String,
    pub pos: i64,
}

/// A table as the file's metadata remembers it.
#[derive(Clone, Debug)]
pub struct SavedTable {
    pub id: u32,
    pub name: String,
    pub kind: i64,
    pub root: i64,
    pub sql: String,
    pub columns: Vec<SavedColumn>,
}

pub fn saved_tables(db: Db) -> Result<Vec<SavedTable>> {
    let mut q =
        db.prepare_transient("SELECT id, name, kind, root, sql FROM main.crsql_tables ORDER BY id")?;
    let mut tables = Vec::new();
    while q.step()? {
        tables.push(SavedTable {
            id: u32::try_from(q.column_int(0)).map_err(|_| Error::damaged("table id"))?,
            name: text(q.column_text(1)),
            kind: q.column_int(2),
            root: q.column_int(3),
            sql: text(q.column_text(4)),
            columns: Vec::new(),
        });
    }
    let mut q =
        db.prepare_transient("SELECT tbl, id, name, decl, pos FROM main.crsql_columns ORDER BY tbl, pos")?;
    while q.step()? {
        let (tbl, id) = (q.column_int(0), q.column_int(1));
        let column = SavedColumn {
            id: u32::try_from(id).map_err(|_| Error::damaged("column id"))?,
            name: text(q.column_text(2)),
            decl: text(q.column_text(3)),
            pos: q.column_int(4),
        };
        if let Some(t) = tables.iter_mut().find(|t| i64::from(t.id) == tbl) {
            t.columns.push(column);
        }
    }
    Ok(tables)
}

/// Builds the working description of a table from what is live and the column ids that the file knows.
pub fn build(db: Db, id: u32, live: &LiveTable, saved: &[SavedColumn], unwatched: bool) -> Result<Table> {
    let (kind, keys) = key_of(db, live)?;
    let mut cols = Vec::new();
    for (pos, c) in live.columns.iter().enumerate() {
        if c.pk > 0 || c.generated {
            continue;
        }
        let Some(s) = saved.iter().find(|s| s.name.eq_ignore_ascii_case(&c.name)) else {
            continue;
        };
        cols.push(Column {
            id: s.id,
            name: c.name.clone(),
            pos,
            required: c.not_null && c.default.is_none(),
            default: c.default.clone(),
            decl: c.decl(),
        });
    }
    let free = |alias: &&&str| !live.columns.iter().any(|c| c.name.eq_ignore_ascii_case(alias));
    let rowid = match kind {
        KeyKind::Keyed => "",
        _ => ["rowid", "_rowid_", "oid"].iter().find(free).copied().ok_or_else(|| {
            unsupported(
                &live.name,
                "its columns hide every name of the rowid",
                "rename one of rowid, _rowid_, oid",
            )
        })?,
    };
    Ok(Table {
        id,
        name: live.name.clone(),
        kind,
        plain: keys.iter().all(|k| k.fold == Fold::None),
        keys,
        col_set: cols.iter().map(|c| c.id).collect(),
        ordered: cols.windows(2).all(|w| w[0].id < w[1].id),
        cols,
        rowid,
        user_triggers: true,
        sql: live.sql.clone(),
        unwatched,
        rebuilt: false,
        unsure: false,
    })
}
