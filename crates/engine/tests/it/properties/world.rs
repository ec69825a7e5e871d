//! Runs a program on the engine and on the model.

use super::peer::{Check, Peer, told};
use super::program::{Program, Set, Step, Stmt};
use super::sql;
use rejoin_crdt::{SiteId, Value, hlc};
use rejoin_sim::program::{Pick, Rng};
use rejoin_sim::{Change, Meeting, Op, Replica, Side};
use std::collections::BTreeMap;
use tempfile::TempDir;

pub struct World<'a> {
    program: &'a Program,
    pub peers: Vec<Peer>,
    migrated: Vec<usize>,
    cursors: BTreeMap<(usize, usize), i64>,
    nonces: Rng,
    elapsed_ms: i64,
    /// Statements that would fail are left out.
    clean: bool,
    restarts: u8,
    dir: TempDir,
}

/// The statement that is open on one connection of one replica.
#[derive(Clone, Copy)]
struct At {
    who: usize,
    conn: usize,
    /// Each statement commits by itself.
    auto: bool,
    depth: usize,
}

impl<'a> World<'a> {
    pub fn new(program: &'a Program, clean: bool) -> Check<World<'a>> {
        let dir = told("folder", tempfile::tempdir())?;
        let mut peers = Vec::new();
        for n in 0..program.replicas() {
            let path = dir.path().join(format!("{n}.db"));
            peers.push(Peer::new(
                path,
                n,
                program.clocks[n],
                program.merge_equal_values[n],
                program.layouts[n],
                program.owned[n],
            )?);
        }
        Ok(World {
            program,
            migrated: vec![0; peers.len()],
            peers,
            cursors: BTreeMap::new(),
            nonces: Rng(7),
            elapsed_ms: 10,
            clean,
            restarts: 0,
            dir,
        })
    }

    pub fn run(&mut self) -> Check {
        self.wait(0);
        for (n, step) in self.program.steps.iter().enumerate() {
            self.step(step).map_err(|e| format!("step {n}: {e}"))?;
        }
        self.finish().map_err(|e| format!("finally: {e}"))
    }

    fn wait(&mut self, ms: i64) {
        self.elapsed_ms += ms;
        for (n, peer) in self.peers.iter_mut().enumerate() {
            peer.model.now_ms = hlc::EPOCH_MS + self.elapsed_ms + self.program.skew_ms[n];
        }
    }

    fn commit(&mut self, who: usize) {
        let nonce = self.nonces.draw();
        self.peers[who].model.commit(nonce);
        self.peers[who].transaction_ended();
    }

    fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Write { who, conn, tx, keep, stmts } => {
                let at = At { who: *who, conn: *conn, auto: !tx, depth: 0 };
                self.write(at, *keep, stmts)?;
                self.check(*who)
            }
            Step::Native { from, to } => {
                self.native(*from, *to)?;
                self.check(*to)
            }
            Step::Migrate(who) => {
                self.migrate(*who)?;
                self.check(*who)
            }
            Step::Alter(who, op) => {
                self.alter(*who, op)?;
                self.check(*who)
            }
            Step::Rebuild(who, table) => {
                let table = self.peers[*who].tables.iter().find(|(_, (def, _))| def.name == *table);
                if let Some(table) = table.map(|(name, _)| name.clone()) {
                    self.peers[*who].rebuild(&table)?;
                }
                self.check(*who)
            }
            Step::Vacuum(who) => {
                self.peers[*who].execute(0, "VACUUM")?;
                self.check(*who)
            }
            Step::Reopen(who) => {
                self.peers[*who].reopen();
                self.check(*who)
            }
            Step::Collect(who) => {
                self.collect(*who)?;
                self.check(*who)
            }
            Step::Wait(ms) => {
                self.wait(*ms);
                Ok(())
            }
        }
    }

    /// Both connections see what the model says.
    fn check(&mut self, who: usize) -> Check {
        let peer = &mut self.peers[who];
        for conn in 0..2 {
            let (found, expected) = (peer.db_version(conn)?, peer.model.db_version());
            if found != expected && !peer.adrift {
                return Err(format!("db_version {found}, not {expected}"));
            }
            peer.compare(conn)?;
        }
        peer.verify(0)
    }

    /// The last replica is the one that nobody knows.
    fn collect(&mut self, who: usize) -> Check {
        let others = self.peers.len().saturating_sub(1);
        if who >= others {
            return Ok(());
        }
        for (from, to) in [(0..others, who..who + 1), (who..who + 1, 0..others)] {
            for (from, to) in from.flat_map(|f| to.clone().map(move |t| (f, t))).filter(|(f, t)| f != t) {
                self.native(from, to)?;
            }
        }
        let Some((_, known)) = self.peers.split_last() else { return Ok(()) };
        let mut horizon = known[0].model.vector().clone();
        for peer in known {
            horizon = horizon.common(peer.model.vector());
        }
        self.peers[who].model.collect(&horizon);
        let collected = told("collect", self.peers[who].replica(1)?.collect(&horizon))?;
        if std::env::var("REJOIN_TRACE").is_ok() {
            eprintln!("{who} collects: {collected:?}");
        }
        let here = told("horizon", self.peers[who].replica(0)?.horizon())?;
        if here != *self.peers[who].model.horizon() {
            return Err(format!("horizon {here:?}, not {:?}", self.peers[who].model.horizon()));
        }
        Ok(())
    }

    /// One of two that is below the horizon of the other is refused, and starts over from its snapshot.
    fn catch_up(&mut self, from: usize, to: usize) -> Check {
        let late = match Replica::meet(&self.peers[from].model, &self.peers[to].model) {
            Meeting::BelowHorizon(Side::Left) => from,
            Meeting::BelowHorizon(Side::Right) => to,
            _ => return Ok(()),
        };
        let other = if late == from { to } else { from };
        let holds = self.peers[late].model.vector().common(self.peers[other].model.horizon());
        let theirs = self.peers[to].model.vector().clone();
        let sent = told("changeset", self.peers[from].replica(0)?.changeset_for(&theirs))?;
        if let (Some(bytes), false) = (sent, holds.is_empty()) {
            let here = late == to;
            match self.peers[to].replica(0)?.apply_changeset(&bytes) {
                Err(rejoin::Error::BelowHorizon { here: said, .. }) if said == here => {}
                refused => return Err(format!("{late} is below the horizon of {other}: {refused:?}")),
            }
        }
        self.restarts += 1;
        let (id, nonce) = (SiteId([100 + self.restarts; 16]), self.nonces.draw());
        let snapshot = self.peers[other].model.clone();
        let file = self.peers[other].snapshot(&self.dir.path().join("snapshot.db"), id)?;
        let (tables, layout) = (self.peers[other].tables.clone(), self.peers[other].layout);
        self.peers[late].model.start_over(&snapshot, id, nonce);
        self.peers[late].start_over(&file, tables, layout)?;
        self.migrated[late] = self.migrated[other];
        self.check(late)
    }

    /// Everything that `to` misses, as a changeset. True: something was new.
    fn native(&mut self, from: usize, to: usize) -> Check<bool> {
        self.catch_up(from, to)?;
        self.catch_up(from, to)?;
        let theirs = told("vector", self.peers[to].replica(0)?.vector())?;
        let cut = self.peers[from].model.cut_for(self.peers[to].model.vector());
        let bytes = told("changeset", self.peers[from].replica(1)?.changeset_for(&theirs))?;
        let Some(bytes) = bytes else {
            return if cut.txs.is_empty() { Ok(false) } else { Err(format!("no changeset, but {cut:?}")) };
        };
        let before = self.peers[to].model.clone();
        let stored = self.peers[to].model.apply_cut(&cut).map_err(|why| format!("{why:?}"))?;
        if self.peers[to].model.incompatible {
            self.peers[to].model = before;
            return match self.peers[to].replica(1)?.apply_changeset(&bytes) {
                Err(rejoin::Error::Incompatible { .. }) if self.program.family.apart => Ok(false),
                other => Err(format!("the schemas are incompatible, but {other:?}")),
            };
        }
        self.peers.iter_mut().for_each(|p| p.adrift = true);
        self.peers[to].loose |= self.peers[from].loose;
        let applied = told("apply", self.peers[to].replica(1)?.apply_changeset(&bytes))?;
        if (applied.cells_won > 0) != (stored > 0) {
            return Err(format!("{applied:?}, but the model stored {stored}"));
        }
        Ok(true)
    }

    fn write(&mut self, at: At, keep: bool, stmts: &[Stmt]) -> Check {
        let before = self.peers[at.who].model.clone();
        if at.auto {
            return stmts.iter().try_for_each(|s| self.stmt(at, s));
        }
        self.peers[at.who].execute(at.conn, "BEGIN IMMEDIATE")?;
        stmts.iter().try_for_each(|s| self.stmt(at, s))?;
        if keep {
            self.peers[at.who].execute(at.conn, "COMMIT")?;
            self.commit(at.who);
        } else {
            self.peers[at.who].execute(at.conn, "ROLLBACK")?;
            self.peers[at.who].model = before;
            self.peers[at.who].transaction_ended();
        }
        Ok(())
    }

    fn stmt(&mut self, at: At, stmt: &Stmt) -> Check {
        let Some(stmt) = self.peers[at.who].fit(stmt) else {
            return Ok(());
        };
        match &stmt {
            Stmt::Savepoint { stmts, keep } => return self.savepoint(at, stmts, *keep),
            Stmt::Merge { from, pick } => self.merge(at, *from, pick)?,
            Stmt::Look => self.peers[at.who].compare(at.conn)?,
            Stmt::NextVersion(_) if at.auto => {}
            Stmt::NextVersion(v) => {
                let peer = &mut self.peers[at.who];
                peer.execute(at.conn, &format!("SELECT crsql_next_db_version({v})"))?;
                peer.model.next_db_version(*v);
            }
            _ => self.plain(at, &stmt)?,
        }
        if at.auto {
            self.commit(at.who);
        }
        Ok(())
    }

    fn savepoint(&mut self, at: At, stmts: &[Stmt], keep: bool) -> Check {
        let before = self.peers[at.who].model.clone();
        let name = format!("s{}", at.depth);
        self.peers[at.who].execute(at.conn, &format!("SAVEPOINT {name}"))?;
        let inner = At { auto: false, depth: at.depth + 1, ..at };
        stmts.iter().try_for_each(|s| self.stmt(inner, s))?;
        let peer = &mut self.peers[at.who];
        if !keep {
            peer.execute(at.conn, &format!("ROLLBACK TO {name}"))?;
            peer.model = before;
            peer.loose = true;
        }
        peer.execute(at.conn, &format!("RELEASE {name}"))?;
        if at.auto {
            self.commit(at.who);
        }
        Ok(())
    }

    fn merge(&mut self, at: At, from: usize, pick: &Pick) -> Check {
        let pair = (from, at.who);
        let since = match pick {
            Pick::Tail => self.cursors.get(&pair).copied().unwrap_or(-1),
            _ => -1,
        };
        let mut changes = self.peers[from].changes(0, since)?;
        if let Pick::Some(seed) = pick {
            let mut rng = Rng(*seed);
            let all = std::mem::take(&mut changes);
            for _ in 0..all.len() {
                let at = rng.below(changes.len() + 1);
                changes.insert(at, rng.pick(&all));
            }
        }
        for change in &changes {
            self.merge_one(at, change)?;
        }
        Ok(())
    }

    fn merge_one(&mut self, at: At, change: &Change) -> Check {
        let peer = &mut self.peers[at.who];
        peer.insert_change(at.conn, change)?;
        told("model", peer.model.insert_change(change))?;
        if at.auto {
            self.commit(at.who);
        }
        Ok(())
    }

    fn plain(&mut self, at: At, stmt: &Stmt) -> Check {
        let peer = &mut self.peers[at.who];
        let Some((text, model)) = expected(peer, at.conn, stmt)? else {
            return Ok(());
        };
        let fails = model.is_none();
        if fails && self.clean {
            return Ok(());
        }
        if peer.execute(at.conn, &text)? == fails {
            return Err(format!("{text}: fails {}", if fails { "not" } else { "" }));
        }
        match model {
            Some((model, whole)) => {
                peer.model = model;
                peer.loose |= !whole;
            }
            None => peer.loose = true,
        }
        Ok(())
    }

    fn migrate(&mut self, who: usize) -> Check {
        let Some(op) = self.program.migrations.get(self.migrated[who]) else {
            return Ok(());
        };
        self.migrated[who] += 1;
        self.alter(who, op)
    }

    fn alter(&mut self, who: usize, op: &Op) -> Check {
        let peer = &mut self.peers[who];
        let Some(op) = renamed(peer, op) else { return Ok(()) };
        let before = peer.model.clone();
        if peer.model.apply(op.clone()).is_err() {
            return Ok(());
        }
        if peer.model.incompatible {
            // Of columns that wait two have become one.
            peer.model = before;
            return Ok(());
        }
        peer.alter(&op)?;
        // What waited for the change is applied by the next call that may write.
        peer.execute(1, "SELECT crsql_as_crr('p')").map(drop)
    }

    fn finish(&mut self) -> Check {
        if self.program.family.apart {
            return Ok(());
        }
        for who in 0..self.peers.len() {
            while self.migrated[who] < self.program.migrations.len() {
                self.migrate(who)?;
            }
            self.check(who)?;
        }
        if self.peers.len() > 1 {
            if self.program.steps.iter().any(|s| matches!(s, Step::Native { .. })) {
                self.exchange_natively()?;
                self.agree()?;
            }
            // Rows that are forgotten on one side and not on the other would come back.
            if !self.program.collection {
                self.exchange()?;
                self.agree()?;
            }
        }
        Ok(())
    }

    fn exchange_natively(&mut self) -> Check {
        for _ in 0..12 {
            let mut moved = false;
            for from in 0..self.peers.len() {
                for to in (0..self.peers.len()).filter(|to| *to != from) {
                    moved |= self.native(from, to)?;
                    self.check(to)?;
                }
            }
            if !moved {
                return Ok(());
            }
        }
        Err("the exchange never ends".into())
    }

    /// Everybody tells everybody everything, until nothing is new.
    fn exchange(&mut self) -> Check {
        for _ in 0..12 {
            let mut moved = 0;
            for from in 0..self.peers.len() {
                for who in (0..self.peers.len()).filter(|who| *who != from) {
                    let at = At { who, conn: 0, auto: false, depth: 0 };
                    self.peers[who].execute(0, "BEGIN IMMEDIATE")?;
                    self.merge(at, from, &Pick::All)?;
                    moved += self.peers[who].rows_impacted(0)?;
                    self.peers[who].execute(0, "COMMIT")?;
                    self.commit(who);
                    self.check(who)?;
                }
            }
            if moved == 0 {
                return Ok(());
            }
        }
        Err("the exchange never ends".into())
    }

    fn agree(&mut self) -> Check {
        let equal = !self.program.merge_equal_values.contains(&false);
        let mut all = Vec::new();
        for peer in &mut self.peers {
            let mut cells = BTreeMap::new();
            for c in peer.changes(0, -1)? {
                // A sentinel that was made up of a cell has that cell's seq, and travels on.
                let seq = if c.cid == "-1" { 0 } else { c.seq };
                let stamp = if equal { Some((c.site_id, seq)) } else { None };
                // What waits for a dropped name waits where it came before the drop.
                let here = !self.program.family.remade || peer.has(&c.table, &c.cid);
                // Of tied sentinels each keeps its own.
                if here && (equal || c.cid != "-1") {
                    cells.insert((c.table, c.pk, c.cid), (c.val, c.col_version, c.cl, stamp));
                }
            }
            let tables: Vec<String> = peer.tables.keys().cloned().collect();
            let mut rows = BTreeMap::new();
            for table in tables {
                let mut these = peer.rows(0, &table)?;
                these.sort_by_key(|row| format!("{row:?}"));
                rows.insert(table, these);
            }
            all.push((rows, cells));
        }
        let (first, rest) = all.split_first().ok_or("no replicas")?;
        for other in rest {
            if first.0 != other.0 {
                return Err(format!("tables differ:\n  {:?}\n  {:?}", first.0, other.0));
            }
            // A row that was made again after it was forgotten may have another life than where it was not.
            if first.1 != other.1 && !self.program.collection {
                let one: Vec<_> = first.1.iter().filter(|(k, v)| other.1.get(*k) != Some(*v)).collect();
                let two: Vec<_> = other.1.iter().filter(|(k, v)| first.1.get(*k) != Some(*v)).collect();
                return Err(format!("metadata differ:\n  {one:?}\n  {two:?}"));
            }
        }
        Ok(())
    }
}

