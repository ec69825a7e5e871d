//! The last changes of a room, each made once for all clients that have everything before it.

use rejoin_sync::MadeCut;
use rejoin_wire::frame::Id;
use std::collections::VecDeque;

struct Entry {
    since: i64,
    cut: MadeCut,
    /// Everything in it is of this site, which needs none of it.
    only: Option<Id>,
}

pub struct Tail {
    entries: VecDeque<Entry>,
    bytes: u64,
    bytes_max: u64,
}

/// What the tail has for a client.
pub enum Found {
    Cut(MadeCut),
    /// Nothing but the client's own, up to here.
    Nothing(i64),
    /// It lags too far behind.
    Older,
}

impl Tail {
    pub fn new(bytes_max: u64) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The next piece; it must begin where the last one ended, else what was there is of no use.
    pub fn push(&mut self, since: i64, cut: MadeCut, only: Option<Id>) {
        if self.entries.back().is_some_and(|last| last.cut.upto != since) {
            self.clear();
        }
        self.bytes += cut.bytes.len() as u64;
        self.entries.push_back(Entry { since, cut, only });
        // The newest stays whatever its size: it is about to be sent to everybody.
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.cut.bytes.len() as u64;
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// What comes after `since` for a client of site `site`.
    pub fn find(&self, since: i64, site: &Id) -> Found {
        let Ok(at) = self.entries.binary_search_by_key(&since, |e| e.since) else { return Found::Older };
        let mut upto = since;
        for entry in self.entries.range(at..) {
            if entry.only.as_ref() != Some(site) {
                // What was skipped before it is the client's own, so the piece builds on what it has.
                let more = self.entries.back().is_some_and(|last| last.since > entry.since);
                return Found::Cut(MadeCut { more, ..entry.cut.clone() });
            }
            upto = entry.cut.upto;
        }
        Found::Nothing(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(upto: i64, len: usize) -> MadeCut {
        let brings = rejoin::VersionVector::new();
        MadeCut { bytes: vec![0; len].into(), transactions: 1, brings, upto, more: false, rows: false }
    }

    fn shown(found: Found) -> (i64, bool) {
        match found {
            Found::Cut(cut) => (cut.upto, cut.more),
            Found::Nothing(upto) => (-upto, false),
            Found::Older => (0, false),
        }
    }

    #[test]
    fn clients_get_what_they_lack() {
        let (ann, bob) = ([1; 16], [2; 16]);
        let mut tail = Tail::new(100);
        tail.push(5, cut(6, 10), Some(ann));
        tail.push(6, cut(8, 10), None);
        tail.push(8, cut(9, 10), Some(ann));
        assert_eq!(shown(tail.find(5, &bob)), (6, true));
        assert_eq!(shown(tail.find(5, &ann)), (8, true));
        assert_eq!(shown(tail.find(8, &bob)), (9, false));
        assert_eq!(shown(tail.find(8, &ann)), (-9, false));
        assert_eq!(shown(tail.find(4, &bob)), (0, false));
        assert_eq!(shown(tail.find(7, &bob)), (0, false));
        // Old pieces go.
        tail.push(9, cut(10, 85), None);
        assert_eq!(shown(tail.find(6, &bob)), (0, false));
        assert_eq!(shown(tail.find(8, &bob)), (9, true));
        // A hole makes all before it useless.
        tail.push(12, cut(13, 1), None);
        assert_eq!(shown(tail.find(9, &bob)), (0, false));
        assert_eq!(shown(tail.find(12, &bob)), (13, false));
    }
}
