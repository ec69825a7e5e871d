//! Which column of a table is which, after DDL that nobody saw: the table as it was and as it is are all there is.

use crate::catalog::{LiveColumn, LiveTable, SavedColumn, SavedTable};

/// What became of a table's columns.
#[derive(Debug, Default)]
pub struct Matched {
    /// All that it has now.
    pub columns: Vec<SavedColumn>,
    /// Those of them that were called otherwise.
    pub renamed: Vec<u32>,
    /// Those of them that are new.
    pub added: Vec<u32>,
    pub gone: Vec<SavedColumn>,
    /// A column that counts as new may have been one of those that are gone, and then holds values.
    pub unsure: bool,
}

/// A column as it is now, with its place in the table.
type Now<'a> = (usize, &'a LiveColumn);

/// New columns take the next ids, so that who only reads gives them the same ones as who will write them down.
/// `altered`: it is the same table, so that only ALTER TABLE can have changed it.
pub fn match_columns(saved: &SavedTable, live: &LiveTable, mut next: u32, altered: bool) -> Matched {
    let now: Vec<Now<'_>> =
        live.columns.iter().enumerate().filter(|(_, c)| c.pk == 0 && !c.generated).collect();
    let was = if altered { after_alter(&saved.columns, &now) } else { by_name(&saved.columns, &now) };
    let mut matched = Matched::default();
    for ((pos, c), was) in now.iter().zip(&was) {
        let was = was.and_then(|i| saved.columns.get(i));
        let id = was.map_or(next, |w| w.id);
        match was {
            Some(was) if !was.name.eq_ignore_ascii_case(&c.name) => matched.renamed.push(id),
            Some(_) => {}
            None => {
                matched.added.push(id);
                next += 1;
            }
        }
        matched.columns.push(SavedColumn { id, name: c.name.clone(), decl: c.decl(), pos: *pos as i64 });
    }
    let gone = saved.columns.iter().enumerate().filter(|(i, _)| !was.contains(&Some(*i)));
    matched.gone = gone.map(|(_, s)| s.clone()).collect();
    let added = now.iter().zip(&was).filter(|(_, was)| was.is_none());
    matched.unsure = added.into_iter().any(|(c, _)| matched.gone.iter().any(|s| same_kind(s, *c)));
    matched
}

fn same_name(s: &SavedColumn, c: Now<'_>) -> bool {
    s.name.eq_ignore_ascii_case(&c.1.name)
}