/// The operation on the table as it is called now.
fn renamed(peer: &Peer, op: &Op) -> Option<Op> {
    let mut op = op.clone();
    if let Op::AddColumn { table, .. }
    | Op::DropColumn { table, .. }
    | Op::RenameColumn { table, .. }
    | Op::DropTable { table }
    | Op::RenameTable { table, .. } = &mut op
    {
        let now = peer.tables.iter().find(|(_, (def, _))| def.name == *table)?.0.clone();
        table.clone_from(&now);
    }
    Some(op)
}

/// The text of a statement and the model after it (None: it fails); whether nothing of it was undone.
#[allow(clippy::type_complexity)]
fn expected(peer: &mut Peer, conn: usize, stmt: &Stmt) -> Check<Option<(String, Option<(Replica, bool)>)>> {
    let mut model = peer.model.clone();
    let (text, ops, or) = match stmt {
        Stmt::One(op) => {
            let Some(text) = peer.text(op) else { return Ok(None) };
            (text, vec![op.clone()], "")
        }
        Stmt::Upsert { table, key, set } => upsert(peer, table, key, set),
        Stmt::OrIgnore { table, key, set } => {
            let op = insert_op(table, key, set, false);
            (
                peer.text(&op).unwrap_or_default().replacen("INSERT", "INSERT OR IGNORE", 1),
                vec![op],
                "OR IGNORE",
            )
        }
        Stmt::Many { table, or, columns, rows } => {
            let values: Vec<Vec<Value>> =
                rows.iter().map(|(key, values)| [key.as_slice(), values].concat()).collect();
            let text = sql::insert(table, or, &peer.keys(table), columns, &values);
            let op = |(key, values): &(Vec<Value>, Vec<Value>)| {
                let set: Set = columns.iter().cloned().zip(values.iter().cloned()).collect();
                insert_op(table, key, &set, *or == "OR REPLACE")
            };
            (text, rows.iter().map(op).collect(), *or)
        }
        Stmt::UpdateAll { table, set } => {
            let text = format!("UPDATE {} SET {}", sql::quote(table), sql::assignments(set));
            let one = |key| Op::Update { table: table.clone(), key, set: set.clone() };
            (text, each_row(peer, conn, table, &one)?, "")
        }
        Stmt::DeleteAll { table } => {
            let one = |key| Op::Delete { table: table.clone(), key };
            (format!("DELETE FROM {}", sql::quote(table)), each_row(peer, conn, table, &one)?, "")
        }
        _ => return Ok(None),
    };
    if !peer.traceable(&ops) {
        return Ok(None);
    }
    let mut whole = true;
    for op in ops {
        match model.apply(op) {
            Ok(()) => {}
            Err(_) if or == "OR IGNORE" => whole = false,
            // The rows before it stay, and the statement is an error all the same.
            Err(_) if or == "OR FAIL" => return Ok(None),
            Err(_) => return Ok(Some((text, None))),
        }
    }
    Ok(Some((text, Some((model, whole)))))
}

