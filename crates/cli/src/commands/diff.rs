use crate::failure::{Failure, Kind, Result, usage};
use crate::files::{self, Access};
use crate::output::{self, count, line, literal, number, owned};
use crate::{progress, stop};
use rejoin::{Replica, Value};
use rusqlite::{Connection, Row, Rows};
use serde_json::json;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Compares the replicated tables of two databases: which there are, their columns, and their rows by key. Exits with 0 if \
all is equal, with 1 if not; then the first differing rows of each table are shown, left | right.

Examples:
  rejoin diff shop.db laptop.db
  rejoin diff shop.db backup.db --all --rows 100";

/// Compare two databases
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    a: PathBuf,
    b: PathBuf,
    /// How many differing rows of a table to show
    #[arg(long, default_value_t = 10, value_name = "N")]
    rows: u64,
    /// Tables that are not replicated, too
    #[arg(long)]
    all: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// One differing row: its key, and what of it differs.
struct Difference {
    table: String,
    key: Vec<Value>,
    what: What,
}

enum What {
    OnlyLeft,
    OnlyRight,
    Cells(Vec<(String, Value, Value)>),
}

#[derive(Default)]
struct Comparison {
    schema: Vec<String>,
    shown: Vec<Difference>,
    /// Per table: name, rows left and right, rows that are only left, only right, different.
    tables: Vec<(String, [u64; 5])>,
}

impl Comparison {
    fn differing(&self) -> u64 {
        self.tables.iter().map(|(_, n)| n[2] + n[3] + n[4]).sum()
    }

    fn is_equal(&self) -> bool {
        self.schema.is_empty() && self.differing() == 0
    }
}

pub fn run(args: Args) -> Result<()> {
    if files::same(&args.a, &args.b) {
        return Err(usage("both are the same file"));
    }
    let open = |path: &Path| {
        let replica =
            if args.all { files::open(path, Access::Read) } else { files::open_replica(path, Access::Read) };
        let replica = replica?;
        // One state of each, whoever writes meanwhile.
        replica.connection().execute_batch("BEGIN")?;
        Ok::<Replica, Failure>(replica)
    };
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let spinner = progress::spinner("comparing");
    let found = compare(&a, &b, &args);
    spinner.finish_and_clear();
    let found = found?;
    if args.json {
        output::json(&as_json(&found))?;
    } else {
        line(as_text(&found, &args))?;
    }
    if found.is_equal() {
        return Ok(());
    }
    Err(Failure::new(Kind::Differs, ""))
}

fn table_names(replica: &Replica, all: bool) -> Result<Vec<String>> {
    if !all {
        return Ok(replica.status()?.tables.into_iter().map(|t| t.name).collect());
    }
    let mut q = replica.connection().prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name NOT GLOB 'crsql_*' AND name NOT GLOB 'sqlite_*' ORDER BY name",
    )?;
    let names = q.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

fn compare(a: &Replica, b: &Replica, args: &Args) -> Result<Comparison> {
    let (left, right) = (table_names(a, args.all)?, table_names(b, args.all)?);
    let mut found = Comparison::default();
    let has = |names: &[String], name: &str| names.iter().any(|n| n.eq_ignore_ascii_case(name));
    let kind = if args.all { "table" } else { "replicated table" };
    for name in right.iter().filter(|n| !has(&left, n)) {
        found.schema.push(format!("{kind} \"{name}\" is only in {}", args.b.display()));
    }
    for name in &left {
        if !has(&right, name) {
            found.schema.push(format!("{kind} \"{name}\" is only in {}", args.a.display()));
            continue;
        }
        compare_table(a.connection(), b.connection(), name, args, &mut found)?;
    }
    Ok(found)
}

struct Column {
    name: String,
    /// Type, NOT NULL and default, as declared.
    decl: String,
    key: i64,
}

fn columns(conn: &Connection, table: &str) -> Result<Vec<Column>> {
    let mut q = conn.prepare(
        "SELECT name, upper(type) || iif(\"notnull\", ' NOT NULL', '') || coalesce(' DEFAULT ' || dflt_value, ''), pk \
         FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY cid",
    )?;
    let read = |row: &Row<'_>| Ok(Column { name: row.get(0)?, decl: row.get(1)?, key: row.get(2)? });
    Ok(q.query_map([table], read)?.collect::<rusqlite::Result<_>>()?)
}

