//! Which keys are one key (rule 3.6): the value after column affinity, integral reals as integers, folded.
//!
//! SQLite finds a row by comparing numbers as numbers and text by collation. Two replicas must agree on the
//! row without asking SQLite, so the identity is a value of its own that is compared bytewise.

use crate::value::{Value, ValueRef};
use std::borrow::Cow;

/// The affinity of a key column, as SQLite derives it from the declared type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    Integer,
    Real,
    Numeric,
    Text,
    #[default]
    Blob,
}

/// The collation of a key column; others are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fold {
    #[default]
    None,
    NoCase,
    RTrim,
}

/// What a column of this affinity holds after it was given `value`.
pub fn stored(value: ValueRef<'_>, affinity: Affinity) -> Value {
    match affinity {
        Affinity::Blob => value.to_owned(),
        Affinity::Text => to_text(value),
        Affinity::Integer | Affinity::Numeric => match to_number(value) {
            Value::Real(r) => integral(r).map_or(Value::Real(r), Value::Int),
            other => other,
        },
        Affinity::Real => match to_number(value) {
            Value::Int(i) => Value::Real(i as f64),
            other => other,
        },
    }
}

/// Equal for two key values exactly when they name one row.
pub fn identity(value: ValueRef<'_>, affinity: Affinity, fold: Fold) -> Value {
    match stored(value, affinity) {
        Value::Real(r) => integral(r).map_or(Value::Real(r), Value::Int),
        Value::Text(text) => Value::Text(folded(text, fold)),
        other => other,
    }
}

/// True if a column holds `value` in the spelling that needs no sentinel: the folded one, integral reals as
/// integers (as reals where the affinity is REAL).
pub fn is_canonical(value: ValueRef<'_>, affinity: Affinity, fold: Fold) -> bool {
    stored(identity(value, affinity, fold).as_ref(), affinity).as_ref().same(value)
}

/// The integer that equals `r`, also -2^63, which affinity leaves a real but an index calls equal.
fn integral(r: f64) -> Option<i64> {
    let limit = 9_223_372_036_854_775_808.0;
    (r.trunc() == r && (-limit..limit).contains(&r)).then_some(r as i64)
}

fn folded(mut text: Vec<u8>, fold: Fold) -> Vec<u8> {
    match fold {
        Fold::None => {}
        Fold::NoCase => text.make_ascii_lowercase(),
        Fold::RTrim => {
            let kept = text.iter().rposition(|b| *b != b' ').map_or(0, |last| last + 1);
            text.truncate(kept);
        }
    }
    text
}

fn to_text(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Int(i) => Value::Text(i.to_string().into_bytes()),
        ValueRef::Real(r) => Value::Text(render(r).into_bytes()),
        other => other.to_owned(),
    }
}

fn to_number(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Text(text) => parse(text).unwrap_or_else(|| value.to_owned()),
        other => other.to_owned(),
    }
}

/// Text that looks like a number, as SQLite reads it: space around it, a sign, digits, a fraction, an exponent.
fn parse(text: &[u8]) -> Option<Value> {
    let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let start = text.iter().position(|b| !space(b))?;
    let end = text.iter().rposition(|b| !space(b))?;
    let body = text.get(start..=end)?;
    let unsigned = body.strip_prefix(b"-").or_else(|| body.strip_prefix(b"+")).unwrap_or(body);
    let (whole, rest) = digits(unsigned);
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => digits(rest),
        None => (0, rest),
    };
    if whole + fraction == 0 || !is_exponent(rest) {
        return None;
    }
    let number = std::str::from_utf8(body).ok()?;
    if whole == unsigned.len()
        && let Ok(i) = number.parse()
    {
        return Some(Value::Int(i));
    }
    number.parse().ok().map(Value::Real)
}

/// How many digits lead, and what follows them.
fn digits(text: &[u8]) -> (usize, &[u8]) {
    let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
    (count, text.get(count..).unwrap_or_default())
}

fn is_exponent(text: &[u8]) -> bool {
    let Some((&first, rest)) = text.split_first() else {
        return true;
    };
    let rest = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
    let (count, rest) = digits(rest);
    matches!(first, b'e' | b'E') && count > 0 && rest.is_empty()
}

