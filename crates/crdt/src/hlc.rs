//! Hybrid logical clock (Kulkarni et al. 2014) in one integer that a JavaScript number holds exactly.
//!
//! ```text
//! bit 52 .. 11   42 bits   milliseconds since 2020-01-01T00:00:00Z (139 years)
//! bit 10 ..  0   11 bits   counter
//! ```
//!
//! Comparing two of them is comparing integers; a counter that overflows carries into the milliseconds, which
//! keeps the order. Why not 48 bits of Unix time and 16 of counter, as usual: that needs 64 bits, and
//! JavaScript, JSON and many bindings read such numbers wrong.
//!
//! Nothing here clamps a version to its limit: whoever mints checks it with [`crate::limits::check_version`].

use crate::site::SiteId;

/// 2020-01-01T00:00:00Z in Unix milliseconds.
pub const EPOCH_MS: i64 = 1_577_836_800_000;
pub const COUNTER_BITS: u32 = 11;
const MS_MAX: i64 = (1 << 42) - 1;

/// The version of a time and a counter; times outside the 42 bits are taken as their nearest end.
#[inline]
pub const fn pack(unix_ms: i64, counter: u16) -> i64 {
    let ms = unix_ms.saturating_sub(EPOCH_MS);
    let ms = if ms < 0 {
        0
    } else if ms > MS_MAX {
        MS_MAX
    } else {
        ms
    };
    ms << COUNTER_BITS | (counter as i64 & ((1 << COUNTER_BITS) - 1))
}

/// The Unix milliseconds of a version.
#[inline]
pub const fn unix_ms(version: i64) -> i64 {
    EPOCH_MS + (version >> COUNTER_BITS)
}

#[inline]
pub const fn counter(version: i64) -> u16 {
    (version & ((1 << COUNTER_BITS) - 1)) as u16
}

/// The clock value of a new transaction; `clock` is the largest value ever minted or merged in the file.
#[inline]
pub fn mint(clock: i64, now_unix_ms: i64) -> i64 {
    clock.saturating_add(1).max(pack(now_unix_ms, 0))
}

/// The version of one cell in a transaction whose clock value is `value`; `previous` is 0 for an unwritten cell.
#[inline]
pub fn for_cell(previous: i64, value: i64) -> i64 {
    previous.saturating_add(1).max(value)
}

/// `milliseconds:counter:site`, which sorts as text the way the versions sort (sites break ties).
pub fn text(col_version: i64, site: &SiteId) -> String {
    format!("{:015}:{:04x}:{site}", unix_ms(col_version), counter(col_version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VERSION_MAX;
    use proptest::prelude::*;

    #[test]
    fn the_largest_is_the_largest_safe_integer() {
        assert_eq!(pack(i64::MAX, u16::MAX), VERSION_MAX);
        assert_eq!(pack(i64::MIN, 0), 0);
    }

    #[test]
    fn minting_follows_the_wall_until_the_wall_stands_still() {
        let now = EPOCH_MS + 5;
        let first = mint(0, now);
        assert_eq!((unix_ms(first), counter(first)), (now, 0));
        let second = mint(first, now - 1000);
        assert_eq!((unix_ms(second), counter(second)), (now, 1));
        assert_eq!(for_cell(first + 9, first), first + 10);
        assert_eq!(for_cell(0, first), first);
        let carried = mint(pack(now, 2047), now);
        assert_eq!((unix_ms(carried), counter(carried)), (now + 1, 0));
    }

    #[test]
    fn text_form() {
        let site = SiteId([0xab; 16]);
        assert_eq!(
            text(pack(1_700_000_000_000, 255), &site),
            "001700000000000:00ff:abababababababababababababababab"
        );
    }

    proptest! {
        #[test]
        fn text_sorts_as_versions(a in 0..=VERSION_MAX, b in 0..=VERSION_MAX) {
            let site = SiteId::default();
            prop_assert_eq!(text(a, &site).cmp(&text(b, &site)), a.cmp(&b));
        }

        #[test]
        fn minted_exceeds_all_before(clock in 0..VERSION_MAX, now in any::<i64>()) {
            prop_assert!(mint(clock, now) > clock);
        }
    }
}
