//! What sockets cost on which nothing happens but heartbeats.

use crate::Result;
use crate::lab::Lab;
use crate::light::crowd;
use crate::report::{Limit, Report};
use crate::server::Server;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const MOST_BYTES: f64 = 1e9;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let count = lab.sized(10_000, 50);
    // Those of the server are its own.
    crate::usage::raise_files(count as u64 + 1_000)?;
    let server = Server::start(lab, "idle")?;
    drop(lab.with_table("idle.db")?);
    let synced = rejoin_client::sync_once(lab.path("idle.db"), &server.url("shop"), Default::default())?;
    if synced.state != rejoin_client::State::Synced {
        return Err(format!("the room cannot be made: {}", synced.state).into());
    }
    let before = server.memory("VmRSS")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    let room = runtime.block_on(crowd(server.address, "shop", count))?;
    report.note(&format!("{count} clients greeted, in"), began.elapsed().as_secs_f64(), "s");
    let (stop, stopped) = watch::channel(false);
    let tasks: Vec<_> = room
        .into_iter()
        .map(|mut light| {
            let mut stopped = stopped.clone();
            runtime.spawn(async move { light.follow(&mut stopped, |_, _| ()).await })
        })
        .collect();
    // A heartbeat every 15 seconds, from both sides.
    let hold = lab.sized(Duration::from_secs(35), Duration::from_millis(500));
    let (cpu, began) = (server.cpu()?, Instant::now());
    std::thread::sleep(hold);
    let cpu = (server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let (after, peak) = (server.memory("VmRSS")?, server.memory("VmHWM")?);
    stop.send_replace(true);
    runtime.block_on(async {
        for task in tasks {
            task.await??;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    report.line(
        &format!("memory of the server with {count} idle sockets"),
        after / 1e6,
        "MB",
        Limit::Most(MOST_BYTES / 1e6),
    );
    report.note("the same at its highest, while they came", peak / 1e6, "MB");
    report.note("of that for each socket", (after - before) / 1e3 / count as f64, "kB");
    report.note("CPU of the server with them, heartbeats every 15 s", cpu * 100.0, "%");
    Ok(())
}
