//! Poison: numbers that no honest replica sends, refused at the door (rule 3.10).

use crate::hlc;
use crate::utc::Utc;
use std::fmt;

/// The largest version of any kind: what a JavaScript number holds exactly.
pub const VERSION_MAX: i64 = (1 << 53) - 1;
/// The largest causal length.
pub const CL_MAX: i64 = 1 << 31;
/// How far a peer's db_version may lie ahead of the local one.
pub const DB_VERSION_AHEAD_MAX: i64 = 1 << 40;
/// How far a column version may lie in the future, unless configured.
pub const DRIFT_MS: i64 = 60_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Poison {
    /// A version outside 0..=2^53-1; `what` names the column.
    Version {
        what: &'static str,
        found: i64,
    },
    CausalLength {
        found: i64,
    },
    /// A sentinel's column version and its causal length are one number.
    Sentinel {
        col_version: i64,
        cl: i64,
    },
    Ahead {
        found: i64,
        local: i64,
    },
    /// A change stamped in the future; times are Unix milliseconds.
    Drift {
        found_ms: i64,
        now_ms: i64,
        drift_ms: i64,
    },
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Poison::Version { what, found } => {
                write!(f, "{what} {found} is outside 0 to {VERSION_MAX}")
            }
            Poison::CausalLength { found } => write!(f, "cl {found} is outside 1 to {CL_MAX}"),
            Poison::Sentinel { col_version, cl } => {
                write!(f, "the sentinel's col_version {col_version} differs from its cl {cl}")
            }
            Poison::Ahead { found, local } => {
                write!(f, "db_version {found} is more than {DB_VERSION_AHEAD_MAX} ahead of the local {local}")
            }
            Poison::Drift { found_ms, now_ms, drift_ms } => write!(
                f,
                "the change is stamped {}, but it is {} here: more than {drift_ms} ms ahead",
                Utc(found_ms),
                Utc(now_ms)
            ),
        }
    }
}

impl std::error::Error for Poison {}

/// A version of any kind lies in 0..=2^53-1; `what` names it in the error.
#[inline]
pub fn check_version(what: &'static str, found: i64) -> Result<i64, Poison> {
    if (0..=VERSION_MAX).contains(&found) { Ok(found) } else { Err(Poison::Version { what, found }) }
}

#[inline]
pub fn check_cl(found: i64) -> Result<u32, Poison> {
    if (1..=CL_MAX).contains(&found) { Ok(found as u32) } else { Err(Poison::CausalLength { found }) }
}

/// An incoming db_version lies in 0..=2^53-1 and not too far above the local one.
#[inline]
pub fn check_db_version(found: i64, local: i64) -> Result<i64, Poison> {
    check_version("db_version", found)?;
    if found.saturating_sub(local) > DB_VERSION_AHEAD_MAX {
        return Err(Poison::Ahead { found, local });
    }
    Ok(found)
}

/// A column version lies in 0..=2^53-1 and not after `now_unix_ms + drift_ms`, the time corrected by the server's.
#[inline]
pub fn check_col_version(found: i64, now_unix_ms: i64, drift_ms: i64) -> Result<i64, Poison> {
    check_version("col_version", found)?;
    let found_ms = hlc::unix_ms(found);
    if found_ms > now_unix_ms.saturating_add(drift_ms) {
        return Err(Poison::Drift { found_ms, now_ms: now_unix_ms, drift_ms });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_taken_and_what_is_past_them_is_not() {
        assert_eq!(check_version("seq", 0), Ok(0));
        assert_eq!(check_version("seq", VERSION_MAX), Ok(VERSION_MAX));
        assert!(check_version("seq", -1).is_err());
        assert!(check_version("seq", VERSION_MAX + 1).is_err());
        assert_eq!(check_cl(CL_MAX), Ok(1 << 31));
        assert!(check_cl(0).is_err());
        assert!(check_cl(CL_MAX + 1).is_err());
        assert!(check_db_version(DB_VERSION_AHEAD_MAX + 7, 7).is_ok());
        assert!(check_db_version(DB_VERSION_AHEAD_MAX + 8, 7).is_err());
        assert!(check_db_version(i64::MAX, i64::MIN).is_err());
    }

    #[test]
    fn drift_names_both_times() {
        let now = 1_700_000_000_000;
        let ahead = hlc::pack(now + DRIFT_MS, 2047);
        assert_eq!(check_col_version(ahead, now, DRIFT_MS), Ok(ahead));
        let error = check_col_version(ahead + 1, now, DRIFT_MS).unwrap_err().to_string();
        assert_eq!(
            error,
            "the change is stamped 2023-11-14T22:14:20.001Z, but it is 2023-11-14T22:13:20.000Z here: \
             more than 60000 ms ahead"
        );
    }

    #[test]
    fn versions_counted_by_one_are_never_in_the_future() {
        assert_eq!(check_col_version(1_000_000, hlc::EPOCH_MS + 1_000_000, 0), Ok(1_000_000));
    }
}
