//! The thread's side of a room: the replica, and what the server keeps beside it.

mod apply;
mod open;

use crate::auth::Grant;
use crate::config::SchemaSource;
use crate::live::Now;
use crate::members::Members;
use crate::names::RoomName;
use crate::policy::Policies;
use crate::room::{Head, Shared, internal};
use crate::rooms::{Common, failed};
use crate::schema::{self, SchemaFile};
use rejoin::{CutRequest, Error, Position, Relation, Replica, RowKey, SiteId, VersionVector};
use rejoin_sync::MadeCut;
use rejoin_sync::server::{Reader, Reply, Request};
use rejoin_wire::frame::{
    Bytes, Code, Fault, Grants, Hello, Id, Limits, RowName, Void, Welcome, WireVector, vector_hash,
};
use rusqlite::Connection;
use rusqlite::{Transaction, TransactionBehavior};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is kept in memory about members is written this often.
const FLUSH: Duration = Duration::from_secs(60);
const SCHEMA_POLL: Duration = Duration::from_secs(2);

pub struct Owner {
    name: RoomName,
    common: Arc<Common>,
    shared: Arc<Shared>,
    replica: Replica,
    policies: Policies,
    members: Members,
    lineage: Id,
    schema: Arc<str>,
    schema_version: i64,
    live: Now,
    schema_source: SchemaSource,
    schema_file: Option<SchemaFile>,
    pages_max: i64,
    flushed: Instant,
    schema_polled: Instant,
    /// The room has taken a new site id since it was opened.
    renewed: bool,
}

fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into(), retry_after_ms: None }
}

impl Owner {
    pub fn open(
        name: RoomName,
        common: Arc<Common>,
        shared: Arc<Shared>,
        create: bool,
    ) -> Result<Owner, Fault> {
        let conn = {
            let live = common.live.borrow().clone();
            open::connect(&name, &common.config, live.config.schema_of(&name), create)?
        };
        let opened = Owner::start(name.clone(), common, shared, conn);
        opened.map_err(|message| {
            tracing::error!(room = %name, "cannot be opened: {message}");
            internal(format!("room \"{name}\" cannot be opened; the server's log says why"))
        })
    }

    fn start(
        name: RoomName,
        common: Arc<Common>,
        shared: Arc<Shared>,
        conn: Connection,
    ) -> Result<Owner, String> {
        let text = |e: Error| e.to_string();
        let config = &common.config;
        let pages_max = open::set_up(&conn, config).map_err(|e| e.to_string())?;
        let replica = Replica::attach(conn).map_err(text)?;
        let lineage = replica.make_lineage().map_err(text)?;
        let members = Members::load(&replica).map_err(text)?;
        let mut live = common.live.clone();
        let now_live = live.borrow_and_update().clone();
        let steps = config.limits.policy_steps;
        let policies = Policies::compile(&now_live.config.policies, steps).map_err(|e| e.to_string())?;
        let schema_source = now_live.config.schema_of(&name).clone();
        let schema_file = SchemaFile::of(&schema_source);
        let now = Instant::now();
        let mut owner = Owner {
            name,
            common,
            shared,
            replica,
            policies,
            members,
            lineage,
            schema: Arc::from(""),
            schema_version: -1,
            live,
            schema_source,
            schema_file,
            pages_max,
            flushed: now,
            schema_polled: now,
            renewed: false,
        };
        owner.migrate()?;
        owner.publish().map_err(text)?;
        Ok(owner)
    }

    pub fn name(&self) -> &RoomName {
        &self.name
    }

    pub fn has_clients(&self) -> bool {
        self.shared.has_clients()
    }

    /// Where the room is at this moment, and its horizon.
    pub fn place(&self) -> Result<(i64, VersionVector), Fault> {
        let place = || Ok((self.replica.position()?.0, self.replica.horizon()?));
        place().map_err(|e: Error| failed(&e))
    }

