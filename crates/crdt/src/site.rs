//! The id of a replica: 16 random bytes, ordered bytewise.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SiteId(pub [u8; 16]);

impl SiteId {
    /// None unless `bytes` are exactly 16.
    #[inline]
    pub fn from_slice(bytes: &[u8]) -> Option<SiteId> {
        bytes.try_into().ok().map(SiteId)
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteIdError;

impl fmt::Display for SiteIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a site id is 32 hexadecimal digits")
    }
}

impl std::error::Error for SiteIdError {}

impl FromStr for SiteId {
    type Err = SiteIdError;

    fn from_str(text: &str) -> Result<SiteId, SiteIdError> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(SiteIdError);
        }
        let mut id = [0u8; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let nibble = char::from(*digit).to_digit(16).ok_or(SiteIdError)?;
                *byte = *byte << 4 | nibble as u8;
            }
        }
        Ok(SiteId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        let id = SiteId(std::array::from_fn(|i| (i * 17) as u8));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!("00112233445566778899AABBccddeeff".parse(), Ok(id));
        for bad in ["", "00", "+0112233445566778899aabbccddeeff", "\u{e9}0112233445566778899aabbccddeef"] {
            assert_eq!(bad.parse::<SiteId>(), Err(SiteIdError), "{bad}");
        }
        assert_eq!(SiteId::from_slice(&[0; 15]), None);
        assert_eq!(SiteId::from_slice(id.as_bytes()), Some(id));
    }
}
