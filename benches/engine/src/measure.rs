//! The scenarios of the benchmark with their ceilings, and running them.

use crate::lab::{Lab, Side};
use crate::{Result, scenarios as s, scenarios_big as big, scenarios_merge as m};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// CPU time, as a multiple of plain SQLite's.
    Ratio,
    /// File size, as a multiple of plain SQLite's.
    Size,
    /// Bytes a row more than the plain file.
    BytesPerRow,
    /// CPU milliseconds.
    Ms,
}

pub struct Scenario {
    pub name: &'static str,
    pub text: &'static str,
    pub unit: Unit,
    /// Ceilings: owned int, owned uuid, shared int, shared uuid.
    pub most: [f64; 4],
    pub run: fn(&Lab, Side) -> Result<f64>,
    /// Also with temp_store=MEMORY.
    pub temp: bool,
    /// SQL function without which there is nothing to measure.
    pub needs: Option<&'static str>,
    /// Takes so long that a round of it is enough.
    pub once: bool,
}

const fn ratio(
    name: &'static str,
    text: &'static str,
    most: [f64; 4],
    run: fn(&Lab, Side) -> Result<f64>,
) -> Scenario {
    Scenario { name, text, unit: Unit::Ratio, most, run, temp: true, needs: None, once: false }
}

const fn native(s: Scenario, function: &'static str) -> Scenario {
    Scenario { needs: Some(function), ..s }
}

const fn pull(name: &'static str, text: &'static str, run: fn(&Lab, Side) -> Result<f64>) -> Scenario {
    Scenario { name, text, unit: Unit::Ms, most: [0.1; 4], run, temp: false, needs: None, once: true }
}

/// Point reads cost what they cost plain; this much is noise.
const SAME: f64 = 1.05;
/// Bytes of a key: an integer up to 100,000 takes three.
const KEY: [f64; 2] = [3.0, 16.0];

pub const ALL: &[Scenario] = &[
    ratio("insert", "insert 100k, one transaction", [1.5, 1.25, 2.0, 1.5], s::insert_one_transaction),
    ratio(
        "insert-commits",
        "insert 5k, a transaction each",
        [2.2, 2.2, 2.5, 2.5],
        s::insert_many_transactions,
    ),
    ratio("update", "update one column of 100k", [3.0, 3.0, 6.0, 6.0], s::update_column),
    ratio("delete", "delete 100k", [2.5, 1.5, 3.5, 2.0], s::delete_all),
    ratio("read-changes", "read 400k changes / read the rows", [12.0, 12.0, 14.0, 14.0], s::read_changes),
    native(
        ratio(
            "read-changeset",
            "one changeset of them / read the rows",
            [2.5, 2.5, 3.0, 3.0],
            s::read_changeset,
        ),
        "crsql_changeset",
    ),
    ratio("merge", "merge them row by row / copy the rows", [10.0; 4], m::merge_rows),
    native(
        ratio("merge-changeset", "merge the changeset / copy the rows", [2.5; 4], m::merge_changeset),
        "crsql_apply_changeset",
    ),
    ratio("merge-newer", "merge 100k newer cells / update by key", [3.0, 3.0, 5.0, 5.0], m::merge_newer_rows),
    native(
        ratio(
            "merge-newer-changeset",
            "the same as a changeset / update by key",
            [3.0, 3.0, 5.0, 5.0],
            m::merge_newer_changeset,
        ),
        "crsql_apply_changeset",
    ),
    Scenario {
        unit: Unit::Size,
        temp: false,
        ..ratio("size", "file size after insert", [1.2; 4], s::file_size)
    },
    Scenario {
        unit: Unit::BytesPerRow,
        temp: false,
        ..ratio(
            "size-deleted",
            "file size after delete and VACUUM, a row",
            [KEY[0] + 12.0, KEY[1] + 12.0, KEY[0] + 12.0, KEY[1] + 12.0],
            s::deleted_size,
        )
    },
    Scenario { temp: false, ..ratio("point", "point reads", [SAME; 4], s::point_reads) },
    pull("pull", "pull the last 10, 1 table, 10k rows", big::pull_1_table),
    pull("pull-tables", "pull the last 10, 1,000 tables, 10k rows", big::pull_1000_tables),
    pull("pull-big", "pull the last 10, 1 table, 1M rows", big::pull_1_table_big),
    pull("pull-tables-big", "pull the last 10, 1,000 tables, 1M rows", big::pull_1000_tables_big),
    Scenario { most: [5.0; 4], once: false, ..pull("add-column", "ADD COLUMN at 1M rows", big::add_column) },
];

/// The least of the rounds, by side; NaN: not measured.
pub struct Measured {
    pub scenario: &'static Scenario,
    pub uuid: bool,
    pub temp_memory: bool,
    pub plain: f64,
    pub owned: f64,
    pub shared: f64,
    pub rows: usize,
}

impl Measured {
    /// What is held against the ceiling.
    pub fn figure(&self, side: Side) -> f64 {
        let value = if side == Side::Owned { self.owned } else { self.shared };
        match self.scenario.unit {
            Unit::Ratio | Unit::Size => value / self.plain,
            Unit::BytesPerRow => (value - self.plain) / self.rows as f64,
            Unit::Ms => value,
        }
    }

    pub fn ceiling(&self, side: Side) -> f64 {
        self.scenario.most[usize::from(side != Side::Owned) * 2 + usize::from(self.uuid)]
    }
}

pub fn run(lab: &Lab, scenario: &'static Scenario, sides: &[Side], rounds: u32) -> Result<Measured> {
    let mut best = [f64::NAN; 3];
    for _ in 0..if scenario.once { 1 } else { rounds } {
        for &side in sides {
            if side == Side::Plain && scenario.unit == Unit::Ms {
                continue;
            }
            let figure = (scenario.run)(lab, side)?;
            let slot = &mut best[side as usize];
            *slot = slot.min(figure);
        }
    }
    Ok(Measured {
        scenario,
        uuid: lab.uuid,
        temp_memory: lab.temp_memory,
        plain: best[Side::Plain as usize],
        shared: best[Side::Shared as usize],
        owned: best[Side::Owned as usize],
        rows: lab.rows.len(),
    })
}
