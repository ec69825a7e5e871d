//! Keys between keys, for ordered lists.
//!
//! The published algorithm (David Greenspan, "Implementing Fractional Indexing"; rocicorp's
//! fractional-indexing), with the outputs of cr-sqlite's `crsql_fract_key_between`, whose digits are the 95
//! printable ASCII characters: a head letter that gives the number of integer digits (`a` = 1, `b` = 2 ...;
//! `Z` = 1, `Y` = 2 ... below zero), the integer, then a fraction that never ends in a space, the zero digit.
//! Unlike there, no input panics and no key is so long that it recurses.

use std::fmt;

const ZERO: u8 = b' ';
const TOP: u8 = b'~';
const BASE: usize = (TOP - ZERO) as usize + 1;
const SMALLEST: &[u8] = b"A                          ";

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
            FractError::TrailingZero => "Fractional part should not end with ' ' (space)",
            FractError::Digit => "an order key has only printable ASCII characters",
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
        (None, None) => b"a ".to_vec(),
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
    if fraction.last() == Some(&ZERO) {
        return Err(FractError::TrailingZero);
    }
    if !key.iter().all(|d| (ZERO..=TOP).contains(d)) {
        return Err(FractError::Digit);
    }
    Ok((int, fraction))
}

/// The place of a digit; everything that comes here is one.
fn place(digit: u8) -> usize {
    usize::from(digit.saturating_sub(ZERO))
}

fn digit(place: usize) -> u8 {
    u8::try_from(place).map_or(TOP, |place| ZERO.saturating_add(place).min(TOP))
}

/// A fraction strictly between two; `b` None is 1. Requires a < b and that neither ends in a zero.
fn midpoint(a: &[u8], b: Option<&[u8]>) -> Vec<u8> {
    let mut key = Vec::new();
    let (mut a, mut b) = (a, b);
    if let Some(end) = b {
        let padded = a.iter().copied().chain(std::iter::repeat(ZERO));
        let common = end.iter().zip(padded).take_while(|(x, y)| **x == *y).count();
        key.extend(end.iter().take(common));
        a = a.get(common..).unwrap_or(b"");
        b = end.get(common..);
    }
    loop {
        let low = a.first().map_or(0, |d| place(*d));
        let high = b.and_then(|b| b.first()).map_or(BASE, |d| place(*d));
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
    let (wrapped, top) = if by > 0 { (ZERO, TOP) } else { (TOP, ZERO) };
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
        (b'Z', true) => return Some(b"a ".to_vec()),
        (b'a', false) => return Some(b"Z~".to_vec()),
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

    /// What cr-sqlite 0.16.3 answers.
    #[test]
    fn known_outputs() {
        let smallest_and_more = format!("A{}!", " ".repeat(26));
        let between_smallest = format!("A{} P", " ".repeat(26));
        let largest = format!("z{}", "~".repeat(26));
        let before_largest = format!("z{}}}", "~".repeat(25));
        let after_largest = format!("{largest}P");
        for (a, b, key) in [
            ("", "", "a "),
            ("", "a ", "Z~"),
            ("", "Z~", "Z}"),
            ("a ", "", "a!"),
            ("a!", "", "a\""),
            ("a~", "", "b  "),
            ("a ", "a!", "a P"),
            ("a!", "a\"", "a!P"),
            ("a P", "a!", "a h"),
            ("Z~", "a ", "Z~P"),
            ("Z~", "a!", "a "),
            ("", "Y  ", "X~~~"),
            ("b~~", "", "c   "),
            ("a ", "a P", "a 8"),
            ("a ", "a 8", "a ,"),
            ("b125", "b129", "b127"),
            ("a0", "a1V", "a1"),
            ("Z~", "a !", "a "),
            ("", "a0V", "a0"),
            ("", "b999", "b99"),
            ("a0", "a1", "a0P"),
            ("a0", "a00", "a0("),
            ("a0", "b00", "a1"),
            ("", &smallest_and_more, &between_smallest),
            (&before_largest, "", &largest),
            (&largest, "", &after_largest),
        ] {
            let end = |s: &str| (!s.is_empty()).then(|| s.to_owned());
            assert_eq!(between(end(a).as_deref(), end(b).as_deref()).as_deref(), Ok(key), "{a} {b}");
        }
    }

    #[test]
    fn refusals() {
        let smallest = format!("A{}", " ".repeat(26));
        for (a, b, error) in [
            (None, Some(smallest.as_str()), FractError::Smallest),
            (Some("a  "), None, FractError::TrailingZero),
            (Some("a  "), Some("a!"), FractError::TrailingZero),
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
        fn nothing_panics(a in ".{0,6}", b in "[A-Za-z][ -~]{0,30}", swap in any::<bool>()) {
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
        let long = format!("a0{}1", "~".repeat(200_000));
        let between = between(Some(&long), Some("a1")).unwrap();
        assert!(long < between && between.as_str() < "a1");
    }
}
