//! Each way in which syncing can be hurt: that it heals by itself, or ends in a named state with a way out. What shops suffered
//! from, point by point, is named where a scenario is about it.

mod clocks;
mod frames;
mod horizon;
mod proxy;
mod restored;
mod schema;
