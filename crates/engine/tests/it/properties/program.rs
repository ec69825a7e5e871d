//! Random programs: statements of one transaction, and what replicas do to one another.

use rejoin_crdt::Value;
use rejoin_crdt::key::{Affinity, Fold};
use rejoin_sim::program::{Pick, Rng, random_value};
use rejoin_sim::{Clock, ColumnDef, KeyColumn, Op, TableDef};

pub type Key = Vec<Value>;
pub type Set = Vec<(String, Value)>;

#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// As the model executes it.
    One(Op),
    /// INSERT ... ON CONFLICT DO UPDATE.
    Upsert {
        table: String,
        key: Key,
        set: Set,
    },
    OrIgnore {
        table: String,
        key: Key,
        set: Set,
    },
    /// One INSERT of several rows; `or` is "", "OR FAIL", "OR IGNORE" or "OR REPLACE".
    Many {
        table: String,
        or: &'static str,
        columns: Vec<String>,
        rows: Vec<(Key, Vec<Value>)>,
    },
    UpdateAll {
        table: String,
        set: Set,
    },
    DeleteAll {
        table: String,
    },
    Savepoint {
        stmts: Vec<Stmt>,
        keep: bool,
    },
    /// INSERT INTO crsql_changes of what another replica lists.
    Merge {
        from: usize,
        pick: Pick,
    },
    NextVersion(i64),
    /// Reads `crsql_changes` inside the transaction.
    Look,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    Write {
        who: usize,
        /// Which of the replica's connections.
        conn: usize,
        /// In one transaction; else each statement is its own.
        tx: bool,
        keep: bool,
        stmts: Vec<Stmt>,
    },
    /// Everything that the receiver misses, as one changeset.
    Native {
        from: usize,
        to: usize,
    },
    /// The replica makes the next schema change of the program.
    Migrate(usize),
    /// A schema change of this replica alone.
    Alter(usize, Op),
    /// The 12-step rebuild of a table.
    Rebuild(usize, String),
    Vacuum(usize),
    Reopen(usize),
    /// All but the last replica exchange everything with one, and it forgets what they have acknowledged.
    Collect(usize),
    Wait(i64),
}

/// What a program may contain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Family {
    /// Failing statements and rollbacks; they leave holes in the seq numbers.
    pub failures: bool,
    pub merges: bool,
    pub native: bool,
    pub migrations: bool,
    /// Names are given again, and tables dropped and made. Row by row that wants everybody migrated in between.
    pub remade: bool,
    /// Each replica makes schema changes of its own.
    pub apart: bool,
    pub rebuilds: bool,
    pub replicas_max: usize,
    /// Collection, with a last replica that nobody waits for.
    pub collection: bool,
    /// Large transactions, so that metadata goes to blocks.
    pub bulk: bool,
}

#[derive(Clone, Debug)]
pub struct Program {
    pub clocks: Vec<Clock>,
    pub skew_ms: Vec<i64>,
    pub merge_equal_values: Vec<bool>,
    /// Which of the tables of a replica are WITHOUT ROWID, a bit each.
    pub layouts: Vec<u8>,
    /// Captured by hooks, without triggers.
    pub owned: Vec<bool>,
    pub migrations: Vec<Op>,
    pub family: Family,
    pub steps: Vec<Step>,
    pub collection: bool,
}

fn column(name: &str, default: Value, not_null: bool) -> ColumnDef {
    let name = name.to_owned();
    ColumnDef { name, default, not_null }
}

fn key(name: &str, affinity: Affinity, fold: Fold) -> KeyColumn {
    let name = name.to_owned();
    KeyColumn { name, affinity, fold }
}

/// A folded text key with a required column, a compound key, a key alone, an integer key with columns.
pub fn schema() -> Vec<TableDef> {
    let columns = |y| vec![column("x", Value::Int(0), false), column("y", Value::Null, y)];
    let table = |name: &str, key, columns| TableDef { name: name.to_owned(), key, columns };
    vec![
        table("t", vec![key("k", Affinity::Text, Fold::NoCase)], columns(true)),
        table(
            "u",
            vec![key("k", Affinity::Blob, Fold::None), key("l", Affinity::Integer, Fold::None)],
            columns(false),
        ),
        table("p", vec![key("k", Affinity::Integer, Fold::None)], vec![]),
        table("i", vec![key("k", Affinity::Integer, Fold::None)], columns(false)),
    ]
}

