//! The ledger: which packs were found good, and when.

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::PackId;
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::Record;
use lakebed_core::storage::StorageErrorKind;
use lakebed_core::time::Timestamp;

use super::structure::Checked;
use crate::error::{Error, Result};
use crate::repository::Repository;

/// How much of the repository's packs was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Packs.
    pub packs: u64,
    /// Packs that were verified at least once.
    pub packs_verified: u64,
    /// Bytes of all packs.
    pub bytes: u64,
    /// Bytes of the packs that were verified at least once.
    pub bytes_verified: u64,
    /// The oldest of the packs' last verifications, where every pack has one.
    pub oldest: Option<Timestamp>,
    /// Where every pack was verified: within how many days. Else: how many more runs like this one it takes, if this
    /// one read anything.
    pub days_to_full: Option<u64>,
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Enters the packs that were found good (those found bad have left it by now), and writes one ledger in the place of all that were there.
pub(super) fn enter(
    repository: &Repository,
    checked: &mut Checked,
    good: &[PackId],
    found_bad: bool,
    monitor: &dyn Monitor,
) -> Result<()> {
    let now = checked.report.started.max(repository.clock().now());
    for id in good {
        checked.records.ledger.packs.insert(*id, now);
    }
    let packs = &checked.packs;
    checked.records.ledger.packs.retain(|id, _| packs.contains_key(id));
    checked.report.coverage = Some(coverage(checked, now));
    if good.is_empty() && !found_bad {
        return Ok(());
    }
    match write(repository, checked) {
        // verifying a repository that cannot be written is fine; only the next slice does not know of this one
        Err(Error::Storage(error))
            if matches!(
                error.kind,
                StorageErrorKind::ReadOnly | StorageErrorKind::PermissionDenied | StorageErrorKind::NoSpace
            ) =>
        {
            let chain = crate::error_chain(&error);
            monitor.warn(&format!("this verification is not entered in the repository's ledger: {chain}"));
            Ok(())
        }
        result => result,
    }
}

fn write(repository: &Repository, checked: &Checked) -> Result<()> {
    let store = repository.store();
    store.put_hashed(FrameKind::Ledger, layout::LEDGER, &checked.records.ledger.encode(), repository.random())?;
    store.storage().sync()?;
    for key in &checked.records.ledger_objects {
        match store.storage().delete(key) {
            // where nothing may be deleted they stay: joining them again changes nothing
            Err(error) if !error.is_not_found() && error.kind != StorageErrorKind::PermissionDenied => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn coverage(checked: &Checked, now: Timestamp) -> Coverage {
    let mut coverage = Coverage { packs: checked.packs.len() as u64, ..Coverage::default() };
    let mut oldest = None;
    for (id, size) in &checked.packs {
        coverage.bytes += size;
        if let Some(&time) = checked.records.ledger.packs.get(id) {
            coverage.packs_verified += 1;
            coverage.bytes_verified += size;
            oldest = Some(oldest.map_or(time, |oldest: Timestamp| oldest.min(time)));
        }
    }
    if coverage.packs_verified == coverage.packs {
        coverage.oldest = oldest;
        let age = oldest.map_or(0, |oldest| now.seconds_since(oldest).max(0));
        coverage.days_to_full = Some((age / DAY_SECONDS + 1) as u64);
    } else if checked.report.bytes_read > 0 {
        let left = coverage.bytes - coverage.bytes_verified;
        coverage.days_to_full = Some(left.div_ceil(checked.report.bytes_read));
    }
    coverage
}
