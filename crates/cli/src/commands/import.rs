use crate::csv_file::{CsvFile, Source};
use crate::failure::{Failure, Kind, Result, refused, usage};
use crate::files::{self, Access};
use crate::output::{self, count, line, number};
use crate::{progress, stop};
use clap::ValueEnum;
use rejoin::Replica;
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The first line names the columns, in any order; they are matched with the table's by name. Columns that the table lacks \
are named and skipped; columns that the file lacks get their default. An empty field is NULL (in a text column that is \
NOT NULL, an empty text). A row whose key is there already is updated.

If there is no such table it is made, replicated, with the key that --key names; types are told from the values. \
All of the file is taken, or nothing.

Examples:
  rejoin import shop.db books books.csv --key book_id
  rejoin import shop.db prices prices.csv --key shop,isbn --delimiter ';'
  zcat stock.csv.gz | rejoin import shop.db stock - --existing keep";

/// Take rows from a CSV file
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    table: String,
    /// The file, UTF-8; `-` is stdin
    csv: PathBuf,
    /// Key columns of a table that is made
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    key: Vec<String>,
    /// Between fields: one character, or `tab`
    #[arg(long, default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// What to do with a row whose key is there
    #[arg(long, value_enum, default_value_t = Existing::Update)]
    existing: Existing,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Existing {
    /// Its columns get the values of the file
    Update,
    /// It stays as it is
    Keep,
    /// Nothing is imported
    Fail,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [one] if one.is_ascii() && *one != b'"' && *one != b'\n' => Ok(*one),
        _ => Err("one ASCII character, or `tab`".into()),
    }
}

struct Done {
    made: bool,
    replicated: bool,
    rows: u64,
    fresh: u64,
    skipped: Vec<String>,
    defaulted: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let source = Source::new(&args.csv)?;
    // A look at the file first: nothing is made for one that cannot be read.
    drop(CsvFile::open(&source, args.delimiter)?);
    let fresh = !args.db.exists();
    let replica = files::open(&args.db, Access::Create)?;
    let done = import(&replica, &source, &args);
    let done = match done {
        Ok(done) => done,
        Err(e) => {
            drop(replica);
            if fresh {
                super::init::remove(&args.db);
            }
            return Err(e);
        }
    };
    if args.json {
        return output::json(&json!({
            "table": args.table, "made": done.made, "replicated": done.replicated, "rows": done.rows,
            "new": done.fresh, "skipped_columns": done.skipped, "defaulted_columns": done.defaulted,
        }));
    }
    let made = if done.made { " (made and replicated)" } else { "" };
    line(format!("{}{made}: {} read, {} new", args.table, count(done.rows, "row"), number(done.fresh)))?;
    if !done.skipped.is_empty() {
        line(format!("skipped, the table has no such column: {}", done.skipped.join(", ")))?;
    }
    if !done.replicated {
        line(format!(
            "the table is not replicated; `rejoin replicate {} {}` makes it so",
            args.db.display(),
            args.table
        ))?;
    }
    Ok(())
}

