//! Which site belongs to whom and what each subject has used: tables of the server's own in the room's file, which no
//! snapshot carries. How much each replica has acknowledged is noted by the engine, for the horizon.

use crate::app::now_ms;
use rejoin::{Position, Replica, ReplicaNote, SiteId, VersionVector, Void};
use rejoin_wire::frame::{Code, Fault, Id};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeSet, HashMap};

/// Tables that are stripped from snapshots.
pub const TABLES: [&str; 4] =
    ["rejoin_server_sites", "rejoin_server_subjects", "rejoin_server_state", "rejoin_server_voids"];

pub const DDL: &str = "\
    CREATE TABLE IF NOT EXISTS rejoin_server_sites (site BLOB PRIMARY KEY NOT NULL, subject TEXT NOT NULL, \
        first_ms INTEGER NOT NULL) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS rejoin_server_subjects (subject TEXT PRIMARY KEY NOT NULL, bytes INTEGER NOT NULL) \
        WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS rejoin_server_state (name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS rejoin_server_voids (site BLOB NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (site, version)) \
        WITHOUT ROWID;";

#[derive(Default)]
struct Usage {
    sites: usize,
    bytes: u64,
    changed: bool,
}

impl Usage {
    /// The bytes, which are about to be written.
    fn taken(&mut self) -> u64 {
        self.changed = false;
        self.bytes
    }
}

#[derive(Clone, Copy, Default)]
struct Note {
    upto: i64,
    seen_ms: u64,
    changed: bool,
}

#[derive(Default)]
pub struct Members {
    sites: HashMap<Id, String>,
    subjects: HashMap<String, Usage>,
    /// Up to which of the room's versions each replica has acknowledged everything, and when it was last there.
    notes: HashMap<Id, Note>,
    /// When the room last forgot what all have acknowledged; a new room begins now.
    pub collected_ms: u64,
    /// The versions that were rejected and given up, of which clients are told again that hold them.
    pub voids: VersionVector,
}

