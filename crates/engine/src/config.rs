//! Persisted settings: `crsql_config_set` and `crsql_config_get`.

use crate::engine::Engine;
use crate::error::{Error, Result};
use rejoin_sqlite::{Context, ValueRef};

const NAMES: &str = "known settings: merge-equal-values (0 or 1), clock ('hlc' or 'lamport'), \
     drift-ms (milliseconds that a peer's clock may run ahead), mode ('shared' or 'owned')";

fn bad(why: String) -> Error {
    Error::BadArgument { function: "crsql_config_set", why }
}

/// Setting the value that it has writes nothing.
pub fn set(engine: &Engine, name: &str, value: ValueRef<'_>) -> Result<()> {
    if name == "mode" {
        return crate::mode::set(engine, value);
    }
    let stored = match (name, value) {
        ("merge-equal-values", ValueRef::Integer(v @ (0 | 1))) => ValueRef::Integer(v),
        ("merge-equal-values", _) => return Err(bad("merge-equal-values is 0 or 1".into())),
        ("clock", ValueRef::Text(b"hlc")) => ValueRef::Text(b"hlc"),
        ("clock", ValueRef::Text(b"lamport")) => ValueRef::Text(b"lamport"),
        ("clock", _) => return Err(bad("clock is 'hlc' or 'lamport'".into())),
        ("drift-ms", ValueRef::Integer(v)) if v >= 0 => ValueRef::Integer(v),
        ("drift-ms", _) => return Err(bad("drift-ms is a number of milliseconds".into())),
        _ => return Err(bad(format!("Unknown setting name '{name}'; {NAMES}"))),
    };
    engine.make_ready()?;
    let mut core = engine.core()?;
    core.refresh(false)?;
    let same = match stored {
        ValueRef::Integer(v) if name == "drift-ms" => core.cfg.drift_ms == v,
        ValueRef::Integer(v) => core.cfg.merge_equal == (v != 0),
        ValueRef::Text(v) => core.cfg.lamport == (v == b"lamport"),
        _ => false,
    };
    if same {
        return Ok(());
    }
    drop(core);
    engine.scoped("crsql_config", || {
        engine.join()?;
        // What was written before was written under the old setting.
        engine.flush()?;
        let mut core = engine.core()?;
        core.set_meta(name, stored)?;
        match (name, stored) {
            ("merge-equal-values", ValueRef::Integer(v)) => core.cfg.merge_equal = v != 0,
            ("drift-ms", ValueRef::Integer(v)) => core.cfg.drift_ms = v,
            ("clock", ValueRef::Text(v)) => core.cfg.lamport = v == b"lamport",
            _ => {}
        }
        Ok(())
    })
}

pub fn get(engine: &Engine, name: &str, ctx: &mut Context) -> Result<()> {
    let mut core = engine.core()?;
    core.refresh(false)?;
    match name {
        "merge-equal-values" => ctx.set_int(i64::from(core.cfg.merge_equal)),
        "clock" => ctx.set_text(if core.cfg.lamport { b"lamport" } else { b"hlc" }),
        "mode" => ctx.set_text(if core.cfg.owned { b"owned" } else { b"shared" }),
        "drift-ms" if core.ready => ctx.set_int(core.cfg.drift_ms),
        "drift-ms" => ctx.set_int(rejoin_crdt::limits::DRIFT_MS),
        _ => {
            let why = format!("Unknown setting name '{name}'; {NAMES}");
            return Err(Error::BadArgument { function: "crsql_config_get", why });
        }
    }
    Ok(())
}
