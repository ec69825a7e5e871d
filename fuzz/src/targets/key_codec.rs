//! Packed keys: any bytes are an error or a key, and a key survives being packed again.

use crate::Target;
use rejoin_crdt::key::{pack, unpack_owned};
use rejoin_crdt::{Value, ValueRef};

pub const TARGET: Target = Target { name: "key_codec", run, seeds };

fn run(data: &[u8]) {
    decoded(data);
    encoded(data);
}

/// Bytes from a peer.
fn decoded(data: &[u8]) {
    let Ok(values) = unpack_owned(data) else {
        return;
    };
    let packed = pack(values.iter().map(ValueRef::from)).expect("no more columns than were read");
    assert!(packed.len() <= data.len(), "packing is minimal, but grew");
    let again = unpack_owned(&packed).expect("what was packed can be read");
    assert_eq!(values, again);
    assert_eq!(packed, pack(again.iter().map(ValueRef::from)).expect("the same columns"));
}

/// Values of an application, cut out of the bytes.
fn encoded(data: &[u8]) {
    let mut values = Vec::new();
    let mut rest = data;
    while let Some((kind, after)) = rest.split_first() {
        let (body, after) = after.split_at(after.len().min(usize::from(kind >> 3)));
        let number = body.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        values.push(match kind & 7 {
            0 => Value::Null,
            1 | 5 => Value::Int(number as i64),
            2 => Value::Int((number as i64).wrapping_neg()),
            3 => Value::Text(body.to_vec()),
            // A NaN comes back as NULL, as from SQLite.
            4 if !f64::from_bits(number).is_nan() => Value::Real(f64::from_bits(number)),
            _ => Value::Blob(body.to_vec()),
        });
        rest = after;
    }
    let packed = pack(values.iter().map(ValueRef::from));
    assert_eq!(packed.is_ok(), values.len() <= 255);
    if let Ok(packed) = packed {
        assert_eq!(unpack_owned(&packed).expect("what was packed can be read"), values);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let keys: [&[Value]; 6] = [
        &[],
        &[Value::Int(0)],
        &[Value::Int(i64::MAX), Value::Int(-1), Value::Int(255), Value::Int(256)],
        &[Value::text("978-0-14-043962-2"), Value::Null],
        &[Value::Blob(vec![0; 16]), Value::Real(1.5)],
        &[Value::Text(vec![b'x'; 300])],
    ];
    keys.iter().filter_map(|key| pack(key.iter().map(ValueRef::from)).ok()).collect()
}
