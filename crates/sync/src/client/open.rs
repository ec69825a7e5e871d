//! An open connection: cuts in both directions, acknowledgements, rejections, heartbeats.

use super::{Facts, NotApplied, Reply, Request};
use crate::state::State;
use crate::transfer::{Arrived, Defaults, Incoming, MadeCut, Outgoing, Remains};
use crate::{Relation, fault};
use rejoin_crdt::SiteId;
use rejoin_crdt::limits::VERSION_MAX;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::{
    Bytes, Code, Fault, Frame, Refused, Reject, Rejection, Retry, RowName, Welcome, WireVector, vector_hash,
};
use std::collections::VecDeque;

/// How long a cut waits that the server put off.
const PUT_OFF_MS: u64 = 5_000;

/// After so many gaps in a row something else is wrong than a lost cut.
const GAPS_MAX: u32 = 3;

/// What the session is to do after a reply.
pub(super) enum Next {
    Stay,
    /// `clock`: because something came from the future.
    Reconnect {
        why: String,
        clock: bool,
    },
    StartOver,
}

/// A rejection on its way into the database.
#[derive(Debug)]
struct Rejected {
    rejections: Vec<Rejection>,
    rows: Vec<Vec<u8>>,
    /// More rows are asked for.
    waiting: bool,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) welcome: Welcome,
    relation: Relation,
    /// The server's schema, and ours, as they were told last.
    schema: Vec<u8>,
    ours: Vec<u8>,
    compare: bool,
    /// What the server holds, as far as it has said.
    pub(super) theirs: VersionVector,
    outgoing: Outgoing,
    incoming: Incoming,
    applying: Option<u64>,
    /// All that the server has said that it holds is here.
    caught_up: bool,
    /// There may be something to send.
    dirty: bool,
    resume: Option<([u8; 16], u64)>,
    rejected: Option<Rejected>,
    /// What of other sites the server does not take from here, and why: it is not relayed over this connection.
    withheld: VersionVector,
    withheld_why: String,
    /// Rows that the server was asked for, beside those of a rejection.
    rows_wanted: Vec<RowName>,
    /// What row states were asked for, in order: whether for the rejection.
    asks: VecDeque<bool>,
    /// Why nothing is sent for now, and until when.
    blocked: Option<(String, Option<u64>)>,
    acknowledge: bool,
    /// Cuts in a row, of either direction, that built on what was not there.
    gaps: u32,
    /// Frames that come of looking for the next request.
    said: Vec<Frame>,
    sent_ms: u64,
    heard_ms: u64,
    /// When something last went on, heartbeats aside.
    moved_ms: u64,
    /// Heartbeats in a row in which both sides were at rest and did not hold the same.
    unlike: u32,
}

impl Open {
    pub(super) fn new(
        mut welcome: Welcome,
        cut_bytes_max: u64,
        remains: Option<Remains>,
        now_ms: u64,
    ) -> Open {
        Open {
            relation: Relation::Same,
            theirs: std::mem::take(&mut welcome.vector.0),
            schema: welcome.schema.0.clone(),
            ours: Vec::new(),
            compare: false,
            outgoing: Outgoing::new(welcome.credit),
            incoming: Incoming::new(cut_bytes_max, remains),
            applying: None,
            caught_up: false,
            dirty: true,
            resume: welcome.resume,
            rejected: None,
            withheld: VersionVector::new(),
            withheld_why: String::new(),
            rows_wanted: Vec::new(),
            asks: VecDeque::new(),
            blocked: None,
            acknowledge: false,
            gaps: 0,
            said: Vec::new(),
            sent_ms: now_ms,
            heard_ms: now_ms,
            moved_ms: now_ms,
            unlike: 0,
            welcome,
        }
    }

    /// From here on the storage works for what flows.
    pub(super) fn settled(&mut self, relation: Relation, facts: &Facts) {
        self.relation = relation;
        self.ours.clone_from(&facts.schema);
        self.caught_up = facts.vector.covers(&self.theirs);
    }

    pub(super) fn remains(&mut self) -> Option<Remains> {
        self.incoming.remains()
    }

