//! The table and the JSON of a run.

use crate::lab::Side;
use crate::measure::{Measured, Unit};

fn side(m: &Measured, side: Side) -> String {
    let (value, figure, most) = match side {
        Side::Owned => (m.owned, m.figure(side), m.ceiling(side)),
        _ => (m.shared, m.figure(side), m.ceiling(side)),
    };
    if value.is_nan() {
        return format!("{:>9} {:>7} {:>6} {:<4}", "-", "-", format!("{most}"), "-");
    }
    let word = if figure <= most { "ok" } else { "OVER" };
    let (value, figure) = match m.scenario.unit {
        Unit::Ratio => (format!("{value:.1}"), format!("{figure:.2}x")),
        Unit::Size => (format!("{:.0} k", value / 1024.0), format!("{figure:.3}x")),
        Unit::BytesPerRow => (format!("{:.0} k", value / 1024.0), format!("{figure:.1} B")),
        Unit::Ms => (format!("{value:.3}"), String::new()),
    };
    format!("{value:>9} {figure:>7} {most:>6} {word:<4}")
}

pub fn head() -> String {
    let columns = format!("{:>9} {:>7} {:>6} {:<4}", "ms", "ratio", "most", "");
    format!(
        "{:<42} {:<4} {:>9} | {:^29} | {:^29}\n{:<42} {:<4} {:>9} | {columns} | {columns}",
        "", "", "plain", "owned", "shared", "scenario", "key", "ms"
    )
}

pub fn line(m: &Measured) -> String {
    let key = if m.uuid { "uuid" } else { "int" };
    let plain = match m.scenario.unit {
        Unit::Ms => String::new(),
        Unit::Ratio => format!("{:.1}", m.plain),
        _ => format!("{:.0} k", m.plain / 1024.0),
    };
    let temp = if m.temp_memory { " [temp]" } else { "" };
    let text = format!("{}{temp}", m.scenario.text);
    format!("{text:<42} {key:<4} {plain:>9} | {} | {}", side(m, Side::Owned), side(m, Side::Shared))
}

pub fn json(all: &[Measured]) -> serde_json::Value {
    let number = |v: f64| {
        if v.is_nan() { serde_json::Value::Null } else { v.into() }
    };
    let one = |m: &Measured| {
        serde_json::json!({
            "scenario": m.scenario.name,
            "text": m.scenario.text,
            "unit": format!("{:?}", m.scenario.unit),
            "key": if m.uuid { "uuid" } else { "int" },
            "temp_store": if m.temp_memory { "memory" } else { "default" },
            "rows": m.rows,
            "plain": number(m.plain),
            "owned": { "value": number(m.owned), "figure": number(m.figure(Side::Owned)), "most": m.ceiling(Side::Owned) },
            "shared": { "value": number(m.shared), "figure": number(m.figure(Side::Shared)), "most": m.ceiling(Side::Shared) },
        })
    };
    all.iter().map(one).collect()
}

/// Whether every figure that was measured keeps its ceiling.
pub fn all_ok(all: &[Measured]) -> bool {
    let ok = |m: &Measured, s| m.figure(s).is_nan() || m.figure(s) <= m.ceiling(s);
    all.iter().all(|m| ok(m, Side::Owned) && ok(m, Side::Shared))
}
