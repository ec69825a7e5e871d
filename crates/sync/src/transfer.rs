//! Cuts on their way, in both directions: split into frames as far as the peer's credit goes, and put together again.

use crate::fault;
use rejoin_crdt::vector::VersionVector;
use rejoin_wire::frame::{Bytes, Code, Cut, Data, Fault, Frame, Id, cut_hash};
use std::collections::VecDeque;
use std::sync::Arc;

/// Numbers that both sides begin with.
pub struct Defaults;

impl Defaults {
    /// Bytes of one Data frame.
    pub const DATA_BYTES: usize = 128 << 10;
    /// Bytes of cuts that a peer may send ahead.
    pub const CREDIT: u64 = 4 << 20;
    /// More than this is not sent ahead, whatever the peer would take: frames wait in memory.
    pub const CREDIT_MAX: u64 = 16 << 20;
    /// Cuts that are sent and not yet acknowledged.
    pub const UNACKED: usize = 16;
    /// Bytes of one cut.
    pub const CUT_BYTES: u64 = 64 << 20;
    pub const HEARTBEAT_MS: u32 = 15_000;
    /// A peer is given up after so many heartbeats without a word.
    pub const SILENCE: u64 = 3;
    /// And after so many in which it does not go on with what is under way: a cut may take long to apply.
    pub const STALL: u64 = 20;
}

/// A cut as the storage makes it.
#[derive(Clone, Debug)]
pub struct MadeCut {
    pub bytes: Arc<[u8]>,
    pub transactions: u64,
    /// What it brings.
    pub brings: VersionVector,
    /// The local version up to which it goes.
    pub upto: i64,
    /// There is more to send after this one.
    pub more: bool,
    /// These are row states, which bring nothing.
    pub rows: bool,
}

/// A cut that is sent in whole or in part and not acknowledged.
#[derive(Debug)]
pub struct Unacked {
    pub cut: u64,
    pub brings: VersionVector,
    pub upto: i64,
    rows: bool,
    bytes: Arc<[u8]>,
    sent: usize,
}

#[derive(Debug, Default)]
pub struct Outgoing {
    last: u64,
    /// The last cut that was refused.
    since: u64,
    credit: u64,
    queue: VecDeque<Unacked>,
}

impl Outgoing {
    pub fn new(credit: u64) -> Outgoing {
        Outgoing { credit: credit.min(Defaults::CREDIT_MAX), ..Outgoing::default() }
    }

    /// Whether another cut may be begun.
    pub fn has_room(&self) -> bool {
        self.queue.len() < Defaults::UNACKED && self.queue.back().is_none_or(|u| u.sent == u.bytes.len())
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn held_bytes(&self) -> u64 {
        self.queue.iter().map(|u| u.bytes.len() as u64).sum()
    }

    pub fn bytes_left(&self) -> u64 {
        self.queue.iter().map(|u| (u.bytes.len() - u.sent) as u64).sum()
    }

    /// Begins a cut; what the peer has of it already is not sent again.
    pub fn begin(&mut self, made: MadeCut, resume: Option<(Id, u64)>, out: &mut Vec<Frame>) {
        self.last += 1;
        let hash = cut_hash(&made.bytes);
        let bytes = made.bytes.len() as u64;
        let offset = resume.filter(|(of, at)| *of == hash && *at <= bytes).map_or(0, |r| r.1);
        let MadeCut { transactions, more, rows, .. } = made;
        let (cut, since) = (self.last, self.since);
        out.push(Frame::Cut(Cut { cut, bytes, hash, offset, transactions, more, since, rows }));
        self.queue.push_back(Unacked {
            cut: self.last,
            brings: made.brings,
            upto: made.upto,
            rows,
            bytes: made.bytes,
            sent: offset as usize,
        });
        self.pump(out);
    }

    pub fn credit(&mut self, bytes: u64, out: &mut Vec<Frame>) {
        self.credit = self.credit.saturating_add(bytes).min(Defaults::CREDIT_MAX);
        self.pump(out);
    }

    fn pump(&mut self, out: &mut Vec<Frame>) {
        let Some(u) = self.queue.back_mut() else { return };
        while self.credit > 0 && u.sent < u.bytes.len() {
            let most = Defaults::DATA_BYTES.min(usize::try_from(self.credit).unwrap_or(usize::MAX));
            let end = u.bytes.len().min(u.sent + most);
            let Some(part) = u.bytes.get(u.sent..end) else { return };
            out.push(Frame::Data(Data { cut: u.cut, bytes: Bytes(part.to_vec()) }));
            self.credit -= part.len() as u64;
            u.sent = end;
        }
    }

    /// The oldest cut is applied.
    pub fn acked(&mut self, cut: u64) -> Result<Unacked, Fault> {
        match self.queue.pop_front() {
            Some(u) if u.cut == cut && u.sent == u.bytes.len() => Ok(u),
            _ => Err(fault(Code::Protocol, "an answer to a cut that was not sent")),
        }
    }

    /// The oldest cut was not applied: those after it build on it and are not either. Row states build on nothing.
    pub fn refused(&mut self, cut: u64) -> Result<(), Fault> {
        self.acked(cut)?;
        self.queue.retain(|u| u.rows);
        self.since = cut;
        Ok(())
    }

    /// What the peer will hold when all that was sent is applied.
    pub fn brings(&self) -> VersionVector {
        let mut all = VersionVector::new();
        self.queue.iter().for_each(|u| all.merge(&u.brings));
        all
    }
}

/// A cut that has arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub cut: u64,
    pub bytes: Vec<u8>,
    pub transactions: u64,
    pub more: bool,
    pub rows: bool,
}

