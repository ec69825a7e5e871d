//! The statements of a program as SQL text.

use rejoin_crdt::Value;
use rejoin_crdt::key::{Affinity, Fold};
use rejoin_sim::{ColumnDef, TableDef};

pub fn quote(name: &str) -> String {
    format!("\"{name}\"")
}

pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(i) => i.to_string(),
        Value::Real(r) => format!("{r:?}"),
        Value::Text(t) => format!("'{}'", String::from_utf8_lossy(t)),
        Value::Blob(b) => {
            let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
            format!("x'{hex}'")
        }
    }
}

fn list<T>(all: &[T], f: impl FnMut(&T) -> String) -> String {
    all.iter().map(f).collect::<Vec<_>>().join(", ")
}

fn column(c: &ColumnDef) -> String {
    let name = quote(&c.name);
    match (c.not_null, &c.default) {
        (true, _) => format!("{name} NOT NULL"),
        (false, Value::Null) => name,
        (false, default) => format!("{name} DEFAULT {}", literal(default)),
    }
}

/// `without`: WITHOUT ROWID.
pub fn create(def: &TableDef, name: &str, without: bool) -> String {
    let key = list(&def.key, |k| {
        let (decl, fold) = match (k.affinity, k.fold) {
            (Affinity::Text, Fold::NoCase) => (" TEXT", " COLLATE NOCASE"),
            (Affinity::Integer, _) => (" INTEGER", ""),
            _ => ("", ""),
        };
        format!("{}{decl} NOT NULL{fold}", quote(&k.name))
    });
    let columns: String = def.columns.iter().map(|c| format!(", {}", column(c))).collect();
    let names = list(&def.key, |k| quote(&k.name));
    let without = if without { " WITHOUT ROWID" } else { "" };
    format!("CREATE TABLE {}({key}{columns}, PRIMARY KEY ({names})){without}", quote(name))
}

pub fn add_column(table: &str, c: &ColumnDef) -> String {
    format!("ALTER TABLE {} ADD COLUMN {}", quote(table), column(c))
}

/// `INSERT {or} INTO table(key, columns) VALUES rows`.
pub fn insert(table: &str, or: &str, keys: &[String], columns: &[String], rows: &[Vec<Value>]) -> String {
    let names = list(&[keys, columns].concat(), |n| quote(n));
    let rows = list(rows, |row| format!("({})", list(row, literal)));
    format!("INSERT {or} INTO {}({names}) VALUES {rows}", quote(table))
}

pub fn assignments(set: &[(String, Value)]) -> String {
    list(set, |(name, value)| format!("{} = {}", quote(name), literal(value)))
}

pub fn condition(keys: &[String], key: &[Value]) -> String {
    let one = |(name, value): (&String, &Value)| format!("{} = {}", quote(name), literal(value));
    keys.iter().zip(key).map(one).collect::<Vec<_>>().join(" AND ")
}
