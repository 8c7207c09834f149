//! Writing packs: frames are compressed, sealed, opened again and checked, and appended to the pack that is filling.
//!
//! Any number of threads store frames into one pack: each reserves a number, does the work alone, and appends under a
//! short lock. A pack that is full is closed when its last reserved frame has arrived; a thread of its own makes it
//! durable. After a failure the writer refuses everything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lakebed_core::codec::compress::{Compression, FrameContent};
use lakebed_core::codec::frame::{DIRECTORY_NUMBER, FRAME_HEADER_LEN, FrameName, OpenFrame, open_frame, seal_frame};
use lakebed_core::codec::seal::{ObjectSealer, SEAL_LEN, Salt};
use lakebed_core::hash::ObjectHasher;
use lakebed_core::id::{PackId, SessionId};
use lakebed_core::layout;
use lakebed_core::pack::{BlobId, BlobInfo, FrameInfo, PackDirectory, PackInfo, PackKind, TRAILER_LEN, Trailer};
use lakebed_core::storage::{ObjectWriter, StorageError};
use lakebed_core::time::Random;
use lakebed_core::wire::DecodeError;
use twox_hash::XxHash3_64;

use super::Store;
use super::store::draw;
use crate::error::{Error, Result};

/// Chunks that will share a frame.
///
/// Each has a checksum that is taken as soon as its name is: so what changes in memory from then on is found when the
/// frame is opened again, at a tenth of what naming it again would cost.
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    pub(crate) content: FrameContent,
    pub(crate) blobs: Vec<BlobInfo>,
    checksums: Vec<u64>,
    pub(crate) plain: Vec<u8>,
}

/// A frame is closed before it would hold more plain bytes than this. Of 256 KiB to 1 MiB, the largest compresses best
/// (3.42:1 against 3.24:1 on notebooks) and still opens within a millisecond.
pub(crate) const FRAME_TARGET_BYTES: usize = 1 << 20;

impl FrameBuilder {
    pub(crate) fn new(content: FrameContent) -> Self {
        Self { content, blobs: Vec::new(), checksums: Vec::new(), plain: Vec::new() }
    }

    /// Tells whether another chunk of that length still fits.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.blobs.is_empty() || self.plain.len() + length <= FRAME_TARGET_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Adds a chunk which the caller has just named. The caller has asked [`FrameBuilder::has_room`]; no chunk is larger
    /// than the chunker's maximum.
    pub(crate) fn push(&mut self, id: BlobId, plain: &[u8]) {
        self.checksums.push(XxHash3_64::oneshot(plain));
        self.blobs.push(BlobInfo { id, length: plain.len() as u32 });
        self.plain.extend_from_slice(plain);
    }

    pub(crate) fn clear(&mut self) {
        self.blobs.clear();
        self.checksums.clear();
        self.plain.clear();
    }

    /// Takes over the chunks of another builder where they fit into one frame; returns whether it did.
    pub(crate) fn absorb(&mut self, other: &Self) -> bool {
        let fits = self.content == other.content && self.plain.len() + other.plain.len() <= FRAME_TARGET_BYTES;
        if fits {
            self.blobs.extend_from_slice(&other.blobs);
            self.checksums.extend_from_slice(&other.checksums);
            self.plain.extend_from_slice(&other.plain);
        }
        fits
    }

    /// Compares what was opened again with what came.
    fn came_back(&self, back: &OpenFrame) -> bool {
        let lengths = self.blobs.iter().map(|blob| blob.length);
        back.lengths.iter().copied().eq(lengths)
            && back.chunks().map(XxHash3_64::oneshot).eq(self.checksums.iter().copied())
    }
}

/// Packs of trees are this long on mediums where they are fetched whole.
const REMOTE_TREE_PACK_BYTES: u64 = 16 << 20;

/// Packs that are in storage and not yet in a segment.
#[derive(Debug, Default)]
pub(crate) struct WrittenPacks {
    pub(crate) packs: Vec<PackInfo>,
}

struct OpenPack {
    directory: PackDirectory,
    writer: Box<dyn ObjectWriter>,
    hasher: ObjectHasher,
    offset: u64,
    /// All of it, where a copy is to be kept on this machine.
    copy: Option<Vec<u8>>,
}

