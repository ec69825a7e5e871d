//! Ordered lists: `crsql_fract_as_ordered` and its triggers and view.
//!
//! The position of a row is a text between those of its neighbours. Triggers turn -1 (first) and 1 (last) into such
//! a text; the view `<t>_fractindex` takes `after_<key>` instead. What is made here runs on `crsql_fract_key_between`
//! alone, so that it keeps its meaning in files that cr-sqlite made and in those that it will read again.

use crate::catalog::{LiveTable, describe};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{literal, quote};
use crate::functions::{bad, text_arg};
use rejoin_sqlite::{Args, Context, Result as SqlResult, ValueRef};

const AS_ORDERED: &str = "crsql_fract_as_ordered";
const KEY_BETWEEN: &str = "crsql_fract_key_between";
const FIX_CONFLICT: &str = "crsql_fract_fix_conflict_return_old_key";

/// An order key as an argument: numbers as text, as they would be stored in a text column.
fn order_key(arg: rejoin_sqlite::Arg<'_>) -> Result<Option<&str>> {
    if arg.is_null() {
        return Ok(None);
    }
    let key =
        std::str::from_utf8(arg.text()).map_err(|_| bad(KEY_BETWEEN, "an order key is printable ASCII"))?;
    Ok(Some(key))
}

fn between(a: Option<&str>, b: Option<&str>) -> Result<String> {
    rejoin_crdt::fract::between(a, b).map_err(|e| bad(KEY_BETWEEN, e.to_string()))
}

pub fn key_between(ctx: &mut Context, _e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let key = between(order_key(args.get(0))?, order_key(args.get(1))?)?;
    ctx.set_text(key.as_bytes());
    Ok(())
}

pub fn as_ordered(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    if args.len() < 2 {
        let why = "takes the table name, the column to order by, and the columns that name a list";
        return Err(bad(AS_ORDERED, why).into());
    }
    let names: Vec<&str> = (0..args.len()).map(|i| text_arg(AS_ORDERED, args, i)).collect::<Result<_>>()?;
    let list = List::new(e, names[0], names[1], &names[2..])?;
    e.scoped(AS_ORDERED, || {
        drop_objects(e, &list.table.name)?;
        for sql in list.objects() {
            e.db.exec(&sql)?;
        }
        Ok(())
    })?;
    ctx.set_null();
    Ok(())
}

/// The triggers and the view of an ordered list go.
pub fn drop_objects(engine: &Engine, table: &str) -> Result<()> {
    let drop =
        |kind: &str, name: String| engine.db.exec(&format!("DROP {kind} IF EXISTS main.{}", quote(&name)));
    drop("TRIGGER", pend(table))?;
    drop("TRIGGER", move_to_end(table))?;
    if has_view(engine, table)? {
        drop("VIEW", view(table))?;
    }
    Ok(())
}

fn pend(table: &str) -> String {
    format!("__crsql_{table}_fractindex_pend_trig")
}

fn move_to_end(table: &str) -> String {
    format!("__crsql_{table}_fractindex_ezmove")
}

pub fn view(table: &str) -> String {
    format!("{table}_fractindex")
}

/// Whether `<t>_fractindex` is a list's view and not something of the user's own.
pub fn has_view(engine: &Engine, table: &str) -> Result<bool> {
    let mut q = engine.db.prepare_transient(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1 || '_insert_trig' COLLATE NOCASE \
         AND tbl_name = ?1 COLLATE NOCASE",
    )?;
    q.bind_text(1, view(table).as_bytes())?;
    Ok(q.step()?)
}

/// A table, its position column, and the columns that name a list.
struct List {
    table: LiveTable,
    order: String,
    lists: Vec<String>,
}

