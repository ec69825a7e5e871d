//! One database under the engine, and its model beside it.

use super::program::{Key, MADE, Set, Stmt, schema};
use super::sql;
use rejoin_crdt::{SiteId, Value};
use rejoin_sim::{Change, Clock, Op, Replica, TableDef};
use rusqlite::Connection;
use rusqlite::types::{Value as Sql, ValueRef};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(0) };
}

fn now_ms() -> i64 {
    NOW_MS.get()
}

pub type Check<T = ()> = Result<T, String>;

pub fn told<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Check<T> {
    result.map_err(|e| format!("{what}: {e}"))
}

pub struct Peer {
    path: PathBuf,
    conns: Vec<Option<rejoin::Replica>>,
    pub model: Replica,
    /// Key columns of each table, by the name that it has now, and how it is laid out.
    pub tables: BTreeMap<String, (TableDef, bool)>,
    /// Failing statements and rollbacks left holes in the numbers: they are not compared.
    pub loose: bool,
    /// A transaction of a changeset that lost everywhere has a version here and none in the model: they are not
    /// compared any more.
    pub adrift: bool,
    /// Rows that the open transaction updated, by table and key identity.
    updated: HashSet<(String, Key)>,
    pub layout: u8,
}

pub fn open(path: &Path) -> Check<rejoin::Replica> {
    let replica = told("open", rejoin::Replica::open(path))?;
    told("clock", replica.set_clock(now_ms))?;
    told("settings", replica.connection().execute_batch("PRAGMA synchronous = OFF"))?;
    Ok(replica)
}