impl OpenPack {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.append(bytes)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// A pack that is filling.
struct Filling {
    salt: Salt,
    sealer: ObjectSealer,
    pack: Mutex<OpenPack>,
    /// A frame could not be stored: nobody knows what the object holds, and it must not get a name.
    spoiled: AtomicBool,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Filling>>,
    next_number: u32,
    written: WrittenPacks,
    /// Packs handed to the closing thread that are not yet done.
    closing: usize,
    failed: Option<Failed>,
}

/// The first failure: given whole to whoever asks first, as a copy to everybody after.
struct Failed(Error);

impl Failed {
    fn take(&mut self) -> Error {
        let copy = match &self.0 {
            // any of those who ask may be the one who is heard: the user is to learn what is wrong with the medium
            Error::Storage(error) => Error::Storage(StorageError {
                kind: error.kind,
                operation: error.operation,
                subject: error.subject.clone(),
                source: std::io::Error::new(error.source.kind(), error.source.to_string()),
            }),
            Error::Poisoned { message } => Error::Poisoned { message: message.clone() },
            error => Error::Poisoned { message: crate::error_chain(error) },
        };
        std::mem::replace(&mut self.0, copy)
    }
}

struct Shared {
    store: Store,
    state: Mutex<State>,
    changed: std::sync::Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the packs of one kind in one session.
pub(crate) struct PackWriter {
    shared: Arc<Shared>,
    kind: PackKind,
    session: SessionId,
    target_bytes: u64,
    compression: Compression,
    random: Arc<dyn Random>,
    closer: Option<(Sender<Filling>, JoinHandle<()>)>,
}

impl PackWriter {
    pub(crate) fn new(
        store: Store,
        kind: PackKind,
        session: SessionId,
        compression: Compression,
        random: Arc<dyn Random>,
    ) -> Result<Self> {
        let capabilities = store.storage().capabilities();
        let target_bytes = match kind {
            // whoever needs a node of a remote tree fetches its whole pack
            PackKind::Tree if capabilities.is_remote => capabilities.pack_target_bytes.min(REMOTE_TREE_PACK_BYTES),
            _ => capabilities.pack_target_bytes,
        };
        let shared = Arc::new(Shared { store, state: Mutex::default(), changed: std::sync::Condvar::new() });
        let (sender, receiver) = channel::<Filling>();
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("lakebed-packs".into())
            .spawn(move || {
                for filling in receiver {
                    // whoever waits for this pack must hear of a panic too
                    let close = std::panic::AssertUnwindSafe(|| close(&for_thread.store, filling));
                    let result = std::panic::catch_unwind(close)
                        .unwrap_or_else(|_| Err(Error::Poisoned { message: "closing a pack panicked".into() }));
                    let mut state = for_thread.lock();
                    state.closing -= 1;
                    match result {
                        Ok(info) => state.written.packs.push(info),
                        Err(error) => {
                            state.failed.get_or_insert(Failed(error));
                        }
                    }
                    for_thread.changed.notify_all();
                }
            })
            .map_err(|source| Error::Machine { operation: "start a thread", source })?;
        Ok(Self { shared, kind, session, target_bytes, compression, random, closer: Some((sender, thread)) })
    }

    fn begin(&self) -> Result<Filling> {
        let salt = draw(&*self.random)?;
        let directory = PackDirectory { kind: self.kind, session: self.session, salt, frames: Vec::new() };
        let writer = self.shared.store.storage().writer()?;
        // trees are compared with night after night
        let copy = self.shared.store.copies().filter(|_| self.kind == PackKind::Tree).map(|_| Vec::new());
        let pack = OpenPack { directory, writer, hasher: ObjectHasher::default(), offset: 0, copy };
        let sealer = self.shared.store.keys().object_key(&salt);
        Ok(Filling { salt, sealer, pack: Mutex::new(pack), spoiled: AtomicBool::new(false) })
    }

    /// Takes a number in the pack that is filling.
    fn reserve(&self, state: &mut State) -> Result<(Arc<Filling>, u32)> {
        if let Some(failed) = &mut state.failed {
            return Err(failed.take());
        }
        let filling = match &state.current {
            Some(filling) => filling.clone(),
            None => {
                let filling = Arc::new(self.begin()?);
                state.next_number = 0;
                state.current = Some(filling.clone());
                filling
            }
        };
        let number = state.next_number;
        state.next_number += 1;
        debug_assert!(number < DIRECTORY_NUMBER);
        Ok((filling, number))
    }

