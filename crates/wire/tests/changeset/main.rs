//! Changesets from the outside: what is written is what is read, the bytes stay, and no input does harm.

mod golden;
mod hostile;
mod model;
mod round_trip;
mod size;
