//! What a run tells while it goes on, and how it is told to stop.

use crate::protocol::Step;
use crate::source::SourceError;

/// What a long operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Walking the source, reading and storing.
    Backup,
    /// Reading a snapshot of another repository and storing it.
    Copy,
    /// Making durable and committing.
    Commit,
    /// Folding index segments, or reading packs to make the index anew.
    Index,
    /// Finding out what a restore has to do.
    Plan,
    /// Writing restored files.
    Restore,
    /// Checking snapshots and trees.
    VerifyStructure,
    /// Reading and checking packs.
    VerifyData,
    /// Finding out what snapshots need.
    Mark,
    /// Waiting for writers that began before something was condemned.
    Await,
    /// Copying what is needed out of condemned packs, and deleting them.
    Repack,
}

/// One step forward. Numbers are increments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries finished.
    pub entries: u64,
    /// Plain bytes finished.
    pub bytes: u64,
}

/// Told of progress and of trouble; asked whether to go on.
///
/// Calls come from several threads and must be quick.
pub trait Monitor: Send + Sync {
    /// A phase begins, with its totals where they are known.
    fn phase(&self, _phase: Phase, _total: Option<Progress>) {}

    /// Something was finished.
    fn advance(&self, _step: Progress) {}

    /// A step of the protocol is about to begin.
    fn step(&self, _step: Step) {}

    /// An entry of the source could not be kept as it is. The run goes on; the snapshot will say so.
    fn entry_failed(&self, _error: &SourceError) {}

    /// Something the user should know, and the run goes on.
    fn warn(&self, _message: &str) {}

    /// Tells whether the run is to end as soon as it can do so in good order.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A monitor that says nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_that_says_nothing_does_not_cancel() {
        assert!(!Silent.is_cancelled());
    }
}