    /// Stores a frame and returns how many bytes it takes. The pack that it goes to is durable after
    /// [`PackWriter::finish`].
    ///
    /// # Errors
    /// Storage, or the frame did not come back as it was. Nothing more can be written then.
    pub(crate) fn store(&self, frame: &FrameBuilder) -> Result<u64> {
        let (filling, number) = self.reserve(&mut self.shared.lock())?;
        let result = self.seal_and_append(&filling, number, frame);
        let mut state = self.shared.lock();
        match result {
            Ok((frame_len, pack_len)) => {
                if pack_len >= self.target_bytes && state.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &filling)) {
                    state.current = None;
                }
                self.release(state, filling)?;
                Ok(frame_len)
            }
            Err(error) => {
                // a frame that failed leaves a number that was used: the pack is abandoned, and the session with it,
                // whoever else is still at it
                filling.spoiled.store(true, Ordering::Release);
                let failed = state.failed.get_or_insert(Failed(error));
                let error = failed.take();
                state.current = None;
                Err(error)
            }
        }
    }

    /// Gives back a hold on a pack; whoever holds it last, after it was closed to new frames, sends it off.
    fn release(&self, mut state: MutexGuard<'_, State>, filling: Arc<Filling>) -> Result<()> {
        let whole = Arc::into_inner(filling).filter(|filling| !filling.spoiled.load(Ordering::Acquire));
        if let Some(filling) = whole {
            state.closing += 1;
            drop(state);
            self.send(filling)?;
        }
        Ok(())
    }

    fn send(&self, filling: Filling) -> Result<()> {
        let gone = || Error::Poisoned { message: "the thread that closes packs is gone".into() };
        let (sender, _) = self.closer.as_ref().ok_or_else(gone)?;
        sender.send(filling).map_err(|_| gone())
    }

    fn seal_and_append(&self, filling: &Filling, number: u32, frame: &FrameBuilder) -> Result<(u64, u64)> {
        let name = FrameName { kind: self.kind.frame_kind(), salt: &filling.salt, number, context: b"" };
        let lengths: Vec<u32> = frame.blobs.iter().map(|blob| blob.length).collect();
        let check = |source| Error::FrameCheck { source };
        let sealed = self.shared.store.with_scratch(|scratch| {
            let mut sealed = Vec::with_capacity(frame.plain.len() / 2);
            let packed = scratch.compress(&frame.plain, self.compression.level(frame.content)).map_err(check)?;
            seal_frame(&filling.sealer, name, &lengths, packed, &mut sealed).map_err(check)?;
            let mut back = OpenFrame::default();
            open_frame(&filling.sealer, name, &sealed, scratch, &mut back).map_err(check)?;
            match frame.came_back(&back) {
                true => Ok(sealed),
                false => Err(check(DecodeError::invalid("frame", "a chunk came back different").into())),
            }
        })?;
        let frame_len = sealed.len() as u64;
        let mut pack = filling.pack.lock().unwrap_or_else(PoisonError::into_inner);
        pack.append(&sealed)?;
        // the seal has checked that the frame is smaller than 4 GiB
        pack.directory.frames.push(FrameInfo { number, frame_len: frame_len as u32, blobs: frame.blobs.clone() });
        Ok((frame_len, pack.offset))
    }

    /// Closes the pack that is filling, waits until every pack has its name, and returns those written since the last
    /// call. Nobody may store frames meanwhile. They are durable after [`lakebed_core::storage::Storage::sync`].
    ///
    /// # Errors
    /// Any failure since the writer began.
    pub(crate) fn finish(&self) -> Result<WrittenPacks> {
        let mut state = self.shared.lock();
        if let Some(filling) = state.current.take() {
            self.release(state, filling)?;
            state = self.shared.lock();
        }
        while state.closing > 0 && state.failed.is_none() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &mut state.failed {
            Some(failed) => Err(failed.take()),
            None => Ok(std::mem::take(&mut state.written)),
        }
    }
}

