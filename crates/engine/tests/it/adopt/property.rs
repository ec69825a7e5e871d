//! Clients and a server with a policy that nobody can foresee: whatever is refused, and wherever the connection breaks,
//! all end with equal tables, void versions are void everywhere, and what was refused can be read.
//!
//! `REJOIN_SEED=n cargo test -p rejoin --test it adopt::property` runs one program, `REJOIN_CASES=n` that many;
//! `REJOIN_TRACE=1` tells what happens.

use super::room::{Policy, ask, clean, pull, push, told};
use crate::util::{Files, int, rows, run, state};
use rejoin::{CutRequest, Rejection, Replica, RowFacts, SiteId, Value, VersionVector, Void};
use std::collections::BTreeSet;

const SCHEMA: &str = "\
    CREATE TABLE n(k INTEGER PRIMARY KEY, a, b DEFAULT 7); SELECT crsql_as_crr('n'); \
    CREATE TABLE h(k TEXT COLLATE NOCASE NOT NULL, k2 NOT NULL, a, b, PRIMARY KEY(k, k2)); SELECT crsql_as_crr('h'); \
    CREATE TABLE w(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, a, b DEFAULT 7) WITHOUT ROWID; SELECT crsql_as_crr('w'); \
    CREATE TABLE o(k TEXT PRIMARY KEY NOT NULL); SELECT crsql_as_crr('o');";
const TABLES: [&str; 4] = ["n", "h", "w", "o"];

struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    fn key(&mut self, table: &str) -> String {
        let letter = ["'a'", "'A'", "'b'", "'B'", "'c'", "'d'"][self.next(6) as usize];
        match table {
            "n" => self.next(6).to_string(),
            "h" => format!("{letter}, {}", self.next(2)),
            _ => letter.to_owned(),
        }
    }

    fn at(&mut self, table: &str) -> String {
        let key = self.key(table);
        if table == "h" { format!("(k, k2) = ({key})") } else { format!("k = {key}") }
    }

    fn statement(&mut self) -> String {
        let table = TABLES[self.next(4) as usize];
        let (key, at, value) = (self.key(table), self.at(table), self.next(40));
        let column = ["a", "b"][self.next(2) as usize];
        let verb = ["INSERT OR IGNORE", "REPLACE"][self.next(2) as usize];
        match (self.next(9), table) {
            (0..=2, "o") => format!("{verb} INTO o VALUES ({key})"),
            (0..=2, _) if self.next(4) == 0 => {
                format!("{verb} INTO {table} VALUES ({key}, {value}, {value})")
            }
            (0..=2, "h") => format!("{verb} INTO h(k, k2, {column}) VALUES ({key}, {value})"),
            (0..=2, _) => format!("{verb} INTO {table}(k, {column}) VALUES ({key}, {value})"),
            (3, _) => format!("DELETE FROM {table} WHERE {at}"),
            (4, "h") => format!("UPDATE OR IGNORE h SET k = {} WHERE {at}", self.key("w")),
            (4, _) => format!("UPDATE OR IGNORE {table} SET k = {key} WHERE {at}"),
            (5, _) if self.next(6) == 0 => format!(
                "INSERT OR IGNORE INTO n WITH RECURSIVE i(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM i WHERE x < 90) \
                 SELECT x, {value}, x FROM i"
            ),
            (_, "o") => format!("DELETE FROM o WHERE {at}"),
            _ => format!("UPDATE {table} SET {column} = {value} WHERE {at}"),
        }
    }

    fn write(&mut self, r: &Replica) {
        let statements: Vec<String> = (0..=self.next(3)).map(|_| self.statement()).collect();
        let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
        trace(|| format!("{:?}: {sql}", r.connection().path().and_then(|p| p.rsplit('/').next())));
        run(r, &sql);
    }
}

fn trace(what: impl FnOnce() -> String) {
    if std::env::var_os("REJOIN_TRACE").is_some() {
        println!("{}", what());
    }
}

