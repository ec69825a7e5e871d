//! Keys between keys, for ordered lists.
//!
//! The published algorithm (David Greenspan, "Implementing Fractional Indexing"; rocicorp's
//! fractional-indexing), base 62, with the outputs of cr-sqlite's `crsql_fract_key_between`: a head letter that
//! gives the number of integer digits (`a` = 1, `b` = 2 ...; `Z` = 1, `Y` = 2 ... below zero), the integer, then
//! a fraction that never ends in `0`. Unlike there, no input panics and no key is so long that it recurses.

use std::fmt;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SMALLEST: &[u8] = b"A00000000000000000000000000";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FractError {
    Order,
    Smallest,
    Head,
    Short,
    TrailingZero,
    Digit,
    Exhausted,
}

impl fmt::Display for FractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FractError::Order => "key_between - a must be before b",
            FractError::Smallest => "Key is too small",
            FractError::Head => "an order key starts with a letter A to Z or a to z",
            FractError::Short => "the order key is shorter than its first letter says",
            FractError::TrailingZero => "the fraction of an order key does not end with 0",
            FractError::Digit => "an order key has only digits and letters A to Z, a to z",
            FractError::Exhausted => "there is no order key beyond this one",
        })
    }
}

impl std::error::Error for FractError {}

/// A key after `a` and before `b`; None is the end of the list on that side.
pub fn between(a: Option<&str>, b: Option<&str>) -> Result<String, FractError> {
    let a = a.map(|a| split(a.as_bytes())).transpose()?;
    let b = b.map(|b| split(b.as_bytes())).transpose()?;
    let key = match (a, b) {
        (None, None) => b"a0".to_vec(),
        (Some(a), Some(b)) => inside(a, b)?,
        (None, Some((int, fraction))) => {
            if int == SMALLEST {
                join(int, &midpoint(b"", Some(fraction)))
            } else if !fraction.is_empty() {
                int.to_vec()
            } else {
                step(int, -1).ok_or(FractError::Exhausted)?
            }
        }
        (Some((int, fraction)), None) => match step(int, 1) {
            Some(next) => next,
            None => join(int, &midpoint(fraction, None)),
        },
    };
    Ok(key.into_iter().map(char::from).collect())
}

type Parts<'a> = (&'a [u8], &'a [u8]);

fn inside(a: Parts<'_>, b: Parts<'_>) -> Result<Vec<u8>, FractError> {
    // Heads are compared as bytes, so the order of keys is the order of their parts.
    if (a.0, a.1) >= (b.0, b.1) {
        return Err(FractError::Order);
    }
    if a.0 == b.0 {
        return Ok(join(a.0, &midpoint(a.1, Some(b.1))));
    }
    let next = step(a.0, 1).ok_or(FractError::Exhausted)?;
    if next < join(b.0, b.1) {
        return Ok(next);
    }
    Ok(join(a.0, &midpoint(a.1, None)))
}

fn join(int: &[u8], fraction: &[u8]) -> Vec<u8> {
    [int, fraction].concat()
}

/// Splits a key into its integer (head included) and its fraction.
fn split(key: &[u8]) -> Result<Parts<'_>, FractError> {
    if key == SMALLEST {
        return Err(FractError::Smallest);
    }
    let length = match key.first() {
        Some(head @ b'a'..=b'z') => usize::from(head - b'a') + 2,
        Some(head @ b'A'..=b'Z') => usize::from(b'Z' - head) + 2,
        _ => return Err(FractError::Head),
    };
    let (int, fraction) = key.split_at_checked(length).ok_or(FractError::Short)?;
    if fraction.last() == Some(&b'0') {
        return Err(FractError::TrailingZero);
    }
    if !key.iter().all(u8::is_ascii_alphanumeric) {
        return Err(FractError::Digit);
    }
    Ok((int, fraction))
}

/// The place of a digit; everything that comes here is one.
fn place(digit: u8) -> usize {
    match digit {
        b'0'..=b'9' => usize::from(digit - b'0'),
        b'A'..=b'Z' => usize::from(digit - b'A') + 10,
        _ => usize::from(digit.saturating_sub(b'a')) + 36,
    }
}

fn digit(place: usize) -> u8 {
    DIGITS.get(place).copied().unwrap_or(b'z')
}

/// A fraction strictly between two; `b` None is 1. Requires a < b and that neither ends in `0`.
fn midpoint(a: &[u8], b: Option<&[u8]>) -> Vec<u8> {
    let mut key = Vec::new();
    let (mut a, mut b) = (a, b);
    if let Some(end) = b {
        let padded = a.iter().copied().chain(std::iter::repeat(b'0'));
        let common = end
            .iter()
            .zip(padded)
            .take_while(|(x, y)| **x == *y)
            .count();
        key.extend(end.iter().take(common));
        a = a.get(common..).unwrap_or(b"");
        b = end.get(common..);
    }
    loop {
        let low = a.first().map_or(0, |d| place(*d));
        let high = b
            .and_then(|b| b.first())
            .map_or(DIGITS.len(), |d| place(*d));
        if high > low + 1 {
            key.push(digit((low + high).div_ceil(2)));
            return key;
        }
        if let Some([first, _, ..]) = b {
            key.push(*first);
            return key;
        }
        key.push(digit(low));
        a = a.get(1..).unwrap_or(b"");
        b = None;
    }
}

