//! What a replica is and holds, for people and monitors.

use crate::block::{RowBlock, decode_keys};
use crate::catalog::{KeyKind, Table};
use crate::codec::Base;
use crate::core::Core;
use crate::engine::Engine;
use crate::error::Result;
use crate::store::Loc;
use crate::{SiteId, VersionVector};
use std::collections::HashSet;
use std::rc::Rc;

/// The state of a replica; see `Replica::status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// None: the file has no metadata yet.
    pub site_id: Option<SiteId>,
    pub db_version: i64,
    /// Which transactions of which sites are held here.
    pub vector: VersionVector,
    /// `shared` (captured by triggers in the file) or `owned` (by the one program that opens it).
    pub mode: &'static str,
    /// `hlc` or `lamport`: how a local write gets its version.
    pub clock: &'static str,
    pub merge_equal_values: bool,
    /// The room that the database belongs to, once it has synced with one.
    pub lineage: Option<[u8; 16]>,
    /// Version of the storage format.
    pub format: i64,
    /// Log rows, and the bytes that they take.
    pub transactions: u64,
    pub log_bytes: u64,
    pub tables: Vec<TableStatus>,
    /// Changes that wait, by table and reason.
    pub parked: Vec<ParkedChanges>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStatus {
    pub name: String,
    pub rows: u64,
    /// Deleted rows that are remembered.
    pub tombstones: u64,
    /// Bytes of row metadata, without the log.
    pub metadata_bytes: u64,
    pub parked: u64,
    /// The table was found without its capture triggers, last after this db_version: rows that came and went since
    /// were taken over, but not what became of single values.
    pub unwatched_since: Option<i64>,
}

impl TableStatus {
    /// Bytes of metadata per row, tombstones counted.
    pub fn metadata_bytes_per_row(&self) -> f64 {
        let rows = self.rows + self.tombstones;
        if rows == 0 { 0.0 } else { self.metadata_bytes as f64 / rows as f64 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedChanges {
    pub table: String,
    pub reason: String,
    pub changes: u64,
}

/// Reads it; changes nothing.
pub fn status(engine: &Engine) -> Result<Status> {
    engine.scoped("crsql_status", || {
        if engine.is_joined() {
            engine.flush()?;
        }
        let mut core = engine.core()?;
        core.refresh(false)?;
        core.status()
    })
}

impl Core {
    fn status(&mut self) -> Result<Status> {
        let mut status = Status {
            mode: if self.cfg.owned { "owned" } else { "shared" },
            clock: if self.cfg.lamport { "lamport" } else { "hlc" },
            format: crate::format::FORMAT,
            ..Status::default()
        };
        if !self.ready {
            return Ok(status);
        }
        status.site_id = Some(self.own_site());
        status.db_version = if self.txn.joined { self.txn.base_db_version } else { self.tail.db_version };
        status.vector = self.vector.clone();
        status.merge_equal_values = self.cfg.merge_equal;
        status.lineage = self.cfg.lineage;
        status.format = self.number("SELECT value FROM main.crsql_meta WHERE name = 'format'")? as i64;
        status.transactions = self.number("SELECT count(*) FROM main.crsql_log")?;
        status.log_bytes = self.number("SELECT coalesce(sum(length(changes)), 0) FROM main.crsql_log")?;
        status.parked = self.parked_changes()?;
        for t in self.catalog.sorted() {
            let mut one = self.table_status(&t)?;
            let mine = status.parked.iter().filter(|p| p.table.eq_ignore_ascii_case(&t.name));
            one.parked = mine.map(|p| p.changes).sum();
            status.tables.push(one);
        }
        status.tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(status)
    }

    fn number(&self, sql: &str) -> Result<u64> {
        let mut q = self.db.prepare_transient(sql)?;
        q.step()?;
        Ok(q.column_int(0) as u64)
    }

    fn parked_changes(&self) -> Result<Vec<ParkedChanges>> {
        let mut q = self.db.prepare_transient(
            "SELECT tbl, reason, count(*) FROM main.crsql_parked GROUP BY tbl, reason ORDER BY tbl, reason",
        )?;
        let mut all = Vec::new();
        while q.step()? {
            all.push(ParkedChanges {
                table: crate::catalog::text(q.column_text(0)),
                reason: crate::catalog::text(q.column_text(1)),
                changes: q.column_int(2) as u64,
            });
        }
        Ok(all)
    }

    fn table_status(&mut self, t: &Rc<Table>) -> Result<TableStatus> {
        let mut status = TableStatus {
            name: t.name.clone(),
            rows: self.number(&format!("SELECT count(*) FROM {}", t.quoted()))?,
            ..TableStatus::default()
        };
        let mut q = self.db.prepare_transient("SELECT value FROM main.crsql_meta WHERE name = ?1")?;
        q.bind_text(1, unwatched_name(t.id).as_bytes())?;
        if q.step()? {
            status.unwatched_since = Some(q.column_int(0));
        }
        drop(q);
        // What the overlay says of a place is newer than what the blocks say.
        let newer: HashSet<&Loc> = self.overlay.table(t.id).map(|(loc, _)| loc).collect();
        if t.kind.has_rows() {
            let sql = format!("SELECT block, data FROM {}", t.rows_table());
            let mut q = self.db.prepare_transient(&sql)?;
            while q.step()? {
                let (block, bytes) = (q.column_int(0), q.column_blob(1));
                status.metadata_bytes += bytes.len() as u64 + 8;
                for (slot, row) in RowBlock::decode(bytes, t.kind == KeyKind::Hashed)?.rows {
                    let loc = Loc::Row((block << crate::block::SHIFT) | i64::from(slot));
                    status.tombstones += u64::from(!row.meta.is_alive() && !newer.contains(&loc));
                }
            }
        }
        if t.kind.has_keys() {
            let sql = format!("SELECT first, data FROM {}", t.keys_table());
            let mut q = self.db.prepare_transient(&sql)?;
            while q.step()? {
                let bytes = q.column_blob(1);
                status.metadata_bytes += (bytes.len() + q.column_blob(0).len()) as u64 + 8;
                for e in decode_keys(bytes)? {
                    let known = newer.contains(&Loc::Key(e.key.as_slice().into()));
                    status.tombstones += u64::from(!e.meta.is_alive() && !known);
                }
            }
        }
        let mut bytes = Vec::new();
        for record in self.overlay.table(t.id).filter_map(|(_, r)| r.as_ref()) {
            status.tombstones += u64::from(!record.row.meta.is_alive());
            crate::codec::put_row(&mut bytes, &record.row.meta, &Base::default());
        }
        status.metadata_bytes += bytes.len() as u64;
        Ok(status)
    }

    /// The table stood without triggers for a while; `status` tells of it until `crsql_as_crr` is called again.
    pub fn note_unwatched(&mut self, tbl: u32) -> Result<()> {
        let version = rejoin_sqlite::ValueRef::Integer(self.tail.db_version);
        self.set_meta(&unwatched_name(tbl), version)
    }

    pub fn forget_unwatched(&mut self, tbl: u32) -> Result<()> {
        let mut q = self.db.prepare_transient("DELETE FROM main.crsql_meta WHERE name = ?1")?;
        Ok(q.run(&[rejoin_sqlite::ValueRef::Text(unwatched_name(tbl).as_bytes())])?)
    }
}

fn unwatched_name(tbl: u32) -> String {
    format!("unwatched_{tbl}")
}
