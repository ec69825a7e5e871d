//! The server's driver of the simulation: one room for all sessions.

use crate::client::made;
use crate::store::{Bundle, DRIFT_MS, Refusal, Store};
use crate::world::Dice;
use rejoin_crdt::vector::VersionVector;
use rejoin_sync::frame::{
    Bytes, Code, Fault, Grants, Hello, Id, Limits, Rejection, Welcome, WireVector, vector_hash,
};
use rejoin_sync::server::{Config, Event, Reader, Reply, Request, Session};

pub struct Room {
    pub store: Store,
    pub relay: bool,
    pub heartbeat_ms: u32,
    /// Transactions that the server does not like are so many in a hundred.
    pub dislikes: u64,
    pub denies: bool,
    /// Frames may have told a wrong time.
    pub damaged: bool,
}

pub struct Line {
    pub session: Session,
    pub asked: Option<Request>,
    pub node: usize,
}

impl Line {
    pub fn new(node: usize, conn: u64, now_ms: u64) -> Line {
        let config = Config { session: conn, ..Config::default() };
        Line { session: Session::new(config, now_ms), asked: None, node }
    }
}

impl Room {
    pub fn advanced(&self) -> Event {
        let vector_hash = vector_hash(&self.store.vector());
        Event::Advanced { version: self.store.order.len() as i64, vector_hash }
    }

    pub fn dislikes(&self, nonce: u64) -> bool {
        nonce % 100 < self.dislikes
    }

    pub fn serve(&mut self, request: Request, site: Id, now_ms: u64, dice: &mut Dice) -> Reply {
        match request {
            Request::Admit(hello) => self.admit(&hello, now_ms, dice),
            Request::Authenticate(_) => Reply::Authenticated(None),
            Request::Compare(_) => Reply::Compared,
            Request::MakeCut { reader, .. } => {
                let order = &self.store.order;
                let upto = order.len() as i64;
                let theirs = match reader {
                    Reader::Vector(theirs) => theirs,
                    Reader::Since(at) => {
                        let new: Vec<_> = order.iter().skip(at as usize).copied().collect();
                        let mut tail = VersionVector::new();
                        new.iter().for_each(|(s, v)| tail.insert(rejoin_crdt::SiteId(*s), *v));
                        self.store.vector().missing_from(&tail)
                    }
                };
                let cut = self.store.cut(&theirs, false, dice.padding()).map(made);
                Reply::Made {
                    cut: cut.map(|c| rejoin_sync::MadeCut { upto, more: upto % 3 == 0, ..c }),
                    upto,
                }
            }
            Request::Apply(bytes) => self.apply(&bytes, site, now_ms, dice),
            Request::Void(voids) => {
                voids.iter().for_each(|v| self.store.record_void(site, v));
                Reply::Voided
            }
            Request::RowStates(_) => Reply::Rows(vec![1; 1 + dice.padding()]),
            Request::Acknowledged { .. } => Reply::Acknowledged,
        }
    }

    fn admit(&mut self, hello: &Hello, now_ms: u64, dice: &mut Dice) -> Reply {
        if self.denies {
            let message = "the token is not good".to_owned();
            return Reply::Denied(Fault { code: Code::Unauthenticated, message, retry_after_ms: None });
        }
        let lineage = self.store.lineage.expect("a room has one");
        if hello.lineage.is_some_and(|theirs| theirs != lineage) {
            let message = "other lineage".to_owned();
            return Reply::Denied(Fault { code: Code::OtherLineage, message, retry_after_ms: None });
        }
        let own = rejoin_crdt::SiteId(self.store.site);
        if hello.vector.0.max(&own) > self.store.vector().max(&own) {
            self.store.take_site(dice.id());
        }
        Reply::Admitted(Box::new(Welcome {
            protocol: 0,
            session: 0,
            time_ms: now_ms,
            site: self.store.site,
            lineage,
            schema: Bytes(b"1".to_vec()),
            vector: WireVector(self.store.vector()),
            yours: self.store.last(hello.site),
            head: self.store.head(),
            horizon: WireVector::default(),
            grants: Grants { relay: self.relay, read_only: false },
            limits: Limits { frame_bytes: 1 << 20, cut_bytes: 0 },
            heartbeat_ms: self.heartbeat_ms,
            expires_ms: None,
            credit: 0,
            resume: None,
        }))
    }

    fn apply(&mut self, bytes: &[u8], site: Id, now_ms: u64, dice: &mut Dice) -> Reply {
        let not = |code, store: &Store| Reply::NotApplied {
            code,
            message: format!("{code:?}"),
            vector: store.vector(),
        };
        let Some(bundle) = Bundle::decode(bytes) else { return not(Code::Malformed, &self.store) };
        match self.store.check(&bundle) {
            Err(Refusal::Gap) => return not(Code::Gap, &self.store),
            Err(Refusal::Fork(_)) => return not(Code::Fork, &self.store),
            Ok(()) if dice.gap() => return not(Code::Gap, &self.store),
            Ok(()) if dice.gap() => return not(Code::Limited, &self.store),
            Ok(()) => {}
        }
        let new = |key: (Id, u64)| !self.store.transactions.contains_key(&key);
        let rejections: Vec<Rejection> = bundle
            .transactions
            .iter()
            .filter(|(s, v, tx)| *s == site && new((*s, *v)) && !tx.void && self.dislikes(tx.nonce))
            .map(|(site, version, _)| Rejection {
                site: *site,
                version: *version,
                code: Code::Policy,
                message: "unlucky".into(),
                table: "t".into(),
                pk: Bytes::default(),
            })
            .collect();
        if !rejections.is_empty() {
            return Reply::Rejected(rejections);
        }
        for (.., tx) in bundle.transactions.iter().filter(|(s, v, tx)| new((*s, *v)) && !tx.void) {
            let right = tx.stamp_ms <= now_ms + DRIFT_MS;
            assert!(right || self.damaged, "a stamp {} ms ahead arrived", tx.stamp_ms - now_ms);
            if !right {
                let message = "a stamp of the future".to_owned();
                return Reply::Denied(Fault { code: Code::Clock, message, retry_after_ms: None });
            }
        }
        self.store.apply(bundle);
        Reply::Applied
    }
}
