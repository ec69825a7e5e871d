//! Bytes that a client sends for cells that changed, all frames included.

use crate::Result;
use crate::lab::{Lab, insert_articles, random};
use crate::report::{Limit, Report};
use crate::server::Server;
use rejoin::Replica;
use rejoin_client::{State, sync_once};

const CELLS: i64 = 10_000;
const MOST_BYTES: f64 = 8.0;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let server = Server::start(lab, "size")?;
    let name = "size.db";
    let replica = lab.with_table(name)?;
    // Bytes are counted, not time.
    replica.connection().pragma_update(None, "synchronous", "off")?;
    insert_articles(&replica, 1..=10 * CELLS, 10_000)?;
    sent(lab, name, &server)?;
    let batches: [(&str, Change, Limit); 4] = [
        ("a batch of 10,000 changed integers, rows in sequence", in_sequence, Limit::Always(MOST_BYTES)),
        ("the same, rows at random among 100,000", at_random, Limit::Always(MOST_BYTES)),
        ("2,500 new rows of four cells", new_rows, Limit::None),
        ("10,000 integers, a transaction each", one_by_one, Limit::None),
    ];
    for (what, change, limit) in batches {
        // What a greeting takes with nothing to say.
        let greeting = sent(lab, name, &server)?;
        change(&replica)?;
        let bytes = sent(lab, name, &server)? - greeting;
        report.line(what, bytes as f64 / CELLS as f64, "B", limit);
    }
    Ok(())
}

type Change = fn(&Replica) -> Result<()>;

/// Syncs; the bytes that it sent.
fn sent(lab: &Lab, name: &str, server: &Server) -> Result<u64> {
    let done = sync_once(lab.path(name), &server.url("shop"), Default::default())?;
    if done.state == State::Synced {
        Ok(done.sent)
    } else {
        Err(format!("not synced: {}", done.state).into())
    }
}

fn in_sequence(replica: &Replica) -> Result<()> {
    let sql = "UPDATE article SET stock = abs(random() % 200) + 1000 WHERE id <= ?1";
    exactly(replica.connection().execute(sql, [CELLS])?)
}

fn at_random(replica: &Replica) -> Result<()> {
    let mut ids: Vec<i64> = (1..=10 * CELLS).collect();
    ids.sort_by_key(|id| random(*id as u64));
    let conn = replica.connection();
    conn.execute_batch("BEGIN")?;
    let mut update = conn.prepare("UPDATE article SET stock = abs(random() % 200) + 2000 WHERE id = ?1")?;
    let mut changed = 0;
    for id in ids.iter().take(CELLS as usize) {
        changed += update.execute([id])?;
    }
    conn.execute_batch("COMMIT")?;
    exactly(changed)
}

fn new_rows(replica: &Replica) -> Result<()> {
    let first = 10 * CELLS + 1;
    insert_articles(replica, first..=first + CELLS / 4 - 1, CELLS as usize)
}

fn one_by_one(replica: &Replica) -> Result<()> {
    let mut update = replica
        .connection()
        .prepare("UPDATE article SET stock = abs(random() % 200) + 3000 WHERE id = ?1")?;
    let mut changed = 0;
    for id in 1..=CELLS {
        changed += update.execute([id])?;
    }
    exactly(changed)
}

fn exactly(changed: usize) -> Result<()> {
    if changed == CELLS as usize { Ok(()) } else { Err(format!("{changed} rows changed").into()) }
}
