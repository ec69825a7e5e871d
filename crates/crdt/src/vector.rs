//! Version vectors: for every site, which of its transactions a replica holds, gaps included.
//!
//! Binary form (all numbers are LEB128, at most 10 bytes):
//!
//! ```text
//! number of sites
//! per site, ascending:  16 bytes of id, number of ranges,
//!   per range:          distance of its first version from the last one of the range before (from 0), distance of its last
//!                       version from its first
//! ```
//!
//! Versions count from 1. Decoding takes only what encoding makes: ascending sites, ranges that do not touch,
//! versions within 2^53-1; it allocates no more than the input is long.

use crate::limits::VERSION_MAX;
use crate::site::SiteId;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

const TOP: u64 = VERSION_MAX as u64;

/// Held versions of one site: ascending ranges, both ends held, with at least one version between two of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        self.0.iter().map(|(from, to)| *from..=*to)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn contains(&self, version: u64) -> bool {
        let after = self.0.partition_point(|(_, to)| *to < version);
        self.0.get(after).is_some_and(|(from, _)| *from <= version)
    }

    /// The largest version held, 0 for none.
    #[inline]
    pub fn max(&self) -> u64 {
        self.0.last().map_or(0, |(_, to)| *to)
    }

    /// The largest version up to which all are held.
    pub fn dense(&self) -> u64 {
        self.0.first().filter(|(from, _)| *from <= 1).map_or(0, |(_, to)| *to)
    }

    /// Versions below 1 and above 2^53-1 do not exist and are left out.
    pub fn insert_range(&mut self, versions: RangeInclusive<u64>) {
        let (mut from, mut to) = ((*versions.start()).max(1), (*versions.end()).min(TOP));
        if from > to {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.1 + 1 == from
        {
            last.1 = to;
            return;
        }
        let first = self.0.partition_point(|(_, end)| *end + 1 < from);
        let past = self.0.partition_point(|(start, _)| *start <= to + 1);
        if let Some(touched) = self.0.get(first..past)
            && let (Some(low), Some(high)) = (touched.first(), touched.last())
        {
            from = from.min(low.0);
            to = to.max(high.1);
        }
        self.0.splice(first..past.max(first), [(from, to)]);
    }

    /// What `self` holds and `other` does not.
    pub fn minus(&self, other: &Ranges) -> Ranges {
        let mut out = Vec::new();
        for &(from, to) in &self.0 {
            let mut at = from;
            let first = other.0.partition_point(|(_, end)| *end < from);
            for &(start, end) in other.0.iter().skip(first).take_while(|(start, _)| *start <= to) {
                if start > at {
                    out.push((at, start - 1));
                }
                at = end + 1;
            }
            if at <= to {
                out.push((at, to));
            }
        }
        Ranges(out)
    }

    /// The versions not held below the largest held.
    pub fn gaps(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let ends = std::iter::once(0).chain(self.0.iter().map(|(_, to)| *to));
        ends.zip(&self.0)
            .filter(|(end, (from, _))| end + 1 < *from)
            .map(|(end, (from, _))| end + 1..=from - 1)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionVector {
    sites: BTreeMap<SiteId, Ranges>,
}

impl VersionVector {
    pub fn new() -> VersionVector {
        VersionVector::default()
    }

    pub fn insert(&mut self, site: SiteId, version: u64) {
        self.insert_range(site, version..=version);
    }

    /// Versions below 1 and above 2^53-1 do not exist and are left out.
    pub fn insert_range(&mut self, site: SiteId, versions: RangeInclusive<u64>) {
        if (*versions.start()).max(1) <= (*versions.end()).min(TOP) {
            self.sites.entry(site).or_default().insert_range(versions);
        }
    }

    #[inline]
    pub fn contains(&self, site: &SiteId, version: u64) -> bool {
        self.sites.get(site).is_some_and(|r| r.contains(version))
    }

    /// The largest version of `site` held, 0 for none.
    #[inline]
    pub fn max(&self, site: &SiteId) -> u64 {
        self.sites.get(site).map_or(0, Ranges::max)
    }

    pub fn ranges(&self, site: &SiteId) -> Option<&Ranges> {
        self.sites.get(site)
    }

    /// The versions of `site` not held below its largest held.
    pub fn gaps(&self, site: &SiteId) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.sites.get(site).into_iter().flat_map(Ranges::gaps)
    }

    /// Everything that `other` holds is held here.
    pub fn covers(&self, other: &VersionVector) -> bool {
        other.missing_from(self).is_empty()
    }

    /// What is held here and missing from `other`: what this replica could send it.
    pub fn missing_from(&self, other: &VersionVector) -> VersionVector {
        let none = Ranges::default();
        let rest = |(site, held): (&SiteId, &Ranges)| {
            let missing = held.minus(other.sites.get(site).unwrap_or(&none));
            (!missing.is_empty()).then_some((*site, missing))
        };
        VersionVector { sites: self.sites.iter().filter_map(rest).collect() }
    }

    /// What both hold.
    pub fn common(&self, other: &VersionVector) -> VersionVector {
        self.missing_from(&self.missing_from(other))
    }

    /// Holds afterwards what either held.
    pub fn merge(&mut self, other: &VersionVector) {
        for (site, ranges) in &other.sites {
            let mine = self.sites.entry(*site).or_default();
            for range in ranges.iter() {
                mine.insert_range(range);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&SiteId, &Ranges)> {
        self.sites.iter()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.sites.len() * 22);
        put(&mut out, self.sites.len() as u64);
        for (site, ranges) in &self.sites {
            out.extend_from_slice(&site.0);
            put(&mut out, ranges.0.len() as u64);
            let mut end = 0;
            for (from, to) in &ranges.0 {
                put(&mut out, from - end);
                put(&mut out, to - from);
                end = *to;
            }
        }
        out
    }

    /// Decodes a vector that ends with `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<VersionVector, VectorError> {
        let (vector, rest) = VersionVector::decode_prefix(bytes)?;
        if rest.is_empty() { Ok(vector) } else { Err(VectorError::Trailing) }
    }

    /// Decodes a vector at the front of `bytes` and returns what follows it.
    pub fn decode_prefix(bytes: &[u8]) -> Result<(VersionVector, &[u8]), VectorError> {
        let mut rest = bytes;
        let mut vector = VersionVector::default();
        for _ in 0..get(&mut rest)? {
            let (id, tail) = rest.split_first_chunk::<16>().ok_or(VectorError::Truncated)?;
            rest = tail;
            let site = SiteId(*id);
            if vector.sites.last_key_value().is_some_and(|(last, _)| *last >= site) {
                return Err(VectorError::Order);
            }
            let ranges = ranges(&mut rest)?;
            vector.sites.insert(site, ranges);
        }
        Ok((vector, rest))
    }
}

fn ranges(rest: &mut &[u8]) -> Result<Ranges, VectorError> {
    let mut out = Vec::new();
    let mut end = 0u64;
    for _ in 0..get(rest)? {
        let (skip, length) = (get(rest)?, get(rest)?);
        let from = end.checked_add(skip).ok_or(VectorError::Range)?;
        let to = from.checked_add(length).ok_or(VectorError::Range)?;
        // Only the first range may start right after the last one's end, which is 0.
        let least = if out.is_empty() { 1 } else { 2 };
        if skip < least || to > TOP {
            return Err(VectorError::Range);
        }
        out.push((from, to));
        end = to;
    }
    if out.is_empty() { Err(VectorError::Range) } else { Ok(Ranges(out)) }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get(rest: &mut &[u8]) -> Result<u64, VectorError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(VectorError::Truncated)?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(VectorError::Number);
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(VectorError::Number)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VectorError {
    Truncated,
    Trailing,
    Number,
    Order,
    Range,
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VectorError::Truncated => "the version vector is cut off",
            VectorError::Trailing => "bytes follow the version vector",
            VectorError::Number => "a number in the version vector is over 64 bits",
            VectorError::Order => "the sites of the version vector are not in ascending order",
            VectorError::Range => "a range of the version vector is empty, touches another or passes 2^53-1",
        })
    }
}

