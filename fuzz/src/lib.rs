//! Fuzz targets: functions of bytes that must return, whatever the bytes are.
//!
//! A target panics when what it tests broke a promise. The same functions run two ways: under the plain runner of
//! [`runner`], in every test run, and under cargo-fuzz by the glue in `coverage/`, for hours.
//!
//! To add one: a file in `targets/`, a line in [`TARGETS`], a file in `coverage/fuzz_targets/` with its `[[bin]]`. An
//! input that once failed goes to `corpus/TARGET/` and is run first ever after.

#![forbid(unsafe_code)]

pub mod mutate;
mod replicas;
pub mod runner;
mod sessions;
mod targets;

/// What is run.
pub struct Target {
    pub name: &'static str,
    /// Panics on a broken promise. Costly set-up belongs into a `thread_local`.
    pub run: fn(&[u8]),
    /// Well-formed inputs to start the mutations from, made by the code under test so that they never grow old.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    targets::key_codec::TARGET,
    targets::insert_changes::TARGET,
    targets::apply_changeset::TARGET,
    targets::frame::TARGET,
    targets::client_session::TARGET,
    targets::server_session::TARGET,
];

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// For the glue in `coverage/`.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).expect("a name of TARGETS");
    (target.run)(data);
}