    /// What a session asks for after admission.
    pub fn answer(&mut self, request: Request, grant: &Grant) -> Reply {
        // Another client may have asked for the same in the meantime.
        if let Some(reply) = self.shared.answer(&request) {
            return reply;
        }
        match request {
            Request::MakeCut { reader, site } => self.make_cut(&reader, site),
            Request::Apply(bytes) => self.apply(&bytes, grant),
            Request::Compare(schema) => self.compare(&schema, grant),
            Request::Void(voids) => self.void(&voids, grant),
            Request::RowStates(rows) => self.row_states(rows),
            Request::Admit(_) | Request::Authenticate(_) | Request::Acknowledged { .. } => {
                Reply::Failed("out of turn".into())
            }
        }
    }

    /// Who is there, what the room holds, and whether the two fit together; nothing is merged yet.
    pub fn admit(&mut self, hello: &Hello, grant: &Grant) -> Reply {
        match self.welcome(hello, grant) {
            Ok(welcome) => Reply::Admitted(Box::new(welcome)),
            Err(fault) => Reply::Denied(fault),
        }
    }

    fn welcome(&mut self, hello: &Hello, grant: &Grant) -> Result<Welcome, Fault> {
        if let Some(theirs) = hello.lineage.filter(|l| *l != self.lineage) {
            let (ours, theirs) = (SiteId(self.lineage), SiteId(theirs));
            let message = format!("the database has lineage {theirs}, room \"{}\" has {ours}", self.name);
            return Err(fault(Code::OtherLineage, message));
        }
        let mut own = self.replica.site_id().map_err(|e| failed(&e))?;
        if hello.site == own.0 {
            // The room was made by copying the client's file, whose id it is. Nobody gets it from a room for the asking.
            if !grant.relay || std::mem::replace(&mut self.renewed, true) {
                let message = "the room's file and the client's are copies of each other, under one site id; a client \
                    with the claim `relay` ends that, or `rejoin clone` makes another replica";
                return Err(fault(Code::Fork, message));
            }
            let new = self.replica.new_site_id().map_err(|e| failed(&e))?;
            tracing::warn!(room = %self.name, "the file is a copy of a client's ({own}): the room goes on as site {new}");
            own = new;
        }
        self.relate(&hello.schema.0, grant)?;
        let limit = self.common.config.limits.sites_per_subject;
        self.members.admit(self.replica.connection(), hello.site, &grant.subject, limit)?;
        let mut head = self.replica.own_head().map_err(|e| failed(&e))?;
        let known = hello.vector.0.max(&own);
        if known > head.version {
            // A file is restored while the room is closed. Under an id that was made since, nobody can know more.
            if std::mem::replace(&mut self.renewed, true) {
                let message = format!(
                    "the client's vector has version {known} of the room's site {own}, which has never written it"
                );
                return Err(fault(Code::Malformed, message));
            }
            let new = self.replica.new_site_id().map_err(|e| failed(&e))?;
            tracing::warn!(room = %self.name, "the file is older than what a client has of it (version {known} of site \
                {own}, here {}): the room goes on as site {new}", head.version);
            head = self.replica.own_head().map_err(|e| failed(&e))?;
        }
        self.publish().map_err(|e| failed(&e))?;
        let vector = self.replica.vector().map_err(|e| failed(&e))?;
        let site = SiteId(hello.site);
        let yours = match vector.max(&site) {
            0 => None,
            last => Some((last, self.replica.chain_at(site, last).map_err(|e| failed(&e))?.unwrap_or(0))),
        };
        let limits = &self.common.config.limits;
        Ok(Welcome {
            protocol: 0,
            session: 0,
            time_ms: crate::app::now_ms(),
            site: head.site.0,
            lineage: self.lineage,
            schema: Bytes(self.schema.as_bytes().to_vec()),
            vector: WireVector(vector),
            yours,
            head: (head.version > 0).then_some((head.version, head.chain)),
            horizon: WireVector(VersionVector::clone(&self.shared.head.borrow().horizon)),
            grants: Grants { relay: grant.relay, read_only: grant.read_only },
            limits: Limits { frame_bytes: limits.frame_bytes, cut_bytes: limits.cut_bytes },
            heartbeat_ms: limits.idle_s.saturating_mul(1000) / 3,
            expires_ms: grant.expires_ms,
            credit: 0,
            resume: None,
        })
    }

