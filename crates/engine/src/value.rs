//! Between SQLite's values and the pure crate's; key identities and hashes.

use crate::catalog::{KeyColumn, Table};
use crate::error::{Error, Result};
use rejoin_crdt::key::{self, Fold};
use rejoin_crdt::{Value, ValueRef};
use rejoin_sqlite::ValueRef as SqlRef;
use std::rc::Rc;

#[inline]
pub fn to_sql(v: ValueRef<'_>) -> SqlRef<'_> {
    match v {
        ValueRef::Null => SqlRef::Null,
        ValueRef::Int(i) => SqlRef::Integer(i),
        ValueRef::Real(r) => SqlRef::Real(r),
        ValueRef::Text(t) => SqlRef::Text(t),
        ValueRef::Blob(b) => SqlRef::Blob(b),
    }
}

#[inline]
pub fn from_sql(v: SqlRef<'_>) -> ValueRef<'_> {
    match v {
        SqlRef::Null => ValueRef::Null,
        SqlRef::Integer(i) => ValueRef::Int(i),
        SqlRef::Real(r) => ValueRef::Real(r),
        SqlRef::Text(t) => ValueRef::Text(t),
        SqlRef::Blob(b) => ValueRef::Blob(b),
    }
}

/// SipHash-1-3 keyed with the file's own secret: peers choose keys, and must not be able to choose collisions.
#[inline]
pub fn hash(secret: (u64, u64), bytes: &[u8]) -> u64 {
    siphasher::sip::SipHasher13::new_with_keys(secret.0, secret.1).hash(bytes)
}

/// The packed identity of a packed key, and the key as spelled where that differs.
pub struct Identity {
    pub key: Rc<[u8]>,
    pub spelling: Option<Rc<[u8]>>,
}

/// Whether a packed key is its own identity without further look.
#[inline]
pub fn is_plain(t: &Table, packed: &[u8]) -> Result<bool> {
    if !t.plain {
        return Ok(false);
    }
    let mut values = key::unpack(packed).map_err(|e| bad_key(t, &e.to_string()))?;
    Ok(!values.any(|v| matches!(v, ValueRef::Real(_))))
}

/// Whether a key is spelled in one way only: no folding, and no number in a column that may hold an integer as a
/// real.
pub fn one_spelling(t: &Table, packed: &[u8]) -> bool {
    let either = |(v, k): (ValueRef<'_>, &KeyColumn)| {
        k.affinity == key::Affinity::Blob && matches!(v, ValueRef::Int(_) | ValueRef::Real(_))
    };
    t.plain && key::unpack(packed).is_ok_and(|values| !values.zip(&t.keys).any(either))
}

/// The identity of a key whose values already have the columns' affinity (they stand in the table).
pub fn identity_of_stored(t: &Table, packed: &[u8]) -> Result<Identity> {
    if is_plain(t, packed)? {
        return Ok(Identity { key: packed.into(), spelling: None });
    }
    identity_of_foreign(t, packed)
}

/// The identity of a key that a peer sent.
pub fn identity_of_foreign(t: &Table, packed: &[u8]) -> Result<Identity> {
    let values = key::unpack(packed).map_err(|e| bad_key(t, &e.to_string()))?;
    let mut folded: Vec<Value> = Vec::with_capacity(t.keys.len());
    let mut spelled: Vec<Value> = Vec::with_capacity(t.keys.len());
    let mut canonical = true;
    for (i, value) in values.enumerate() {
        let Some(column) = t.keys.get(i) else {
            return Err(bad_key(t, &format!("it has more than {} columns", t.keys.len())));
        };
        folded.push(key::identity(value, column.affinity, column.fold));
        spelled.push(key::stored(value, column.affinity));
        canonical &= key::is_canonical(spelled[i].as_ref(), column.affinity, column.fold);
    }
    if folded.len() != t.keys.len() {
        return Err(bad_key(t, &format!("it has {} of {} columns", folded.len(), t.keys.len())));
    }
    if folded.iter().any(Value::is_null) {
        return Err(bad_key(t, "a key column is NULL"));
    }
    let pack = |v: &[Value]| key::pack(v.iter().map(Value::as_ref)).map_err(|e| bad_key(t, &e.to_string()));
    let identity = pack(&folded)?;
    let spelling = if canonical { None } else { Some(pack(&spelled)?.into()) };
    Ok(Identity { key: identity.into(), spelling })
}

/// Whether a key that a peer sent is its own identity, byte for byte: `identity_of_foreign` would give it back.
pub fn is_own_identity(t: &Table, packed: &[u8], scratch: &mut Vec<u8>) -> Result<bool> {
    if !t.plain {
        return Ok(false);
    }
    let values = || key::unpack(packed).map_err(|e| bad_key(t, &e.to_string()));
    let mut width = 0;
    for (i, value) in values()?.enumerate() {
        let Some(column) = t.keys.get(i) else { return Ok(false) };
        use rejoin_crdt::key::Affinity;
        let kept = match value {
            ValueRef::Blob(_) => true,
            ValueRef::Text(_) => matches!(column.affinity, Affinity::Text | Affinity::Blob),
            ValueRef::Int(_) => {
                matches!(column.affinity, Affinity::Integer | Affinity::Numeric | Affinity::Blob)
            }
            ValueRef::Real(_) | ValueRef::Null => false,
        };
        if !kept {
            return Ok(false);
        }
        width += 1;
    }
    scratch.clear();
    key::pack_into(scratch, values()?).map_err(|e| bad_key(t, &e.to_string()))?;
    Ok(width == t.keys.len() && scratch.as_slice() == packed)
}

/// The packed key of a row that does not stand in the table, as the table would show it.
pub fn shown_key(t: &Table, identity: &[u8], spelling: Option<&[u8]>) -> Vec<u8> {
    let packed = spelling.unwrap_or(identity);
    if !t.keys.iter().any(|k| k.affinity == key::Affinity::Real) {
        return packed.to_vec();
    }
    let Ok(values) = key::unpack(packed) else {
        return packed.to_vec();
    };
    let real = values.zip(&t.keys).map(|(v, k)| match v {
        ValueRef::Int(i) if k.affinity == key::Affinity::Real => ValueRef::Real(i as f64),
        other => other,
    });
    key::pack(real).unwrap_or_else(|_| packed.to_vec())
}

pub fn bad_key(t: &Table, why: &str) -> Error {
    Error::BadChange { why: format!("pk does not fit table \"{}\": {why}", t.name) }
}

/// The rowid that a packed key of one integer names.
pub fn packed_rowid(t: &Table, packed: &[u8]) -> Result<i64> {
    if let Some(row) = key::unpack_int(packed) {
        return Ok(row);
    }
    let mut values = key::unpack(packed).map_err(|e| bad_key(t, &e.to_string()))?;
    let (first, more) = (values.next(), values.next());
    let Some(first) = first.filter(|_| more.is_none()) else {
        return Err(bad_key(t, "it must have exactly one column"));
    };
    match key::identity(first, key::Affinity::Integer, Fold::None) {
        Value::Int(i) => Ok(i),
        _ => Err(bad_key(t, "INTEGER PRIMARY KEY takes integers only")),
    }
}