const TABLES: [&str; 8] = ["t", "t", "t", "u", "u", "i", "i", "p"];
const COLUMNS: [&str; 4] = ["x", "y", "z", "v"];

/// A table that a program makes: by this name its statements mean it, whatever it is called.
pub const MADE: &str = "made";

pub fn random_key(rng: &mut Rng, table: &str) -> Key {
    match table {
        "u" => {
            let first = rng.pick(&[Value::Int(1), Value::Real(1.0), Value::Int(2), Value::text("a")]);
            vec![first, Value::Int(1)]
        }
        "p" | "i" | MADE => vec![Value::Int(rng.below(4) as i64)],
        _ => vec![rng.pick(&[Value::text("a"), Value::text("A"), Value::text("b")])],
    }
}

fn random_set(rng: &mut Rng) -> Set {
    let mut set = Vec::new();
    for name in COLUMNS {
        if rng.one_in(2) {
            set.push((name.to_owned(), random_value(rng)));
        }
    }
    set
}

fn random_many(rng: &mut Rng, bulk: bool) -> Stmt {
    let table = rng.pick(&TABLES).to_owned();
    let columns: Vec<String> = random_set(rng).into_iter().map(|(name, _)| name).collect();
    let big = bulk && table != "t" && rng.one_in(2);
    let count = if big { 20 + rng.below(200) } else { 2 + rng.below(2) };
    let mut rows: Vec<(Key, Vec<Value>)> = Vec::new();
    for n in 0..count {
        let key = match table.as_str() {
            _ if !big => random_key(rng, &table),
            "u" => vec![Value::Int(n as i64), Value::Int(2)],
            _ => vec![Value::Int(100 + n as i64)],
        };
        rows.push((key, columns.iter().map(|_| random_value(rng)).collect()));
    }
    let or = rng.pick(&["", "OR FAIL", "OR IGNORE", "OR REPLACE"]);
    Stmt::Many { table, or, columns, rows }
}

fn random_pick(rng: &mut Rng) -> Pick {
    match rng.below(3) {
        0 => Pick::All,
        1 => Pick::Tail,
        _ => Pick::Some(rng.draw()),
    }
}

fn random_one(rng: &mut Rng, family: &Family) -> Stmt {
    let made = family.remade && rng.one_in(5);
    let table = if made { MADE } else { rng.pick(&TABLES) }.to_owned();
    let key = random_key(rng, &table);
    let set = random_set(rng);
    let or_replace = rng.one_in(2);
    Stmt::One(match rng.below(8) {
        0..=2 => Op::Insert { table, key, values: set, or_replace },
        3 | 4 => Op::Update { table, key, set },
        5 => {
            let to = random_key(rng, &table);
            Op::SetKey { table, key, to, set, or_replace }
        }
        _ => Op::Delete { table, key },
    })
}

fn random_stmt(rng: &mut Rng, family: &Family, who: usize, replicas: usize, depth: usize) -> Stmt {
    let table = rng.pick(&TABLES).to_owned();
    match rng.below(24) {
        0 | 1 => Stmt::Upsert { key: random_key(rng, &table), table, set: random_set(rng) },
        2 => Stmt::OrIgnore { key: random_key(rng, &table), table, set: random_set(rng) },
        3 | 4 => random_many(rng, family.bulk),
        5 => Stmt::UpdateAll { table, set: random_set(rng) },
        6 if rng.one_in(2) => Stmt::DeleteAll { table },
        7 | 8 if depth < 3 => {
            let stmts =
                (0..1 + rng.below(3)).map(|_| random_stmt(rng, family, who, replicas, depth + 1)).collect();
            Stmt::Savepoint { stmts, keep: !family.failures || rng.one_in(3) }
        }
        9..=11 if family.merges && replicas > 1 => {
            let from = (who + 1 + rng.below(replicas - 1)) % replicas;
            Stmt::Merge { from, pick: random_pick(rng) }
        }
        14..=17 if family.collection => Stmt::One(Op::Delete { key: random_key(rng, &table), table }),
        12 if rng.one_in(3) => Stmt::NextVersion(rng.below(30) as i64),
        13 => Stmt::Look,
        _ => random_one(rng, family),
    }
}