impl PackWriter {
    /// Gives up, after a failure: returns the packs that got their names since the last [`PackWriter::finish`]. They are
    /// durable after [`lakebed_core::storage::Storage::sync`].
    pub(crate) fn abandon(mut self) -> Vec<PackInfo> {
        self.join();
        std::mem::take(&mut self.shared.lock().written).packs
    }

    fn join(&mut self) {
        if let Some((sender, thread)) = self.closer.take() {
            drop(sender);
            // it reports through the shared state; there is nobody left to tell
            let _ = thread.join();
        }
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        self.join();
    }
}

/// Returns how many bytes a frame would take, without storing it.
pub(crate) fn measure_frame(store: &Store, frame: &FrameBuilder, compression: Compression) -> Result<u64> {
    store.with_scratch(|scratch| {
        let packed = scratch
            .compress(&frame.plain, compression.level(frame.content))
            .map_err(|source| Error::FrameCheck { source })?;
        // the lengths of small chunks take two bytes each, about
        Ok((packed.len() + FRAME_HEADER_LEN + SEAL_LEN + 2 * frame.blobs.len()) as u64)
    })
}

/// Ends a pack: directory, trailer, name.
fn close(store: &Store, filling: Filling) -> Result<PackInfo> {
    let mut pack = filling.pack.into_inner().unwrap_or_else(PoisonError::into_inner);
    let check = |source| Error::FrameCheck { source };
    let tail = store.with_scratch(|scratch| {
        let tail = pack.directory.seal_tail(&filling.sealer, scratch).map_err(check)?;
        let (sealed, trailer) = tail.split_at(tail.len() - TRAILER_LEN);
        let trailer = Trailer::decode(trailer).map_err(|error| check(error.into()))?;
        let back = trailer.open_directory(store.keys(), sealed, scratch).map_err(check)?;
        match back == pack.directory {
            true => Ok(tail),
            false => Err(check(DecodeError::invalid("pack directory", "it came back different").into())),
        }
    })?;
    pack.append(&tail)?;
    let id = PackId::new(*pack.hasher.finish().as_bytes());
    let key = layout::pack(id);
    pack.writer.finish(&key)?;
    if let (Some(copies), Some(copy)) = (store.copies(), &pack.copy) {
        copies.keep(&key, copy);
    }
    Ok(PackInfo { id, size_bytes: pack.offset, directory: pack.directory })
}

#[cfg(test)]
mod tests {
    use lakebed_core::storage::StorageErrorKind;

    use super::*;

    #[test]
    fn what_changes_in_memory_is_found_when_the_frame_comes_back() {
        let mut frame = FrameBuilder::new(FrameContent::SmallFiles);
        frame.push(BlobId::new([1; 32]), b"one");
        frame.push(BlobId::new([2; 32]), b"two");
        let back = |plain: &[u8], lengths: &[u32]| OpenFrame { lengths: lengths.to_vec(), plain: plain.to_vec() };
        assert!(frame.came_back(&back(b"onetwo", &[3, 3])));
        assert!(!frame.came_back(&back(b"onetwp", &[3, 3])));
        assert!(!frame.came_back(&back(b"onetwo", &[2, 4])));
        assert!(!frame.came_back(&back(b"one", &[3])));
        // what is compressed is what lies here by then
        frame.plain[0] ^= 1;
        let now = back(&frame.plain, &[3, 3]);
        assert!(!frame.came_back(&now));
        frame.clear();
        frame.push(BlobId::new([3; 32]), b"three");
        assert!(frame.came_back(&back(b"three", &[5])));
    }

    #[test]
    fn everybody_learns_what_failed() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let mut failed = Failed(StorageError::new("write", "packs/aa/1", full).into());
        for _ in 0..3 {
            match failed.take() {
                Error::Storage(error) => {
                    assert_eq!(error.kind, StorageErrorKind::NoSpace);
                    assert_eq!(error.to_string(), "Cannot write `packs/aa/1`");
                    assert_eq!(error.source.kind(), std::io::ErrorKind::StorageFull);
                }
                other => panic!("{other:?}"),
            }
        }
        let mut failed = Failed(Error::NothingRead);
        assert!(matches!(failed.take(), Error::NothingRead));
        let told = failed.take().to_string();
        assert!(told.contains("None of the given paths"), "{told}");
        assert_eq!(failed.take().to_string().matches("worker").count(), 1);
    }
}
