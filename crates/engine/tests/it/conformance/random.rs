//! Random statements. `REJOIN_SEED=n cargo test -p rejoin --test it random_statements` runs one seed again.

use super::{Likeness, conform_once};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

const SETUP: [&str; 9] = [
    "CREATE TABLE r(id INTEGER PRIMARY KEY, a, b TEXT DEFAULT 'x')",
    "CREATE TABLE h(k TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, a, b INTEGER DEFAULT 7)",
    "CREATE TABLE w(x INTEGER NOT NULL, y TEXT NOT NULL, a, b REAL, PRIMARY KEY(y, x)) WITHOUT ROWID",
    "CREATE TABLE m(p NOT NULL, q NOT NULL, a, b, PRIMARY KEY(p, q))",
    "CREATE TABLE plain(a, b)",
    "crr r",
    "crr h",
    "crr w",
    "crr m",
];

struct Table {
    name: &'static str,
    keys: &'static [&'static str],
    values: &'static [&'static str],
}

const TABLES: [Table; 4] = [
    Table { name: "r", keys: &["id"], values: &["1", "2", "3", "4", "5"] },
    Table { name: "h", keys: &["k"], values: &["'a'", "'A'", "'b'", "'c'", "'Cc'"] },
    Table { name: "w", keys: &["x", "y"], values: &["1", "2", "'3'"] },
    Table { name: "m", keys: &["p", "q"], values: &["1", "1.0", "'1'", "x'31'", "2.5"] },
];

const VALUES: [&str; 9] = ["NULL", "0", "1", "1.0", "'1'", "'text'", "x'00ff'", "a", "b"];

fn key(random: &mut Random, t: &Table) -> String {
    let values: Vec<&str> = t.keys.iter().map(|_| random.pick(t.values)).collect();
    values.join(", ")
}

fn filter(random: &mut Random, t: &Table) -> String {
    match random.below(6) {
        0 => String::new(),
        1 => format!(" WHERE a IS {}", random.pick(&VALUES[..7])),
        _ => {
            let equal: Vec<String> =
                t.keys.iter().map(|k| format!("{k} = {}", random.pick(t.values))).collect();
            format!(" WHERE {}", equal[random.below(equal.len() as u64) as usize..].join(" AND "))
        }
    }
}

fn insert(random: &mut Random, t: &Table, replace: &str) -> String {
    let or = random.pick(&["", "", "", replace, replace, " OR IGNORE", " OR FAIL", " OR ROLLBACK"]);
    let rows: Vec<String> = (0..1 + random.below(3))
        .map(|_| {
            let key = key(random, t);
            format!("({key}, {}, {})", random.pick(&VALUES[..7]), random.pick(&VALUES[..7]))
        })
        .collect();
    let upsert = match random.below(8) {
        _ if !or.is_empty() => "",
        0 => " ON CONFLICT DO NOTHING",
        1 => " ON CONFLICT DO UPDATE SET a = excluded.a",
        2 => " ON CONFLICT DO UPDATE SET b = excluded.a, a = excluded.b WHERE excluded.a IS NOT a",
        _ => "",
    };
    format!("INSERT{or} INTO {}({}, a, b) VALUES {}{upsert}", t.name, t.keys.join(", "), rows.join(", "))
}

fn update(random: &mut Random, t: &Table, replace: &str) -> String {
    let or = random.pick(&["", "", "", replace, " OR IGNORE", " OR FAIL"]);
    let mut set = Vec::new();
    if random.below(3) == 0 {
        let column = random.below(t.keys.len() as u64) as usize;
        set.push(format!("{} = {}", t.keys[column], random.pick(t.values)));
    }
    if set.is_empty() || random.below(2) == 0 {
        set.push(format!("{} = {}", random.pick(&["a", "b"]), random.pick(&VALUES)));
    }
    if matches!(t.name, "h" | "m") && or.is_empty() && random.below(8) == 0 {
        set.push(format!("rowid = rowid + {}", 1 + random.below(50)));
    }
    format!("UPDATE{or} {} SET {}{}", t.name, set.join(", "), filter(random, t))
}

