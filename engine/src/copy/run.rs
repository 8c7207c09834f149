//! Copying what the plan says, one snapshot after the other.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use lakebed_core::id::{RepositoryId, SnapshotId, TreeId};
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::protocol;
use lakebed_core::record::snapshot::{Failure, Original, Snapshot, Summary};
use lakebed_core::record::tree::EntryKind;
use lakebed_core::source::SourceError;

use super::compare::{Comparison, Pair};
use super::plan::{ExactCopy, Plan, Task, Twin};
use super::source::{Previous, SnapshotSource};
use super::{CopiedSnapshot, CopyOptions, CopyOutcome, CopyReport, CopyVisitor};
use crate::backup::{BackupOptions, ParentChoice, Request};
use crate::error::{Error, Result};
use crate::query::{Listed, walk};
use crate::repository::{BlobReader, Repository, SnapshotInfo, is_whole};
use crate::source::Mount;

pub(super) fn run(
    from: &Repository,
    to: &Repository,
    options: &CopyOptions,
    visitor: CopyVisitor<'_>,
    monitor: &dyn Monitor,
) -> Result<CopyReport> {
    let catalogue = from.catalogue()?;
    for (key, error) in &catalogue.damaged {
        monitor.warn(&format!("passed over `{key}`: {}", crate::error_chain(error)));
    }
    let mut report = CopyReport { snapshots: Vec::new(), damaged: catalogue.damaged };
    let repository = from.config().repository_id;
    let mut plan = Plan::make(repository, catalogue.snapshots, to, options, monitor)?;
    let stores = !options.dry_run && plan.items.iter().any(|item| matches!(item.task, Task::Store(_)));
    let reader = if stores { Some(from.reader(monitor)?) } else { None };
    for item in std::mem::take(&mut plan.items) {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let info = plan.snapshots[item.at].clone();
        let copied = match (item.task, &reader) {
            (Task::Leave(id), _) => untouched(info, Some(id), CopyOutcome::Present),
            (Task::Store(twins), None) => match twins.iter().find(|twin| twin.has_all) {
                Some(twin) => untouched(info, Some(twin.id), CopyOutcome::Healed),
                None => untouched(info, None, CopyOutcome::Copied),
            },
            (Task::Store(twins), Some(reader)) => {
                let base = Base::choose(&plan, item.at, &twins);
                let transfer = Transfer { from, to, repository, reader, options, info, twins, base };
                let (copied, exact) = transfer.run(monitor)?;
                plan.exact.extend(exact.map(|exact| (copied.original.id, exact)));
                copied
            }
        };
        visitor(&copied);
        report.snapshots.push(copied);
    }
    Ok(report)
}

fn untouched(original: SnapshotInfo, copy: Option<SnapshotId>, outcome: CopyOutcome) -> CopiedSnapshot {
    CopiedSnapshot { original, copy, outcome, failures: Vec::new(), resumed: false, summary: Summary::default() }
}

/// What a copy is compared with, on both sides.
struct Base {
    parent: ParentChoice,
    previous: Option<Previous>,
    /// The trees of the two, where they are known to be the same.
    known: Option<Pair>,
    /// Something of the parent is missing.
    distrust: bool,
}

impl Base {
    fn choose(plan: &Plan, at: usize, twins: &[Twin]) -> Self {
        let root = |at: usize| plan.snapshots[at].snapshot.root;
        if let Some(twin) = twins.iter().max_by_key(|twin| (twin.is_exact, twin.has_all, twin.is_whole)) {
            return Self {
                parent: ParentChoice::Snapshot(twin.id),
                previous: Some(Previous { root: root(at), is_whole: false }),
                known: None,
                distrust: !twin.is_whole,
            };
        }
        let copied = |at: usize| plan.exact.get(&plan.snapshots[at].id).map(|copy| (root(at), copy));
        match plan.relatives(at).find_map(copied) {
            Some((original, copy)) => Self {
                parent: ParentChoice::Snapshot(copy.id),
                previous: Some(Previous { root: original, is_whole: true }),
                known: Some(Pair { original, copy: copy.root }),
                distrust: false,
            },
            // no snapshot of the destination has this source: only an interrupted copy may be found
            None => Self { parent: ParentChoice::Newest, previous: None, known: None, distrust: false },
        }
    }
}

/// The copy of one snapshot.
struct Transfer<'a> {
    from: &'a Repository,
    to: &'a Repository,
    /// The id of `from`.
    repository: RepositoryId,
    reader: &'a BlobReader,
    options: &'a CopyOptions,
    info: SnapshotInfo,
    twins: Vec<Twin>,
    base: Base,
}

