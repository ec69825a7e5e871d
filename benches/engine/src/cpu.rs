//! CPU time of this thread, user and system: everything measured runs on it.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

fn now() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Milliseconds of CPU time that `f` takes.
pub fn ms<R>(f: impl FnOnce() -> crate::Result<R>) -> crate::Result<(f64, R)> {
    let before = now();
    let result = measured(f)?;
    Ok(((now() - before).as_secs_f64() * 1e3, result))
}

/// The part that counts; instruction counts are taken while this function runs (see `hot`), so it stays one.
#[inline(never)]
fn measured<R>(f: impl FnOnce() -> R) -> R {
    std::hint::black_box(f())
}
