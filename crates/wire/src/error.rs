//! The one error family of this crate.

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin like a changeset.
    NotAChangeset,
    /// Cut off, or the checksum disagrees: damaged on the way.
    Corrupt,
    /// An intact changeset of a format that this build does not read.
    UnsupportedVersion { version: u8 },
    /// Intact bytes that break the rules of the format: a faulty or hostile sender.
    Malformed { what: &'static str },
    /// Over one of the [limits](crate::limits).
    TooLarge { what: &'static str, limit: u64 },
    /// The writer was handed something that no changeset may say.
    Invalid { what: &'static str },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAChangeset => write!(f, "these bytes are not a changeset"),
            Error::Corrupt => write!(f, "the changeset is damaged: its checksum does not match"),
            Error::UnsupportedVersion { version } => {
                write!(f, "the changeset has format version {version}, which this build does not read")
            }
            Error::Malformed { what } => write!(f, "the changeset is malformed: {what}"),
            Error::TooLarge { what, limit } => {
                write!(f, "the changeset is too large: {what} over {limit}")
            }
            Error::Invalid { what } => write!(f, "cannot write the changeset: {what}"),
        }
    }
}

impl std::error::Error for Error {}