fn select<T>(
    conn: &Connection,
    text: &str,
    f: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Check<Vec<T>> {
    let mut stmt = told(text, conn.prepare(text))?;
    let rows = told(text, stmt.query_map([], f))?;
    told(text, rows.collect())
}

fn value(v: ValueRef<'_>) -> Value {
    match v {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Int(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => Value::Text(t.to_vec()),
        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
    }
}

fn to_sql(v: &Value) -> Sql {
    match v {
        Value::Null => Sql::Null,
        Value::Int(i) => Sql::Integer(*i),
        Value::Real(r) => Sql::Real(*r),
        Value::Text(t) => Sql::Text(String::from_utf8_lossy(t).into_owned()),
        Value::Blob(b) => Sql::Blob(b.clone()),
    }
}

impl Peer {
    pub fn new(
        path: PathBuf,
        number: usize,
        clock: Clock,
        equal: bool,
        layout: u8,
        owned: bool,
    ) -> Check<Peer> {
        let site = SiteId([number as u8 + 1; 16]);
        let mut model = Replica::new(site);
        (model.clock, model.merge_equal_values) = (clock, equal);
        NOW_MS.set(model.now_ms);
        let conn = open(&path)?;
        let wal = if layout & 8 == 0 { "PRAGMA journal_mode = WAL;" } else { "" };
        let mut text = format!("{wal} BEGIN;");
        let mut tables = BTreeMap::new();
        for (n, def) in schema().into_iter().enumerate() {
            let without = layout & (1 << n) != 0;
            text += &sql::create(&def, &def.name, without);
            text += &format!("; SELECT crsql_as_crr('{}');", def.name);
            told("model", model.apply(Op::CreateTable(def.clone())))?;
            tables.insert(def.name.clone(), (def, without));
        }
        let clock = if clock == Clock::Lamport { "lamport" } else { "hlc" };
        text += &format!(
            "SELECT crsql_config_set('clock', '{clock}'); SELECT crsql_config_set('merge-equal-values', {});",
            i32::from(equal)
        );
        text += "COMMIT;";
        if owned {
            text += "SELECT crsql_config_set('mode', 'owned');";
        }
        told(&text, conn.connection().execute_batch(&text))?;
        drop(conn);
        // Ids by number: which of two equal values wins must not differ from run to run.
        let plain = told("open", Connection::open(&path))?;
        let hex = format!("{:02x}", number + 1).repeat(16);
        let set = format!("UPDATE crsql_sites SET site_id = x'{hex}'");
        told("site id", plain.execute_batch(&set))?;
        let conns = vec![None, None];
        Ok(Peer { path, conns, model, tables, loose: false, adrift: false, updated: HashSet::new(), layout })
    }

    pub fn conn(&mut self, n: usize) -> Check<&Connection> {
        Ok(self.replica(n)?.connection())
    }

    pub fn replica(&mut self, n: usize) -> Check<&rejoin::Replica> {
        NOW_MS.set(self.model.now_ms);
        let slot = self.conns.get_mut(n).ok_or("no such connection")?;
        if slot.is_none() {
            *slot = Some(open(&self.path)?);
        }
        slot.as_ref().ok_or_else(|| "no connection".to_owned())
    }

    /// A snapshot that goes on under this id.
    pub fn snapshot(&mut self, path: &Path, site: SiteId) -> Check<PathBuf> {
        told("snapshot", self.replica(0)?.snapshot_to(path, &[]))?;
        drop(told("from snapshot", rejoin::Replica::from_snapshot(path))?);
        let plain = told("open", Connection::open(path))?;
        let set = "UPDATE crsql_sites SET site_id = ?1 WHERE ordinal = (SELECT value FROM crsql_meta WHERE name = 'site')";
        told("site id", plain.execute(set, [site.as_bytes()]))?;
        Ok(path.to_owned())
    }

    /// Goes on with a snapshot of another, and what only this one has.
    pub fn start_over(
        &mut self,
        file: &Path,
        tables: BTreeMap<String, (TableDef, bool)>,
        layout: u8,
    ) -> Check {
        let fresh = open(file)?;
        let replayed = told("replay", self.replica(0)?.replay_onto(&fresh))?;
        if std::env::var("REJOIN_TRACE").is_ok() {
            eprintln!("{} starts over: {replayed:?}", self.path.display());
        }
        drop(fresh);
        self.reopen();
        for rest in ["-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(rest);
            let _ = std::fs::remove_file(path);
        }
        told("rename", std::fs::rename(file, &self.path))?;
        (self.tables, self.layout, self.loose, self.adrift) = (tables, layout, true, true);
        Ok(())
    }

    pub fn reopen(&mut self) {
        self.conns = vec![None, None];
    }

    pub fn keys(&self, table: &str) -> Vec<String> {
        let def = self.tables.get(table);
        def.map_or_else(Vec::new, |(def, _)| def.key.iter().map(|k| k.name.clone()).collect())
    }

    /// Runs SQL text; false: it failed, which is for the model to say as well.
    pub fn execute(&mut self, n: usize, text: &str) -> Check<bool> {
        if std::env::var("REJOIN_TRACE").is_ok() {
            eprintln!("{} {n}: {text}", self.path.display());
        }
        match self.conn(n)?.execute_batch(text) {
            Ok(()) => Ok(true),
            Err(e) => {
                let told = e.to_string();
                if std::env::var("REJOIN_TRACE").is_ok() {
                    eprintln!("  {told}");
                }
                if told.contains("constraint failed") { Ok(false) } else { Err(format!("{text}: {told}")) }
            }
        }
    }

    /// `crsql_changes` after a version.
    pub fn changes(&mut self, n: usize, since: i64) -> Check<Vec<Change>> {
        self.listed(n, &format!("db_version > {since}"))
    }

    fn listed(&mut self, n: usize, filter: &str) -> Check<Vec<Change>> {
        let text = format!(
            "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes WHERE {filter}"
        );
        select(self.conn(n)?, &text, |row| {
            Ok(Change {
                table: row.get(0)?,
                pk: row.get(1)?,
                cid: row.get(2)?,
                val: value(row.get_ref(3)?),
                col_version: row.get(4)?,
                db_version: row.get(5)?,
                site_id: SiteId::from_slice(row.get_ref(6)?.as_blob().unwrap_or(&[])).unwrap_or_default(),
                cl: row.get(7)?,
                seq: row.get(8)?,
            })
        })
    }

    /// Rows of a table in the order in which a statement over all of it meets them; key columns first.
    pub fn rows(&mut self, n: usize, table: &str) -> Check<Vec<Vec<Value>>> {
        let text = format!("SELECT * FROM {}", sql::quote(table));
        select(self.conn(n)?, &text, |row| {
            (0..row.as_ref().column_count()).map(|i| Ok(value(row.get_ref(i)?))).collect()
        })
    }

    fn number(&mut self, n: usize, text: &str) -> Check<i64> {
        told(text, self.conn(n)?.query_row(text, [], |row| row.get(0)))
    }

    pub fn db_version(&mut self, n: usize) -> Check<i64> {
        self.number(n, "SELECT crsql_db_version()")
    }

    pub fn rows_impacted(&mut self, n: usize) -> Check<i64> {
        self.number(n, "SELECT crsql_rows_impacted()")
    }

    pub fn insert_change(&mut self, n: usize, c: &Change) -> Check {
        if std::env::var("REJOIN_TRACE").is_ok() {
            eprintln!("{} {n}: merge {c:?}", self.path.display());
        }
        let conn = self.conn(n)?;
        let stmt = conn.prepare("INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        let mut stmt = told("merge", stmt)?;
        let params = rusqlite::params![
            c.table,
            c.pk,
            c.cid,
            to_sql(&c.val),
            c.col_version,
            c.db_version,
            c.site_id.as_bytes(),
            c.cl,
            c.seq
        ];
        told(&format!("{c:?}"), stmt.execute(params)).map(drop)
    }

    /// The model's statement in SQL.
    pub fn text(&self, op: &Op) -> Option<String> {
        Some(match op {
            Op::Insert { table, key, values, or_replace } => {
                let columns: Vec<String> = values.iter().map(|(name, _)| name.clone()).collect();
                let row = key.iter().chain(values.iter().map(|(_, v)| v)).cloned().collect();
                let or = if *or_replace { "OR REPLACE" } else { "" };
                sql::insert(table, or, &self.keys(table), &columns, &[row])
            }
            Op::Update { table, key, set } => {
                let at = sql::condition(&self.keys(table), key);
                format!("UPDATE {} SET {} WHERE {at}", sql::quote(table), sql::assignments(set))
            }
            Op::SetKey { table, key, to, set, or_replace } => {
                let at = sql::condition(&self.keys(table), key);
                let mut all: Set = self.keys(table).into_iter().zip(to.iter().cloned()).collect();
                all.extend(set.iter().cloned());
                let or = if *or_replace { " OR REPLACE" } else { "" };
                format!("UPDATE{or} {} SET {} WHERE {at}", sql::quote(table), sql::assignments(&all))
            }
            Op::Delete { table, key } => {
                let at = sql::condition(&self.keys(table), key);
                format!("DELETE FROM {} WHERE {at}", sql::quote(table))
            }
            Op::AddColumn { table, column } => sql::add_column(table, column),
            Op::DropColumn { table, column } => {
                format!("ALTER TABLE {} DROP COLUMN {}", sql::quote(table), sql::quote(column))
            }
            Op::RenameColumn { table, column, to } => {
                format!(
                    "ALTER TABLE {} RENAME COLUMN {} TO {}",
                    sql::quote(table),
                    sql::quote(column),
                    sql::quote(to)
                )
            }
            Op::RenameTable { table, to } => {
                format!("ALTER TABLE {} RENAME TO {}", sql::quote(table), sql::quote(to))
            }
            Op::DropTable { table } => format!("DROP TABLE {}", sql::quote(table)),
            Op::CreateTable(_) | Op::CommitAlter { .. } => return None,
        })
    }

    /// Makes a schema change that the model made.
    pub fn alter(&mut self, op: &Op) -> Check {
        match (self.text(op), op) {
            (Some(text), _) => self.execute(0, &text)?,
            (None, Op::CreateTable(def)) => {
                let text = sql::create(def, &def.name, false);
                self.execute(0, &format!("{text}; SELECT crsql_as_crr('{}')", def.name))?
            }
            (None, _) => false,
        };
        match op {
            Op::RenameTable { table, to } => {
                if let Some(def) = self.tables.remove(table) {
                    self.tables.insert(to.clone(), def);
                }
            }
            Op::DropTable { table } => drop(self.tables.remove(table)),
            Op::CreateTable(def) => {
                let made = TableDef { name: MADE.to_owned(), ..def.clone() };
                self.tables.insert(def.name.clone(), (made, false));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a listed change is of something that is here.
    pub fn has(&self, table: &str, cid: &str) -> bool {
        let columns = self.model.columns(table);
        columns.is_some_and(|all| cid == "-1" || all.iter().any(|c| c.name == cid))
    }

    /// The 12-step rebuild: the same table made anew. True: there is such a table.
    pub fn rebuild(&mut self, table: &str) -> Check<bool> {
        let Some((def, without)) = self.tables.get(table).cloned() else {
            return Ok(false);
        };
        let columns = self.model.columns(table).ok_or("the model lacks the table")?;
        let def = TableDef { columns, ..def };
        let (create, name) = (sql::create(&def, "rebuilt", without), sql::quote(table));
        let order = if self.layout & 16 == 0 { "" } else { " ORDER BY k DESC" };
        let text = format!(
            "BEGIN; {create}; INSERT INTO rebuilt SELECT * FROM {name}{order}; DROP TABLE {name}; \
             ALTER TABLE rebuilt RENAME TO {name}; SELECT crsql_as_crr('{table}'); COMMIT"
        );
        self.execute(0, &text)
    }

    /// What is pushed down gives what a scan gives.
    fn filters(&mut self, n: usize, all: &[Change]) -> Check {
        let Some(one) = all.get(all.len() / 2) else { return Ok(()) };
        let hex = |b: &[u8]| sql::literal(&Value::Blob(b.to_vec()));
        let (table, pk) = (one.table.clone(), one.pk.clone());
        let row = format!("\"table\" = '{table}' AND pk = {}", hex(&pk));
        let site =
            format!("site_id IS NOT {} AND db_version >= {}", hex(one.site_id.as_bytes()), one.db_version);
        let of_row = |c: &&Change| c.table == table && c.pk == pk;
        let of_site = |c: &&Change| c.site_id != one.site_id && c.db_version >= one.db_version;
        let of_cid = |c: &&Change| c.cid == one.cid && c.db_version <= one.db_version;
        let cid = format!("cid = '{}' AND db_version <= {}", one.cid, one.db_version);
        let expected: [(String, Vec<&Change>); 3] = [
            (row, all.iter().filter(of_row).collect()),
            (site, all.iter().filter(of_site).collect()),
            (cid, all.iter().filter(of_cid).collect()),
        ];
        for (filter, expected) in expected {
            let found = self.listed(n, &filter)?;
            if found.iter().collect::<Vec<_>>() != expected {
                return Err(format!("WHERE {filter}\n  found: {found:?}\n  expected: {expected:?}"));
            }
        }
        Ok(())
    }

    /// What both say of the database now.
    pub fn compare(&mut self, n: usize) -> Check {
        let here = self.changes(n, -1)?;
        if !here.is_sorted_by_key(|c| (c.db_version, c.seq)) {
            let all: Vec<String> = here.iter().map(|c| format!("    {c:?}")).collect();
            return Err(format!("not in order:\n{}", all.join("\n")));
        }
        self.filters(n, &here)?;
        let mut model = self.model.changes(-1);
        let stored: HashSet<(String, Vec<u8>)> =
            model.iter().filter(|c| c.cid == "-1").map(|c| (c.table.clone(), c.pk.clone())).collect();
        let made_up = |c: &Change| {
            c.cid == "-1" && c.cl % 2 == 1 && c.cl > 1 && !stored.contains(&(c.table.clone(), c.pk.clone()))
        };
        let mut here: Vec<Change> = here.into_iter().filter(|c| !made_up(c)).collect();
        for all in [&mut here, &mut model] {
            for c in all.iter_mut() {
                c.seq = if self.loose { 0 } else { c.seq };
                c.db_version = if self.adrift { 0 } else { c.db_version };
            }
            all.sort_by(|a, b| {
                let key = |c: &Change| (c.db_version, c.seq, c.table.clone(), c.pk.clone(), c.cid.clone());
                key(a).cmp(&key(b))
            });
        }
        if here != model {
            let only = |a: &[Change], b: &[Change]| -> Vec<String> {
                a.iter().filter(|c| !b.contains(c)).map(|c| format!("    {c:?}")).collect()
            };
            let twice: Vec<Change> = here.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0].clone()).collect();
            if !twice.is_empty() {
                return Err(format!("listed twice: {twice:?}"));
            }
            let (engine, model) = (only(&here, &model), only(&model, &here));
            return Err(format!(
                "changes differ\n  engine only:\n{}\n  model only:\n{}",
                engine.join("\n"),
                model.join("\n")
            ));
        }
        self.tables_agree(n)
    }

    /// Vectors, and what the engine itself says of metadata and tables. Outside of transactions.
    pub fn verify(&mut self, n: usize) -> Check {
        let vector = told("vector", self.replica(n)?.vector())?;
        if vector != *self.model.vector() {
            return Err(format!("vectors differ\n  engine: {vector:?}\n  model: {:?}", self.model.vector()));
        }
        let report = told("verify", self.replica(n)?.verify())?;
        if !report.problems.is_empty() {
            return Err(format!("verify: {:#?}", report.problems));
        }
        Ok(())
    }

    fn tables_agree(&mut self, n: usize) -> Check {
        for table in self.tables.keys().cloned().collect::<Vec<_>>() {
            let mut shown = BTreeMap::new();
            for row in self.rows(n, &table)? {
                let width = self.keys(&table).len();
                let id = self.model.identity(&table, row.get(..width).unwrap_or(&[]));
                shown.insert(id.ok_or("key width")?, row);
            }
            let model = self.model.rows(&table).ok_or("the model lacks a table")?;
            if shown != model {
                return Err(format!("{table} differs\n  engine: {shown:?}\n  model: {model:?}"));
            }
        }
        Ok(())
    }

    /// Triggers see what an UPDATE changed by a later look at the row. If the row was deleted or replaced before, the
    /// UPDATE left no trace: its numbers are not counted. False: leave the statement out.
    pub fn traceable(&mut self, ops: &[Op]) -> bool {
        for op in ops {
            let (table, key) = match op {
                Op::Insert { table, key, or_replace: true, .. }
                | Op::Update { table, key, .. }
                | Op::SetKey { table, key, .. }
                | Op::Delete { table, key } => (table, key),
                _ => continue,
            };
            let Some(id) = self.model.identity(table, key) else { continue };
            let at = (table.clone(), id);
            match op {
                Op::Insert { .. } if self.updated.contains(&at) => return false,
                Op::Delete { .. } if self.updated.contains(&at) => return false,
                Op::Insert { .. } | Op::Delete { .. } => {}
                Op::SetKey { to, or_replace, .. } => {
                    let id = self.model.identity(table, to).unwrap_or_default();
                    let onto = (table.clone(), id);
                    if *or_replace && onto != at && self.updated.contains(&onto) {
                        return false;
                    }
                    self.updated.extend([at, onto]);
                }
                _ => _ = self.updated.insert(at),
            }
        }
        true
    }

    pub fn transaction_ended(&mut self) {
        self.updated.clear();
    }

    pub fn visible(&self, table: &str, key: &Key) -> bool {
        let id = self.model.identity(table, key);
        id.is_some_and(|id| self.model.rows(table).is_some_and(|rows| rows.contains_key(&id)))
    }

    /// What of a statement fits the schema that this replica has now; None: nothing.
    pub fn fit(&self, stmt: &Stmt) -> Option<Stmt> {
        let mut stmt = stmt.clone();
        let (table, set, insert) = match &mut stmt {
            Stmt::One(Op::Insert { table, values, .. }) => (table, Some(values), true),
            Stmt::One(Op::Update { table, set, .. }) | Stmt::UpdateAll { table, set } => {
                (table, Some(set), false)
            }
            Stmt::One(Op::SetKey { table, set, .. }) => (table, Some(set), false),
            Stmt::One(Op::Delete { table, .. }) | Stmt::DeleteAll { table } => (table, None, false),
            Stmt::Upsert { table, set, .. } | Stmt::OrIgnore { table, set, .. } => (table, Some(set), true),
            Stmt::Many { table, .. } => (table, None, true),
            _ => return Some(stmt),
        };
        // A table that was renamed is still meant.
        let now = self.tables.iter().find(|(_, (def, _))| def.name == *table)?.0.clone();
        table.clone_from(&now);
        let columns = self.model.columns(&now)?;
        let has = |name: &str| columns.iter().any(|c| c.name == name);
        if let Some(set) = set {
            set.retain(|(name, _)| has(name));
            let required = columns.iter().find(|c| c.not_null && insert);
            if let Some(c) = required
                && !set.iter().any(|(name, _)| *name == c.name)
            {
                set.push((c.name.clone(), Value::Int(3)));
            }
        }
        match &mut stmt {
            Stmt::Many { columns: names, rows, .. } => {
                let keep: Vec<bool> = names.iter().map(|n| has(n)).collect();
                for (_, values) in rows.iter_mut() {
                    let mut keep = keep.iter();
                    values.retain(|_| keep.next() == Some(&true));
                }
                names.retain(|n| has(n));
                if let Some(c) = columns.iter().find(|c| c.not_null && !names.contains(&c.name)) {
                    names.push(c.name.clone());
                    rows.iter_mut().for_each(|(_, values)| values.push(Value::Int(4)));
                }
            }
            Stmt::One(Op::Update { set, .. }) | Stmt::UpdateAll { set, .. } if set.is_empty() => return None,
            Stmt::UpdateAll { .. } | Stmt::DeleteAll { .. } if columns.is_empty() => return None,
            _ => {}
        }
        Some(stmt)
    }
}
