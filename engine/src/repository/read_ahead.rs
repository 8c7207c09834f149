//! Reading ahead on a remote medium: what is going to be needed of packs is fetched before it is, in long pieces, several
//! at once.
//!
//! What it keeps true:
//! * it holds no more bytes than its window and one group of parts with the gaps between them, fetched or on their way;
//! * it only ever saves time: what it does not have, or could not fetch, is read by whoever needs it, who then says what
//!   is wrong with it;
//! * on a medium where a request costs nothing it does nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::iter::Peekable;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lakebed_core::id::PackId;
use lakebed_core::layout;

use super::Store;

/// Pieces are no longer than this, unless one part is.
const PIECE_BYTES: u64 = 20 << 20;
/// So much that nobody needs is fetched along rather than asked around.
const GAP_BYTES: u64 = 128 << 10;
/// Bytes held, fetched or on their way, when a further group is announced, unless another number is said.
pub(crate) const WINDOW_BYTES: u64 = 32 << 20;
/// So many pieces are on their way at once.
const FETCHERS: usize = 4;
/// So much is looked at together, and fetched in the order of the packs. Files that follow each other in a plan lie a
/// little apart, with pieces of others between them.
const GROUP_BYTES: u64 = 16 << 20;
/// The first group, which is waited for; each after it is twice as long.
const FIRST_GROUP_BYTES: u64 = 4 << 20;
/// Parts are needed about in the order in which they were announced: what was not taken of a group when so many later
/// ones are at their turn is not going to be.
const STALE_AFTER: u64 = 2;

/// After so many misses in a row the oldest piece goes.
const MISSES_MAX: u32 = 32;

/// Which of the parts that are announced are going to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Each of them: one that is late is waited for.
    Each,
    /// Most of them, about in their order: one that is late is not going to be.
    Most,
}

/// A part of a pack that is going to be needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Part {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// What is fetched by one request.
#[derive(Debug)]
struct Piece {
    number: u64,
    group: u64,
    range: Part,
    /// Bytes of its parts that were not taken yet. A part may be taken again and again, and counts once.
    bytes_left: u64,
    /// Where what was taken began.
    taken: HashSet<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It waits for a fetcher, or for its bytes.
    Coming,
    Here(Vec<u8>),
    /// Whoever needs it reads it, and finds out why.
    Failed,
}

struct Plan {
    taken: Taken,
    parts: Peekable<Box<dyn Iterator<Item = Part> + Send>>,
    window_bytes: u64,
    /// How far packs were read by others than the fetchers, where each part is taken: what begins before is not fetched.
    read_by_others: HashMap<PackId, u64>,
    /// Where parts begin that were announced: each is, once.
    announced: HashSet<(PackId, u64)>,
    group: u64,
    pieces: VecDeque<Piece>,
    /// Numbers of pieces that no fetcher has begun.
    queue: VecDeque<u64>,
    bytes: u64,
    next_number: u64,
    /// So often in a row something was needed that is not here.
    misses: u32,
    is_over: bool,
}

impl Plan {
    /// Announces pieces as far as the window reaches. What was taken whole stays until its room is needed: it may be needed
    /// again.
    fn announce(&mut self) {
        loop {
            while self.bytes >= self.window_bytes {
                match self.pieces.iter().position(|piece| piece.bytes_left == 0) {
                    Some(at) => self.remove(at),
                    None => return,
                }
            }
            let mut group = Vec::new();
            let mut bytes = 0;
            let most = GROUP_BYTES.min(FIRST_GROUP_BYTES << self.group.min(8));
            // the first one however long it is
            while let Some(part) = self.parts.next_if(|part| bytes == 0 || bytes + part.length <= most) {
                let is_read = self.read_by_others.get(&part.pack).is_some_and(|end| part.offset < *end);
                if !is_read && self.announced.insert((part.pack, part.offset)) {
                    bytes += part.length;
                    group.push(part);
                }
            }
            if group.is_empty() {
                return;
            }
            self.group += 1;
            for (range, bytes_left) in join(group) {
                let number = self.next_number;
                self.next_number += 1;
                self.bytes += range.length;
                let (group, taken, state) = (self.group, HashSet::new(), State::Coming);
                self.pieces.push_back(Piece { number, group, range, bytes_left, taken, state });
                self.queue.push_back(number);
            }
        }
    }

