//! The metadata of one row: its causal length and which change last wrote each of its cells.
//!
//! A row keeps *groups*, newest first. A group says: these columns were written by one change batch with one
//! stamp, and their sequence numbers count up from `seq` in column order. A column belongs to the first group
//! that names it, so writing a column is pushing a group; a group that newer ones cover whole is dropped.
//! An inserted row is one group, an update of one column adds one of a single column.

use smallvec::SmallVec;

/// A set of column ids (small integers, local to one table of one replica).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ColSet {
    low: u64,
    // Boxed so that the common set takes 16 bytes.
    #[allow(clippy::box_collection)]
    high: Option<Box<Vec<u64>>>,
}

impl ColSet {
    /// The largest column id that a set can hold, exclusive (SQLite's own limit on columns is 32,767).
    pub const ID_LIMIT: u32 = 65_536;

    pub const EMPTY: ColSet = ColSet { low: 0, high: None };

    #[inline]
    pub fn single(id: u32) -> ColSet {
        let mut set = ColSet::default();
        set.insert(id);
        set
    }

    /// The set of the ids in `low`, bit by bit, for tables with at most 64 column ids.
    #[inline]
    pub const fn from_low(low: u64) -> ColSet {
        ColSet { low, high: None }
    }

    /// The 64-bit words of the set, lowest ids first, without trailing zero words (except the first).
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.low).chain(self.high.iter().flat_map(|h| h.iter().copied()))
    }

    pub fn from_words(words: &[u64]) -> ColSet {
        let low = words.first().copied().unwrap_or(0);
        let mut high: Vec<u64> = words.iter().skip(1).copied().collect();
        while high.last() == Some(&0) {
            high.pop();
        }
        ColSet { low, high: (!high.is_empty()).then(|| Box::new(high)) }
    }

    #[inline]
    pub fn insert(&mut self, id: u32) {
        if id < 64 {
            self.low |= 1 << id;
            return;
        }
        let word = (id / 64 - 1) as usize;
        let high = self.high.get_or_insert_with(Default::default);
        if high.len() <= word {
            high.resize(word + 1, 0);
        }
        if let Some(w) = high.get_mut(word) {
            *w |= 1 << (id % 64);
        }
    }

    pub fn remove(&mut self, id: u32) {
        if id < 64 {
            self.low &= !(1 << id);
        } else if let Some(high) = &mut self.high {
            if let Some(w) = high.get_mut((id / 64 - 1) as usize) {
                *w &= !(1 << (id % 64));
            }
            while high.last() == Some(&0) {
                high.pop();
            }
            if high.is_empty() {
                self.high = None;
            }
        }
    }

    #[inline]
    pub fn contains(&self, id: u32) -> bool {
        if id < 64 {
            return self.low >> id & 1 == 1;
        }
        let word = self.high.as_ref().and_then(|h| h.get((id / 64 - 1) as usize));
        word.is_some_and(|w| w >> (id % 64) & 1 == 1)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_none()
    }

    #[inline]
    pub fn len(&self) -> u32 {
        self.words().map(u64::count_ones).sum()
    }

    /// The smallest member.
    #[inline]
    pub fn first(&self) -> Option<u32> {
        if self.low != 0 { Some(self.low.trailing_zeros()) } else { self.iter().next() }
    }

    /// The largest member.
    #[inline]
    pub fn last(&self) -> Option<u32> {
        match &self.high {
            None => self.low.checked_ilog2(),
            Some(_) => self.iter().last(),
        }
    }

    /// How many members are smaller than `id`.
    #[inline]
    pub fn rank(&self, id: u32) -> u32 {
        if id < 64 {
            return (self.low & ((1u64 << id) - 1)).count_ones();
        }
        let full = (id / 64) as usize;
        let below: u32 = self.words().take(full).map(u64::count_ones).sum();
        let part = self.words().nth(full).unwrap_or(0) & ((1u64 << (id % 64)) - 1);
        below + part.count_ones()
    }

    #[inline]
    pub fn union_with(&mut self, other: &ColSet) {
        self.low |= other.low;
        if let Some(theirs) = &other.high {
            let mine = self.high.get_or_insert_with(Default::default);
            if mine.len() < theirs.len() {
                mine.resize(theirs.len(), 0);
            }
            for (m, t) in mine.iter_mut().zip(theirs.iter()) {
                *m |= t;
            }
        }
    }

    #[inline]
    pub fn minus(&self, other: &ColSet) -> ColSet {
        if self.high.is_none() {
            return ColSet::from_low(self.low & !other.low);
        }
        let words: Vec<u64> =
            self.words().zip(other.words().chain(std::iter::repeat(0))).map(|(a, b)| a & !b).collect();
        ColSet::from_words(&words)
    }

    #[inline]
    pub fn intersect(&self, other: &ColSet) -> ColSet {
        if self.high.is_none() || other.high.is_none() {
            return ColSet::from_low(self.low & other.low);
        }
        let words: Vec<u64> = self.words().zip(other.words()).map(|(a, b)| a & b).collect();
        ColSet::from_words(&words)
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words().enumerate().flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros();
                word &= word - 1;
                Some(i as u32 * 64 + bit)
            })
        })
    }
}

