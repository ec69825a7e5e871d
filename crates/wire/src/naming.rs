//! What tables and columns are called. A name that is given anew after it was dropped or renamed away is another
//! *life* of it, and one table or column can have had several names; a change means what shares any of them.
//!
//! ```text
//! after the columns of a table in the directory:
//!   varint (count << 1 | waiting), each: varint (steps << 1 | current); name, unless current; varint life
//! ```
//!
//! `waiting`: the sender does not have these columns itself; two of them can be one to the receiver.
//! `steps` go from the subject of the entry before (from 0) to its own: 0 is the table, n its n-th column. `current`
//! gives the name that stands in the directory another life than 0, and is the first of its subject; the
//! others are further names. So a table whose names were given once costs one byte.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::limits::{LIFE_MAX, MORE_NAMES_MAX, NAME_BYTES_MAX};
use crate::varint::{self, Input};

/// One life of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'n> {
    pub text: &'n str,
    /// How often the name was given before.
    pub life: u32,
}

/// What a table or column is called, and everything else it was called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Naming<'n> {
    pub current: Name<'n>,
    pub others: Vec<Name<'n>>,
}

impl<'n> Naming<'n> {
    /// A name that was given once, and no other.
    pub fn new(text: &'n str) -> Naming<'n> {
        Naming { current: Name { text, life: 0 }, others: Vec::new() }
    }

    /// All names, the current one first.
    pub fn all(&self) -> impl Iterator<Item = Name<'n>> + Clone + '_ {
        std::iter::once(self.current).chain(self.others.iter().copied())
    }
}

/// Whether two of the names are one to SQLite, which folds ASCII case.
pub(crate) fn has_duplicates<'n>(names: impl Iterator<Item = Name<'n>>) -> bool {
    let mut seen = HashSet::new();
    names.into_iter().any(|name| {
        let upper = name.text.bytes().any(|b| b.is_ascii_uppercase());
        let folded = if upper { Cow::from(name.text.to_ascii_lowercase()) } else { Cow::from(name.text) };
        !seen.insert((folded, name.life))
    })
}

/// What a writer may not say of the names of a table.
pub(crate) fn check(table: &Naming<'_>, columns: &[Naming<'_>]) -> Result<()> {
    let all = || columns.iter().chain([table]).flat_map(Naming::all);
    if all().any(|n| n.text.len() > NAME_BYTES_MAX) {
        return Err(Error::TooLarge { what: "bytes of a name", limit: NAME_BYTES_MAX as u64 });
    }
    if all().any(|n| n.life > LIFE_MAX) {
        return Err(Error::TooLarge { what: "life of a name", limit: u64::from(LIFE_MAX) });
    }
    if all().count() > MORE_NAMES_MAX {
        return Err(Error::TooLarge { what: "names of a table", limit: MORE_NAMES_MAX as u64 });
    }
    if has_duplicates(columns.iter().flat_map(Naming::all)) || has_duplicates(table.all()) {
        return Err(Error::Invalid { what: "two columns of one name" });
    }
    Ok(())
}

/// Everything but one name of life 0 each.
pub(crate) fn put(out: &mut Vec<u8>, table: &Naming<'_>, columns: &[Naming<'_>], waiting: bool) {
    let subjects = || std::iter::once(table).chain(columns);
    let count: usize = subjects().map(|n| n.others.len() + usize::from(n.current.life > 0)).sum();
    varint::put(out, (count as u64) << 1 | u64::from(waiting));
    let mut last = 0;
    for (subject, naming) in subjects().enumerate() {
        let mut head = |current: bool| {
            let steps = subject - std::mem::replace(&mut last, subject);
            (steps as u64) << 1 | u64::from(current)
        };
        if naming.current.life > 0 {
            varint::put(out, head(true));
            varint::put(out, u64::from(naming.current.life));
        }
        for name in &naming.others {
            varint::put(out, head(false));
            varint::put_bytes(out, name.text.as_bytes());
            varint::put(out, u64::from(name.life));
        }
    }
}

/// One entry: its subject, and a further name or the life of the current one.
#[derive(Clone, Copy)]
struct More<'a> {
    subject: usize,
    text: Option<&'a str>,
    life: u32,
}

fn read_more<'a>(input: &mut Input<'a>, last: usize) -> Result<More<'a>> {
    let head = input.varint()?;
    let text = if head & 1 == 0 { Some(crate::front::read_name(input)?) } else { None };
    let life = input.varint()?;
    if life > u64::from(LIFE_MAX) {
        return Err(Error::TooLarge { what: "life of a name", limit: u64::from(LIFE_MAX) });
    }
    let steps = usize::try_from(head >> 1).unwrap_or(usize::MAX);
    Ok(More { subject: last.saturating_add(steps), text, life: life as u32 })
}

/// The entries of a table and its columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    /// Where in the payload they begin.
    pub(crate) start: usize,
    pub(crate) count: usize,
    pub(crate) waiting: bool,
}

/// Reads over them.
pub(crate) fn check_more(
    input: &mut Input<'_>,
    payload_len: usize,
    table: &str,
    columns: &[&str],
) -> Result<Entries> {
    let head = input.varint()?;
    let (count, waiting) = (head >> 1, head & 1 == 1);
    if count > MORE_NAMES_MAX as u64 {
        return Err(Error::TooLarge { what: "names of a table", limit: MORE_NAMES_MAX as u64 });
    }
    let (start, count) = (payload_len - input.len(), count as usize);
    let life_0 = |text| Name { text, life: 0 };
    let mut of_table = vec![life_0(table)];
    let mut of_columns: Vec<Name<'_>> = columns.iter().copied().map(life_0).collect();
    let mut last: Option<usize> = None;
    for _ in 0..count {
        let more = read_more(input, last.unwrap_or(0))?;
        let first = last != Some(more.subject);
        last = Some(more.subject);
        if more.subject > columns.len() {
            return Err(Error::Malformed { what: "a name of a column that is not listed" });
        }
        let names = if more.subject == 0 { &mut of_table } else { &mut of_columns };
        match (more.text, names.get_mut(more.subject.saturating_sub(1))) {
            (Some(text), _) => names.push(Name { text, life: more.life }),
            (None, Some(current)) if first && more.life > 0 => current.life = more.life,
            (None, _) => return Err(Error::Malformed { what: "a life that does not follow its name" }),
        }
    }
    if has_duplicates(of_table.into_iter()) || has_duplicates(of_columns.into_iter()) {
        return Err(Error::Malformed { what: "two columns of one name" });
    }
    Ok(Entries { start, count, waiting })
}

/// Gives names that were checked to a table and its columns.
pub(crate) fn assign<'a>(
    input: &mut Input<'a>,
    count: usize,
    table: &mut Naming<'a>,
    columns: &mut [Naming<'a>],
) {
    let mut last = 0;
    for _ in 0..count {
        let Ok(more) = read_more(input, last) else { return };
        last = more.subject;
        let naming = if last == 0 { Some(&mut *table) } else { columns.get_mut(last - 1) };
        match (naming, more.text) {
            (Some(naming), Some(text)) => naming.others.push(Name { text, life: more.life }),
            (Some(naming), None) => naming.current.life = more.life,
            (None, _) => {}
        }
    }
}
