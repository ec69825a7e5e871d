//! Two bookshops share a catalogue, write to it apart, and merge: what conflicted, who won, and that both are equal.

mod catalogue;
mod conflicts;
mod equal;
mod shops;

use clap::Parser;
use rejoin::{Applied, Replica};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Two replicas of a book catalogue: edited apart, merged, compared
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Args {
    /// The catalogue to start from; without it one of 10,000 books is generated
    #[arg(long, value_name = "CSV")]
    data: Option<PathBuf>,
    /// Print little; for tests
    #[arg(long)]
    check: bool,
    /// Conflicts to show
    #[arg(long, default_value_t = 14, value_name = "N")]
    conflicts: usize,
}

fn main() -> ExitCode {
    match tell(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Prints, unless only the outcome is wanted.
pub struct Voice {
    quiet: bool,
}

impl Voice {
    pub fn chapter(&self, title: &str) {
        self.say(format!("\n{title}\n{}", "-".repeat(title.len())));
    }

    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            println!("{}", text.as_ref());
        }
    }
}

fn ms(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}

fn tell(args: &Args) -> Result<()> {
    let started = Instant::now();
    let voice = Voice { quiet: args.check };
    let books = match &args.data {
        Some(path) => catalogue::read(path)?,
        None => catalogue::generate(10_000),
    };
    let folder = tempfile::tempdir()?;
    let (north, south) = open_shops(folder.path(), &books, &voice)?;

    voice.chapter("The line is down: both shops go on");
    let base = [north.db_version()?, south.db_version()?];
    let mut script = shops::Script::new(&north)?;
    let told = shops::north(&north, &mut script)?;
    voice.say(format!("  north   {told}"));
    // The shops work in turns, so that there is a later write to win.
    let later = || std::thread::sleep(Duration::from_millis(5));
    later();
    let told = shops::south(&south, &mut script)?;
    voice.say(format!("  south   {told}"));
    later();
    shops::evening(&north, &script)?;

    voice.chapter("The line is up: merge");
    let conflicts = conflicts::find([&north, &south], base)?;
    let now = Instant::now();
    let (here, there) = north.merge_with(&south)?;
    voice.say(format!("  north <- south   {}", told_of(&here)));
    voice.say(format!("  south <- north   {}", told_of(&there)));
    voice.say(format!("  {}", ms(now)));
    voice.chapter(&format!(
        "{} conflicts: the later write wins each cell, a deletion wins the row",
        conflicts.len()
    ));
    voice.say(conflicts::table(&conflicts, [&north, &south], args.conflicts)?);

    voice.chapter("South gets the column that north added");
    add_shelf(&south, &voice)?;
    north.merge_with(&south)?;

    voice.chapter("Equal?");
    let rows = equal::compare(&north, &south)?;
    for (name, shop) in [("north", &north), ("south", &south)] {
        let report = shop.verify()?;
        if let Some(problem) = report.problems.first() {
            return Err(format!("{name}: {problem}").into());
        }
    }
    let sizes = size(folder.path(), "north.db")?;
    voice.say(format!(
        "  equal: {rows} rows in each; metadata verified; {sizes}; {:.1} s in all",
        started.elapsed().as_secs_f64()
    ));
    if args.check {
        println!("demo: {} conflicts, {rows} rows, equal", conflicts.len());
    }
    Ok(())
}

fn told_of(a: &Applied) -> String {
    let parked = match a.parked {
        0 => String::new(),
        n => format!(", {n} wait for a column"),
    };
    format!(
        "{} transactions, {} rows: {} changes taken, {} lost{parked}",
        a.transactions, a.rows, a.cells_won, a.cells_lost
    )
}

/// North makes the catalogue; south takes it over.
fn open_shops(folder: &Path, books: &[catalogue::Book], voice: &Voice) -> Result<(Replica, Replica)> {
    voice.chapter("Two shops, one catalogue");
    let now = Instant::now();
    let north = Replica::open(folder.join("north.db"))?;
    let south = Replica::open(folder.join("south.db"))?;
    for shop in [&north, &south] {
        shop.connection().execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
        shop.connection().execute_batch(catalogue::SCHEMA)?;
    }
    catalogue::fill(&north, books)?;
    voice.say(format!("  north   {} books in {}", books.len(), ms(now)));
    let now = Instant::now();
    let (_, taken) = north.merge_with(&south)?;
    voice.say(format!("  south   takes over {} rows in {}", taken.rows, ms(now)));
    Ok((north, south))
}

/// What was parked for the column appears with it.
fn add_shelf(south: &Replica, voice: &Voice) -> Result<()> {
    let parked =
        |shop: &Replica| Ok::<u64, rejoin::Error>(shop.status()?.parked.iter().map(|p| p.changes).sum());
    voice.say(format!("  {} changes wait there for the column \"shelf\"", parked(south)?));
    south.connection().execute_batch(shops::ADD_SHELF)?;
    // The next write to a replicated table takes them in, as any of the shop's would.
    south
        .connection()
        .execute("UPDATE books SET stock = stock + 1 WHERE book_id = (SELECT max(book_id) FROM books)", [])?;
    let sql = "SELECT count(*) FROM books WHERE shelf IS NOT NULL";
    let shown: i64 = south.connection().query_row(sql, [], |row| row.get(0))?;
    voice.say(format!(
        "  ALTER TABLE books ADD COLUMN shelf TEXT: {shown} shelves are known, {} wait",
        parked(south)?
    ));
    Ok(())
}

fn size(folder: &Path, name: &str) -> Result<String> {
    let bytes = std::fs::metadata(folder.join(name))?.len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}
