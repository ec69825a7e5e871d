//! Numbers as LEB128 varints, and the bounds-checked cursor that everything is read with.

use crate::error::{Error, Result};

/// Seven bits a byte, lowest first, the high bit says that more follow.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

#[inline]
pub(crate) fn put_signed(out: &mut Vec<u8>, v: i64) {
    put(out, zigzag(v));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// 0, -1, 1, -2, 2 ... become 0, 1, 2, 3, 4 ...
#[inline]
pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

#[inline]
pub(crate) fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

/// How many bytes `put` takes for `v`.
#[inline]
pub(crate) fn size(v: u64) -> usize {
    (70 - (v | 1).leading_zeros() as usize) / 7
}

/// The part of the input that is still unread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

const SHORT: Error = Error::Malformed { what: "a part ends before its content" };

impl<'a> Input<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Input<'a> {
        Input { rest }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8> {
        let (&b, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(b)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64> {
        match self.rest.split_first() {
            Some((&b, rest)) if b < 0x80 => {
                self.rest = rest;
                Ok(u64::from(b))
            }
            _ => self.varint_long(),
        }
    }

    fn varint_long(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                // One number, one spelling: no padding with zero groups, no bits beyond the 64th.
                if (b == 0 && shift > 0) || (shift == 63 && b > 1) {
                    return Err(Error::Malformed { what: "a number is not in its shortest form" });
                }
                return Ok(v);
            }
        }
        Err(Error::Malformed { what: "a number has more than 64 bits" })
    }

    #[inline]
    pub(crate) fn signed(&mut self) -> Result<i64> {
        Ok(unzigzag(self.varint()?))
    }

    /// A count of items of which each takes at least `bytes_min` bytes of what follows here.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize> {
        let n = self.varint()?;
        if n > (self.rest.len() / bytes_min.max(1)) as u64 {
            return Err(Error::Malformed { what: "a count is larger than its content" });
        }
        Ok(n as usize)
    }

    /// Bytes behind their length.
    #[inline]
    pub(crate) fn sized(&mut self) -> Result<&'a [u8]> {
        let n = self.count(1)?;
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_round_trips() {
        for bits in 0..64 {
            for v in [1u64 << bits, (1u64 << bits) - 1, u64::MAX - (1u64 << bits)] {
                let mut out = Vec::new();
                put(&mut out, v);
                assert_eq!(out.len(), size(v));
                let mut input = Input::new(&out);
                assert_eq!(input.varint(), Ok(v));
                assert!(input.is_empty());
                assert_eq!(zigzag(unzigzag(v)), v);
            }
        }
    }

    #[test]
    fn long_and_endless_spellings_are_refused() {
        for bad in [&[0x80u8, 0x00][..], &[0x80], &[], &[0xff; 10], &[0xff; 11]] {
            assert!(Input::new(bad).varint().is_err(), "{bad:?}");
        }
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(Input::new(&max).varint(), Ok(u64::MAX));
        max[9] = 2;
        assert!(Input::new(&max).varint().is_err());
    }
}