impl FromIterator<u32> for ColSet {
    fn from_iter<T: IntoIterator<Item = u32>>(ids: T) -> ColSet {
        let mut set = ColSet::default();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

/// Which change wrote a cell. `db_version` is local to the replica that keeps it; in a changeset it is the
/// index of the transaction there. `site` is an index into the site table of the file or of the changeset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    pub col_version: i64,
    pub db_version: i64,
    pub site: u32,
}

/// Columns written together: the n-th column of `cols` (ascending) has sequence number `seq + n`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub cols: ColSet,
    pub stamp: Stamp,
    pub seq: i64,
}

/// The change that gave a row its causal length; its column version is the causal length itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sentinel {
    pub db_version: i64,
    pub site: u32,
    pub seq: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowMeta {
    /// Causal length: odd = alive, even = deleted.
    pub cl: u32,
    pub sentinel: Option<Sentinel>,
    /// Newest first.
    pub groups: SmallVec<[Group; 1]>,
}

impl RowMeta {
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.cl & 1 == 1
    }

    /// The stamp and sequence number of a cell; None: unwritten.
    #[inline]
    pub fn cell(&self, col: u32) -> Option<(Stamp, i64)> {
        let group = self.groups.iter().find(|g| g.cols.contains(col))?;
        Some((group.stamp, group.seq + i64::from(group.cols.rank(col))))
    }

    /// Records that `cols` were written by one change batch.
    pub fn write(&mut self, cols: ColSet, stamp: Stamp, seq: i64) {
        if cols.is_empty() {
            return;
        }
        if let Some(top) = self.groups.first_mut()
            && top.stamp == stamp
            && seq == top.seq + i64::from(top.cols.len())
            && top.cols.last() < cols.first()
        {
            top.cols.union_with(&cols);
        } else {
            self.groups.insert(0, Group { cols, stamp, seq });
        }
        self.prune();
    }

    /// Drops the groups that newer ones cover whole.
    fn prune(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        let mut seen = ColSet::EMPTY;
        self.groups.retain(|g| {
            let live = !g.cols.minus(&seen).is_empty();
            seen.union_with(&g.cols);
            live
        });
    }

    /// Forgets a column (it was dropped); the sequence numbers of the others stay.
    pub fn forget(&mut self, col: u32) {
        let cells: Vec<(u32, Stamp, i64)> = self.cells().filter(|c| c.0 != col).collect();
        if !self.groups.iter().any(|g| g.cols.contains(col)) {
            return;
        }
        self.groups.clear();
        for (id, stamp, seq) in cells {
            self.write(ColSet::single(id), stamp, seq);
        }
    }

    /// Every written cell: column, stamp, sequence number; group by group.
    pub fn cells(&self) -> impl Iterator<Item = (u32, Stamp, i64)> + '_ {
        self.groups.iter().enumerate().flat_map(move |(i, g)| {
            g.cols.iter().enumerate().filter_map(move |(n, col)| {
                let newer = self.groups.iter().take(i).any(|h| h.cols.contains(col));
                (!newer).then_some((col, g.stamp, g.seq + n as i64))
            })
        })
    }

    /// The columns that have been written.
    pub fn written(&self) -> ColSet {
        let mut all = ColSet::EMPTY;
        for g in &self.groups {
            all.union_with(&g.cols);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Stamp = Stamp { col_version: 1, db_version: 1, site: 0 };
    const B: Stamp = Stamp { col_version: 2, db_version: 2, site: 0 };

    #[test]
    fn newer_groups_shadow_and_prune() {
        let mut row = RowMeta { cl: 1, ..RowMeta::default() };
        row.write(ColSet::from_low(0b1111), A, 0);
        row.write(ColSet::single(1), B, 0);
        assert_eq!(row.cell(2), Some((A, 2)));
        assert_eq!(row.cell(1), Some((B, 0)));
        row.write(ColSet::from_low(0b1111), B, 5);
        assert_eq!(row.groups.len(), 1);
        row.forget(0);
        assert_eq!(row.cell(0), None);
        assert_eq!(row.cell(3), Some((B, 8)));
    }

    #[test]
    fn cells_arriving_in_order_form_one_group() {
        let mut row = RowMeta { cl: 1, ..RowMeta::default() };
        for (i, col) in [0u32, 3, 70, 200].into_iter().enumerate() {
            row.write(ColSet::single(col), A, 7 + i as i64);
        }
        assert_eq!(row.groups.len(), 1);
        assert_eq!(row.cell(200), Some((A, 10)));
        assert_eq!(row.cells().count(), 4);
    }

    #[test]
    fn sets_over_64_columns() {
        let mut set: ColSet = [1, 63, 64, 130].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 63, 64, 130]);
        assert_eq!((set.len(), set.rank(64), set.rank(131)), (4, 2, 4));
        assert_eq!((set.first(), set.last()), (Some(1), Some(130)));
        assert_eq!((ColSet::single(63).first(), ColSet::single(63).last()), (Some(63), Some(63)));
        assert_eq!(
            (ColSet::single(70).first(), ColSet::EMPTY.first(), ColSet::EMPTY.last()),
            (Some(70), None, None)
        );
        set.remove(130);
        set.remove(64);
        assert_eq!(set, [1, 63].into_iter().collect());
        assert_eq!(set.minus(&ColSet::single(63)), ColSet::single(1));
    }
}
