//! Letting metadata agree with the tables again. The tables are right; what the metadata cannot explain is taken over
//! as if it were written now with col_version 1, so that it beats nobody's edit.

use super::{Findings, Report, examine, verify};
use crate::catalog::Table;
use crate::core::{Core, Header, read_log_head};
use crate::engine::Engine;
use crate::error::Result;
use crate::log::Changes;
use crate::store::{Loc, Record};
use rejoin_crdt::vector::VersionVector;
use rejoin_sqlite::{Db, ValueRef};
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

/// Repairs what can be repaired, in one transaction. The report says what is left.
pub fn repair(engine: &Engine) -> Result<Report> {
    let before = verify(engine)?;
    if before.is_clean() {
        return Ok(before);
    }
    engine.scoped("crsql_repair", || {
        // What hinders the engine from reading the file at all, by plain SQL.
        let lost = readable(engine.db)?;
        engine.core()?.stale = true;
        engine.join()?;
        engine.flush()?;
        let mut core = engine.core()?;
        mend(&mut core, lost)?;
        core.settle()?;
        drop(core);
        engine.reload_catalog()
    })?;
    let mut after = verify(engine)?;
    let count = |r: &Report| r.problems.len() as u64 + r.more;
    after.repaired = count(&before).saturating_sub(count(&after));
    Ok(after)
}

/// Gives sites an id and empties log rows that cannot be decoded. True: there were such log rows.
fn readable(db: Db) -> Result<bool> {
    let mut found = Findings::default();
    super::sites(db, &mut found)?;
    name_sites(db, &found.sites)?;
    super::log::check(db, &mut found)?;
    let mut empty = db.prepare_transient("UPDATE main.crsql_log SET changes = x'' WHERE id = ?1")?;
    for lsn in &found.log {
        empty.run(&[ValueRef::Integer(*lsn)])?;
    }
    Ok(!found.log.is_empty())
}

fn name_sites(db: Db, sites: &BTreeSet<u32>) -> Result<()> {
    let mut put =
        db.prepare_transient("INSERT OR IGNORE INTO main.crsql_sites(ordinal, site_id) VALUES (?1, ?2)")?;
    for site in sites {
        let id = crate::schema::random_id()?;
        put.run(&[ValueRef::Integer(i64::from(*site)), ValueRef::Blob(&id)])?;
    }
    Ok(())
}

fn mend(core: &mut Core, lost: bool) -> Result<()> {
    let found = examine(core)?;
    // What cannot be decoded cannot be written to either.
    drop_blocks(core, &found)?;
    // It tells the version of the transaction that the repair is.
    if found.vector {
        core.vector_from_log()?;
    }
    core.fold()?;
    if !found.sites.is_empty() {
        name_sites(core.db, &found.sites)?;
        core.stale = true;
        core.refresh(true)?;
    }
    for t in core.catalog.sorted() {
        if found.triggers.contains(&t.id) {
            core.drop_triggers(t.id)?;
            if !core.cfg.owned {
                core.install_triggers(&t)?;
            }
        }
        if lost || found.rewrite.contains(&t.id) {
            core.relist_all(&t)?;
        }
        if lost || found.resync.contains(&t.id) {
            core.resync(&t)?;
        }
    }
    if found.parked {
        core.relist_parked()?;
    }
    core.write_out()
}

fn drop_blocks(core: &mut Core, found: &Findings) -> Result<()> {
    for (tbl, block) in &found.row_blocks {
        let sql = format!("DELETE FROM main.crsql_rows_{tbl} WHERE block = {block}");
        core.db.exec(&sql)?;
    }
    for (tbl, id) in &found.key_blocks {
        let sql = format!("DELETE FROM main.crsql_keys_{tbl} WHERE id = {id}");
        core.db.exec(&sql)?;
    }
    core.stores.values_mut().for_each(|s| s.forget());
    Ok(())
}

