//! Brakes: what looks like a loss, or like a mistake, stops a prune before it condemns a pack.

use std::collections::BTreeSet;

use lakebed_core::id::SnapshotId;
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::session::{Outcome, Run};
use lakebed_core::time::Timestamp;

use super::inventory::Living;
use super::{PruneOptions, PruneSummary, TooMuch};
use crate::error::{Error, Result};
use crate::repository::Repository;

/// Stops where snapshots are gone that nobody has forgotten: a listing that was cut short, a disk that lost files. Returns
/// those that are gone where that was accepted.
///
/// The newest done mark says which snapshots lived then, and the records of runs say which were made: that of a snapshot
/// goes with it.
pub(super) fn vanished(
    repository: &Repository,
    living: &Living,
    gone: &BTreeSet<SnapshotId>,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<BTreeSet<SnapshotId>> {
    let marked = match newest_done(repository)? {
        Some((_, Some(snapshots))) => snapshots,
        Some((generation, None)) => {
            monitor.warn(&format!(
                "the done mark of generation {generation} cannot be read: it says of no snapshot that it is missing"
            ));
            Vec::new()
        }
        None => Vec::new(),
    };
    let forgotten = repository.forgotten()?;
    let is_known =
        |id: &SnapshotId| living.snapshots.contains_key(id) || gone.contains(id) || forgotten.contains_key(id);
    let mut missing: BTreeSet<SnapshotId> = marked.into_iter().filter(|id| !is_known(id)).collect();
    if !missing.is_empty() {
        // another prune may have freed them since its predecessor was done
        if let Some((_, Some(newest))) = newest_done(repository)? {
            missing.retain(|id| newest.contains(id));
        }
    }
    for id in std::mem::take(&mut missing) {
        // a repair has closed one whose record was damaged, and told of it
        if !matches!(repository.read_snapshot(id), Ok(None)) {
            missing.insert(id);
        }
    }
    missing.extend(made_by_runs(repository, is_known)?);
    if missing.is_empty() || options.accept_vanished {
        return Ok(missing);
    }
    Err(Error::SnapshotsVanished { snapshots: missing.into_iter().collect() })
}

/// Returns the newest generation that is done, and which snapshots lived then, where its mark can be read.
fn newest_done(repository: &Repository) -> Result<Option<(u64, Option<Vec<SnapshotId>>)>> {
    let generations = repository.generations()?;
    let newest = generations.iter().rev().find(|(_, generation)| generation.done);
    let read = |(&number, _)| Ok((number, repository.read_done(number)?.map(|done| done.snapshots)));
    newest.map(read).transpose()
}

/// Returns the snapshots that runs say they have made, and that are neither known nor there. A record that cannot be read
/// says nothing.
fn made_by_runs(repository: &Repository, is_known: impl Fn(&SnapshotId) -> bool) -> Result<Vec<SnapshotId>> {
    let store = repository.store();
    let mut made = Vec::new();
    for id in store.list_ids::<SnapshotId>(layout::RUNS)?.into_iter().filter(|id| !is_known(id)) {
        match store.read_record::<Run>(&layout::run(id)) {
            // it may have come since the snapshots were listed
            Ok(run) if has_committed(&run) && !repository.has_outcome(id)? => made.push(id),
            Err(Error::Storage(error)) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(made)
}

/// Tells whether a run has made a snapshot: then it says when it was about to commit it.
fn has_committed(run: &Run) -> bool {
    let is_done = matches!(run.outcome, Outcome::Done | Outcome::Partial);
    is_done && run.command != "prune" && run.summary.finished != Timestamp::default()
}

/// Tells whether more would go at once than is allowed. Parts that were joined do not count.
pub(super) fn mass_deletion(summary: &PruneSummary, options: &PruneOptions) -> Option<TooMuch> {
    let (parts_kept, parts_going) = summary.parts;
    let going = (summary.snapshots_forgotten.len() as u64).saturating_sub(parts_going);
    let kept = summary.snapshots_kept.saturating_sub(parts_kept);
    let freed = (summary.deleted.bytes + summary.repacked.bytes).saturating_sub(summary.copied_bytes);
    check("snapshots", going, going + kept, options)
        .or_else(|| check("bytes in packs", freed, summary.all.bytes, options))
}

fn check(what: &'static str, going: u64, all: u64, options: &PruneOptions) -> Option<TooMuch> {
    let limit = options.max_delete.clamp(0.0, 1.0);
    if all == 0 || going as f64 <= all as f64 * limit {
        return None;
    }
    let percent = |share: f64| (share * 100.0).round() as u64;
    Some(TooMuch { what, share: percent(going as f64 / all as f64), limit: percent(limit) })
}
