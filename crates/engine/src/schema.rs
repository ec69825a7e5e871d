//! Making tables replicated, and following what DDL does to them.

use crate::capture;
use crate::catalog::{
    Catalog, KeyKind, LiveTable, SavedColumn, SavedTable, Table, build, check_replicable, describe, key_of,
    saved_tables, text,
};
use crate::columns::match_columns;
use crate::core::{Core, Txn};
use crate::error::{Error, Result};
use crate::format::{FORMAT, SCHEMA, quote};
use crate::names::TABLES;
use crate::observe::{Commit, commits};
use rejoin_sqlite::{Db, TxnState, ValueRef, ffi};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

fn random_i64() -> Result<i64> {
    let mut bytes = [0u8; 8];
    crate::ambient::fill(&mut bytes)?;
    Ok(i64::from_le_bytes(bytes) >> 1)
}

/// 64 random bits.
pub fn random_nonce() -> Result<u64> {
    let id = random_id()?;
    Ok(u64::from_le_bytes(std::array::from_fn(|i| id.get(i).copied().unwrap_or(0))))
}

/// A version-4 UUID (RFC 9562), as cr-sqlite makes site ids.
pub fn random_id() -> Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    crate::ambient::fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// A table of the file as `sqlite_schema` has it.
#[derive(Clone)]
struct Found {
    name: String,
    sql: String,
    root: i64,
}

/// `sqlite_schema` read once: looking at each table by pragmas would make many tables slow.
#[derive(Default)]
struct SchemaIndex {
    /// By lower-case name.
    tables: HashMap<String, Found>,
    /// Our triggers: name to the lower-case name of their table.
    triggers: HashMap<String, String>,
    /// Tables with triggers of the user's own.
    user: HashSet<String>,
}

impl SchemaIndex {
    fn read(db: Db) -> Result<SchemaIndex> {
        let mut q = db.prepare_transient(
            "SELECT type = 'table', name, tbl_name, rootpage, sql FROM main.sqlite_schema \
             WHERE type = 'trigger' OR (type = 'table' AND name NOT GLOB 'crsql_*')",
        )?;
        let mut index = SchemaIndex::default();
        while q.step()? {
            let (name, on) = (text(q.column_text(1)), text(q.column_text(2)).to_ascii_lowercase());
            if q.column_int(0) != 0 {
                let (sql, root) = (text(q.column_text(4)), q.column_int(3));
                index.tables.insert(on, Found { name, sql, root });
            } else if name.starts_with("crsql_") {
                index.triggers.insert(name, on);
            } else {
                index.user.insert(on);
            }
        }
        Ok(index)
    }

    /// The live table that a remembered one is now: its triggers went with it when it was renamed.
    fn find(&self, id: u32, name: &str) -> Option<&Found> {
        let lower = name.to_ascii_lowercase();
        let on = self.triggers.get(&format!("crsql_update_{id}")).unwrap_or(&lower);
        self.tables.get(on)
    }

    fn is_watched(&self, id: u32, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        let on = |kind: &str| self.triggers.get(&format!("crsql_{kind}_{id}")) == Some(&lower);
        ["insert", "update", "delete", "move"].into_iter().all(on)
    }

    fn has_user_triggers(&self, name: &str) -> bool {
        self.user.contains(&name.to_ascii_lowercase())
    }
}

/// What follows the name in the text of a CREATE TABLE.
fn body(sql: &str) -> Option<&str> {
    sql.find('(').and_then(|at| sql.get(at..))
}

impl Core {
    /// The write transaction has begun.
    pub fn begin(&mut self, may_write: bool) -> Result<()> {
        self.refresh(may_write)?;
        let (pending, seq) = (self.txn.pending, self.txn.seq);
        self.txn = Txn {
            joined: true,
            pending,
            seq,
            base_db_version: self.tail.db_version,
            committed_lsn: self.tail.lsn,
            ..Txn::default()
        };
        if may_write {
            self.leave_snapshot()?;
            self.note_moved()?;
        }
        Ok(())
    }

    /// Rowids were given out anew: the tables that have other keys are to be compared.
    pub fn note_moved(&mut self) -> Result<()> {
        if self.moved == Some(true) && !self.db.is_readonly() {
            let hashed = self.catalog.sorted().into_iter().filter(|t| t.kind == KeyKind::Hashed);
            self.rebuilt.extend(hashed.map(|t| t.id));
            self.place_witness()?;
            // The file that was dumped may live on, and two writers must not share an id.
            self.take_new_site()?;
            self.moved = Some(false);
        }
        Ok(())
    }