impl Core {
    /// The vector as the log has it. What of this replica's own is missing there was committed nonetheless: its
    /// versions must not be given out again, and become empty ones of the log.
    fn vector_from_log(&mut self) -> Result<()> {
        let own = self.own_site();
        let mut vector = VersionVector::new();
        let chain = self.chains.get(&self.cfg.own).copied();
        self.chains.clear();
        self.chains.extend(chain.map(|c| (self.cfg.own, c)));
        let mut q = self.db.prepare_transient(
            "SELECT id, db_version, site, version, clock, nonce, chain, high, changes FROM main.crsql_log ORDER BY id",
        )?;
        while q.step()? {
            let row = read_log_head(&q)?;
            let changes = Changes::decode(q.column_blob(8), &row.base());
            let h = row.header;
            if let Some(site) = self.sites.id(h.site).filter(|_| h.version > 0) {
                let first = changes?.empty_from.unwrap_or(h.version);
                vector.insert_range(site, first..=h.version);
                self.saw_chain(h.site, h.version, h.chain);
            }
        }
        drop(q);
        let mut mine = VersionVector::new();
        self.vector.ranges(&own).into_iter().flat_map(|r| r.iter()).for_each(|r| mine.insert_range(own, r));
        let unlogged: Vec<(u64, u64)> = mine
            .missing_from(&vector)
            .ranges(&own)
            .into_iter()
            .flat_map(|r| r.iter())
            .map(|r| (*r.end(), *r.start()))
            .collect();
        vector.merge(&mine);
        self.db.exec("DELETE FROM main.crsql_vector")?;
        self.vector = vector;
        for (version, first) in unlogged {
            let chain = self.chains.get(&self.cfg.own).filter(|c| c.0 == version).map_or(0, |c| c.1);
            let header = Header { site: self.cfg.own, version, chain, ..Header::default() };
            self.log_range(self.tail.db_version, header, first)?;
        }
        self.save_whole_vector()
    }

    /// Stores a table's records anew. Changes of versions that the log does not have become changes of this
    /// transaction, of the same author and version.
    fn relist_all(&mut self, t: &Rc<Table>) -> Result<()> {
        self.fold()?;
        let mut logged: HashSet<i64> = HashSet::new();
        let mut q = self.db.prepare_transient("SELECT DISTINCT db_version FROM main.crsql_log")?;
        while q.step()? {
            logged.insert(q.column_int(0));
        }
        drop(q);
        let records = self.all_records(t)?.into_values();
        let mut records: Vec<(Loc, Option<Record>)> = records.map(|(l, r)| (l, Some(r))).collect();
        let stamps = |r: &Record| {
            let meta = &r.row.meta;
            let groups = meta.groups.iter().map(|g| g.stamp.db_version);
            let all: Vec<i64> = groups.chain(meta.sentinel.map(|s| s.db_version)).collect();
            all
        };
        let homeless = |r: &Record| stamps(r).iter().any(|v| !logged.contains(v));
        if records.iter().flat_map(|r| &r.1).any(homeless) {
            let next = self.next_db_version();
            for (_, record) in &mut records {
                let Some(meta) = record.as_mut().map(|r| &mut r.row.meta) else {
                    continue;
                };
                let groups = meta.groups.iter_mut().map(|g| &mut g.stamp.db_version);
                for v in groups.chain(meta.sentinel.as_mut().map(|s| &mut s.db_version)) {
                    if !logged.contains(v) {
                        *v = next;
                    }
                }
            }
            self.put_log(next, Changes::default(), None)?;
        }
        self.rewrite(t, records)
    }

    /// Lists the parked changes of versions that the log does not have under the version of this transaction.
    fn relist_parked(&mut self) -> Result<()> {
        let next = self.next_db_version();
        let mut q = self.db.prepare_transient(
            "UPDATE main.crsql_waiting SET db_version = ?1 \
             WHERE db_version NOT IN (SELECT db_version FROM main.crsql_log)",
        )?;
        q.run(&[ValueRef::Integer(next)])?;
        self.txn.parked.insert(next);
        Ok(())
    }
}
