//! Variable-length integers (LEB128, zigzag for signed) and row metadata as bytes.

use rejoin_crdt::meta::{ColSet, Group, RowMeta, Sentinel, Stamp};

/// The bytes of a metadata record make no sense: the file is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

pub type Decoded<T> = Result<T, Damaged>;

#[inline]
pub fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

#[inline]
pub fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

#[inline]
pub fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

#[inline]
pub fn put_i(out: &mut Vec<u8>, v: i64) {
    put(out, zigzag(v));
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A reader over bytes of the file; every read is checked.
pub struct Dec<'a> {
    buf: &'a [u8],
}

impl<'a> Dec<'a> {
    pub fn new(buf: &'a [u8]) -> Dec<'a> {
        Dec { buf }
    }

    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    #[inline]
    pub fn byte(&mut self) -> Decoded<u8> {
        let (&first, rest) = self.buf.split_first().ok_or(Damaged)?;
        self.buf = rest;
        Ok(first)
    }

    #[inline]
    pub fn u(&mut self) -> Decoded<u64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut v = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Damaged)
    }

    #[inline]
    pub fn i(&mut self) -> Decoded<i64> {
        self.u().map(unzigzag)
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        u32::try_from(self.u()?).map_err(|_| Damaged)
    }

    pub fn version(&mut self) -> Decoded<i64> {
        i64::try_from(self.u()?).map_err(|_| Damaged)
    }

    pub fn take(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let (head, rest) = self.buf.split_at_checked(len).ok_or(Damaged)?;
        self.buf = rest;
        Ok(head)
    }

    pub fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let len = usize::try_from(self.u()?).map_err(|_| Damaged)?;
        self.take(len)
    }

    /// A count of items that take at least one byte each.
    pub fn count(&mut self) -> Decoded<usize> {
        let n = usize::try_from(self.u()?).map_err(|_| Damaged)?;
        if n > self.buf.len() { Err(Damaged) } else { Ok(n) }
    }

    pub fn cols(&mut self) -> Decoded<ColSet> {
        let head = self.u()?;
        if head & 1 == 0 {
            return Ok(ColSet::from_low(head >> 1));
        }
        let words = usize::try_from(head >> 1).map_err(|_| Damaged)?;
        if words > (ColSet::ID_LIMIT / 64) as usize || words > self.buf.len() {
            return Err(Damaged);
        }
        let words: Vec<u64> = (0..words).map(|_| self.u()).collect::<Decoded<_>>()?;
        Ok(ColSet::from_words(&words))
    }
}

/// Sets of ids below 63 are one number shifted left by one; others are a count of words and the words.
pub fn put_cols(out: &mut Vec<u8>, cols: &ColSet) {
    let mut words = cols.words();
    let low = words.next().unwrap_or(0);
    if words.next().is_none() && low >> 63 == 0 {
        put(out, low << 1);
        return;
    }
    put(out, (cols.words().count() as u64) << 1 | 1);
    for word in cols.words() {
        put(out, word);
    }
}

/// What the groups of a record written by one transaction have in common.
#[derive(Clone, Copy, Default)]
pub struct Base {
    pub db_version: i64,
    pub clock: i64,
    pub site: u32,
}

/// One row's metadata, relative to the transaction that holds it.
pub fn put_row(out: &mut Vec<u8>, row: &RowMeta, base: &Base) {
    put(out, u64::from(row.cl) << 1 | u64::from(row.sentinel.is_some()));
    if let Some(s) = &row.sentinel {
        put_i(out, base.db_version.wrapping_sub(s.db_version));
        put(out, u64::from(s.site));
        put_i(out, s.seq);
    }
    put(out, row.groups.len() as u64);
    for g in &row.groups {
        let flags = u8::from(g.stamp.db_version != base.db_version)
            | u8::from(g.stamp.col_version != base.clock) << 1
            | u8::from(g.stamp.site != base.site) << 2;
        out.push(flags);
        if flags & 1 != 0 {
            put(out, g.stamp.db_version as u64);
        }
        if flags & 2 != 0 {
            put(out, g.stamp.col_version as u64);
        }
        if flags & 4 != 0 {
            put(out, u64::from(g.stamp.site));
        }
        put_cols(out, &g.cols);
        put_i(out, g.seq);
    }
}

pub fn get_row(dec: &mut Dec, base: &Base) -> Decoded<RowMeta> {
    let head = dec.u()?;
    let cl = u32::try_from(head >> 1).map_err(|_| Damaged)?;
    let sentinel = if head & 1 == 1 {
        let db_version = base.db_version.wrapping_sub(dec.i()?);
        Some(Sentinel { db_version, site: dec.u32()?, seq: dec.i()? })
    } else {
        None
    };
    let mut row = RowMeta { cl, sentinel, ..RowMeta::default() };
    for _ in 0..dec.count()? {
        let flags = dec.byte()?;
        let db_version = if flags & 1 != 0 { dec.version()? } else { base.db_version };
        let col_version = if flags & 2 != 0 { dec.version()? } else { base.clock };
        let site = if flags & 4 != 0 { dec.u32()? } else { base.site };
        let stamp = Stamp { col_version, db_version, site };
        row.groups.push(Group { cols: dec.cols()?, stamp, seq: dec.i()? });
    }
    Ok(row)
}
