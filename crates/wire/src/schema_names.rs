//! The names of a schema: what its tables and columns are called, were called, and what was dropped. A handshake tells
//! schemas apart by them that look alike.
//!
//! ```text
//! varint count of tables, each:
//!   name; varint count of columns, their names; further names as in the directory of a changeset (naming.rs), not
//!   waiting; varint count of dropped names, each: name, varint life
//! varint count of dropped tables' names, each: name, varint life
//! ```

use crate::error::{Error, Result};
use crate::front::read_name;
use crate::limits::{COLUMNS_MAX, LIFE_MAX, MORE_NAMES_MAX, TABLES_MAX};
use crate::naming::{self, Name, Naming, has_duplicates};
use crate::varint::{self, Input};

/// A table and its columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableNames<'n> {
    pub table: Naming<'n>,
    pub columns: Vec<Naming<'n>>,
    /// Names of columns that were dropped.
    pub dropped: Vec<Name<'n>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SchemaNames<'n> {
    pub tables: Vec<TableNames<'n>>,
    /// Names of tables that were dropped.
    pub dropped: Vec<Name<'n>>,
}

impl<'n> SchemaNames<'n> {
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        varint::put(&mut out, self.tables.len() as u64);
        for t in &self.tables {
            naming::check(&t.table, &t.columns)?;
            varint::put_bytes(&mut out, t.table.current.text.as_bytes());
            varint::put(&mut out, t.columns.len() as u64);
            t.columns.iter().for_each(|c| varint::put_bytes(&mut out, c.current.text.as_bytes()));
            naming::put(&mut out, &t.table, &t.columns, false);
            put_dropped(&mut out, &t.dropped);
        }
        put_dropped(&mut out, &self.dropped);
        Ok(out)
    }

    /// Reads what anybody may have sent. Nothing means two things in what comes of it.
    pub fn decode(bytes: &'n [u8]) -> Result<SchemaNames<'n>> {
        let input = &mut Input::new(bytes);
        let count = input.count(4)?;
        if count > TABLES_MAX {
            return Err(Error::TooLarge { what: "tables", limit: TABLES_MAX as u64 });
        }
        let mut tables = Vec::new();
        for _ in 0..count {
            tables.push(read_table(input, bytes)?);
        }
        let dropped = read_dropped(input)?;
        let names = tables.iter().flat_map(|t| t.table.all()).chain(dropped.iter().copied());
        if has_duplicates(names) {
            return Err(Error::Malformed { what: "two tables of one name" });
        }
        if !input.is_empty() {
            return Err(Error::Malformed { what: "bytes left over behind the names" });
        }
        Ok(SchemaNames { tables, dropped })
    }
}

fn read_table<'n>(input: &mut Input<'n>, bytes: &'n [u8]) -> Result<TableNames<'n>> {
    let name = read_name(input)?;
    let count = input.count(1)?;
    if count > COLUMNS_MAX {
        return Err(Error::TooLarge { what: "columns of a table", limit: COLUMNS_MAX as u64 });
    }
    let columns: Result<Vec<&str>> = (0..count).map(|_| read_name(input)).collect();
    let columns = columns?;
    let more = naming::check_more(input, bytes.len(), name, &columns)?;
    if more.waiting {
        return Err(Error::Malformed { what: "a schema of columns that are not there" });
    }
    let mut table = Naming::new(name);
    let mut columns: Vec<Naming<'n>> = columns.into_iter().map(Naming::new).collect();
    let mut entries = Input::new(bytes.get(more.start..).unwrap_or_default());
    naming::assign(&mut entries, more.count, &mut table, &mut columns);
    let dropped = read_dropped(input)?;
    if has_duplicates(columns.iter().flat_map(Naming::all).chain(dropped.iter().copied())) {
        return Err(Error::Malformed { what: "two columns of one name" });
    }
    Ok(TableNames { table, columns, dropped })
}

fn put_dropped(out: &mut Vec<u8>, dropped: &[Name<'_>]) {
    varint::put(out, dropped.len() as u64);
    for name in dropped {
        varint::put_bytes(out, name.text.as_bytes());
        varint::put(out, u64::from(name.life));
    }
}

fn read_dropped<'n>(input: &mut Input<'n>) -> Result<Vec<Name<'n>>> {
    let count = input.count(2)?;
    if count > MORE_NAMES_MAX {
        return Err(Error::TooLarge { what: "dropped names", limit: MORE_NAMES_MAX as u64 });
    }
    let mut all = Vec::new();
    for _ in 0..count {
        let text = read_name(input)?;
        let life = input.varint()?;
        if life > u64::from(LIFE_MAX) {
            return Err(Error::TooLarge { what: "life of a name", limit: u64::from(LIFE_MAX) });
        }
        all.push(Name { text, life: life as u32 });
    }
    Ok(all)
}
