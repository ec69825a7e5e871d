//! Why the server does not start, and why it refuses a client.

use std::fmt;
use std::path::{Path, PathBuf};

/// The server does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A line of the configuration.
    Config { file: PathBuf, line: usize, message: String },
    /// What the configuration and the command line say together.
    Refused { message: String },
    /// A file or directory that is needed.
    File { path: PathBuf, message: String },
    /// The address cannot be listened on.
    Listen { message: String },
}

impl StartError {
    pub fn config(file: &Path, line: usize, message: &str) -> StartError {
        StartError::Config { file: file.to_owned(), line, message: message.trim().to_owned() }
    }

    pub fn file(path: &Path, error: &dyn fmt::Display) -> StartError {
        StartError::File { path: path.to_owned(), message: error.to_string() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config { file, line, message } => write!(f, "{}:{line}: {message}", file.display()),
            StartError::Refused { message } => f.write_str(message),
            StartError::File { path, message } => write!(f, "{}: {message}", path.display()),
            StartError::Listen { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for StartError {}
