//! Replicas that were edited apart are equal after they exchanged everything, over random programs.
//!
//! `REJOIN_SEED=n cargo test -p rejoin-sim NAME` runs one program of a property,
//! `REJOIN_CASES=n` that many.

use rejoin_crdt::vector::VersionVector;
use rejoin_crdt::{SiteId, Value};
use rejoin_sim::program::{Family, Migrations, Pick, Program, Rng, Step, base_schema};
use rejoin_sim::{Meeting, Op, Replica, Side};
use std::collections::BTreeMap;

/// What the replicas must agree on at the end.
#[derive(Clone, Copy, PartialEq)]
enum Agree {
    Tables,
    /// And the metadata of cells, where equal values are merged.
    Cells,
    /// And of sentinels.
    All,
}

struct World<'a> {
    program: &'a Program,
    replicas: Vec<Replica>,
    migrated: Vec<usize>,
    cursors: BTreeMap<(SiteId, SiteId), i64>,
    backups: BTreeMap<usize, (Replica, usize)>,
    ids: u8,
    nonces: Rng,
    elapsed_ms: i64,
    collection: bool,
}

type Check = Result<(), String>;

impl<'a> World<'a> {
    fn new(program: &'a Program, family: &Family) -> World<'a> {
        let mut replicas = Vec::new();
        for n in 0..program.replicas {
            let mut r = Replica::new(SiteId([n as u8 + 1; 16]));
            r.clock = program.clocks[n];
            r.merge_equal_values = program.merge_equal_values[n];
            for def in base_schema() {
                r.apply(Op::CreateTable(def)).unwrap();
            }
            replicas.push(r);
        }
        let migrated = vec![0; replicas.len()];
        World {
            program,
            replicas,
            migrated,
            cursors: BTreeMap::new(),
            backups: BTreeMap::new(),
            ids: 100,
            nonces: Rng(7),
            elapsed_ms: 10,
            collection: family.collection,
        }
    }

    fn new_id(&mut self) -> SiteId {
        self.ids += 1;
        SiteId([self.ids; 16])
    }

    fn skew(&self, who: usize) -> i64 {
        self.program.skew_ms[who % self.program.skew_ms.len()]
    }

    /// The name and columns that a replica has decide what of a statement fits.
    fn fit(&self, who: usize, op: &Op) -> Op {
        let mut op = op.clone();
        let schema = self.replicas[who].schema();
        let (table, set, insert) = match &mut op {
            Op::Insert { table, values, .. } => (table, values, true),
            Op::CommitAlter { table, inserted, .. } => (table, &mut inserted[0].1, true),
            Op::Update { table, set, .. } | Op::SetKey { table, set, .. } => (table, set, false),
            _ => return op,
        };
        let columns = schema.get(table.as_str()).cloned().unwrap_or_default();
        set.retain(|(name, _)| columns.contains(name));
        if table == "t" && insert && columns.iter().any(|c| c == "y") {
            set.retain(|(name, value)| name != "y" || !value.is_null());
            if !set.iter().any(|(name, _)| name == "y") {
                set.push(("y".into(), Value::Int(3)));
            }
        }
        op
    }

    fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Write(who, ops) => {
                for op in ops {
                    let op = self.fit(*who, op);
                    as_sqlite(&mut self.replicas[*who], op)?;
                }
                let nonce = self.nonces.draw();
                self.replicas[*who].commit(nonce);
            }
            Step::Migrate(who) => self.migrate(*who),
            Step::RowWise { from, to, pick } => _ = self.row_wise(*from, *to, pick),
            Step::Native { from, to } => _ = self.native(*from, *to)?,
            Step::Tail { from, to } => _ = self.tail(*from, *to),
            Step::Detour(who) => self.detour(*who),
            Step::Wait(ms) => {
                self.elapsed_ms += ms;
                for who in 0..self.replicas.len() {
                    self.replicas[who].now_ms = rejoin_crdt::hlc::EPOCH_MS + self.elapsed_ms + self.skew(who);
                }
            }
            Step::Backup(who) => {
                self.backups.insert(*who, (self.replicas[*who].clone(), self.migrated[*who]));
            }
            Step::Restore(who) => {
                if let Some((backup, migrated)) = self.backups.get(who).cloned() {
                    self.replicas[*who] = backup;
                    self.migrated[*who] = migrated;
                }
            }
            Step::Twin(who) if self.replicas.len() < 7 => {
                self.replicas.push(self.replicas[*who].clone());
                self.migrated.push(self.migrated[*who]);
            }
            Step::Twin(_) => {}
            Step::Collect(who) => {
                // The last replica is the one that nobody knows.
                let known = &self.replicas[..self.replicas.len() - 1];
                let mut horizon = known[0].vector().clone();
                for r in known {
                    let lacks = horizon.missing_from(r.vector());
                    horizon = horizon.missing_from(&lacks);
                }
                if *who + 1 < self.replicas.len() {
                    self.replicas[*who].collect(&horizon);
                }
            }
        }
        Ok(())
    }

    fn migrate(&mut self, who: usize) {
        if let Some(op) = self.program.migrations.get(self.migrated[who]) {
            self.migrated[who] += 1;
            // One that does not fit the schema fails on all replicas alike.
            let _ = self.replicas[who].apply(op.clone());
        }
    }

    fn detour(&mut self, who: usize) {
        let there = self.replicas[who].schema().get("t").is_some_and(|c| c.iter().any(|c| c == "d"));
        let (column, to) = if there { ("d", "x") } else { ("x", "d") };
        let (table, column, to) = ("t".to_owned(), column.to_owned(), to.to_owned());
        let _ = self.replicas[who].apply(Op::RenameColumn { table, column, to });
    }

    fn tail(&mut self, from: usize, to: usize) -> usize {
        if Replica::meet(&self.replicas[from], &self.replicas[to]) != Meeting::Fine {
            return 0;
        }
        // The sender takes for granted that all before its newest transaction was received.
        let newest = self.replicas[from].newest();
        let mut base = self.replicas[from].vector().clone();
        if let Some((site, version)) = newest {
            let mut one = VersionVector::new();
            one.insert(site, version);
            base = base.missing_from(&one);
        }
        let cut = self.replicas[from].cut_for(&base);
        self.replicas[to].apply_cut(&cut).unwrap_or(0)
    }

    fn row_wise(&mut self, from: usize, to: usize, pick: &Pick) -> usize {
        let pair = (self.replicas[from].site, self.replicas[to].site);
        let since = match pick {
            Pick::Tail => self.cursors.get(&pair).copied().unwrap_or(-1),
            // Rows of crsql_commit_alter in a fresh file stand at 0.
            _ => -1,
        };
        let mut changes = self.replicas[from].changes(since);
        if let Pick::Some(seed) = pick {
            let mut rng = Rng(*seed);
            let all = std::mem::take(&mut changes);
            for _ in 0..all.len() {
                let at = rng.below(changes.len() + 1);
                changes.insert(at, rng.pick(&all));
            }
        } else {
            self.cursors.insert(pair, self.replicas[from].db_version());
        }
        let nonce = self.nonces.draw();
        let to = &mut self.replicas[to];
        let stored = changes.iter().filter(|c| to.insert_change(c).expect("an honest change")).count();
        to.commit(nonce);
        stored
    }

    fn native(&mut self, from: usize, to: usize) -> Result<usize, String> {
        for _ in 0..20 {
            let meeting = Replica::meet(&self.replicas[from], &self.replicas[to]);
            let side = |side| if side == Side::Left { from } else { to };
            let (id, nonce) = (self.new_id(), self.nonces.draw());
            match meeting {
                Meeting::Fine => {
                    let cut = self.replicas[from].cut_for(self.replicas[to].vector());
                    return self.replicas[to].apply_cut(&cut).map_err(|why| format!("{why:?}"));
                }
                Meeting::Fork { site, common, gives_way } => {
                    self.replicas[side(gives_way)].give_way(site, common, id, nonce);
                }
                Meeting::RolledBack(who) => self.replicas[side(who)].take_new_id(id),
                Meeting::BelowHorizon(who) => {
                    if !self.collection {
                        return Err("below a horizon that nobody set".into());
                    }
                    let other = if side(who) == from { to } else { from };
                    let snapshot = self.replicas[other].clone();
                    self.replicas[side(who)].start_over(&snapshot, id, nonce);
                }
            }
        }
        Err("two replicas never come to terms".into())
    }

    fn exchange_all(&mut self, native: bool) -> Check {
        for _ in 0..40 {
            let before = self.replicas.clone();
            for from in 0..self.replicas.len() {
                for to in (0..self.replicas.len()).filter(|to| *to != from) {
                    if native {
                        self.native(from, to)?;
                    } else {
                        self.row_wise(from, to, &Pick::All);
                    }
                }
            }
            if before == self.replicas {
                return Ok(());
            }
        }
        Err("the exchange never ends".into())
    }

    fn finish(&mut self, native: bool, agree: Agree) -> Check {
        for who in 0..self.replicas.len() {
            while self.migrated[who] < self.program.migrations.len() {
                self.migrate(who);
            }
        }
        for who in 0..self.replicas.len() {
            if self.replicas[who].schema().get("t").is_some_and(|c| c.iter().any(|c| c == "d")) {
                self.detour(who);
            }
        }
        self.exchange_all(native)?;
        let (first, rest) = self.replicas.split_first().unwrap();
        for other in rest {
            same_tables(first, other)?;
            if native && first.vector() != other.vector() {
                return Err("vectors differ".into());
            }
            if agree != Agree::Tables && !self.program.merge_equal_values.contains(&false) {
                same_metadata(first, other, agree)?;
            }
        }
        Ok(())
    }
}

