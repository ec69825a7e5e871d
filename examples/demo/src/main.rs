//! A server and three bookshops that clone one catalogue, edit it apart, and sync; one of them is malicious.

mod catalogue;
mod conflicts;
mod equal;
mod intruder;
mod place;
mod shops;
mod till;

use clap::Parser;
use comfy_table::{Table, presets};
use place::Place;
use rejoin::Replica;
use rejoin_client::{Report, State, clone_room};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A server and three replicas of a book catalogue: cloned, edited apart, synced, compared
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
    #[arg(long, default_value_t = 10, value_name = "N")]
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
struct Voice {
    quiet: bool,
}

impl Voice {
    fn chapter(&self, title: &str) {
        self.say(format!("\n{title}\n{}", "-".repeat(title.chars().count())));
    }

    fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            println!("{}", text.as_ref());
        }
    }
}

const SHOPS: [&str; 3] = ["north", "south", "till"];
/// Sessions of the intruder with a damaged frame.
const MUTATIONS: usize = 200;

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
    let place = Place::open(folder.path())?;
    let open = |name: &str| open(&place, name);

    open_room(&place, &books, &voice)?;
    clone_shops(&place, &voice)?;

    voice.chapter("The line is down: all go on");
    let (north, south, till) = (open("north")?, open("south")?, open("till")?);
    let base = [north.db_version()?, south.db_version()?];
    let mut script = shops::Script::new(&north)?;
    voice.say(format!("  north   {}", shops::north(&north, &mut script)?));
    // The shops work in turns, so that there is a later write to win.
    let later = || std::thread::sleep(Duration::from_millis(5));
    later();
    voice.say(format!("  south   {}", shops::south(&south, &mut script)?));
    let day = till::work(&till, &mut script)?;
    voice.say(format!(
        "  till    {} sold; its program was tampered with, and wrote {} things that it may not, and one sale on top",
        day.honest, day.forbidden
    ));
    later();
    shops::evening(&north, &script)?;
    let conflicts = conflicts::find([&north, &south], base)?;
    drop((north, south, till));

    voice.chapter("The line is up: all sync");
    sync_all(&place, &voice)?;

    voice.chapter(&format!(
        "{} conflicts: the later write wins each cell, a deletion wins the row",
        conflicts.len()
    ));
    voice.say(conflicts::table(&conflicts, [&open("north")?, &open("south")?], args.conflicts)?);

    let rejections = show_rejections(&place, day.forbidden + 1, &voice)?;
    intrude(&place, &voice)?;

    voice.chapter("South and the till get the column that north added");
    for name in ["south", "till"] {
        add_shelf(&open(name)?, name, &voice)?;
    }
    let reports = sync_all(&place, &voice)?;
    if let Some((name, report)) = SHOPS.iter().zip(&reports).find(|(_, r)| r.state != State::Synced) {
        return Err(format!("{name} is not synced: {}", report.state).into());
    }

    voice.chapter("Equal?");
    let (url, room) = (place.url(), place.room_file());
    place.close();
    let mut all = vec![("the room", Replica::open(room)?)];
    for name in SHOPS {
        all.push((name, Replica::open(folder.path().join(format!("{name}.db")))?));
    }
    let rows = equal::compare(&all)?;
    for (name, replica) in &all {
        if let Some(problem) = replica.verify()?.problems.first() {
            return Err(format!("{name}: {problem}").into());
        }
    }
    voice.say(format!(
        "  equal: {rows} rows in the room and in each of three replicas; metadata verified; {:.1} s in all",
        started.elapsed().as_secs_f64()
    ));
    if args.check {
        let conflicts = conflicts.len();
        println!("demo: {url}: {conflicts} conflicts, {rejections} rejections, {rows} rows, equal");
    }
    Ok(())
}

fn open(place: &Place, name: &str) -> Result<Replica> {
    let replica = Replica::open(place.file(name))?;
    replica.connection().execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    Ok(replica)
}

/// The head office makes the catalogue, and a room of it.
fn open_room(place: &Place, books: &[catalogue::Book], voice: &Voice) -> Result<()> {
    voice.chapter("A server, and a room that the head office fills");
    let now = Instant::now();
    let office = open(place, "office")?;
    office.connection().execute_batch(catalogue::SCHEMA)?;
    catalogue::fill(&office, books)?;
    drop(office);
    voice.say(format!("  office  {} books in {}", books.len(), ms(now)));
    let now = Instant::now();
    let report = place.sync("office")?;
    if report.state != State::Synced {
        return Err(format!("the head office is not synced: {}", report.state).into());
    }
    voice.say(format!("  {}   took {} from it in {}", place.url(), kb(report.sent), ms(now)));
    Ok(())
}

