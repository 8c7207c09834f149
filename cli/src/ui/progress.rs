//! Progress bars on a terminal, warnings, and signals.

use std::io::Error as IoError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressState, ProgressStyle};
use lakebed_engine::core::source::SourceError;
use lakebed_engine::{Monitor, Phase, Progress};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Ui;
use super::format::count;
use crate::error::{CliError, code, one_line};

/// Redraws so often that it looks alive, and so seldom that it costs nothing.
const TICK: Duration = Duration::from_millis(120);

/// Returns the flag that a first SIGINT or SIGTERM raises; a second one ends the process.
pub(crate) fn cancel_flag() -> Result<Arc<AtomicBool>, CliError> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let flag = Arc::new(AtomicBool::new(false));
    let register = |signal| -> Result<(), IoError> {
        // in this order: the first signal finds the flag down, passes here, and raises it
        signal_hook::flag::register_conditional_shutdown(signal, code::INTERRUPTED.into(), flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
        Ok(())
    };
    for signal in [SIGINT, SIGTERM] {
        register(signal).map_err(|error| CliError::failed("Cannot watch for signals").caused_by(error))?;
    }
    Ok(FLAG.get_or_init(|| flag).clone())
}

/// Shows progress and warnings.
pub(crate) struct CliMonitor<'a> {
    ui: &'a Ui,
    cancelled: Arc<AtomicBool>,
    entries: Arc<AtomicU64>,
    /// The bar's position counts entries, since the bytes are not known.
    counts_entries: AtomicBool,
}

impl<'a> CliMonitor<'a> {
    /// Begins to watch for signals.
    pub(crate) fn new(ui: &'a Ui) -> Result<Self, CliError> {
        Ok(Self::with_flag(ui, cancel_flag()?))
    }

    /// Leaves signals as they are.
    pub(crate) fn for_question(ui: &'a Ui) -> Self {
        Self::with_flag(ui, Arc::default())
    }

    fn with_flag(ui: &'a Ui, cancelled: Arc<AtomicBool>) -> Self {
        Self { ui, cancelled, entries: Arc::default(), counts_entries: AtomicBool::new(false) }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Backup => "Backing up",
        Phase::Copy => "Copying",
        Phase::Commit => "Making durable",
        Phase::Index => "Updating the index",
        Phase::Plan => "Planning",
        Phase::Restore => "Restoring",
        Phase::VerifyStructure => "Checking the structure",
        Phase::VerifyData => "Reading packs",
        Phase::Mark => "Finding out what is needed",
        Phase::Await => "Waiting for running backups",
        Phase::Repack => "Freeing packs",
        _ => "Working",
    }
}

fn template(total: Option<Progress>) -> &'static str {
    match total {
        Some(total) if total.bytes > 0 => {
            "{spinner} {msg} [{bar:30}] {percent}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
        }
        Some(_) => "{spinner} {msg} [{bar:30}] {percent}%  {human_pos} of {human_len}  {eta} left",
        None => "{spinner} {msg}  {entries} entries  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
    }
}

impl Monitor for CliMonitor<'_> {
    fn phase(&self, phase: Phase, total: Option<Progress>) {
        let bar = &self.ui.bar;
        if !self.ui.shows_progress {
            return;
        }
        let total = total.filter(|total| *total != Progress::default());
        self.entries.store(0, Ordering::Relaxed);
        self.counts_entries.store(total.is_some_and(|total| total.bytes == 0), Ordering::Relaxed);
        let entries = self.entries.clone();
        let write = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            // a bar that cannot be drawn is no reason to stop
            let _ = out.write_str(&count(entries.load(Ordering::Relaxed)));
        };
        if let Ok(style) = ProgressStyle::with_template(template(total)) {
            bar.set_style(style.with_key("entries", write).progress_chars("=> "));
        }
        match total {
            Some(total) if total.bytes > 0 => bar.set_length(total.bytes),
            Some(total) => bar.set_length(total.entries),
            None => bar.unset_length(),
        }
        bar.reset();
        bar.set_message(phase_name(phase));
        bar.enable_steady_tick(TICK);
    }

    fn advance(&self, step: Progress) {
        if !self.ui.shows_progress {
            return;
        }
        self.entries.fetch_add(step.entries, Ordering::Relaxed);
        self.ui.bar.inc(if self.counts_entries.load(Ordering::Relaxed) { step.entries } else { step.bytes });
    }

    fn entry_failed(&self, error: &SourceError) {
        let line = one_line(error);
        let mut letters = line.chars();
        let first = letters.next().map(|c| c.to_ascii_lowercase()).into_iter();
        self.ui.warn(&first.chain(letters).collect::<String>());
    }

    fn warn(&self, message: &str) {
        self.ui.warn(message);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for CliMonitor<'_> {
    fn drop(&mut self) {
        self.ui.bar.disable_steady_tick();
        self.ui.bar.finish_and_clear();
    }
}
