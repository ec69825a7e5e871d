//! The planner's question and the table's answer.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr;

use rusqlite::ffi;

use crate::error::{Error, Result};
use crate::memory::sqlite_string;
use crate::value::Arg;

/// The operator of a constraint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConstraintOp {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Is,
    IsNot,
    IsNull,
    IsNotNull,
    Like,
    Glob,
    Regexp,
    Match,
    Limit,
    Offset,
    /// One that this layer has no name for.
    Other(u8),
}

impl ConstraintOp {
    fn from_code(code: u8) -> Self {
        match i32::from(code) {
            ffi::SQLITE_INDEX_CONSTRAINT_EQ => Self::Eq,
            ffi::SQLITE_INDEX_CONSTRAINT_NE => Self::Ne,
            ffi::SQLITE_INDEX_CONSTRAINT_GT => Self::Gt,
            ffi::SQLITE_INDEX_CONSTRAINT_GE => Self::Ge,
            ffi::SQLITE_INDEX_CONSTRAINT_LT => Self::Lt,
            ffi::SQLITE_INDEX_CONSTRAINT_LE => Self::Le,
            ffi::SQLITE_INDEX_CONSTRAINT_IS => Self::Is,
            ffi::SQLITE_INDEX_CONSTRAINT_ISNOT => Self::IsNot,
            ffi::SQLITE_INDEX_CONSTRAINT_ISNULL => Self::IsNull,
            ffi::SQLITE_INDEX_CONSTRAINT_ISNOTNULL => Self::IsNotNull,
            ffi::SQLITE_INDEX_CONSTRAINT_LIKE => Self::Like,
            ffi::SQLITE_INDEX_CONSTRAINT_GLOB => Self::Glob,
            ffi::SQLITE_INDEX_CONSTRAINT_REGEXP => Self::Regexp,
            ffi::SQLITE_INDEX_CONSTRAINT_MATCH => Self::Match,
            ffi::SQLITE_INDEX_CONSTRAINT_LIMIT => Self::Limit,
            ffi::SQLITE_INDEX_CONSTRAINT_OFFSET => Self::Offset,
            _ => Self::Other(code),
        }
    }
}

/// `column op ?` in the WHERE clause. LIMIT and OFFSET have no meaningful column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constraint {
    /// Its place, for [`IndexInfo::use_constraint`].
    pub index: usize,
    /// -1 is the rowid.
    pub column: i32,
    pub op: ConstraintOp,
    /// False: the right side is not known in this plan.
    pub usable: bool,
}

/// One term of ORDER BY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrderBy {
    pub column: i32,
    pub desc: bool,
}

/// The planner's question: constraints and order. The answer: what to use, how, and at which cost.
pub struct IndexInfo<'a> {
    raw: *mut ffi::sqlite3_index_info,
    _lent: PhantomData<&'a ffi::sqlite3_index_info>,
}

impl<'a> IndexInfo<'a> {
    /// # Safety
    /// `raw` is the argument of a running xBestIndex that outlives `'a`.
    pub(crate) unsafe fn from_raw(raw: *mut ffi::sqlite3_index_info) -> Self {
        Self { raw, _lent: PhantomData }
    }

    pub fn constraint_count(&self) -> usize {
        // SAFETY: `raw` is alive (from_raw).
        usize::try_from(unsafe { (*self.raw).nConstraint }).unwrap_or(0)
    }

