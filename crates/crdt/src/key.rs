//! The primary-key codec and the identity of a key.
//!
//! ```text
//! byte 0      number of columns
//! per column  one byte (n << 3) | type, an n-byte big-endian number, then bytes:
//!   type 1 integer  the number is the value (n = 0 for 0)
//!   type 2 real     n = 0, then the 8 bytes of the IEEE double, big-endian
//!   type 3 text     the number is the length in bytes, then these bytes
//!   type 4 blob     as text
//!   type 5 null     n = 0
//! ```
//!
//! Byte for byte cr-sqlite's (`pack_columns.rs`): n is minimal for the number read as unsigned, so negative
//! integers take 8 bytes, and decoding extends with zeros. Unlike there, no input aborts; a width over 8, a
//! width on real or null, and bytes after the last column are errors.

use crate::value::{Value, ValueRef};
use std::fmt;

pub use identity::{Affinity, Fold, identity, is_canonical, stored};

#[path = "identity.rs"]
mod identity;

/// The most columns that a packed key can count.
pub const COLUMNS_MAX: usize = 255;

const INT: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const NULL: u8 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeyError {
    Empty,
    /// The bytes end inside this column (counted from 0).
    Truncated {
        column: u8,
    },
    /// This many bytes are left after the last column.
    Trailing {
        bytes: usize,
    },
    /// The type byte of this column is none.
    Type {
        column: u8,
        byte: u8,
    },
    /// The number of this column is this many bytes wide, which is over 8.
    Width {
        column: u8,
        bytes: u8,
    },
    TooManyColumns,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Empty => f.write_str("the packed key is empty"),
            KeyError::Truncated { column } => {
                write!(f, "the packed key ends inside column {column}")
            }
            KeyError::Trailing { bytes } => {
                write!(f, "the packed key has {bytes} bytes after its last column")
            }
            KeyError::Type { column, byte } => {
                write!(f, "column {column} of the packed key has the unknown type byte {byte}")
            }
            KeyError::Width { column, bytes } => {
                write!(f, "column {column} of the packed key has a number of {bytes} bytes; 8 is the most")
            }
            KeyError::TooManyColumns => write!(f, "a packed key has at most {COLUMNS_MAX} columns"),
        }
    }
}

impl std::error::Error for KeyError {}

pub fn pack<'a>(values: impl IntoIterator<Item = ValueRef<'a>>) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::with_capacity(16);
    pack_into(&mut out, values)?;
    Ok(out)
}

/// Appends the packed key to `out`; after an error `out` is as it was.
#[inline]
pub fn pack_into<'a>(
    out: &mut Vec<u8>,
    values: impl IntoIterator<Item = ValueRef<'a>>,
) -> Result<(), KeyError> {
    let start = out.len();
    out.push(0);
    let mut count = 0u8;
    for value in values {
        let Some(next) = count.checked_add(1) else {
            out.truncate(start);
            return Err(KeyError::TooManyColumns);
        };
        count = next;
        push(out, value);
    }
    if let Some(head) = out.get_mut(start) {
        *head = count;
    }
    Ok(())
}

#[inline]
fn push(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.push(NULL),
        ValueRef::Int(i) => push_number(out, INT, i as u64),
        ValueRef::Real(r) => {
            out.push(REAL);
            out.extend_from_slice(&r.to_be_bytes());
        }
        ValueRef::Text(t) => {
            push_number(out, TEXT, t.len() as u64);
            out.extend_from_slice(t);
        }
        ValueRef::Blob(b) => {
            push_number(out, BLOB, b.len() as u64);
            out.extend_from_slice(b);
        }
    }
}

#[inline]
fn push_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    let width = 8 - number.leading_zeros() as u8 / 8;
    out.push(width << 3 | tag);
    let bytes = number.to_be_bytes();
    out.extend(bytes.iter().skip(8 - usize::from(width)));
}

/// Checks a packed key whole and returns its columns, borrowed.
#[inline]
pub fn unpack(packed: &[u8]) -> Result<Unpacker<'_>, KeyError> {
    let (&count, mut rest) = packed.split_first().ok_or(KeyError::Empty)?;
    let columns = Unpacker { rest, left: count };
    for column in 0..count {
        rest = take(rest, column)?.1;
    }
    if !rest.is_empty() {
        return Err(KeyError::Trailing { bytes: rest.len() });
    }
    Ok(columns)
}

/// The integer of a packed key that has one column, an integer; None: it has not, or is none.
#[inline]
pub fn unpack_int(packed: &[u8]) -> Option<i64> {
    let (&[1, head], digits) = packed.split_first_chunk::<2>()? else { return None };
    let fits = head & 7 == INT && usize::from(head >> 3) == digits.len() && digits.len() <= 8;
    fits.then(|| digits.iter().fold(0u64, |n, d| n << 8 | u64::from(*d)) as i64)
}

/// As [`unpack`], owned.
pub fn unpack_owned(packed: &[u8]) -> Result<Vec<Value>, KeyError> {
    Ok(unpack(packed)?.map(ValueRef::to_owned).collect())
}

/// The columns of a packed key that was checked.
#[derive(Clone, Debug)]
pub struct Unpacker<'a> {
    rest: &'a [u8],
    left: u8,
}

