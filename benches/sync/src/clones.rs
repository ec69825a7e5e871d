//! First syncs from a snapshot that is ready, against fetching the file and hashing it; and making the snapshot, against
//! `VACUUM INTO`.

use crate::lab::Lab;
use crate::report::{Limit, Report, median};
use crate::server::Server;
use crate::{Result, usage::ms};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const BYTES: u64 = 100_000_000;
const MOST_TIMES: f64 = 1.5;
/// Text of a row; with the rest of it, a page has ten.
const TEXT: i64 = 300;

pub fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let (bytes, rounds) = (lab.sized(BYTES, 1_000_000), lab.sized(7, 1));
    let data = lab.path("clone");
    std::fs::create_dir_all(&data)?;
    let room = data.join("shop.db");
    fill(lab, bytes)?;
    let server = Server::start(lab, "clone")?;
    let url = format!("http://{}/shop/snapshot", server.address);

    let vacuum = vacuum(&room, &lab.path("vacuum.db"))?;
    // The first answer waits for the snapshot.
    let first = curl(&url, &lab.path("first.db"))?;
    let size = lab.path("first.db").metadata()?.len();
    report.note("VACUUM INTO of the room's file", vacuum, "ms");
    report.note("the server's snapshot: copied, its own tables gone, synced, hashed", first, "ms");
    report.note("making the snapshot / VACUUM INTO", first / vacuum, "x");

    let (mut plain, mut clones) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let file = lab.path(&format!("fetched-{n}.db"));
        let began = Instant::now();
        curl(&url, &file)?;
        run_quietly(Command::new("sha256sum").arg(&file))?;
        plain.push(ms(began.elapsed()));
        std::fs::remove_file(&file)?;
        let file = lab.path(&format!("cloned-{n}.db"));
        let began = Instant::now();
        run_quietly(Command::new(&lab.rejoin).arg("clone").arg(server.url("shop")).arg(&file))?;
        clones.push(ms(began.elapsed()));
        std::fs::remove_file(&file)?;
    }
    let (plain, clone) = (median(&mut plain), median(&mut clones));
    report.note(&format!("curl and sha256sum of {} MB", size / 1_000_000), plain, "ms");
    report.note("rejoin clone of it", clone, "ms");
    report.line("clone / curl and sha256sum", clone / plain, "x", Limit::Most(MOST_TIMES));
    Ok(())
}

/// The room's file, of so many bytes.
fn fill(lab: &Lab, bytes: u64) -> Result<()> {
    let replica = lab.replica("clone/shop.db")?;
    let conn = replica.connection();
    conn.execute_batch(
        "CREATE TABLE page (id INTEGER PRIMARY KEY NOT NULL, title TEXT, body TEXT, stock INTEGER)",
    )?;
    replica.replicate("page")?;
    let sql = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
        INSERT INTO page SELECT i, 'title ' || i, hex(randomblob(?3)), i % 200 FROM n";
    let each = TEXT + 40;
    let rows = bytes as i64 / each;
    let step = (rows / 20).max(1);
    for first in (1..=rows).step_by(step as usize) {
        conn.execute(sql, (first, (first + step - 1).min(rows), TEXT / 2))?;
    }
    Ok(())
}

fn vacuum(room: &Path, target: &Path) -> Result<f64> {
    let conn = rusqlite::Connection::open(room)?;
    let began = Instant::now();
    conn.execute("VACUUM INTO ?1", [target.to_str().ok_or("the path is no text")?])?;
    Ok(ms(began.elapsed()))
}

/// Fetches; milliseconds until the first byte.
fn curl(url: &str, file: &Path) -> Result<f64> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--write-out",
        "%{time_starttransfer}",
    ]);
    let out = curl.arg("--output").arg(file).arg(url).stdin(Stdio::null()).output()?;
    if !out.status.success() {
        return Err(format!("curl: {}", String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().parse::<f64>()? * 1e3)
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim()).into()) }
}
