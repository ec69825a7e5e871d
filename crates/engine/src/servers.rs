//! What a replica knows of its server, kept in the file: so `pending` is right offline and after a crash.

use crate::core::{Core, LogRow};
use crate::cut::{count, only, only_of};
use crate::error::{Error, Result};
use crate::replica::Replica;
use crate::session::settled;
use crate::{SiteId, VersionVector};
use rejoin_sqlite::ValueRef;
use std::collections::HashSet;

/// The server that this replica syncs with, and what it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNote {
    /// `ws://HOST:PORT/ROOM`.
    pub url: String,
    /// The site of the room's file.
    pub site: SiteId,
    pub lineage: [u8; 16],
    /// What the server has applied and acknowledged.
    pub acknowledged: VersionVector,
    /// It takes transactions of foreign sites from this replica.
    pub relay: bool,
}

/// What the server has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// This replica's own transactions. Without a server, all of them.
    pub transactions: u64,
    /// Roughly what they take to send.
    pub bytes: u64,
}

/// What a changed row takes on the wire, more or less.
const ROW_BYTES: u64 = 24;

const NAMES: [&str; 5] = ["server-url", "server-site", "server-lineage", "server-vector", "server-relay"];

impl Replica {
    /// Notes the server, in place of the one that was noted before.
    pub fn remember_server(&self, note: &ServerNote) -> Result<()> {
        settled(&self.engine, |core| {
            core.set_meta("server-url", ValueRef::Text(note.url.as_bytes()))?;
            core.set_meta("server-site", ValueRef::Blob(note.site.as_bytes()))?;
            core.set_meta("server-lineage", ValueRef::Blob(&note.lineage))?;
            core.set_meta("server-vector", ValueRef::Blob(&note.acknowledged.encode()))?;
            core.set_meta("server-relay", ValueRef::Integer(i64::from(note.relay)))
        })
    }

    /// From here on the replica has no server.
    pub fn forget_server(&self) -> Result<()> {
        settled(&self.engine, |core| {
            let mut del = core.db.prepare_transient("DELETE FROM main.crsql_meta WHERE name = ?1")?;
            NAMES.iter().try_for_each(|name| del.run(&[ValueRef::Text(name.as_bytes())]).map_err(Error::from))
        })
    }

    /// The server that was noted last.
    pub fn server(&self) -> Result<Option<ServerNote>> {
        self.reading(|e| e.core()?.server())
    }

    /// How much the server has still to get and acknowledge.
    pub fn pending(&self) -> Result<Pending> {
        self.reading(|e| {
            let mut core = e.core()?;
            if !core.ready {
                return Ok(Pending::default());
            }
            let unsent = core.unacknowledged()?;
            let rows = core.rows_of(&unsent)?.iter().map(|row| row.changes.row_estimate()).sum::<u64>();
            Ok(Pending { transactions: count(&unsent), bytes: rows * ROW_BYTES })
        })
    }

    /// Whether another connection, of this process or another, has committed to the file since this was last called, or since
    /// the replica was opened. Cheap enough to be asked many times a second. Inside a
    /// transaction nothing new is seen; a change of the journal mode counts, too.
    pub fn changed_outside(&self) -> Result<bool> {
        self.engine.core()?.changed_outside()
    }
}

impl Core {
    pub fn server(&self) -> Result<Option<ServerNote>> {
        if !self.ready {
            return Ok(None);
        }
        let mut q = self.db.prepare_transient("SELECT value FROM main.crsql_meta WHERE name = ?1")?;
        let mut get = |name: &str| -> Result<Option<Vec<u8>>> {
            Ok(q.query_row(&[ValueRef::Text(name.as_bytes())], |q| Ok(q.column_blob(0).to_vec()))?)
        };
        let Some(url) = get("server-url")? else { return Ok(None) };
        let damaged = || Error::damaged("what is noted of the server");
        let id = |bytes: Option<Vec<u8>>| <[u8; 16]>::try_from(bytes?).ok();
        Ok(Some(ServerNote {
            url: String::from_utf8(url).map_err(|_| damaged())?,
            site: SiteId(id(get("server-site")?).ok_or_else(damaged)?),
            lineage: id(get("server-lineage")?).ok_or_else(damaged)?,
            acknowledged: VersionVector::decode(&get("server-vector")?.ok_or_else(damaged)?)
                .map_err(|_| damaged())?,
            relay: get("server-relay")?.as_deref() == Some(b"1"),
        }))
    }

    /// This replica's own transactions that its server has not acknowledged.
    pub fn unacknowledged(&self) -> Result<VersionVector> {
        let acknowledged = self.server()?.map(|s| s.acknowledged).unwrap_or_default();
        Ok(only_of(&self.vector.missing_from(&acknowledged), &self.own_sites()))
    }

    /// Takes out of a changeset for others the transactions that only the server may have: it can still refuse them.
    /// Returns which of them the receiver need not hold for it.
    ///
    /// Where the changeset has transactions on a table that the withheld ones touch too, cells of theirs may be missing from it
    /// because of these, and without them it is no state of the table: they stay in the base, so that the receiver refuses the
    /// changeset, or takes the cells without counting the transactions as held.
    pub fn withhold(
        &mut self,
        rows: &mut Vec<LogRow>,
        brings: &mut VersionVector,
        theirs: &VersionVector,
    ) -> Result<VersionVector> {
        if self.server()?.is_none() {
            return Ok(VersionVector::new());
        }
        // Under a former id stands what the server once had.
        let own = self.own_site();
        let withheld = only(&self.unacknowledged()?, &own).missing_from(theirs);
        if withheld.is_empty() {
            return Ok(withheld);
        }
        *brings = brings.missing_from(&withheld);
        rows.retain(|r| {
            self.sites.id(r.header.site) != Some(own) || !withheld.contains(&own, r.header.version)
        });
        let touched = |rows: &[LogRow]| -> HashSet<Option<u32>> {
            let parked = rows.iter().any(|r| r.changes.parked).then_some(None);
            rows.iter().flat_map(|r| r.changes.tables.keys().copied().map(Some)).chain(parked).collect()
        };
        let apart = touched(&self.rows_of(&withheld)?).is_disjoint(&touched(rows));
        Ok(if apart { withheld } else { VersionVector::new() })
    }
}
