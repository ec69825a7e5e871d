//! The SQL functions.

use crate::alter;
use crate::automigrate;
use crate::capture::{self, captured};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exchange;
use crate::fract;
use crate::upgrade;
use crate::value::from_sql;
use rejoin_sqlite::{Args, Context, FnFlags, Result as SqlResult, ValueRef};
use std::rc::Rc;

type Body = fn(&mut Context, &Engine, Args<'_>) -> SqlResult<()>;

/// The version of cr-sqlite whose surface this is: 0.16.3 as it prints it.
const SURFACE_VERSION: i64 = 160_300;

pub fn register(engine: &Rc<Engine>) -> Result<()> {
    let plain = FnFlags::default();
    let innocuous = FnFlags { innocuous: true, ..plain };
    let pure = FnFlags { deterministic: true, innocuous: true, ..plain };
    let direct = FnFlags { direct_only: true, ..plain };
    let all: &[(&str, i32, FnFlags, Body)] = &[
        (capture::FUNCTION, -1, innocuous, |_, e, a| Ok(captured(e, a)?)),
        ("crsql_as_crr", -1, direct, as_crr),
        ("crsql_as_table", -1, direct, as_table),
        ("crsql_begin_alter", -1, direct, begin_alter),
        ("crsql_commit_alter", -1, direct, commit_alter),
        ("crsql_site_id", 0, innocuous, site_id),
        ("crsql_db_version", 0, innocuous, db_version),
        ("crsql_next_db_version", -1, innocuous, next_db_version),
        ("crsql_get_seq", 0, innocuous, get_seq),
        ("crsql_increment_and_get_seq", 0, innocuous, increment_and_get_seq),
        ("crsql_rows_impacted", 0, innocuous, rows_impacted),
        ("crsql_internal_sync_bit", -1, innocuous, sync_bit),
        ("crsql_config_set", 2, direct, config_set),
        ("crsql_config_get", 1, innocuous, config_get),
        ("crsql_pack_columns", -1, pure, pack_columns),
        ("crsql_fract_key_between", 2, pure, fract::key_between),
        ("crsql_fract_as_ordered", -1, direct, fract::as_ordered),
        // The triggers of lists that cr-sqlite made call it.
        ("crsql_fract_fix_conflict_return_old_key", -1, plain, fract::fix_conflict),
        ("crsql_automigrate", -1, direct, automigrate::automigrate),
        ("crsql_upgrade", 0, direct, upgrade::upgrade),
        ("crsql_version", 0, pure, |ctx, _, _| {
            ctx.set_int(SURFACE_VERSION);
            Ok(())
        }),
        ("crsql_sha", 0, pure, |ctx, _, _| {
            ctx.set_text(concat!("rejoin-", env!("CARGO_PKG_VERSION")).as_bytes());
            Ok(())
        }),
        ("crsql_finalize", -1, innocuous, |ctx, _, _| {
            ctx.set_text(b"finalized");
            Ok(())
        }),
        ("crsql_hlc_text", 2, pure, hlc_text),
        ("crsql_changeset", -1, plain, exchange::changeset),
        ("crsql_apply_changeset", 1, direct, exchange::apply_changeset),
        ("crsql_new_site_id", 0, direct, exchange::new_site_id),
        ("crsql_vector", 0, plain, exchange::vector),
        ("crsql_rejected_retry", -1, direct, crate::rejected::sql_retry),
        ("crsql_rejected_drop", -1, direct, crate::rejected::sql_drop),
    ];
    for (name, args, flags, body) in all {
        engine.db.create_function(name, *args, *flags, Rc::clone(engine), *body)?;
    }
    Ok(())
}

pub fn bad(function: &'static str, why: impl Into<String>) -> Error {
    Error::BadArgument { function, why: why.into() }
}

pub fn text_arg<'a>(function: &'static str, args: Args<'a>, i: usize) -> Result<&'a str> {
    let v = if i < args.len() { args.get(i).value() } else { ValueRef::Null };
    let ValueRef::Text(bytes) = v else {
        return Err(bad(function, format!("argument {} must be text", i + 1)));
    };
    std::str::from_utf8(bytes).map_err(|_| bad(function, format!("argument {} is not UTF-8", i + 1)))
}

/// `('table')` or `('schema', 'table')`.
fn table_arg(function: &'static str, args: Args<'_>) -> Result<String> {
    match args.len() {
        1 => Ok(text_arg(function, args, 0)?.to_owned()),
        2 => crate::core::Core::table_argument(
            Some(text_arg(function, args, 0)?),
            text_arg(function, args, 1)?,
        ),
        _ => Err(bad(function, "takes a table name, or 'main' and a table name")),
    }
}

fn ok(ctx: &mut Context) -> SqlResult<()> {
    ctx.set_text(b"OK");
    Ok(())
}

fn as_crr(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    alter::as_crr(e, &table_arg("crsql_as_crr", args)?)?;
    ok(ctx)
}

fn as_table(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    alter::as_table(e, &table_arg("crsql_as_table", args)?)?;
    ctx.set_null();
    Ok(())
}

fn begin_alter(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    alter::begin_alter(e, &table_arg("crsql_begin_alter", args)?)?;
    ok(ctx)
}

fn commit_alter(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    alter::commit_alter(e, &table_arg("crsql_commit_alter", args)?)?;
    ctx.set_null();
    Ok(())
}

fn site_id(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    if e.core.try_borrow().is_ok() {
        e.make_ready()?;
    }
    let core = e.core.try_borrow().map_err(|_| Error::State { why: "busy".into() });
    ctx.set_blob(core?.own_site().as_bytes());
    Ok(())
}

fn db_version(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    let mut core = e.core()?;
    core.refresh(false)?;
    let version = if core.txn.joined { core.txn.base_db_version } else { core.tail.db_version };
    ctx.set_int(version);
    Ok(())
}

/// What these functions set holds until the transaction ends: in an open one, its end must be heard of. Where the
/// write lock is not to be had, nobody is going to write.
fn hear_the_end(e: &Engine) -> Result<()> {
    let ready = {
        let mut core = e.core()?;
        core.refresh(false)?;
        core.ready
    };
    if ready && !e.is_joined() && !e.db.is_autocommit() && !e.db.is_readonly() {
        return match e.join() {
            Err(Error::Sqlite(e)) if e.is_busy() => Ok(()),
            other => other,
        };
    }
    Ok(())
}

fn next_db_version(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    if args.len() == 1 {
        hear_the_end(e)?;
    }
    let mut core = e.core()?;
    core.refresh(false)?;
    if e.is_joined() {
        // What was written before keeps the version that it would have got.
        e.digest(&mut core)?;
    }
    if args.len() > 1 {
        return Err(bad("crsql_next_db_version", "takes at most one version").into());
    }
    if args.len() == 1
        && let ValueRef::Integer(v) = args.get(0).value()
    {
        let checked = rejoin_crdt::limits::check_db_version(v, core.tail.db_version);
        let v = checked.map_err(|p| Error::Poison { why: p.to_string() })?;
        core.txn.pending = Some(core.txn.pending.unwrap_or(0).max(v));
    }
    let next = core.next_db_version();
    ctx.set_int(next);
    Ok(())
}

fn get_seq(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    let mut core = e.core()?;
    if e.is_joined() {
        e.digest(&mut core)?;
    }
    ctx.set_int(core.txn.seq);
    Ok(())
}

fn increment_and_get_seq(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    hear_the_end(e)?;
    let mut core = e.core()?;
    if e.is_joined() {
        e.digest(&mut core)?;
    }
    ctx.set_int(core.txn.seq);
    core.txn.seq += 1;
    Ok(())
}

fn rows_impacted(ctx: &mut Context, e: &Engine, _args: Args<'_>) -> SqlResult<()> {
    ctx.set_int(e.core()?.txn.rows_impacted);
    Ok(())
}

fn sync_bit(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    if args.len() == 1 {
        e.sync_bit.set(args.get(0).int() != 0);
    }
    ctx.set_int(i64::from(e.sync_bit.get()));
    Ok(())
}

fn config_set(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let name = text_arg("crsql_config_set", args, 0)?;
    crate::config::set(e, name, args.get(1).value())?;
    ctx.set_arg(args.get(1));
    Ok(())
}

fn config_get(ctx: &mut Context, e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let name = text_arg("crsql_config_get", args, 0)?;
    crate::config::get(e, name, ctx)?;
    Ok(())
}

fn pack_columns(ctx: &mut Context, _e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let packed = rejoin_crdt::key::pack(args.iter().map(|a| from_sql(a.value())));
    let packed = packed.map_err(|e| bad("crsql_pack_columns", e.to_string()))?;
    ctx.set_blob(&packed);
    Ok(())
}

fn hlc_text(ctx: &mut Context, _e: &Engine, args: Args<'_>) -> SqlResult<()> {
    let site = rejoin_crdt::SiteId::from_slice(args.get(1).blob());
    let site = site.ok_or_else(|| bad("crsql_hlc_text", "the site id must be a blob of 16 bytes"))?;
    let ValueRef::Integer(version) = args.get(0).value() else {
        return Err(bad("crsql_hlc_text", "the col_version must be an integer").into());
    };
    let version = rejoin_crdt::limits::check_version("col_version", version);
    let version = version.map_err(|p| Error::Poison { why: p.to_string() })?;
    ctx.set_text(rejoin_crdt::hlc::text(version, &site).as_bytes());
    Ok(())
}