fn insert_op(table: &str, key: &[Value], set: &Set, or_replace: bool) -> Op {
    Op::Insert { table: table.to_owned(), key: key.to_vec(), values: set.clone(), or_replace }
}

fn upsert(peer: &Peer, table: &str, key: &[Value], set: &Set) -> (String, Vec<Op>, &'static str) {
    let op = insert_op(table, key, set, false);
    let keys: Vec<String> = peer.keys(table).iter().map(|k| sql::quote(k)).collect();
    let update =
        if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sql::assignments(set)) };
    let text =
        format!("{} ON CONFLICT ({}) DO {update}", peer.text(&op).unwrap_or_default(), keys.join(", "));
    if !peer.visible(table, &key.to_vec()) {
        return (text, vec![op], "");
    }
    if set.is_empty() {
        return (text, Vec::new(), "");
    }
    (text, vec![Op::Update { table: table.to_owned(), key: key.to_vec(), set: set.clone() }], "")
}

fn each_row(peer: &mut Peer, conn: usize, table: &str, op: &dyn Fn(Vec<Value>) -> Op) -> Check<Vec<Op>> {
    let width = peer.keys(table).len();
    let rows = peer.rows(conn, table)?;
    Ok(rows
        .into_iter()
        .map(|mut row| {
            row.truncate(width);
            op(row)
        })
        .collect())
}