impl Transfer<'_> {
    /// Stores the snapshot. Returns what became of it, and its copy if it holds exactly what the original holds.
    fn run(self, monitor: &dyn Monitor) -> Result<(CopiedSnapshot, Option<ExactCopy>)> {
        let source =
            SnapshotSource::new(self.from, self.reader, self.original(), self.info.snapshot.root, self.base.previous);
        let again: Cell<Option<&Twin>> = Cell::new(None);
        let review = |draft: &mut Snapshot, copy: &BlobReader| {
            if source.has_failed() {
                return Err(Error::Interrupted);
            }
            again.set(self.review(draft, copy)?);
            Ok(again.get().is_none())
        };
        let options = self.backup_options();
        let request = Request {
            command: "copy",
            options: &options,
            distrust: self.base.distrust,
            reads_storage: true,
            review: &review,
        };
        let mount = Mount::new(Vec::new(), Arc::new(source.clone()));
        let result = self.to.fill(vec![mount], &request, &Watch { inner: monitor, source: &source });
        if let Some(error) = source.take_failure() {
            return Err(error);
        }
        let report = match result {
            Err(Error::NothingRead) => return Ok((self.unreadable(), None)),
            result => result?,
        };
        let (copy, outcome) = match (&report.snapshot, again.get()) {
            (Some(info), _) => (Some(ExactCopy { id: info.id, root: info.snapshot.root }), CopyOutcome::Copied),
            (None, Some(twin)) => {
                let outcome = if twin.is_whole { CopyOutcome::Present } else { CopyOutcome::Healed };
                (Some(ExactCopy { id: twin.id, root: twin.root }), outcome)
            }
            // only a dry run ends so, and there is none here
            (None, None) => (None, CopyOutcome::Copied),
        };
        let copied = CopiedSnapshot {
            original: self.info,
            copy: copy.map(|copy| copy.id),
            outcome,
            failures: report.failures,
            resumed: report.resumed,
            summary: report.summary,
        };
        let exact = copy.filter(|_| copied.failures.is_empty());
        Ok((copied, exact))
    }

    fn original(&self) -> Original {
        Original { repository: self.repository, snapshot: self.info.id }
    }

    fn backup_options(&self) -> BackupOptions {
        BackupOptions {
            host: self.options.host.clone(),
            parent: self.base.parent.clone(),
            compression: self.options.compression,
            threads: self.options.threads,
            read_limit: self.options.read_limit,
            write_limit: self.options.write_limit,
            tool: self.options.tool.clone(),
            ..BackupOptions::default()
        }
    }

    /// Compares what is about to be committed with the original and makes its record the original's. Returns the twin that
    /// has this tree already: then its record stands, and there is no need of another.
    fn review(&self, draft: &mut Snapshot, copy: &BlobReader) -> Result<Option<&Twin>> {
        let original = &self.info.snapshot;
        let roots = Pair { original: original.root, copy: draft.root };
        Comparison::new(self.info.id, self.reader, copy, &draft.failures).check(roots, self.base.known)?;
        let again = self.twins.iter().find(|twin| twin.root == draft.root);
        if again.is_some_and(|twin| !twin.is_whole) && !is_whole(copy, draft.root, &mut HashSet::new())? {
            let what = "some of it is still missing";
            return Err(Error::CopyDiffers { snapshot: self.info.id, path: String::new(), what });
        }
        let counted = match draft.failures.is_empty() {
            true => original.summary,
            false => count(copy, draft.root, original.summary)?,
        };
        let mut failures = [&original.failures[..], &draft.failures[..]].concat();
        failures.sort_by(|a, b| a.path.cmp(&b.path));
        *draft = Snapshot {
            root: draft.root,
            parent: draft.parent,
            summary: Summary {
                bytes_read: draft.summary.bytes_read,
                bytes_new: draft.summary.bytes_new,
                bytes_deduplicated: draft.summary.bytes_deduplicated,
                bytes_stored: draft.summary.bytes_stored,
                ..counted
            },
            failures,
            session: draft.session,
            base_generation: draft.base_generation,
            original: Some(self.original()),
            ..original.clone()
        };
        Ok(again)
    }

    /// Nothing below the root could be read: says why.
    fn unreadable(self) -> CopiedSnapshot {
        let error = self.reader.entries(self.info.snapshot.root).find_map(Result::err).unwrap_or(Error::NothingRead);
        let failures = vec![Failure { path: String::new(), reason: crate::error_chain(&error) }];
        CopiedSnapshot { failures, ..untouched(self.info, None, CopyOutcome::Unreadable) }
    }
}

/// Counts again what a tree holds that lacks something of its original.
fn count(reader: &BlobReader, root: TreeId, original: Summary) -> Result<Summary> {
    let mut summary = Summary { files: 0, directories: 0, others: 0, bytes: 0, ..original };
    walk(reader, root, b"", &mut |_, entry| {
        match entry.kind {
            EntryKind::File => summary.files += 1,
            EntryKind::Directory => summary.directories += 1,
            _ => summary.others += 1,
        }
        summary.bytes += entry.size;
        Ok(Listed::Descend)
    })?;
    Ok(summary)
}

/// The caller's monitor, which is also told to end the run where the source cannot be read any more.
struct Watch<'a> {
    inner: &'a dyn Monitor,
    source: &'a SnapshotSource,
}

impl Monitor for Watch<'_> {
    fn phase(&self, phase: Phase, total: Option<Progress>) {
        self.inner.phase(if phase == Phase::Backup { Phase::Copy } else { phase }, total);
    }

    fn advance(&self, step: Progress) {
        self.inner.advance(step);
    }

    fn step(&self, step: protocol::Step) {
        self.inner.step(step);
    }

    fn entry_failed(&self, error: &SourceError) {
        self.inner.entry_failed(error);
    }

    fn warn(&self, message: &str) {
        self.inner.warn(message);
    }

    fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled() || self.source.has_failed()
    }
}
