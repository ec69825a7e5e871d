use crate::failure::{Failure, Kind, Result};
use crate::files::{self, Access};
use crate::output::{count, line, number};
use crate::{progress, stop};
use indicatif::ProgressBar;
use rejoin_client::{Ending, Options, Report, State, SyncClient, Token, Waited};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Gives the server what it lacks, fetches what is lacking here, and ends when both are equal. A room that is new takes over \
the tables, if the server allows that. With --watch it goes on: it stays connected, comes back when the connection is \
lost, and sends what any program writes to the file.

Prints a line whenever the state changes: offline, connecting, syncing, synced, behind, incompatible, rejected, with \
the reason; with --json an object {\"state\", \"pending\", \"bytes\", \"reason\", ...} in a line each.

--start-over is the way out where the room was made anew, or is another one (`incompatible`, other lineage): the room's \
state takes the place of the database's, and what only the database had is written onto it.

The token file is read again when it changes, also while connected.

Exit codes without --watch:
  0   synced
  9   incompatible: the server does not take this database, or this client; the reason says what to do
  10  rejected: the server did not take some transactions; see `rejoin rejected`
  11  behind: a schema or transactions are missing on one side; what could be exchanged was
  12  offline: the server was not reached, or was lost for half a minute

Examples:
  rejoin sync shop.db ws://localhost:4747/shop
  rejoin sync shop.db wss://sync.example.org/shop --token-file shop.jwt --watch
  rejoin sync shop.db wss://sync.example.org/shop --token-file shop.jwt --json | jq .state";

/// Keep a database equal to a room on a server
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    db: PathBuf,
    /// ws://HOST:PORT/ROOM or wss://HOST/ROOM
    url: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Take the room's state, and write onto it what only this database has
    #[arg(long)]
    start_over: bool,
    /// Go on until interrupted
    #[arg(long)]
    watch: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ServerArgs {
    /// File with the token that the server asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities to trust beside those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl ServerArgs {
    pub fn options(&self) -> Options {
        let mut options = Options {
            token: self.token_file.clone().map_or(Token::None, Token::File),
            agent: concat!("rejoin ", env!("CARGO_PKG_VERSION")).to_owned(),
            ca_file: self.ca_file.clone(),
            busy_timeout: files::wait(),
            ..Options::default()
        };
        options.replica.create = false;
        options
    }
}

pub fn run(args: Args) -> Result<()> {
    // A sentence for everything that can be wrong with the file.
    drop(files::open(&args.db, Access::Write)?);
    if args.start_over {
        start_over(&args)?;
    }
    follow(&args.db, &args.url, args.server.options(), args.watch, args.json)
}

fn start_over(args: &Args) -> Result<()> {
    let mut bar = ProgressBar::hidden();
    let done = rejoin_client::start_over(&args.db, &args.url, &args.server.options(), |t| {
        if bar.length() != Some(t.bytes_total) {
            bar = progress::bytes(t.bytes_total, "downloading");
        }
        bar.set_position(t.bytes);
    });
    bar.finish_and_clear();
    stop::check()?;
    let replayed = done.map_err(|e| failure(e, &args.db))?;
    let (transactions, changes) = (replayed.transactions, replayed.changes);
    if args.json {
        let (lost, deleted) = (replayed.lost, replayed.deleted);
        let all = json!({
            "state": "started_over", "transactions": transactions, "changes": changes, "lost": lost, "deleted": deleted,
        });
        return line(all.to_string());
    }
    let kept = format!("{} of {}", count(changes, "change"), count(transactions, "transaction"));
    line(format!("started over: {kept} kept that the room lacked"))
}

/// Syncs and tells how it goes; until the end, or, if it is watched, until somebody interrupts.
pub fn follow(db: &Path, url: &str, options: Options, watch: bool, json: bool) -> Result<()> {
    let client = SyncClient::start(db, url, options).map_err(|e| failure(e, db))?;
    let mut changes = client.watch();
    let mut ending = Ending::default();
    let mut teller = Teller::new(json);
    let mut looked = false;
    loop {
        let report = client.report();
        teller.tell(&report)?;
        if report.state == State::Synced && !std::mem::replace(&mut looked, true) {
            say_if_empty(&client, db)?;
        }
        if !watch && ending.is_end(&report) {
            teller.bar.finish_and_clear();
            client.stop();
            return end(db, &report);
        }
        if stop::requested() {
            client.stop();
            return Err(Failure::new(Kind::Interrupted, ""));
        }
        if changes.wait(Duration::from_millis(200)) == Waited::Stopped {
            return Err(Failure::new(Kind::System, "the sync client ended unexpectedly"));
        }
    }
}

/// Both sides are equal if neither has anything; but that is hardly what was wanted.
fn say_if_empty(client: &SyncClient, db: &Path) -> Result<()> {
    let schema = client.with(|replica| replica.schema()).map_err(|e| failure(e, db))?;
    if schema.map_err(|e| Failure::from(e).at(db.display()))?.is_empty() {
        let db = db.display();
        eprintln!(
            "rejoin: neither {db} nor the room has a replicated table, so nothing is synced; `rejoin replicate {db} TABLE` makes one"
        );
    }
    Ok(())
}

fn end(db: &Path, report: &Report) -> Result<()> {
    let (kind, message) = match &report.state {
        State::Incompatible { reason } => (Kind::Incompatible, reason.clone()),
        State::Rejected { transactions, .. } => {
            let n = count(*transactions, "transaction");
            (
                Kind::Rejected,
                format!("the server did not take {n}; `rejoin rejected {}` shows them", db.display()),
            )
        }
        State::Behind { reason, .. } => (Kind::Behind, reason.clone()),
        State::Offline { why, .. } => (Kind::Offline, why.clone()),
        State::Synced | State::Connecting | State::Syncing { .. } => return Ok(()),
    };
    Err(Failure::new(kind, message))
}

pub fn failure(e: rejoin_client::Error, db: &Path) -> Failure {
    use rejoin_client::Error as E;
    let message = e.to_string();
    match e {
        E::Database(e) => Failure::from(e).at(db.display()),
        E::File { path, error } => Failure::io(&path, error),
        E::Url { .. } => Failure::new(Kind::Usage, message),
        E::Exists { .. } => Failure::new(Kind::File, message),
        E::Unreachable { .. } | E::Damaged { .. } => Failure::new(Kind::Offline, message),
        E::Refused { .. } | E::NoSnapshot => Failure::new(Kind::Incompatible, message),
        _ => Failure::new(Kind::System, message),
    }
}

/// Says what has changed: lines on stdout, and bytes on the way on a terminal.
struct Teller {
    json: bool,
    last: Option<State>,
    bar: ProgressBar,
}

impl Teller {
    fn new(json: bool) -> Teller {
        Teller { json, last: None, bar: ProgressBar::hidden() }
    }

    fn tell(&mut self, report: &Report) -> Result<()> {
        self.show_bytes(report);
        let state = without_bytes(&report.state);
        if self.last.as_ref() == Some(&state) {
            return Ok(());
        }
        self.last = Some(state);
        let text = if self.json { object(report).to_string() } else { sentence(report) };
        self.bar.suspend(|| line(text))
    }

    fn show_bytes(&mut self, report: &Report) {
        match &report.state {
            State::Syncing { bytes, .. } if *bytes > 0 => {
                if self.bar.is_finished() || self.bar.length().is_none() {
                    self.bar = progress::bytes(*bytes, "syncing");
                }
                let length = self.bar.length().unwrap_or(0).max(*bytes);
                self.bar.set_length(length);
                self.bar.set_position(length - bytes);
            }
            _ => self.bar.finish_and_clear(),
        }
    }
}

/// Two states that differ in nothing but the bytes on the way are one line.
fn without_bytes(state: &State) -> State {
    match state {
        State::Syncing { pending, .. } => State::Syncing { pending: *pending, bytes: 0 },
        State::Offline { why, .. } => State::Offline { why: why.clone(), retry_at_ms: None },
        other => other.clone(),
    }
}

fn sentence(report: &Report) -> String {
    let pending = match report.pending {
        0 => String::new(),
        n => format!(" ({} pending)", number(n)),
    };
    match &report.state {
        State::Syncing { .. } => format!("syncing{pending}"),
        State::Rejected { transactions, reason, .. } => {
            format!("rejected{pending}: {}, the last: {reason}", count(*transactions, "transaction"))
        }
        State::Synced | State::Connecting => report.state.name().to_owned() + &pending,
        State::Behind { reason, .. } | State::Incompatible { reason } => {
            format!("{}{pending}: {reason}", report.state.name())
        }
        State::Offline { why, .. } => format!("offline{pending}: {why}"),
    }
}

fn object(report: &Report) -> Value {
    let mut all = json!({
        "state": report.state.name(), "pending": report.pending, "sent": report.sent, "received": report.received,
    });
    let mut put = |name: &str, value: Value| all[name] = value;
    match &report.state {
        State::Syncing { bytes, .. } => put("bytes", json!(bytes)),
        State::Offline { why, retry_at_ms } => {
            put("reason", json!(why));
            put("retry_at_ms", json!(retry_at_ms));
        }
        State::Behind { reason, .. } | State::Incompatible { reason } => put("reason", json!(reason)),
        State::Rejected { transactions, reason, .. } => {
            put("reason", json!(reason));
            put("transactions", json!(transactions));
        }
        State::Synced | State::Connecting => {}
    }
    all
}