    /// The client's schema has changed.
    fn compare(&mut self, schema: &[u8], grant: &Grant) -> Reply {
        match self.relate(schema, grant) {
            Ok(()) => Reply::Compared,
            Err(fault) => Reply::Denied(fault),
        }
    }

    fn relate(&mut self, theirs: &[u8], grant: &Grant) -> Result<(), Fault> {
        let bad = |e: &dyn std::fmt::Display| fault(Code::IncompatibleSchema, e.to_string());
        let theirs = std::str::from_utf8(theirs).map_err(|_| bad(&"the client's schema is no UTF-8"))?;
        if *theirs == *self.schema {
            return Ok(());
        }
        let more = match self.replica.compare_schema(theirs).map_err(|e| bad(&e))? {
            Relation::Incompatible(why) => return Err(bad(&why)),
            Relation::Same | Relation::Ahead(_) => return Ok(()),
            Relation::Behind(more) | Relation::Diverged(more) => more,
        };
        let adopts = self.schema_source == SchemaSource::Adopt;
        if !adopts || !grant.schema || grant.read_only {
            return Ok(());
        }
        match self.replica.adopt_schema(theirs) {
            Ok(_) => {
                tracing::info!(room = %self.name, subject = %grant.subject, "schema adopted: {more}");
                self.note_schema().map_err(|e| failed(&e))
            }
            // The client's transactions on what is missing wait; the rest goes on.
            Err(e) => {
                tracing::warn!(room = %self.name, subject = %grant.subject, "refused: the schema cannot be adopted: {e}");
                Ok(())
            }
        }
    }

    fn make_cut(&mut self, reader: &Reader, site: Id) -> Reply {
        let made = (|| {
            let upto = self.replica.position()?.0;
            let cut = match reader {
                Reader::Vector(theirs) => {
                    let request = CutRequest { voids: Some(&self.members.voids), ..CutRequest::new(theirs) };
                    self.replica.cut_for(&request)?
                }
                Reader::Since(since) => self.replica.tail_cut(Position(*since), u64::MAX)?,
            };
            // Whoever names a vector lacks what it lacks: its own file may have been rolled back.
            let has_it = |c: &rejoin::Cut| matches!(reader, Reader::Since(_)) && only_site(c) == Some(site);
            Ok::<_, Error>((cut.filter(|c| !has_it(c)).map(made_cut), upto))
        })();
        match made {
            Ok((cut, upto)) => {
                let upto = cut.as_ref().map_or(upto, |c| c.upto);
                Reply::Made { cut, upto }
            }
            // What no changeset can hold, a snapshot does.
            Err(e @ (Error::BelowHorizon { .. } | Error::TooLarge { .. })) => {
                Reply::Denied(fault(Code::BelowHorizon, e.to_string()))
            }
            Err(e) => self.broken(&e),
        }
    }

    fn broken(&self, e: &Error) -> Reply {
        tracing::error!(room = %self.name, "{e}");
        Reply::Failed(e.to_string())
    }

    /// Versions of the client's sites that are held and empty.
    fn void(&mut self, voids: &[Void], grant: &Grant) -> Reply {
        // A client may have got a new site id since it said hello; nobody's site is the first one's.
        let mut claimed = BTreeSet::new();
        for site in voids.iter().map(|v| v.site) {
            match self.members.subject_of(&site) {
                Some(subject) if subject == grant.subject => {}
                Some(_) => {
                    let message = format!(
                        "site {} is not the subject's, whose transactions it takes back",
                        SiteId(site)
                    );
                    return Reply::Denied(fault(Code::ForeignSite, message));
                }
                None => drop(claimed.insert(SiteId(site))),
            }
        }
        let limit = self.common.config.limits.sites_per_subject as usize;
        if !claimed.is_empty() && self.members.sites_of(&grant.subject) + claimed.len() > limit {
            let message = format!("subject \"{}\" has its {limit} sites", grant.subject);
            return Reply::Denied(fault(Code::Limited, message));
        }
        let bytes = std::mem::size_of_val(voids) as u64;
        if let Err(message) = self.has_bytes(grant, bytes) {
            return Reply::Denied(fault(Code::Limited, message));
        }
        let void = |v: &Void| rejoin::Void {
            site: SiteId(v.site),
            version: v.version,
            nonce: v.nonce,
            chain: v.chain,
        };
        let all: Vec<_> = voids.iter().map(void).collect();
        match self.record(&all, &claimed, grant) {
            Ok(recorded) => {
                if recorded > 0 {
                    self.members.used(&grant.subject, bytes);
                }
                Reply::Voided
            }
            Err(e) if malformed(&e) || matches!(e, Error::Fork { .. } | Error::Gap { .. }) => {
                Reply::Denied(fault(Code::Malformed, e.to_string()))
            }
            Err(e) => self.broken(&e),
        }
    }

