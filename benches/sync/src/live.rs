//! Replicas that sync while they are written to, and when what was committed arrived where.

use crate::lab::{Lab, insert_articles};
use crate::server::Server;
use crate::{Result, usage::ms};
use rejoin::{Replica, SiteId};
use rejoin_client::{Options, State, SyncClient};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When each row was committed, by its packed key and by the transaction that brought it.
#[derive(Default)]
pub struct Commits {
    keys: Mutex<HashMap<Vec<u8>, Instant>>,
    versions: Mutex<HashMap<(SiteId, u64), Instant>>,
}

impl Commits {
    /// Commits an article; its time begins before the statement does, so it may arrive before this returns.
    pub fn commit(&self, replica: &Replica, id: i64) -> Result<()> {
        let conn = replica.connection();
        let key = conn.query_row("SELECT crsql_pack_columns(?1)", [id], |r| r.get(0))?;
        let now = Instant::now();
        locked(&self.keys).insert(key, now);
        insert_articles(replica, id..=id, 1)?;
        let head = replica.own_head()?;
        locked(&self.versions).insert((head.site, head.version), now);
        Ok(())
    }

    fn since_key(&self, key: &[u8]) -> Option<f64> {
        locked(&self.keys).get(key).map(|at| ms(at.elapsed()))
    }

    /// Milliseconds since a transaction was committed.
    pub fn since(&self, site: SiteId, version: u64) -> Option<f64> {
        locked(&self.versions).get(&(site, version)).map(|at| ms(at.elapsed()))
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A replica with its client.
pub struct Live {
    pub client: SyncClient,
    /// Milliseconds from the commit of each row that came to when it was visible here.
    pub delays: Arc<Mutex<Vec<f64>>>,
}

impl Live {
    pub fn start(lab: &Lab, name: &str, server: &Server, room: &str, commits: &Arc<Commits>) -> Result<Live> {
        // Its mode stays with the file.
        drop(lab.replica(name)?);
        let delays = Arc::new(Mutex::new(Vec::new()));
        let (commits, noted) = (commits.clone(), delays.clone());
        let on_commit = move |commit: &rejoin::Commit| {
            if !commit.local {
                let keys = commit.tables.iter().flat_map(|t| &t.keys);
                locked(&noted).extend(keys.filter_map(|key| commits.since_key(key)));
            }
        };
        let options = Options { on_commit: Some(Box::new(on_commit)), ..Options::default() };
        let live = Live { client: SyncClient::start(lab.path(name), &server.url(room), options)?, delays };
        until("a replica that is synced", || Ok(live.client.state() == State::Synced))?;
        Ok(live)
    }

    /// Commits an article here.
    pub fn commit(&self, commits: &Arc<Commits>, id: i64) -> Result<()> {
        let commits = commits.clone();
        self.client.with(move |replica| commits.commit(replica, id))?
    }

    pub fn arrived(&self) -> usize {
        locked(&self.delays).len()
    }

    /// How many articles it has.
    pub fn articles(&self) -> Result<i64> {
        let count = |replica: &mut Replica| {
            replica.connection().query_row("SELECT count(*) FROM article", [], |r| r.get::<_, i64>(0))
        };
        Ok(self.client.with(count)??)
    }
}

/// Two replicas; what the first file has makes the room.
pub fn two(
    lab: &Lab,
    names: &[String; 2],
    server: &Server,
    room: &str,
    commits: &Arc<Commits>,
) -> Result<[Live; 2]> {
    let start = |name| Live::start(lab, name, server, room, commits);
    Ok([start(&names[0])?, start(&names[1])?])
}

/// Waits, for a while.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Calls `f` with 0, 1, 2 ... at equal distances, later ones not before their time.
pub fn paced(count: i64, every: Duration, mut f: impl FnMut(i64) -> Result<()>) -> Result<()> {
    let mut due = Instant::now();
    for n in 0..count {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        f(n)?;
        due += every;
    }
    Ok(())
}
