//! Processes that live and die as they are told.

use lakebed_core::process::{Fate, Processes};
use lakebed_core::record::session::Process;

/// One process of one boot. Every other process of that boot is dead, and those of other boots nobody can tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FakeProcesses {
    /// The boot.
    pub boot: u32,
    /// The number of this process.
    pub pid: u32,
}

impl FakeProcesses {
    /// Returns a process that comes after this one was killed.
    pub fn after_kill(self) -> Self {
        Self { pid: self.pid + 1, ..self }
    }

    /// Returns a process that comes after the machine was started anew.
    pub fn after_reboot(self) -> Self {
        Self { boot: self.boot + 1, pid: 1 }
    }

    fn boot_id(self) -> String {
        format!("boot {}", self.boot)
    }
}

impl Default for FakeProcesses {
    /// The first process of the first boot.
    fn default() -> Self {
        Self { boot: 1, pid: 1 }
    }
}

impl Processes for FakeProcesses {
    fn this(&self, host: &str) -> Process {
        Process { host: host.into(), boot_id: self.boot_id(), pid: self.pid, start_ticks: 1 }
    }

    fn fate(&self, process: &Process) -> Fate {
        match (process.boot_id == self.boot_id(), process.pid == self.pid) {
            (false, _) => Fate::Elsewhere,
            (true, true) => Fate::Alive,
            (true, false) => Fate::Dead,
        }
    }
}
