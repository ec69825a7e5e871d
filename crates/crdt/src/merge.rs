//! The decisions of a merge, as functions of values (rules 3.1 to 3.3 of the design).
//!
//! A change meets the local row in this order: [`causal`] compares the causal lengths; only when they are the
//! same do the cells decide, by version ([`by_version`]) and on a tie by value ([`by_value`]). Each decision
//! is a comparison in a total order, so applying changes in any order and grouping, and again, ends in the
//! same row: the property tests below prove it over whole rows.

use crate::site::SiteId;
use crate::value::ValueRef;
use std::cmp::Ordering;

/// What the causal length of an incoming change means for the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Causal {
    /// Of an older life: ignored.
    Stale,
    /// Of this life: cells decide; a sentinel changes at most its stamp ([`sentinel`]).
    Same,
    /// The row dies; its cells are forgotten.
    Delete,
    /// The first life of a row that is unknown here; needs no sentinel.
    Create,
    /// A later life begins (also of a row unknown here): cells of older lives and their sentinel are forgotten.
    /// Only a sentinel stores a sentinel; a cell that comes first leaves the row without one.
    Resurrect,
}

/// `local_cl` 0 is an unknown row.
#[inline]
pub fn causal(local_cl: u32, incoming_cl: u32) -> Causal {
    match incoming_cl.cmp(&local_cl) {
        Ordering::Less => Causal::Stale,
        Ordering::Equal => Causal::Same,
        Ordering::Greater if incoming_cl & 1 == 0 => Causal::Delete,
        Ordering::Greater if incoming_cl == 1 => Causal::Create,
        Ordering::Greater => Causal::Resurrect,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The local cell stays.
    Lose,
    /// Value and stamp of the incoming change are stored.
    Win,
    /// The value stays, the stamp of the incoming change is stored (merge-equal-values).
    TakeStamp,
}

/// None is a tie: the values decide. `local` None is an unwritten cell, which loses to every written one.
#[inline]
pub fn by_version(local: Option<i64>, incoming: i64) -> Option<Verdict> {
    match local {
        None => Some(Verdict::Win),
        Some(local) if incoming > local => Some(Verdict::Win),
        Some(local) if incoming < local => Some(Verdict::Lose),
        Some(_) => None,
    }
}

/// The decision between two cells of one version.
#[inline]
pub fn by_value(
    local: ValueRef<'_>,
    local_site: &SiteId,
    incoming: ValueRef<'_>,
    incoming_site: &SiteId,
    merge_equal_values: bool,
) -> Verdict {
    match incoming.cmp_merge(local) {
        Ordering::Greater => Verdict::Win,
        Ordering::Less => Verdict::Lose,
        Ordering::Equal if merge_equal_values && incoming_site > local_site => Verdict::TakeStamp,
        Ordering::Equal => Verdict::Lose,
    }
}

/// What decides between two sentinels: the spelling of the key (its packed form) and the site that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentinelRef<'a> {
    pub key: &'a [u8],
    pub site: &'a SiteId,
}

/// The decision between two sentinels of one causal length. No sentinel (`local` None) loses to any; the smaller
/// spelling wins, so that every replica shows the same one; the rest is the rule of equal values.
#[inline]
pub fn sentinel(
    local: Option<SentinelRef<'_>>,
    incoming: SentinelRef<'_>,
    merge_equal_values: bool,
) -> Verdict {
    let Some(local) = local else {
        return Verdict::Win;
    };
    match incoming.key.cmp(local.key) {
        Ordering::Less => Verdict::Win,
        Ordering::Greater => Verdict::Lose,
        Ordering::Equal if merge_equal_values && incoming.site > local.site => Verdict::TakeStamp,
        Ordering::Equal => Verdict::Lose,
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
