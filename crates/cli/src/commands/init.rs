use crate::failure::{Failure, Kind, Result, refused};
use crate::files::{self, Access};
use crate::output::{count, line};
use crate::{progress, stop};
use rejoin::Replica;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Statement};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
The text may be any SQL. What does not begin a transaction of its own is run in one, so that it stands whole or not at \
all; a new file goes when it fails.

Examples:
  rejoin init shop.db --schema schema.sql
  echo \"CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, body TEXT); SELECT crsql_as_crr('note');\" |
    rejoin init notes.db --schema -";

/// Make a database from a text of SQL, `SELECT crsql_as_crr('table')` included
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The database; it is made if there is none
    db: PathBuf,
    /// File with SQL; `-` is stdin
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let sql = read(&args.schema)?;
    let fresh = !args.db.exists();
    let replica = files::open(&args.db, Access::Create)?;
    let spinner = progress::spinner("running the schema");
    let done = script(&replica, &sql).map_err(|e| e.at(args.schema.display()));
    spinner.finish_and_clear();
    if let Err(e) = done {
        drop(replica);
        if fresh {
            remove(&args.db);
        }
        return Err(e);
    }
    let status = replica.status()?;
    let tables = count(status.tables.len() as u64, "replicated table");
    match status.site_id {
        Some(site) => line(format!("{}: {tables}, site {site}", args.db.display())),
        None => line(format!(
            "{}: no replicated table; SELECT crsql_as_crr('TABLE') or `rejoin replicate` makes one",
            args.db.display()
        )),
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") { stop::read_all(std::io::stdin()) } else { std::fs::read(path) };
    let bytes = bytes.map_err(|e| Failure::io(path, e))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| refused(format!("{} is not UTF-8", path.display())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// A database that was made for a schema which failed.
pub fn remove(db: &Path) {
    for end in ["", "-wal", "-shm", "-journal"] {
        let mut name = db.as_os_str().to_owned();
        name.push(end);
        // Nothing depends on it: the next `init` takes the empty file as well.
        let _ = std::fs::remove_file(name);
    }
}

/// Statements that cannot be, or need not be, inside a transaction of ours.
const OUTSIDE: [&str; 9] =
    ["PRAGMA", "BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "VACUUM", "ATTACH"];

/// Runs every statement of a text.
fn script(replica: &Replica, sql: &str) -> Result<()> {
    let conn = replica.connection();
    let mut batch = Batch::new(conn, sql);
    // A transaction of ours is open.
    let mut ours = false;
    let done = (|| -> Result<()> {
        while let Some(mut statement) = batch.next()? {
            stop::check()?;
            let text = statement.expanded_sql().unwrap_or_default();
            let word = first_word(&text);
            let outside = OUTSIDE.contains(&word.as_str());
            if outside && ours {
                conn.execute_batch("COMMIT")?;
                ours = false;
            } else if !outside && conn.is_autocommit() {
                conn.execute_batch("BEGIN IMMEDIATE")?;
                ours = true;
            }
            run_all(&mut statement)?;
        }
        Ok(())
    })();
    if done.is_ok() && ours {
        conn.execute_batch("COMMIT")?;
    } else if !conn.is_autocommit() {
        let open = done.is_ok();
        conn.execute_batch("ROLLBACK")?;
        if open {
            let message = "it begins a transaction that it does not end: COMMIT is missing";
            return Err(Failure::new(Kind::Refused, message));
        }
    }
    done
}

fn run_all(statement: &mut Statement<'_>) -> Result<()> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

/// The first word of a statement in upper case, comments skipped.
fn first_word(sql: &str) -> String {
    let mut rest = sql.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after).trim_start();
        } else {
            break;
        }
    }
    let word: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
    word.to_ascii_uppercase()
}
