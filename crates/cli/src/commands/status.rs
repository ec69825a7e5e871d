use crate::failure::Result;
use crate::files::{self, Access};
use crate::output::{self, count, line, number};
use rejoin::{SiteId, Status, VersionVector};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
The vector says which transactions of which site are held here. Parked changes wait for a table, a column or a value \
that this database does not have yet, or for a constraint to let them in.

Examples:
  rejoin status shop.db
  rejoin status shop.db --json | jq .tables";

/// Show site, versions, tables, and what waits
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let replica = files::open(&args.db, Access::Read)?;
    let status = replica.status().map_err(|e| crate::failure::Failure::from(e).at(args.db.display()))?;
    if args.json {
        return output::json(&as_json(&status));
    }
    let Some(site) = status.site_id else {
        return line(format!(
            "{} has no replicated tables yet; `rejoin replicate` makes some",
            args.db.display()
        ));
    };
    line(as_text(&status, site))
}

fn ranges(vector: &VersionVector, site: &SiteId) -> Vec<(u64, u64)> {
    let ranges = vector.ranges(site).into_iter().flat_map(|r| r.iter());
    ranges.map(|r| (*r.start(), *r.end())).collect()
}

fn as_json(s: &Status) -> Value {
    let vector: Map<String, Value> =
        s.vector.iter().map(|(site, _)| (site.to_string(), json!(ranges(&s.vector, site)))).collect();
    let tables: Vec<Value> = s
        .tables
        .iter()
        .map(|t| {
            json!({
                "name": t.name, "rows": t.rows, "tombstones": t.tombstones, "metadata_bytes": t.metadata_bytes,
                "metadata_bytes_per_row": (t.metadata_bytes_per_row() * 100.0).round() / 100.0,
                "parked": t.parked, "unwatched_since": t.unwatched_since,
            })
        })
        .collect();
    let parked: Vec<Value> = s
        .parked
        .iter()
        .map(|p| json!({ "table": p.table, "reason": p.reason, "changes": p.changes }))
        .collect();
    json!({
        "site_id": s.site_id.map(|s| s.to_string()), "db_version": s.db_version, "format": s.format,
        "mode": s.mode, "clock": s.clock, "merge_equal_values": s.merge_equal_values,
        "lineage": s.lineage.map(|l| output::hex(&l)), "transactions": s.transactions, "log_bytes": s.log_bytes,
        "vector": vector, "tables": tables, "parked": parked,
    })
}

fn as_text(s: &Status, own: SiteId) -> String {
    let lineage = s.lineage.map_or("none yet".into(), |l| output::hex(&l));
    let mut text = format!(
        "site      {own}\nversion   {}\nfile      {}, clock {}, format {}\nlineage   {lineage}\nlog       {}, {} bytes\n",
        number(s.db_version as u64),
        s.mode,
        s.clock,
        s.format,
        count(s.transactions, "transaction"),
        number(s.log_bytes),
    );
    for (n, (site, _)) in s.vector.iter().enumerate() {
        let label = if n == 0 { "vector" } else { "" };
        let list: Vec<String> = ranges(&s.vector, site)
            .into_iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
            .collect();
        let mine = if *site == own { "  (this one)" } else { "" };
        text += &format!("{label:<10}{site}  {}{mine}\n", list.join(", "));
    }
    let row = |t: &rejoin::TableStatus| {
        vec![
            t.name.clone(),
            number(t.rows),
            number(t.tombstones),
            format!("{:.2}", t.metadata_bytes_per_row()),
            number(t.parked),
        ]
    };
    let rows: Vec<Vec<String>> = s.tables.iter().map(row).collect();
    if !rows.is_empty() {
        let header = ["table", "rows", "tombstones", "metadata bytes per row", "parked"];
        text += &format!("\n{}\n", output::table(&header, rows));
    }
    for p in &s.parked {
        text += &format!("\nparked: {} of table \"{}\": {}", count(p.changes, "change"), p.table, p.reason);
    }
    for t in &s.tables {
        if let Some(version) = t.unwatched_since {
            text += &format!(
                "\ntable \"{}\" was written to or rebuilt without Rejoin after version {version}; rows that came and went \
                 were taken over. SELECT crsql_as_crr('{}') acknowledges it",
                t.name, t.name
            );
        }
    }
    text.trim_end().to_owned()
}
