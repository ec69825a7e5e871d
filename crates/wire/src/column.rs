//! The values of one column, as streams: types, integers, reals, lengths, bytes.
//!
//! Types are one byte for up to 32 values, `(count - 1) << 3 | type`, never more: so even a run of NULLs has
//! some input behind it. A stream of integers is written plainly or as differences, whichever is shorter.
//! Reals are 8 bytes each, little-endian, or, where every one of them is a decimal fraction with up to six
//! digits, integers `n` that stand for `n / 10^scale`.

use rejoin_crdt::value::ValueRef;

use crate::error::{Error, Result};
use crate::limits::VALUE_BYTES_MAX;
use crate::varint::{self, Input};

const NULL: u8 = 0;
const INT: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const RUN_MAX: u8 = 32;

const POWERS: [f64; 7] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];

/// Writes `ints` behind `data`; true: as differences to the integer before.
pub(crate) fn put_ints(ints: &[i64], data: &mut Vec<u8>) -> bool {
    let mut last = 0i64;
    let (mut plain, mut differences) = (0usize, 0usize);
    for &v in ints {
        plain += varint::size(varint::zigzag(v));
        differences += varint::size(varint::zigzag(v.wrapping_sub(last)));
        last = v;
    }
    data.reserve(plain.min(differences));
    if plain <= differences {
        ints.iter().for_each(|&v| varint::put_signed(data, v));
        return false;
    }
    last = 0;
    for &v in ints {
        varint::put_signed(data, v.wrapping_sub(last));
        last = v;
    }
    true
}

/// A stream of integers as `put_ints` wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ints<'a> {
    pub(crate) input: Input<'a>,
    pub(crate) differences: bool,
    last: i64,
}