/// Names of the key columns in key order, and of the others that both have.
fn shared(
    a: &[Column],
    b: &[Column],
    table: &str,
    args: &Args,
    found: &mut Comparison,
) -> Option<(Vec<String>, Vec<String>)> {
    let twin = |list: &'_ [Column], name: &str| list.iter().position(|c| c.name.eq_ignore_ascii_case(name));
    for (list, other, place) in [(a, b, &args.a), (b, a, &args.b)] {
        for c in list.iter().filter(|c| twin(other, &c.name).is_none()) {
            found.schema.push(format!(
                "column \"{}\" of table \"{table}\" is only in {}",
                c.name,
                place.display()
            ));
        }
    }
    let mut rest = Vec::new();
    let mut same_key = true;
    for c in a {
        let Some(d) = twin(b, &c.name).and_then(|i| b.get(i)) else {
            same_key &= c.key == 0;
            continue;
        };
        if c.decl != d.decl || c.key != d.key {
            let what = format!("column \"{}\" of table \"{table}\" is declared in two ways", c.name);
            found.schema.push(format!("{what}: {} | {}", declared(c), declared(d)));
        }
        same_key &= c.key == d.key;
        if c.key == 0 {
            rest.push(c.name.clone());
        }
    }
    same_key &= b.iter().all(|c| c.key == 0 || twin(a, &c.name).is_some());
    let mut keys: Vec<&Column> = a.iter().filter(|c| c.key > 0).collect();
    keys.sort_by_key(|c| c.key);
    let keys: Vec<String> = keys.into_iter().map(|c| c.name.clone()).collect();
    if !same_key {
        return None;
    }
    // Without a key a row is all that it holds.
    Some(if keys.is_empty() { (rest, Vec::new()) } else { (keys, rest) })
}

fn declared(c: &Column) -> String {
    let key = if c.key > 0 { format!(" (key {})", c.key) } else { String::new() };
    let decl = if c.decl.is_empty() { "no type" } else { &c.decl };
    format!("{decl}{key}")
}

fn query(table: &str, keys: &[String], rest: &[String]) -> String {
    let quote = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let all: Vec<String> = keys.iter().chain(rest).map(quote).collect();
    let order: Vec<String> = keys.iter().map(|k| format!("{} COLLATE BINARY", quote(k))).collect();
    format!("SELECT {} FROM main.{} ORDER BY {}", all.join(", "), quote(&table.to_owned()), order.join(", "))
}