    /// The transaction is over.
    pub fn end(&mut self, committed: bool) -> Vec<Commit> {
        let txn = std::mem::take(&mut self.txn);
        if !committed {
            self.stale = true;
            self.catalog_stale = true;
            self.moved = None;
            return Vec::new();
        }
        // Nobody else wrote meanwhile: what is cached of the file holds on under its new version.
        if self.seen_data_version.is_some() {
            self.seen_data_version = self.db.data_version().ok();
        }
        commits(txn)
    }

    /// Makes the metadata tables if the file has none.
    pub fn ensure_ready(&mut self) -> Result<()> {
        self.refresh(true)?;
        if self.ready {
            return Ok(());
        }
        self.create_metadata(random_id()?)?;
        self.stale = true;
        self.refresh(true)
    }

    /// Makes the metadata tables of a replica with this site id.
    pub fn create_metadata(&mut self, site: [u8; 16]) -> Result<()> {
        self.db.exec(SCHEMA)?;
        self.ready = true;
        self.db
            .prepare_transient("INSERT INTO main.crsql_sites(ordinal, site_id) VALUES (0, ?1)")?
            .run(&[ValueRef::Blob(&site)])?;
        self.set_meta("format", ValueRef::Integer(FORMAT))?;
        self.set_meta("file_id", ValueRef::Integer(random_i64()?))?;
        self.set_meta("hash_key_0", ValueRef::Integer(random_i64()?))?;
        self.set_meta("hash_key_1", ValueRef::Integer(random_i64()?))?;
        self.set_meta("mode", ValueRef::Text(b"shared"))?;
        self.set_meta("clock", ValueRef::Text(b"hlc"))?;
        self.set_meta("merge-equal-values", ValueRef::Integer(0))?;
        self.set_meta("folded", ValueRef::Integer(0))?;
        self.set_meta("site", ValueRef::Integer(0))?;
        self.place_witness()
    }

    /// A row with a rowid chosen at random. Where rowids are given out anew (dump and restore, above all), it does
    /// not keep it, and with it we know that the rows of tables with other keys moved.
    fn place_witness(&mut self) -> Result<()> {
        let rowid = (random_i64()? & ((1 << 40) - 1)) + (1 << 32);
        self.db
            .prepare_transient("REPLACE INTO main.crsql_rowids(rowid, name) VALUES (?1, 'witness')")?
            .run(&[ValueRef::Integer(rowid)])?;
        self.set_meta("witness", ValueRef::Integer(rowid))
    }

    /// Whether the rowids of this file were given out anew since the metadata was written.
    pub fn rowids_moved(&self) -> Result<bool> {
        let mut q = self.db.prepare_transient(
            "SELECT (SELECT rowid FROM main.crsql_rowids WHERE name = 'witness') \
             IS NOT (SELECT value FROM main.crsql_meta WHERE name = 'witness')",
        )?;
        q.step()?;
        Ok(q.column_int(0) != 0)
    }

