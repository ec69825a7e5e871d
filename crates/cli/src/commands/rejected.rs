use crate::failure::{Failure, Result, refused, usage};
use crate::files::{self, Access};
use crate::output::{self, count, line, literal};
use rejoin::{RejectedCell, Replica, SiteId, key_text};
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
A server may refuse a transaction: a policy, a CHECK, a site that is somebody else's. Then the rows are put back to what the \
server has, and what was written is kept here until somebody decides. Transactions that were built on a refused one are \
given up with it (code `depends`).

--retry writes the values again, as a new transaction, which the next sync sends; --drop lets them go. Where two sites \
have that version, --site names one.

Examples:
  rejoin rejected shop.db
  rejoin rejected shop.db --json
  rejoin rejected shop.db --retry 17
  rejoin rejected shop.db --drop 17";

/// Show what the server did not take, write it again or drop it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// Write this transaction's values again
    #[arg(long, value_name = "VERSION", conflicts_with = "drop")]
    retry: Option<u64>,
    /// Let this transaction go
    #[arg(long, value_name = "VERSION")]
    drop: Option<u64>,
    /// The site of the transaction, in hex
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let access = if args.retry.is_some() || args.drop.is_some() { Access::Write } else { Access::Read };
    let replica = files::open_replica(&args.db, access)?;
    let at = |e: rejoin::Error| Failure::from(e).at(args.db.display());
    let site = args.site.as_deref().map(site).transpose()?;
    let (version, cells, done) = match (args.retry, args.drop) {
        (Some(version), _) => (version, replica.retry_rejected(version, site).map_err(at)?, "written again"),
        (None, Some(version)) => (version, replica.drop_rejected(version, site).map_err(at)?, "dropped"),
        (None, None) if site.is_some() => return Err(usage("--site goes with --retry or --drop")),
        (None, None) => return show(&replica.rejected().map_err(at)?, &replica, args.json),
    };
    if cells == 0 {
        return Err(refused(format!(
            "version {version} is not among the rejected ones; `rejoin rejected` lists them"
        )));
    }
    if args.json {
        return output::json(&json!({ "version": version, "changes": cells, "done": done }));
    }
    line(format!("version {version}: {} {done}", count(cells, "change")))
}

fn site(text: &str) -> Result<SiteId> {
    let digits = |at: usize| text.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let bytes: Option<Vec<u8>> = (0..16).map(|n| digits(n * 2)).collect();
    let id = bytes.filter(|_| text.len() == 32).and_then(|b| SiteId::from_slice(&b));
    id.ok_or_else(|| usage(format!("\"{text}\" is no site id: 32 hexadecimal digits")))
}

/// Transaction by transaction: the engine lists them so.
fn show(cells: &[RejectedCell], replica: &Replica, json: bool) -> Result<()> {
    let transactions: Vec<&[RejectedCell]> =
        cells.chunk_by(|a, b| (a.site, a.version) == (b.site, b.version)).collect();
    if json {
        let all: Vec<Value> = transactions.iter().copied().filter_map(object).collect();
        return output::json(&json!({ "transactions": all }));
    }
    if transactions.is_empty() {
        return line("nothing is rejected");
    }
    let own = replica.site_id().ok();
    for all in transactions {
        let Some(first) = all.first() else { continue };
        let of = if Some(first.site) == own { String::new() } else { format!(" of site {}", first.site) };
        line(format!("version {}{of}: {} ({})", first.version, first.reason, first.code))?;
        for cell in all {
            line(format!("  {}", written(cell)))?;
        }
    }
    Ok(())
}

fn written(cell: &RejectedCell) -> String {
    let row = format!("{} {}", cell.table, key_text(&cell.pk));
    match cell.cid.as_str() {
        "-1" if cell.col_version % 2 == 0 => format!("{row}: deleted"),
        "-1" => format!("{row}: inserted"),
        column => format!("{row}: {column} = {}", literal(&cell.val)),
    }
}

fn object(all: &[RejectedCell]) -> Option<Value> {
    let first = all.first()?;
    let change = |c: &RejectedCell| {
        json!({
            "table": c.table, "key": key_text(&c.pk), "pk": output::hex(&c.pk), "column": c.cid,
            "value": output::value(&c.val), "col_version": c.col_version,
        })
    };
    Some(json!({
        "version": first.version, "site_id": first.site.to_string(), "code": first.code, "reason": first.reason,
        "at_ms": first.at_ms, "changes": all.iter().map(change).collect::<Vec<_>>(),
    }))
}