impl<'a> Iterator for Unpacker<'a> {
    type Item = ValueRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<ValueRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (value, rest) = take(self.rest, 0).ok()?;
        self.rest = rest;
        Some(value)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Unpacker<'_> {}

/// Takes one column off the front.
#[inline]
fn take(bytes: &[u8], column: u8) -> Result<(ValueRef<'_>, &[u8]), KeyError> {
    let short = KeyError::Truncated { column };
    let (&head, rest) = bytes.split_first().ok_or(short)?;
    let (width, tag) = (head >> 3, head & 7);
    if !(INT..=NULL).contains(&tag) || (width > 0 && matches!(tag, REAL | NULL)) {
        return Err(KeyError::Type { column, byte: head });
    }
    if width > 8 {
        return Err(KeyError::Width { column, bytes: width });
    }
    let (digits, rest) = rest.split_at_checked(usize::from(width)).ok_or(short)?;
    let number = digits.iter().fold(0u64, |n, d| n << 8 | u64::from(*d));
    match tag {
        NULL => Ok((ValueRef::Null, rest)),
        INT => Ok((ValueRef::Int(number as i64), rest)),
        REAL => {
            let (double, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
            Ok((real(f64::from_be_bytes(*double)), rest))
        }
        _ => {
            let length = usize::try_from(number).map_err(|_| short)?;
            let (body, rest) = rest.split_at_checked(length).ok_or(short)?;
            Ok((if tag == TEXT { ValueRef::Text(body) } else { ValueRef::Blob(body) }, rest))
        }
    }
}

/// SQLite stores a NaN as NULL; so does everything that comes through a key.
#[inline]
fn real(r: f64) -> ValueRef<'static> {
    if r.is_nan() { ValueRef::Null } else { ValueRef::Real(r) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(values: &[Value]) -> Vec<u8> {
        pack(values.iter().map(Value::as_ref)).unwrap()
    }

    #[test]
    fn bytes_of_cr_sqlite() {
        for (value, bytes) in [
            (Value::Null, &[1, 5][..]),
            (Value::Int(0), &[1, 1]),
            (Value::Int(1), &[1, 9, 1]),
            (Value::Int(255), &[1, 9, 255]),
            (Value::Int(256), &[1, 0x11, 1, 0]),
            (Value::Int(0x1_0000_0000), &[1, 0x29, 1, 0, 0, 0, 0]),
            (Value::Int(-1), &[1, 0x41, 255, 255, 255, 255, 255, 255, 255, 255]),
            (Value::Real(1.5), &[1, 2, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
            (Value::text(""), &[1, 3]),
            (Value::text("ab"), &[1, 0x0b, 2, b'a', b'b']),
            (Value::Blob(vec![7]), &[1, 0x0c, 1, 7]),
        ] {
            assert_eq!(packed(std::slice::from_ref(&value)), bytes, "{value:?}");
            assert_eq!(unpack_owned(bytes).unwrap(), [value]);
        }
        assert_eq!(pack([]), Ok(vec![0]));
        let long = packed(&[Value::Blob(vec![1; 300])]);
        assert_eq!(&long[..4], [1, 0x14, 1, 44]);
        let wide = [1, 0x19, 0, 0, 7];
        assert_eq!(unpack_owned(&wide).unwrap(), [Value::Int(7)], "zero-extended");
    }

    #[test]
    fn errors() {
        let cases: [(&[u8], KeyError); 10] = [
            (&[], KeyError::Empty),
            (&[1], KeyError::Truncated { column: 0 }),
            (&[2, 5], KeyError::Truncated { column: 1 }),
            (&[1, 0x11, 1], KeyError::Truncated { column: 0 }),
            (&[1, 0x0c, 2, 7], KeyError::Truncated { column: 0 }),
            (&[1, 2, 0, 0], KeyError::Truncated { column: 0 }),
            (&[1, 0x44, 255, 255, 255, 255, 255, 255, 255, 255], KeyError::Truncated { column: 0 }),
            (&[1, 5, 0, 0], KeyError::Trailing { bytes: 2 }),
            (&[1, 6], KeyError::Type { column: 0, byte: 6 }),
            (&[1, 0x49], KeyError::Width { column: 0, bytes: 9 }),
        ];
        for (bytes, error) in cases {
            assert_eq!(unpack(bytes).map(|_| ()), Err(error), "{bytes:?}");
        }
        let mut out = vec![9];
        let many = std::iter::repeat_n(ValueRef::Null, 256);
        assert_eq!(pack_into(&mut out, many), Err(KeyError::TooManyColumns));
        assert_eq!(out, [9]);
        assert_eq!(unpack(&[1, 2, 0x7f, 0xf8, 0, 0, 0, 0, 0, 1]).unwrap().next(), Some(ValueRef::Null));
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            (0u32..64).prop_map(|b| Value::Int(1 << b)),
            prop::num::f64::NORMAL.prop_map(Value::Real),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
        ]
    }

    /// Bytes that often are one packed integer, or nearly.
    fn nearly_int() -> impl Strategy<Value = Vec<u8>> {
        let digits = prop::collection::vec(any::<u8>(), 0..10);
        (0u8..3, 0u8..10, 0u8..7, digits)
            .prop_map(|(count, width, tag, digits)| [&[count, width << 3 | tag], digits.as_slice()].concat())
    }

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec(value(), 0..9)) {
            let bytes = packed(&values);
            prop_assert_eq!(unpack(&bytes).unwrap().len(), values.len());
            let one = match values.as_slice() {
                [Value::Int(i)] => Some(*i),
                _ => None,
            };
            prop_assert_eq!(unpack_int(&bytes), one);
            prop_assert_eq!(unpack_owned(&bytes).unwrap(), values);
            for cut in 0..bytes.len() {
                prop_assert!(unpack(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn random_bytes(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), nearly_int()]) {
            let one = match unpack_owned(&bytes).as_deref() {
                Ok([Value::Int(i)]) => Some(*i),
                _ => None,
            };
            prop_assert_eq!(unpack_int(&bytes), one);
            if let Ok(columns) = unpack(&bytes) {
                prop_assert_eq!(columns.len(), usize::from(bytes[0]));
                prop_assert_eq!(columns.count(), usize::from(bytes[0]));
            }
        }
    }
}
