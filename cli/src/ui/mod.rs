//! All output. Whether it is text or JSON is decided once, when the process starts.
//!
//! Standard output carries answers and reports, standard error what happens meanwhile: progress, warnings, errors.

mod format;
mod json;
mod progress;

pub(crate) use format::{
    Table, action_sign, bytes, count, counted, duration, entry_json, local_time, mode, percent, plain, rate, ratio,
    source_path, text_of,
};
pub(crate) use json::repository as repository_json;
pub(crate) use progress::{CliMonitor, cancel_flag};

use std::io::{BufWriter, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use indicatif::ProgressBar;
use lakebed_connectors::Tell;
use lakebed_connectors::object_storage::{ObjectStorage, Prices, Traffic};
use lakebed_engine::Repository;
use serde_json::Value;

use crate::error::{CliError, Exit};

/// Where output goes, and in which form.
pub(crate) struct Ui {
    command: &'static str,
    json: bool,
    quiet: bool,
    verbose: bool,
    repository: OnceLock<Value>,
    /// Object stores whose requests are told of, and what these cost.
    stores: Mutex<Vec<Arc<ObjectStorage>>>,
    prices: Option<Prices>,
    shows_progress: bool,
    bar: ProgressBar,
}

/// Writes text; fails where standard output does.
pub(crate) type Text<'a> = &'a mut dyn Write;

impl Ui {
    /// Decides how output looks.
    pub(crate) fn new(command: &'static str, json: bool, quiet: bool, verbose: bool, prices: Option<Prices>) -> Self {
        let shows_progress = !json && !quiet && std::io::stderr().is_terminal();
        let bar = if shows_progress { ProgressBar::no_length() } else { ProgressBar::hidden() };
        // nothing is drawn before a phase begins
        bar.finish_and_clear();
        Self {
            command,
            json,
            quiet,
            verbose,
            repository: OnceLock::new(),
            stores: Mutex::default(),
            prices,
            shows_progress,
            bar,
        }
    }

    /// Tells whether output is a JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Tells whether each entry is to be told of.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Tells whether standard output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    /// Notes which repository is worked with.
    pub(crate) fn set_repository(&self, repository: &Repository) {
        let info = repository.info();
        // a process works with one repository; a second call would say the same
        let _ = self.repository.set(json::repository(&info));
    }

    /// Notes an object store, to tell what was asked of it.
    pub(crate) fn add_store(&self, store: Arc<ObjectStorage>) {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(store);
    }

    /// Returns what was asked of all object stores together; `None` where there is none.
    fn traffic(&self) -> Option<Traffic> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.iter().map(|store| store.traffic()).reduce(|one, other| one + other)
    }

    /// Prints what was asked for.
    pub(crate) fn answer(
        &self,
        result: impl FnOnce() -> Value,
        text: impl FnOnce(Text<'_>) -> std::io::Result<()>,
    ) -> Result<(), CliError> {
        if self.json {
            self.document(json::Outcome::Result(result()))
        } else {
            self.write(|out| text(out).map_err(CliError::output))
        }
    }

    /// Prints what was done; silent with `--quiet`.
    pub(crate) fn report(
        &self,
        result: impl FnOnce() -> Value,
        text: impl FnOnce(Text<'_>) -> std::io::Result<()>,
    ) -> Result<(), CliError> {
        if self.quiet && !self.json {
            return Ok(());
        }
        self.answer(result, |out| {
            text(out)?;
            match self.traffic() {
                Some(traffic) => writeln!(out, "{}", format::traffic(&traffic, self.prices.as_ref())),
                None => Ok(()),
            }
        })
    }

    /// Passes buffered standard output to `write`, and flushes it. Not while progress is shown.
    pub(crate) fn write<T>(&self, write: impl FnOnce(Text<'_>) -> Result<T, CliError>) -> Result<T, CliError> {
        let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
        let result = write(&mut out)?;
        out.flush().map_err(CliError::output)?;
        Ok(result)
    }

    /// Prints a line of what happens to one entry. A reader that has gone is no reason to stop the run.
    pub(crate) fn line(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stdout(), "{line}");
        });
    }

    fn document(&self, outcome: json::Outcome) -> Result<(), CliError> {
        let document = json::Document::new(Some(self.command), self.repository.get(), outcome);
        let document =
            document.with_traffic(self.traffic().map(|traffic| json::traffic(&traffic, self.prices.as_ref())));
        self.write(|out| {
            serde_json::to_writer(&mut *out, &document).map_err(|error| CliError::output(error.into()))?;
            out.write_all(b"\n").map_err(CliError::output)
        })
    }

    /// Tells of something that does not stop the run.
    pub(crate) fn warn(&self, message: &str) {
        self.error_line(&format!("warning: {message}"));
    }

    /// Returns who tells, from any thread, of something that does not stop the run.
    pub(crate) fn teller(&self) -> Tell {
        let bar = self.bar.clone();
        Arc::new(move |message| {
            bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "warning: {message}");
            });
        })
    }

    fn error_line(&self, line: &str) {
        // where standard error is gone there is nobody left to tell
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Ends the process: prints the error, if there is one, and returns the exit code.
    pub(crate) fn finish(&self, result: Result<Exit, CliError>) -> u8 {
        self.bar.finish_and_clear();
        let error = match result {
            Ok(exit) => return exit.code(),
            Err(error) if error.is_closed_pipe() => return 0,
            Err(error) => error,
        };
        if self.json {
            // standard error says it where standard output cannot
            if self.document(json::error(&error)).is_ok() {
                return error.exit_code();
            }
        }
        self.error_line(error_text(&error).trim_end());
        error.exit_code()
    }
}

/// Writes an error as people read it: the error, its causes, a hint.
fn error_text(error: &CliError) -> String {
    let mut text = format!("Error: {error}\n");
    let causes = error.causes();
    if !causes.is_empty() {
        text.push_str("Caused by:\n");
        for (number, cause) in causes.iter().enumerate() {
            text.push_str(&format!("{}: {cause}\n", number + 1));
        }
    }
    if let Some(hint) = error.advice() {
        text.push_str(&format!("Hint: {hint}\n"));
    }
    text
}

/// Prints what clap says about a command line that it could not read, or the help that was asked for, and returns the
/// exit code.
pub(crate) fn usage(error: &clap::Error, commands: &[&str]) -> u8 {
    let code = u8::try_from(error.exit_code()).unwrap_or(crate::error::code::USAGE);
    let wants_json = std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() || !wants_json {
        // there is nobody to tell where it cannot be printed
        let _ = error.print();
        return code;
    }
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // what was meant, as far as it can be told
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let command = commands.iter().copied().find(|command| args.iter().any(|arg| arg == *command));
    let document = json::Document::new(command, None, json::error(&CliError::usage(first)));
    let text = serde_json::to_string(&document).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakebed_engine::Error;
    use lakebed_engine::core::layout;

    #[test]
    fn errors_read_well() {
        let error = CliError::from(Error::Damaged {
            key: layout::config(),
            source: lakebed_engine::core::codec::frame::FrameError::Decompress { why: "bad magic".into() },
        });
        assert_eq!(
            error_text(&error),
            "Error: The object `lakebed.json` is damaged\n\
             Caused by:\n\
             1: it cannot be decompressed: bad magic\n\
             Hint: `lakebed verify --read-data` tells what is affected, `lakebed repair --read-data` what can be put right\n"
        );
        assert_eq!(error_text(&CliError::usage("Give a path")), "Error: Give a path\n");
    }
}
