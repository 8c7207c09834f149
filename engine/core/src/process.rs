//! Who writes: the processes that sessions and prunes belong to, and whether they still live.

use crate::record::session::Process;

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It lives, or may live, on this machine.
    Alive,
    /// It is certainly gone: its number is free, or another process has it.
    Dead,
    /// It is of another machine, another boot of this one, or another name space of processes: nobody here can tell.
    Elsewhere,
}

/// Where knowledge of processes comes from.
pub trait Processes: Send + Sync {
    /// Describes this process; `host` is the name that its snapshots have.
    fn this(&self, host: &str) -> Process;

    /// Tells what became of a process. What cannot be known for certain is never [`Fate::Dead`].
    fn fate(&self, process: &Process) -> Fate;
}
