//! What a loss of power leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SECTOR;

pub type FileId = u64;
type Bytes = Arc<Vec<u8>>;

/// Files by name, as a program finds them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Image(BTreeMap<Arc<str>, Bytes>);

impl Image {
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Image {
        Image(files.into_iter().map(|(name, bytes)| (name.into(), Arc::new(bytes))).collect())
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (&**name, bytes.as_slice()))
    }

    pub(super) fn insert(&mut self, name: Arc<str>, bytes: Bytes) {
        self.0.insert(name, bytes);
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.files().map(|(name, bytes)| (name, bytes.len()))).finish()
    }
}

/// What becomes of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// All of it is lost.
    All,
    /// Nothing is lost.
    None,
    /// Each write is lost or kept by chance.
    Some { seed: u64 },
    /// All is kept, of the last write some sectors by chance.
    Torn { seed: u64 },
}

#[derive(Clone, Debug)]
pub enum Op {
    Create {
        name: Arc<str>,
        file: FileId,
    },
    Write {
        file: FileId,
        offset: u64,
        data: Arc<[u8]>,
    },
    Truncate {
        file: FileId,
        size: u64,
    },
    Sync {
        file: FileId,
    },
    /// `synced`: with the directory.
    Delete {
        name: Arc<str>,
        synced: bool,
    },
}

impl Op {
    fn is_name(&self) -> bool {
        matches!(self, Op::Create { .. } | Op::Delete { .. })
    }

    fn changes(&self, id: FileId) -> bool {
        matches!(self, Op::Write { file, .. } | Op::Truncate { file, .. } if *file == id)
    }
}

#[derive(Clone, Default)]
struct Stored {
    names: BTreeMap<Arc<str>, FileId>,
    files: BTreeMap<FileId, Bytes>,
}

impl Stored {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { name, file } => drop(self.names.insert(Arc::clone(name), *file)),
            Op::Delete { name, .. } => drop(self.names.remove(name)),
            Op::Write { file, offset, data } => {
                write_at(Arc::make_mut(self.files.entry(*file).or_default()), *offset, data);
            }
            Op::Truncate { file, size } => {
                truncate(Arc::make_mut(self.files.entry(*file).or_default()), *size);
            }
            Op::Sync { .. } => {}
        }
    }

    fn into_image(self) -> Image {
        let Stored { names, files } = self;
        Image(names.into_iter().map(|(n, id)| (n, files.get(&id).cloned().unwrap_or_default())).collect())
    }
}

/// Writes into `bytes`; what lies between its end and the write is zero.
pub fn write_at(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = offset as usize;
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

/// Shortens; SQLite never lengthens a file by that.
pub fn truncate(bytes: &mut Vec<u8>, size: u64) {
    bytes.truncate(size as usize);
}

/// What is stored for good, and what is under way.
#[derive(Clone, Default)]
pub struct Durable {
    stored: Stored,
    pending: Vec<Op>,
}

impl Durable {
    /// Files that are stored for good under these ids.
    pub fn of(files: impl IntoIterator<Item = (Arc<str>, FileId, Bytes)>) -> Durable {
        let mut durable = Durable::default();
        for (name, file, bytes) in files {
            durable.stored.names.insert(name, file);
            durable.stored.files.insert(file, bytes);
        }
        durable
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Sync { file } => {
                let made = |op: &Op| matches!(op, Op::Create { file: new, .. } if new == file);
                if let Some(at) = self.pending.iter().position(made) {
                    self.settle_names(at);
                }
                self.settle(|op| op.changes(*file));
            }
            Op::Delete { synced: true, .. } => {
                self.pending.push(op.clone());
                self.settle_names(self.pending.len() - 1);
            }
            _ => self.pending.push(op.clone()),
        }
    }

    /// Names up to the pending operation `last` come and go for good.
    fn settle_names(&mut self, last: usize) {
        let mut at = 0;
        self.settle(|op| {
            at += 1;
            at <= last + 1 && op.is_name()
        });
    }

    fn settle(&mut self, mut done: impl FnMut(&Op) -> bool) {
        let stored = &mut self.stored;
        self.pending.retain(|op| {
            let done = done(op);
            if done {
                stored.apply(op);
            }
            !done
        });
    }

    pub fn image(&self, loss: Loss) -> Image {
        let mut stored = self.stored.clone();
        match loss {
            Loss::All => {}
            Loss::None => self.pending.iter().for_each(|op| stored.apply(op)),
            Loss::Some { seed } => self.some(&mut stored, &mut Dice(seed)),
            Loss::Torn { seed } => self.torn(&mut stored, &mut Dice(seed)),
        }
        stored.into_image()
    }

    fn some(&self, stored: &mut Stored, dice: &mut Dice) {
        let names = self.pending.iter().filter(|op| op.is_name()).count() as u64;
        let mut kept = dice.below(names + 1);
        for op in &self.pending {
            let keep = if op.is_name() { kept > 0 } else { dice.below(2) == 0 };
            kept -= u64::from(keep && op.is_name());
            if keep {
                stored.apply(op);
            }
        }
    }

    fn torn(&self, stored: &mut Stored, dice: &mut Dice) {
        let last = self.pending.iter().rposition(|op| matches!(op, Op::Write { .. }));
        for (i, op) in self.pending.iter().enumerate() {
            match op {
                Op::Write { file, offset, data } if Some(i) == last => {
                    for sector in sectors(*offset, data.len()) {
                        if dice.below(2) == 0 {
                            let (offset, part) = (*offset + sector.start as u64, Arc::from(&data[sector]));
                            stored.apply(&Op::Write { file: *file, offset, data: part });
                        }
                    }
                }
                op => stored.apply(op),
            }
        }
    }
}

/// The parts of a write that lie in one sector each.
fn sectors(offset: u64, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let first = SECTOR - (offset % SECTOR as u64) as usize;
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = len.min(if start == 0 { first } else { start + SECTOR });
        let part = start..end;
        start = end;
        (!part.is_empty()).then_some(part)
    })
}

/// What a disk did, from a known state on.
pub struct Log {
    start: Durable,
    ops: Vec<Op>,
}

impl Log {
    pub(super) fn new(start: Durable) -> Log {
        Log { start, ops: Vec::new() }
    }

    pub(super) fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// From the start of the recording.
    pub fn replay(&self) -> Replay<'_> {
        Replay { durable: self.start.clone(), log: self, position: 0 }
    }
}

/// A moment of a recording.
pub struct Replay<'a> {
    durable: Durable,
    log: &'a Log,
    position: usize,
}

impl Replay<'_> {
    /// How many operations came before.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Goes on to a later moment.
    pub fn advance_to(&mut self, position: usize) {
        while self.position < position.min(self.log.ops.len()) {
            self.durable.step(&self.log.ops[self.position]);
            self.position += 1;
        }
    }

    /// What a loss of power at this moment leaves.
    pub fn image(&self, loss: Loss) -> Image {
        self.durable.image(loss)
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
