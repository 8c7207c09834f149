//! Carrying a plan out.

use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::session::Outcome;
use lakebed_core::record::snapshot::Summary;

use super::losses::{LeaveLost, Whole};
use super::salvage::{self, Salvaged};
use super::{Remedy, RepairOptions, RepairPlan, RepairReport, plan, records};
use crate::derive::{Author, Derived, Deriver, Ended, in_session};
use crate::error::Result;
use crate::repository::{Repository, SnapshotInfo};

/// Carries a plan out, and looks once more at what is left then. What has been put right since the plan was made is left
/// alone. Done again, or after it was cut off, it does what is still to be done.
///
/// # Errors
/// Storage; the run was interrupted. What was done until then stays done.
pub fn apply(
    repository: &Repository,
    plan: &RepairPlan,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    let author = Author { command: "repair", host: &options.host, tool: &options.tool, joining: None };
    let salvaged = match plan.actions.iter().all(|action| matches!(action.remedy, Remedy::Derive { .. })) {
        true => Salvaged::default(),
        false => repair_objects(repository, plan, author, monitor)?,
    };
    let snapshots = make_snapshots(repository, plan, author, monitor)?;
    // reading all data once more would find what it found before
    let structure = RepairOptions { read_data: false, ..options.clone() };
    let remaining = plan::plan(repository, &structure, monitor)?;
    let closed = plan.actions.iter().filter(|action| matches!(action.remedy, Remedy::Close(_)));
    let lost = closed.flat_map(|action| &action.affected).map(|affected| affected.snapshot).collect();
    Ok(RepairReport { salvaged: salvaged.blobs, salvaged_bytes: salvaged.bytes, lost, snapshots, remaining })
}

fn repair_objects(
    repository: &Repository,
    plan: &RepairPlan,
    author: Author<'_>,
    monitor: &dyn Monitor,
) -> Result<Salvaged> {
    let (salvaged, _) = in_session(repository, author, monitor, |session| {
        for action in &plan.actions {
            records::apply(repository, session, &action.remedy)?;
        }
        repository.store().storage().sync()?;
        let salvaged = salvage::apply(repository, session, &plan.actions, monitor)?;
        Ok((salvaged, Ended { outcome: Outcome::Done, summary: Summary::default() }))
    })?;
    Ok(salvaged)
}

/// Makes a snapshot of each one that lacks something.
fn make_snapshots(
    repository: &Repository,
    plan: &RepairPlan,
    author: Author<'_>,
    monitor: &dyn Monitor,
) -> Result<Vec<(SnapshotId, SnapshotInfo)>> {
    let lacking: Vec<SnapshotId> = plan
        .actions
        .iter()
        .filter_map(|action| match action.remedy {
            Remedy::Derive { snapshot, .. } => Some(snapshot),
            _ => None,
        })
        .collect();
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let deriver = Deriver::new(repository, author, monitor)?;
    let mut whole = Whole::new();
    let mut made = Vec::new();
    for id in lacking {
        let mut change = LeaveLost::new(deriver.reader(), &mut whole);
        match deriver.derive(id, &mut change)? {
            Derived::Committed(info) | Derived::Present(info) => made.push((id, info)),
            // a backup has stored again what it lacked, or all of it is lost by now
            Derived::Nothing => {}
        }
    }
    Ok(made)
}
