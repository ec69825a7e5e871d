//! `crsql_automigrate(schema [, cleanup])`: makes the live schema like a schema text.
//!
//! The text is run in an empty database of its own; what differs is changed here; at last the text is run here, where
//! each CREATE means IF NOT EXISTS. All of it happens or nothing. Not followed, as in cr-sqlite: changed types, defaults and
//! constraints of columns that stay, and changed views and triggers. Unlike there, an added column keeps all of its
//! definition, an index is compared whole, and another primary key is an error.
//!
//! Replicated tables need no `crsql_begin_alter` on the way: plain DDL is followed (see `schema.rs`).

use crate::catalog::{LiveTable, describe, text};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::quote;
use crate::functions::{bad, text_arg};
use crate::{fract, tokens};
use rejoin_sqlite::{Args, Context, Db, Result as SqlResult, ValueRef};

const NAME: &str = "crsql_automigrate";

/// Tables that are nobody's business here: SQLite's, Rejoin's, cr-sqlite's.
const FOREIGN: &str = "name LIKE 'sqlite\\_%' ESCAPE '\\' OR name LIKE 'crsql\\_%' ESCAPE '\\' \
     OR name LIKE '\\_\\_crsql\\_%' ESCAPE '\\' OR name LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\' \
     OR name LIKE '%\\_\\_crsql\\_pks' ESCAPE '\\'";

pub fn automigrate(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    if args.is_empty() || args.len() > 2 {
        return Err(bad(
            NAME,
            "takes the schema text and, if need be, a clean-up text for the scratch database",
        )
        .into());
    }
    let schema = text_arg(NAME, args, 0)?;
    let cleanup = match args.len() {
        2 if !matches!(args.get(1).value(), ValueRef::Null) => Some(text_arg(NAME, args, 1)?),
        _ => None,
    };
    let wanted = Wanted::read(schema, cleanup)?;
    e.scoped(NAME, || migrate(e, schema, &wanted))?;
    ctx.set_text(b"migration complete");
    Ok(())
}

/// An index: its name and CREATE statement.
type Index = (String, String);

/// The schema that a text makes.
struct Wanted {
    tables: Vec<LiveTable>,
    indexes: Vec<Index>,
}

impl Wanted {
    /// Runs the text in a database of its own, which has the same functions.
    fn read(schema: &str, cleanup: Option<&str>) -> Result<Wanted> {
        let scratch = rusqlite::Connection::open_in_memory()?;
        Db::with(&scratch, |db| {
            Engine::register(db)?;
            db.exec(schema)
                .map_err(|e| blame(e, |e| format!("the schema text fails in an empty database: {e}")))?;
            let mut wanted = Wanted { tables: Vec::new(), indexes: indexes(db)? };
            for name in tables(db)? {
                wanted.tables.extend(describe(db, &name)?);
            }
            if let Some(cleanup) = cleanup {
                db.exec(cleanup).map_err(|e| blame(e, |e| format!("the clean-up text fails: {e}")))?;
            }
            Ok(wanted)
        })
    }

    fn table(&self, name: &str) -> Option<&LiveTable> {
        self.tables.iter().find(|t| t.name.eq_ignore_ascii_case(name))
    }

    fn has_index(&self, live: &Index) -> bool {
        self.indexes.iter().any(|w| w.0.eq_ignore_ascii_case(&live.0) && tokens::same(&w.1, &live.1))
    }
}

/// The user's tables.
fn tables(db: Db) -> Result<Vec<String>> {
    names(
        db,
        &format!(
            "SELECT name, '' FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') \
         AND NOT ({FOREIGN}) ORDER BY name"
        ),
    )
    .map(|all| all.into_iter().map(|n| n.0).collect())
}

/// The user's indexes, apart from those that belong to a constraint.
fn indexes(db: Db) -> Result<Vec<Index>> {
    let mine = FOREIGN.replace("name LIKE", "tbl_name LIKE");
    names(
        db,
        &format!(
            "SELECT name, sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL \
         AND NOT ({FOREIGN}) AND NOT ({mine}) ORDER BY name"
        ),
    )
}