/// A real as SQLite turns it into text: `%!.15g`.
fn render(r: f64) -> String {
    if !r.is_finite() {
        return (if r > 0.0 { "Inf" } else { "-Inf" }).to_owned();
    }
    if r == 0.0 {
        return "0.0".to_owned();
    }
    let sign = if r < 0.0 { "-" } else { "" };
    let scientific = format!("{:.14e}", r.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.replace('.', "");
    let digits = digits.trim_end_matches('0');
    let or_zero = |s: &str| {
        if s.is_empty() { Cow::Borrowed("0") } else { Cow::Owned(s.to_owned()) }
    };
    if !(-4..=14).contains(&exponent) {
        let (first, rest) = digits.split_at_checked(1).unwrap_or(("0", ""));
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}.{}e{mark}{:02}", or_zero(rest), exponent.abs());
    }
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = exponent as usize + 1;
    let padded = format!("{digits:0<whole$}");
    let (int, fraction) = padded.split_at_checked(whole).unwrap_or((&padded, ""));
    format!("{sign}{int}.{}", or_zero(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(value: Value, affinity: Affinity) -> Value {
        identity(value.as_ref(), affinity, Fold::None)
    }

    #[test]
    fn numbers_written_as_text() {
        for (text, number) in [
            ("12", Value::Int(12)),
            ("  -7\n", Value::Int(-7)),
            ("+3", Value::Int(3)),
            ("1.", Value::Int(1)),
            (".5", Value::Real(0.5)),
            ("1e2", Value::Int(100)),
            ("1.25E-1", Value::Real(0.125)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("9223372036854775808", Value::Real(9_223_372_036_854_775_808.0)),
        ] {
            assert_eq!(id(Value::text(text), Affinity::Numeric), number, "{text:?}");
            assert_eq!(id(Value::text(text), Affinity::Integer), number, "{text:?}");
        }
        for text in ["", " ", ".", "e1", "1e", "1e+", "0x10", "inf", "nan", "1 2", "1\0", "--1", "1_0"] {
            assert_eq!(id(Value::text(text), Affinity::Numeric), Value::text(text), "{text:?}");
        }
        assert_eq!(id(Value::Text(vec![0xff]), Affinity::Real), Value::Text(vec![0xff]));
    }

    #[test]
    fn integral_reals_are_integers_under_every_affinity_but_text() {
        for affinity in [Affinity::Integer, Affinity::Real, Affinity::Numeric, Affinity::Blob] {
            assert_eq!(id(Value::Real(5.0), affinity), Value::Int(5));
            assert_eq!(id(Value::Real(-0.0), affinity), Value::Int(0));
            assert_eq!(id(Value::Real(5.5), affinity), Value::Real(5.5));
            assert_eq!(id(Value::Real(-9223372036854775808.0), affinity), Value::Int(i64::MIN));
            assert_eq!(id(Value::Real(1e300), affinity), Value::Real(1e300));
        }
        let odd = (1 << 53) + 1;
        assert_eq!(id(Value::Int(odd), Affinity::Real), Value::Int(odd - 1), "a REAL column rounds it");
        assert_eq!(id(Value::Int(odd), Affinity::Blob), Value::Int(odd));
    }

    #[test]
    fn numbers_in_text_columns() {
        for (r, text) in [
            (5.0, "5.0"),
            (-0.0, "0.0"),
            (0.1, "0.1"),
            (0.1 + 0.2, "0.3"),
            (1e14, "100000000000000.0"),
            (1e15, "1.0e+15"),
            (-1.5e-4, "-0.00015"),
            (1e-5, "1.0e-05"),
            (123456789012345.6, "123456789012346.0"),
            (1.25e100, "1.25e+100"),
            (1e23, "1.0e+23"),
            (f64::INFINITY, "Inf"),
        ] {
            assert_eq!(id(Value::Real(r), Affinity::Text), Value::text(text));
        }
        assert_eq!(id(Value::Int(-3), Affinity::Text), Value::text("-3"));
        assert_eq!(id(Value::Blob(vec![1]), Affinity::Text), Value::Blob(vec![1]));
    }

    #[test]
    fn folding() {
        let fold = |text: &str, fold| identity(Value::text(text).as_ref(), Affinity::Text, fold);
        assert_eq!(fold("\u{c4}bC ", Fold::NoCase), Value::text("\u{c4}bc "));
        assert_eq!(fold("a  ", Fold::RTrim), Value::text("a"));
        assert_eq!(fold("  ", Fold::RTrim), Value::text(""));
        assert_eq!(fold("a\t", Fold::RTrim), Value::text("a\t"));
        let blob = Value::Blob(b"AB ".to_vec());
        assert_eq!(identity(blob.as_ref(), Affinity::Blob, Fold::NoCase), blob);
    }

    #[test]
    fn canonical_spellings() {
        for (value, affinity, fold, expected) in [
            (Value::Int(5), Affinity::Integer, Fold::None, true),
            (Value::Real(5.0), Affinity::Real, Fold::None, true),
            (Value::Real(5.0), Affinity::Blob, Fold::None, false),
            (Value::Int(5), Affinity::Blob, Fold::None, true),
            (Value::text("Ab"), Affinity::Text, Fold::None, true),
            (Value::text("Ab"), Affinity::Text, Fold::NoCase, false),
            (Value::text("ab "), Affinity::Text, Fold::RTrim, false),
            (Value::Null, Affinity::Text, Fold::NoCase, true),
        ] {
            assert_eq!(is_canonical(value.as_ref(), affinity, fold), expected, "{value:?} {affinity:?}");
        }
    }

    proptest! {
        #[test]
        fn the_identity_of_an_identity_is_itself(
            r in prop::num::f64::ANY.prop_filter("not a number", |r| !r.is_nan()),
            text in "[ 0-9.eE+-]{0,8}",
            affinity in prop::sample::select(vec![
                Affinity::Integer, Affinity::Real, Affinity::Numeric, Affinity::Text, Affinity::Blob,
            ]),
        ) {
            for value in [Value::Real(r), Value::text(&text)] {
                let once = id(value, affinity);
                prop_assert_eq!(id(once.clone(), affinity), once);
            }
        }
    }
}
