//! What processes use, and may use.

use crate::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// CPU time of all threads of this process.
pub fn own_cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// CPU time of another process, user and system; in steps of a hundredth of a second.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may have spaces.
    let after = stat.rsplit_once(')').ok_or("/proc/PID/stat has another form")?.1;
    let ticks: Vec<u64> = after.split_whitespace().skip(11).take(2).map_while(|n| n.parse().ok()).collect();
    let [user, system] = ticks[..] else { return Err("/proc/PID/stat has another form".into()) };
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

/// A line of `/proc/PID/status` that counts kB: `VmRSS`, `VmHWM`.
pub fn memory_of(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kb = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kb.ok_or_else(|| format!("/proc/PID/status has no {name}"))? * 1024.0)
}

/// Lets this process, and those that it starts, have so many files open.
pub fn raise_files(wanted: u64) -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|n| n >= wanted) {
        return Ok(());
    }
    let maximum = now.maximum.map(|m| m.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .map_err(|e| format!("{wanted} open files are needed, the limit is {:?}: {e}", now.maximum).into())
}

pub struct Spent {
    pub wall_ms: f64,
    pub cpu_ms: f64,
}

/// Time that `f` takes, and CPU time of this process.
pub fn spent<R>(f: impl FnOnce() -> Result<R>) -> Result<(Spent, R)> {
    let (began, cpu) = (Instant::now(), own_cpu());
    let result = f()?;
    let cpu_ms = ms(own_cpu() - cpu);
    Ok((Spent { wall_ms: ms(began.elapsed()), cpu_ms }, result))
}

pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}