fn kb(bytes: u64) -> String {
    format!("{} kB", bytes.div_ceil(1000))
}

/// Each shop downloads a snapshot, and is a replica of its own.
fn clone_shops(place: &Place, voice: &Voice) -> Result<()> {
    voice.chapter("Three shops clone the room");
    for name in SHOPS {
        let now = Instant::now();
        let cloned = clone_room(&place.url(), place.file(name), &place.options(name), |_| ())?;
        let rows: i64 =
            open(place, name)?.connection().query_row("SELECT count(*) FROM books", [], |row| row.get(0))?;
        voice.say(format!("  {name:<7} {} for {rows} books in {}", kb(cloned.transfer.bytes), ms(now)));
    }
    Ok(())
}

/// All sync, and then those again that came before another one.
fn sync_all(place: &Place, voice: &Voice) -> Result<Vec<Report>> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["replica", "was pending", "sent", "received", "is pending", "time", "state"]);
    let mut reports = Vec::new();
    for round in 0..2 {
        reports.clear();
        for name in SHOPS {
            let before = open(place, name)?.pending()?.transactions;
            let now = Instant::now();
            let report = place.sync(name)?;
            if round == 0 || before > 0 || name != SHOPS[2] {
                table.add_row([
                    name.to_owned(),
                    before.to_string(),
                    kb(report.sent),
                    kb(report.received),
                    report.pending.to_string(),
                    ms(now),
                    conflicts::shorten(&report.state.to_string(), 90),
                ]);
            }
            reports.push(report);
        }
    }
    voice.say(table.trim_fmt());
    Ok(reports)
}

/// What the till wrote without the right to, and the sale that depends on that.
fn show_rejections(place: &Place, expected: u64, voice: &Voice) -> Result<u64> {
    let rejected = open(place, "till")?.rejected()?;
    let versions: BTreeSet<u64> = rejected.iter().map(|cell| cell.version).collect();
    voice.chapter(&format!("{} transactions of the till were rejected, and are kept there", versions.len()));
    voice.say(till::rejections(&rejected));
    if versions.len() as u64 != expected {
        return Err(format!("{} transactions were rejected", versions.len()).into());
    }
    let till = open(place, "till")?;
    for version in &versions {
        till.drop_rejected(*version, None)?;
    }
    Ok(expected)
}

/// Tries the server over the wire; nothing of the room's file may change.
fn intrude(place: &Place, voice: &Voice) -> Result<()> {
    voice.chapter("The till tries it on the wire");
    let before = equal::contents(&place.room_file())?;
    voice.say(intruder::try_all(place, MUTATIONS)?);
    let after = equal::contents(&place.room_file())?;
    if let Some((table, _)) = after.iter().zip(&before).find(|(a, b)| a != b).map(|(a, _)| a) {
        return Err(format!("an intruder changed the table {table} of the room").into());
    }
    voice.say(format!("  the room is as it was: {} tables compared, metadata included", before.len()));
    Ok(())
}

/// What was parked for the column appears with it.
fn add_shelf(shop: &Replica, name: &str, voice: &Voice) -> Result<()> {
    let parked =
        |shop: &Replica| Ok::<u64, rejoin::Error>(shop.status()?.parked.iter().map(|p| p.changes).sum());
    let before = parked(shop)?;
    shop.connection().execute_batch(shops::ADD_SHELF)?;
    // The next write to a replicated table takes them in, as any of the shop's would.
    shop.connection()
        .execute("UPDATE books SET stock = stock + 1 WHERE book_id = (SELECT max(book_id) FROM books)", [])?;
    let sql = "SELECT count(*) FROM books WHERE shelf IS NOT NULL";
    let shown: i64 = shop.connection().query_row(sql, [], |row| row.get(0))?;
    voice.say(format!(
        "  {name:<7} {before} changes waited for `shelf`; ALTER TABLE books ADD COLUMN: {shown} shelves are known, {} wait",
        parked(shop)?
    ));
    Ok(())
}
