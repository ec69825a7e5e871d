//! SQLite values, and the order by which a merge decides between two of them.
//!
//! The order is cr-sqlite's (`compare_values.rs`), so that both engines pick the same winner of a tie:
//! INTEGER > REAL > TEXT > BLOB > NULL whatever the numbers are (integer 1 beats real 2.5), numbers by size,
//! text and blobs bytewise, collations ignored. One refinement: -0.0 sorts below 0.0, because a tie that both
//! replicas resolve to their own value would never converge.
//!
//! Text is bytes here: a peer may send text that is not UTF-8, and SQLite stores it as it is.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

#[derive(Clone, Default)]
pub enum Value {
    #[default]
    Null,
    Int(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Value {
    #[inline]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Int(i) => ValueRef::Int(*i),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(t) => ValueRef::Text(t),
            Value::Blob(b) => ValueRef::Blob(b),
        }
    }

    pub fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
}

impl<'a> ValueRef<'a> {
    #[inline]
    pub fn to_owned(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Int(i) => Value::Int(i),
            ValueRef::Real(r) => Value::Real(r),
            ValueRef::Text(t) => Value::Text(t.to_vec()),
            ValueRef::Blob(b) => Value::Blob(b.to_vec()),
        }
    }

    #[inline]
    pub fn is_null(self) -> bool {
        matches!(self, ValueRef::Null)
    }

    /// The place of the type in the merge order; larger wins.
    #[inline]
    fn rank(self) -> u8 {
        match self {
            ValueRef::Null => 0,
            ValueRef::Blob(_) => 1,
            ValueRef::Text(_) => 2,
            ValueRef::Real(_) => 3,
            ValueRef::Int(_) => 4,
        }
    }

    /// Greater means that `self` wins against `other` when their versions are equal. A total order.
    #[inline]
    pub fn cmp_merge(self, other: ValueRef<'_>) -> Ordering {
        match (self, other) {
            (ValueRef::Int(a), ValueRef::Int(b)) => a.cmp(&b),
            (ValueRef::Real(a), ValueRef::Real(b)) => a.total_cmp(&b),
            (ValueRef::Text(a), ValueRef::Text(b)) | (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// The same type and the same bytes: an update from one to the other is no change.
    #[inline]
    pub fn same(self, other: ValueRef<'_>) -> bool {
        self.cmp_merge(other) == Ordering::Equal
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    #[inline]
    fn from(value: &'a Value) -> ValueRef<'a> {
        value.as_ref()
    }
}

/// As SQL literals, so that a failing test can be read.
impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueRef::Null => f.write_str("NULL"),
            ValueRef::Int(i) => write!(f, "{i}"),
            ValueRef::Real(r) => write!(f, "{r:?}"),
            ValueRef::Text(t) => write!(f, "'{}'", t.escape_ascii()),
            ValueRef::Blob(b) => {
                f.write_str("x'")?;
                b.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl PartialEq for Value {
    #[inline]
    fn eq(&self, other: &Value) -> bool {
        self.as_ref().same(other.as_ref())
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The merge order, see [`ValueRef::cmp_merge`].
impl Ord for Value {
    #[inline]
    fn cmp(&self, other: &Value) -> Ordering {
        self.as_ref().cmp_merge(other.as_ref())
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().rank().hash(state);
        match self {
            Value::Null => {}
            Value::Int(i) => i.hash(state),
            Value::Real(r) => r.to_bits().hash(state),
            Value::Text(b) | Value::Blob(b) => b.hash(state),
        }
    }
}

impl PartialEq for ValueRef<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.same(*other)
    }
}

impl Eq for ValueRef<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_ranked_before_sizes() {
        let ascending = [
            Value::Null,
            Value::Blob(vec![]),
            Value::Blob(vec![255]),
            Value::text(""),
            Value::text("a"),
            Value::text("ab"),
            Value::Real(-0.0),
            Value::Real(0.0),
            Value::Real(2.5),
            Value::Int(i64::MIN),
            Value::Int(1),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} against {b:?}");
                assert_eq!(a.as_ref().same(b.as_ref()), i == j);
            }
        }
    }
}