impl Members {
    pub fn load(replica: &Replica) -> Result<Members, rejoin::Error> {
        let conn = replica.connection();
        conn.execute_batch(DDL)?;
        let mut members = Members::default();
        for note in replica.replicas()? {
            let seen_ms = u64::try_from(note.seen_ms).unwrap_or(0);
            members.notes.insert(note.site.0, Note { upto: note.upto.0, seen_ms, changed: false });
        }
        let mut q = conn.prepare("SELECT site, subject FROM rejoin_server_sites")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, Id>(0)?, r.get::<_, String>(1)?)))?;
        for row in rows {
            let (site, subject) = row?;
            members.put(site, &subject);
        }
        let mut q = conn.prepare("SELECT subject, bytes FROM rejoin_server_subjects")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)))?;
        for row in rows {
            let (subject, bytes) = row?;
            members.subjects.entry(subject).or_default().bytes = u64::try_from(bytes).unwrap_or(0);
        }
        let mut q = conn.prepare("SELECT site, version FROM rejoin_server_voids")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, Id>(0)?, r.get::<_, i64>(1)?)))?;
        for row in rows {
            let (site, version) = row?;
            members.voids.insert(SiteId(site), u64::try_from(version).unwrap_or(0));
        }
        let at = "SELECT value FROM rejoin_server_state WHERE name = 'collected_ms'";
        match conn.query_row(at, [], |r| r.get::<_, i64>(0)).optional()? {
            Some(at) => members.collected_ms = u64::try_from(at).unwrap_or(0),
            None => members.note_collected(conn)?,
        }
        Ok(members)
    }

    pub fn note_collected(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.collected_ms = now_ms();
        let sql = "REPLACE INTO rejoin_server_state (name, value) VALUES ('collected_ms', ?1)";
        conn.execute(sql, [self.collected_ms as i64]).map(drop)
    }

    pub fn note_voids(&mut self, conn: &Connection, voids: &[Void]) -> rusqlite::Result<()> {
        let mut q =
            conn.prepare("INSERT OR IGNORE INTO rejoin_server_voids (site, version) VALUES (?1, ?2)")?;
        for v in voids {
            q.execute(params![v.site.0, v.version as i64])?;
            self.voids.insert(v.site, v.version);
        }
        Ok(())
    }

    /// Who holds a part of the horizon and lacks another starts over anyway, and who holds all of it has been told.
    pub fn forget_voids(&mut self, conn: &Connection, horizon: &VersionVector) -> rusqlite::Result<()> {
        let mut q =
            conn.prepare("DELETE FROM rejoin_server_voids WHERE site = ?1 AND version BETWEEN ?2 AND ?3")?;
        for (site, ranges) in self.voids.common(horizon).iter() {
            for r in ranges.iter() {
                q.execute(params![site.0, *r.start() as i64, *r.end() as i64])?;
            }
        }
        self.voids = self.voids.missing_from(horizon);
        Ok(())
    }

    fn put(&mut self, site: Id, subject: &str) {
        if self.sites.insert(site, subject.to_owned()).is_none() {
            self.subjects.entry(subject.to_owned()).or_default().sites += 1;
        }
    }

    pub fn subject_of(&self, site: &Id) -> Option<&str> {
        self.sites.get(site).map(String::as_str)
    }

    pub fn sites_of(&self, subject: &str) -> usize {
        self.subjects.get(subject).map_or(0, |s| s.sites)
    }

    pub fn bytes_of(&self, subject: &str) -> u64 {
        self.subjects.get(subject).map_or(0, |s| s.bytes)
    }

    pub fn used(&mut self, subject: &str, bytes: u64) {
        let usage = self.subjects.entry(subject.to_owned()).or_default();
        usage.bytes = usage.bytes.saturating_add(bytes);
        usage.changed = true;
    }

    /// A client of this site: it is its subject's from the first time on.
    pub fn admit(&mut self, conn: &Connection, site: Id, subject: &str, sites_max: u32) -> Result<(), Fault> {
        let fault = |code, message: String| Fault { code, message, retry_after_ms: None };
        match self.subject_of(&site) {
            Some(owner) if owner == subject => {}
            Some(_) => {
                let message = format!("site {} belongs to another subject", SiteId(site));
                return Err(fault(Code::ForeignSite, message));
            }
            None if self.sites_of(subject) >= sites_max as usize => {
                let message = format!("subject \"{subject}\" has its {sites_max} sites");
                return Err(fault(Code::Limited, message));
            }
            None => {
                let claimed = self.claim(conn, &BTreeSet::from([SiteId(site)]), subject);
                claimed.map_err(|e| crate::rooms::failed(&e))?;
            }
        }
        // As long as it has acknowledged nothing, nothing is forgotten.
        let note = self.notes.entry(site).or_default();
        (note.seen_ms, note.changed) = (now_ms(), true);
        Ok(())
    }

    pub fn claim(
        &mut self,
        conn: &Connection,
        sites: &BTreeSet<SiteId>,
        subject: &str,
    ) -> rusqlite::Result<()> {
        for site in sites {
            conn.execute(
                "INSERT OR IGNORE INTO rejoin_server_sites (site, subject, first_ms) VALUES (?1, ?2, ?3)",
                params![site.0, subject, now_ms() as i64],
            )?;
            self.put(site.0, subject);
        }
        Ok(())
    }

    /// Writes what is only in memory, and what the replicas have acknowledged.
    pub fn flush(&mut self, replica: &Replica, acknowledged: Vec<(Id, i64)>) -> Result<(), rejoin::Error> {
        for (site, upto) in acknowledged {
            let note = self.notes.entry(site).or_default();
            *note = Note { upto: note.upto.max(upto), seen_ms: now_ms(), changed: true };
        }
        let used = self.subjects.iter_mut().filter(|(_, usage)| usage.changed);
        let used: Vec<_> = used.map(|(subject, usage)| (subject, usage.taken())).collect();
        let notes: Vec<_> = self.notes.iter_mut().filter(|(_, note)| note.changed).collect();
        if used.is_empty() && notes.is_empty() {
            return Ok(());
        }
        let transaction = replica.connection().unchecked_transaction()?;
        for (subject, bytes) in used {
            transaction.execute(
                "INSERT INTO rejoin_server_subjects (subject, bytes) VALUES (?1, ?2) \
                 ON CONFLICT (subject) DO UPDATE SET bytes = excluded.bytes",
                params![subject, bytes as i64],
            )?;
        }
        for (site, note) in notes {
            let (upto, seen_ms) = (Position(note.upto), note.seen_ms as i64);
            replica.remember_replica(&ReplicaNote { site: SiteId(*site), upto, seen_ms })?;
            note.changed = false;
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_belong_to_the_first_subject_and_survive() {
        let replica = Replica::open(":memory:").unwrap();
        let conn = replica.connection();
        let mut members = Members::load(&replica).unwrap();
        let (one, two, three) = ([1; 16], [2; 16], [3; 16]);
        assert!(members.admit(conn, one, "ann", 2).is_ok());
        assert!(members.admit(conn, one, "ann", 1).is_ok());
        assert_eq!(members.admit(conn, one, "bob", 2).map_err(|f| f.code), Err(Code::ForeignSite));
        assert!(members.admit(conn, two, "ann", 2).is_ok());
        assert_eq!(members.admit(conn, three, "ann", 2).map_err(|f| f.code), Err(Code::Limited));
        members.used("ann", 7);
        members.flush(&replica, vec![(one, 42)]).unwrap();
        members.flush(&replica, vec![(one, 41)]).unwrap();
        let again = Members::load(&replica).unwrap();
        assert_eq!(
            (again.subject_of(&two), again.sites_of("ann"), again.bytes_of("ann")),
            (Some("ann"), 2, 7)
        );
        let uptos: Vec<_> = replica.replicas().unwrap().iter().map(|r| (r.site.0, r.upto.0)).collect();
        assert_eq!(uptos, [(one, 42), (two, 0)]);
    }
}