/// A statement changes what the application sees as it would in a plain table.
fn as_sqlite(r: &mut Replica, op: Op) -> Check {
    let before = r.clone();
    let (table, expected) = match plain(r, &op) {
        Some((table, rows)) => (table, rows),
        None => {
            return if r.apply(op).is_ok() { Err("it should have failed".into()) } else { Ok(()) };
        }
    };
    match r.apply(op.clone()) {
        Err(_) if *r != before => Err(format!("{op:?} failed and changed something")),
        Err(error) => Err(format!("{op:?}: {error}")),
        Ok(()) if r.rows(&table) == Some(expected) => Ok(()),
        Ok(()) => Err(format!("{op:?} shows {:?}", r.rows(&table))),
    }
}

type Rows = BTreeMap<Vec<Value>, Vec<Value>>;

/// The rows after a statement on a plain table; None: it fails.
fn plain(r: &Replica, op: &Op) -> Option<(String, Rows)> {
    let (table, key) = match op {
        Op::Insert { table, key, .. } | Op::Update { table, key, .. } => (table, key),
        Op::SetKey { table, key, .. } | Op::Delete { table, key } => (table, key),
        Op::CommitAlter { table, inserted, .. } => (table, &inserted[0].0),
        _ => return None,
    };
    let (mut rows, columns) = (r.rows(table)?, r.columns(table)?);
    let id = r.identity(table, key)?;
    let fill = |key: &[Value], rest: &[Value], set: &[(String, Value)]| -> Option<Vec<Value>> {
        let mut row = key.to_vec();
        for (column, old) in columns.iter().zip(rest) {
            let new = set.iter().find(|(name, _)| column.name.eq_ignore_ascii_case(name));
            row.push(new.map_or(old, |(_, value)| value).clone());
        }
        let nulls = columns.iter().zip(&row[key.len()..]).any(|(c, v)| c.not_null && v.is_null());
        (!nulls).then_some(row)
    };
    let defaults: Vec<Value> = columns.iter().map(|c| c.default.clone()).collect();
    match op {
        Op::Insert { values, or_replace, .. } => {
            if rows.contains_key(&id) && !or_replace {
                return None;
            }
            rows.insert(id, fill(key, &defaults, values)?);
        }
        Op::CommitAlter { inserted, .. } => {
            // A living row that is hidden is in the way as a shown one.
            let hidden = r.metadata().iter().any(|(at, m)| at.0 == *table && at.1 == id && m.cl & 1 == 1);
            if rows.contains_key(&id) || hidden {
                return None;
            }
            rows.insert(id, fill(key, &defaults, &inserted[0].1)?);
        }
        Op::Delete { .. } => _ = rows.remove(&id),
        Op::Update { set, .. } => {
            if let Some(row) = rows.get_mut(&id) {
                let (key, rest) = row.split_at(key.len());
                *row = fill(key, rest, set)?;
            }
        }
        Op::SetKey { to, set, or_replace, .. } => {
            if let Some(row) = rows.get(&id).cloned() {
                let row = fill(to, &row[key.len()..], set)?;
                let target = r.identity(table, to)?;
                if target != id && rows.contains_key(&target) && !or_replace {
                    return None;
                }
                rows.remove(&id);
                rows.insert(target, row);
            }
        }
        _ => return None,
    }
    Some((table.clone(), rows))
}