#[derive(Debug)]
struct Half {
    head: Cut,
    bytes: Vec<u8>,
}

/// What a lost connection left of a cut, for the next one.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    hash: Id,
    bytes: Vec<u8>,
}

impl Remains {
    pub fn offer(&self) -> Option<(Id, u64)> {
        (!self.bytes.is_empty()).then_some((self.hash, self.bytes.len() as u64))
    }
}

#[derive(Debug, Default)]
pub struct Incoming {
    cut_bytes_max: u64,
    half: Option<Half>,
    arrived: VecDeque<Arrived>,
    last: u64,
    /// Credit that the peer has left, and what is to be given back.
    open: u64,
    owed: u64,
    remains: Option<Remains>,
    /// The last cut that was refused. What was sent before the sender knew builds on it and is dropped.
    refused: u64,
}

impl Incoming {
    pub fn new(cut_bytes_max: u64, remains: Option<Remains>) -> Incoming {
        Incoming { cut_bytes_max, open: Defaults::CREDIT, remains, ..Incoming::default() }
    }

    pub fn cut(&mut self, head: Cut) -> Result<(), Fault> {
        // The sender learned in the middle of one that it will not be applied.
        self.half.take_if(|h| h.head.since < self.refused && !h.head.rows && head.since >= self.refused);
        if self.half.is_some() || head.cut != self.last + 1 {
            return Err(fault(Code::Protocol, "a cut begins inside another, or is numbered out of turn"));
        }
        if head.bytes > self.cut_bytes_max {
            let (bytes, most) = (head.bytes, self.cut_bytes_max);
            return Err(fault(Code::TooLarge, format!("a cut of {bytes} bytes, at most {most} are taken")));
        }
        let kept = self.remains.take().filter(|r| r.hash == head.hash);
        let bytes = match (head.offset, kept) {
            (0, _) => Vec::new(),
            (offset, Some(kept)) if offset <= kept.bytes.len() as u64 && offset <= head.bytes => {
                let mut bytes = kept.bytes;
                bytes.truncate(offset as usize);
                bytes
            }
            _ => return Err(fault(Code::Protocol, "a cut goes on where nothing is")),
        };
        self.last = head.cut;
        self.half = Some(Half { head, bytes });
        self.complete()
    }

    pub fn data(&mut self, data: Data) -> Result<(), Fault> {
        let Some(half) = self.half.as_mut().filter(|h| h.head.cut == data.cut) else {
            return Err(fault(Code::Protocol, "data of no cut"));
        };
        let bytes = data.bytes.0;
        let len = bytes.len() as u64;
        if len == 0 || len > self.open || half.bytes.len() as u64 + len > half.head.bytes {
            return Err(fault(Code::Protocol, "more data than was announced or credited"));
        }
        half.bytes.extend_from_slice(&bytes);
        self.open -= len;
        self.owed += len;
        self.complete()
    }

    fn complete(&mut self) -> Result<(), Fault> {
        let Some(half) = self.half.take_if(|h| h.bytes.len() as u64 == h.head.bytes) else { return Ok(()) };
        let Half { head, bytes } = half;
        if cut_hash(&bytes) != head.hash {
            return Err(fault(Code::Protocol, "a cut arrived damaged"));
        }
        if head.since >= self.refused || head.rows {
            let Cut { cut, transactions, more, rows, .. } = head;
            self.arrived.push_back(Arrived { cut, bytes, transactions, more, rows });
        }
        Ok(())
    }

    /// The next whole cut.
    pub fn take(&mut self) -> Option<Arrived> {
        self.arrived.pop_front()
    }

    pub fn is_idle(&self) -> bool {
        self.half.is_none() && self.arrived.is_empty()
    }

    pub fn held_bytes(&self) -> u64 {
        let half = self.half.as_ref().map_or(0, |h| h.bytes.len() as u64);
        half + self.arrived.iter().map(|a| a.bytes.len() as u64).sum::<u64>()
    }

    /// Bytes that are announced and not here.
    pub fn bytes_left(&self) -> u64 {
        self.half.as_ref().map_or(0, |h| h.head.bytes - h.bytes.len() as u64)
    }