/// A cell of a transaction, as it must be found in `crsql_rejected` if that is given up.
fn cells_of(r: &Replica, version: u64) -> Vec<String> {
    rows(
        r,
        &format!(
            "SELECT \"table\", pk, cid, val, col_version FROM crsql_changes WHERE cid <> '-1' AND site_id = crsql_site_id() \
             AND db_version IN (SELECT db_version FROM crsql_log WHERE version = {version} \
             AND site = (SELECT ordinal FROM crsql_sites WHERE site_id = crsql_site_id()))"
        ),
    )
}

struct World {
    chance: Chance,
    clients: Vec<Replica>,
    server: Replica,
    voids: BTreeSet<(SiteId, u64)>,
    files: Files,
}

impl World {
    fn new(seed: u64) -> World {
        let files = Files::new();
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let clients: Vec<Replica> =
            (0..2 + chance.next(2)).map(|i| files.open(&format!("client{i}.db"), SCHEMA)).collect();
        if chance.next(3) == 0 {
            run(&clients[0], "SELECT crsql_config_set('mode', 'owned')");
        }
        if chance.next(3) == 0 {
            run(&clients[0], "SELECT crsql_config_set('clock', 'lamport')");
        }
        let server = files.open("server.db", SCHEMA);
        World { chance, clients, server, voids: BTreeSet::new(), files }
    }