impl List {
    fn new(engine: &Engine, table: &str, order: &str, lists: &[&str]) -> Result<List> {
        let live = describe(engine.db, table)?
            .ok_or_else(|| Error::NoTable { table: table.into(), why: "does not exist" })?;
        let column = |name: &str| match live.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)) {
            Some(c) if !c.generated => Ok(c.name.clone()),
            Some(_) => Err(bad(AS_ORDERED, format!("column \"{name}\" is generated"))),
            None => Err(bad(AS_ORDERED, format!("table \"{}\" has no column \"{name}\"", live.name))),
        };
        let order = column(order)?;
        let lists: Vec<String> = lists.iter().map(|l| column(l)).collect::<Result<_>>()?;
        if !live.columns.iter().any(|c| c.pk > 0) {
            return Err(bad(AS_ORDERED, format!("table \"{}\" has no PRIMARY KEY", live.name)));
        }
        if live.columns.iter().any(|c| c.pk > 0 && c.name == order) {
            return Err(bad(AS_ORDERED, format!("column \"{order}\" is part of the key; positions change")));
        }
        Ok(List { table: live, order, lists })
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.table.columns.iter().filter(|c| c.pk > 0).map(|c| c.name.as_str())
    }

    /// `k1 IS <p>."k1" AND ...`, with another prefix to the names on the right.
    fn key_is(&self, row: &str, prefix: &str) -> String {
        let terms = self.keys().map(|k| format!("{} IS {row}.{}", quote(k), quote(&format!("{prefix}{k}"))));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// The rows of the list that `NEW` belongs to. NULL names no list.
    fn in_list(&self) -> String {
        let terms: Vec<String> = self.lists.iter().map(|l| format!("{0} = NEW.{0} AND ", quote(l))).collect();
        terms.concat()
    }

    fn objects(&self) -> [String; 5] {
        [self.pend_trigger(), self.move_trigger(), self.view(), self.insert_trigger(), self.update_trigger()]
    }

    /// Sets the position of `NEW`, which is -1 or 1, to one before or after all others of its list.
    fn set_end(&self) -> String {
        let (t, o, l) = (quote(&self.table.name), quote(&self.order), self.in_list());
        let end = |f: &str| format!("(SELECT {f}({o}) FROM {t} WHERE {l}{o} <> -1 AND {o} <> 1)");
        format!(
            "UPDATE {t} SET {o} = CASE CAST(NEW.{o} AS INTEGER) WHEN -1 THEN {KEY_BETWEEN}(NULL, {}) \
             ELSE {KEY_BETWEEN}({}, NULL) END WHERE {};",
            end("min"),
            end("max"),
            self.key_is("NEW", "")
        )
    }

    fn pend_trigger(&self) -> String {
        let (t, o) = (quote(&self.table.name), quote(&self.order));
        let name = quote(&pend(&self.table.name));
        format!(
            "CREATE TRIGGER main.{name} AFTER INSERT ON {t} WHEN CAST(NEW.{o} AS INTEGER) IN (-1, 1) BEGIN {} END",
            self.set_end()
        )
    }

    fn move_trigger(&self) -> String {
        let (t, o) = (quote(&self.table.name), quote(&self.order));
        let name = quote(&move_to_end(&self.table.name));
        format!(
            "CREATE TRIGGER main.{name} AFTER UPDATE OF {o} ON {t} WHEN CAST(NEW.{o} AS INTEGER) IN (-1, 1) BEGIN {} END",
            self.set_end()
        )
    }

    fn view(&self) -> String {
        let after: Vec<String> =
            self.keys().map(|k| format!("NULL AS {}", quote(&format!("after_{k}")))).collect();
        let (v, t) = (quote(&view(&self.table.name)), quote(&self.table.name));
        format!("CREATE VIEW main.{v} AS SELECT *, {} FROM {t}", after.join(", "))
    }

    /// If the row to go after shares its position with another of the list, it moves up: a place opens between them.
    fn part_twins(&self) -> String {
        let (t, o, l) = (quote(&self.table.name), quote(&self.order), self.in_list());
        let is_after = self.key_is("NEW", "after_");
        let after = format!("(SELECT {o} FROM {t} WHERE {is_after})");
        format!(
            "UPDATE {t} SET {o} = {KEY_BETWEEN}((SELECT max({o}) FROM {t} WHERE {l}{o} < {after}), {o}) \
             WHERE {is_after} AND 1 < (SELECT count(*) FROM {t} WHERE {l}{o} = {after});"
        )
    }

    /// The position after the row that NEW names; -1 if the list has none on that position.
    fn position(&self) -> String {
        let (t, o, l) = (quote(&self.table.name), quote(&self.order), self.in_list());
        let after = format!("(SELECT {o} FROM {t} WHERE {})", self.key_is("NEW", "after_"));
        format!(
            "CASE WHEN EXISTS (SELECT 1 FROM {t} WHERE {l}{o} = {after}) \
             THEN {KEY_BETWEEN}({after}, (SELECT min({o}) FROM {t} WHERE {l}{o} > {after})) ELSE -1 END"
        )
    }

    /// The columns that a statement on the view passes on.
    fn passed(&self) -> Vec<String> {
        let cols = self.table.columns.iter().filter(|c| !c.generated && c.name != self.order);
        cols.map(|c| quote(&c.name)).collect()
    }

    fn insert_trigger(&self) -> String {
        let (t, o) = (quote(&self.table.name), quote(&self.order));
        let v = view(&self.table.name);
        let cols = self.passed();
        let values: Vec<String> = cols.iter().map(|c| format!("NEW.{c}")).collect();
        format!(
            "CREATE TRIGGER main.{} INSTEAD OF INSERT ON {} BEGIN {} \
             INSERT INTO {t} ({}, {o}) VALUES ({}, {}); END",
            quote(&format!("{v}_insert_trig")),
            quote(&v),
            self.part_twins(),
            cols.join(", "),
            values.join(", "),
            self.position()
        )
    }

    fn update_trigger(&self) -> String {
        let (t, o) = (quote(&self.table.name), quote(&self.order));
        let v = view(&self.table.name);
        let sets: Vec<String> = self.passed().iter().map(|c| format!("{c} = NEW.{c}")).collect();
        format!(
            "CREATE TRIGGER main.{} INSTEAD OF UPDATE ON {} BEGIN {} \
             UPDATE {t} SET {}, {o} = {} WHERE {}; END",
            quote(&format!("{v}_update_trig")),
            quote(&v),
            self.part_twins(),
            sets.join(", "),
            self.position(),
            self.key_is("OLD", "")
        )
    }
}

