//! Programs that hand something over.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

/// A process that takes longer is given up.
const PROCESS_MAX: Duration = Duration::from_secs(60);

/// Why a process gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It did not start.
    #[error("Cannot run it")]
    Run(#[source] std::io::Error),
    /// It failed.
    #[error("it ended with {status}: {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it said about it.
        said: String,
    },
    /// It goes on and on.
    #[error("it has not ended after a minute")]
    TooLong,
}

/// Runs a command line, and returns what it prints.
pub(crate) async fn output_of(line: &str) -> Result<Vec<u8>, ProcessError> {
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROCESS_MAX, command.output()).await;
    let output = output.map_err(|_| ProcessError::TooLong)?.map_err(ProcessError::Run)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(ProcessError::Failed { status: output.status, said: in_one_line(&output.stderr) }),
    }
}

/// Returns the beginning of what somebody said, without line ends.
pub(crate) fn in_one_line(said: &[u8]) -> String {
    const LONGEST: usize = 300;
    let words = String::from_utf8_lossy(said).split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{} ...", &words[..at]),
        None => words,
    }
}

/// Returns a word as the shell takes it for one.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
