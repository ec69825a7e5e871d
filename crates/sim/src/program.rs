//! Random programs over several replicas: made from a seed, run, and shrunk when they fail.
//!
//! A step names replicas by number and carries everything it needs, so a program with steps taken out is a
//! program again. The generators of single statements serve the engine's tests too.

use crate::replica::{Clock, Op};
use crate::schema::{ColumnDef, KeyColumn, TableDef};
use rejoin_crdt::Value;
use rejoin_crdt::key::{Affinity, Fold};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n.max(1) as u64) as usize
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// What a row-wise peer hands over.
#[derive(Clone, PartialEq, Debug)]
pub enum Pick {
    All,
    /// What it has not sent this peer yet, by its cursor.
    Tail,
    /// Any of it, in any order, some twice.
    Some(u64),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// One transaction.
    Write(usize, Vec<Op>),
    /// The replica makes the next schema change of the program.
    Migrate(usize),
    RowWise {
        from: usize,
        to: usize,
        pick: Pick,
    },
    Native {
        from: usize,
        to: usize,
    },
    /// Only the newest transaction of `from`, as the live tail sends it; leaves a gap if others are missing.
    Tail {
        from: usize,
        to: usize,
    },
    /// Renames t.x to t.d, or back; undone at the end. No other replica does the like.
    Detour(usize),
    /// Everybody's wall clock goes on.
    Wait(i64),
    /// Puts a copy of the file aside; and back in its place.
    Backup(usize),
    Restore(usize),
    /// A second running copy under the same site id.
    Twin(usize),
    /// This replica forgets what every known one has acknowledged.
    Collect(usize),
}

/// Which kinds of steps a program has.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub row_wise: bool,
    pub native: bool,
    pub migrations: Migrations,
    pub forks: bool,
    pub collection: bool,
    pub detours: bool,
    pub tails: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Migrations {
    #[default]
    None,
    /// No name is ever made twice: what row-wise peers can follow.
    FreshNames,
    Any,
}

#[derive(Clone, Debug)]
pub struct Program {
    pub replicas: usize,
    pub clocks: Vec<Clock>,
    /// How far each wall clock is off.
    pub skew_ms: Vec<i64>,
    pub merge_equal_values: Vec<bool>,
    pub migrations: Vec<Op>,
    pub steps: Vec<Step>,
}

fn column(name: &str, default: Value, not_null: bool) -> ColumnDef {
    ColumnDef { name: name.to_owned(), default, not_null }
}

fn key(name: &str, affinity: Affinity, fold: Fold) -> KeyColumn {
    KeyColumn { name: name.to_owned(), affinity, fold }
}

/// The tables that every replica starts with: a folded text key, a key without affinity, a key alone.
pub fn base_schema() -> Vec<TableDef> {
    let columns = |y: bool| vec![column("x", Value::Int(0), false), column("y", Value::Null, y)];
    vec![
        TableDef {
            name: "t".into(),
            key: vec![key("k", Affinity::Text, Fold::NoCase)],
            columns: columns(true),
        },
        TableDef {
            name: "u".into(),
            key: vec![key("k", Affinity::Blob, Fold::None), key("l", Affinity::Integer, Fold::None)],
            columns: columns(false),
        },
        TableDef { name: "p".into(), key: vec![key("k", Affinity::Integer, Fold::None)], columns: vec![] },
    ]
}

const COLUMNS: [&str; 5] = ["x", "y", "z", "v", "w"];
/// Few names, so that they are made again.
const MIGRATED: [&str; 6] = ["x", "x", "x", "z", "z", "y"];

pub fn random_value(rng: &mut Rng) -> Value {
    match rng.below(8) {
        0 => Value::Null,
        1 => Value::Real(1.0),
        2 => Value::text("a"),
        3 => Value::Blob(vec![1]),
        n => Value::Int(n as i64 - 4),
    }
}

/// A key of one of the base tables (or of what they were renamed to).
pub fn random_key(rng: &mut Rng, table: &str) -> Vec<Value> {
    match table {
        "u" | "u2" | "n" => {
            let first = rng.pick(&[Value::Int(1), Value::Real(1.0), Value::Int(2)]);
            vec![first, Value::Int(1)]
        }
        "p" => vec![Value::Int(rng.below(3) as i64)],
        _ => vec![rng.pick(&[Value::text("a"), Value::text("A"), Value::text("b")])],
    }
}

/// A statement; which columns a replica lacks is for the runner to see.
pub fn random_op(rng: &mut Rng) -> Op {
    let table = rng.pick(&["t", "t", "t", "u", "u", "p", "u2", "n", "t2"]).to_owned();
    let key = random_key(rng, &table);
    let mut set: Vec<(String, Value)> = Vec::new();
    for name in COLUMNS {
        if rng.one_in(2) {
            set.push((name.to_owned(), random_value(rng)));
        }
    }
    let or_replace = rng.one_in(2);
    if rng.one_in(40) {
        return Op::CommitAlter { table, inserted: vec![(key, set)], vanished: vec![] };
    }
    match rng.below(8) {
        0..=2 => Op::Insert { table, key, values: set, or_replace },
        3 | 4 => Op::Update { table, key, set },
        5 => Op::SetKey { to: random_key(rng, &table), table, key, set, or_replace },
        _ => Op::Delete { table, key },
    }
}

