//! How much there is, and how much it takes.

use std::collections::HashMap;

use lakebed_core::id::{ChunkId, TreeId};
use lakebed_core::monitor::Monitor;
use lakebed_core::pack::PackKind;
use lakebed_core::record::tree::{EntryKind, Extent};

use super::{Listed, walk};
use crate::error::Result;
use crate::index::IndexStats;
use crate::repository::{BlobReader, Repository, SnapshotInfo};

/// Figures of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, devices.
    pub others: u64,
    /// Bytes of all files: what a restore writes, holes included.
    pub logical_bytes: u64,
    /// Plain bytes of the different chunks that it needs.
    pub unique_bytes: u64,
    /// Different chunks that it needs.
    pub chunks: u64,
}

/// Figures of a repository.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RepositoryStats {
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of all files of all snapshots.
    pub logical_bytes: u64,
    /// Plain bytes of the different chunks that the snapshots need.
    pub unique_bytes: u64,
    /// Different chunks that the snapshots need.
    pub chunks: u64,
    /// Bytes of all objects in storage.
    pub stored_bytes: u64,
    /// Objects in storage.
    pub objects: u64,
    /// Packs of file content, and their bytes.
    pub data_packs: (u64, u64),
    /// Packs of trees, and their bytes.
    pub tree_packs: (u64, u64),
    /// The local index.
    pub index: IndexStats,
}

#[derive(Default)]
struct Counter {
    chunks: HashMap<ChunkId, u32>,
}

impl Counter {
    fn snapshot(&mut self, reader: &BlobReader, root: TreeId, monitor: &dyn Monitor) -> Result<SnapshotStats> {
        let mut stats = SnapshotStats::default();
        walk(reader, root, b"", &mut |_, entry| {
            if monitor.is_cancelled() {
                return Err(crate::Error::Interrupted);
            }
            match entry.kind {
                EntryKind::File => {
                    stats.files += 1;
                    stats.logical_bytes += entry.size;
                    for run in reader.extent_runs(entry) {
                        for extent in run? {
                            if let Extent::Data { id, length } = extent {
                                // no chunk is larger than 1 GiB
                                self.chunks.insert(id, length as u32);
                            }
                        }
                    }
                }
                EntryKind::Directory => stats.directories += 1,
                _ => stats.others += 1,
            }
            Ok(Listed::Descend)
        })?;
        Ok(stats)
    }

    fn unique_bytes(&self) -> u64 {
        self.chunks.values().map(|&length| u64::from(length)).sum()
    }
}

/// Counts what a snapshot holds.
///
/// # Errors
/// A tree is missing or damaged.
pub fn snapshot_stats(reader: &BlobReader, info: &SnapshotInfo, monitor: &dyn Monitor) -> Result<SnapshotStats> {
    let mut counter = Counter::default();
    let mut stats = counter.snapshot(reader, info.snapshot.root, monitor)?;
    stats.unique_bytes = counter.unique_bytes();
    stats.chunks = counter.chunks.len() as u64;
    Ok(stats)
}

/// Counts what a repository holds.
///
/// # Errors
/// Storage; a tree is missing or damaged.
pub fn repository_stats(
    repository: &Repository,
    snapshots: &[SnapshotInfo],
    monitor: &dyn Monitor,
) -> Result<RepositoryStats> {
    let reader = repository.reader(monitor)?;
    let mut counter = Counter::default();
    let mut seen: HashMap<TreeId, u64> = HashMap::new();
    let mut logical_bytes = 0;
    for info in snapshots {
        logical_bytes += match seen.get(&info.snapshot.root) {
            Some(bytes) => *bytes,
            None => {
                let bytes = counter.snapshot(&reader, info.snapshot.root, monitor)?.logical_bytes;
                seen.insert(info.snapshot.root, bytes);
                bytes
            }
        };
    }
    let objects = repository.store().storage().list("")?;
    Ok(RepositoryStats {
        snapshots: snapshots.len() as u64,
        logical_bytes,
        unique_bytes: counter.unique_bytes(),
        chunks: counter.chunks.len() as u64,
        stored_bytes: objects.iter().map(|object| object.size_bytes).sum(),
        objects: objects.len() as u64,
        data_packs: reader.index().pack_totals(PackKind::Data),
        tree_packs: reader.index().pack_totals(PackKind::Tree),
        index: reader.index().stats(),
    })
}
