//! How this replica's schema stands to another's, and taking over what the other has more.
//!
//! A schema travels as SQL text: the CREATE TABLE statement of each replicated table and the CREATE INDEX statements on
//! it, by name, each ended by `;` and a line feed. The text of a peer is not trusted: it runs in an empty database in memory,
//! where nothing but making tables and indexes is allowed, and is compared as SQLite describes the outcome.

use crate::catalog::{KeyColumn, LiveColumn, LiveTable, affinity, check_replicable, describe, key_of, text};
use crate::engine::Engine;
use crate::error::Result;
use crate::format::quote;
use crate::functions::bad;
use crate::replica::{Replica, writing};
use crate::tokens;
use rejoin_sqlite::Db;
use rejoin_wire::Relation;
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

const NAME: &str = "schema";
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Tables of a server's own have this prefix; no client may bring one.
const RESERVED: &str = "rejoin_server_";

impl Replica {
    /// The schema of the replicated tables, as another replica compares it with its own.
    pub fn schema(&self) -> Result<String> {
        self.reading(|e| {
            let mut all = String::new();
            for table in live_tables(e)? {
                all.push_str(&table.sql);
                all.push_str(";\n");
                for index in indexes(e.db, &table.name)? {
                    all.push_str(&index);
                    all.push_str(";\n");
                }
            }
            Ok(all)
        })
    }

    /// How this replica's schema stands to another's.
    pub fn compare_schema(&self, theirs: &str) -> Result<Relation> {
        let theirs = Theirs::read(theirs)?;
        self.reading(|e| {
            let mut ours = Vec::new();
            for live in live_tables(e)? {
                let keys = key_of(e.db, &live)?.1;
                ours.push((live, keys));
            }
            Ok(relation(&ours, &theirs.tables))
        })
    }

    /// Takes over the tables, columns and indexes that another's schema has and this one lacks; nothing goes, and what
    /// contradicts is an error. Tells whether something changed.
    pub fn adopt_schema(&self, theirs: &str) -> Result<bool> {
        let parsed = Theirs::read(theirs)?;
        if let Relation::Incompatible(why) = self.compare_schema(theirs)? {
            return Err(bad(NAME, why));
        }
        // What a table's text calls runs whenever a row is written.
        if tokens::tokens(theirs).iter().any(|t| t.meaning().starts_with("crsql_")) {
            return Err(bad(NAME, "a table that is to be adopted calls a function of Rejoin"));
        }
        writing(&self.engine, || self.engine.scoped("crsql_adopt_schema", || adopt(&self.engine, &parsed)))
    }
}

fn adopt(engine: &Engine, theirs: &Theirs) -> Result<bool> {
    let mut changed = false;
    let run = |sql: &str| engine.db.exec(sql).map_err(|e| bad(NAME, format!("{e}; nothing was adopted")));
    for (wanted, _) in &theirs.tables {
        let Some(live) = describe(engine.db, &wanted.name)? else {
            run(&wanted.sql)?;
            crate::alter::as_crr(engine, &wanted.name)?;
            changed = true;
            continue;
        };
        for column in wanted.columns.iter().filter(|c| find(&live, &c.name).is_none()) {
            let definition = tokens::column_definition(&wanted.sql, &column.name);
            let definition = definition.ok_or_else(|| bad(NAME, "a column without a definition"))?;
            run(&format!("ALTER TABLE main.{} ADD COLUMN {definition}", quote(&live.name)))?;
            changed = true;
        }
    }
    for (name, sql) in &theirs.indexes {
        if !exists(engine.db, name)? {
            run(sql)?;
            changed = true;
        }
    }
    Ok(changed)
}

type Described = (LiveTable, Vec<KeyColumn>);

/// A peer's schema as SQLite reads it.
struct Theirs {
    tables: Vec<Described>,
    /// Name and text.
    indexes: Vec<(String, String)>,
}

impl Theirs {
    fn read(sql: &str) -> Result<Theirs> {
        if sql.len() > TEXT_BYTES_MAX {
            return Err(bad(NAME, "the other schema is too long"));
        }
        let mut scratch = Connection::open_in_memory()?;
        scratch.authorizer(Some(only_tables))?;
        let wrong = |e: &dyn std::fmt::Display| bad(NAME, format!("the other schema: {e}"));
        scratch.execute_batch(sql).map_err(|e| wrong(&e))?;
        scratch.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        Db::with(&scratch, |db| {
            let mut theirs = Theirs { tables: Vec::new(), indexes: Vec::new() };
            for name in names(db, "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name")? {
                let Some(live) = describe(db, &name)? else { continue };
                if live.name.to_ascii_lowercase().starts_with(RESERVED) {
                    return Err(wrong(&format!("the name of table \"{}\" is reserved", live.name)));
                }
                check_replicable(db, &live)?;
                let keys = key_of(db, &live)?.1;
                theirs.tables.push((live, keys));
            }
            let mut q = db.prepare_transient(
                "SELECT name, sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name",
            )?;
            while q.step()? {
                theirs.indexes.push((text(q.column_text(0)), text(q.column_text(1))));
            }
            Ok(theirs)
        })
    }
}