fn random_migration(rng: &mut Rng, fresh: bool, used: usize) -> Op {
    let table = rng.pick(&["t", "t", "t", "t", "u", "t2", "u2"]).to_owned();
    let name = |rng: &mut Rng| {
        if fresh { format!("{}{used}", rng.pick(&["z", "v"])) } else { rng.pick(&MIGRATED).to_owned() }
    };
    match rng.below(9) {
        0..=2 => {
            let default = rng.pick(&[Value::Null, Value::Int(7)]);
            let column = column(&name(rng), default, false);
            Op::AddColumn { table, column }
        }
        3 | 4 => Op::DropColumn { table, column: rng.pick(&MIGRATED).to_owned() },
        5 | 6 => Op::RenameColumn { table, column: rng.pick(&MIGRATED).to_owned(), to: name(rng) },
        7 if fresh => Op::RenameTable { table, to: format!("u{used}") },
        7 => Op::RenameTable { table, to: rng.pick(&["t", "u", "t2", "u2"]).to_owned() },
        _ if fresh => Op::CreateTable(named(rng.pick(&base_schema()), &format!("n{used}"))),
        _ if rng.one_in(3) => Op::DropTable { table },
        _ => {
            let name = rng.pick(&["t", "u", "n"]);
            let like = if name == "t" { 0 } else { 1 };
            Op::CreateTable(named(base_schema()[like].clone(), name))
        }
    }
}

fn named(def: TableDef, name: &str) -> TableDef {
    TableDef { name: name.to_owned(), ..def }
}

fn random_step(rng: &mut Rng, family: &Family, replicas: usize) -> Step {
    let who = rng.below(replicas);
    let to = (who + 1 + rng.below(replicas - 1)) % replicas;
    loop {
        match rng.below(24) {
            0..=8 => {
                return Step::Write(who, (0..1 + rng.below(3)).map(|_| random_op(rng)).collect());
            }
            9..=12 if family.row_wise && rng.one_in(2) => {
                let pick = match rng.below(3) {
                    0 => Pick::All,
                    1 => Pick::Tail,
                    _ => Pick::Some(rng.draw()),
                };
                return Step::RowWise { from: who, to, pick };
            }
            13..=17 if family.native => return Step::Native { from: who, to },
            18 | 19 if family.migrations != Migrations::None => return Step::Migrate(who),
            9 | 10 if family.tails => return Step::Tail { from: who, to },
            11 if family.detours => return Step::Detour(who),
            20 => return Step::Wait(rng.below(3) as i64),
            21 if family.forks => return Step::Backup(who),
            22 if family.forks => {
                return if rng.one_in(3) { Step::Twin(who) } else { Step::Restore(who) };
            }
            23 if family.collection => return Step::Collect(who),
            _ => {}
        }
    }
}

impl Program {
    pub fn random(seed: u64, family: &Family) -> Program {
        let rng = &mut Rng(seed);
        let replicas = 3 + rng.below(3);
        let clocks = match rng.below(3) {
            0 => vec![Clock::Hlc; replicas],
            1 => vec![Clock::Lamport; replicas],
            _ => (0..replicas).map(|_| rng.pick(&[Clock::Hlc, Clock::Lamport])).collect(),
        };
        let skew_ms = (0..replicas).map(|_| rng.below(3) as i64 * 2 - 2).collect();
        let fresh = family.migrations == Migrations::FreshNames;
        let count = if family.migrations == Migrations::None { 0 } else { 2 + rng.below(6) };
        let migrations = (0..count).map(|n| random_migration(rng, fresh, n)).collect();
        let length = 5 + rng.below(40);
        let merge_equal_values = match rng.below(4) {
            0 => vec![false; replicas],
            1 => (0..replicas).map(|_| rng.one_in(2)).collect(),
            _ => vec![true; replicas],
        };
        let steps = (0..length).map(|_| random_step(rng, family, replicas)).collect();
        Program { replicas, clocks, skew_ms, merge_equal_values, migrations, steps }
    }

    /// The smallest program found that still fails, and how it fails.
    pub fn shrink(mut self, fails: &dyn Fn(&Program) -> Option<String>) -> (Program, String) {
        let mut failure = fails(&self).unwrap_or_default();
        loop {
            let smaller = self.smaller().into_iter().find_map(|p| Some((fails(&p)?, p)));
            match smaller {
                Some((how, program)) => (self, failure) = (program, how),
                None => return (self, failure),
            }
        }
    }

    /// Every program with one thing less, large things first.
    fn smaller(&self) -> Vec<Program> {
        let mut all = Vec::new();
        let mut width = self.steps.len() / 2;
        while width > 0 {
            for start in (0..self.steps.len()).step_by(width) {
                let mut less = self.clone();
                less.steps.drain(start..(start + width).min(less.steps.len()));
                all.push(less);
            }
            width /= 2;
        }
        for n in 0..self.migrations.len() {
            let mut less = self.clone();
            less.migrations.remove(n);
            all.push(less);
        }
        for (n, step) in self.steps.iter().enumerate() {
            let Step::Write(who, ops) = step else {
                continue;
            };
            for op in (0..ops.len()).filter(|_| ops.len() > 1) {
                let mut ops = ops.clone();
                ops.remove(op);
                let mut less = self.clone();
                less.steps[n] = Step::Write(*who, ops);
                all.push(less);
            }
            for (at, op) in ops.iter().enumerate() {
                for op in shorter(op) {
                    let mut ops = ops.clone();
                    ops[at] = op;
                    let mut less = self.clone();
                    less.steps[n] = Step::Write(*who, ops);
                    all.push(less);
                }
            }
        }
        all
    }
}

/// The statement with one column less.
fn shorter(op: &Op) -> Vec<Op> {
    let count = match op {
        Op::Insert { values: set, .. } | Op::Update { set, .. } | Op::SetKey { set, .. } => set.len(),
        _ => 0,
    };
    let without = |n: usize| {
        let mut op = op.clone();
        if let Op::Insert { values: set, .. } | Op::Update { set, .. } | Op::SetKey { set, .. } = &mut op {
            set.remove(n);
        }
        op
    };
    (0..count).map(without).collect()
}
