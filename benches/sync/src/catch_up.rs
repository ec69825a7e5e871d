//! A replica that was away gets a million changes, against the same changeset applied in place; and what a server's
//! checks add to applying it.

use crate::lab::{Lab, insert_articles};
use crate::report::{Limit, Report, median};
use crate::server::Server;
use crate::usage::{Spent, ms, spent};
use crate::{Result, live::until};
use rejoin::{Checked, Checker, CutRequest, Refusal, Replica, RowFacts};
use rejoin_client::{State, sync_once};

/// A row has so many cells.
const CELLS: f64 = 4.0;
const MOST_TIMES: f64 = 3.0;
/// cr-sqlite, row by row: CPU microseconds for a change.
const THEIRS_US: f64 = 11.0;
const FASTER: f64 = 20.0;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (rows, rounds) = (lab.sized(250_000, 5_000), lab.sized(5, 1));
    let server = Server::start(lab, "catch-up")?;
    let source = lab.with_table("catch-up.db")?;
    insert_articles(&source, 0..=0, 1)?;
    sync(lab, "catch-up.db", &server)?;
    // Replicas that were there before.
    for n in 0..rounds {
        for what in ["socket", "plain", "checked"] {
            let name = format!("catch-up-{what}-{n}.db");
            drop(lab.replica(&name)?);
            sync(lab, &name, &server)?;
        }
    }
    insert_articles(&source, 1..=rows, 1_000)?;
    sync(lab, "catch-up.db", &server)?;

    let mut figures = Figures::default();
    for n in 0..rounds {
        let socket = format!("catch-up-socket-{n}.db");
        figures.plain(&applied(lab, &format!("catch-up-plain-{n}.db"), &source, false)?);
        figures.checked_cpu.push(applied(lab, &format!("catch-up-checked-{n}.db"), &source, true)?.cpu_ms);
        figures.socket(&over_socket(lab, &socket, &server)?);
        let replica = lab.replica(&socket)?;
        let count = "SELECT count(*) FROM article";
        let have: i64 = replica.connection().query_row(count, [], |r| r.get(0))?;
        if have != rows + 1 || replica.vector()? != source.vector()? {
            return Err("the replica is not the same".into());
        }
    }
    figures.tell(report, rows as f64 * CELLS);
    Ok(())
}

/// CPU and wall time of the rounds, milliseconds.
#[derive(Default)]
struct Figures {
    plain_cpu: Vec<f64>,
    plain_wall: Vec<f64>,
    checked_cpu: Vec<f64>,
    cpu: Vec<f64>,
    wall: Vec<f64>,
}

impl Figures {
    fn plain(&mut self, s: &Spent) {
        self.plain_cpu.push(s.cpu_ms);
        self.plain_wall.push(s.wall_ms);
    }

    fn socket(&mut self, s: &Spent) {
        self.cpu.push(s.cpu_ms);
        self.wall.push(s.wall_ms);
    }

    fn tell(mut self, report: &mut Report, changes: f64) {
        let (plain_cpu, plain_wall) = (median(&mut self.plain_cpu), median(&mut self.plain_wall));
        let (cpu, wall) = (median(&mut self.cpu), median(&mut self.wall));
        report.note(&format!("{changes} changes applied in place, CPU"), plain_cpu, "ms");
        report.note("the same over the socket, CPU of client and server", cpu, "ms");
        report.line("CPU, over the socket / in place", cpu / plain_cpu, "x", Limit::Most(MOST_TIMES));
        report.note("wall time in place", plain_wall, "ms");
        report.note("wall time over the socket", wall, "ms");
        report.line("wall time, over the socket / in place", wall / plain_wall, "x", Limit::Most(MOST_TIMES));
        let us = cpu * 1e3 / changes;
        report.line("CPU for a change, client and server", us, "us", Limit::Most(THEIRS_US / FASTER));
        let checked = median(&mut self.checked_cpu) / plain_cpu;
        report.note("checked as a server does, without policies, CPU / applied in place", checked, "x");
    }
}

fn sync(lab: &Lab, name: &str, server: &Server) -> Result<()> {
    let report = sync_once(lab.path(name), &server.url("shop"), Default::default())?;
    if report.state == State::Synced { Ok(()) } else { Err(format!("{name}: {}", report.state).into()) }
}

/// Syncs; CPU time is that of both processes.
fn over_socket(lab: &Lab, name: &str, server: &Server) -> Result<Spent> {
    let before = server.cpu()?;
    let (spent, ()) = spent(|| sync(lab, name, server))?;
    // The server may still be busy with what the client no longer waits for.
    let mut last = server.cpu()?;
    until("a server that is idle", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = std::mem::replace(&mut last, server.cpu()?);
        Ok(before == last)
    })?;
    Ok(Spent { cpu_ms: spent.cpu_ms + ms(last - before), ..spent })
}

/// The changeset that the replica lacks, applied; or checked before.
fn applied(lab: &Lab, name: &str, source: &Replica, checked: bool) -> Result<Spent> {
    let replica = lab.replica(name)?;
    let cut = source.cut_for(&CutRequest::new(&replica.vector()?))?.ok_or("nothing is lacking")?;
    let (spent, ()) = spent(|| match checked {
        false => Ok(replica.apply_changeset(&cut.bytes).map(drop)?),
        true => match replica.apply_checked(&cut.bytes, &mut Content)? {
            Checked::Applied(_) => Ok(()),
            other => Err(format!("not applied: {other:?}").into()),
        },
    })?;
    Ok(spent)
}

/// Takes everything, and has no policies.
struct Content;

impl Checker for Content {
    fn looks_at(&mut self, _: &str) -> bool {
        false
    }

    fn row(&mut self, _: &RowFacts<'_>) -> std::result::Result<(), Refusal> {
        Ok(())
    }
}