fn same_tables(a: &Replica, b: &Replica) -> Check {
    if a.incompatible || b.incompatible {
        return Err("incompatible".into());
    }
    if a.schema() != b.schema() {
        return Err(format!("schemas differ: {:?} {:?}", a.schema(), b.schema()));
    }
    for table in a.schema().keys() {
        let (mine, theirs) = (a.rows(table), b.rows(table));
        if mine != theirs {
            return Err(format!("{table} of {} {mine:?}\n{table} of {} {theirs:?}", a.site, b.site));
        }
    }
    Ok(())
}

fn same_metadata(a: &Replica, b: &Replica, agree: Agree) -> Check {
    let (mut mine, mut theirs) = (a.metadata(), b.metadata());
    if agree == Agree::Cells {
        mine.retain(|at, _| at.2 != "-1");
        theirs.retain(|at, _| at.2 != "-1");
    }
    for (at, meta) in &mine {
        if theirs.get(at) != Some(meta) {
            return Err(format!("{at:?} at {} {meta:?}\nat {} {:?}", a.site, b.site, theirs.get(at)));
        }
    }
    if mine.len() == theirs.len() { Ok(()) } else { Err("metadata of different length".into()) }
}

/// The last replica reads only, and only from the first, natively: after each commit it shows what the first shows.
fn check_reader(program: &Program, family: &Family) -> Check {
    let mut world = World::new(program, family);
    let reader = world.replicas.len() - 1;
    for step in &program.steps {
        let touches = match step {
            Step::Write(who, _) => *who == reader,
            Step::Native { to, .. } | Step::RowWise { to, .. } | Step::Tail { to, .. } => *to == reader,
            _ => false,
        };
        if !touches {
            world.step(step)?;
            continue;
        }
        world.native(0, reader)?;
        if world.migrated[0] == world.migrated[reader] {
            same_tables(&world.replicas[0], &world.replicas[reader])?;
        }
    }
    Ok(())
}

