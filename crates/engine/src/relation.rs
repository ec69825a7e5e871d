//! How this replica's schema stands to another's, and taking over what the other has more.
//!
//! A schema travels as SQL text: the CREATE TABLE statement of each replicated table and the CREATE INDEX statements on
//! it, by name, each ended by `;` and a line feed. The text of a peer is not trusted: it runs in an empty database in memory,
//! where nothing but making tables and indexes is allowed, and is compared as SQLite describes the outcome.
//!
//! Where a name was given more than once, changed or dropped, the last line is a comment, `-- names: ` and
//! [`SchemaNames`] in hex: tables and columns are the same if they share a life of a name, whatever they are called.

use crate::catalog::{
    Column, KeyColumn, LiveColumn, LiveTable, Table, affinity, check_replicable, describe, key_of, text,
};
use crate::core::Core;
use crate::engine::Engine;
use crate::error::Result;
use crate::format::quote;
use crate::functions::bad;
use crate::names::{Called, Given, Lives, TABLES};
use crate::replica::{Replica, writing};
use crate::tokens;
use rejoin_sqlite::{Db, TxnState};
use rejoin_wire::{Naming, Relation, SchemaNames, TableNames};
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
            let mut core = e.core()?;
            // What this transaction has written may be taken back.
            if !core.ready || core.db.txn_state() == TxnState::Write {
                return schema_text(&mut core);
            }
            SchemaText::known(&mut core)
        })
    }

    /// How this replica's schema stands to another's.
    pub fn compare_schema(&self, theirs: &str) -> Result<Relation> {
        let theirs = Theirs::read(theirs)?;
        self.named(|e| Ok(relation(&ours(e)?, &theirs.side)))
    }

    /// Reads the schema. What DDL has done is written down first: who only sees a column knows no life of its name.
    fn named<R>(&self, f: impl FnOnce(&Engine) -> Result<R>) -> Result<R> {
        self.watch_again()?;
        self.reading(f)
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
    // What is made here is what it is there.
    engine.core()?.given = theirs.side.given();
    let done = make(engine, theirs).and_then(|changed| {
        engine.core()?.refresh(true)?;
        Ok(changed)
    });
    engine.core()?.given = Given::default();
    done
}