fn names(db: Db, sql: &str) -> Result<Vec<(String, String)>> {
    let mut q = db.prepare_transient(sql)?;
    let mut all = Vec::new();
    while q.step()? {
        all.push((text(q.column_text(0)), text(q.column_text(1))));
    }
    Ok(all)
}

fn migrate(engine: &Engine, schema: &str, wanted: &Wanted) -> Result<()> {
    let db = engine.db;
    let ready = {
        let mut core = engine.core()?;
        core.refresh(false)?;
        core.ready
    };
    if ready {
        engine.join()?;
        engine.flush()?;
    }
    for index in indexes(db)?.iter().filter(|i| !wanted.has_index(i)) {
        db.exec(&format!("DROP INDEX main.{}", quote(&index.0)))?;
    }
    let mut gone = Vec::new();
    for name in tables(db)? {
        match (describe(db, &name)?, wanted.table(&name)) {
            (Some(live), Some(table)) => alter(engine, &live, table)?,
            _ => gone.push(name),
        }
    }
    for name in gone {
        // Its list's view would stand in the way of every later ALTER TABLE.
        fract::drop_objects(engine, &name)?;
        db.exec(&format!("DROP TABLE main.{}", quote(&name)))?;
    }
    db.exec(&tokens::if_not_exists(schema)).map_err(in_text)?;
    if engine.core()?.ready {
        engine.join()?;
        engine.reload_catalog()?;
    }
    Ok(())
}

fn in_text(e: rejoin_sqlite::Error) -> Error {
    blame(e, |e| format!("the schema text fails: {e}; nothing was changed"))
}

/// What the text or the table is to blame for; a disk that fails tells for itself.
fn blame(e: rejoin_sqlite::Error, why: impl FnOnce(&rejoin_sqlite::Error) -> String) -> Error {
    if e.is_outside() { e.into() } else { bad(NAME, why(&e)) }
}

fn is_virtual(t: &LiveTable) -> bool {
    t.sql.trim_start().get(..14).is_some_and(|s| s.eq_ignore_ascii_case("CREATE VIRTUAL"))
}

/// Drops and adds the columns of one table.
fn alter(engine: &Engine, live: &LiveTable, wanted: &LiveTable) -> Result<()> {
    if is_virtual(live) || is_virtual(wanted) {
        return Ok(());
    }
    let (old, new) = (keys(live), keys(wanted));
    if old != new {
        return Err(bad(
            NAME,
            format!(
                "table \"{}\" has the primary key ({}), the schema text wants ({}): rows cannot change their identity \
                 in place; make a table of another name and copy them; nothing was changed",
                live.name,
                old.join(", "),
                new.join(", ")
            ),
        ));
    }
    let lacks = |t: &LiveTable, name: &str| !t.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    let dropped: Vec<_> = live.columns.iter().filter(|c| lacks(wanted, &c.name)).collect();
    if !dropped.is_empty() {
        // The triggers of an ordered list name all columns; the text makes the list again.
        fract::drop_objects(engine, &live.name)?;
    }
    let on = format!("ALTER TABLE main.{}", quote(&live.name));
    let run = |sql: String| engine.db.exec(&sql).map_err(|e| refused(&live.name, e));
    for column in dropped {
        run(format!("{on} DROP COLUMN {}", quote(&column.name)))?;
    }
    if engine.core()?.ready {
        // Together a column that is dropped and one that is added can look like a rename.
        engine.reload_catalog()?;
    }
    for column in wanted.columns.iter().filter(|c| lacks(live, &c.name)) {
        let definition = tokens::column_definition(&wanted.sql, &column.name);
        let definition =
            definition.ok_or_else(|| bad(NAME, format!("no definition of column \"{}\"", column.name)))?;
        run(format!("{on} ADD COLUMN {definition}"))?;
    }
    Ok(())
}

fn refused(table: &str, e: rejoin_sqlite::Error) -> Error {
    blame(e, |e| {
        format!("table \"{table}\" cannot be made as the schema text wants it: {e}; nothing was changed")
    })
}

/// The key columns in key order, in lower case.
fn keys(t: &LiveTable) -> Vec<String> {
    let mut keys: Vec<_> = t.columns.iter().filter(|c| c.pk > 0).collect();
    keys.sort_by_key(|c| c.pk);
    keys.into_iter().map(|c| c.name.to_ascii_lowercase()).collect()
}
