//! The packs as a whole: does storage have those that the index knows, and does the index know those that count?

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use lakebed_core::id::PackId;
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::pack::Trailer;

use crate::error::{Error, Result};
use crate::index::Index;
use crate::repository::Repository;

/// Why a pack that the index knows cannot be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackProblem {
    /// It is not there.
    Missing,
    /// It is of another size.
    Size {
        /// In bytes, as the index has it.
        expected: u64,
        /// In bytes.
        found: u64,
    },
}

impl fmt::Display for PackProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is missing"),
            Self::Size { expected, found } => write!(f, "expected {expected} bytes, found {found}"),
        }
    }
}

/// Compares the packs that the index knows with those that storage lists. A pack that a prune deletes meanwhile is no
/// problem: the index is told first that it goes. One that was put since it was listed is added to the listing.
pub(crate) fn compare_packs(
    repository: &Repository,
    index: &Index,
    listed: &mut HashMap<PackId, u64>,
    monitor: &dyn Monitor,
) -> Result<Vec<(PackId, PackProblem)>> {
    let mut problems = Vec::new();
    for pack in index.packs() {
        let expected = pack.size_bytes;
        let problem = match listed.get(&pack.id) {
            Some(&found) if found == expected => continue,
            Some(&found) => PackProblem::Size { expected, found },
            // it may have been put since it was listed
            None => match repository.store().storage().size(&layout::pack(pack.id)) {
                Ok(found) => {
                    listed.insert(pack.id, found);
                    if found == expected {
                        continue;
                    }
                    PackProblem::Size { expected, found }
                }
                Err(error) if error.is_not_found() => PackProblem::Missing,
                Err(error) => return Err(error.into()),
            },
        };
        problems.push((pack.id, problem));
    }
    if !problems.is_empty() {
        index.fold_new(repository.store(), monitor).map_err(Error::from)?;
        problems.retain(|(id, _)| !index.is_removed(id));
    }
    problems.sort_by_key(|(id, _)| *id);
    Ok(problems)
}

/// Reads the ends of the packs that no segment describes.
fn unknown_trailers(repository: &Repository, index: &Index, listed: &HashMap<PackId, u64>) -> Vec<Result<Trailer>> {
    let unknown: Vec<(PackId, u64)> = index.unknown_packs(listed).into_iter().map(|id| (id, listed[&id])).collect();
    crate::index_rebuild::read_trailers(repository.store(), &unknown)
}

/// Tells whether a pack that no segment describes was written by a session that committed: then its segment is lost. What
/// a killed or a running session has written is in no segment either, and no snapshot needs it.
pub(crate) fn segments_are_lost(repository: &Repository, index: &Index, listed: &HashMap<PackId, u64>) -> Result<bool> {
    let mut sessions = BTreeSet::new();
    for trailer in unknown_trailers(repository, index, listed) {
        match trailer {
            Ok(trailer) => sessions.insert(trailer.session),
            // it went meanwhile, or nobody can read it
            Err(_) => continue,
        };
    }
    for session in sessions {
        match repository.read_snapshot(session) {
            Ok(None) => {}
            Err(Error::Storage(error)) if error.is_not_found() => {}
            Ok(Some(_)) | Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Tells whether a pack that no segment describes may have been described once: then its segment is lost, and snapshots
/// may need what it said. Only what somebody has written who is still at work is in no segment yet. Of those who are not,
/// nobody can tell any more: a prune leaves nothing that says that it was there, nor does a snapshot that was freed, and
/// a session that was expired may have come as far as publishing what others rely on since.
pub(crate) fn segments_may_be_lost(
    repository: &Repository,
    index: &Index,
    listed: &HashMap<PackId, u64>,
) -> Result<bool> {
    let mut sessions = BTreeSet::new();
    for trailer in unknown_trailers(repository, index, listed) {
        match trailer {
            Ok(trailer) => sessions.insert(trailer.session),
            // it went meanwhile
            Err(Error::Storage(error)) if error.is_not_found() => continue,
            Err(_) => return Ok(true),
        };
    }
    if sessions.is_empty() {
        return Ok(false);
    }
    for session in repository.sessions()? {
        sessions.remove(&session.id);
    }
    for (number, generation) in repository.generations()? {
        if generation.claimed
            && let Some(claim) = repository.read_claim(number)?
        {
            sessions.remove(&claim.session);
        }
    }
    Ok(!sessions.is_empty())
}
