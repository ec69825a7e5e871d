//! The beginning of a connection: who are you, what do you hold, what must be settled before anything is merged.

use super::open::Open;
use super::{Client, Config, Facts, Phase, Reply, Request, Settling, Step};
use crate::transfer::Defaults;
use crate::{Relation, fault};
use rejoin_crdt::SiteId;
use rejoin_wire::frame::{Bytes, Code, Frame, Hello, PROTOCOL, PROTOCOL_OLDEST, Welcome, WireVector};

impl Client {
    pub(super) fn greet(&mut self, now_ms: u64) {
        let f = &self.facts;
        let hello = Hello {
            oldest: PROTOCOL_OLDEST,
            newest: PROTOCOL,
            token: self.config.token.clone(),
            site: f.site,
            lineage: f.lineage,
            schema: Bytes(f.schema.clone()),
            vector: WireVector(f.vector.clone()),
            head: f.head,
            horizon: WireVector(f.horizon.clone()),
            credit: Defaults::CREDIT,
            resume: self.remains.as_ref().and_then(|r| r.offer()),
            agent: self.config.agent.clone(),
        };
        self.told_token.clone_from(&self.config.token);
        self.phase = Phase::Greeting { sent_ms: now_ms };
        self.send(&Frame::Hello(hello));
    }

    pub(super) fn welcomed(&mut self, welcome: Welcome, sent_ms: u64, now_ms: u64) {
        if !(PROTOCOL_OLDEST..=PROTOCOL).contains(&welcome.protocol) {
            let message = format!("the server chose protocol version {}", welcome.protocol);
            return self.fail(fault(Code::Version, message), now_ms);
        }
        if self.facts.lineage.is_some_and(|ours| ours != welcome.lineage) {
            let message = "this database and the room have nothing to do with each other (other lineage)";
            return self.fail(fault(Code::OtherLineage, message), now_ms);
        }
        // The server wrote its time about half-way between the two moments.
        let here = sent_ms / 2 + now_ms / 2;
        let offset_ms = i64::try_from(welcome.time_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(here);
        let open = Open::new(welcome, self.config.cut_bytes_max, self.remains.take(), now_ms);
        self.phase = Phase::Settling(Box::new(Settling { open, offset_ms, relation: None, common: None }));
    }

    pub(super) fn settle(&mut self, reply: Reply, now_ms: u64) {
        let Phase::Settling(s) = &mut self.phase else { return };
        match reply {
            Reply::Compared { relation: Relation::Incompatible(what), .. } => {
                self.fail(fault(Code::IncompatibleSchema, what), now_ms);
            }
            Reply::Compared { relation, chain, server } => {
                s.relation = Some(relation);
                s.fork(chain, &self.facts);
                // The room was restored, and has written on under its old numbers: nothing in the vectors tells of that.
                let other_history =
                    s.open.welcome.head.zip(server).is_some_and(|((_, theirs), ours)| theirs != ours);
                // Or it was restored from before what is forgotten here: cuts of neither side would be taken by the other.
                let (theirs, forgotten) = (&s.open.theirs, &self.facts.horizon);
                let below = !theirs.covers(forgotten) && !theirs.common(forgotten).is_empty();
                if other_history || below || !self.facts.vector.covers(&s.open.welcome.horizon.0) {
                    self.start_over();
                }
            }
            Reply::Prepared(_) => {
                let Phase::Settling(s) = std::mem::replace(&mut self.phase, Phase::Stopped) else { return };
                let mut open = s.open;
                open.settled(s.relation.unwrap_or(Relation::Same), &self.facts);
                self.phase = Phase::Open(Box::new(open));
                (self.refused, self.started_over) = (None, false);
                self.renew_token();
            }
            _ => {}
        }
    }
}

impl Settling {
    pub(super) fn request(&self, facts: &Facts, config: &Config) -> Request {
        if self.relation.is_none() {
            let version =
                self.open.welcome.yours.map(|y| y.0).filter(|v| facts.head.is_some_and(|h| *v <= h.0));
            let w = &self.open.welcome;
            let server = w.head.map(|(version, _)| (w.site, version));
            return Request::Compare { schema: w.schema.0.clone(), version, server };
        }
        Request::Prepare(self.steps(facts, config))
    }

    /// Another chain hash at a version that both hold: what came after the last version that was acknowledged is ours.
    fn fork(&mut self, ours: Option<u64>, facts: &Facts) {
        if let (Some((version, theirs)), Some(ours)) = (self.open.welcome.yours, ours)
            && theirs != 0
            && ours != theirs
        {
            let known = facts.acknowledged.max(&SiteId(facts.site));
            self.common = Some(if known < version { known } else { 0 });
        }
    }

    fn steps(&self, facts: &Facts, config: &Config) -> Vec<Step> {
        let w = &self.open.welcome;
        let mut steps = Vec::new();
        if facts.lineage.is_none() {
            steps.push(Step::TakeLineage(w.lineage));
        }
        let head = facts.head.map_or(0, |h| h.0);
        if let Some(common) = self.common {
            steps.push(Step::GiveWay(common));
        } else if w.yours.is_some_and(|(version, _)| version > head) {
            steps.push(Step::NewSite(facts.acknowledged.max(&SiteId(facts.site)).min(head)));
        }
        // The offset that is in the file already counts as this clock's.
        let off = self.offset_ms.saturating_sub(facts.clock_offset_ms);
        // It may have been wrong when something was written, and set right since.
        let unsent = head > w.yours.map_or(0, |y| y.0);
        let ahead = facts.clock_ms.saturating_sub_unsigned(w.time_ms) > config.clock_tolerance_ms;
        if off.saturating_abs() > config.clock_tolerance_ms || (unsent && ahead) {
            // What a restored server has lost others may have, as it is.
            let mut acknowledged = self.open.theirs.clone();
            acknowledged.merge(&facts.acknowledged);
            steps.push(Step::Restamp { acknowledged, offset_ms: self.offset_ms });
        }
        steps.push(Step::Remember {
            server: w.site,
            vector: self.open.theirs.clone(),
            relay: w.grants.relay,
        });
        steps
    }
}
