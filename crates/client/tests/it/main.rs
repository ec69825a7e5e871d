//! The client against a real server, over real sockets.

mod clones;
mod healing;
mod live;
mod states;
mod trust;
mod util;