    pub(super) fn take_said(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.said)
    }

    fn heartbeat_ms(&self) -> u64 {
        u64::from(self.welcome.heartbeat_ms.max(100))
    }

    pub(super) fn wake_at(&self) -> u64 {
        let beat = self.sent_ms + self.heartbeat_ms();
        let silence = self.heard_ms + self.heartbeat_ms() * Defaults::SILENCE;
        let blocked = self.blocked.as_ref().and_then(|b| b.1).unwrap_or(u64::MAX);
        let stall = self.moved_ms + self.heartbeat_ms() * Defaults::STALL;
        let stall = if self.awaits_server() { stall } else { u64::MAX };
        beat.min(silence).min(blocked).min(stall)
    }

    /// The next step is the server's.
    fn awaits_server(&self) -> bool {
        let waiting = self.rejected.as_ref().map_or(!self.rows_wanted.is_empty(), |r| r.waiting);
        let sending = !self.outgoing.is_idle() && self.rejected.is_none();
        self.applying.is_none() && (waiting || sending || !self.incoming.is_idle() || !self.caught_up)
    }

    fn at_rest(&self) -> bool {
        self.outgoing.is_idle()
            && self.incoming.is_idle()
            && self.applying.is_none()
            && self.rejected.is_none()
            && !self.dirty
    }

    pub(super) fn tick(&mut self, facts: &Facts, now_ms: u64, out: &mut Vec<Frame>) -> Result<(), Fault> {
        if self.heard_ms + self.heartbeat_ms() * Defaults::SILENCE <= now_ms {
            return Err(fault(Code::Silent, "the server has said nothing for too long"));
        }
        if self.awaits_server() && self.moved_ms + self.heartbeat_ms() * Defaults::STALL <= now_ms {
            return Err(fault(Code::Silent, "the server does not go on with what is under way"));
        }
        if self.blocked.as_ref().is_some_and(|b| b.1.is_some_and(|at| at <= now_ms)) {
            self.blocked = None;
            self.dirty = true;
        }
        if self.sent_ms + self.heartbeat_ms() <= now_ms {
            let hash = self.at_rest().then(|| vector_hash(&facts.vector));
            out.push(Frame::Ping(now_ms, hash));
        }
        if !out.is_empty() {
            self.sent_ms = now_ms;
        }
        Ok(())
    }

    pub(super) fn frame(
        &mut self,
        frame: Frame,
        facts: &Facts,
        now_ms: u64,
        out: &mut Vec<Frame>,
    ) -> Result<(), Fault> {
        self.heard_ms = now_ms;
        if !matches!(frame, Frame::Ping(..) | Frame::Pong(..)) {
            self.moved_ms = now_ms;
        }
        match frame {
            Frame::Cut(head) => {
                self.incoming.cut(head)?;
            }
            Frame::Data(data) => self.incoming.data(data)?,
            Frame::Credit(bytes) => self.outgoing.credit(bytes, out),
            Frame::Ack(cut) => {
                let acked = self.outgoing.acked(cut)?;
                self.theirs.merge(&acked.brings);
                self.acknowledge = true;
                self.blocked = None;
                self.gaps = 0;
            }
            Frame::Refused(refused) => self.refused(refused, now_ms)?,
            Frame::Reject(reject) => self.reject(reject, facts)?,
            Frame::Ping(time_ms, hash) => {
                out.push(Frame::Pong(time_ms, now_ms));
                self.unlike(hash, facts, out)?;
            }
            Frame::Pong(..) => {}
            Frame::TokenTaken(until) => self.welcome.expires_ms = until,
            Frame::Vector(vector) => {
                self.theirs = vector.0;
                self.dirty = true;
            }
            Frame::Schema(Bytes(schema)) => (self.schema, self.compare) = (schema, true),
            Frame::Horizon(horizon) => self.welcome.horizon = horizon,
            _ => return Err(fault(Code::Protocol, "a frame out of turn")),
        }
        if let Some(credit) = self.incoming.credit() {
            out.push(Frame::Credit(credit));
        }
        if !out.is_empty() {
            self.sent_ms = now_ms;
        }
        Ok(())
    }

    /// Both sides at rest, and the vectors differ: somebody has lost something. Not at the first time, as a commit may be
    /// under way. Then ours is told, for which the server makes a cut; and if that was not it, the next greeting tells
    /// what the server lacks.
    fn unlike(&mut self, hash: Option<u64>, facts: &Facts, out: &mut Vec<Frame>) -> Result<(), Fault> {
        let differs = hash.is_some_and(|h| h != vector_hash(&facts.vector)) && self.at_rest();
        self.unlike = if differs { self.unlike + 1 } else { 0 };
        match self.unlike {
            2 => out.push(Frame::Vector(WireVector(facts.vector.clone()))),
            4 if self.pending(facts, false) == 0 => {
                return Err(fault(Code::Gap, "the two sides do not hold the same"));
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&mut self, refused: Refused, now_ms: u64) -> Result<(), Fault> {
        self.outgoing.refused(refused.cut)?;
        self.theirs = refused.vector.0;
        self.dirty = true;
        if matches!(refused.code, Code::Fork | Code::Clock) {
            // The next greeting settles that.
            return Err(fault(refused.code, refused.message));
        }
        self.blocked = match refused.code.retry() {
            Retry::Now if self.gaps < GAPS_MAX => {
                self.gaps += 1;
                None
            }
            Retry::Now => Some((refused.message, Some(now_ms + PUT_OFF_MS))),
            // Its schema may have changed while the refusal was on its way, and nothing more will come of that.
            Retry::Later if refused.code == Code::Ahead && self.is_ahead() => Some((refused.message, None)),
            Retry::Later => Some((refused.message, Some(now_ms + PUT_OFF_MS))),
            Retry::Never => return Err(fault(refused.code, refused.message)),
        };
        Ok(())
    }

    /// By the schemas as they were told last, or while they are compared, the server lacks something of ours.
    fn is_ahead(&self) -> bool {
        self.compare || matches!(self.relation, Relation::Ahead(_) | Relation::Diverged(_))
    }

    /// Own transactions are taken back. Those of others are not this replica's to take back: they, and what came after them
    /// there, are no longer relayed.
    fn reject(&mut self, reject: Reject, facts: &Facts) -> Result<(), Fault> {
        self.outgoing.refused(reject.cut)?;
        if self.rejected.is_some() || reject.rejections.is_empty() {
            return Err(fault(Code::Protocol, "a rejection out of turn"));
        }
        let mine = |r: &Rejection| facts.mine.contains(&r.site);
        let (rejections, foreign): (Vec<_>, Vec<_>) = reject.rejections.into_iter().partition(mine);
        for r in foreign {
            if !(1..=VERSION_MAX as u64).contains(&r.version) {
                return Err(fault(Code::Protocol, "a rejection of a version that cannot be"));
            }
            self.withheld.insert_range(SiteId(r.site), r.version..=VERSION_MAX as u64);
            self.withheld_why = r.message;
        }
        self.dirty = true;
        if !rejections.is_empty() {
            self.rejected = Some(Rejected { rejections, rows: Vec::new(), waiting: false });
        }
        Ok(())
    }

    /// Row states go to those who asked, in the order in which they did.
    fn arrived_rows(&mut self, rows: Vec<u8>) -> Option<Request> {
        match (self.asks.pop_front()?, &mut self.rejected) {
            (true, Some(rejected)) => {
                rejected.rows.push(rows);
                rejected.waiting = false;
                None
            }
            (true, None) => None,
            (false, _) => Some(Request::MergeRows(rows)),
        }
    }

    /// The next thing to ask of the storage.
    pub(super) fn request(&mut self, facts: &Facts) -> Option<Request> {
        if self.compare {
            self.compare = false;
            return Some(Request::Compare { schema: self.schema.clone(), version: None, server: None });
        }
        if let Some(rejected) = self.rejected.as_ref().filter(|r| !r.waiting) {
            let (rejections, rows) = (rejected.rejections.clone(), rejected.rows.clone());
            return Some(Request::Adopt { rejections, rows });
        }
        if let Some(Arrived { cut, bytes, rows, .. }) = self.incoming.take() {
            if rows {
                self.said.push(Frame::Ack(cut));
                return self.arrived_rows(bytes).or_else(|| self.request(facts));
            }
            self.applying = Some(cut);
            return Some(Request::Apply(bytes));
        }
        if self.rejected.is_none() && self.rows_wanted.is_empty() && self.can_tell(facts) {
            self.rows_wanted.clone_from(&facts.wanted);
            self.asks.push_back(false);
            self.said.push(Frame::RowsWanted(facts.wanted.clone()));
        }
        if self.rejected.is_some() || !self.rows_wanted.is_empty() {
            // What is written here meanwhile waits.
            return None;
        }
        if self.acknowledge && self.outgoing.is_idle() {
            self.acknowledge = false;
            return Some(Request::Acknowledge(self.theirs.clone()));
        }
        let may_send = self.blocked.is_none() && !self.welcome.grants.read_only && self.outgoing.has_room();
        if !self.dirty || !may_send {
            return None;
        }
        let mut theirs = self.theirs.clone();
        theirs.merge(&self.outgoing.brings());
        let own_only = !self.welcome.grants.relay;
        let mut taken = theirs.clone();
        taken.merge(&self.withheld);
        if count_missing(facts, &taken, own_only) == 0 {
            self.dirty = false;
            return None;
        }
        let (without, bytes_max) = (self.withheld.clone(), self.welcome.limits.cut_bytes);
        Some(Request::MakeCut { theirs, own_only, without, bytes_max })
    }

    pub(super) fn reply(
        &mut self,
        reply: Reply,
        facts: &Facts,
        now_ms: u64,
        out: &mut Vec<Frame>,
    ) -> Result<Next, Fault> {
        self.moved_ms = now_ms;
        match reply {
            Reply::Described(_) => self.described(facts, out),
            Reply::Compared { relation: Relation::Incompatible(what), .. } => {
                return Err(fault(Code::IncompatibleSchema, what));
            }
            Reply::Compared { relation, .. } => {
                self.relation = relation;
                self.blocked = None;
                self.dirty = true;
            }
            Reply::Made(Some(made)) => self.send_cut(made, out),
            Reply::Made(None) => self.dirty = false,
            Reply::Applied { holds, .. } => {
                self.theirs.merge(&holds);
                if let Some(cut) = self.applying.take() {
                    out.push(Frame::Ack(cut));
                }
                // Not by the cut's word that more is to come: that may be what this side has sent itself.
                self.caught_up = facts.vector.covers(&self.theirs);
                self.gaps = 0;
            }
            Reply::NotApplied { why, .. } => return self.not_applied(why, facts, out),
            Reply::Adopted { voids, wanted, .. } if wanted.is_empty() => {
                self.rejected = None;
                self.dirty = true;
                out.push(Frame::Adopted(voids));
            }
            Reply::Adopted { wanted, .. } => {
                if let Some(rejected) = &mut self.rejected {
                    rejected.waiting = true;
                }
                self.asks.push_back(true);
                out.push(Frame::RowsWanted(wanted));
            }
            Reply::Merged(_) => {
                self.dirty = true;
                if std::mem::take(&mut self.rows_wanted) == facts.wanted && self.can_tell(facts) {
                    return Err(fault(Code::Gap, "the server's answer does not settle the rows asked for"));
                }
            }
            Reply::Acknowledged(_) | Reply::Prepared(_) | Reply::StartedOver(_) => {}
            Reply::Failed(_) | Reply::Impossible(_) => {}
        }
        if let Some(credit) = self.incoming.credit() {
            out.push(Frame::Credit(credit));
        }
        if !out.is_empty() {
            self.sent_ms = now_ms;
        }
        Ok(Next::Stay)
    }

    fn described(&mut self, facts: &Facts, out: &mut Vec<Frame>) {
        self.dirty = true;
        if facts.schema != self.ours {
            self.ours.clone_from(&facts.schema);
            self.compare = true;
            out.push(Frame::Schema(Bytes(facts.schema.clone())));
        }
    }

    fn send_cut(&mut self, made: MadeCut, out: &mut Vec<Frame>) {
        if !made.more {
            self.dirty = false;
        }
        let resume = self.resume.take();
        self.outgoing.begin(made, resume, out);
    }

    fn not_applied(&mut self, why: NotApplied, facts: &Facts, out: &mut Vec<Frame>) -> Result<Next, Fault> {
        let cut = self.applying.take().unwrap_or_default();
        match why {
            NotApplied::Gap(message) if self.gaps >= GAPS_MAX => Err(fault(Code::Gap, message)),
            NotApplied::Gap(message) => {
                self.gaps += 1;
                // The server has what is not here.
                self.caught_up = false;
                self.incoming.refuse(cut);
                let vector = WireVector(facts.vector.clone());
                out.push(Frame::Refused(Refused { cut, code: Code::Gap, message, vector }));
                Ok(Next::Stay)
            }
            // A fork of this site has given it a new id by now, and the next greeting settles the rest.
            NotApplied::Fork(why) => Ok(Next::Reconnect { why, clock: false }),
            NotApplied::Clock(why) => Ok(Next::Reconnect { why, clock: true }),
            NotApplied::BelowHorizon(_) | NotApplied::OtherHistory(_) => Ok(Next::StartOver),
            NotApplied::OtherLineage(message) => Err(fault(Code::OtherLineage, message)),
            NotApplied::Bad(message) => Err(fault(Code::Malformed, message)),
        }
    }

    pub(super) fn pending(&self, facts: &Facts, own_only: bool) -> u64 {
        count_missing(facts, &self.theirs, own_only)
    }

    /// Rows are wanted, and the server can tell their state: what it says of them replaces what was lost here only if it
    /// holds all that is held here of others. What it lacks of those is handed in first, or waited for.
    fn can_tell(&self, facts: &Facts) -> bool {
        let own = SiteId(facts.site);
        let lacks = || facts.vector.missing_from(&self.theirs);
        !facts.wanted.is_empty() && lacks().iter().all(|(site, _)| *site == own)
    }

    /// All that can be exchanged now is exchanged.
    pub(super) fn is_settled(&self) -> bool {
        let put_off = self.blocked.as_ref().is_some_and(|b| b.1.is_some());
        let stuck = self.blocked.is_some() || self.welcome.grants.read_only;
        let quiet = self.outgoing.is_idle() && self.incoming.is_idle() && self.applying.is_none();
        let done =
            self.rejected.is_none() && self.rows_wanted.is_empty() && !self.compare && !self.acknowledge;
        quiet && done && self.caught_up && !put_off && (stuck || !self.dirty)
    }

    pub(super) fn state(&self, facts: &Facts) -> State {
        let (pending, all) = (self.pending(facts, true), self.pending(facts, false));
        if facts.rejected > 0 {
            let reason = facts.rejected_reason.clone();
            return State::Rejected { pending, transactions: facts.rejected, reason };
        }
        if let Some((reason, _)) = &self.blocked {
            return State::Behind { pending, reason: reason.clone() };
        }
        let busy = !self.outgoing.is_idle() || !self.incoming.is_idle() || self.applying.is_some();
        let bytes = self.outgoing.bytes_left() + self.incoming.bytes_left();
        if pending > 0 && self.welcome.grants.read_only {
            let reason = "the token allows reading only".to_owned();
            return State::Behind { pending, reason };
        }
        if pending > 0 || busy || !self.caught_up || self.rejected.is_some() || self.can_tell(facts) {
            return State::Syncing { pending, bytes };
        }
        match &self.relation {
            Relation::Ahead(what) | Relation::Behind(what) | Relation::Diverged(what) => {
                return State::Behind { pending, reason: what.clone() };
            }
            Relation::Same | Relation::Incompatible(_) => {}
        }
        if all > 0 && !self.withheld.is_empty() {
            let why = &self.withheld_why;
            let reason = format!(
                "the server lacks {all} transactions of other replicas, and does not take them from here: {why}"
            );
            return State::Behind { pending, reason };
        }
        if all > 0 {
            let reason = format!(
                "the server lacks {all} transactions of other replicas; those, or a client with the claim `relay`, \
                 can hand them in"
            );
            return State::Behind { pending, reason };
        }
        if self.unlike > 1 {
            return State::Syncing { pending, bytes };
        }
        State::Synced
    }
}

/// Transactions of this replica, or all, that one who holds `theirs` lacks.
pub(super) fn count_missing(facts: &Facts, theirs: &VersionVector, own_only: bool) -> u64 {
    let missing = facts.vector.missing_from(theirs);
    let counts = |id: &rejoin_crdt::SiteId| !own_only || facts.mine.contains(&id.0);
    let of = |r: &rejoin_crdt::vector::Ranges| r.iter().map(|r| r.end() - r.start() + 1).sum::<u64>();
    missing.iter().filter(|(id, _)| counts(id)).map(|(_, r)| of(r)).sum()
}
