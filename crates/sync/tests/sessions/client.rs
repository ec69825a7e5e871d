//! The client's driver of the simulation: a machine, its store, and what a person would look at.

use crate::store::{Bundle, Refusal, Store};
use crate::world::Dice;
use rejoin_crdt::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sync::client::{Client, Config, Facts, NotApplied, Reply, Request, Step};
use rejoin_sync::{MadeCut, Relation, State};

pub struct Node {
    pub machine: Client,
    pub store: Store,
    /// The request under way; a restart forgets it.
    pub asked: Option<Request>,
    pub life: u64,
    pub state: State,
    /// The live connection.
    pub conn: Option<u64>,
    /// What the server held when it let this connection in.
    pub promised: VersionVector,
    /// This machine's clock less the true one.
    pub skew_ms: i64,
    pub schema: Vec<u8>,
    /// A row of the server's is wanted.
    pub wanted: bool,
}

impl Node {
    pub fn new(store: Store, seed: u64, skew_ms: i64) -> Node {
        Node {
            machine: Client::new(Config { seed, ..Config::default() }),
            store,
            asked: None,
            life: 0,
            state: State::Connecting,
            conn: None,
            promised: VersionVector::new(),
            skew_ms,
            schema: b"1".to_vec(),
            wanted: false,
        }
    }

    pub fn clock(&self, true_ms: u64) -> u64 {
        true_ms.saturating_add_signed(self.skew_ms)
    }

    fn facts(&self) -> Box<Facts> {
        Box::new(Facts {
            site: self.store.site,
            mine: self.store.mine.clone(),
            lineage: self.store.lineage,
            schema: self.schema.clone(),
            vector: self.store.vector(),
            head: self.store.head(),
            clock_ms: self.store.latest_ms(),
            horizon: VersionVector::new(),
            acknowledged: self.store.acknowledged.clone(),
            clock_offset_ms: self.store.clock_offset_ms,
            rejected: self.store.rejected,
            rejected_reason: "unlucky".into(),
            wanted: if self.wanted { vec![crate::world::row_name()] } else { Vec::new() },
        })
    }

    /// Carries out a request, as a storage would in one transaction.
    pub fn serve(&mut self, request: Request, now_ms: u64, dice: &mut Dice) -> Reply {
        if dice.one_in(200) {
            return Reply::Failed("disk full".into());
        }
        match request {
            Request::Describe => Reply::Described(self.facts()),
            Request::Compare { schema, version, server } => Reply::Compared {
                relation: relation(&self.schema, &schema),
                chain: version.and_then(|v| Some(self.store.transactions.get(&(self.store.site, v))?.chain)),
                server: server.and_then(|at| Some(self.store.transactions.get(&at)?.chain)),
            },
            Request::Prepare(steps) => {
                steps.into_iter().for_each(|step| self.step(step, now_ms, dice));
                self.wanted = dice.one_in(3);
                Reply::Prepared(self.facts())
            }
            Request::MakeCut { theirs, own_only, .. } => {
                Reply::Made(self.store.cut(&theirs, own_only, dice.padding()).map(made))
            }
            Request::Apply(bytes) => self.apply(&bytes, dice),
            Request::Adopt { rejections, rows } => {
                if rows.is_empty() && dice.one_in(2) {
                    let wanted = vec![crate::world::row_name()];
                    return Reply::Adopted { voids: Vec::new(), wanted, facts: self.facts() };
                }
                let voids = rejections.iter().filter_map(|r| self.store.void(r.version)).collect();
                Reply::Adopted { voids, wanted: Vec::new(), facts: self.facts() }
            }
            Request::MergeRows(_) => {
                assert!(std::mem::take(&mut self.wanted), "rows that nobody asked for");
                Reply::Merged(self.facts())
            }
            Request::Acknowledge(vector) => {
                self.store.acknowledged = vector.clone();
                Reply::Acknowledged(vector)
            }
            // Nothing is collected here, and no room writes: only a damaged frame makes a client ask.
            Request::StartOver => Reply::Failed("there is no snapshot".into()),
        }
    }

    fn step(&mut self, step: Step, now_ms: u64, dice: &mut Dice) {
        match step {
            Step::TakeLineage(lineage) => self.store.lineage = Some(lineage),
            Step::NewSite(common) => self.store.give_way(common, dice.id()),
            Step::GiveWay(common) => self.store.give_way(common, dice.id()),
            Step::Restamp { acknowledged, offset_ms } => {
                self.store.restamp(&acknowledged, offset_ms, now_ms);
            }
            Step::Remember { vector, .. } => self.store.acknowledged = vector,
        }
    }

    fn apply(&mut self, bytes: &[u8], dice: &mut Dice) -> Reply {
        let Some(bundle) = Bundle::decode(bytes) else {
            return Reply::NotApplied { why: NotApplied::Bad("no bundle".into()), facts: self.facts() };
        };
        let why = match self.store.check(&bundle) {
            Ok(()) if dice.gap() => NotApplied::Gap("made up".into()),
            Ok(()) => {
                let holds = bundle.holds();
                self.store.apply(bundle);
                return Reply::Applied { holds, facts: self.facts() };
            }
            Err(Refusal::Gap) => NotApplied::Gap("missing".into()),
            Err(Refusal::Fork(site)) => {
                if site == self.store.site {
                    let known = self.store.acknowledged.max(&SiteId(site));
                    self.store.give_way(known, dice.id());
                }
                NotApplied::Fork("two histories".into())
            }
        };
        Reply::NotApplied { why, facts: self.facts() }
    }
}

pub fn made((bundle, brings): (Bundle, VersionVector)) -> MadeCut {
    let transactions = bundle.transactions.len() as u64;
    MadeCut { bytes: bundle.encode().into(), transactions, brings, upto: 0, more: false, rows: false }
}

/// Schemas are numbers here; a larger one has all that a smaller one has.
pub fn relation(ours: &[u8], theirs: &[u8]) -> Relation {
    match ours.cmp(theirs) {
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Less => Relation::Behind("columns are missing here".into()),
        std::cmp::Ordering::Greater => Relation::Ahead("columns are missing there".into()),
    }
}
