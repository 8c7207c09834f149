//! The real clock, the real randomness, and who we are.

use std::collections::BTreeSet;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use lakebed_core::monitor::Monitor;
use lakebed_core::process::{Fate, Processes};
use lakebed_core::record::session::Process;
use lakebed_core::record::snapshot::Owners;
use lakebed_core::time::{Clock, Random, Timestamp};

/// The clock of this machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    // the one place that asks the system for the time
    #[expect(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        jiff::Timestamp::now().into()
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, time: std::time::Duration) {
        std::thread::sleep(time);
    }
}

/// A run is asked so often whether it is to end, while all of it waits for something that is far away.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// Works while somebody else watches whether the work is to end, and says so once.
pub(crate) fn watched<T>(monitor: &dyn Monitor, end: &(dyn Fn() + Sync), work: impl FnOnce() -> T) -> T {
    let (working, watching) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watch = move || {
            while watching.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if monitor.is_cancelled() {
                    return end();
                }
            }
        };
        // where there is no thread for it, the end comes with the next answer
        let _ = std::thread::Builder::new().name("lakebed-watch".into()).spawn_scoped(scope, watch);
        let outcome = work();
        drop(working);
        outcome
    })
}

/// The randomness of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(buffer).map_err(std::io::Error::other)
    }
}

/// Starts threads for a verb; 0: one for each processor.
pub(crate) fn threads(count: usize, verb: &'static str) -> crate::Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(move |number| format!("lakebed-{verb}-{number}"))
        .build()
        .map_err(|error| crate::Error::Machine { operation: "start threads", source: std::io::Error::other(error) })
}

/// Returns the name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the name of the user who runs this process, or the number where there is no name.
pub fn user_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    name_in("/etc/passwd", uid).unwrap_or_else(|| uid.to_string())
}

/// The processes of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemProcesses;

impl Processes for SystemProcesses {
    fn this(&self, host: &str) -> Process {
        let pid = std::process::id();
        Process { host: host.into(), boot_id: boot_id(), pid, start_ticks: start_ticks(pid).unwrap_or_default() }
    }

    fn fate(&self, process: &Process) -> Fate {
        let here = boot_id();
        if here.is_empty() || process.boot_id != here {
            return Fate::Elsewhere;
        }
        let is_gone = match process_stat(process.pid) {
            // it is dead, and whoever started it has not asked for its exit code yet
            Some(('Z' | 'X', _)) => true,
            // the number may have gone to another process
            Some((_, ticks)) => process.start_ticks != 0 && ticks != process.start_ticks,
            // it may only be hidden from us
            None => match i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw) {
                Some(pid) => rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
                None => false,
            },
        };
        if is_gone { Fate::Dead } else { Fate::Alive }
    }
}

/// The boot, and the name space that process numbers belong to: containers of one host share the first only.
pub(crate) fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() { boot } else { format!("{} {}", boot.trim(), space.display()) }
}

fn start_ticks(pid: u32) -> Option<u64> {
    Some(process_stat(pid)?.1)
}

/// Returns the state of a process, and when it began.
fn process_stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command's name stands in parentheses and may hold anything; the state is field 3, the time of its start field 22
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Returns the names of the given users and groups, as far as `/etc/passwd` and `/etc/group` know them.
pub fn owner_names(users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
    Owners { users: names_in("/etc/passwd", users), groups: names_in("/etc/group", groups) }
}

fn names_in(file: &str, wanted: &BTreeSet<u32>) -> std::collections::BTreeMap<u32, String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    records(&text).filter(|(id, _)| wanted.contains(id)).map(|(id, name)| (id, name.to_owned())).collect()
}

fn name_in(file: &str, wanted: u32) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    records(&text).find(|(id, _)| *id == wanted).map(|(_, name)| name.to_owned())
}

/// Lines of `name:x:number:...`.
fn records(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        Some((parts.nth(1)?.parse().ok()?, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_started_earlier_under_its_number_is_dead() {
        let me = SystemProcesses.this("here");
        assert_eq!(SystemProcesses.fate(&me), Fate::Alive);
        if me.start_ticks > 0 {
            let earlier = Process { start_ticks: me.start_ticks - 1, ..me.clone() };
            assert_eq!(SystemProcesses.fate(&earlier), Fate::Dead);
        }
        assert_eq!(SystemProcesses.fate(&Process { boot_id: "another boot".into(), ..me }), Fate::Elsewhere);
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let start_ticks = start_ticks(pid).unwrap();
        while process_stat(pid).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        let zombie = Process { pid, start_ticks, ..SystemProcesses.this("here") };
        assert_eq!(SystemProcesses.fate(&zombie), Fate::Dead);
        child.wait().unwrap();
        assert_eq!(SystemProcesses.fate(&zombie), Fate::Dead);
    }
}