/// After a rebuild columns may stand in any order and be declared in any way: they go by name. One that changed its name
/// and nothing else, where no other came or went, was renamed.
fn by_name(saved: &[SavedColumn], now: &[Now<'_>]) -> Vec<Option<usize>> {
    let mut was: Vec<Option<usize>> =
        now.iter().map(|c| saved.iter().position(|s| same_name(s, *c))).collect();
    for n in 0..now.len() {
        if was[n].is_some() || saved.len() != now.len() {
            continue;
        }
        let same = |s: &SavedColumn| s.decl == now[n].1.decl() && s.pos == now[n].0 as i64;
        was[n] = saved.iter().enumerate().position(|(i, s)| same(s) && !was.contains(&Some(i)));
    }
    was
}

/// ALTER TABLE keeps the order of columns, appends new ones, and changes neither type nor default. So a column that
/// moved to the right of others, or is declared otherwise, was dropped and added; and what stands under another name
/// before a column that stayed was renamed.
fn after_alter(saved: &[SavedColumn], now: &[Now<'_>]) -> Vec<Option<usize>> {
    let mut was: Vec<Option<usize>> = vec![None; now.len()];
    let mut from = 0;
    for (n, c) in now.iter().enumerate() {
        let stayed = |s: &SavedColumn| same_name(s, *c) && c.0 as i64 <= s.pos && same_kind(s, *c);
        if let Some(i) = saved.iter().enumerate().skip(from).position(|(_, s)| stayed(s)).map(|i| i + from) {
            was[n] = Some(i);
            from = i + 1;
        }
    }
    let stayed: Vec<usize> = (0..now.len()).filter(|n| was[*n].is_some()).collect();
    let (mut n, mut i, mut dropped) = (0, 0, 0);
    for end in stayed {
        let Some(to) = was[end] else { continue };
        dropped += between(saved, now, &mut was, (n..end, i..to));
        (n, i) = (end + 1, to + 1);
    }
    // Behind the last that stayed, a column under a new name in the place of another of its kind is taken for that one,
    // unless some must have gone there.
    let certain = now.len() - n >= saved.len() - i;
    for (n, i) in (n..now.len()).zip(i..saved.len()).filter(|_| certain) {
        let (c, s) = (now[n], &saved[i]);
        let known = saved.iter().any(|s| same_name(s, c));
        if known || !same_kind(s, c) || s.pos - dropped != c.0 as i64 {
            break;
        }
        was[n] = Some(i);
    }
    was
}

/// Renamed columns between two that stayed. How many columns were dropped there.
fn between(
    saved: &[SavedColumn],
    now: &[Now<'_>],
    was: &mut [Option<usize>],
    (names, olds): (std::ops::Range<usize>, std::ops::Range<usize>),
) -> i64 {
    let dropped = olds.len() as i64 - names.len() as i64;
    let whole = dropped == 0;
    let mut from = olds.start;
    for (k, n) in names.enumerate() {
        let fits = |i: &usize| same_kind(&saved[*i], now[n]) && (!whole || *i == olds.start + k);
        let mut candidates = (from..olds.end).filter(fits);
        // Of several that it could be, it is none.
        if let (Some(i), None) = (candidates.next(), candidates.next()) {
            was[n] = Some(i);
            from = i + 1;
        }
    }
    dropped
}

/// Type and default: SQLite can change NOT NULL in place.
fn same_kind(s: &SavedColumn, c: Now<'_>) -> bool {
    let kind = |decl: &str| {
        let mut parts = decl.splitn(3, '|');
        (parts.next().map(str::to_owned), parts.nth(1).map(str::to_owned))
    };
    kind(&s.decl) == kind(&c.1.decl())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns as `name TYPE`, behind a key.
    fn live(columns: &[&str]) -> LiveTable {
        let column = |text: &str| {
            let (name, decl_type) = text.split_once(' ').unwrap_or((text, ""));
            let (name, decl_type) = (name.to_owned(), decl_type.to_owned());
            LiveColumn { name, decl_type, not_null: false, default: None, pk: 0, generated: false }
        };
        let key = LiveColumn { pk: 1, ..column("id INTEGER") };
        let columns = [key].into_iter().chain(columns.iter().map(|c| column(c))).collect();
        let (name, sql) = ("t".to_owned(), String::new());
        LiveTable { name, sql, root: 2, without_rowid: false, strict: false, columns }
    }

    /// How the columns after came of those before: `=` stayed, `old` was called so, `+` is new; what is gone; `?` if a new one
    /// may be one of those.
    fn what(before: &[&str], after: &[&str], altered: bool) -> String {
        let before = live(before);
        let was = |(pos, c): (usize, &LiveColumn)| {
            let (name, decl) = (c.name.clone(), c.decl());
            SavedColumn { id: pos as u32, name, decl, pos: pos as i64 }
        };
        let columns = before.columns.iter().enumerate().skip(1).map(was).collect();
        let (name, sql) = ("t".to_owned(), String::new());
        let saved = SavedTable { id: 1, name, kind: 0, root: 2, sql, columns };
        let matched = match_columns(&saved, &live(after), 90, altered);
        let mut said: Vec<String> = Vec::new();
        for c in &matched.columns {
            let old = saved.columns.iter().find(|s| s.id == c.id).map(|s| s.name.clone());
            assert_eq!(matched.added.contains(&c.id), old.is_none());
            let renamed = old.as_ref().is_some_and(|old| *old != c.name);
            assert_eq!(matched.renamed.contains(&c.id), renamed);
            said.push(match old {
                Some(old) if renamed => old,
                Some(_) => "=".to_owned(),
                None => "+".to_owned(),
            });
        }
        said.extend(matched.gone.iter().map(|s| format!("-{}", s.name)));
        said.extend(matched.unsure.then(|| "?".to_owned()));
        said.join(" ")
    }

    #[test]
    fn alter_table_is_read_from_places() {
        for (before, after, expected) in [
            (&["a", "b", "c"][..], &["a", "b", "c"][..], "= = ="),
            (&["a", "b"], &["a", "b", "c"], "= = +"),
            (&["a", "b", "c"], &["a", "c"], "= = -b"),
            (&["a", "b", "c"], &["a", "x", "c"], "= b ="),
            // RENAME b TO old; ADD b.
            (&["a", "b"], &["a", "old", "b"], "= b +"),
            (&["b", "z"], &["old", "z", "b"], "b = +"),
            // DROP b; ADD b.
            (&["a", "b", "c"], &["a", "c", "b"], "= = + -b ?"),
            // RENAME a TO x; ADD d, and the same with DROP c.
            (&["a", "b", "c"], &["x", "b", "c", "d"], "a = = +"),
            (&["a", "b", "c"], &["x", "b", "d"], "a = c"),
            (&["a", "b", "c INT"], &["x", "b", "d"], "a = + -c"),
            // Of two that it could be, none; but types tell.
            (&["a", "b", "c"], &["x", "c"], "+ = -a -b ?"),
            (&["a INT", "b", "c"], &["x", "c"], "b = -a"),
            (&["a", "b", "c", "d"], &["x", "y", "z", "d"], "a b c ="),
            // Behind the last that stayed: the same place and kind.
            (&["a", "b"], &["a", "x"], "= b"),
            (&["a", "b"], &["a", "x", "y"], "= b +"),
            (&["a", "b"], &["a", "x INT"], "= + -b"),
            (&["a", "b", "c"], &["b", "x"], "= c -a"),
            (&["a", "b"], &["x"], "+ -a -b ?"),
            // RENAME price TO old; DROP z; ADD price: a name that was there is not one that z was renamed to.
            (&["price", "z"], &["old", "price"], "price + -z ?"),
            // DROP b; ADD b of another type.
            (&["a", "b"], &["a", "b INT"], "= + -b"),
            (&[], &["a"], "+"),
            (&["a"], &[], "-a"),
        ] {
            assert_eq!(what(before, after, true), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn after_a_rebuild_columns_go_by_name() {
        for (before, after, expected) in [
            (&["a", "b", "c"][..], &["c INT", "a", "b"][..], "= = ="),
            (&["a", "b"], &["old", "b", "a"], "+ = ="),
            (&["a", "b"], &["x", "b"], "a ="),
            (&["a", "b"], &["x INT", "b"], "+ = -a"),
            (&["a", "b"], &["x", "b", "c"], "+ = + -a ?"),
        ] {
            assert_eq!(what(before, after, false), expected, "{before:?} {after:?}");
        }
    }
}
