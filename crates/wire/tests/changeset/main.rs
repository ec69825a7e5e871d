//! Changesets from the outside: what is written is what is read, the bytes stay, and no input does harm.

mod forge;
mod frames;
mod golden;
mod horizon;
mod hostile;
mod misuse;
mod model;
mod names;
mod round_trip;
mod size;
