//! What people and programs read on stdout.

use crate::failure::{Failure, Kind, Result};
use comfy_table::{CellAlignment, Table, presets};
use rejoin::{Applied, Problem, Value};
use serde_json::json;
use std::io::Write;

/// Writes to stdout; a reader that went away is no error.
pub fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{}", text.as_ref()))
}

pub fn written(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::new(Kind::Pipe, ""),
        _ => Failure::new(Kind::System, format!("cannot write the output: {e}")),
    })
}

pub fn json(value: &serde_json::Value) -> Result<()> {
    line(format!("{value:#}"))
}

/// A table without lines; columns after the first are right-aligned if they hold numbers.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    let numeric = |n: usize| {
        let number = |c: &String| c.is_empty() || c.starts_with(|ch: char| ch.is_ascii_digit());
        !rows.is_empty() && rows.iter().all(|r| r.get(n).is_none_or(number))
    };
    let right: Vec<usize> = (1..header.len()).filter(|n| numeric(*n)).collect();
    table.add_rows(rows);
    for n in right {
        if let Some(column) = table.column_mut(n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// `1 row`, `2 rows`.
pub fn count(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", number(n))
}

/// With commas between thousands.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A value as an SQL literal, shortened.
pub fn literal(value: &Value) -> String {
    const MAX: usize = 60;
    match value {
        Value::Null => "NULL".into(),
        Value::Int(i) => i.to_string(),
        Value::Real(r) => format!("{r:?}"),
        Value::Text(t) => {
            let text = String::from_utf8_lossy(t);
            let short: String = text.chars().take(MAX).collect();
            let more = if short.len() < text.len() { "..." } else { "" };
            format!("'{}{more}'", escape(&short))
        }
        Value::Blob(b) if b.len() > MAX / 2 => {
            format!("x'{}...' ({} bytes)", hex(&b[..MAX / 2]), b.len())
        }
        Value::Blob(b) => format!("x'{}'", hex(b)),
    }
}

/// Control characters made visible, quotes doubled.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A value in JSON. What JSON does not have: `{"blob": "hex"}`, `{"real": "inf"}`, and text that is not UTF-8 as
/// `{"text": "hex"}`.
pub fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Int(i) => json!(i),
        Value::Real(r) if r.is_finite() => json!(r),
        Value::Real(r) => json!({ "real": r.to_string() }),
        Value::Text(t) => match std::str::from_utf8(t) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": hex(t) }),
        },
        Value::Blob(b) => json!({ "blob": hex(b) }),
    }
}

pub fn owned(value: rusqlite::types::ValueRef<'_>) -> Value {
    use rusqlite::types::ValueRef as V;
    match value {
        V::Null => Value::Null,
        V::Integer(i) => Value::Int(i),
        V::Real(r) => Value::Real(r),
        V::Text(t) => Value::Text(t.into()),
        V::Blob(b) => Value::Blob(b.into()),
    }
}

pub fn applied(a: &Applied) -> serde_json::Value {
    json!({
        "transactions": a.transactions, "rows": a.rows, "cells_won": a.cells_won, "cells_lost": a.cells_lost,
        "parked": a.parked, "skipped": a.skipped,
    })
}

/// One sentence about what a changeset did.
pub fn applied_text(a: &Applied) -> String {
    if a.transactions == 0 {
        return "nothing new".into();
    }
    let mut text = format!(
        "{}, {}: {} taken",
        count(a.transactions, "transaction"),
        count(a.rows, "row"),
        count(a.cells_won, "change")
    );
    if a.cells_lost > 0 {
        text += &format!(", {} lost to newer ones", number(a.cells_lost));
    }
    if a.parked > 0 {
        text += &format!(", {} parked (see `rejoin status`)", number(a.parked));
    }
    text
}

pub fn problem(p: &Problem) -> serde_json::Value {
    json!({
        "table": p.table, "key": p.key.as_deref().map(rejoin::key_text), "what": p.what, "advice": p.advice,
        "repairable": p.repairable,
    })
}
