//! The thread that owns the database and carries out what the machine asks of it.

use crate::error::Error;
use crate::options::Options;
use crate::swap::Swap;
use rejoin::ambient::{Mistake, makes};
use rejoin::{CutRequest, Replica, ServerNote, SiteId, VersionVector};
use rejoin_sync::client::{Event, Facts, NotApplied, Reply, Request, Step};
use rejoin_sync::frame::{Code, Rejection, RowName, Void};
use rejoin_sync::{MadeCut, Relation};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How often the file is asked whether another connection has committed.
const LOOK: Duration = Duration::from_millis(20);
/// Names of rows whose state the server is asked for at once take about so many bytes.
const ROWS_WANTED_BYTES: usize = 256 << 10;

type Run = Box<dyn FnOnce(&mut Replica) + Send>;

pub enum Job {
    Ask(Request),
    /// Something of the program's.
    Run(Run),
    /// A snapshot of the room is here, to go on with.
    StartOver(PathBuf),
}

pub struct Storage {
    replica: Replica,
    path: PathBuf,
    swap: Swap,
    url: String,
    note: Option<ServerNote>,
}

/// Starts the thread; the database is open when this returns.
pub fn start(
    path: &Path,
    url: String,
    mut options: Options,
    jobs: Receiver<Job>,
    events: UnboundedSender<Event>,
) -> Result<JoinHandle<()>, Error> {
    let (opened, open) = std::sync::mpsc::channel();
    let path = path.to_owned();
    let on_commit = options.on_commit.take();
    let work = move || {
        let told = events.clone();
        let storage = Storage::open(&path, url, &options).and_then(|storage| {
            storage.replica.on_local_commit(move || drop(told.send(Event::Changed)))?;
            if let Some(f) = on_commit {
                storage.replica.observe(f)?;
            }
            Ok(storage)
        });
        match storage {
            Ok(mut storage) => {
                let _ = opened.send(Ok(()));
                storage.run(&jobs, &events);
            }
            Err(e) => drop(opened.send(Err(e))),
        }
    };
    let thread =
        std::thread::Builder::new().name("rejoin-storage".into()).spawn(work).map_err(Error::System)?;
    open.recv().unwrap_or(Err(Error::Stopped))?;
    Ok(thread)
}

impl Storage {
    pub fn open(path: &Path, url: String, options: &Options) -> Result<Storage, Error> {
        // An absolute path is never taken for a URI.
        let path = std::path::absolute(path).map_err(|error| Error::File { path: path.to_owned(), error })?;
        let replica = Replica::open_with(&path, options.replica)?;
        replica.set_clock(options.now_ms)?;
        replica.connection().busy_timeout(options.busy_timeout).map_err(rejoin::Error::from)?;
        // Refuses files of cr-sqlite, of newer versions, and what is no database.
        replica.site_id()?;
        let note = replica.server()?;
        let swap = Swap { patience: options.busy_timeout, now_ms: options.now_ms };
        Ok(Storage { replica, path, swap, url, note })
    }