fn alter(random: &mut Random, t: &Table) -> String {
    let column = random.pick(&["c", "d"]);
    match random.below(6) {
        0..3 => {
            format!("ALTER TABLE {} ADD COLUMN {column} {}", t.name, random.pick(&["", "DEFAULT 1", "TEXT"]))
        }
        3 => format!("ALTER TABLE {} DROP COLUMN {column}", t.name),
        4 => format!("ALTER TABLE {} RENAME COLUMN {column} TO {}", t.name, random.pick(&["c", "d"])),
        // Not an index: without triggers, SQLite may take the rows in its order.
        _ => format!("CREATE VIEW v{} AS SELECT * FROM {}", random.below(1000), t.name),
    }
}

fn statement(random: &mut Random, steps: &mut Vec<String>, replace: &str) {
    let t = &TABLES[random.below(TABLES.len() as u64) as usize];
    let step = match random.below(44) {
        0..12 => insert(random, t, replace),
        12..24 => update(random, t, replace),
        24..28 => format!("DELETE FROM {}{}", t.name, filter(random, t)),
        28 => "BEGIN".into(),
        29 | 30 => "COMMIT".into(),
        31 => "ROLLBACK".into(),
        32 | 33 => format!("SAVEPOINT {}", random.pick(&["s", "t"])),
        34 => format!("ROLLBACK TO {}", random.pick(&["s", "t"])),
        35 => format!("RELEASE {}", random.pick(&["s", "t"])),
        36 => "read".into(),
        37 => format!("INSERT INTO plain SELECT a, b FROM {}", t.name),
        38 => format!("INSERT OR IGNORE INTO r(a, b) SELECT a, b FROM {}", t.name),
        39 => "DELETE FROM plain".into(),
        40 | 41 => alter(random, t),
        _ => format!("UPDATE {} SET {} = {}", t.name, random.pick(&["c", "d"]), random.pick(&VALUES[..7])),
    };
    steps.push(step);
}

fn program(seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let mut steps: Vec<String> = SETUP.iter().map(|s| (*s).to_owned()).collect();
    if random.below(2) == 0 {
        steps.push("PRAGMA recursive_triggers = 1".into());
    }
    let replace = random.pick(&["", " OR REPLACE"]);
    for _ in 0..10 + random.below(60) {
        statement(&mut random, &mut steps, replace);
    }
    steps.push("COMMIT".into());
    steps
}

#[test]
fn random_statements() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("REJOIN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("REJOIN_SEEDS").unwrap_or(60),
    };
    for seed in seeds {
        let program = program(seed);
        let Err(told) = holds(&program, seed) else { continue };
        let (program, told) = shrink(program, told, seed);
        let steps = program.join("\n");
        panic!("{told}\n\n{steps}\n\nREJOIN_SEED={seed} cargo test -p rejoin --test it random_statements");
    }
}

fn holds(program: &[String], seed: u64) -> Result<(), String> {
    let replaces = program.iter().any(|s| s.contains("OR REPLACE"));
    let likeness = if replaces { Likeness::Versions } else { Likeness::Holes };
    let steps: Vec<&str> = program.iter().map(String::as_str).collect();
    let run = || drop(conform_once(&steps, seed.is_multiple_of(2), seed.is_multiple_of(3), likeness));
    std::panic::catch_unwind(run).map_err(|told| match told.downcast::<String>() {
        Ok(told) => *told,
        Err(_) => "a panic without words".to_owned(),
    })
}

/// Leaves out what can be left out.
fn shrink(mut program: Vec<String>, mut told: String, seed: u64) -> (Vec<String>, String) {
    let mut at = program.len();
    while at > SETUP.len() {
        at -= 1;
        let mut less = program.clone();
        less.remove(at);
        if let Err(now) = holds(&less, seed) {
            (program, told) = (less, now);
        }
    }
    (program, told)
}