    /// Sends; what is refused depends on the values and on the mood.
    fn push(&mut self, i: usize) -> Option<Vec<Rejection>> {
        let mood = self.chance.next(5) as i64;
        trace(|| format!("client{i} pushes, mood {mood}"));
        let refuses = |row: &RowFacts<'_>| {
            let bad = |v: &Value| matches!(v, Value::Int(x) if *x > 7 && x % 3 == mood);
            match row.new {
                Some(new) => new.iter().any(bad),
                None => mood > 1,
            }
        };
        push(&self.clients[i], &self.server, &mut Policy { refuses: &refuses })
    }

    /// Adopts, perhaps with other things going on. None: the connection is lost before.
    fn adopt(&mut self, i: usize, rejections: &[Rejection], may_fail: bool) {
        let mut states: Vec<Vec<u8>> = Vec::new();
        for round in 0.. {
            assert!(round < 30, "rows are wanted for ever");
            if may_fail && self.chance.next(12) == 0 {
                return;
            }
            let client = &self.clients[i];
            let head = client.vector().unwrap().max(&client.site_id().unwrap());
            let before: Vec<Vec<String>> = (0..=head).map(|v| cells_of(client, v)).collect();
            let bytes: Vec<&[u8]> = states.iter().map(Vec::as_slice).collect();
            let adopted = client.adopt(rejections, &bytes).unwrap();
            trace(|| format!("client{i} adopts {rejections:?} by {adopted:?}"));
            clean(client);
            if !adopted.wanted.is_empty() {
                states.push(self.server.row_states(&adopted.wanted).unwrap());
                // Others go on meanwhile.
                if may_fail && self.chance.next(3) == 0 {
                    let other = self.chance.next(self.clients.len() as u64) as usize;
                    self.chance.write(&self.clients[other]);
                    if other != i {
                        self.push(other);
                        pull(&self.server, &self.clients[other]);
                    }
                }
                if may_fail && self.chance.next(4) == 0 {
                    trace(|| format!("client{i} pulls meanwhile"));
                    pull(&self.server, &self.clients[i]);
                }
                continue;
            }
            self.check_kept(i, &adopted.voids, &before);
            self.voids.extend(adopted.voids.iter().map(|v| (v.site, v.version)));
            // The answer may be lost: the next cut tells of it.
            if !may_fail || self.chance.next(3) > 0 {
                self.server.void(&adopted.voids).unwrap();
                clean(&self.server);
            }
            return;
        }
    }

    /// Nothing of what was given up is lost.
    fn check_kept(&self, i: usize, voids: &[Void], before: &[Vec<String>]) {
        let kept = rows(&self.clients[i], "SELECT \"table\", pk, cid, val, col_version FROM crsql_rejected");
        for void in voids {
            let cells = before.get(void.version as usize).map(Vec::as_slice).unwrap_or_default();
            let lost: Vec<&String> = cells.iter().filter(|c| !kept.contains(c)).collect();
            // What the server has too, in the same words, is not lost.
            let there =
                rows(&self.clients[i], "SELECT \"table\", pk, cid, val, col_version FROM crsql_changes");
            assert!(lost.iter().all(|c| there.contains(c)), "version {}: {lost:?}", void.version);
        }
    }

    fn step(&mut self) {
        let i = self.chance.next(self.clients.len() as u64) as usize;
        match self.chance.next(8) {
            0..=3 => self.chance.write(&self.clients[i]),
            4 => {
                trace(|| format!("client{i} pulls"));
                pull(&self.server, &self.clients[i]);
            }
            5 if self.chance.next(3) == 0 => {
                let versions: BTreeSet<u64> =
                    self.clients[i].rejected().unwrap().iter().map(|c| c.version).collect();
                if let Some(version) = versions.first() {
                    // It may be that its row is gone.
                    let _ = self.clients[i].retry_rejected(*version, None);
                }
            }
            _ => {
                if let Some(rejections) = self.push(i)
                    && self.chance.next(6) > 0
                {
                    self.adopt(i, &rejections, true);
                }
            }
        }
        clean(&self.clients[i]);
        clean(&self.server);
    }

    fn settle(&mut self) {
        for i in (0..3).flat_map(|_| 0..self.clients.len()).collect::<Vec<_>>() {
            for round in 0.. {
                assert!(round < 60, "the server refuses for ever");
                let Some(rejections) = self.push(i) else { break };
                self.adopt(i, &rejections, false);
            }
            pull(&self.server, &self.clients[i]);
            ask(&self.clients[i], &self.server);
            assert_eq!(self.clients[i].rows_wanted().unwrap(), []);
        }
        let newcomer = self.files.open("newcomer.db", SCHEMA);
        pull(&self.server, &newcomer);
        self.clients.push(newcomer);
        for r in &self.clients {
            clean(r);
            for table in TABLES {
                let (here, there) = (state(r, table), state(&self.server, table));
                let only = |a: &[String], b: &[String]| -> Vec<String> {
                    a.iter().filter(|row| !b.contains(row)).cloned().collect()
                };
                let (more, less) = (only(&here, &there), only(&there, &here));
                assert!(here == there, "{:?} has {more:#?}, the server {less:#?}", r.connection().path());
            }
            let vector = r.vector().unwrap();
            assert_eq!(vector, self.server.vector().unwrap());
            assert!(self.voids.iter().all(|(site, version)| vector.contains(site, *version)));
            let told = told(r);
            assert!(!told.iter().any(|t| self.voids.contains(t)), "a void version has cells");
            assert!(r.cut_for(&CutRequest::new(&self.server.vector().unwrap())).unwrap().is_none());
            assert_eq!(int(r, "SELECT count(*) FROM crsql_parked"), 0);
        }
        assert!(self.server.cut_for(&CutRequest::new(&VersionVector::new())).unwrap().is_some());
    }
}

#[test]
fn all_end_equal_whatever_is_refused() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("REJOIN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("REJOIN_CASES").unwrap_or(30),
    };
    let mut voids = 0;
    for seed in seeds {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            (0..40).for_each(|_| world.step());
            world.settle();
            world.voids.len()
        });
        match std::panic::catch_unwind(run) {
            Ok(n) => voids += n,
            Err(e) => {
                println!("REJOIN_SEED={seed} cargo test -p rejoin --test it adopt::property");
                std::panic::resume_unwind(e);
            }
        }
    }
    println!("void versions: {voids}");
    assert!(voids > 0, "nothing was ever refused");
}
