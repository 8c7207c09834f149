//! Rewrite: snapshots without some paths, to purge what should never have been backed up.
//!
//! A snapshot is never changed: a new one is made of it, and only when that one is durable is the old one forgotten. The
//! data of what was left out go with a later prune, once no snapshot needs them any more. A run that was cut off is
//! repeated: what it has committed is found and not made twice.

use std::collections::BTreeSet;

use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::{Monitor, Phase};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::text::unescape_path;

use crate::derive::{Author, Derived, Deriver, Edit};
use crate::error::{Error, Result};
use crate::repository::{Repository, SnapshotInfo};
use crate::source::Filter;

/// How snapshots are rewritten.
#[derive(Debug, Clone)]
pub struct RewriteOptions {
    /// Do not forget the snapshots that were rewritten.
    pub keep_original: bool,
    /// Only say what would be left out.
    pub dry_run: bool,
    /// Host that the runs are registered under; the snapshots keep theirs.
    pub host: String,
    /// Name and version of the tool, for the records.
    pub tool: String,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        Self {
            keep_original: false,
            dry_run: false,
            host: crate::system::host_name(),
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Something that was left out of a snapshot, with all below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

/// A snapshot in which something matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    /// As it was.
    pub original: SnapshotInfo,
    /// The one that was made of it; `None` in a dry run.
    pub snapshot: Option<SnapshotInfo>,
    /// The original was forgotten.
    pub forgotten: bool,
    /// What went, sorted by path.
    pub left_out: Vec<LeftOut>,
    /// How many files went.
    pub files: u64,
    /// Bytes of the files that went.
    pub bytes: u64,
}

/// What a rewrite did, or would do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RewriteReport {
    /// Snapshots in which something matched.
    pub rewritten: Vec<Rewritten>,
    /// Snapshots in which nothing matched: they are as they were.
    pub unchanged: Vec<SnapshotId>,
}

/// Leaves out what a filter excludes.
struct LeaveOut<'a> {
    filter: &'a Filter,
    left_out: BTreeSet<LeftOut>,
}

impl<'a> LeaveOut<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self { filter, left_out: BTreeSet::new() }
    }

    /// Tells whether a path goes, by itself or with a directory that it lies in.
    fn covers(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.map(|at| &path[..at]).any(|directory| self.filter.excludes(directory, true))
            || self.filter.excludes(path, false)
            || self.filter.excludes(path, true)
    }
}

impl Edit for LeaveOut<'_> {
    fn keeps(&mut self, path: &[u8], entry: &Entry) -> Result<bool> {
        let goes = self.filter.excludes(path, entry.kind == EntryKind::Directory);
        if goes {
            self.left_out.insert(LeftOut { path: path.to_vec(), kind: entry.kind });
        }
        Ok(!goes)
    }

    /// What is to be gone is not told of among the failures either.
    fn describe(&mut self, snapshot: &mut Snapshot) {
        snapshot.failures.retain(|failure| unescape_path(&failure.path).is_none_or(|path| !self.covers(&path)));
    }
}

impl Repository {
    /// Makes of each of the given snapshots one without what the filter's patterns match, and forgets the original. A
    /// snapshot in which nothing matches stays as it is. Only the patterns of the filter count, matched against paths in
    /// the snapshot.
    ///
    /// All snapshots are looked at before the first is rewritten.
    ///
    /// # Errors
    /// A tree that cannot be read whole; patterns that leave nothing of a snapshot; a snapshot that was forgotten
    /// meanwhile; storage. What was rewritten until then stays.
    pub fn rewrite(
        &self,
        snapshots: &[SnapshotInfo],
        filter: &Filter,
        options: &RewriteOptions,
        monitor: &dyn Monitor,
    ) -> Result<RewriteReport> {
        let author = Author { command: "rewrite", host: &options.host, tool: &options.tool, joining: None };
        let deriver = Deriver::new(self, author, monitor)?;
        monitor.phase(Phase::Plan, None);
        let mut report = RewriteReport::default();
        for info in snapshots {
            let mut change = LeaveOut::new(filter);
            let edited = deriver.try_out(&info.snapshot, &mut change)?;
            if change.left_out.is_empty() {
                report.unchanged.push(info.id);
                continue;
            }
            if edited.totals.is_empty() {
                let (what, value) = ("The patterns for snapshot", info.id.short());
                let why = "they leave nothing of it; forget it instead".into();
                return Err(Error::Argument { what, value, why });
            }
            let summary = &info.snapshot.summary;
            report.rewritten.push(Rewritten {
                original: info.clone(),
                snapshot: None,
                forgotten: false,
                left_out: change.left_out.into_iter().collect(),
                files: summary.files.saturating_sub(edited.totals.files),
                bytes: summary.bytes.saturating_sub(edited.totals.bytes),
            });
        }
        if options.dry_run {
            return Ok(report);
        }
        for rewritten in &mut report.rewritten {
            let id = rewritten.original.id;
            let info = match deriver.derive(id, &mut LeaveOut::new(filter))? {
                Derived::Committed(info) | Derived::Present(info) => info,
                // the same tree and the same patterns: this is what was found above
                Derived::Nothing => continue,
            };
            if !options.keep_original {
                // the new one is durable by now
                self.forget_all(&[id], &format!("rewritten as {}", info.id.short()))?;
                rewritten.forgotten = true;
            }
            rewritten.snapshot = Some(info);
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::FilterOptions;

    #[test]
    fn a_path_is_covered_by_itself_and_by_what_it_lies_in() {
        let exclude = vec!["*.key".into(), "secret/".into(), "/top/only".into()];
        let filter = Filter::new(&FilterOptions { exclude, ..FilterOptions::default() }).unwrap();
        let change = LeaveOut::new(&filter);
        for path in ["a.key", "a/b.key", "secret/x", "a/secret/b/c", "top/only", "top/only/x", "a/b.key/c"] {
            assert!(change.covers(path.as_bytes()), "{path}");
        }
        for path in ["", "a", "a/key", "a/top/only", "secrets/x"] {
            assert!(!change.covers(path.as_bytes()), "{path}");
        }
    }
}