/// Numbers before text before blobs, as SQLite sorts.
fn order(a: &Value, b: &Value) -> Ordering {
    let class = |v: &Value| match v {
        Value::Null => 0,
        Value::Int(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (Value::Int(a), Value::Real(b)) => (*a as f64).total_cmp(b),
        (Value::Real(a), Value::Int(b)) => a.total_cmp(&(*b as f64)),
        (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

fn next(rows: &mut Rows<'_>, width: usize) -> Result<Option<Vec<Value>>> {
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let values = (0..width).map(|i| Ok(owned(row.get_ref(i)?)));
    Ok(Some(values.collect::<rusqlite::Result<_>>()?))
}

fn compare_table(
    a: &Connection,
    b: &Connection,
    table: &str,
    args: &Args,
    found: &mut Comparison,
) -> Result<()> {
    let (left, right) = (columns(a, table)?, columns(b, table)?);
    let Some((keys, rest)) = shared(&left, &right, table, args, found) else {
        return Ok(());
    };
    let sql = query(table, &keys, &rest);
    let (mut qa, mut qb) = (a.prepare(&sql)?, b.prepare(&sql)?);
    let (mut ra, mut rb) = (qa.query([])?, qb.query([])?);
    let width = keys.len() + rest.len();
    let (mut x, mut y) = (next(&mut ra, width)?, next(&mut rb, width)?);
    let mut n = [0u64; 5];
    let mut shown = 0;
    loop {
        stop::check()?;
        let side = match (&x, &y) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => {
                let pairs = x.iter().zip(y).take(keys.len());
                pairs.map(|(x, y)| order(x, y)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
            }
        };
        let what = match side {
            Ordering::Less => Some(What::OnlyLeft),
            Ordering::Greater => Some(What::OnlyRight),
            Ordering::Equal => cells(&rest, keys.len(), x.as_deref(), y.as_deref()),
        };
        let row = if side == Ordering::Greater { &y } else { &x };
        if let Some(what) = what {
            n[match what {
                What::OnlyLeft => 2,
                What::OnlyRight => 3,
                What::Cells(_) => 4,
            }] += 1;
            if shown < args.rows {
                shown += 1;
                let key = row.iter().flatten().take(keys.len()).cloned().collect();
                found.shown.push(Difference { table: table.to_owned(), key, what });
            }
        }
        if side != Ordering::Greater {
            n[0] += 1;
            x = next(&mut ra, width)?;
        }
        if side != Ordering::Less {
            n[1] += 1;
            y = next(&mut rb, width)?;
        }
    }
    found.tables.push((table.to_owned(), n));
    Ok(())
}

/// The cells that differ in a row that both have.
fn cells(names: &[String], from: usize, x: Option<&[Value]>, y: Option<&[Value]>) -> Option<What> {
    let pairs = x?.iter().zip(y?).skip(from).zip(names);
    let differ = pairs.filter(|((x, y), _)| !x.as_ref().same(y.as_ref()));
    let list: Vec<_> = differ.map(|((x, y), name)| (name.clone(), x.clone(), y.clone())).collect();
    (!list.is_empty()).then_some(What::Cells(list))
}

fn as_json(found: &Comparison) -> serde_json::Value {
    let row = |d: &Difference| {
        let key: Vec<serde_json::Value> = d.key.iter().map(output::value).collect();
        let what = match &d.what {
            What::OnlyLeft => json!({ "only": "a" }),
            What::OnlyRight => json!({ "only": "b" }),
            What::Cells(list) => {
                let cell = |(name, x, y): &(String, Value, Value)| json!({ "column": name, "a": output::value(x), "b": output::value(y) });
                json!({ "cells": list.iter().map(cell).collect::<Vec<_>>() })
            }
        };
        json!({ "table": d.table, "key": key, "difference": what })
    };
    let table = |(name, n): &(String, [u64; 5])| json!({ "name": name, "rows_a": n[0], "rows_b": n[1], "only_a": n[2], "only_b": n[3], "different": n[4] });
    json!({
        "equal": found.is_equal(), "schema": found.schema,
        "tables": found.tables.iter().map(table).collect::<Vec<_>>(),
        "rows": found.shown.iter().map(row).collect::<Vec<_>>(),
    })
}

fn as_text(found: &Comparison, args: &Args) -> String {
    if found.is_equal() {
        let rows: u64 = found.tables.iter().map(|(_, n)| n[0]).sum();
        let tables = count(found.tables.len() as u64, "table");
        return format!("equal: {tables}, {}", count(rows, "row"));
    }
    let mut lines = found.schema.clone();
    for d in &found.shown {
        let key: Vec<String> = d.key.iter().map(literal).collect();
        let key = if key.len() == 1 { key.concat() } else { format!("({})", key.join(", ")) };
        lines.push(match &d.what {
            What::OnlyLeft => format!("{} {key}: only in {}", d.table, args.a.display()),
            What::OnlyRight => format!("{} {key}: only in {}", d.table, args.b.display()),
            What::Cells(list) => {
                let cell =
                    |(name, x, y): &(String, Value, Value)| format!("{name} {} | {}", literal(x), literal(y));
                let cells: Vec<String> = list.iter().map(cell).collect();
                format!("{} {key}: {}", d.table, cells.join(", "))
            }
        });
    }
    let more = found.differing() - found.shown.len() as u64;
    if more > 0 {
        lines.push(format!("and {} more differing rows", number(more)));
    }
    for (name, n) in found.tables.iter().filter(|(_, n)| n[2] + n[3] + n[4] > 0) {
        let [_, _, left, right, both] = n.map(number);
        lines.push(format!("{name}: {left} rows only left, {right} only right, {both} different"));
    }
    lines.join("\n")
}
