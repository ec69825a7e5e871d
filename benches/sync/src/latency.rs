//! From a commit of a program to the moment at which another program's replica has it.

use crate::lab::Lab;
use crate::live::{Commits, locked, two, until};
use crate::report::{Limit, Report, percentile};
use crate::server::Server;
use crate::{Result, usage::ms};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MOST_MS: f64 = 10.0;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let server = Server::start(lab, "latency")?;
    measure(lab, report, &server, 1)?;
    measure(lab, report, &server, lab.sized(200, 5))
}

/// In a room of so many tables.
fn measure(lab: &Lab, report: &mut Report, server: &Server, tables: usize) -> Result<()> {
    let (room, names) = (format!("tables-{tables}"), ["a", "b"].map(|n| format!("latency-{tables}-{n}.db")));
    let commits = Arc::new(Commits::default());
    let program = lab.with_table(&names[0])?;
    for n in 1..tables {
        let sql = format!(
            "CREATE TABLE other_{n} (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b TEXT, c INTEGER, d REAL)"
        );
        program.connection().execute_batch(&sql)?;
        program.replicate(&format!("other_{n}"))?;
    }
    let [a, b] = two(lab, &names, server, &room, &commits)?;
    // The program's own connection.
    a.client.observe(&program)?;
    let count = lab.sized(500, 20);
    let mut statements = Vec::new();
    for n in 1..=count {
        std::thread::sleep(Duration::from_millis(10 + crate::lab::random(n as u64) % 20));
        let began = Instant::now();
        commits.commit(&program, n)?;
        statements.push(ms(began.elapsed()));
        until("a commit in the other replica", || Ok(b.arrived() == n as usize))?;
    }
    if b.articles()? != count {
        return Err("the other replica lacks rows".into());
    }
    let mut delays = locked(&b.delays).clone();
    // Three commits are on the way: the program's, the server's, and the other replica's.
    let insert = format!("the program's INSERT alone, tables: {tables}");
    report.note(&format!("{insert}, p50 of {count}"), percentile(&mut statements, 50.0), "ms");
    report.note(&format!("{insert}, p99"), percentile(&mut statements, 99.0), "ms");
    report.note("commit to visible in another replica, p50", percentile(&mut delays, 50.0), "ms");
    let worst = percentile(&mut delays, 99.0);
    report.line("commit to visible in another replica, p99", worst, "ms", Limit::Most(MOST_MS));
    Ok(())
}
