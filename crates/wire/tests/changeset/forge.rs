//! Changesets made byte by byte, with a checksum that is right: what a hostile sender can do.

/// Whatever is wrong inside, the envelope is not.
pub fn seal(payload: &[u8]) -> Vec<u8> {
    reseal(&[b"RJCS\x01\x00", payload, &[0; 16]].concat())
}

/// Makes the checksum at the end right.
pub fn reseal(bytes: &[u8]) -> Vec<u8> {
    let (content, _) = bytes.split_last_chunk::<16>().unwrap();
    [content, &blake3::hash(content).as_bytes()[..16]].concat()
}

pub fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v >= 128 {
        out.push(v as u8 | 128);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// Sender and lineage.
pub const HEADER: [u8; 17] = [0; 17];

/// Sender, one site, one transaction, no empty range, no base.
pub fn front() -> Vec<u8> {
    let transaction = [&[0, 2, 0, 0][..], &[7; 16]].concat();
    [&HEADER[..], &[1], &[5; 16], &[1], &transaction, &[0, 0]].concat()
}

/// A changeset with one table of key column `k` and value columns `a`, `b`.
#[derive(Clone)]
pub struct Forge {
    /// Count and entries of further names.
    pub more: Vec<u8>,
    pub rows: u64,
    pub runs: Vec<u8>,
    pub key_form: u8,
    pub keys: Vec<u8>,
    pub columns: [Column; 2],
}

/// Streams: types, integers, reals, lengths, bytes.
#[derive(Clone, Default)]
pub struct Column {
    pub types: Vec<u8>,
    pub ints: (u8, Vec<u8>),
    pub reals: (u8, Vec<u8>),
    pub lengths: Vec<u8>,
    pub bytes: Vec<u8>,
}

impl Forge {
    /// Three rows: keys 1, 2, 3; column `a` 10, 11, 12, column `b` "x", NULL, "yz"; all of it well-formed.
    pub fn good() -> Forge {
        // One run of shape cl 1, one group of columns 0 and 1, column version 1, stride 2, three rows.
        let runs = vec![1 | 8 | 16 | 32 | 64, 0, 1, 1 << 1, 1, 0b11, 0, 2, 4, 3, 1];
        let a = Column { types: vec![2 << 3 | 1], ints: (1, vec![20, 2, 2]), ..Column::default() };
        let b =
            Column { types: vec![3, 0, 3], lengths: vec![1, 2], bytes: b"xyz".to_vec(), ..Column::default() };
        Forge { more: vec![0], rows: 3, runs, key_form: 2, keys: vec![2, 2, 2], columns: [a, b] }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head =
            [varint(self.runs.len() as u64), vec![self.key_form], varint(self.keys.len() as u64)].concat();
        let mut data = [&self.runs[..], &self.keys].concat();
        for c in &self.columns {
            head.extend(varint(c.types.len() as u64));
            if !c.types.is_empty() {
                for (form, stream) in [&c.ints, &c.reals] {
                    head.extend(varint(stream.len() as u64));
                    head.extend((!stream.is_empty()).then_some(form));
                }
                head.extend([varint(c.lengths.len() as u64), varint(c.bytes.len() as u64)].concat());
            }
            data.extend([&c.types[..], &c.ints.1, &c.reals.1, &c.lengths, &c.bytes].concat());
        }
        let body = [head, data].concat();
        let directory =
            [sized(b"t"), vec![1], sized(b"k"), vec![2], sized(b"a"), sized(b"b"), self.more.clone()]
                .concat();
        let table = [directory, varint(self.rows), varint(body.len() as u64)].concat();
        seal(&[front(), vec![1], table, body].concat())
    }
}
