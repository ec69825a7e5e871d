//! The command line.

use crate::lab::{Lab, Side, has_function};
use crate::measure::{self, ALL, Scenario};
use crate::{Result, hot, report};

const HELP: &str = "\
rejoin-bench engine [OPTIONS]

  --quick            10,000 rows and three rounds
  --rows N           rows (100,000)
  --rounds N         rounds (5); the least CPU time counts
  --only NAME        this scenario only; may be given again; --list names them
  --key int|uuid     this kind of key only
  --mode owned|shared|plain
                     this capture only (plain runs always)
  --no-temp          without the repetition under temp_store=MEMORY
  --json FILE        the figures as JSON, too
  --check            counts the instructions of the hot paths (valgrind) and compares with benches/engine/budgets.txt
  --bless            the same, and writes the counts as the new budgets
  --list             names the scenarios
";

pub struct Options {
    rows: usize,
    rounds: u32,
    only: Vec<String>,
    keys: Vec<bool>,
    sides: Vec<Side>,
    temp: bool,
    json: Option<String>,
}

impl Options {
    /// None: everything was done while reading.
    pub fn parse(words: Vec<String>) -> Result<Option<Options>> {
        let mut o = Options {
            rows: 100_000,
            rounds: 5,
            only: Vec::new(),
            keys: vec![false, true],
            sides: vec![Side::Plain, Side::Shared, Side::Owned],
            temp: true,
            json: None,
        };
        let mut words = words.into_iter().filter(|w| w != "engine");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--help" | "-h" => {
                    print!("{HELP}");
                    return Ok(None);
                }
                "--list" => {
                    ALL.iter().for_each(|s| println!("{:<22} {}", s.name, s.text));
                    return Ok(None);
                }
                "--check" => return hot::check(false).map(|()| None),
                "--bless" => return hot::check(true).map(|()| None),
                "--hot" => return hot::run(&value()?).map(|()| None),
                "--quick" => (o.rows, o.rounds) = (10_000, 3),
                "--rows" => o.rows = value()?.parse()?,
                "--rounds" => o.rounds = value()?.parse()?,
                "--only" => o.only.push(value()?),
                "--key" => o.keys = vec![value()? == "uuid"],
                "--mode" => {
                    let mode = value()?;
                    o.sides.retain(|s| *s == Side::Plain || s.name() == mode);
                }
                "--no-temp" => o.temp = false,
                "--json" => o.json = Some(value()?),
                other => return Err(format!("unknown option `{other}`; see --help").into()),
            }
        }
        if let Some(name) = o.only.iter().find(|n| !ALL.iter().any(|s| s.name == n.as_str())) {
            return Err(format!("there is no scenario `{name}`; see --list").into());
        }
        if o.rows < 2000 || o.rounds == 0 {
            return Err("--rows takes at least 2000, --rounds at least 1".into());
        }
        Ok(Some(o))
    }

    /// Whether every ceiling is kept.
    pub fn run(&self) -> Result<bool> {
        println!("{}", report::head());
        let mut all = Vec::new();
        for temp_memory in [false, true] {
            for &uuid in &self.keys {
                let lab = Lab::new(uuid, temp_memory, self.rows)?;
                for scenario in ALL.iter().filter(|s| self.wants(s, temp_memory)) {
                    let sides = self.possible(&lab, scenario)?;
                    let measured = measure::run(&lab, scenario, &sides, self.rounds)?;
                    println!("{}", report::line(&measured));
                    all.push(measured);
                }
            }
        }
        if let Some(path) = &self.json {
            std::fs::write(path, serde_json::to_string_pretty(&report::json(&all))?)?;
        }
        Ok(report::all_ok(&all))
    }

    fn wants(&self, s: &Scenario, temp_memory: bool) -> bool {
        let named = self.only.is_empty() || self.only.iter().any(|n| n == s.name);
        named && (!temp_memory || self.temp && s.temp)
    }

    fn possible(&self, lab: &Lab, s: &Scenario) -> Result<Vec<Side>> {
        let db = lab.open(Side::Shared, &lab.path())?;
        let there = match s.needs {
            Some(function) => has_function(&db, function)?,
            None => true,
        };
        let owned = lab.empty(Side::Owned).is_ok();
        let can = |side: &Side| match side {
            Side::Plain => true,
            Side::Shared => there,
            Side::Owned => there && owned,
        };
        Ok(self.sides.iter().copied().filter(can).collect())
    }
}