fn random_step(rng: &mut Rng, family: &Family, replicas: usize) -> Step {
    let who = rng.below(replicas);
    let to = (who + 1 + rng.below(replicas.max(2) - 1)) % replicas;
    match rng.below(30) {
        0 | 1 if family.rebuilds => Step::Rebuild(who, rng.pick(&TABLES).to_owned()),
        2 if family.rebuilds => Step::Vacuum(who),
        3 | 4 if family.apart => Step::Alter(who, remade(rng)),
        3 | 4 if family.migrations => Step::Migrate(who),
        5..=8 if family.native => Step::Native { from: who, to },
        9 => Step::Reopen(who),
        26..=28 if family.collection => Step::Collect(who),
        29 if family.collection => Step::Vacuum(who),
        10 => Step::Wait(rng.below(3) as i64),
        11..=14 if family.merges && replicas > 1 => Step::Write {
            who,
            conn: rng.below(2),
            tx: !rng.one_in(4),
            keep: true,
            stmts: vec![Stmt::Merge { from: to, pick: random_pick(rng) }],
        },
        _ => Step::Write {
            who,
            conn: rng.below(2),
            tx: !rng.one_in(3),
            keep: !family.failures || !rng.one_in(8),
            stmts: (0..1 + rng.below(4)).map(|_| random_stmt(rng, family, who, replicas, 0)).collect(),
        },
    }
}

fn random_migration(rng: &mut Rng, used: usize) -> Op {
    let table = rng.pick(&["t", "u", "i"]).to_owned();
    let made: String = format!("{}{used}", rng.pick(&["z", "v"]));
    match rng.below(6) {
        0..=2 => {
            let default = rng.pick(&[Value::Null, Value::Int(7)]);
            let name = rng.pick(&["z", "v"]);
            Op::AddColumn { table, column: column(name, default, false) }
        }
        3 => Op::DropColumn { table, column: rng.pick(&["x", "z", "v"]).to_owned() },
        4 => Op::RenameColumn { table, column: rng.pick(&["x", "z", "v"]).to_owned(), to: made },
        _ => Op::RenameTable { table, to: format!("r{used}") },
    }
}

/// A schema change that gives names again.
fn remade(rng: &mut Rng) -> Op {
    let table = rng.pick(&["t", "u", "i", "i", MADE]).to_owned();
    let name = |rng: &mut Rng| rng.pick(&["x", "z", "v"]).to_owned();
    match rng.below(10) {
        0..=2 => {
            let default = rng.pick(&[Value::Null, Value::Int(7)]);
            Op::AddColumn { table, column: column(&name(rng), default, false) }
        }
        3 | 4 => Op::DropColumn { table, column: name(rng) },
        5..=7 => Op::RenameColumn { table, column: name(rng), to: name(rng) },
        8 => Op::DropTable { table: rng.pick(&["i", MADE]).to_owned() },
        _ if rng.one_in(2) => {
            let keys = vec![key("k", Affinity::Integer, Fold::None)];
            let columns = vec![column("x", Value::Null, false)];
            Op::CreateTable(TableDef { name: rng.pick(&["i", "j"]).to_owned(), key: keys, columns })
        }
        // Tables of one name have keys of one kind.
        _ => {
            let to = match table.as_str() {
                "t" => rng.pick(&["t", "s"]),
                "u" => rng.pick(&["u", "w"]),
                _ => rng.pick(&["i", "j"]),
            };
            Op::RenameTable { table, to: to.to_owned() }
        }
    }
}

impl Program {
    pub fn random(seed: u64, family: &Family) -> Program {
        let rng = &mut Rng(seed);
        let replicas = if family.replicas_max < 2 { 1 } else { 2 + rng.below(family.replicas_max - 1) };
        let all = |rng: &mut Rng, f: &mut dyn FnMut(&mut Rng) -> bool| -> Vec<bool> {
            (0..replicas).map(|_| f(rng)).collect()
        };
        let lamport = rng.below(3);
        let clocks = all(rng, &mut |rng| lamport == 0 || lamport == 1 && rng.one_in(2));
        let equal = rng.below(4);
        let merge_equal_values = all(rng, &mut |rng| equal > 1 || equal == 1 && rng.one_in(2));
        let owned = all(rng, &mut |rng| rng.one_in(3));
        let skew_ms = (0..replicas).map(|_| rng.below(3) as i64 * 2 - 2).collect();
        let layouts = (0..replicas).map(|_| rng.below(8) as u8).collect();
        let count = if family.migrations { 1 + rng.below(if family.remade { 8 } else { 4 }) } else { 0 };
        let migration = |n| if family.remade { remade(rng) } else { random_migration(rng, n) };
        let migrations = (0..count).map(migration).collect();
        let more = if family.collection { 20 } else { 0 };
        let steps = (0..3 + more + rng.below(25)).map(|_| random_step(rng, family, replicas)).collect();
        Program {
            clocks: clocks.iter().map(|l| if *l { Clock::Lamport } else { Clock::Hlc }).collect(),
            skew_ms,
            merge_equal_values,
            layouts,
            owned,
            migrations,
            family: *family,
            steps,
            collection: family.collection,
        }
    }

