//! Start and end.

use crate::app::App;
use crate::config::Config;
use crate::error::StartError;
use crate::live::Live;
use crate::rooms::{Rooms, lock_data};
use crate::{http, listener};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SWEEP: Duration = Duration::from_secs(10);

/// A server that runs on the current Tokio runtime.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    serving: JoinHandle<()>,
    sweeping: JoinHandle<()>,
    /// Keeps other servers off the directory.
    _lock: File,
}

impl Server {
    /// Checks the configuration, and listens.
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let live = watch::Sender::new(Arc::new(Live::new(config.clone())?));
        let lock = lock_data(&config)?;
        let listen = config.listen;
        let failed =
            |e: std::io::Error| StartError::Listen { message: format!("cannot listen on {listen}: {e}") };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let rooms = Arc::new(Rooms::new(Arc::new(config.clone()), live.subscribe()));
        let app = Arc::new(App::new(config, live, rooms));
        tracing::info!(%address, data = %app.config.data.display(), tls = app.config.tls.is_some(), auth = app.config.auth.is_some(),
            "serving");
        let serving = tokio::spawn(listener::serve(listener, http::routes(app.clone()), app.clone()));
        let sweeping = tokio::spawn(sweep(app.clone()));
        Ok(Server { address, app, serving, sweeping, _lock: lock })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes on with the keys, certificates, policies and schemas of another configuration, which is checked as at the start;
    /// if it is not good, everything stays as it is. Clients whose tokens do not hold under it are hung up on.
    pub fn reload(&self, config: Config) -> Result<(), StartError> {
        let next = self.app.live().successor(config)?;
        self.app.live.send_replace(Arc::new(next));
        tracing::info!("goes on with the configuration as it is now");
        Ok(())
    }

    /// Takes nobody new, tells the clients, lets what is under way end, closes the rooms. What takes longer than
    /// `drain_s` is cut off.
    pub async fn stop(self) {
        let most = Duration::from_secs(u64::from(self.app.config.limits.drain_s));
        tracing::info!("stopping");
        self.app.drain.send_replace(true);
        self.sweeping.abort();
        let abort = self.serving.abort_handle();
        if tokio::time::timeout(most, self.serving).await.is_err() {
            tracing::warn!("requests are cut off that did not end in {} s", most.as_secs());
            abort.abort();
        }
        // Sessions leave their rooms one by one.
        let emptied = tokio::time::timeout(most, async {
            while !self.app.rooms.close_all().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if emptied.await.is_err() {
            tracing::warn!("rooms are left that somebody still uses");
        }
        tracing::info!("stopped");
    }
}

async fn sweep(app: Arc<App>) {
    let idle = Duration::from_secs(u64::from(app.config.limits.room_idle_s));
    loop {
        tokio::time::sleep(SWEEP).await;
        app.rooms.sweep(idle).await;
        app.subjects.sweep();
    }
}
