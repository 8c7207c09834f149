//! Making the index from the packs themselves: for the day when segments are lost.

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{PackInfo, TRAILER_LEN, Trailer, decode_removal};
use lakebed_core::wire::DecodeError;
use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::repository::parallel::{AT_ONCE, each};
use crate::repository::{PACKS_PER_BATCH, Repository, Store};

/// Publishes a segment for every pack in storage that no readable segment describes and no removal names.
///
/// A segment that cannot be read is passed over, with a warning: its packs are described anew. A pack that cannot be
/// read is passed over too.
///
/// Packs in `except` are damaged and not described.
pub(crate) fn publish_unknown_packs(
    repository: &Repository,
    except: &HashSet<PackId>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let store = repository.store();
    let (known, damaged) = described_packs(store, monitor)?;
    let listed = store.list_packs()?;
    let mut unknown: Vec<(PackId, u64)> =
        listed.into_iter().filter(|(id, _)| !known.contains(id) && !except.contains(id)).collect();
    unknown.sort();
    monitor.phase(Phase::Index, Some(Progress { entries: unknown.len() as u64, bytes: 0 }));
    for batch in unknown.chunks(PACKS_PER_BATCH) {
        let mut packs = Vec::new();
        for together in batch.chunks(AT_ONCE) {
            if monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            for directory in each(store, together, |&(id, size_bytes)| read_directory(store, id, size_bytes)) {
                match directory {
                    Ok(info) => packs.push(info),
                    Err(error) => monitor.warn(&format!("passed over: {}", crate::error_chain(&error))),
                }
                monitor.advance(Progress { entries: 1, bytes: 0 });
            }
        }
        repository.publish_segments(&packs)?;
    }
    // only now that what they said is said anew
    for id in damaged {
        store.put_aside(&layout::segment(id))?;
    }
    Ok(store.storage().sync()?)
}

/// Returns the packs that some segment describes or removes, and the segments that cannot be read.
fn described_packs(store: &Store, monitor: &dyn Monitor) -> Result<(HashSet<PackId>, Vec<SegmentId>)> {
    let mut known = HashSet::new();
    let mut unreadable = Vec::new();
    for id in store.list_ids::<SegmentId>(layout::INDEX)? {
        let key = layout::segment(id);
        let kinds = [FrameKind::Segment, FrameKind::RemovalSegment];
        let read = store
            .with_scratch(|scratch| store.read_hashed(&key, id.as_bytes(), &kinds, layout::INDEX, scratch))
            .and_then(|(kind, plain)| {
                let packs = match kind {
                    FrameKind::RemovalSegment => decode_removal(&plain).map(|removal| removal.packs),
                    _ => lakebed_core::pack::decode_segment(&plain)
                        .map(|packs| packs.into_iter().map(|pack| pack.id).collect()),
                };
                packs.map_err(|source| Error::Record { key: key.clone(), source })
            });
        match read {
            Ok(packs) => known.extend(packs),
            Err(error @ (Error::Damaged { .. } | Error::WrongHash { .. } | Error::Record { .. })) => {
                monitor.warn(&format!("put into quarantine: {}", crate::error_chain(&error)));
                unreadable.push(id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((known, unreadable))
}

/// On a remote medium this part of a pack, from its end, is read by one request: a directory is rarely longer.
const TAIL_SHARE: u64 = 32;
/// As much in any case.
const TAIL_BYTES_MIN: u64 = 64 << 10;

/// Reads so many last bytes of a pack, at least its trailer, and returns them without that.
fn read_tail(store: &Store, id: PackId, size_bytes: u64, length: u64) -> Result<(Trailer, Vec<u8>)> {
    let key = layout::pack(id);
    let damaged = |source: DecodeError| Error::Damaged { key: key.clone(), source: source.into() };
    let short = || damaged(DecodeError::invalid("pack", "it is shorter than a trailer"));
    let length = length.max(TRAILER_LEN as u64).min(size_bytes);
    let mut bytes = Vec::new();
    // a part of a pack, so it fits
    store.storage().get_range(&key, size_bytes - length, length as usize, &mut bytes)?;
    let trailer_at = bytes.len().checked_sub(TRAILER_LEN).ok_or_else(short)?;
    let trailer = Trailer::decode(&bytes[trailer_at..]).map_err(damaged)?;
    bytes.truncate(trailer_at);
    Ok((trailer, bytes))
}

/// Reads what the ends of packs say, in their order.
pub(crate) fn read_trailers(store: &Store, packs: &[(PackId, u64)]) -> Vec<Result<Trailer>> {
    each(store, packs, |&(id, size_bytes)| Ok(read_tail(store, id, size_bytes, 0)?.0))
}

/// Reads what a pack says about itself.
pub(crate) fn read_directory(store: &Store, id: PackId, size_bytes: u64) -> Result<PackInfo> {
    let key = layout::pack(id);
    let invalid = |why: &str| Error::Damaged { key: key.clone(), source: DecodeError::invalid("pack", why).into() };
    let likely = match store.storage().capabilities().is_remote {
        true => (size_bytes / TAIL_SHARE).max(TAIL_BYTES_MIN),
        false => 0,
    };
    let (trailer, mut bytes) = read_tail(store, id, size_bytes, likely)?;
    let length = trailer.directory_len as usize;
    let directory_at = (size_bytes - TRAILER_LEN as u64)
        .checked_sub(length as u64)
        .ok_or_else(|| invalid("its directory is longer than the pack"))?;
    match bytes.len().checked_sub(length) {
        Some(before) => drop(bytes.drain(..before)),
        None => {
            bytes.clear();
            store.storage().get_range(&key, directory_at, length, &mut bytes)?;
        }
    }
    let directory = store.with_scratch(|scratch| {
        trailer
            .open_directory(store.keys(), &bytes, scratch)
            .map_err(|source| Error::Damaged { key: key.clone(), source })
    })?;
    if directory.frames_len() != directory_at {
        return Err(invalid("its frames do not fill it"));
    }
    Ok(PackInfo { id, size_bytes, directory })
}