/// What the list triggers that cr-sqlite made call when two rows share a position:
/// `(table, order_col, list_cols..., -1, key_cols..., key_values...)`. Moves the named row up and returns a position
/// between it and its twin.
pub fn fix_conflict(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let minus = args.iter().skip(2).position(|a| matches!(a.value(), ValueRef::Integer(-1)));
    let (Some(n), true) = (minus, args.len() >= 5) else {
        return Err(bad(FIX_CONFLICT, "is for the triggers of ordered lists only").into());
    };
    let table = text_arg(FIX_CONFLICT, args, 0)?;
    let order = quote(text_arg(FIX_CONFLICT, args, 1)?);
    let lists: Vec<&str> = (2..2 + n).map(|i| text_arg(FIX_CONFLICT, args, i)).collect::<Result<_>>()?;
    let rest = args.skip(3 + n);
    let width = rest.len() / 2;
    let keys: Vec<&str> = (0..width).map(|i| text_arg(FIX_CONFLICT, rest, i)).collect::<Result<_>>()?;
    if width == 0 || !rest.len().is_multiple_of(2) {
        return Err(bad(FIX_CONFLICT, "key columns and their values differ in number").into());
    }
    let t = format!("main.{}", quote(table));
    let by: Vec<String> =
        keys.iter().enumerate().map(|(i, k)| format!("{} IS ?{}", quote(k), i + 1)).collect();
    let same: Vec<String> = lists.iter().map(|l| format!("p.{0} = t.{0} AND ", quote(l))).collect();
    let mut q = e.db.prepare_transient(&format!(
        "SELECT {order}, (SELECT max(p.{order}) FROM {t} AS p WHERE {}p.{order} < t.{order}) FROM {t} AS t WHERE {}",
        same.concat(),
        by.join(" AND ")
    ))?;
    let values: Vec<ValueRef<'_>> = rest.skip(width).iter().map(|a| a.value()).collect();
    let found = q.query_row(&values, |q| Ok((text_or_null(q, 0), text_or_null(q, 1))))?;
    drop(q);
    let Some((Some(old), before)) = found else {
        return Err(bad(FIX_CONFLICT, format!("{} has no such row", literal(table))).into());
    };
    let new = between(before.as_deref(), Some(&old))?;
    let key_at = |i: usize| i + 1;
    let by: Vec<String> =
        keys.iter().enumerate().map(|(i, k)| format!("{} IS ?{}", quote(k), key_at(i))).collect();
    let mut put = e.db.prepare_transient(&format!(
        "UPDATE {t} SET {order} = ?{} WHERE {}",
        width + 1,
        by.join(" AND ")
    ))?;
    let mut values = values;
    values.push(ValueRef::Text(new.as_bytes()));
    put.run(&values)?;
    ctx.set_text(between(Some(&new), Some(&old))?.as_bytes());
    Ok(())
}

fn text_or_null(q: &rejoin_sqlite::Stmt, i: i32) -> Option<String> {
    match q.column(i) {
        ValueRef::Null => None,
        _ => Some(String::from_utf8_lossy(q.column_text(i)).into_owned()),
    }
}
