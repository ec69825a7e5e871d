//! What a seed's world is like, and what may go wrong in it.
//!
//! Each world has a few of the faults, not all: what fails under three faults is easier to understand than under ten, and
//! some faults hide what others would show.

use crate::dice::Dice;
use std::fmt;

#[derive(Clone, Debug, Default)]
pub struct Weather {
    pub clients: usize,
    pub storm_ms: u64,
    /// The longest heartbeat of an idle connection.
    pub heartbeat_ms: u64,
    /// Clients may hand in what is not their own.
    pub relay: bool,
    pub lamport: bool,
    pub equal_values: bool,
    pub without_rowid: bool,
    /// Two writes rather often write the same.
    pub small_values: bool,
    /// Clients begin with tables, or take those of the room.
    pub empty_clients: bool,
    pub wal: bool,

    /// Connections break, on both sides or on one, in the middle of frames; or fall silent in one direction.
    pub cuts: bool,
    /// Frames vanish, come twice or in another order, which no WebSocket does.
    pub mangles: bool,
    /// Clients and the server are killed and started again from their files.
    pub kills: bool,
    pub restores_room: bool,
    pub restores_client: bool,
    /// A client's file is copied over another one's, and both go on.
    pub forks: bool,
    /// Some transactions are against the room's policies.
    pub policies: bool,
    /// Clients and the server add columns, each when it likes.
    pub schemas: bool,
    /// Clients exchange changes row by row.
    pub row_wise: bool,
    /// Clients exchange changesets, old ones and twice, too.
    pub peers: bool,
    /// Clocks are a year off, jump, and the server's is set.
    pub clocks: bool,
    /// What all have acknowledged is forgotten.
    pub collects: bool,
    /// Somebody holds the write lock of a client's file.
    pub locks: bool,
}

impl Weather {
    pub fn of(dice: &mut Dice) -> Weather {
        let mut often = |n: u64| dice.below(n) == 0;
        let mut w = Weather {
            cuts: !often(3),
            mangles: often(6),
            kills: often(2),
            restores_room: often(4),
            restores_client: often(4),
            forks: often(5),
            policies: often(3),
            schemas: often(3),
            row_wise: often(7),
            peers: often(4),
            clocks: often(3),
            collects: often(4),
            locks: often(6),
            relay: often(2),
            lamport: often(6),
            equal_values: often(3),
            without_rowid: often(2),
            small_values: often(3),
            empty_clients: often(2),
            wal: !often(3),
            ..Weather::default()
        };
        // A clock that is wrong twice after the room was restored stamps anew what others have already.
        // And rows that were copied without their transactions are not stamped anew with these.
        w.clocks &= !w.restores_room && !w.row_wise;
        // Open: a restored room that lacks what a rejected copy stood on; starting over while schemas differ.
        w.row_wise &= !(w.policies && w.restores_room);
        w.collects &= !w.schemas;
        w.clients = 2 + dice.index(4);
        w.storm_ms = 4_000 + dice.below(12_000);
        w.heartbeat_ms = dice.pick(&[1_000, 2_000, 15_000]);
        // Without the right to hand them in, what nobody owns any more is lost with the room, as the manual says.
        // So are transactions that a client has given to others and then stamped anew: it goes on under another id.
        let vanishes = w.restores_client || w.forks || w.clocks;
        w.relay |= w.row_wise || (w.restores_room && (vanishes || w.collects)) || (w.peers && vanishes);
        w
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} clients, {} ms", self.clients, self.storm_ms)?;
        let all = [
            (self.relay, "relay"),
            (self.lamport, "lamport"),
            (self.equal_values, "equal values"),
            (self.without_rowid, "without rowid"),
            (self.small_values, "small values"),
            (self.empty_clients, "empty clients"),
            (self.wal, "wal"),
            (self.cuts, "cuts"),
            (self.mangles, "mangles"),
            (self.kills, "kills"),
            (self.restores_room, "restores room"),
            (self.restores_client, "restores client"),
            (self.forks, "forks"),
            (self.policies, "policies"),
            (self.schemas, "schemas"),
            (self.row_wise, "row-wise"),
            (self.peers, "peers"),
            (self.clocks, "clocks"),
            (self.collects, "collects"),
            (self.locks, "locks"),
        ];
        all.iter().filter(|a| a.0).try_for_each(|a| write!(f, ", {}", a.1))
    }
}
