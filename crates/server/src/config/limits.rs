//! Bounds of everything that a client could make grow, with what holds if nothing is said.

use serde::Deserialize;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        /// See the head of the file.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Names and defaults, for the documentation.
            pub fn defaults() -> Vec<(&'static str, u64)> {
                let limits = Limits::default();
                vec![$((stringify!($name), u64::from(limits.$name)),)*]
            }
        }
    };
}

limits! {
    /// Sockets open at once; more wait in the listener's queue.
    connections: u32 = 12_000;
    /// WebSockets of one subject.
    connections_per_subject: u32 = 100;
    /// Rooms open at once; idle ones are closed for others.
    rooms_open: u32 = 256;
    /// Rooms that may be in the data directory when a client asks for a new one.
    rooms: u32 = 10_000;
    /// A room that nobody uses is closed after this time.
    room_idle_s: u32 = 300;
    /// Size of a room's file.
    room_bytes: u64 = 16 << 30;
    /// Bytes of changesets that one subject may have applied in a room, over all time; 0: any number.
    subject_bytes: u64 = 0;
    /// Replicas of one subject in a room.
    sites_per_subject: u32 = 100;
    /// A frame of a client.
    frame_bytes: u32 = 1 << 20;
    /// A changeset of a client.
    cut_bytes: u64 = 64 << 20;
    /// Rows and transactions of a client's changeset.
    cut_rows: u64 = 2_000_000;
    /// Changesets of all clients together that are in memory; and once more what is unpacked of them.
    staged_bytes: u64 = 512 << 20;
    /// Changes of the last moments that a room keeps in memory for its clients.
    tail_bytes: u64 = 4 << 20;
    /// A token.
    token_bytes: u32 = 8 << 10;
    /// From the TCP connection to the headers, and from there to the first frame.
    handshake_s: u32 = 10;
    /// A WebSocket that says nothing, though it is to send heartbeats three times in that time.
    idle_s: u32 = 45;
    /// A client that takes nothing.
    send_s: u32 = 30;
    /// A request's body that stops.
    body_s: u32 = 30;
    /// Frames of one connection, over time.
    frames_per_s: u32 = 500;
    /// Bytes of one connection, over time.
    bytes_per_s: u32 = 64 << 20;
    /// Bytes of all connections of one subject, over time.
    subject_bytes_per_s: u32 = 128 << 20;
    /// HTTP requests of one subject, over time.
    requests_per_s: u32 = 100;
    /// Header lines of a request.
    headers: u32 = 64;
    /// Bytes of a request's head.
    header_bytes: u32 = 32 << 10;
    /// Steps of SQLite's machine that a policy may take for a row.
    policy_steps: u32 = 100_000;
    /// Transactions after which a snapshot is made anew.
    snapshot_transactions: u32 = 10_000;
    /// Snapshots that are made at once.
    snapshots_at_once: u32 = 2;
    /// What is under way when the server is told to stop has this long.
    drain_s: u32 = 20;
    /// What all have acknowledged is forgotten this often; 0: never.
    collect_h: u32 = 24;
    /// A replica that was not seen for this long holds no tombstones back.
    replica_days: u32 = 30;
}

impl Limits {
    /// What would make the server useless, or make it panic later.
    pub fn check(&self) -> Result<(), String> {
        let limits = self;
        let at_least = |name: &str, value: u64, least: u64| {
            if value < least {
                Err(format!("[limits] {name} = {value} is too little; at least {least}"))
            } else {
                Ok(())
            }
        };
        let at_most = |name: &str, value: u64, most: u64| {
            if value > most {
                Err(format!("[limits] {name} = {value} is too much; at most {most}"))
            } else {
                Ok(())
            }
        };
        for (name, value) in [
            ("connections", limits.connections),
            ("connections_per_subject", limits.connections_per_subject),
            ("rooms_open", limits.rooms_open),
            ("sites_per_subject", limits.sites_per_subject),
            ("handshake_s", limits.handshake_s),
            ("idle_s", limits.idle_s),
            ("send_s", limits.send_s),
            ("body_s", limits.body_s),
            ("frames_per_s", limits.frames_per_s),
            ("subject_bytes_per_s", limits.subject_bytes_per_s),
            ("requests_per_s", limits.requests_per_s),
            ("headers", limits.headers),
            ("policy_steps", limits.policy_steps),
            ("snapshots_at_once", limits.snapshots_at_once),
            ("token_bytes", limits.token_bytes),
        ] {
            at_least(name, u64::from(value), 1)?;
        }
        at_least("frame_bytes", u64::from(limits.frame_bytes), 4 << 10)?;
        at_most("frame_bytes", u64::from(limits.frame_bytes), rejoin_wire::limits::FRAME_BYTES_MAX as u64)?;
        at_least("cut_bytes", limits.cut_bytes, 64 << 10)?;
        at_least("staged_bytes", limits.staged_bytes, limits.cut_bytes)?;
        at_least("room_bytes", limits.room_bytes, 1 << 20)?;
        at_least("header_bytes", u64::from(limits.header_bytes), 8 << 10)?;
        // A whole frame must fit into what is allowed at once.
        at_least("bytes_per_s", u64::from(limits.bytes_per_s), u64::from(limits.frame_bytes))?;
        at_least("subject_bytes_per_s", u64::from(limits.subject_bytes_per_s), u64::from(limits.frame_bytes))
    }
}
