//! Sync as two state machines: [`client::Client`] and [`server::Session`].
//!
//! Nothing here opens a socket, a file or a clock. A driver tells what happened (`handle(event, now_ms)`) and carries
//! out what comes back: frames to send, and requests to the storage, of which each is answered by an event.
//! Programs, browsers and the simulator drive the same machines.
//!
//! ```text
//!          events                          effects
//!  socket  Connected, Frame, Closed  -->   Connect, Send, Disconnect
//!  storage Reply, Changed            -->   Ask(Request)       at most one open request at a time
//!  clock   Tick                      <--   wake_at()
//! ```
//!
//! `docs/protocol.md` specifies the frames and their order.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod client;
pub mod server;
pub mod state;
mod steady;
mod transfer;

pub use rejoin_wire::Relation;
pub use rejoin_wire::frame;
pub use state::State;
pub use transfer::{Defaults, MadeCut};

use rejoin_wire::frame::{Code, Fault};

pub(crate) fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into(), retry_after_ms: None }
}