fn import(replica: &Replica, source: &Source, args: &Args) -> Result<Done> {
    let conn = replica.connection();
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let made = Table::find(conn, &args.table)?.is_none();
    if made {
        make(replica, source, args)?;
    }
    let table = Table::find(conn, &args.table)?;
    let table = table.ok_or_else(|| refused(format!("there is no table \"{}\"", args.table)))?;
    let before = table.rows(conn)?;
    let mut file = CsvFile::open(source, args.delimiter)?;
    let plan = Plan::new(&file, &table, args)?;
    let rows = insert(conn, &mut file, &plan)?;
    stop::check()?;
    let fresh = table.rows(conn)?.saturating_sub(before);
    tx.commit()?;
    let status = replica.status()?;
    let replicated = status.tables.iter().any(|t| t.name.eq_ignore_ascii_case(&args.table));
    let Plan { skipped, defaulted, .. } = plan;
    Ok(Done { made, replicated, rows, fresh, skipped, defaulted })
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

struct Column {
    name: String,
    text: bool,
    not_null: bool,
    has_default: bool,
    key: bool,
    generated: bool,
}

struct Table {
    name: String,
    columns: Vec<Column>,
}

impl Table {
    fn find(conn: &Connection, name: &str) -> Result<Option<Table>> {
        let sql =
            "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        let mut q = conn.prepare(sql)?;
        let mut rows = q.query([name])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        if kind != "table" || name.starts_with("crsql_") || name.starts_with("sqlite_") {
            return Err(refused(format!("\"{name}\" is a {kind} that cannot be imported into")));
        }
        let mut q = conn.prepare(
            "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk > 0, hidden >= 2 \
             FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )?;
        let columns = q.query_map([&name], |row| {
            let kind: String = row.get(1)?;
            let kind = kind.to_ascii_uppercase();
            let text = ["CHAR", "CLOB", "TEXT"].iter().any(|t| kind.contains(t)) && !kind.contains("INT");
            let (not_null, has_default) = (row.get(2)?, row.get(3)?);
            let (key, generated) = (row.get(4)?, row.get(5)?);
            Ok(Column { name: row.get(0)?, text, not_null, has_default, key, generated })
        })?;
        let columns = columns.collect::<rusqlite::Result<_>>()?;
        Ok(Some(Table { name, columns }))
    }

    fn rows(&self, conn: &Connection) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM main.{}", quote(&self.name));
        let rows: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
        Ok(rows as u64)
    }
}

/// Which field goes where.
struct Plan {
    sql: String,
    fields: Vec<Field>,
    skipped: Vec<String>,
    defaulted: Vec<String>,
}

struct Field {
    at: usize,
    name: String,
    key: bool,
    /// What an empty field means.
    empty: Option<&'static str>,
}

impl Plan {
    fn new(file: &CsvFile, table: &Table, args: &Args) -> Result<Plan> {
        let find = |name: &str| {
            let matches = |c: &&Column| c.name.eq_ignore_ascii_case(name) && !c.generated;
            table.columns.iter().find(matches)
        };
        let mut fields = Vec::new();
        let mut skipped: Vec<String> = file.unnamed.iter().map(|n| format!("column {n} (no name)")).collect();
        for h in &file.headers {
            let Some(c) = find(&h.name) else {
                skipped.push(h.name.clone());
                continue;
            };
            let empty = (c.text && c.not_null && !c.key).then_some("");
            fields.push(Field { at: h.at, name: c.name.clone(), key: c.key, empty });
        }
        let lacks = |c: &&Column| !c.generated && !fields.iter().any(|f| f.name == c.name);
        let missing: Vec<&Column> = table.columns.iter().filter(lacks).collect();
        let needed = |c: &&&Column| c.key || (c.not_null && !c.has_default);
        let needed: Vec<&str> = missing.iter().filter(needed).map(|c| c.name.as_str()).collect();
        if !needed.is_empty() {
            return Err(refused(format!(
                "the file has no column for {} of table \"{}\", which must have a value; it has {}",
                needed.join(", "),
                table.name,
                names(file)
            )));
        }
        let defaulted = missing.iter().map(|c| c.name.clone()).collect();
        let sql = statement(table, &fields, args.existing);
        Ok(Plan { sql, fields, skipped, defaulted })
    }
}

fn statement(table: &Table, fields: &[Field], existing: Existing) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let columns = list(fields.iter().map(|f| quote(&f.name)).collect());
    let places = list((1..=fields.len()).map(|i| format!("?{i}")).collect());
    let mut sql = format!("INSERT INTO main.{}({columns}) VALUES ({places})", quote(&table.name));
    let keys = list(table.columns.iter().filter(|c| c.key).map(|c| quote(&c.name)).collect());
    if keys.is_empty() || existing == Existing::Fail {
        return sql;
    }
    let set = |f: &Field| format!("{0} = excluded.{0}", quote(&f.name));
    let sets = list(fields.iter().filter(|f| !f.key).map(set).collect());
    sql += &match existing {
        Existing::Update if !sets.is_empty() => {
            format!(" ON CONFLICT({keys}) DO UPDATE SET {sets}")
        }
        _ => format!(" ON CONFLICT({keys}) DO NOTHING"),
    };
    sql
}

