use crate::commands::sync::{ServerArgs, failure, follow};
use crate::failure::{Failure, Kind, Result};
use crate::files::{self, Access};
use crate::output::{line, number};
use crate::{progress, stop};
use indicatif::ProgressBar;
use rejoin_client::{Error, Transfer, clone_room};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Downloads a snapshot of the room, checks it, gives it a site id of its own, and syncs what has happened since. The file \
appears under its name when it is complete; until then it is DB.part. Interrupted, it goes on where it was when \
it is run again.

A room of a server that offers no snapshot is synced into a new file. A file that is there is never overwritten.

Exit codes are those of `rejoin sync`.

Examples:
  rejoin clone ws://localhost:4747/shop shop.db
  rejoin clone wss://sync.example.org/shop shop.db --token-file shop.jwt";

/// Make a new database from a room on a server
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// ws://HOST:PORT/ROOM or wss://HOST/ROOM
    url: String,
    db: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut shown = Shown::new(args.json);
    let options = args.server.options();
    let cloned = stop::waiting(|| clone_room(&args.url, &args.db, &options, |t| shown.progress(t)));
    shown.bar.finish_and_clear();
    match cloned {
        Ok(cloned) => {
            shown.done(cloned.transfer)?;
            // Readers and a writer at once.
            let replica = files::open(&args.db, Access::Write)?;
            let wal = replica.connection().pragma_update(None, "journal_mode", "WAL");
            wal.map_err(|e| Failure::from(e).at(args.db.display()))?;
        }
        Err(Error::NoSnapshot) => {
            if args.db.symlink_metadata().is_ok() {
                let message = format!("{} is there already", args.db.display());
                return Err(Failure::new(Kind::File, message));
            }
            drop(files::open(&args.db, Access::Create)?);
        }
        Err(e) => return Err(failure(e, &args.db)),
    }
    follow(&args.db, &args.url, options, false, args.json)
}

struct Shown {
    json: bool,
    bar: ProgressBar,
    began: Instant,
    told: Option<Instant>,
}

impl Shown {
    fn new(json: bool) -> Shown {
        Shown { json, bar: ProgressBar::hidden(), began: Instant::now(), told: None }
    }

    fn progress(&mut self, t: Transfer) {
        if self.bar.length() != Some(t.bytes_total) {
            self.bar = progress::bytes(t.bytes_total, "downloading");
            // What an earlier run had brought says nothing about the speed.
            self.bar.set_position(t.bytes_before);
            self.bar.reset_eta();
        }
        self.bar.set_position(t.bytes);
        if self.json && self.told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.told = Some(Instant::now());
            let state = json!({ "state": "downloading", "bytes": t.bytes, "bytes_total": t.bytes_total });
            // A reader that went away is noticed at the end.
            let _ = line(state.to_string());
        }
    }

    fn done(&self, t: Transfer) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.json {
            let state = json!({ "state": "downloaded", "bytes": t.bytes, "bytes_total": t.bytes_total, "seconds": seconds });
            return line(state.to_string());
        }
        line(format!("downloaded: {} bytes in {seconds:.1} s", number(t.bytes)))
    }
}
