//! What a command takes: wall time, processor time, peak memory.
//!
//! Each command runs under a small process of its own, whose descendants are no others, so that what the system says of
//! them together is what the command took.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What one command took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds that went by.
    pub wall: f64,
    /// Seconds of processor time, user and system.
    pub cpu: f64,
    /// Peak resident memory of the largest process, in MiB.
    pub rss: f64,
}

/// Runs a command line in a shell and measures it.
///
/// # Errors
/// It does not exit with 0.
pub fn measure(line: &str, env: &[(String, String)], work: &Path) -> Result<Figures, Failure> {
    let figures = work.join("figures.json");
    let _ = std::fs::remove_file(&figures);
    let mut command = Command::new(std::env::current_exe()?);
    // each has a cache of its own, below its home
    command.env_remove("XDG_CACHE_HOME").env_remove("LAKEBED_CACHE_DIR");
    command.arg("run").arg(&figures).arg(line).envs(env.iter().cloned());
    let output = command.stdin(Stdio::null()).output()?;
    match std::fs::read(&figures) {
        Ok(bytes) if output.status.success() => Ok(serde_json::from_slice(&bytes)?),
        _ => Err(format!("failed: {line}\n{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Runs a command line and writes down what it took. For the small process.
///
/// # Errors
/// It does not exit with 0.
pub fn run_here(figures: &Path, line: &str) -> Result<(), Failure> {
    let start = Instant::now();
    let status = Command::new("bash").args(["-o", "pipefail", "-c", line]).status()?;
    let wall = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{status}").into());
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    let all = Figures { wall, cpu, rss: usage.max_rss() as f64 / 1024.0 };
    std::fs::write(figures, serde_json::to_vec(&all)?)?;
    Ok(())
}

/// Runs a command line that is not measured.
///
/// # Errors
/// It does not exit with 0.
pub fn shell(line: &str) -> Result<(), Failure> {
    match Command::new("bash").args(["-o", "pipefail", "-c", line]).stdin(Stdio::null()).status()?.success() {
        true => Ok(()),
        false => Err(format!("failed: {line}").into()),
    }
}

/// Returns the bytes of all files below a folder.
///
/// # Errors
/// A folder cannot be read.
pub fn bytes_below(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for item in std::fs::read_dir(folder)? {
        let metadata = std::fs::symlink_metadata(item.as_ref().map_err(|error| error.to_string())?.path())?;
        bytes += if metadata.is_dir() { bytes_below(&item?.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