fn insert(conn: &Connection, file: &mut CsvFile, plan: &Plan) -> Result<u64> {
    let mut statement = conn.prepare(&plan.sql)?;
    let bar = progress::bytes(file.bytes, "importing");
    let mut rows = 0;
    while file.next()? {
        let mut values: Vec<Option<&str>> = Vec::with_capacity(plan.fields.len());
        for f in &plan.fields {
            let text = file.text(f.at)?;
            let value = if text.is_empty() { f.empty } else { Some(text) };
            if f.key && value.is_none() {
                return Err(
                    file.refuse(format!("the key column \"{}\" is empty; nothing was imported", f.name))
                );
            }
            values.push(value);
        }
        let params: Vec<&dyn ToSql> = values.iter().map(|v| v as &dyn ToSql).collect();
        if let Err(e) = statement.execute(params.as_slice()) {
            let e = Failure::from(e);
            if e.kind != Kind::Refused {
                return Err(e);
            }
            return Err(file.refuse(format!("{}; nothing was imported", e.message)));
        }
        rows += 1;
        if rows % 1024 == 0 {
            bar.set_position(file.position());
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn names(file: &CsvFile) -> String {
    let all: Vec<&str> = file.headers.iter().map(|h| h.name.as_str()).collect();
    all.join(", ")
}

/// What all values of a column can be read as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Unknown,
    Integer,
    Real,
    Text,
}

fn type_of(text: &str) -> Type {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // A number with leading zeros is a name.
    let named = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || named {
        return if text.is_empty() { Type::Unknown } else { Type::Text };
    }
    if text.parse::<i64>().is_ok() {
        return Type::Integer;
    }
    // Whole numbers that do not fit are names, too: as reals they would lose digits.
    let real = digits.contains(['.', 'e', 'E']) && text.parse::<f64>().is_ok_and(f64::is_finite);
    if real { Type::Real } else { Type::Text }
}

/// Makes the table for a file, replicated.
fn make(replica: &Replica, source: &Source, args: &Args) -> Result<()> {
    let mut file = CsvFile::open(source, args.delimiter)?;
    if args.key.is_empty() {
        return Err(usage(format!(
            "there is no table \"{}\"; to make it, name its key with --key COLUMN, one or more of: {}",
            args.table,
            names(&file)
        )));
    }
    let mut keys = Vec::new();
    for key in &args.key {
        let found = file.headers.iter().position(|h| h.name.eq_ignore_ascii_case(key));
        let found = found.ok_or_else(|| {
            usage(format!("--key {key}: the file has no such column; it has {}", names(&file)))
        })?;
        keys.push(found);
    }
    let mut types = vec![Type::Unknown; file.headers.len()];
    let bar = progress::bytes(file.bytes, "reading types");
    let mut rows = 0u64;
    while file.next()? {
        for (h, t) in file.headers.iter().zip(&mut types) {
            if *t != Type::Text {
                *t = (*t).max(type_of(file.text(h.at)?));
            }
        }
        rows += 1;
        if rows.is_multiple_of(1024) {
            bar.set_position(file.position());
        }
    }
    bar.finish_and_clear();
    let mut columns: Vec<String> = Vec::new();
    for (n, (h, t)) in file.headers.iter().zip(&types).enumerate() {
        let key = keys.contains(&n);
        let kind = match t {
            Type::Integer => "INTEGER",
            Type::Real if !key => "REAL",
            _ => "TEXT",
        };
        let not_null = if key { " NOT NULL" } else { "" };
        columns.push(format!("{} {kind}{not_null}", quote(&h.name)));
    }
    let keys: Vec<String> =
        keys.iter().filter_map(|n| file.headers.get(*n)).map(|h| quote(&h.name)).collect();
    replica.connection().execute_batch(&format!(
        "CREATE TABLE main.{}({}, PRIMARY KEY({}))",
        quote(&args.table),
        columns.join(", "),
        keys.join(", ")
    ))?;
    Ok(replica.replicate(&args.table)?)
}