    fn run(&mut self, jobs: &Receiver<Job>, events: &UnboundedSender<Event>) {
        let mut looked = Instant::now();
        loop {
            let job = jobs.recv_timeout(LOOK.saturating_sub(looked.elapsed()));
            let gone = match job {
                Ok(Job::Ask(request)) => events.send(Event::Reply(self.answer(request))).is_err(),
                Ok(Job::StartOver(snapshot)) => {
                    events.send(Event::Reply(self.start_over(&snapshot))).is_err()
                }
                Ok(Job::Run(f)) => {
                    f(&mut self.replica);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if gone {
                return;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if self.has_changed() {
                    let _ = events.send(Event::Changed);
                }
            }
        }
    }

    /// Whether another connection has committed since the last look. A file that is busy just now is asked again.
    pub fn has_changed(&self) -> bool {
        self.replica.changed_outside().unwrap_or(false)
    }

    #[cfg(feature = "simulation")]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn answer(&mut self, request: Request) -> Reply {
        self.try_answer(request).unwrap_or_else(|e| not_done(&e))
    }

    pub fn start_over(&mut self, snapshot: &Path) -> Reply {
        let done = self.swap.replace(&self.replica, &self.path, snapshot);
        self.note = None;
        match done.and_then(|_| self.facts()) {
            Ok(facts) => Reply::StartedOver(facts),
            Err(e) => not_done(&e),
        }
    }

    fn try_answer(&mut self, request: Request) -> rejoin::Result<Reply> {
        Ok(match request {
            Request::Describe => Reply::Described(self.facts()?),
            Request::Compare { schema, version, server } => {
                let relation = self.compare(&schema)?;
                let site = self.replica.site_id()?;
                let chain = version.map(|v| self.replica.chain_at(site, v)).transpose()?.flatten();
                let server =
                    server.map(|(id, v)| self.replica.chain_at(SiteId(id), v)).transpose()?.flatten();
                Reply::Compared { relation, chain, server }
            }
            Request::Prepare(steps) => {
                steps.into_iter().try_for_each(|step| self.step(step))?;
                Reply::Prepared(self.facts()?)
            }
            Request::MakeCut { theirs, own_only, without, bytes_max } => {
                let without = Some(&without).filter(|w| !w.is_empty());
                return self.make_cut(&CutRequest {
                    own_only,
                    without,
                    bytes_max,
                    ..CutRequest::new(&theirs)
                });
            }
            Request::Apply(bytes) => return self.apply(&bytes),
            Request::Adopt { rejections, rows } => return self.adopt(rejections, &rows),
            Request::MergeRows(rows) => {
                self.replica.merge_rows(&rows)?;
                Reply::Merged(self.facts()?)
            }
            Request::Acknowledge(vector) => {
                self.acknowledge(&vector)?;
                Reply::Acknowledged(vector)
            }
            Request::StartOver => Reply::Impossible("a snapshot is needed".into()),
        })
    }

    fn facts(&self) -> rejoin::Result<Box<Facts>> {
        let r = &self.replica;
        r.watch_again()?;
        // The head before the vector: it must not speak of what the vector does not have.
        let head = r.own_head()?;
        let rejected = r.rejected()?;
        let mut versions: Vec<_> = rejected.iter().map(|c| (c.site, c.version)).collect();
        versions.dedup();
        let mut wanted = r.rows_wanted()?;
        // A frame of them, and at least one.
        let mut bytes = 0;
        wanted.retain(|row| {
            let fits = bytes < ROWS_WANTED_BYTES;
            bytes += row.table.len() + row.pk.len() + 8;
            fits
        });
        Ok(Box::new(Facts {
            site: head.site.0,
            mine: r.own_sites()?.into_iter().map(|s| s.0).collect(),
            lineage: r.lineage()?,
            schema: r.schema()?.into_bytes(),
            vector: r.vector()?,
            head: (head.version > 0).then_some((head.version, head.chain)),
            clock_ms: head.clock_ms,
            horizon: r.horizon()?,
            acknowledged: self.note.as_ref().map(|n| n.acknowledged.clone()).unwrap_or_default(),
            clock_offset_ms: r.clock_offset_ms()?,
            rejected: versions.len() as u64,
            rejected_reason: rejected.last().map(|c| c.reason.clone()).unwrap_or_default(),
            wanted: wanted
                .into_iter()
                .map(|r| RowName { table: r.table, pk: rejoin_wire::frame::Bytes(r.pk) })
                .collect(),
        }))
    }

    /// A database without replicated tables takes those of the room.
    fn compare(&self, theirs: &[u8]) -> rejoin::Result<Relation> {
        let Ok(theirs) = std::str::from_utf8(theirs) else {
            return Ok(Relation::Incompatible("the server's schema is no UTF-8".into()));
        };
        let r = &self.replica;
        if r.schema()?.is_empty() && !theirs.is_empty() {
            match r.adopt_schema(theirs) {
                Ok(_) => {}
                Err(e @ rejoin::Error::Sqlite(_)) => return Err(e),
                Err(e) => {
                    return Ok(Relation::Incompatible(format!("the room's tables cannot be made here: {e}")));
                }
            }
        }
        r.compare_schema(theirs)
    }

    fn step(&mut self, step: Step) -> rejoin::Result<()> {
        let r = &self.replica;
        match step {
            Step::TakeLineage(lineage) => r.set_lineage(lineage),
            Step::NewSite(common) => {
                let old = r.site_id()?;
                r.renew_site_id()?;
                if r.vector()?.max(&old) > common { r.give_way(old, common) } else { Ok(()) }
            }
            Step::GiveWay(common) => r.give_way(r.site_id()?, common),
            Step::Restamp { acknowledged, offset_ms } => {
                let shift_ms = offset_ms.saturating_sub(r.clock_offset_ms()?);
                r.restamp(&acknowledged, shift_ms).map(drop)
            }
            Step::Remember { server, vector, relay } => {
                let lineage = r.lineage()?.unwrap_or_default();
                let (url, site) = (self.url.clone(), SiteId(server));
                let note = ServerNote { url, site, lineage, acknowledged: vector, relay };
                if self.note.as_ref() != Some(&note) {
                    r.remember_server(&note)?;
                    self.note = Some(note);
                }
                Ok(())
            }
        }
    }

    fn acknowledge(&mut self, vector: &VersionVector) -> rejoin::Result<()> {
        let Some(note) = &mut self.note else { return Ok(()) };
        let new = ServerNote { acknowledged: vector.clone(), ..note.clone() };
        self.replica.remember_server(&new)?;
        *note = new;
        Ok(())
    }

    fn make_cut(&self, request: &CutRequest<'_>) -> rejoin::Result<Reply> {
        let Some(cut) = self.replica.cut_for(request)? else { return Ok(Reply::Made(None)) };
        if cut.oversized {
            let (bytes, most) = (cut.bytes.len(), request.bytes_max);
            let message = format!(
                "what is to be sent takes {bytes} bytes, and the server takes {most} at once; its operator can raise cut_bytes, or put a \
                copy of this database into the server's folder"
            );
            return Ok(Reply::Impossible(message));
        }
        Ok(Reply::Made(Some(MadeCut {
            bytes: cut.bytes.into(),
            transactions: cut.transactions,
            brings: cut.brings,
            upto: 0,
            more: false,
            rows: false,
        })))
    }

    fn apply(&self, bytes: &[u8]) -> rejoin::Result<Reply> {
        use rejoin::Error as E;
        if makes(Mistake::AcknowledgeFirst) {
            let holds = rejoin_wire::Reader::open(bytes).map(|r| r.holds()).unwrap_or_default();
            return Ok(Reply::Applied { holds, facts: self.facts()? });
        }
        // A fork of one of its own gives it another.
        let mine = self.replica.own_sites()?;
        let why = match self.replica.apply_changeset(bytes) {
            Ok(_) => match self.replica.holds_void(bytes)? {
                Some((site, version)) => NotApplied::OtherHistory(format!(
                    "version {version} of site {site} was rejected by the server, and its changes are here"
                )),
                None => {
                    let holds = rejoin_wire::Reader::open(bytes).map(|r| r.holds()).unwrap_or_default();
                    return Ok(Reply::Applied { holds, facts: self.facts()? });
                }
            },
            Err(e @ E::Gap { .. }) => NotApplied::Gap(e.to_string()),
            Err(e @ E::Fork { .. }) => match &e {
                E::Fork { site, .. } if !mine.iter().any(|id| id.to_string() == *site) => {
                    NotApplied::OtherHistory(e.to_string())
                }
                _ => NotApplied::Fork(e.to_string()),
            },
            Err(e @ E::OtherLineage { .. }) => NotApplied::OtherLineage(e.to_string()),
            Err(e @ E::BelowHorizon { .. }) => NotApplied::BelowHorizon(e.to_string()),
            Err(e @ E::Clock { .. }) => NotApplied::Clock(e.to_string()),

            Err(
                e @ (E::Changeset { .. }
                | E::BadChange { .. }
                | E::Poison { .. }
                | E::BadArgument { .. }
                | E::Constraint { .. }
                | E::TooLarge { .. }),
            ) => NotApplied::Bad(e.to_string()),
            Err(e) => return Err(e),
        };
        Ok(Reply::NotApplied { why, facts: self.facts()? })
    }

    fn adopt(&self, rejections: Vec<Rejection>, rows: &[Vec<u8>]) -> rejoin::Result<Reply> {
        let rejections: Vec<rejoin::Rejection> = rejections.into_iter().map(rejection).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let adopted = self.replica.adopt(&rejections, &rows)?;
        let void =
            |v: rejoin::Void| Void { site: v.site.0, version: v.version, nonce: v.nonce, chain: v.chain };
        let name = |r: rejoin::RowKey| RowName { table: r.table, pk: rejoin_wire::frame::Bytes(r.pk) };
        Ok(Reply::Adopted {
            voids: adopted.voids.into_iter().map(void).collect(),
            wanted: adopted.wanted.into_iter().map(name).collect(),
            facts: self.facts()?,
        })
    }
}

fn not_done(e: &rejoin::Error) -> Reply {
    match e {
        rejoin::Error::Sqlite(_) => Reply::Failed(e.to_string()),
        _ => Reply::Impossible(e.to_string()),
    }
}

fn rejection(r: Rejection) -> rejoin::Rejection {
    let row = (!r.table.is_empty()).then_some(rejoin::RowKey { table: r.table, pk: r.pk.0 });
    let site = SiteId(r.site);
    rejoin::Rejection { site, version: r.version, code: word(r.code).into(), reason: r.message, row }
}

/// A code as `crsql_rejected` has it.
fn word(code: Code) -> &'static str {
    match code {
        Code::Constraint => "constraint",
        Code::Policy => "policy",
        Code::ForeignSite => "foreign-site",
        Code::Clock => "clock",
        Code::TooLarge => "too-large",
        Code::Limited => "limited",
        Code::Ahead => "ahead",
        Code::DependsOn => rejoin::CODE_DEPENDS,
        _ => "refused",
    }
}