fn only_tables(context: AuthContext<'_>) -> Authorization {
    let allowed = match context.action {
        AuthAction::CreateTable { .. } | AuthAction::CreateIndex { .. } | AuthAction::Reindex { .. } => true,
        AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        // SQLite's own bookkeeping, and the columns that a CHECK or an index names.
        AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. } => {
            table_name == "sqlite_master"
        }
        AuthAction::Read { .. } => true,
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

fn live_tables(e: &Engine) -> Result<Vec<LiveTable>> {
    let names: Vec<String> = e.core()?.catalog.sorted().iter().map(|t| t.name.clone()).collect();
    let mut all = Vec::new();
    for name in names {
        all.extend(describe(e.db, &name)?);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn indexes(db: Db, table: &str) -> Result<Vec<String>> {
    let mut q = db.prepare_transient(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL \
         AND tbl_name = ?1 COLLATE NOCASE ORDER BY name",
    )?;
    q.bind_text(1, table.as_bytes())?;
    let mut all = Vec::new();
    while q.step()? {
        all.push(text(q.column_text(0)));
    }
    Ok(all)
}

fn exists(db: Db, name: &str) -> Result<bool> {
    let mut q = db.prepare_transient("SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE")?;
    q.bind_text(1, name.as_bytes())?;
    Ok(q.step()?)
}

fn names(db: Db, sql: &str) -> Result<Vec<String>> {
    let mut q = db.prepare_transient(sql)?;
    let mut all = Vec::new();
    while q.step()? {
        all.push(text(q.column_text(0)));
    }
    Ok(all)
}

fn find<'t>(table: &'t LiveTable, column: &str) -> Option<&'t LiveColumn> {
    table.columns.iter().find(|c| c.name.eq_ignore_ascii_case(column))
}

fn relation(ours: &[Described], theirs: &[Described]) -> Relation {
    for (table, keys) in ours {
        if let Some((other, other_keys)) = theirs.iter().find(|t| t.0.name.eq_ignore_ascii_case(&table.name))
            && let Some(why) = contradiction((table, keys), (other, other_keys))
        {
            return Relation::Incompatible(format!("table \"{}\": {why}", table.name));
        }
    }
    let (more, less) = (lacking(theirs, ours), lacking(ours, theirs));
    match (more.is_empty(), less.is_empty()) {
        (true, true) => Relation::Same,
        (false, true) => Relation::Ahead(format!("the other side lacks {}", listed(&more))),
        (true, false) => Relation::Behind(format!("this side lacks {}", listed(&less))),
        (false, false) => {
            Relation::Diverged(format!("the other side lacks {}, this side {}", listed(&more), listed(&less)))
        }
    }
}

/// What of `whole` is not in `part`.
fn lacking(part: &[Described], whole: &[Described]) -> Vec<String> {
    let mut all = Vec::new();
    for (table, _) in whole {
        match part.iter().find(|t| t.0.name.eq_ignore_ascii_case(&table.name)) {
            None => all.push(format!("table \"{}\"", table.name)),
            Some((other, _)) => {
                let missing = table.columns.iter().filter(|c| !c.generated && find(other, &c.name).is_none());
                all.extend(missing.map(|c| format!("column \"{}\" of \"{}\"", c.name, table.name)));
            }
        }
    }
    all
}

fn listed(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

/// Why rows of two tables of one name cannot be exchanged.
fn contradiction(ours: (&LiveTable, &[KeyColumn]), theirs: (&LiveTable, &[KeyColumn])) -> Option<String> {
    let key = |keys: &[KeyColumn]| -> Vec<_> {
        keys.iter().map(|k| (k.name.to_ascii_lowercase(), k.affinity, k.fold)).collect()
    };
    if key(ours.1) != key(theirs.1) {
        return Some("the primary keys are not the same".into());
    }
    for column in ours.0.columns.iter().filter(|c| c.pk == 0 && !c.generated) {
        let Some(other) = find(theirs.0, &column.name).filter(|c| !c.generated) else { continue };
        let what =
            if affinity(&column.decl_type, ours.0.strict) != affinity(&other.decl_type, theirs.0.strict) {
                "two types"
            } else if !same_default(column.default.as_deref(), other.default.as_deref()) {
                "two defaults"
            } else if required(column) != required(other) {
                "to have a value on one side only"
            } else {
                continue;
            };
        return Some(format!("column \"{}\" has {what}", column.name));
    }
    None
}

fn required(column: &LiveColumn) -> bool {
    column.not_null && column.default.is_none()
}

fn same_default(ours: Option<&str>, theirs: Option<&str>) -> bool {
    let null = |d: Option<&str>| d.is_none_or(|d| d.eq_ignore_ascii_case("null"));
    match (ours, theirs) {
        (Some(a), Some(b)) => tokens::same(a, b),
        _ => null(ours) && null(theirs),
    }
}
