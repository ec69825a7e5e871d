//! Which part of the log goes into a changeset: everything up to its end that the reader lacks.

use crate::core::{Core, LogRow, cached, read_log_head};
use crate::error::Result;
use crate::listing::LOG_FROM;
use crate::log::Changes;
use rejoin_crdt::site::SiteId;
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::{Stmt, ValueRef};
use std::collections::HashSet;

/// Rows by what of them the receiver lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Living rows of whose life it has nothing.
    Whole,
    /// All others.
    Rest,
}

/// For whom a changeset is made.
#[derive(Clone, Copy)]
pub enum Reader<'a> {
    /// One who has everything up to a db_version of this replica, and all of one site.
    Since(i64, Option<SiteId>),
    /// One who has this.
    Vector(&'a VersionVector),
    /// The server, or a client of this one, who has this, and does not take that.
    Session(&'a VersionVector, Option<&'a VersionVector>),
    /// One who has this and takes nothing but this replica's own transactions.
    Own(&'a VersionVector),
    /// One who starts over from a snapshot that has this, and takes a part of the rest.
    Replay(&'a VersionVector, Part),
    /// One who has everything up to a row of the log.
    After(i64),
}

/// What goes into a changeset.
pub struct Cut {
    pub rows: Vec<LogRow>,
    /// The versions that it brings.
    pub brings: VersionVector,
    pub base: VersionVector,
    pub horizon: VersionVector,
    /// None: all rows.
    pub part: Option<Part>,
    /// The base does not tell all that is held here.
    pub tail: bool,
}

/// The first of the versions that a log row stands for.
pub fn first_version(row: &LogRow) -> u64 {
    row.changes.empty_from.unwrap_or(row.header.version)
}

/// A row of the log, read with [`LOG`].
fn read_log_row(q: &Stmt) -> Result<LogRow> {
    let mut row = read_log_head(q)?;
    row.changes = Changes::decode(q.column_blob(8), &row.base())?;
    Ok(row)
}

/// Every log row, for `read_log_head`; the changes are column 8.
pub const LOG: &str =
    "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log";

impl Core {
    pub fn cut(&mut self, reader: Reader<'_>) -> Result<Cut> {
        let (mut rows, mut brings) = match reader {
            Reader::Since(since, excluded) => {
                let mut rows = self.rows_since(since)?;
                let excluded_ordinal = excluded.and_then(|id| self.sites.ordinal(&id));
                rows.retain(|r| Some(r.header.site) != excluded_ordinal);
                let brings = self.brought(&rows);
                (rows, brings)
            }
            Reader::Vector(theirs) | Reader::Session(theirs, None) | Reader::Replay(theirs, _) => {
                let brings = self.vector.missing_from(theirs);
                (self.rows_of(&brings)?, brings)
            }
            Reader::Session(theirs, Some(without)) => {
                let brings = self.vector.missing_from(theirs).missing_from(without);
                let left_out = without.common(&self.vector).missing_from(theirs);
                let base = self.vector.missing_from(&brings).missing_from(&left_out);
                let (rows, horizon) = (self.rows_of(&brings)?, self.cfg.horizon.clone());
                return Ok(Cut { rows, brings, base, horizon, part: None, tail: true });
            }
            Reader::Own(theirs) => {
                let brings = only_of(&self.vector.missing_from(theirs), &self.own_sites());
                // What others wrote and the reader lacks is not its sender's to vouch for.
                let (base, horizon) = (theirs.common(&self.vector), VersionVector::new());
                return Ok(Cut {
                    rows: self.rows_of(&brings)?,
                    brings,
                    base,
                    horizon,
                    part: None,
                    tail: true,
                });
            }
            Reader::After(lsn) => return self.tail(lsn),
        };
        let withheld = match reader {
            Reader::Since(..) => self.withhold(&mut rows, &mut brings, &VersionVector::new())?,
            Reader::Vector(theirs) => self.withhold(&mut rows, &mut brings, theirs)?,
            _ => VersionVector::new(),
        };
        let base = self.vector.missing_from(&brings).missing_from(&withheld);
        let horizon = self.cfg.horizon.clone();
        let part = if let Reader::Replay(_, part) = reader { Some(part) } else { None };
        Ok(Cut { rows, brings, base, horizon, part, tail: false })
    }

    /// What came after a log row, for those who have everything up to it. So that it stays small where there are many
    /// sites, the base is no more than what that row stands for.
    fn tail(&mut self, lsn: i64) -> Result<Cut> {
        let rows = self.rows_after(lsn)?;
        let brings = self.brought(&rows);
        let before = self.row_before(lsn)?;
        // A row without a version says that rows before it were given to others: all must look again.
        let same = !rows.iter().chain(&before).any(|r| r.header.version == 0);
        let base = if same { self.brought(before.as_slice()) } else { self.vector.missing_from(&brings) };
        let moved = self.cfg.horizon_at >= lsn;
        let horizon = if moved { self.cfg.horizon.clone() } else { VersionVector::new() };
        Ok(Cut { rows, brings, base, horizon, part: None, tail: true })
    }

    /// The versions that these log rows stand for.
    pub fn brought(&self, rows: &[LogRow]) -> VersionVector {
        let mut brings = VersionVector::new();
        for row in rows {
            if let Some(site) = self.sites.id(row.header.site) {
                brings.insert_range(site, first_version(row)..=row.header.version);
            }
        }
        brings
    }

    /// The log row at a place or, if it is gone, the last one before it; without its changes.
    fn row_before(&mut self, lsn: i64) -> Result<Option<LogRow>> {
        let sql = format!("{LOG} WHERE id <= ?1 ORDER BY id DESC LIMIT 1");
        let q = cached(&mut self.q.log_before, self.db, &sql)?;
        q.query_row(&[ValueRef::Integer(lsn)], |q| Ok(read_log_head(q)))?.transpose()
    }

    /// The log rows after one.
    pub fn rows_after(&mut self, lsn: i64) -> Result<Vec<LogRow>> {
        let q = cached(&mut self.q.log_after, self.db, LOG_FROM)?;
        let mut rows = Vec::new();
        q.with_bound(&[ValueRef::Integer(lsn.saturating_add(1))], |q| {
            while q.step()? {
                rows.push(read_log_row(q));
            }
            Ok(())
        })?;
        rows.into_iter().collect()
    }

    /// The log rows after a db_version, and those of the same transactions before it.
    fn rows_since(&mut self, since: i64) -> Result<Vec<LogRow>> {
        let first = self.first_log_row(since)?;
        let mut q = self.db.prepare_transient(&format!("{LOG} WHERE id >= ?1 ORDER BY id"))?;
        q.bind_int(1, first)?;
        let mut rows: Vec<LogRow> = Vec::new();
        let mut at_since: Option<(u32, u64)> = None;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            let txn = (row.header.site, row.header.version);
            if row.db_version < since || (row.db_version == since && *at_since.get_or_insert(txn) == txn) {
                continue;
            }
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            rows.push(row);
        }
        drop(q);
        let Some(head) = rows.first().map(|r| (r.header, r.lsn)) else { return Ok(rows) };
        let mut q = self.db.prepare_transient(&format!("{LOG} WHERE id < ?1 ORDER BY id DESC"))?;
        q.bind_int(1, head.1)?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            if (row.header.site, row.header.version) != (head.0.site, head.0.version) {
                break;
            }
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            rows.insert(0, row);
        }
        Ok(rows)
    }

    /// The log rows of these versions, in log order: read from the end until all are found.
    pub fn rows_of(&mut self, wanted: &VersionVector) -> Result<Vec<LogRow>> {
        let mut left: u64 = count(wanted);
        let mut rows: Vec<LogRow> = Vec::new();
        let mut seen: HashSet<(u32, u64)> = HashSet::new();
        let mut q = self.db.prepare_transient(&format!("{LOG} ORDER BY id DESC"))?;
        while q.step()? {
            let mut row = read_log_head(&q)?;
            let (h, site) = (row.header, self.sites.id(row.header.site).unwrap_or_default());
            let known = seen.contains(&(h.site, h.version));
            if left == 0 && !known {
                break;
            }
            if h.version == 0 || !wanted.contains(&site, h.version) {
                continue;
            }
            row.changes = Changes::decode(q.column_blob(8), &row.base())?;
            if !known {
                seen.insert((h.site, h.version));
                let mut here = VersionVector::new();
                here.insert_range(site, first_version(&row)..=h.version);
                let unwanted = count(&here.missing_from(wanted));
                left = left.saturating_sub(h.version - first_version(&row) + 1 - unwanted);
            }
            rows.push(row);
        }
        rows.reverse();
        Ok(rows)
    }

    /// The chain hash of the last version of a range, 0 if it is not known.
    pub fn chain_of(&self, site: &SiteId, version: u64) -> u64 {
        let head = self.sites.ordinal(site).and_then(|o| self.chains.get(&o));
        head.filter(|h| h.0 == version).map_or(0, |h| h.1)
    }
}

/// What a vector holds of one site.
pub fn only(v: &VersionVector, site: &SiteId) -> VersionVector {
    let mut one = VersionVector::new();
    v.ranges(site).into_iter().flat_map(|r| r.iter()).for_each(|r| one.insert_range(*site, r));
    one
}

/// What a vector holds of some sites.
pub fn only_of(v: &VersionVector, sites: &[SiteId]) -> VersionVector {
    let mut some = VersionVector::new();
    sites.iter().for_each(|site| some.merge(&only(v, site)));
    some
}

/// How many versions a vector holds.
pub fn count(v: &VersionVector) -> u64 {
    v.iter().flat_map(|(_, r)| r.iter()).map(|r| r.end() - r.start() + 1).sum()
}