    /// The credit to give back now: in large pieces, and none while whole cuts wait to be applied.
    pub fn credit(&mut self) -> Option<u64> {
        if self.owed < Defaults::CREDIT / 4 && !(self.owed > 0 && self.open == 0) || self.arrived.len() > 1 {
            return None;
        }
        let owed = std::mem::take(&mut self.owed);
        self.open += owed;
        Some(owed)
    }

    /// Cut `cut` was not applied.
    pub fn refuse(&mut self, cut: u64) {
        self.refused = cut;
        self.arrived.retain(|a| a.rows);
    }

    /// What to keep of a half received cut when the connection is lost.
    pub fn remains(&mut self) -> Option<Remains> {
        let Some(half) = self.half.take() else { return self.remains.take() };
        (!half.bytes.is_empty()).then_some(Remains { hash: half.head.hash, bytes: half.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(len: usize) -> MadeCut {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        MadeCut {
            bytes: bytes.into(),
            transactions: 1,
            brings: VersionVector::new(),
            upto: 1,
            more: false,
            rows: false,
        }
    }

    fn feed(incoming: &mut Incoming, frames: Vec<Frame>) -> Result<Vec<u64>, Fault> {
        let mut credits = Vec::new();
        for frame in frames {
            match frame {
                Frame::Cut(head) => incoming.cut(head)?,
                Frame::Data(data) => incoming.data(data)?,
                _ => panic!("no frame of a transfer"),
            }
            credits.extend(incoming.credit());
        }
        Ok(credits)
    }

    #[test]
    fn a_cut_larger_than_the_credit_travels_by_instalments() {
        let len = (Defaults::CREDIT * 3 + 17) as usize;
        let (mut outgoing, mut incoming) = (Outgoing::new(Defaults::CREDIT), Incoming::new(u64::MAX, None));
        let mut frames = Vec::new();
        outgoing.begin(made(len), None, &mut frames);
        let mut rounds = 0;
        while !frames.is_empty() {
            let credits = feed(&mut incoming, std::mem::take(&mut frames)).expect("honest frames");
            credits.into_iter().for_each(|c| outgoing.credit(c, &mut frames));
            rounds += 1;
        }
        assert!(rounds > 3);
        assert_eq!(incoming.take().map(|a| a.bytes.len()), Some(len));
        assert_eq!(outgoing.acked(1).map(|u| u.cut), Ok(1));
        assert!(outgoing.is_idle() && incoming.is_idle());
    }

    #[test]
    fn a_cut_goes_on_after_a_lost_connection() {
        let (mut outgoing, mut incoming) = (Outgoing::new(300_000), Incoming::new(u64::MAX, None));
        let mut frames = Vec::new();
        outgoing.begin(made(1 << 20), None, &mut frames);
        feed(&mut incoming, frames).expect("honest frames");
        let remains = incoming.remains().expect("half a cut");
        let offer = remains.offer();
        assert_eq!(offer.map(|o| o.1), Some(300_000));
        let (mut outgoing, mut incoming) = (Outgoing::new(1 << 20), Incoming::new(u64::MAX, Some(remains)));
        let mut frames = Vec::new();
        outgoing.begin(made(1 << 20), offer, &mut frames);
        assert!(matches!(frames.first(), Some(Frame::Cut(Cut { offset: 300_000, .. }))));
        feed(&mut incoming, frames).expect("honest frames");
        assert_eq!(incoming.take().map(|a| a.bytes), Some(made(1 << 20).bytes.to_vec()));
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        let head = |cut, bytes, offset| Cut {
            cut,
            bytes,
            hash: [0; 16],
            offset,
            transactions: 1,
            more: false,
            since: 0,
            rows: false,
        };
        let data = |cut, len| Data { cut, bytes: Bytes(vec![0; len]) };
        let fresh = || Incoming::new(1 << 20, None);
        assert_eq!(fresh().cut(head(1, 1 << 21, 0)).map_err(|f| f.code), Err(Code::TooLarge));
        assert_eq!(fresh().cut(head(2, 8, 0)).map_err(|f| f.code), Err(Code::Protocol));
        assert_eq!(fresh().cut(head(1, 8, 4)).map_err(|f| f.code), Err(Code::Protocol));
        assert_eq!(fresh().data(data(1, 1)).map_err(|f| f.code), Err(Code::Protocol));
        let mut begun = fresh();
        begun.cut(head(1, 8, 0)).expect("a fair beginning");
        assert_eq!(begun.data(data(1, 9)).map_err(|f| f.code), Err(Code::Protocol));
        assert_eq!(begun.data(data(1, 0)).map_err(|f| f.code), Err(Code::Protocol));
        assert_eq!(begun.data(data(1, 8)).map_err(|f| f.code), Err(Code::Protocol));
        let mut greedy = Incoming::new(u64::MAX, None);
        greedy.cut(head(1, 1 << 40, 0)).expect("nothing is allocated on its word");
        assert_eq!(
            greedy.data(data(1, Defaults::CREDIT as usize + 1)).map_err(|f| f.code),
            Err(Code::Protocol)
        );
    }
}
