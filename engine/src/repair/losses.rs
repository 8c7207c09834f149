//! What snapshots lack: files with chunks that are nowhere, directories with nodes that cannot be read.

use std::collections::{BTreeSet, HashMap};

use lakebed_core::id::{PackId, SnapshotId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::pack::BlobId;
use lakebed_core::record::snapshot::{Failure, Original, Snapshot};
use lakebed_core::record::tree::{Content, Entry, Extent};
use lakebed_core::storage::ObjectKey;
use lakebed_core::text::escape_path;

use super::{Loss, LostPath};
use crate::derive::{Edit, NodeNames, Totals, edit};
use crate::error::{Error, Result};
use crate::repository::{BlobReader, Repository};

/// Directories that lack nothing, with what is in them: looked at once, however many snapshots have them.
pub(super) type Whole = HashMap<TreeId, Totals>;

/// Something that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostPart {
    pub(super) path: LostPath,
    /// The chunk or node that is missing, where it is known.
    pub(super) blob: Option<BlobId>,
}

/// Leaves out what is lost.
pub(super) struct LeaveLost<'a> {
    reader: &'a BlobReader,
    whole: &'a mut Whole,
    pub(super) lost: Vec<LostPart>,
    /// Packs that something could not be read from.
    pub(super) suspects: BTreeSet<PackId>,
}

impl<'a> LeaveLost<'a> {
    pub(super) fn new(reader: &'a BlobReader, whole: &'a mut Whole) -> Self {
        Self { reader, whole, lost: Vec::new(), suspects: BTreeSet::new() }
    }

    /// Notes what is missing.
    ///
    /// # Errors
    /// It could not be looked at; a newer lakebed wrote it.
    fn note(&mut self, path: &[u8], error: Error) -> Result<()> {
        let is_in_pack = matches!(error, Error::DamagedFrame { .. });
        if error.keeps_from_looking() || (error.is_newer() && !is_in_pack) {
            return Err(error);
        }
        self.suspects.extend(pack_of(&error));
        let blob = match &error {
            Error::Missing { blob, .. } | Error::WrongBlob { blob, .. } => Some(*blob),
            Error::TreeNode { node, .. } => Some((*node).into()),
            _ => None,
        };
        let path = LostPath { path: escape_path(path), reason: crate::error_chain(&error) };
        self.lost.push(LostPart { path, blob });
        Ok(())
    }

    /// Returns the first thing that a file's content lacks.
    fn missing(&self, entry: &Entry) -> Result<Option<Error>> {
        if matches!(entry.content, Content::None) {
            return Ok(None);
        }
        for run in self.reader.extent_runs(entry) {
            let extents = match run {
                Ok(extents) => extents,
                Err(error) => return Ok(Some(error)),
            };
            for extent in extents {
                if let Extent::Data { id, length } = extent {
                    let place = self.reader.index().lookup(&id.into())?;
                    if place.is_none_or(|place| u64::from(place.length) != length) {
                        return Ok(Some(Error::Missing { what: "The chunk", blob: id.into() }));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Returns the pack that a failure of reading is about.
fn pack_of(error: &Error) -> Option<PackId> {
    match error {
        Error::DamagedFrame { pack, .. } | Error::WrongBlob { pack, .. } => Some(*pack),
        Error::Storage(error) => {
            let id = layout::last_part(&ObjectKey::new(error.subject.clone())?).parse().ok()?;
            (layout::pack(id).as_str() == error.subject).then_some(id)
        }
        _ => None,
    }
}

impl Edit for LeaveLost<'_> {
    fn keeps(&mut self, path: &[u8], entry: &Entry) -> Result<bool> {
        match self.missing(entry)? {
            None => Ok(true),
            Some(error) => self.note(path, error).map(|()| false),
        }
    }

    fn lost_part(&mut self, path: &[u8], error: Error) -> Result<()> {
        self.note(path, error)
    }

    fn known(&self, directory: TreeId) -> Option<Totals> {
        self.whole.get(&directory).copied()
    }

    fn unchanged(&mut self, directory: TreeId, totals: Totals) {
        self.whole.insert(directory, totals);
    }

    fn describe(&mut self, snapshot: &mut Snapshot) {
        let failure = |part: &LostPart| Failure {
            path: part.path.path.clone(),
            reason: format!("lost in the repository: {}", part.path.reason),
        };
        snapshot.failures.extend(self.lost.iter().map(failure));
        snapshot.failures.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

/// What was found out about snapshots.
#[derive(Default)]
pub(super) struct Losses {
    pub(super) losses: Vec<Loss>,
    /// Chunks and nodes that are missing, with the places of the losses (which one, which path of it).
    pub(super) blobs: Vec<(BlobId, usize, usize)>,
    /// Packs that something could not be read from.
    pub(super) suspects: BTreeSet<PackId>,
}

/// Finds out what the given snapshots lack.
pub(super) fn find(
    repository: &Repository,
    reader: &BlobReader,
    snapshots: &[(SnapshotId, Snapshot)],
    monitor: &dyn Monitor,
) -> Result<Losses> {
    let mut whole = Whole::new();
    let mut found = Losses::default();
    for (id, snapshot) in snapshots {
        let mut change = LeaveLost::new(reader, &mut whole);
        let mut names = NodeNames::new(reader.store().keys());
        let edited = edit(reader, snapshot.root, &mut change, &mut names, monitor)?;
        let LeaveLost { lost, suspects, .. } = change;
        found.suspects.extend(suspects);
        if lost.is_empty() {
            continue;
        }
        let number = found.losses.len();
        let blobs = lost.iter().enumerate().filter_map(|(at, part)| Some((part.blob?, number, at)));
        found.blobs.extend(blobs);
        found.losses.push(Loss {
            snapshot: *id,
            time: snapshot.time,
            is_forgotten: false,
            paths: lost.into_iter().map(|part| part.path).collect(),
            is_total: edited.totals.is_empty(),
            repaired: None,
        });
    }
    find_repaired(repository, snapshots, &mut found.losses);
    Ok(found)
}

/// Finds the snapshots that were made of those that lack something, hold all that is left of them, and lack nothing.
fn find_repaired(repository: &Repository, snapshots: &[(SnapshotId, Snapshot)], losses: &mut [Loss]) {
    let lacking: BTreeSet<SnapshotId> = losses.iter().map(|loss| loss.snapshot).collect();
    let whole = |(id, _): &&(SnapshotId, Snapshot)| !lacking.contains(id);
    for loss in losses {
        let original = Some(Original { repository: repository.info().id, snapshot: loss.snapshot });
        let says_so = |snapshot: &Snapshot| {
            let told: BTreeSet<&str> = snapshot.failures.iter().map(|failure| failure.path.as_str()).collect();
            loss.paths.iter().all(|lost| told.contains(lost.path.as_str()))
        };
        let mut made = snapshots.iter().filter(whole).filter(|(_, snapshot)| snapshot.original == original);
        loss.repaired = made.find(|(_, snapshot)| says_so(snapshot)).map(|(id, _)| *id);
    }
}