    /// The constraints. The iterator does not borrow the answer, which may be given while it runs.
    pub fn constraints(&self) -> impl Iterator<Item = Constraint> + use<'a> {
        let (raw, count) = (self.raw, self.constraint_count());
        (0..count).map(move |index| {
            // SAFETY: the array has `count` entries and SQLite does not change it during the call; it is the
            // question, which no setter writes.
            let c = unsafe { &*(*raw).aConstraint.add(index) };
            Constraint { index, column: c.iColumn, op: ConstraintOp::from_code(c.op), usable: c.usable != 0 }
        })
    }

    pub fn order_bys(&self) -> impl Iterator<Item = OrderBy> + use<'a> {
        let raw = self.raw;
        // SAFETY: `raw` is alive (from_raw).
        let count = usize::try_from(unsafe { (*raw).nOrderBy }).unwrap_or(0);
        (0..count).map(move |i| {
            // SAFETY: the array has `count` entries; as in `constraints`.
            let o = unsafe { &*(*raw).aOrderBy.add(i) };
            OrderBy { column: o.iColumn, desc: o.desc != 0 }
        })
    }

    /// Passes the right side of constraint `index` to `filter` as argument `argv_index` (from 1, without gaps). With
    /// `omit` SQLite need not check the constraint again.
    pub fn use_constraint(&mut self, index: usize, argv_index: i32, omit: bool) {
        assert!(index < self.constraint_count(), "no constraint {index}");
        // SAFETY: the usage array is as long as the constraint array, and the index was checked.
        unsafe {
            let usage = (*self.raw).aConstraintUsage.add(index);
            (*usage).argvIndex = argv_index;
            (*usage).omit = u8::from(omit);
        }
    }

    /// The right side of a constraint if the planner knows it already (a literal, a bound value).
    pub fn rhs_value(&self, index: usize) -> Option<Arg<'_>> {
        let i = i32::try_from(index).ok()?;
        let mut value = ptr::null_mut();
        // SAFETY: `raw` is alive, SQLite checks the index, and the value lives until xBestIndex returns.
        unsafe {
            let code = ffi::sqlite3_vtab_rhs_value(self.raw, i, &mut value);
            (code == ffi::SQLITE_OK && !value.is_null()).then(|| Arg::from_raw(value))
        }
    }

    /// The collation by which SQLite compares constraint `index`.
    pub fn collation(&self, index: usize) -> Option<&str> {
        if index >= self.constraint_count() {
            return None;
        }
        // SAFETY: the index was checked; the name lives until xBestIndex returns.
        unsafe {
            let name = ffi::sqlite3_vtab_collation(self.raw, i32::try_from(index).ok()?);
            if name.is_null() { None } else { CStr::from_ptr(name).to_str().ok() }
        }
    }

    /// The columns that the statement needs: bit i for column i, the highest bit for all from 63 on.
    pub fn col_used(&self) -> u64 {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).colUsed }
    }

    pub fn set_idx_num(&mut self, n: i32) {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).idxNum = n }
    }

    /// A text for `filter`. It must not contain a NUL character.
    pub fn set_idx_str(&mut self, text: impl AsRef<str>) -> Result<()> {
        let text = sqlite_string(text.as_ref());
        if text.is_null() {
            return Err(Error::new(ffi::SQLITE_NOMEM, "out of memory"));
        }
        // SAFETY: `raw` is alive; an earlier text of ours is freed, the new one is SQLite's to free.
        unsafe {
            if (*self.raw).needToFreeIdxStr != 0 {
                ffi::sqlite3_free((*self.raw).idxStr.cast());
            }
            (*self.raw).idxStr = text;
            (*self.raw).needToFreeIdxStr = 1;
        }
        Ok(())
    }

    /// The rows will come in the order that ORDER BY asks for.
    pub fn set_order_consumed(&mut self, yes: bool) {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).orderByConsumed = i32::from(yes) }
    }

    pub fn set_cost(&mut self, cost: f64) {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).estimatedCost = cost }
    }

    pub fn set_rows(&mut self, rows: i64) {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).estimatedRows = rows }
    }

    /// The scan visits at most one row.
    pub fn set_unique(&mut self) {
        // SAFETY: `raw` is alive (from_raw).
        unsafe { (*self.raw).idxFlags |= ffi::SQLITE_INDEX_SCAN_UNIQUE }
    }
}
