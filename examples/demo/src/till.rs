//! A till whose program was tampered with: between honest sales it writes what its token does not allow.

use crate::shops::{self, Script};
use crate::{Result, conflicts};
use comfy_table::{Table, presets};
use rejoin::{RejectedCell, Replica};
use rusqlite::params;
use std::collections::BTreeMap;

/// What came of the till's transactions.
pub struct Day {
    pub honest: u64,
    pub forbidden: u64,
}

pub fn work(till: &Replica, script: &mut Script) -> Result<Day> {
    let conn = till.connection();
    let mut day = Day { honest: 0, forbidden: 0 };
    for _ in 0..20 {
        shops::sell(conn, "till", script.own(2))?;
        day.honest += 1;
    }
    let mut forbidden = |sql: &str, book: i64| {
        day.forbidden += 1;
        conn.execute(sql, params![book])
    };
    // A book for itself at a cent, and sold at that.
    let bargain = script.own(2);
    forbidden("UPDATE books SET cents = 1 WHERE book_id = ?1", bargain)?;
    shops::sell(conn, "till", bargain)?;
    // A price below nothing, with the check switched off at the till.
    conn.execute_batch("PRAGMA ignore_check_constraints = ON")?;
    forbidden("UPDATE books SET cents = -500 WHERE book_id = ?1", script.own(2))?;
    conn.execute_batch("PRAGMA ignore_check_constraints = OFF")?;
    forbidden("DELETE FROM books WHERE book_id = ?1", script.own(2))?;
    forbidden("INSERT INTO books(book_id, title) VALUES (900000 + ?1, 'Never printed')", 1)?;
    let sale = "INSERT INTO sales(shop, book_id, copies, cents) VALUES ('north', ?1, -3, 900)";
    forbidden(sale, script.own(2))?;
    Ok(day)
}

/// One line for each transaction that was not taken.
pub fn rejections(rejected: &[RejectedCell]) -> String {
    let mut by_version: BTreeMap<u64, Vec<&RejectedCell>> = BTreeMap::new();
    for cell in rejected {
        by_version.entry(cell.version).or_default().push(cell);
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["transaction", "wrote", "code", "the server says"]);
    for (version, cells) in &by_version {
        let Some(first) = cells.first() else { continue };
        let wrote = conflicts::shorten(&wrote(first), 44);
        let more = match cells.len() {
            1 => String::new(),
            n => format!(" (+{})", n - 1),
        };
        table.add_row([&version.to_string(), &(wrote + &more), &first.code, &first.reason]);
    }
    table.trim_fmt()
}

fn wrote(cell: &RejectedCell) -> String {
    let row = format!("{} {}", cell.table, conflicts::shorten(&rejoin::key_text(&cell.pk), 12));
    match cell.cid.as_str() {
        "-1" if cell.col_version % 2 == 0 => format!("{row} deleted"),
        "-1" => format!("{row} added"),
        cid => format!("{row}.{cid} = {}", conflicts::text(&cell.val)),
    }
}