    pub fn replicas(&self) -> usize {
        self.clocks.len()
    }

    /// The smallest program found that still fails, and how it fails.
    pub fn shrink(mut self, fails: &dyn Fn(&Program) -> Option<String>) -> (Program, String) {
        let mut failure = fails(&self).unwrap_or_default();
        let mut budget = 400;
        loop {
            let mut tried = self.smaller().into_iter();
            let smaller = tried.find_map(|p| {
                budget -= 1;
                if budget < 0 { None } else { Some((fails(&p)?, p)) }
            });
            match smaller {
                Some((how, program)) => (self, failure) = (program, how),
                None => return (self, failure),
            }
        }
    }

    fn smaller(&self) -> Vec<Program> {
        let with = |steps: Vec<Step>| Program { steps, ..self.clone() };
        let mut all: Vec<Program> = less(&self.steps).into_iter().map(with).collect();
        for migrations in less(&self.migrations) {
            all.push(Program { migrations, ..self.clone() });
        }
        for (n, step) in self.steps.iter().enumerate() {
            let Step::Write { who, conn, tx, keep, stmts } = step else { continue };
            for stmts in fewer(stmts) {
                let mut steps = self.steps.clone();
                let (who, conn, tx, keep) = (*who, *conn, *tx, *keep);
                steps[n] = Step::Write { who, conn, tx, keep, stmts };
                all.push(with(steps));
            }
        }
        all
    }
}

/// Every list with a part less, large parts first.
fn less<T: Clone>(list: &[T]) -> Vec<Vec<T>> {
    let mut all = Vec::new();
    let mut width = list.len().div_ceil(2);
    while width > 0 {
        for start in (0..list.len()).step_by(width) {
            let mut rest = list.to_vec();
            rest.drain(start..(start + width).min(list.len()));
            all.push(rest);
        }
        width = if width == 1 { 0 } else { width.div_ceil(2) };
    }
    all
}

/// Every list of statements with one thing less.
fn fewer(stmts: &[Stmt]) -> Vec<Vec<Stmt>> {
    let mut all: Vec<Vec<Stmt>> = less(stmts).into_iter().filter(|s| !s.is_empty()).collect();
    for (n, stmt) in stmts.iter().enumerate() {
        for one in simpler(stmt) {
            let mut stmts = stmts.to_vec();
            stmts[n] = one;
            all.push(stmts);
        }
        if let Stmt::Savepoint { stmts: inner, keep: true } = stmt {
            let mut stmts = stmts.to_vec();
            stmts.splice(n..=n, inner.clone());
            all.push(stmts);
        }
    }
    all
}

fn simpler(stmt: &Stmt) -> Vec<Stmt> {
    let sets = |set: &Set| less(set).into_iter();
    match stmt.clone() {
        Stmt::Savepoint { stmts, keep } => {
            fewer(&stmts).into_iter().map(|stmts| Stmt::Savepoint { stmts, keep }).collect()
        }
        Stmt::Many { table, or, columns, rows } => less(&rows)
            .into_iter()
            .filter(|rows| !rows.is_empty())
            .map(|rows| Stmt::Many { table: table.clone(), or, columns: columns.clone(), rows })
            .collect(),
        Stmt::Upsert { table, key, set } => {
            sets(&set).map(|set| Stmt::Upsert { table: table.clone(), key: key.clone(), set }).collect()
        }
        Stmt::UpdateAll { table, set } => {
            sets(&set).map(|set| Stmt::UpdateAll { table: table.clone(), set }).collect()
        }
        Stmt::One(Op::Insert { table, key, values, or_replace }) => sets(&values)
            .map(|values| {
                let (table, key) = (table.clone(), key.clone());
                Stmt::One(Op::Insert { table, key, values, or_replace })
            })
            .collect(),
        Stmt::One(Op::SetKey { table, key, to, set, or_replace }) => sets(&set)
            .map(|set| {
                let (table, key, to) = (table.clone(), key.clone(), to.clone());
                Stmt::One(Op::SetKey { table, key, to, set, or_replace })
            })
            .collect(),
        _ => Vec::new(),
    }
}
