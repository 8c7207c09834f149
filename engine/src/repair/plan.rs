//! The plan: everything is looked at, nothing is changed.

use lakebed_core::id::SnapshotId;
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase};
use lakebed_core::record::snapshot::Snapshot;

use super::records::RecordPlan;
use super::{Action, Remedy, RepairOptions, RepairPlan, packs, records};
use crate::check::Records;
use crate::error::Result;
use crate::repository::{Repository, TombstoneState};

/// Looks for damage and says what a repair would do about it. Nothing in storage is changed; the local index may be made
/// anew.
///
/// # Errors
/// Something could not be looked at; a newer lakebed wrote something without which it cannot be told what is damaged;
/// the run was interrupted.
pub fn plan(repository: &Repository, options: &RepairOptions, monitor: &dyn Monitor) -> Result<RepairPlan> {
    monitor.phase(Phase::Plan, None);
    let objects = repository.store().storage().list("")?;
    let mut records = Records::read(repository, &objects, monitor)?;
    let RecordPlan { actions, held_back, segments, tombstones, condemned_unknown } =
        records::plan(repository, &mut records, options.force)?;
    let mut plan = RepairPlan { actions, held_back, losses: Vec::new() };
    if condemned_unknown {
        // what a prune is about to delete must not be taken for safe
        return Ok(plan);
    }
    let mut forgotten = repository.forgotten()?;
    for (id, newest) in repository.tombstones()? {
        let (number, is_open) = (newest.number, newest.state == TombstoneState::Open);
        if is_open && tombstones.contains(&layout::tombstone(id, number)) {
            forgotten.remove(&id);
        }
    }
    let mut snapshots: Vec<(SnapshotId, Snapshot)> = std::mem::take(&mut records.snapshots);
    // what is condemned is gone for ever
    snapshots.retain(|(id, _)| forgotten.get(id) != Some(&true));
    // the newest first: it is what is missed most
    snapshots.sort_by_key(|(id, snapshot)| (forgotten.contains_key(id), std::cmp::Reverse(snapshot.time), *id));
    let packs = packs::plan(repository, &records, segments, &snapshots, options, monitor)?;
    plan.actions.extend(packs.actions);
    plan.losses = packs.losses.losses;
    for loss in &mut plan.losses {
        loss.is_forgotten = forgotten.contains_key(&loss.snapshot);
        // one that is forgotten itself stands for nothing
        loss.repaired = loss.repaired.filter(|repaired| !forgotten.contains_key(repaired));
    }
    for loss in plan.losses.iter().filter(|loss| !loss.is_total && !loss.is_forgotten && loss.repaired.is_none()) {
        let paths = loss.paths.len() as u64;
        let problem = plan_problem(paths);
        plan.actions.push(Action::new(Remedy::Derive { snapshot: loss.snapshot, paths }, problem));
    }
    Ok(plan)
}

fn plan_problem(paths: u64) -> String {
    match paths {
        1 => "it lacks something at one path".into(),
        paths => format!("it lacks something at {paths} paths"),
    }
}
