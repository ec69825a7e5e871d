use crate::failure::{Failure, Kind, Result};
use rejoin_server::{Options, Server, StartError};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

const EXAMPLES: &str = "\
Each room is one SQLite file in the data directory; a client's URL is ws://HOST:PORT/ROOM. SIGTERM and Ctrl-C end the \
server when what is under way is done; a second one ends it at once. SIGHUP reads keys, policies and schemas again. docs/operating.md has all keys of the \
configuration.

Examples:
  rejoin serve --data rooms --insecure-no-auth
  rejoin serve --data /var/lib/rejoin --listen 0.0.0.0:4747 --config /etc/rejoin.toml";

/// Serve rooms: replicas that others sync with over the network
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the rooms; it is made if there is none
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address and port [default: 127.0.0.1:4747]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Configuration: keys, policies, limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Let every program of this machine do everything
    #[arg(long)]
    insecure_no_auth: bool,
    /// What is logged to stderr: error, warn, info, debug, trace or off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
}

pub fn run(args: Args) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(args.log)
        .init();
    let Args { data, listen, config, insecure_no_auth, .. } = args;
    let options = Options { data, listen, config, insecure_no_auth };
    let config = rejoin_server::config::load(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Kind::System, format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let signals = Failure::new(Kind::System, "signals cannot be taken");
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return Err(signals);
        };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return Err(signals) };
        let server = Server::start(config).await?;
        // For programs that asked for any free port.
        println!("listening on {}", server.address());
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hangup.recv() => {
                    let done = rejoin_server::config::load(&options).and_then(|config| server.reload(config));
                    if let Err(e) = done {
                        tracing::error!("the configuration stays as it was: {e}");
                    }
                }
            }
        }
        tokio::select! {
            () = server.stop() => Ok(()),
            _ = term.recv() => Err(Failure::new(Kind::Interrupted, "ended at once; what was acknowledged stands")),
            _ = int.recv() => Err(Failure::new(Kind::Interrupted, "ended at once; what was acknowledged stands")),
        }
    })
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Failure {
        let kind = match &e {
            StartError::File { .. } => Kind::File,
            StartError::Listen { .. } => Kind::System,
            _ => Kind::Usage,
        };
        Failure::new(kind, e.to_string())
    }
}