    fn at(&self, number: u64) -> Option<usize> {
        self.pieces.binary_search_by_key(&number, |piece| piece.number).ok()
    }

    fn holding(&self, part: &Part) -> Option<usize> {
        let holds = |range: &Part| range.pack == part.pack && range.offset <= part.offset && part.end() <= range.end();
        self.pieces.iter().position(|piece| holds(&piece.range))
    }

    /// Somebody needs what is not here, and reads it. If that goes on, what is here is of no use any more, and goes.
    fn missed(&mut self, part: &Part) {
        if self.taken == Taken::Each {
            let end = self.read_by_others.entry(part.pack).or_default();
            *end = part.end().max(*end);
        }
        self.misses += 1;
        if self.misses >= MISSES_MAX {
            self.misses = 0;
            self.remove(0);
            self.announce();
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(piece) = self.pieces.remove(at) {
            self.bytes -= piece.range.length;
        }
    }
}

/// Joins parts that lie close together into pieces, in the order of the packs. Returns with each how many bytes of it are
/// wanted.
fn join(mut parts: Vec<Part>) -> Vec<(Part, u64)> {
    parts.sort_unstable_by_key(|part| (part.pack, part.offset));
    let mut pieces: Vec<(Part, u64)> = Vec::new();
    for part in parts {
        match pieces.last_mut() {
            Some((piece, wanted))
                if piece.pack == part.pack
                    && part.offset <= piece.end() + GAP_BYTES.min(piece.length.max(part.length))
                    && part.end().max(piece.end()) - piece.offset <= PIECE_BYTES =>
            {
                piece.length = part.end().max(piece.end()) - piece.offset;
                *wanted += part.length;
            }
            _ => pieces.push((part, part.length)),
        }
    }
    pieces
}

struct Shared {
    store: Store,
    plan: Mutex<Plan>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, plan: MutexGuard<'a, Plan>) -> MutexGuard<'a, Plan> {
        self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches pieces until it is over.
    fn fetch(&self) {
        let mut plan = self.lock();
        loop {
            if plan.is_over {
                return;
            }
            let Some(number) = plan.queue.pop_front() else {
                plan = self.wait(plan);
                continue;
            };
            // it may be of no use any more
            let Some(range) = plan.at(number).map(|at| plan.pieces[at].range) else { continue };
            drop(plan);
            let mut bytes = Vec::new();
            let length = usize::try_from(range.length).unwrap_or(usize::MAX);
            let read = self.store.storage().get_range(&layout::pack(range.pack), range.offset, length, &mut bytes);
            plan = self.lock();
            if let Some(at) = plan.at(number) {
                plan.pieces[at].state = read.map_or(State::Failed, |()| State::Here(bytes));
            }
            self.changed.notify_all();
        }
    }
}

/// Something that is read ahead, until it is dropped.
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
    fetchers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadAhead").finish_non_exhaustive()
    }
}

impl ReadAhead {
    /// Begins to read what is announced, which is going to be needed about in that order. `None` where that is no use.
    pub(crate) fn start(
        store: &Store,
        taken: Taken,
        window_bytes: u64,
        parts: impl Iterator<Item = Part> + Send + 'static,
    ) -> Option<Self> {
        if !store.storage().capabilities().is_remote {
            return None;
        }
        let parts: Box<dyn Iterator<Item = Part> + Send> = Box::new(parts);
        let parts = parts.peekable();
        let (pieces, queue) = (VecDeque::new(), VecDeque::new());
        let mut plan = Plan {
            taken,
            window_bytes,
            read_by_others: HashMap::new(),
            parts,
            announced: HashSet::new(),
            group: 0,
            pieces,
            queue,
            bytes: 0,
            next_number: 0,
            misses: 0,
            is_over: false,
        };
        plan.announce();
        let wanted = plan.pieces.len().min(FETCHERS);
        let shared = Arc::new(Shared { store: store.clone(), plan: Mutex::new(plan), changed: Condvar::new() });
        let fetcher = |_| {
            let shared = shared.clone();
            std::thread::Builder::new().name("lakebed-ahead".into()).spawn(move || shared.fetch()).ok()
        };
        // with fewer threads it takes longer; with none there is nothing to wait for
        let fetchers: Vec<_> = (0..wanted).filter_map(fetcher).collect();
        (!fetchers.is_empty()).then_some(Self { shared, fetchers })
    }

