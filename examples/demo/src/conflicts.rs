//! Cells that both shops wrote, told by `crsql_changes` alone: before the merge what each wrote since they parted,
//! after it whose write stands.

use crate::Result;
use comfy_table::{Table, presets};
use rejoin::{Replica, SiteId, Value};
use rusqlite::types::ValueRef;
use std::collections::BTreeMap;

type Key = (String, Vec<u8>);

/// What one shop did to a row: per column the value; '-1' for the row itself, with its causal length.
#[derive(Default, Clone)]
struct Written {
    cells: BTreeMap<String, Value>,
    cl: i64,
}

pub struct Conflict {
    table: String,
    pk: Vec<u8>,
    /// A column, or the row itself.
    cid: String,
    wrote: [String; 2],
}

/// Rows that both wrote to since they had these versions.
pub fn find(shops: [&Replica; 2], since: [i64; 2]) -> Result<Vec<Conflict>> {
    let [left, right] = [written(shops[0], since[0])?, written(shops[1], since[1])?];
    let mut all = Vec::new();
    for ((table, pk), a) in &left {
        let Some(b) = right.get(&(table.clone(), pk.clone())) else { continue };
        let conflict =
            |cid: &str, wrote| Conflict { table: table.clone(), pk: pk.clone(), cid: cid.to_owned(), wrote };
        if a.cl != b.cl || a.cl % 2 == 0 {
            all.push(conflict("-1", [life(a), life(b)]));
            continue;
        }
        for (cid, x) in &a.cells {
            if let Some(y) = b.cells.get(cid).filter(|y| !x.as_ref().same(y.as_ref())) {
                all.push(conflict(cid, [text(x), text(y)]));
            }
        }
    }
    Ok(all)
}

fn written(shop: &Replica, since: i64) -> Result<BTreeMap<Key, Written>> {
    let mut rows: BTreeMap<Key, Written> = BTreeMap::new();
    let mut q = shop
        .connection()
        .prepare("SELECT \"table\", pk, cid, val, cl FROM crsql_changes WHERE db_version > ?1 ORDER BY db_version, seq")?;
    let mut found = q.query([since])?;
    while let Some(row) = found.next()? {
        let one = rows.entry((row.get(0)?, row.get(1)?)).or_default();
        one.cl = row.get(4)?;
        let cid: String = row.get(2)?;
        if cid != "-1" {
            one.cells.insert(cid, value(row.get_ref(3)?));
        }
    }
    Ok(rows)
}

fn value(v: ValueRef<'_>) -> Value {
    match v {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Int(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => Value::Text(t.to_vec()),
        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
    }
}

pub fn text(v: &Value) -> String {
    match v {
        Value::Null => "NULL".into(),
        Value::Int(i) => i.to_string(),
        Value::Real(r) => r.to_string(),
        Value::Text(t) => String::from_utf8_lossy(t).into_owned(),
        Value::Blob(b) => format!("{} bytes", b.len()),
    }
}

fn life(w: &Written) -> String {
    let edits: Vec<String> = w.cells.iter().map(|(cid, v)| format!("{cid} = {}", text(v))).collect();
    match w.cl {
        cl if cl % 2 == 0 => "deleted".into(),
        1 => edits.join(", "),
        _ => "deleted, taken back".into(),
    }
}

/// What stands of a conflict now, and who wrote it.
fn outcome(shop: &Replica, c: &Conflict) -> Result<(String, Option<SiteId>)> {
    let sql = "SELECT cid, val, cl, site_id FROM crsql_changes WHERE \"table\" = ?1 AND pk = ?2 \
         ORDER BY cid <> ?3 LIMIT 1";
    let mut q = shop.connection().prepare(sql)?;
    let mut found = q.query(rusqlite::params![c.table, c.pk, c.cid])?;
    let Some(row) = found.next()? else { return Ok(("unknown".into(), None)) };
    let site = SiteId::from_slice(&row.get::<_, Vec<u8>>(3)?);
    let cl: i64 = row.get(2)?;
    let now = match (c.cid.as_str(), cl % 2) {
        (_, 0) => "deleted".into(),
        ("-1", _) => "there".into(),
        _ => text(&value(row.get_ref(1)?)),
    };
    Ok((now, site))
}

/// Conflicts with their outcome, at most `limit`, each kind early.
pub fn table(conflicts: &[Conflict], shops: [&Replica; 2], limit: usize) -> Result<String> {
    let sites = [shops[0].site_id()?, shops[1].site_id()?];
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["book", "what", "north wrote", "south wrote", "stands", "won"]);
    for c in conflicts.iter().take(limit) {
        let (now, site) = outcome(shops[0], c)?;
        let won = match site {
            _ if c.wrote[0] == c.wrote[1] => "both",
            Some(s) if s == sites[0] => "north",
            Some(s) if s == sites[1] => "south",
            _ => "?",
        };
        let what = if c.cid == "-1" { "the row" } else { &c.cid };
        let wrote = c.wrote.each_ref().map(|w| shorten(w, 28));
        table.add_row([&rejoin::key_text(&c.pk), what, &wrote[0], &wrote[1], &now, won]);
    }
    let mut text = table.trim_fmt();
    if conflicts.len() > limit {
        text += &format!("\n  ... and {} more", conflicts.len() - limit);
    }
    Ok(text)
}

pub fn shorten(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}
