//! The stream of packed keys of one table. Every key takes at least one byte of it, so the number of rows is
//! bounded by the input. Keys of a single integer are written as a stream of integers; if any other key occurs
//! in the table, all are written as bytes that share a beginning with the key before.

use crate::column::{Ints, put_ints};
use crate::error::{Error, Result};
use crate::limits::{KEY_SHARED_MAX, VALUE_BYTES_MAX};
use crate::varint::{self, Input};

const BYTES: u8 = 0;
const INTS: u8 = 1;
const INT_DIFFERENCES: u8 = 2;

/// The integer of a packed key that consists of one integer, if it is spelled the one right way.
#[inline]
fn unpack_int(key: &[u8]) -> Option<i64> {
    let (&[count, head], digits) = key.split_first_chunk::<2>()?;
    if count != 1 || head & 7 != 1 || usize::from(head >> 3) != digits.len() || digits.len() > 8 {
        return None;
    }
    if digits.first() == Some(&0) {
        return None;
    }
    Some(digits.iter().fold(0u64, |v, &d| v << 8 | u64::from(d)) as i64)
}

/// The packed key of one integer, in the last bytes of a buffer: where it starts.
#[inline]
fn pack_int(v: i64, buffer: &mut [u8; 10]) -> usize {
    let digits = (8 - (v as u64).leading_zeros() as usize / 8).min(8);
    *buffer = [0; 10];
    if let Some(tail) = buffer.last_chunk_mut::<8>() {
        *tail = v.to_be_bytes();
    }
    let start = 8 - digits;
    if let Some(head) = buffer.get_mut(start..start + 2) {
        head.copy_from_slice(&[1, (digits as u8) << 3 | 1]);
    }
    start
}

#[derive(Debug, Default)]
pub(crate) struct KeyWriter {
    ints: Vec<i64>,
    as_bytes: bool,
    out: Vec<u8>,
    last: Vec<u8>,
}

impl KeyWriter {
    pub(crate) fn push(&mut self, key: &[u8]) -> Result<()> {
        if key.is_empty() {
            return Err(Error::Invalid { what: "an empty key" });
        }
        if key.len() > VALUE_BYTES_MAX {
            return Err(Error::TooLarge { what: "bytes of a key", limit: VALUE_BYTES_MAX as u64 });
        }
        if !self.as_bytes {
            if let Some(v) = unpack_int(key) {
                self.ints.push(v);
                return Ok(());
            }
            self.as_bytes = true;
            for v in std::mem::take(&mut self.ints) {
                let mut buffer = [0; 10];
                let start = pack_int(v, &mut buffer);
                self.push_bytes(buffer.get(start..).unwrap_or_default());
            }
        }
        self.push_bytes(key);
        Ok(())
    }

    fn push_bytes(&mut self, key: &[u8]) {
        let pairs = self.last.iter().zip(key).take(KEY_SHARED_MAX);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let rest = key.get(shared..).unwrap_or_default();
        self.out.push(shared as u8);
        varint::put_bytes(&mut self.out, rest);
        self.last.truncate(shared);
        self.last.extend_from_slice(rest);
    }

    pub(crate) fn finish(&self, head: &mut Vec<u8>, data: &mut Vec<u8>) {
        let start = data.len();
        let mode = if self.as_bytes {
            data.extend_from_slice(&self.out);
            BYTES
        } else if put_ints(&self.ints, data) {
            INT_DIFFERENCES
        } else {
            INTS
        };
        head.push(mode);
        varint::put(head, (data.len() - start) as u64);
    }
}

#[derive(Debug)]
pub(crate) enum KeyReader<'a> {
    Bytes { input: Input<'a>, key: Vec<u8> },
    Ints { ints: Ints<'a>, buffer: [u8; 10], start: usize },
}

impl<'a> KeyReader<'a> {
    pub(crate) fn open(mode: u8, bytes: &'a [u8]) -> Result<KeyReader<'a>> {
        match mode {
            BYTES => Ok(KeyReader::Bytes { input: Input::new(bytes), key: Vec::new() }),
            INTS | INT_DIFFERENCES => {
                let ints = Ints::new(bytes, mode == INT_DIFFERENCES);
                Ok(KeyReader::Ints { ints, buffer: [0; 10], start: 0 })
            }
            _ => Err(Error::Malformed { what: "unknown form of a key stream" }),
        }
    }

    /// The key that `advance` went to.
    #[inline]
    pub(crate) fn current(&self) -> &[u8] {
        match self {
            KeyReader::Ints { buffer, start, .. } => buffer.get(*start..).unwrap_or_default(),
            KeyReader::Bytes { key, .. } => key,
        }
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<()> {
        match self {
            KeyReader::Ints { ints, buffer, start } => *start = pack_int(ints.next()?, buffer),
            KeyReader::Bytes { input, key } => {
                let shared = usize::from(input.byte()?);
                if shared > key.len() || shared > KEY_SHARED_MAX {
                    return Err(Error::Malformed { what: "a key shares more than there is" });
                }
                let rest = input.sized()?;
                key.truncate(shared);
                key.extend_from_slice(rest);
                if key.is_empty() || key.len() > VALUE_BYTES_MAX {
                    return Err(Error::Malformed { what: "a key is empty or too long" });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn is_drained(&self) -> bool {
        match self {
            KeyReader::Bytes { input, .. } => input.is_empty(),
            KeyReader::Ints { ints, .. } => ints.input.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_counts_as_an_integer() {
        for v in [0, 1, 127, 128, 255, 256, -1, i64::MIN, i64::MAX, 1 << 40] {
            let mut buffer = [0; 10];
            let start = pack_int(v, &mut buffer);
            assert_eq!(unpack_int(&buffer[start..]), Some(v), "{v}");
        }
        for bad in [&[1u8, 1 << 3 | 1, 0][..], &[1, 2 << 3 | 1, 1], &[2, 1, 1], &[1], &[1, 1 << 3 | 3, 65]] {
            assert_eq!(unpack_int(bad), None, "{bad:?}");
        }
    }
}