fn make(engine: &Engine, theirs: &Theirs) -> Result<bool> {
    let mut changed = false;
    let run = |sql: &str| engine.db.exec(sql).map_err(|e| bad(NAME, format!("{e}; nothing was adopted")));
    let ours = ours(engine)?;
    for wanted in &theirs.side.tables {
        let same = ours.tables.iter().find(|t| t.names.table.meets(&wanted.names.table));
        let Some(same) = same else {
            // What was dropped here stays so, and what is called so is another table.
            if !ours.dropped.meets(&wanted.names.table) && !exists(engine.db, &wanted.live.name)? {
                run(&wanted.live.sql)?;
                crate::alter::as_crr(engine, &wanted.live.name)?;
                changed = true;
            }
            continue;
        };
        for (column, lives) in &wanted.names.columns {
            let known =
                same.names.columns.iter().any(|c| c.1.meets(lives)) || same.names.dropped.meets(lives);
            if known || find(&same.live, column).is_some() {
                continue;
            }
            let definition = tokens::column_definition(&wanted.live.sql, column);
            let definition = definition.ok_or_else(|| bad(NAME, "a column without a definition"))?;
            run(&format!("ALTER TABLE main.{} ADD COLUMN {definition}", quote(&same.live.name)))?;
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

/// A table as SQLite describes it, and its names.
struct Described {
    live: LiveTable,
    keys: Vec<KeyColumn>,
    names: Names,
}

/// The names of a table and its columns.
struct Names {
    table: Lives,
    /// By what they are called.
    columns: Vec<(String, Lives)>,
    dropped: Lives,
}

impl Names {
    fn of(names: &TableNames<'_>) -> Names {
        let column = |c: &rejoin_wire::Naming<'_>| (c.current.text.to_owned(), Lives::of(c.all()));
        Names {
            table: Lives::of(names.table.all()),
            columns: names.columns.iter().map(column).collect(),
            dropped: Lives::of(names.dropped.iter().copied()),
        }
    }

    /// Where nothing else is said, every name was given once.
    fn first(live: &LiveTable) -> Names {
        let first = |text: &str| Lives::of([rejoin_wire::Name { text, life: 0 }]);
        let columns = live.columns.iter().filter(|c| c.pk == 0 && !c.generated);
        Names {
            table: first(&live.name),
            columns: columns.map(|c| (c.name.clone(), first(&c.name))).collect(),
            dropped: Lives::default(),
        }
    }
}

/// The schema of one side.
struct Side {
    tables: Vec<Described>,
    dropped: Lives,
}

impl Side {
    /// What tables and columns that are made from it are to be called.
    fn given(&self) -> Given {
        let mut given = Given::default();
        for t in &self.tables {
            given.table(&t.live.name, &t.names.table, &t.names.dropped);
            t.names.columns.iter().for_each(|(name, lives)| given.column(&t.live.name, name, lives));
        }
        given
    }
}

/// A peer's schema as SQLite reads it.
struct Theirs {
    side: Side,
    /// Name and text.
    indexes: Vec<(String, String)>,
}

impl Theirs {
    fn read(sql: &str) -> Result<Theirs> {
        if sql.len() > TEXT_BYTES_MAX {
            return Err(bad(NAME, "the other schema is too long"));
        }
        let bytes = names_bytes(sql)?;
        let wire = |e: rejoin_wire::Error| bad(NAME, format!("the names of the other schema: {e}"));
        let told = bytes.as_deref().map(SchemaNames::decode).transpose().map_err(wire)?;
        let mut scratch = Connection::open_in_memory()?;
        scratch.authorizer(Some(only_tables))?;
        let wrong = |e: &dyn std::fmt::Display| bad(NAME, format!("the other schema: {e}"));
        scratch.execute_batch(sql).map_err(|e| wrong(&e))?;
        scratch.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        Db::with(&scratch, |db| {
            let dropped = Lives::of(told.iter().flat_map(|n| n.dropped.iter().copied()));
            let side = Side { tables: Vec::new(), dropped };
            let mut theirs = Theirs { side, indexes: Vec::new() };
            for name in names(db, "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name")? {
                let Some(live) = describe(db, &name)? else { continue };
                if live.name.to_ascii_lowercase().starts_with(RESERVED) {
                    return Err(wrong(&format!("the name of table \"{}\" is reserved", live.name)));
                }
                check_replicable(db, &live)?;
                let keys = key_of(db, &live)?.1;
                let called = told.iter().flat_map(|n| &n.tables);
                let mut called = called.filter(|t| t.table.current.text.eq_ignore_ascii_case(&live.name));
                let names = called.next().map_or_else(|| Names::first(&live), Names::of);
                theirs.side.tables.push(Described { live, keys, names });
            }
            theirs.check_names(told.as_ref()).map_err(|e| wrong(&e))?;
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

fn live_tables(core: &Core) -> Result<Vec<LiveTable>> {
    let mut all = Vec::new();
    for t in core.catalog.sorted() {
        all.extend(describe(core.db, &t.name)?);
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

/// The schema as it is committed. It is asked for after every transaction and mostly what it was.
pub struct SchemaText {
    cookie: i64,
    names_hash: u64,
    /// While these are what they were, the names are, too.
    names_written: u64,
    outside: Option<i64>,
    text: String,
}

impl SchemaText {
    fn known(core: &mut Core) -> Result<String> {
        let (cookie, names_written, outside) = (core.cookie()?, core.names_written, core.outside()?);
        let last = core.schema_text.take().filter(|last| last.cookie == cookie);
        let same = |last: &SchemaText| last.names_written == names_written && last.outside == outside;
        let now = match last {
            Some(last) if same(&last) => last,
            last => {
                let names_hash = core.names_hash()?;
                let text = match last.filter(|last| last.names_hash == names_hash) {
                    Some(last) => last.text,
                    None => schema_text(core)?,
                };
                SchemaText { cookie, names_hash, names_written, outside, text }
            }
        };
        Ok(core.schema_text.insert(now).text.clone())
    }
}

fn schema_text(core: &mut Core) -> Result<String> {
    let mut all = String::new();
    for table in live_tables(core)? {
        all.push_str(&table.sql);
        all.push_str(";\n");
        for index in indexes(core.db, &table.name)? {
            all.push_str(&index);
            all.push_str(";\n");
        }
    }
    all.push_str(&names_line(core)?);
    Ok(all)
}

/// This replica's schema.
fn ours(e: &Engine) -> Result<Side> {
    let mut tables = Vec::new();
    let mut core = e.core()?;
    for live in live_tables(&core)? {
        let Some(t) = core.catalog.find(&live.name).cloned() else { continue };
        let keys = key_of(e.db, &live)?.1;
        let names = names_of(&mut core, &t)?;
        tables.push(Described { live, keys, names });
    }
    Ok(Side { tables, dropped: core.dropped(TABLES)? })
}

fn names_of(core: &mut Core, t: &Table) -> Result<Names> {
    let called = core.columns_called(t.id)?;
    let column = |c: &Column| {
        let naming = called.get(&c.id).map(Called::naming);
        (c.name.clone(), Lives::of(naming.iter().flat_map(|n| n.all())))
    };
    Ok(Names {
        table: Lives::of(core.table_called(t.id)?.naming().all()),
        columns: t.cols.iter().map(column).collect(),
        dropped: core.dropped(t.id)?,
    })
}

const NAMES: &str = "-- names: ";

/// The line that tells the names; empty if each was given once and none was dropped.
fn names_line(core: &mut Core) -> Result<String> {
    let mut tables = core.catalog.sorted();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let mut called = Vec::new();
    for t in &tables {
        let mut columns = core.columns_called(t.id)?;
        let columns: Vec<Called> = t.cols.iter().map(|c| columns.remove(&c.id).unwrap_or_default()).collect();
        called.push((core.table_called(t.id)?, columns, core.dropped(t.id)?));
    }
    let dropped = core.dropped(TABLES)?;
    let names = SchemaNames {
        tables: called
            .iter()
            .map(|(table, columns, dropped)| TableNames {
                table: table.naming(),
                columns: columns.iter().map(Called::naming).collect(),
                dropped: dropped.names().collect(),
            })
            .collect(),
        dropped: dropped.names().collect(),
    };
    let first = |n: &Naming<'_>| n.current.life == 0 && n.others.is_empty();
    let plain = |t: &TableNames<'_>| first(&t.table) && t.columns.iter().all(first) && t.dropped.is_empty();
    if names.tables.iter().all(plain) && names.dropped.is_empty() {
        return Ok(String::new());
    }
    let bytes = names.encode().map_err(|e| bad(NAME, format!("its names: {e}")))?;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{NAMES}{hex}\n"))
}

/// The bytes of a names line.
fn names_bytes(sql: &str) -> Result<Option<Vec<u8>>> {
    let last = sql.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
    let Some(hex) = last.strip_prefix(NAMES) else { return Ok(None) };
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let byte = |pair: &[u8]| match pair {
        [a, b] => Some(digit(*a)? << 4 | digit(*b)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
    bytes.map(Some).ok_or_else(|| bad(NAME, "the names of the other schema are not hex"))
}

impl Theirs {
    /// The names are those of the tables that the text makes.
    fn check_names(&self, names: Option<&SchemaNames<'_>>) -> Result<(), &'static str> {
        let Some(names) = names else { return Ok(()) };
        if names.tables.len() != self.side.tables.len() {
            return Err("its names are of other tables");
        }
        for t in &self.side.tables {
            let made = Names::first(&t.live);
            let sorted = |names: &Names| {
                let mut all: Vec<_> = names.columns.iter().map(|c| c.0.to_ascii_lowercase()).collect();
                all.sort();
                all
            };
            let told = names.tables.iter().any(|n| n.table.current.text.eq_ignore_ascii_case(&t.live.name));
            if !told || sorted(&made) != sorted(&t.names) {
                return Err("its names are of other tables or columns");
            }
        }
        Ok(())
    }
}

/// What one side has that the other lacks.
#[derive(Default)]
struct Lacks {
    here: Vec<String>,
    there: Vec<String>,
}

impl Lacks {
    /// A table or column that only one side has: if the other dropped it, it is the drop that is lacking.
    fn one(&mut self, what: &str, ours: bool, dropped: bool) {
        let what = if dropped { format!("the drop of {what}") } else { what.to_owned() };
        if ours == dropped { self.here.push(what) } else { self.there.push(what) }
    }

    /// What is one, but called otherwise.
    fn names(&mut self, what: &str, ours: (&str, &Lives), theirs: (&str, &Lives)) {
        if ours.0.eq_ignore_ascii_case(theirs.0) {
            return;
        }
        let (known_there, known_here) = (theirs.1.has(ours.0), ours.1.has(theirs.0));
        if known_there || !known_here {
            self.here.push(format!("the name \"{}\" of {what} \"{}\"", theirs.0, ours.0));
        }
        if known_here || !known_there {
            self.there.push(format!("the name \"{}\" of {what} \"{}\"", ours.0, theirs.0));
        }
    }
}

/// Pairs of what shares a life of a name, and what is alone; or what is one on one side and two on the other.
#[allow(clippy::type_complexity)]
fn pair<'a, T>(
    ours: &'a [T],
    theirs: &'a [T],
    lives: impl Fn(&T) -> &Lives,
    name: impl Fn(&T) -> &str,
) -> Result<(Vec<(&'a T, &'a T)>, Vec<(&'a T, bool)>), String> {
    let meets = |a: &T, b: &T| lives(a).meets(lives(b));
    for (all, others, where_) in [(ours, theirs, "the other side"), (theirs, ours, "this side")] {
        for one in all {
            let two: Vec<&T> = others.iter().filter(|o| meets(one, o)).collect();
            if let [a, b, ..] = two.as_slice() {
                return Err(format!(
                    "\"{}\" is two at {where_}, \"{}\" and \"{}\"",
                    name(one),
                    name(a),
                    name(b)
                ));
            }
        }
    }
    let alone = |all: &'a [T], others: &'a [T], ours| {
        all.iter().filter(move |one| !others.iter().any(|o| meets(one, o))).map(move |one| (one, ours))
    };
    let both = ours.iter().filter_map(|o| Some((o, theirs.iter().find(|t| meets(o, t))?))).collect();
    Ok((both, alone(ours, theirs, true).chain(alone(theirs, ours, false)).collect()))
}

fn relation(ours: &Side, theirs: &Side) -> Relation {
    let mut lacks = Lacks::default();
    let tables = pair(&ours.tables, &theirs.tables, |t| &t.names.table, |t| &t.live.name);
    let (both, alone) = match tables {
        Ok(tables) => tables,
        Err(why) => return Relation::Incompatible(format!("table {why}")),
    };
    for (one, is_ours) in alone {
        let other = if is_ours { theirs } else { ours };
        let dropped = other.dropped.meets(&one.names.table);
        lacks.one(&format!("table \"{}\"", one.live.name), is_ours, dropped);
    }
    for (ours, theirs) in both {
        if let Some(why) = tables_apart(ours, theirs, &mut lacks) {
            return Relation::Incompatible(format!("table \"{}\": {why}", ours.live.name));
        }
    }
    lacks.here.sort();
    lacks.there.sort();
    match (lacks.there.is_empty(), lacks.here.is_empty()) {
        (true, true) => Relation::Same,
        (false, true) => Relation::Ahead(format!("the other side lacks {}", listed(&lacks.there))),
        (true, false) => Relation::Behind(format!("this side lacks {}", listed(&lacks.here))),
        (false, false) => Relation::Diverged(format!(
            "the other side lacks {}, this side {}",
            listed(&lacks.there),
            listed(&lacks.here)
        )),
    }
}

/// Why rows of one table cannot be exchanged; or else what one side of it lacks.
fn tables_apart(ours: &Described, theirs: &Described, lacks: &mut Lacks) -> Option<String> {
    let called = |d: &'_ Described| (d.live.name.clone(), d.names.table.clone());
    let (mine, other) = (called(ours), called(theirs));
    lacks.names("table", (&mine.0, &mine.1), (&other.0, &other.1));
    let key = |keys: &[KeyColumn]| -> Vec<_> {
        keys.iter().map(|k| (k.name.to_ascii_lowercase(), k.affinity, k.fold)).collect()
    };
    if key(&ours.keys) != key(&theirs.keys) {
        return Some("the primary keys are not the same".into());
    }
    let (mine, other) = (&ours.names.columns, &theirs.names.columns);
    let (both, alone) = match pair(mine, other, |c| &c.1, |c| &c.0) {
        Ok(columns) => columns,
        Err(why) => return Some(format!("column {why}")),
    };
    for ((name, lives), is_ours) in alone {
        let (dropped, table) =
            if is_ours { (&theirs.names.dropped, ours) } else { (&ours.names.dropped, theirs) };
        let what = format!("column \"{name}\" of \"{}\"", table.live.name);
        lacks.one(&what, is_ours, dropped.meets(lives));
    }
    for (mine, other) in both {
        lacks.names("column", (&mine.0, &mine.1), (&other.0, &other.1));
        let columns = (find(&ours.live, &mine.0)?, find(&theirs.live, &other.0)?);
        if let Some(what) = contradiction((&ours.live, columns.0), (&theirs.live, columns.1)) {
            return Some(format!("column \"{}\" has {what}", mine.0));
        }
    }
    None
}

fn listed(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

/// What of a column must not differ, or rows could not be exchanged.
fn contradiction(
    (ours, mine): (&LiveTable, &LiveColumn),
    (theirs, other): (&LiveTable, &LiveColumn),
) -> Option<&'static str> {
    if affinity(&mine.decl_type, ours.strict) != affinity(&other.decl_type, theirs.strict) {
        Some("two types")
    } else if !same_default(mine.default.as_deref(), other.default.as_deref()) {
        Some("two defaults")
    } else if required(mine) != required(other) {
        Some("to have a value on one side only")
    } else {
        None
    }
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