    /// Reads the schema; with `may_write`, follows what DDL did to replicated tables.
    pub fn load_catalog(&mut self, cookie: i64, may_write: bool) -> Result<()> {
        let mut cookie = cookie;
        let writes = may_write && self.cfg.schema != cookie && !self.db.is_readonly();
        if writes {
            self.reconcile()?;
            cookie = self.schema_version()?;
        }
        let index = SchemaIndex::read(self.db)?;
        let mut catalog = Catalog { cookie, ..Catalog::default() };
        for s in &saved_tables(self.db)? {
            let found = match index.find(s.id, &s.name) {
                Some(found) => Some(found.clone()),
                None => self.find_renamed(&index, s)?,
            };
            let Some(found) = found else {
                // Only a DROP that stands ends the table's life: a rebuild drops and makes it in one transaction.
                if !may_write && self.db.is_autocommit() {
                    self.seen_gone.insert(s.id);
                }
                continue;
            };
            let watched = self.cfg.owned || index.is_watched(s.id, &found.name);
            let rebuilt = self.cfg.owned && found.root != s.root && found.sql != s.sql;
            let user_triggers = index.has_user_triggers(&found.name);
            let known = self.catalog.get(s.id).filter(|t| {
                let same = (&t.sql, &t.name, t.user_triggers) == (&found.sql, &found.name, user_triggers);
                let id =
                    |name: &str| s.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)).map(|c| c.id);
                let whole = t.cols.len() == s.columns.len();
                same && whole
                    && t.unwatched != watched
                    && t.rebuilt == rebuilt
                    && t.cols.iter().all(|c| id(&c.name) == Some(c.id))
            });
            if let Some(known) = known {
                catalog.insert_shared(Rc::clone(known));
                continue;
            }
            let Some(live) = describe(self.db, &found.name)? else { continue };
            let altered = self.only_altered(s, &found, watched);
            let matched = match_columns(s, &live, self.next_column(s.id)?, altered);
            let mut table = build(self.db, s.id, &live, &matched.columns, !watched)?;
            table.rebuilt = rebuilt;
            table.unsure = matched.unsure;
            table.user_triggers = user_triggers;
            catalog.insert(table);
        }
        self.catalog = Rc::new(catalog);
        self.catalog_stale = false;
        self.stores.clear();
        if writes {
            self.set_meta("schema", ValueRef::Integer(cookie))?;
            self.cfg.schema = cookie;
        }
        self.hook.follow(self.db, self.cfg.owned, &self.catalog.sorted())
    }

    fn schema_version(&self) -> Result<i64> {
        let mut q = self.db.prepare_transient("PRAGMA main.schema_version")?;
        q.step()?;
        Ok(q.column_int(0))
    }

    /// Brings the remembered tables in line with the live ones.
    fn reconcile(&mut self) -> Result<()> {
        let index = SchemaIndex::read(self.db)?;
        for saved in saved_tables(self.db)? {
            if self.suspended.contains(&saved.id) {
                continue;
            }
            let found = match index.find(saved.id, &saved.name) {
                Some(found) => Some(found.clone()),
                None => self.find_renamed(&index, &saved)?,
            };
            let Some(found) = found.filter(|_| !self.seen_gone.contains(&saved.id)) else {
                self.seen_gone.remove(&saved.id);
                self.forget_table(saved.id, true)?;
                continue;
            };
            let watched = self.cfg.owned || index.is_watched(saved.id, &found.name);
            if found.sql == saved.sql && found.root == saved.root && watched && found.name == saved.name {
                continue;
            }
            if let Some(live) = describe(self.db, &found.name)? {
                let altered = self.only_altered(&saved, &found, watched);
                self.follow_table(&saved, &live, watched, altered)?;
            }
        }
        Ok(())
    }

    /// Whether it is the table that it was, not one made anew under its name: ALTER TABLE keeps the triggers, and the
    /// place in the file.
    fn only_altered(&self, saved: &SavedTable, found: &Found, watched: bool) -> bool {
        let by_place = self.cfg.owned || self.ending_alter == Some(saved.id);
        if by_place { found.root == saved.root } else { watched }
    }

    /// An owned file has no triggers to go with a renamed table. Its text stays but for the name, and its root page
    /// stays until VACUUM.
    fn find_renamed(&self, index: &SchemaIndex, saved: &SavedTable) -> Result<Option<Found>> {
        if !self.cfg.owned {
            return Ok(None);
        }
        let all = saved_tables(self.db)?;
        let is_new = |t: &&Found| !all.iter().any(|s| s.name.eq_ignore_ascii_case(&t.name));
        let same = |t: &&Found| body(&t.sql) == body(&saved.sql);
        let lost = |s: &&SavedTable| index.find(s.id, &s.name).is_none() && body(&s.sql) == body(&saved.sql);
        let mut alike = index.tables.values().filter(is_new).filter(same);
        if let (Some(found), None) = (alike.next(), alike.next())
            && all.iter().filter(lost).count() == 1
        {
            return Ok(Some(found.clone()));
        }
        let Some(found) = index.tables.values().find(|t| t.root == saved.root) else { return Ok(None) };
        let known = saved_tables(self.db)?.iter().any(|s| s.name.eq_ignore_ascii_case(&found.name));
        let Some(live) = describe(self.db, &found.name)?.filter(|_| !known) else { return Ok(None) };
        let has = |name: &str| live.columns.iter().any(|l| l.pk == 0 && l.name.eq_ignore_ascii_case(name));
        Ok(saved.columns.iter().all(|c| has(&c.name)).then(|| found.clone()))
    }

    fn follow_table(
        &mut self,
        saved: &SavedTable,
        live: &LiveTable,
        watched: bool,
        altered: bool,
    ) -> Result<()> {
        let (kind, keys) = match check_replicable(self.db, live).and_then(|()| key_of(self.db, live)) {
            Ok(key) => key,
            Err(e) if e.is_outside() => return Err(e),
            // What cannot be replicated any more stays readable as it is; `status` names it.
            Err(_) => return Ok(()),
        };
        if !live.name.eq_ignore_ascii_case(&saved.name) {
            self.give_name(TABLES, saved.id, &live.name)?;
        }
        if kind.number() != saved.kind || self.key_names(saved.id)? != key_names(&keys) {
            // Another key: no row is the one that it was.
            let name = live.name.clone();
            self.forget_table(saved.id, false)?;
            let table = self.adopt(&name)?;
            self.rebuilt.push(table.id);
            return Ok(());
        }
        let unsure = self.follow_columns(saved, live, altered)?;
        let rebuilt = unsure || !watched || (self.cfg.owned && live.root != saved.root);
        self.save_table(saved.id, live, kind, &key_names(&keys))?;
        if !watched {
            let columns = self.saved_columns(saved.id)?;
            let table = Rc::new(build(self.db, saved.id, live, &columns, false)?);
            if !self.cfg.owned {
                self.note_unwatched(saved.id)?;
                self.install_triggers(&table)?;
                let live = describe(self.db, &table.name)?.unwrap_or_else(|| live.clone());
                self.save_table(saved.id, &live, kind, &key_names(&keys))?;
            }
            self.stores.remove(&saved.id);
            self.put_in_catalog(&table);
        }
        if rebuilt {
            self.rebuilt.push(saved.id);
        }
        Ok(())
    }

    pub fn put_in_catalog(&mut self, table: &Rc<Table>) {
        let mut catalog = Catalog { cookie: self.catalog.cookie, ..Catalog::default() };
        for t in self.catalog.sorted().into_iter().filter(|t| t.id != table.id) {
            catalog.insert_shared(t);
        }
        catalog.insert_shared(Rc::clone(table));
        self.catalog = Rc::new(catalog);
    }

    fn saved_columns(&self, id: u32) -> Result<Vec<SavedColumn>> {
        let mut q = self.db.prepare_transient(
            "SELECT id, name, decl, pos FROM main.crsql_columns WHERE tbl = ?1 ORDER BY pos",
        )?;
        q.bind_int(1, i64::from(id))?;
        let mut all = Vec::new();
        while q.step()? {
            let id = u32::try_from(q.column_int(0)).map_err(|_| Error::damaged("column id"))?;
            let (name, decl) = (text(q.column_text(1)), text(q.column_text(2)));
            all.push(SavedColumn { id, name, decl, pos: q.column_int(3) });
        }
        Ok(all)
    }

    /// Columns added, dropped, renamed and moved since the table was remembered. Whether one that counts as new may hold values.
    fn follow_columns(&mut self, saved: &SavedTable, live: &LiveTable, altered: bool) -> Result<bool> {
        let tbl = saved.id;
        let matched = match_columns(saved, live, self.next_column(tbl)?, altered);
        for s in &matched.gone {
            self.end_column(tbl, s.id)?;
        }
        for c in &matched.columns {
            self.save_column(tbl, c)?;
        }
        for c in matched.columns.iter().filter(|c| matched.renamed.contains(&c.id)) {
            self.give_name(tbl, c.id, &c.name)?;
        }
        for c in matched.columns.iter().filter(|c| matched.added.contains(&c.id)) {
            self.name_column(tbl, c.id, &live.name, &c.name)?;
        }
        Ok(matched.unsure)
    }

    fn save_column(&mut self, tbl: u32, c: &SavedColumn) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "REPLACE INTO main.crsql_columns(tbl, id, name, decl, pos) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        Ok(q.run(&[
            ValueRef::Integer(i64::from(tbl)),
            ValueRef::Integer(i64::from(c.id)),
            ValueRef::Text(c.name.as_bytes()),
            ValueRef::Text(c.decl.as_bytes()),
            ValueRef::Integer(c.pos),
        ])?)
    }

    fn key_names(&self, tbl: u32) -> Result<String> {
        let mut q = self.db.prepare_transient("SELECT value FROM main.crsql_meta WHERE name = ?1")?;
        q.bind_text(1, format!("key_{tbl}").as_bytes())?;
        Ok(if q.step()? { text(q.column_text(0)) } else { String::new() })
    }

    fn save_table(&mut self, id: u32, live: &LiveTable, kind: KeyKind, keys: &str) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "REPLACE INTO main.crsql_tables(id, name, kind, root, sql) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        q.run(&[
            ValueRef::Integer(i64::from(id)),
            ValueRef::Text(live.name.as_bytes()),
            ValueRef::Integer(kind.number()),
            ValueRef::Integer(live.root),
            ValueRef::Text(live.sql.as_bytes()),
        ])?;
        self.set_meta(&format!("key_{id}"), ValueRef::Text(keys.as_bytes()))
    }

    fn make_stores(&mut self, id: u32, kind: KeyKind) -> Result<()> {
        if kind.has_rows() {
            self.db.exec(&format!(
                "CREATE TABLE main.crsql_rows_{id}(block INTEGER PRIMARY KEY, data BLOB NOT NULL)"
            ))?;
        }
        if kind.has_keys() {
            self.db.exec(&format!(
                "CREATE TABLE main.crsql_keys_{id}(id INTEGER PRIMARY KEY, first BLOB NOT NULL, data BLOB NOT NULL); \
                 CREATE UNIQUE INDEX main.crsql_keys_{id}_first ON crsql_keys_{id}(first)"
            ))?;
        }
        Ok(())
    }

    fn drop_stores(&mut self, id: u32) -> Result<()> {
        self.stores.remove(&id);
        self.overlay.drop_table(id);
        for store in ["rows", "keys"] {
            match self.db.exec(&format!("DROP TABLE IF EXISTS main.crsql_{store}_{id}")) {
                // SQLite drops nothing while a statement runs, and the one whose write told us of the DROP does. Ids are
                // never used again: empty it harms nobody until `drop_orphans`.
                Err(e) if e.code & 0xff == ffi::SQLITE_LOCKED => {
                    if self.db.txn_state() != TxnState::Write {
                        // Taking the DROP back failed with the disk, which ends the transaction and is not told.
                        let why = "disk I/O error; the transaction was rolled back";
                        return Err(rejoin_sqlite::Error::new(ffi::SQLITE_IOERR, why).into());
                    }
                    self.db.exec(&format!("DELETE FROM main.crsql_{store}_{id}"))?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Stores of tables that went while a statement ran.
    fn drop_orphans(&mut self) -> Result<()> {
        let mut q = self.db.prepare_transient(
            "SELECT CAST(substr(name, 12) AS INTEGER) AS id FROM main.sqlite_schema WHERE type = 'table' \
             AND (name GLOB 'crsql_rows_[0-9]*' OR name GLOB 'crsql_keys_[0-9]*') \
             AND id NOT IN (SELECT id FROM main.crsql_tables)",
        )?;
        let mut orphans = Vec::new();
        while q.step()? {
            orphans.push(q.column_int(0) as u32);
        }
        drop(q);
        orphans.into_iter().try_for_each(|id| self.drop_stores(id))
    }

    pub fn install_triggers(&mut self, t: &Table) -> Result<()> {
        self.drop_triggers(t.id)?;
        for (_, sql) in capture::triggers(t, self.cfg.file_id) {
            self.db.exec(&sql)?;
        }
        Ok(())
    }

    pub fn drop_triggers(&mut self, id: u32) -> Result<()> {
        for kind in ["insert", "update", "delete", "move", "replace", "onto"] {
            self.db.exec(&format!("DROP TRIGGER IF EXISTS main.crsql_{kind}_{id}"))?;
        }
        Ok(())
    }

    /// The table is gone, and if it was dropped, its life here has ended; as a plain table it keeps its names.
    pub fn forget_table(&mut self, id: u32, ended: bool) -> Result<()> {
        // What the overlay holds of other tables must not be lost with a later fold.
        self.fold()?;
        self.drop_triggers(id)?;
        self.drop_stores(id)?;
        self.db.exec(&format!(
            "DELETE FROM main.crsql_waiting WHERE tbl = {id}; DELETE FROM main.crsql_wanted WHERE tbl = {id}; \
             DELETE FROM main.crsql_tables WHERE id = {id}; \
             DELETE FROM main.crsql_meta WHERE name IN ('key_{id}', 'unwatched_{id}')"
        ))?;
        if ended {
            self.names_written += 1;
            self.db.exec(&format!(
                "DELETE FROM main.crsql_columns WHERE tbl = {id}; DELETE FROM main.crsql_names WHERE tbl = {id}"
            ))?;
            self.end_names(TABLES, id)?;
        }
        self.parked_rows = None;
        Ok(())
    }

    /// `crsql_as_crr`: true if the table was not replicated before.
    pub fn adopt(&mut self, name: &str) -> Result<Rc<Table>> {
        let live = describe(self.db, name)?
            .ok_or_else(|| Error::NoTable { table: name.into(), why: "does not exist" })?;
        check_replicable(self.db, &live)?;
        let (kind, keys) = key_of(self.db, &live)?;
        let mut q = self.db.prepare_transient(
            "SELECT max(coalesce((SELECT max(id) FROM main.crsql_tables), 0), \
             coalesce((SELECT value FROM main.crsql_meta WHERE name = 'last_table'), 0)) + 1",
        )?;
        q.step()?;
        let id = q.column_int(0) as u32;
        drop(q);
        self.set_meta("last_table", ValueRef::Integer(i64::from(id)))?;
        self.save_table(id, &live, kind, &key_names(&keys))?;
        self.make_stores(id, kind)?;
        self.adopt_names(id, &live, kind)?;
        let columns = self.saved_columns(id)?;
        let table = Rc::new(build(self.db, id, &live, &columns, false)?);
        if !self.cfg.owned {
            self.install_triggers(&table)?;
        }
        self.put_in_catalog(&table);
        Ok(table)
    }

    /// The names of a table that becomes replicated, and of its columns. If it was replicated before, they are what they
    /// were; if only others told of it, its columns are those of theirs that share their first life.
    fn adopt_names(&mut self, id: u32, live: &LiveTable, kind: KeyKind) -> Result<()> {
        let waits = self.waits_for(TABLES, &live.name)?;
        let was = match waits {
            Some(waits) => self.saved_columns(waits)?,
            None => Vec::new(),
        };
        let again = waits.filter(|_| !was.is_empty());
        let (name, sql) = (live.name.clone(), live.sql.clone());
        let saved = SavedTable { id, name, kind: kind.number(), root: live.root, sql, columns: was };
        if let Some(waits) = again {
            self.renumber_table(waits, id)?;
            return self.readopt_columns(&saved, live);
        }
        self.follow_columns(&saved, live, false)?;
        self.name_table(id, &live.name)
    }

    /// Every row of a table that is replicated again is stamped anew: its columns are numbered by their places again.
    fn readopt_columns(&mut self, saved: &SavedTable, live: &LiveTable) -> Result<()> {
        let tbl = saved.id;
        let matched = match_columns(saved, live, self.next_column(tbl)?, false);
        for s in &matched.gone {
            self.end_column(tbl, s.id)?;
        }
        self.set_columns_aside(tbl)?;
        let mut named = Vec::new();
        for (n, c) in matched.columns.into_iter().enumerate() {
            let (old, id) = (c.id, n as u32);
            if matched.added.contains(&old) {
                named.push((id, c.name.clone()));
            } else {
                self.take_back_column(tbl, old, id)?;
                named.extend(matched.renamed.contains(&old).then(|| (id, c.name.clone())));
            }
            self.save_column(tbl, &SavedColumn { id, ..c })?;
        }
        self.leave_columns_aside(tbl)?;
        named.iter().try_for_each(|(id, name)| self.give_name(tbl, *id, name))
    }

    fn end_column(&mut self, tbl: u32, id: u32) -> Result<()> {
        let at = [tbl, id].map(|n| ValueRef::Integer(i64::from(n)));
        for sql in [
            "DELETE FROM main.crsql_columns WHERE tbl = ?1 AND id = ?2",
            "DELETE FROM main.crsql_waiting WHERE tbl = ?1 AND col = ?2",
        ] {
            self.db.prepare_transient(sql)?.run(&at)?;
        }
        self.parked_rows = None;
        // What arrives for a dropped column is kept for others and never shown here.
        self.end_names(tbl, id)
    }

    /// Follows what our own DDL did, and remembers the schema version that it led to.
    pub fn settle(&mut self) -> Result<()> {
        self.drop_orphans()?;
        let cookie = self.schema_version()?;
        self.load_catalog(cookie, true)
    }

    /// `main.t` or `t`, with or without quotes: the table meant, or an error for other schemas.
    pub fn table_argument(schema: Option<&str>, table: &str) -> Result<String> {
        match schema {
            Some(s) if !s.eq_ignore_ascii_case("main") => Err(Error::NoTable {
                table: format!("{s}.{table}"),
                why: "is not in the main database; only main is replicated",
            }),
            _ => Ok(table.to_owned()),
        }
    }
}

fn key_names(keys: &[crate::catalog::KeyColumn]) -> String {
    let names: Vec<String> = keys
        .iter()
        .map(|k| format!("{}:{:?}:{:?}", quote(&k.name).to_ascii_lowercase(), k.affinity, k.fold))
        .collect();
    names.join(",")
}