fn run(program: &Program, family: &Family, native: bool, agree: Agree) -> Check {
    let mut world = World::new(program, family);
    for step in &program.steps {
        world.step(step)?;
    }
    world.finish(native, agree)
}

fn property(name: &str, cases: u64, family: Family, check: impl Fn(&Program, &Family) -> Check) {
    let number = |name| std::env::var(name).ok().map(|v: String| v.parse::<u64>().expect("a number"));
    let cases = number("REJOIN_CASES").unwrap_or(cases);
    let seeds = match number("REJOIN_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=cases,
    };
    let fails = |p: &Program| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(p, &family)));
        outcome.unwrap_or_else(|_| Err("panic".into())).err()
    };
    for seed in seeds {
        let program = Program::random(seed, &family);
        if fails(&program).is_some() {
            let (program, how) = program.shrink(&fails);
            let steps: Vec<String> = program.steps.iter().map(|s| format!("  {s:?}")).collect();
            let program = Program { steps: Vec::new(), ..program };
            let steps = steps.join("\n");
            panic!("{how}\n{program:?}\n{steps}\nREJOIN_SEED={seed} cargo test -p rejoin-sim {name}");
        }
    }
}

const CASES: u64 = 800;

#[test]
fn row_wise() {
    let family = Family { row_wise: true, ..Family::default() };
    property("row_wise", CASES, family, |p, f| run(p, f, false, Agree::All));
}

#[test]
fn gaps_heal() {
    let family = Family { row_wise: true, native: true, tails: true, ..Family::default() };
    property("gaps_heal", CASES, family, |p, f| run(p, f, true, Agree::All));
}

#[test]
fn renames_of_one_replica_alone() {
    let family = Family { native: true, detours: true, tails: true, ..Family::default() };
    property("renames_of_one_replica_alone", CASES, family, |p, f| run(p, f, true, Agree::All));
}

#[test]
fn native() {
    let family = Family { native: true, ..Family::default() };
    property("native", CASES, family, |p, f| run(p, f, true, Agree::All));
}

#[test]
fn row_wise_and_native_mixed() {
    let family = Family { row_wise: true, native: true, ..Family::default() };
    property("row_wise_and_native_mixed", CASES, family, |p, f| run(p, f, true, Agree::All));
}

#[test]
fn schema_changes() {
    let family = Family { native: true, migrations: Migrations::Any, ..Family::default() };
    property("schema_changes", CASES, family, |p, f| run(p, f, true, Agree::Cells));
}

#[test]
fn schema_changes_and_row_wise() {
    let migrations = Migrations::FreshNames;
    let family = Family { row_wise: true, native: true, migrations, ..Family::default() };
    property("schema_changes_and_row_wise", CASES, family, |p, f| run(p, f, true, Agree::Cells));
}

#[test]
fn forks_and_rollbacks() {
    let family = Family { native: true, forks: true, tails: true, ..Family::default() };
    property("forks_and_rollbacks", CASES, family, |p, f| run(p, f, true, Agree::Tables));
}

#[test]
fn collection_with_a_late_peer() {
    let family = Family { native: true, collection: true, tails: true, ..Family::default() };
    property("collection_with_a_late_peer", CASES, family, |p, f| run(p, f, true, Agree::Tables));
}

#[test]
fn a_reader_sees_only_states_of_the_sender() {
    let family = Family { row_wise: true, native: true, ..Family::default() };
    property("a_reader_sees_only_states_of_the_sender", CASES, family, check_reader);
}

#[test]
fn a_reader_sees_only_states_of_the_sender_through_schema_changes() {
    let family = Family { native: true, migrations: Migrations::Any, ..Family::default() };
    let name = "a_reader_sees_only_states_of_the_sender_through_schema_changes";
    property(name, CASES, family, check_reader);
}