impl<'a> Ints<'a> {
    pub(crate) fn new(bytes: &'a [u8], differences: bool) -> Ints<'a> {
        Ints { input: Input::new(bytes), differences, last: 0 }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<i64> {
        let v = self.input.signed()?;
        if !self.differences {
            return Ok(v);
        }
        self.last = self.last.wrapping_add(v);
        Ok(self.last)
    }
}

#[derive(Debug, Default)]
pub(crate) struct ColumnWriter {
    types: Vec<u8>,
    ints: Vec<i64>,
    reals: Vec<f64>,
    lengths: Vec<u8>,
    bytes: Vec<u8>,
}

impl ColumnWriter {
    #[inline]
    pub(crate) fn push(&mut self, value: ValueRef<'_>) -> Result<()> {
        match value {
            ValueRef::Null => self.tag(NULL),
            ValueRef::Int(v) => {
                self.tag(INT);
                self.ints.push(v);
            }
            ValueRef::Real(v) => {
                self.tag(REAL);
                self.reals.push(v);
            }
            ValueRef::Text(b) => return self.sized(TEXT, b),
            ValueRef::Blob(b) => return self.sized(BLOB, b),
        }
        Ok(())
    }

    #[inline]
    fn sized(&mut self, tag: u8, bytes: &[u8]) -> Result<()> {
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(Error::TooLarge { what: "bytes of a value", limit: VALUE_BYTES_MAX as u64 });
        }
        self.tag(tag);
        varint::put(&mut self.lengths, bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn tag(&mut self, tag: u8) {
        match self.types.last_mut() {
            Some(run) if *run & 7 == tag && *run >> 3 < RUN_MAX - 1 => *run += 8,
            _ => self.types.push(tag),
        }
    }

    /// The description of the streams goes to `head`, the streams to `data`.
    pub(crate) fn finish(&self, head: &mut Vec<u8>, data: &mut Vec<u8>) {
        varint::put(head, self.types.len() as u64);
        if self.types.is_empty() {
            return;
        }
        data.extend_from_slice(&self.types);
        let start = data.len();
        let differences = put_ints(&self.ints, data);
        put_stream(head, data.len() - start, u8::from(differences));
        let start = data.len();
        let mode = self.put_reals(data);
        put_stream(head, data.len() - start, mode);
        varint::put(head, self.lengths.len() as u64);
        data.extend_from_slice(&self.lengths);
        varint::put(head, self.bytes.len() as u64);
        data.extend_from_slice(&self.bytes);
    }

    fn put_reals(&self, data: &mut Vec<u8>) -> u8 {
        let start = data.len();
        if let Some((scale, ints)) = decimals(&self.reals) {
            let differences = put_ints(&ints, data);
            if data.len() - start < self.reals.len() * 8 {
                return (scale + 1) << 1 | u8::from(differences);
            }
            data.truncate(start);
        }
        self.reals.iter().for_each(|v| data.extend_from_slice(&v.to_bits().to_le_bytes()));
        0
    }
}

fn put_stream(head: &mut Vec<u8>, len: usize, mode: u8) {
    varint::put(head, len as u64);
    if len > 0 {
        head.push(mode);
    }
}

/// The smallest scale with which every real is exactly `n / 10^scale`, and the `n`.
fn decimals(reals: &[f64]) -> Option<(u8, Vec<i64>)> {
    let mut scale = 0usize;
    for &v in reals {
        while decimal(v, *POWERS.get(scale)?).is_none() {
            scale += 1;
        }
    }
    let power = *POWERS.get(scale)?;
    let ints: Option<Vec<i64>> = reals.iter().map(|&v| decimal(v, power)).collect();
    Some((scale as u8, ints?))
}

/// The same bits must come back, so that -0.0 and NaN have no decimal.
fn decimal(v: f64, power: f64) -> Option<i64> {
    let n = (v * power).round();
    let exact = n.abs() < (1i64 << 53) as f64 && (n as i64 as f64 / power).to_bits() == v.to_bits();
    exact.then_some(n as i64)
}

#[derive(Clone, Copy, Debug, Default)]
enum Reals<'a> {
    #[default]
    None,
    Raw(Input<'a>),
    Decimal(Ints<'a>, f64),
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ColumnReader<'a> {
    types: Input<'a>,
    tag: u8,
    left: u8,
    ints: Ints<'a>,
    reals: Reals<'a>,
    lengths: Input<'a>,
    bytes: Input<'a>,
}

/// The lengths of one column's streams, as the head of a table body gives them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ColumnHead {
    types: usize,
    ints: usize,
    ints_mode: u8,
    reals: usize,
    reals_mode: u8,
    lengths: usize,
    bytes: usize,
}

impl ColumnHead {
    pub(crate) fn read(head: &mut Input<'_>) -> Result<ColumnHead> {
        let mut out = ColumnHead { types: head.count(1)?, ..ColumnHead::default() };
        if out.types == 0 {
            return Ok(out);
        }
        (out.ints, out.ints_mode) = stream_head(head)?;
        (out.reals, out.reals_mode) = stream_head(head)?;
        if out.ints_mode > 1 || out.reals_mode == 1 || usize::from(out.reals_mode >> 1) > POWERS.len() {
            return Err(Error::Malformed { what: "unknown form of a number stream" });
        }
        out.lengths = head.count(1)?;
        out.bytes = head.count(1)?;
        Ok(out)
    }
}

fn stream_head(head: &mut Input<'_>) -> Result<(usize, u8)> {
    let len = head.count(1)?;
    let mode = if len > 0 { head.byte()? } else { 0 };
    Ok((len, mode))
}

impl<'a> ColumnReader<'a> {
    pub(crate) fn open(head: &ColumnHead, data: &mut Input<'a>) -> Result<ColumnReader<'a>> {
        let types = Input::new(data.take(head.types)?);
        let ints = Ints::new(data.take(head.ints)?, head.ints_mode == 1);
        let reals = data.take(head.reals)?;
        let scale = usize::from(head.reals_mode >> 1).checked_sub(1);
        let reals = match scale.and_then(|s| POWERS.get(s)) {
            Some(&power) => Reals::Decimal(Ints::new(reals, head.reals_mode & 1 == 1), power),
            None if reals.is_empty() => Reals::None,
            None => Reals::Raw(Input::new(reals)),
        };
        let lengths = Input::new(data.take(head.lengths)?);
        let bytes = Input::new(data.take(head.bytes)?);
        Ok(ColumnReader { types, tag: 0, left: 0, ints, reals, lengths, bytes })
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<ValueRef<'a>> {
        if self.left == 0 {
            let run = self.types.byte()?;
            self.tag = run & 7;
            self.left = (run >> 3) + 1;
        }
        self.left -= 1;
        Ok(match self.tag {
            NULL => ValueRef::Null,
            INT => ValueRef::Int(self.ints.next()?),
            REAL => ValueRef::Real(self.real()?),
            TEXT => ValueRef::Text(self.sized()?),
            BLOB => ValueRef::Blob(self.sized()?),
            _ => {
                return Err(Error::Malformed { what: "unknown type of a value" });
            }
        })
    }

    fn real(&mut self) -> Result<f64> {
        match &mut self.reals {
            Reals::Raw(input) => Ok(f64::from_bits(u64::from_le_bytes(input.array()?))),
            Reals::Decimal(ints, power) => Ok(ints.next()? as f64 / *power),
            Reals::None => Err(Error::Malformed { what: "a real without its bytes" }),
        }
    }

    #[inline]
    fn sized(&mut self) -> Result<&'a [u8]> {
        let len = self.lengths.varint()?;
        if len > VALUE_BYTES_MAX as u64 {
            return Err(Error::TooLarge { what: "bytes of a value", limit: VALUE_BYTES_MAX as u64 });
        }
        self.bytes.take(len as usize)
    }

    /// Whether every byte of every stream has been read.
    pub(crate) fn is_drained(&self) -> bool {
        let reals = match &self.reals {
            Reals::None => true,
            Reals::Raw(input) => input.is_empty(),
            Reals::Decimal(ints, _) => ints.input.is_empty(),
        };
        let streams = self.types.is_empty() && self.ints.input.is_empty() && self.lengths.is_empty();
        self.left == 0 && streams && reals && self.bytes.is_empty()
    }
}
