//! Checkpoints: publishing what is finished, so that a run that is killed need not begin anew.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use lakebed_core::record::session::Checkpoint;

use super::desk::Desk;
use super::run::Run;
use crate::error::Result;

/// What is in flight is held in memory, about 100 bytes for each chunk: no more than so many. A dry run, which publishes
/// nothing, holds the names of all that is new.
const CHUNKS_MAX: u64 = 125_000;

/// However long a run takes, no more than this lies between its checkpoints.
const INTERVAL_MAX_NS: u64 = 300 * 1_000_000_000;

/// The same where a source is far away: what was asked of it took long.
const FAR_INTERVAL_MAX_NS: u64 = 60 * 1_000_000_000;

impl Run<'_> {
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let bytes = self.chunks.since_checkpoint.load(Ordering::Relaxed);
        let is_due = bytes >= self.options.checkpoint_bytes
            || self.chunks.unpublished.load(Ordering::Relaxed) >= CHUNKS_MAX
            || (bytes > 0 && self.clock.monotonic_ns() >= self.checkpoint_due_ns.load(Ordering::Relaxed));
        is_due && !self.options.dry_run
    }

    pub(super) fn schedule_checkpoint(&self) {
        let first = u64::try_from(self.options.checkpoint_interval.as_nanos()).unwrap_or(u64::MAX);
        let most = if self.is_far { FAR_INTERVAL_MAX_NS } else { INTERVAL_MAX_NS };
        let made = self.checkpoints.fetch_add(1, Ordering::Relaxed);
        let interval = first.saturating_mul(1 << made.min(16)).min(first.max(most));
        self.chunks.since_checkpoint.store(0, Ordering::Relaxed);
        self.checkpoint_due_ns.store(self.clock.monotonic_ns().saturating_add(interval), Ordering::Relaxed);
    }

    /// Publishes everything that is finished. All workers are parked and their frames are stored.
    pub(super) fn checkpoint(&self) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        while let Some(frame) = self.queue.take_frame() {
            self.chunks.store_frame(&frame)?;
        }
        for frame in self.desks.take_all().into_iter().flat_map(Desk::into_filled) {
            self.chunks.store_frame(&frame)?;
        }
        let root = self.root.so_far(self.nodes())?;
        self.chunks.publish()?;
        let checkpoint = Checkpoint { root, summary: self.summary(), read_all: self.read_all };
        if let Some(session) = &*self.session.lock().unwrap_or_else(PoisonError::into_inner) {
            session.checkpoint(checkpoint)?;
        }
        self.schedule_checkpoint();
        Ok(())
    }
}
