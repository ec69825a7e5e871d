//! Many clients in a room, and commits at a steady rate: how long it takes until everybody has each.

use crate::Result;
use crate::lab::Lab;
use crate::light::{Light, crowd};
use crate::live::{Commits, Live, locked, paced, until};
use crate::report::{Limit, Report, percentile};
use crate::server::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(50);
const MOST_MS: f64 = 100.0;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    crate::usage::raise_files(4_000)?;
    let (lights, replicas, count) = (lab.sized(990, 20), lab.sized(10, 3), lab.sized(400, 10));
    let server = Server::start(lab, "fan-out")?;
    let commits = Arc::new(Commits::default());
    drop(lab.with_table("fan-out-0.db")?);
    let start = |n: usize| Live::start(lab, &format!("fan-out-{n}.db"), &server, "shop", &commits);
    let live: Vec<Live> = (0..replicas).map(start).collect::<Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let room = runtime.block_on(crowd(server.address, "shop", lights))?;
    let followers = Followers::start(&runtime, room, &commits);

    let (cpu, began) = (server.cpu()?, Instant::now());
    paced(count, EVERY, |n| match live.get(n as usize % replicas) {
        Some(replica) => replica.commit(&commits, n + 1),
        None => Err("no replica".into()),
    })?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let total = count as usize * lights;
    until("all commits at all clients", || Ok(followers.arrived() >= total))?;
    // Each replica has what it wrote itself.
    let others = count as usize * (replicas - 1);
    until("all commits in all replicas", || Ok(live.iter().map(Live::arrived).sum::<usize>() >= others))?;
    let cpu = server.cpu()? - cpu;

    let mut to_lights = runtime.block_on(followers.stop())?;
    let mut to_replicas: Vec<f64> = live.iter().flat_map(|l| locked(&l.delays).clone()).collect();
    if to_lights.len() != total || to_replicas.len() != others {
        return Err(format!(
            "{} and {} arrivals, {total} and {others} expected",
            to_lights.len(),
            to_replicas.len()
        )
        .into());
    }
    for l in &live {
        if l.articles()? != count {
            return Err("a replica lacks rows".into());
        }
    }
    report.note(&format!("commits a second, to {lights} clients and {replicas} replicas"), rate, "");
    report.note("commit to received by a client, p50", percentile(&mut to_lights, 50.0), "ms");
    report.line(
        "commit to received by a client, p99",
        percentile(&mut to_lights, 99.0),
        "ms",
        Limit::Most(MOST_MS),
    );
    report.note("commit to visible in a replica, p50", percentile(&mut to_replicas, 50.0), "ms");
    report.line(
        "commit to visible in a replica, p99",
        percentile(&mut to_replicas, 99.0),
        "ms",
        Limit::Most(MOST_MS),
    );
    let each = cpu.as_secs_f64() * 1e6 / (total + others) as f64;
    report.note("server CPU for a transaction and a receiver", each, "us");
    Ok(())
}

/// Clients in tasks of their own.
struct Followers {
    tasks: Vec<JoinHandle<Result<Vec<f64>>>>,
    stop: watch::Sender<bool>,
    arrived: Arc<AtomicUsize>,
}

impl Followers {
    fn start(runtime: &tokio::runtime::Runtime, room: Vec<Light>, commits: &Arc<Commits>) -> Followers {
        let (stop, stopped) = watch::channel(false);
        let arrived = Arc::new(AtomicUsize::new(0));
        let follow = |mut light: Light| {
            let (commits, arrived, mut stopped) = (commits.clone(), arrived.clone(), stopped.clone());
            runtime.spawn(async move {
                let mut delays = Vec::new();
                let came = |site, version| {
                    delays.extend(commits.since(site, version));
                    arrived.fetch_add(1, Ordering::Relaxed);
                };
                light.follow(&mut stopped, came).await?;
                Ok(delays)
            })
        };
        let tasks = room.into_iter().map(follow).collect();
        Followers { tasks, stop, arrived }
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Relaxed)
    }

    /// All delays.
    async fn stop(self) -> Result<Vec<f64>> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await??);
        }
        Ok(all)
    }
}
