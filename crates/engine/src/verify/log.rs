//! The log and the version vector.

use super::Findings;
use crate::core::{Core, Header, read_log_head};
use crate::error::Result;
use crate::log::{Changes, TableList, union};
use crate::store::Loc;
use rejoin_crdt::chain;
use rejoin_crdt::limits::VERSION_MAX;
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::{Db, Stmt, ValueRef};
use std::collections::HashMap;
use std::rc::Rc;

pub(super) const FRESH: &str =
    "nothing here can tell what is right: make a new replica and merge it with a peer that is sound";

/// Lists of this many rows, blocks and ranges are kept decoded.
const KEPT_MAX: usize = 1 << 16;

/// What is remembered of a log row.
struct Entry {
    lsn: i64,
    db_version: i64,
    /// The first of the origin versions that it stands for.
    first: u64,
    /// Nothing is left of them, and their nonces are not known.
    empty: bool,
    header: Header,
}

pub(super) struct Index {
    rows: Vec<Entry>,
}

/// Reads the whole log.
pub(super) fn check(db: Db, found: &mut Findings) -> Result<Index> {
    let mut q = db.prepare_transient(
        "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log ORDER BY id",
    )?;
    let mut rows: Vec<Entry> = Vec::new();
    while q.step()? {
        let Ok(row) = read_log_head(&q) else {
            let what = format!("log row {} names no site", q.column_int(0));
            found.hopeless(what, FRESH);
            continue;
        };
        let mut empty_from = None;
        match Changes::decode(q.column_blob(8), &row.base()) {
            Ok(changes) => empty_from = changes.empty_from,
            Err(_) => {
                let (lsn, version) = (row.lsn, row.db_version);
                found.log.push(lsn);
                found.file(
                    format!("log row {lsn} (db_version {version}) cannot be decoded"),
                    "`repair` empties it and lists all rows anew; what it alone knew of its rows is taken over as if \
                     it were written now",
                );
            }
        }
        let h = row.header;
        if rows.last().is_some_and(|r| r.db_version > row.db_version) {
            let (lsn, version) = (row.lsn, row.db_version);
            found.hopeless(
                format!("log row {lsn} has db_version {version}, smaller than the one before it"),
                FRESH,
            );
        }
        let first = empty_from.unwrap_or(h.version);
        let max = VERSION_MAX as u64;
        if row.lsn < 1 || row.db_version < 0 || h.version > max || first > h.version {
            let lsn = row.lsn;
            found.hopeless(format!("log row {lsn} has a version out of range"), FRESH);
            continue;
        }
        rows.push(Entry {
            lsn: row.lsn,
            db_version: row.db_version,
            first,
            empty: empty_from.is_some(),
            header: h,
        });
    }
    found.report.transactions = rows.len() as u64;
    let index = Index { rows };
    check_chains(&index, found);
    Ok(index)
}

/// Of each origin, version by version.
fn check_chains(index: &Index, found: &mut Findings) {
    let mut order: Vec<&Entry> = index.rows.iter().filter(|r| r.header.version > 0).collect();
    order.sort_by_key(|r| (r.header.site, r.header.version, r.lsn));
    let mut before: Option<&Entry> = None;
    for row in order {
        let h = row.header;
        let last = before.filter(|b| b.header.site == h.site);
        before = Some(row);
        let same = last.filter(|l| l.header.version == h.version);
        let previous = match last {
            _ if row.empty => None,
            Some(_) if same.is_some() => None,
            // 0: it was not known when the version came as part of an empty range.
            Some(l) if l.header.version + 1 == h.version => Some(l.header.chain).filter(|c| *c != 0),
            None if h.version == 1 => Some(0),
            _ => None,
        };
        let forked = same.is_some_and(|l| l.header.chain != h.chain)
            || previous.is_some_and(|p| chain::next(p, h.version, h.nonce) != h.chain);
        if forked {
            let (version, site) = (h.version, h.site);
            found.hopeless(
                format!("the chain of site number {site} breaks at version {version}"),
                "two copies of one file wrote under one id, or the log was edited: peers will refuse what follows; \
                 `SELECT crsql_new_site_id()` lets this file go on under another id if the site is its own",
            );
        }
    }
}