    /// Appends what was announced of a pack behind the bytes that the buffer has, as far as one piece reaches; tells whether
    /// it did. Only where each part is taken: whoever plans others may need what is read here.
    pub(crate) fn take_on(&self, pack: PackId, buffer: &mut Vec<u8>) -> bool {
        let at = buffer.len() as u64;
        let reaches = |range: &Part| range.pack == pack && (range.offset..range.end()).contains(&at);
        let end = {
            let plan = self.shared.lock();
            if plan.taken == Taken::Most {
                return false;
            }
            plan.pieces.iter().find(|piece| reaches(&piece.range)).map(|piece| piece.range.end())
        };
        end.is_some_and(|end| self.take(pack, at, (end - at) as usize, buffer))
    }

    /// Appends the bytes of a part that was announced, waiting for them; tells whether it did. Else it is for the caller to
    /// read them.
    pub(crate) fn take(&self, pack: PackId, offset: u64, length: usize, buffer: &mut Vec<u8>) -> bool {
        let part = Part { pack, offset, length: length as u64 };
        let mut plan = self.shared.lock();
        let (at, group) = loop {
            let Some(at) = plan.holding(&part) else {
                plan.missed(&part);
                self.shared.changed.notify_all();
                return false;
            };
            if !matches!(plan.pieces[at].state, State::Coming) {
                break (at, plan.pieces[at].group);
            }
            plan = self.shared.wait(plan);
        };
        plan.misses = 0;
        let piece = &mut plan.pieces[at];
        // both lie within one piece, which is in memory
        let start = (offset - piece.range.offset) as usize;
        let bytes = match &piece.state {
            State::Here(bytes) => bytes.get(start..start + length),
            State::Coming | State::Failed => None,
        };
        let is_there = bytes.is_some();
        buffer.extend_from_slice(bytes.unwrap_or_default());
        if piece.taken.insert(offset) {
            piece.bytes_left = piece.bytes_left.saturating_sub(part.length);
        }
        let is_stale = |piece: &Piece| piece.group + STALE_AFTER < group;
        while plan.taken == Taken::Most && plan.pieces.front().is_some_and(is_stale) {
            plan.remove(0);
        }
        plan.announce();
        self.shared.changed.notify_all();
        is_there
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        for fetcher in self.fetchers.drain(..) {
            // it reports through the plan; there is nobody left to tell
            let _ = fetcher.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use lakebed_core::codec::seal::{DataKey, Encryption, RepositoryKeys};
    use lakebed_core::forward_storage;
    use lakebed_core::id::RepositoryId;
    use lakebed_core::storage::{Capabilities, ObjectKey, Storage, StorageError};

    use super::*;
    use crate::storage::MemoryStorage;

    fn part(pack: u8, offset: u64, length: u64) -> Part {
        Part { pack: PackId::new([pack; 32]), offset, length }
    }

    #[test]
    fn parts_that_lie_close_together_are_one_piece() {
        let near = GAP_BYTES;
        assert_eq!(
            join(vec![part(1, 4 * near, 10), part(1, 0, near), part(1, 2 * near, 10)]),
            [(part(1, 0, 2 * near + 10), near + 10), (part(1, 4 * near, 10), 10)]
        );
        assert_eq!(join(vec![part(2, 10, 10), part(1, 0, 10)]), [(part(1, 0, 10), 10), (part(2, 10, 10), 10)]);
        assert_eq!(join(vec![part(1, 0, PIECE_BYTES * 3)]), [(part(1, 0, PIECE_BYTES * 3), PIECE_BYTES * 3)]);
        assert_eq!(join(vec![part(1, 0, PIECE_BYTES), part(1, PIECE_BYTES, 1)]).len(), 2);
    }

    /// A remote medium in memory.
    #[derive(Debug)]
    struct Far(MemoryStorage, AtomicU64);

    impl Storage for Far {
        forward_storage!(0: location, put, writer, get, size, list, delete);

        fn capabilities(&self) -> Capabilities {
            Capabilities::remote(1)
        }

        fn get_range(&self, key: &ObjectKey, from: u64, length: usize, out: &mut Vec<u8>) -> Result<(), StorageError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.get_range(key, from, length, out)
        }

        fn sync(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    /// Takes parts in some order, and reads those itself that it does not get, as the readers of packs do. Returns how many
    /// requests that took.
    fn read(taken: Taken, announced: Vec<Part>, needed: &[Part]) -> u64 {
        let size = 20 << 20;
        let content: Vec<u8> = (0..size as u32).map(|at| (at % 251) as u8).collect();
        let memory = MemoryStorage::new();
        for pack in [1, 2, 3, 4, 5] {
            memory.put(&layout::pack(PackId::new([pack; 32])), &content).unwrap();
        }
        let far = Arc::new(Far(memory, AtomicU64::new(0)));
        let keys = RepositoryKeys::derive(RepositoryId::new([1; 32]), Encryption::None, DataKey::new([2; 32]));
        let store = Store::new(far.clone(), Arc::new(keys));
        let ahead = ReadAhead::start(&store, taken, WINDOW_BYTES, announced.into_iter()).unwrap();
        for part in needed {
            let (offset, length) = (part.offset as usize, part.length as usize);
            let mut buffer = b"before".to_vec();
            if !ahead.take(part.pack, part.offset, length, &mut buffer) {
                assert_eq!(buffer, b"before");
                store.storage().get_range(&layout::pack(part.pack), part.offset, length, &mut buffer).unwrap();
            }
            assert!(buffer[6..] == content[offset..offset + length], "{part:?}");
        }
        drop(ahead);
        far.1.load(Ordering::Relaxed)
    }

    #[test]
    fn what_is_needed_as_it_was_announced_takes_few_requests() {
        let length = 300_000;
        let all: Vec<Part> = (1..=5).flat_map(|pack| (0..60).map(move |at| part(pack, at * length, length))).collect();
        let requests = read(Taken::Most, all.clone(), &all);
        assert!(requests <= 28, "{requests}");
        // a little out of order, and some of it twice
        let mut shaken = all.clone();
        shaken.chunks_mut(7).for_each(<[Part]>::reverse);
        let requests = read(Taken::Most, shaken, &all);
        assert!(requests <= 28, "{requests}");
    }

    /// Readers that are at one pack each do not go on at the same pace.
    #[test]
    fn where_each_part_is_taken_one_that_is_late_is_waited_for() {
        let length = 2 << 20;
        let lane = |pack| (0..10).map(move |at| part(pack, at * length, length));
        // two at a time, one after the other
        let announced: Vec<Part> = lane(1).zip(lane(2)).chain(lane(3).zip(lane(4))).flat_map(|(a, b)| [a, b]).collect();
        // the second one comes to its first piece when the first one has had eight
        let (first, rest) = announced.split_at(20);
        let of = |pack| first.iter().copied().filter(move |it| it.pack == part(pack, 0, 0).pack);
        let needed: Vec<Part> = of(1).take(8).chain(of(2)).chain(of(1).skip(8)).chain(rest.iter().copied()).collect();
        let pieces = read(Taken::Each, announced.clone(), &announced);
        assert_eq!(read(Taken::Each, announced.clone(), &needed), pieces);
        assert!(read(Taken::Most, announced, &needed) > pieces);
    }

    #[test]
    fn what_somebody_has_read_himself_is_not_fetched_as_well() {
        let length = 1 << 20;
        let lane = |pack| (0..20).map(move |at| part(pack, at * length, length));
        let announced: Vec<Part> = (1..=5).flat_map(lane).collect();
        // the last packs first: nothing of them was announced by then
        let needed: Vec<Part> = [5, 4].into_iter().flat_map(lane).chain((1..=3).flat_map(lane)).collect();
        let most = 40 + 3 * 20;
        let requests = read(Taken::Each, announced, &needed);
        assert!(requests <= most, "{requests}");
    }

    #[test]
    fn what_was_not_announced_or_is_never_taken_is_no_reason_to_stop() {
        let length = 1 << 20;
        let all: Vec<Part> = (1..=5).flat_map(|pack| (0..20).map(move |at| part(pack, at * length, length))).collect();
        // nothing of the first packs is ever needed; one part is needed again and again; one fails
        let needed: Vec<Part> = all[60..].iter().copied().chain([all[99]; 5]).collect();
        read(Taken::Most, all.clone(), &needed);
        read(Taken::Each, all.clone(), &needed);
        let mut beyond = all.clone();
        beyond.insert(3, part(1, 19 << 20, 5 << 20));
        read(Taken::Most, beyond, &all);
    }
}