impl std::error::Error for VectorError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Model = BTreeSet<(SiteId, u64)>;

    fn parts() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
        prop::collection::vec((0u8..3, 0u64..40, 0u64..6), 0..12)
    }

    fn build(parts: &[(u8, u64, u64)]) -> (VersionVector, Model) {
        let (mut vector, mut model) = (VersionVector::new(), Model::new());
        for &(site, from, length) in parts {
            let site = SiteId([site; 16]);
            vector.insert_range(site, from..=from + length);
            model.extend((from..=from + length).filter(|v| *v > 0).map(|v| (site, v)));
        }
        (vector, model)
    }

    fn listed(vector: &VersionVector) -> Model {
        vector.iter().flat_map(|(s, r)| r.iter().flatten().map(|v| (*s, v))).collect()
    }

    proptest! {
        #[test]
        fn as_sets(a in parts(), b in parts()) {
            let ((mut a, ma), (b, mb)) = (build(&a), build(&b));
            prop_assert_eq!(listed(&a), ma.clone());
            prop_assert_eq!(listed(&a.missing_from(&b)), &ma - &mb);
            prop_assert_eq!(a.covers(&b), ma.is_superset(&mb));
            prop_assert_eq!(listed(&a.common(&b)), &ma & &mb);
            for site in [0u8, 1, 2].map(|s| SiteId([s; 16])) {
                let max = ma.iter().filter(|(s, _)| *s == site).map(|(_, v)| *v).max().unwrap_or(0);
                prop_assert_eq!(a.max(&site), max);
                let gaps: Vec<u64> = a.gaps(&site).flatten().collect();
                let holes: Vec<u64> = (1..max).filter(|v| !ma.contains(&(site, *v))).collect();
                prop_assert_eq!(gaps, holes);
                for v in 0..50 {
                    prop_assert_eq!(a.contains(&site, v), ma.contains(&(site, v)));
                }
                if let Some(r) = a.ranges(&site) {
                    prop_assert!(r.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
                    let dense = (1..).take_while(|v| r.contains(*v)).last().unwrap_or(0);
                    prop_assert_eq!(r.dense(), dense);
                }
            }
            a.merge(&b);
            prop_assert_eq!(listed(&a), &ma | &mb);
        }

        #[test]
        fn codec(a in parts()) {
            let (vector, _) = build(&a);
            let bytes = vector.encode();
            prop_assert_eq!(VersionVector::decode(&bytes), Ok(vector));
            for cut in 0..bytes.len() {
                prop_assert!(VersionVector::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn what_decodes_is_canonical(bytes in prop::collection::vec(0u8..4, 0..60)) {
            if let Ok((vector, rest)) = VersionVector::decode_prefix(&bytes) {
                prop_assert_eq!(vector.encode(), &bytes[..bytes.len() - rest.len()]);
            }
        }
    }

    #[test]
    fn limits() {
        let site = SiteId::default();
        let mut vector = VersionVector::new();
        vector.insert_range(site, 0..=0);
        vector.insert_range(site, u64::MAX..=u64::MAX);
        assert!(vector.is_empty());
        vector.insert_range(site, 5..=u64::MAX);
        vector.insert(site, TOP);
        assert_eq!(vector.max(&site), TOP);
        assert_eq!(VersionVector::decode(&vector.encode()), Ok(vector));
        assert_eq!(VersionVector::decode(&[0, 0]), Err(VectorError::Trailing));
        assert_eq!(VersionVector::decode(&[255; 12]), Err(VectorError::Number));
        let huge = [&[255, 255, 255, 255, 15][..], &[0; 16]].concat();
        assert_eq!(VersionVector::decode(&huge), Err(VectorError::Truncated));
    }
}