    fn record(
        &mut self,
        voids: &[rejoin::Void],
        claimed: &BTreeSet<SiteId>,
        grant: &Grant,
    ) -> Result<u64, Error> {
        let txn = Transaction::new_unchecked(self.replica.connection(), TransactionBehavior::Immediate)?;
        let recorded = self.replica.void(voids)?;
        self.members.note_voids(&txn, voids)?;
        self.members.claim(&txn, claimed, &grant.subject)?;
        txn.commit()?;
        Ok(recorded)
    }

    fn row_states(&mut self, rows: Vec<RowName>) -> Reply {
        let key = |r: RowName| RowKey { table: r.table, pk: r.pk.0 };
        let keys: Vec<_> = rows.into_iter().map(key).collect();
        match self.replica.row_states(&keys) {
            Ok(bytes) => Reply::Rows(bytes),
            Err(e) if malformed(&e) => Reply::Denied(fault(Code::Malformed, e.to_string())),
            Err(e) => self.broken(&e),
        }
    }

    #[cfg(feature = "simulation")]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Does what is due; whether there may be something to tell.
    pub fn poll(&mut self) -> bool {
        if self.flushed.elapsed() >= FLUSH {
            self.flushed = Instant::now();
            self.flush();
        }
        self.collect_if_due();
        if self.schema_polled.elapsed() >= SCHEMA_POLL {
            self.schema_polled = Instant::now();
            match self.migrate() {
                Ok(false) => {}
                Ok(true) => return true,
                Err(e) => tracing::error!(room = %self.name, "the schema stays as it is: {e}"),
            }
        }
        self.shared.has_clients() && self.replica.changed_outside().unwrap_or(true)
    }

    /// Goes on with the policies and the schema that the configuration names now; whether there may be something to tell.
    pub fn follow(&mut self) -> bool {
        if !self.live.has_changed().unwrap_or(false) {
            return false;
        }
        let live = self.live.borrow_and_update().clone();
        match Policies::compile(&live.config.policies, self.common.config.limits.policy_steps) {
            Ok(policies) => self.policies = policies,
            Err(e) => tracing::error!(room = %self.name, "the policies stay as they are: {e}"),
        }
        let source = live.config.schema_of(&self.name);
        if *source != self.schema_source {
            self.schema_source = source.clone();
            self.schema_file = SchemaFile::of(source);
        }
        if let Err(e) = self.note_schema() {
            tracing::error!(room = %self.name, "{e}");
        }
        // A schema file is looked at, too.
        self.schema_polled = self.schema_polled.checked_sub(SCHEMA_POLL).unwrap_or(self.schema_polled);
        true
    }

    /// Follows the schema file; whether it has changed.
    fn migrate(&mut self) -> Result<bool, String> {
        let Some(file) = &mut self.schema_file else { return Ok(false) };
        let Some(text) = file.changed().map_err(|e| e.to_string())? else { return Ok(false) };
        schema::apply(&self.replica, &text)?;
        self.note_schema().map_err(|e| e.to_string())?;
        tracing::info!(room = %self.name, "the schema follows its file");
        Ok(true)
    }

