//! What the server asks of each transaction of a client before anything of it is taken.

use crate::auth::Grant;
use crate::config::{Limits, Operation};
use crate::members::Members;
use crate::policy::{Policies, RowChange};
use rejoin::{Checker, Op, Refusal, RowFacts, SiteId, TransactionFacts};
use rejoin_wire::frame::Code;
use std::collections::BTreeSet;

const FOREIGN: &str = "foreign-site";
const POLICY: &str = "policy";

/// The code on the wire of a rejection.
pub fn code(word: &str) -> Code {
    match word {
        FOREIGN => Code::ForeignSite,
        POLICY => Code::Policy,
        _ => Code::Constraint,
    }
}

pub struct Check<'a> {
    members: &'a Members,
    policies: &'a Policies,
    grant: &'a Grant,
    limits: &'a Limits,
    /// Sites that nobody has used so far.
    claimed: BTreeSet<SiteId>,
    /// Where the rules stand that were not kept.
    places: Vec<String>,
}

impl<'a> Check<'a> {
    pub fn new(
        members: &'a Members,
        policies: &'a Policies,
        grant: &'a Grant,
        limits: &'a Limits,
    ) -> Check<'a> {
        Check { members, policies, grant, limits, claimed: BTreeSet::new(), places: Vec::new() }
    }

    pub fn finish(self) -> (BTreeSet<SiteId>, Vec<String>) {
        (self.claimed, self.places)
    }

    /// A site is its subject's; nobody's is the first one's.
    fn owns(&mut self, site: SiteId) -> Result<(), Refusal> {
        match self.members.subject_of(&site.0) {
            Some(subject) if subject == self.grant.subject => Ok(()),
            _ if self.grant.relay => Ok(()),
            Some(_) => {
                Err(foreign(format!("site {site} belongs to another subject, and the token does not relay")))
            }
            None => {
                self.claimed.insert(site);
                let sites = self.members.sites_of(&self.grant.subject) + self.claimed.len();
                if sites > self.limits.sites_per_subject as usize {
                    return Err(foreign(format!(
                        "the subject has its {} sites",
                        self.limits.sites_per_subject
                    )));
                }
                Ok(())
            }
        }
    }
}

fn foreign(reason: String) -> Refusal {
    Refusal { code: FOREIGN.into(), reason }
}

impl Checker for Check<'_> {
    fn bytes_max(&self) -> usize {
        // Compressed bytes stand for more, but not for any number.
        usize::try_from(self.limits.cut_bytes.saturating_mul(8)).unwrap_or(usize::MAX).min(1 << 30)
    }

    fn items_max(&self) -> u64 {
        self.limits.cut_rows
    }

    fn transaction(&mut self, transaction: &TransactionFacts) -> Result<(), Refusal> {
        self.owns(transaction.site)
    }

    fn empty(&mut self, site: SiteId, _from: u64, _to: u64) -> Result<(), Refusal> {
        self.owns(site)
    }

    fn looks_at(&mut self, table: &str) -> bool {
        self.policies.is_about(table)
    }

    fn row(&mut self, row: &RowFacts<'_>) -> Result<(), Refusal> {
        let operation = match row.op {
            Op::Insert => Operation::Insert,
            Op::Update => Operation::Update,
            Op::Delete => Operation::Delete,
        };
        let change =
            RowChange { table: row.table, operation, columns: row.columns, old: row.old, new: row.new };
        self.policies.check(&change, &self.grant.claims).map_err(|violation| {
            self.places.push(violation.place);
            Refusal { code: POLICY.into(), reason: violation.message }
        })
    }

    fn foreign(&mut self, _transaction: &TransactionFacts, author: SiteId) -> Result<(), Refusal> {
        self.owns(author)
    }
}
