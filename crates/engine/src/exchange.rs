//! The SQL functions about changesets.

use crate::apply::{self, Options};
use crate::changeset::make;
use crate::cut::Reader;
use crate::engine::Engine;
use crate::functions::bad;
use rejoin_crdt::site::SiteId;
use rejoin_sqlite::{Args, Context, Result, ValueRef};

/// `crsql_changeset(since [, exclude_site])`: what came after a db_version, without the transactions of one site; NULL
/// if there is nothing.
pub fn changeset(ctx: &mut Context, e: &Engine, args: Args<'_>) -> Result<()> {
    const NAME: &str = "crsql_changeset";
    if args.is_empty() || args.len() > 2 {
        return Err(bad(NAME, "takes a db_version, and perhaps the site id of the reader").into());
    }
    let ValueRef::Integer(since) = args.get(0).value() else {
        return Err(bad(NAME, "the db_version must be an integer; 0 is the beginning").into());
    };
    let excluded = match if args.len() == 2 { args.get(1).value() } else { ValueRef::Null } {
        ValueRef::Null => None,
        ValueRef::Blob(b) => match SiteId::from_slice(b) {
            Some(id) => Some(id),
            None => return Err(bad(NAME, "the site id to exclude must be a blob of 16 bytes").into()),
        },
        _ => return Err(bad(NAME, "the site id to exclude must be a blob of 16 bytes").into()),
    };
    let made = make(e, Reader::Since(since, excluded))?;
    if made.versions == 0 {
        ctx.set_null();
    } else {
        ctx.set_blob(&made.bytes);
    }
    Ok(())
}

/// `crsql_apply_changeset(blob)`: how many changes were accepted; they count in `crsql_rows_impacted()` too. NULL, which
/// is what `crsql_changeset` gives for nothing, changes nothing.
pub fn apply_changeset(ctx: &mut Context, e: &Engine, args: Args<'_>) -> Result<()> {
    let bytes = match args.get(0).value() {
        ValueRef::Null => {
            ctx.set_int(0);
            return Ok(());
        }
        ValueRef::Blob(b) => b,
        _ => return Err(bad("crsql_apply_changeset", "a changeset is a blob made by crsql_changeset").into()),
    };
    let applied = apply::apply(e, bytes, Options { over_gap: true, ..Options::default() })?;
    ctx.set_int(applied.cells_won as i64);
    Ok(())
}

/// `crsql_new_site_id()`: this replica writes under another id from here on.
pub fn new_site_id(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> Result<()> {
    ctx.set_blob(crate::copies::new_site(e)?.as_bytes());
    Ok(())
}

/// `crsql_vector()`: `{"site in hex": [[first, last], ...], ...}`.
pub fn vector(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> Result<()> {
    if e.is_joined() {
        e.flush()?;
    }
    let mut core = e.core()?;
    core.refresh(false)?;
    let sites: Vec<String> = core
        .vector
        .iter()
        .map(|(site, ranges)| {
            let ranges: Vec<String> = ranges.iter().map(|r| format!("[{},{}]", r.start(), r.end())).collect();
            format!("\"{site}\":[{}]", ranges.join(","))
        })
        .collect();
    ctx.set_text(format!("{{{}}}", sites.join(",")).as_bytes());
    Ok(())
}