    /// Tells everybody what is new.
    pub fn advance(&mut self) {
        if let Err(e) = self.publish() {
            tracing::error!(room = %self.name, "{e}");
        }
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.replica.watch_again()?;
        let version = self.replica.position()?.0;
        if self.schema_version()? != self.schema_version {
            self.note_schema()?;
        }
        let told = self.shared.head.borrow().clone();
        let horizon = self.replica.horizon()?;
        let horizon = if horizon == *told.horizon { told.horizon.clone() } else { Arc::new(horizon) };
        let same = Arc::ptr_eq(&told.schema, &self.schema) && Arc::ptr_eq(&told.horizon, &horizon);
        if version == told.version && told.vector_hash != 0 && same {
            return Ok(());
        }
        if self.shared.has_clients() && version > told.version {
            let made = self.replica.tail_cut(Position(told.version), u64::MAX)?;
            if let Some(cut) = made {
                let only = only_site(&cut);
                self.shared.tail().push(told.version, made_cut(cut), only);
            }
        }
        let vector_hash = vector_hash(&self.replica.vector()?);
        self.shared.head.send_replace(Head { version, vector_hash, schema: self.schema.clone(), horizon });
        Ok(())
    }

    fn schema_version(&self) -> Result<i64, Error> {
        let mut q = self.replica.connection().prepare_cached("PRAGMA schema_version")?;
        Ok(q.query_row([], |r| r.get(0))?)
    }

    fn note_schema(&mut self) -> Result<(), Error> {
        self.schema_version = self.schema_version()?;
        self.schema = Arc::from(self.replica.schema()?);
        for table in schema::tables(self.replica.connection())? {
            let columns = schema::columns(self.replica.connection(), &table)?;
            if let Err(e) = self.policies.check_columns(&table, &columns) {
                tracing::error!(room = %self.name, "nothing can be written that this policy is about: {e}");
            }
        }
        Ok(())
    }

    /// Writes what is only in memory.
    pub fn flush(&mut self) {
        let acknowledged = self.shared.acknowledged().drain().collect();
        if let Err(e) = self.members.flush(&self.replica, acknowledged) {
            tracing::error!(room = %self.name, "what is known of the replicas could not be written: {e}");
        }
    }

    /// Collects once in a while.
    fn collect_if_due(&mut self) {
        let limits = &self.common.config.limits;
        let every_ms = u64::from(limits.collect_h) * 3_600_000;
        let days = u64::from(limits.replica_days);
        if every_ms == 0 || self.members.collected_ms + every_ms > crate::app::now_ms() {
            return;
        }
        if let Err(e) = self.members.note_collected(self.replica.connection()) {
            tracing::error!(room = %self.name, "{e}");
        }
        // What was acknowledged and is only in memory counts, too.
        self.flush();
        if let Err(e) = self.collect(days * 86_400_000) {
            tracing::error!(room = %self.name, "nothing was collected: {e}");
        }
    }

    /// Forgets what all replicas have acknowledged that were there in the last time.
    pub fn collect(&mut self, last_ms: u64) -> Result<(), Error> {
        // Somebody pulls changes by a cursor of its own, of which no vector tells.
        if self.replica.exchanged_row_wise()? {
            return Ok(());
        }
        let since = i64::try_from(crate::app::now_ms().saturating_sub(last_ms)).unwrap_or(i64::MAX);
        let Some(horizon) = self.replica.acknowledged(since)? else { return Ok(()) };
        let collected = self.replica.collect(&horizon)?;
        self.members.forget_voids(self.replica.connection(), &horizon)?;
        tracing::info!(room = %self.name, tombstones = collected.tombstones, log_rows = collected.log_rows, "collected");
        self.publish()
    }

    pub fn close(mut self) {
        self.flush();
    }
}

/// It is the client's fault, and nothing that connecting again would mend.
fn malformed(e: &Error) -> bool {
    use Error::{BadArgument, BadChange, Changeset, Poison, TooLarge};
    matches!(e, BadArgument { .. } | BadChange { .. } | Changeset { .. } | Poison { .. } | TooLarge { .. })
}

fn made_cut(cut: rejoin::Cut) -> MadeCut {
    MadeCut {
        bytes: cut.bytes.into(),
        transactions: cut.transactions,
        brings: cut.brings,
        upto: cut.upto.0,
        more: false,
        rows: false,
    }
}

/// The site that needs nothing of it: that of everything, if it is one.
fn only_site(cut: &rejoin::Cut) -> Option<Id> {
    let mut sites = cut.brings.iter().map(|(site, _)| site.0);
    sites.next().filter(|_| sites.next().is_none() && !cut.horizon)
}