/// The next integer up or down; None past the last one.
fn step(int: &[u8], by: i8) -> Option<Vec<u8>> {
    let (wrapped, top) = if by > 0 { (b'0', b'z') } else { (b'z', b'0') };
    let mut next = int.to_vec();
    let (head, digits) = next.split_first_mut()?;
    for d in digits.iter_mut().rev() {
        if *d != top {
            let at = place(*d);
            *d = digit(if by > 0 { at + 1 } else { at.saturating_sub(1) });
            return Some(next);
        }
        *d = wrapped;
    }
    match (*head, by > 0) {
        (b'Z', true) => return Some(b"a0".to_vec()),
        (b'a', false) => return Some(b"Zz".to_vec()),
        (b'z', true) | (b'A', false) => return None,
        (h, true) => *head = h + 1,
        (h, false) => *head = h - 1,
    }
    // Away from zero the integer grows by a digit, towards it it loses one.
    if (*head >= b'a') == (by > 0) {
        next.push(wrapped);
    } else {
        next.pop();
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_outputs() {
        for (a, b, key) in [
            ("", "", "a0"),
            ("", "a0", "Zz"),
            ("", "Zz", "Zy"),
            ("a0", "", "a1"),
            ("a1", "", "a2"),
            ("a0", "a1", "a0V"),
            ("a1", "a2", "a1V"),
            ("a0V", "a1", "a0l"),
            ("Zz", "a0", "ZzV"),
            ("Zz", "a1", "a0"),
            ("", "Y00", "Xzzz"),
            ("bzz", "", "c000"),
            ("a0", "a0V", "a0G"),
            ("a0", "a0G", "a08"),
            ("b125", "b129", "b127"),
            ("a0", "a1V", "a1"),
            ("Zz", "a01", "a0"),
            ("", "a0V", "a0"),
            ("", "b999", "b99"),
            (
                "",
                "A000000000000000000000000001",
                "A000000000000000000000000000V",
            ),
            (
                "zzzzzzzzzzzzzzzzzzzzzzzzzzy",
                "",
                "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
            ),
            (
                "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
                "",
                "zzzzzzzzzzzzzzzzzzzzzzzzzzzV",
            ),
        ] {
            let end = |s: &'static str| (!s.is_empty()).then_some(s);
            assert_eq!(between(end(a), end(b)).as_deref(), Ok(key), "{a} {b}");
        }
    }

    #[test]
    fn refusals() {
        for (a, b, error) in [
            (
                None,
                Some("A00000000000000000000000000"),
                FractError::Smallest,
            ),
            (Some("a00"), None, FractError::TrailingZero),
            (Some("a00"), Some("a1"), FractError::TrailingZero),
            (Some("0"), Some("1"), FractError::Head),
            (Some("a1"), Some("a0"), FractError::Order),
            (Some("a1"), Some("a1"), FractError::Order),
            (Some(""), None, FractError::Head),
            (Some("b1"), None, FractError::Short),
            (Some("a\u{e9}"), None, FractError::Digit),
            (Some("a1\u{e9}"), None, FractError::Digit),
        ] {
            assert_eq!(between(a, b), Err(error), "{a:?} {b:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(a in ".{0,6}", b in "[A-Za-z0-9]{0,30}", swap in any::<bool>()) {
            let (a, b) = if swap { (b, a) } else { (a, b) };
            if let Ok(key) = between(Some(&a), Some(&b)) {
                prop_assert!(a < key && key < b);
            }
            let _ = (between(None, Some(&a)), between(Some(&b), None));
        }

        #[test]
        fn a_list_stays_in_order(places in prop::collection::vec(0usize..1000, 1..200)) {
            let mut list: Vec<String> = Vec::new();
            for place in places {
                let at = place % (list.len() + 1);
                let before = at.checked_sub(1).map(|i| list[i].as_str());
                let key = between(before, list.get(at).map(String::as_str)).unwrap();
                list.insert(at, key);
            }
            prop_assert!(list.windows(2).all(|w| w[0] < w[1]));
        }

        #[test]
        fn one_end_only(up in any::<bool>(), steps in 1usize..5000) {
            let mut key = between(None, None).unwrap();
            for _ in 0..steps {
                let next = if up { between(Some(&key), None) } else { between(None, Some(&key)) }.unwrap();
                prop_assert_eq!(next > key, up);
                key = next;
            }
        }
    }

    #[test]
    fn very_long_keys_do_not_recurse() {
        let long = format!("a0{}1", "z".repeat(200_000));
        let between = between(Some(&long), Some("a1")).unwrap();
        assert!(long < between && between.as_str() < "a1");
    }
}