/// The vector in the file against the log, and what this connection made of both.
pub(super) fn check_vector(core: &mut Core, index: &Index, found: &mut Findings) -> Result<()> {
    let mut logged = VersionVector::new();
    for row in index.rows.iter().filter(|r| r.header.version > 0) {
        if let Some(site) = core.sites.id(row.header.site) {
            logged.insert_range(site, row.first..=row.header.version);
        }
    }
    let name = |v: &VersionVector| {
        let first = v.iter().find_map(|(site, r)| Some((*site, r.iter().next()?)));
        first.map_or_else(String::new, |(site, r)| {
            format!("versions {} to {} of site {site}", r.start(), r.end())
        })
    };
    let (unknown, unlogged) = (logged.missing_from(&core.vector), core.vector.missing_from(&logged));
    if !unknown.is_empty() {
        found.vector = true;
        found.file(
            format!("the log has {}, which the version vector lacks", name(&unknown)),
            "`repair` adds them to the vector",
        );
    }
    if !unlogged.is_empty() {
        found.vector = true;
        found.file(
            format!("the version vector claims {}, which the log lacks", name(&unlogged)),
            "`repair` takes them out of the vector, so that peers send them again",
        );
    }
    Ok(())
}

/// The lists of log rows by db_version, decoded when asked for.
pub(super) struct Listed {
    index: Index,
    read: Option<Stmt>,
    kept: HashMap<i64, Rc<Vec<(u32, TableList)>>>,
    size: usize,
}

/// Whether the log lists a place under a db_version.
#[derive(PartialEq, Eq)]
pub(super) enum Verdict {
    Listed,
    /// Not, but the db_version has a log row.
    Unlisted,
    /// There is no such db_version in the log.
    NoVersion,
}

impl Listed {
    pub(super) fn new(index: Index) -> Listed {
        Listed { index, read: None, kept: HashMap::new(), size: 0 }
    }

    pub(super) fn verdict(&mut self, db: Db, tbl: u32, loc: &Loc, version: i64) -> Result<Verdict> {
        if !self.kept.contains_key(&version) {
            let rows = &self.index.rows;
            // Falling versions are reported already; then this may look in vain.
            let from = rows.partition_point(|r| r.db_version < version);
            let of = rows.iter().skip(from).take_while(|r| r.db_version == version);
            // Nothing is left of an empty version: what its row names leaves with no transaction.
            let lsns: Vec<i64> = of.filter(|r| !r.empty).map(|r| r.lsn).collect();
            if lsns.is_empty() {
                return Ok(Verdict::NoVersion);
            }
            let lists = self.decode(db, &lsns)?;
            let size = lists.iter().map(|(_, l)| size(l)).sum::<usize>() + 1;
            if self.size + size > KEPT_MAX {
                self.kept.clear();
                self.size = 0;
            }
            self.size += size;
            self.kept.insert(version, Rc::new(lists));
        }
        let lists = self.kept.get(&version).map(Rc::clone).unwrap_or_default();
        let listed = lists.iter().any(|(t, l)| *t == tbl && names(l, loc));
        Ok(if listed { Verdict::Listed } else { Verdict::Unlisted })
    }

    fn decode(&mut self, db: Db, lsns: &[i64]) -> Result<Vec<(u32, TableList)>> {
        let mut lists = Vec::new();
        let q = crate::core::cached(
            &mut self.read,
            db,
            "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log WHERE id = ?1",
        )?;
        for lsn in lsns {
            let read = q.query_row(&[ValueRef::Integer(*lsn)], |q| {
                let row = read_log_head(q);
                Ok(row.ok().and_then(|row| Changes::decode(q.column_blob(8), &row.base()).ok()))
            })?;
            for (tbl, mut list) in read.flatten().into_iter().flat_map(|c| c.tables) {
                list.blocks = union(list.blocks);
                list.keys.sort_unstable();
                lists.push((tbl, list));
            }
        }
        Ok(lists)
    }
}

fn size(list: &TableList) -> usize {
    list.inline.len() + list.blocks.len() + list.keys.len()
}

fn names(list: &TableList, loc: &Loc) -> bool {
    if list.inline.contains_key(loc) {
        return true;
    }
    match loc {
        Loc::Row(row) => {
            let block = row >> crate::block::SHIFT;
            let after = list.blocks.partition_point(|b| b.1 < block);
            list.blocks.get(after).is_some_and(|b| b.0 <= block)
        }
        // Single keys are named exactly; ranges may overlap them, and there are few.
        Loc::Key(key) => {
            let exact = list.keys.binary_search_by(|k| k.0.cmp(key)).is_ok();
            exact || list.covers(loc)
        }
    }
}
