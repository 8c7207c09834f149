//! `copy`: copy snapshots from another repository.

use std::path::PathBuf;

use clap::Args;
use lakebed_engine::copy::{CopiedSnapshot, CopyOptions, CopyOutcome, CopyReport, CopySelection, copy};
use lakebed_engine::core::codec::compress::Compression;
use lakebed_engine::{Monitor, Repository};
use serde_json::{Value, json};

use super::select::{self, FilterArgs};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::location::Location;
use crate::secret::FromSecretArgs;
use crate::size::parse_rate;
use crate::ui;

const EXAMPLES: &str = "\
A copy keeps time, host, user, tags, description and all metadata of its original, and has an id of its own. What the \
repository has already is not stored twice. A snapshot that it has and that lacks something is made whole again: from a \
copy also the original. Damage in the repository that is copied from is told, listed in the copy and left out; the exit \
code is then 4, and the next run tries again.

Examples:
  lakebed copy --from-repo /mnt/backup/lake --repo /mnt/offsite/lake
  lakebed copy --from-repo /mnt/backup/lake --repo /mnt/offsite/lake --since 2026-11-01 --tag monthly
  lakebed copy --from-repo /mnt/backup/lake --from-key-file /etc/lake.key --repo /mnt/offsite/lake latest";

/// Copy snapshots from another repository
///
/// Reads snapshots of the repository that --from-repo names and stores them in the one that --repo names, with its own
/// keys and chunks. Only what changed since the last copied snapshot is read. Every copy is compared with its original
/// before it counts. A run that was interrupted is continued by the next one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CopyArgs {
    /// Snapshots: `latest`, the beginning of an id, or `@TIME` [default: all that match]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// The repository that is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "The repository to copy from")]
struct FromArgs {
    /// A folder or a place on an object store, as --repo
    #[arg(long, env = "LAKEBED_FROM_REPO", value_name = "FOLDER|URL")]
    from_repo: Option<PathBuf>,
    #[command(flatten)]
    secret: FromSecretArgs,
}

/// How it is done.
#[derive(Debug, Args)]
#[command(next_help_heading = "How it is done")]
struct HowArgs {
    /// fastest, fast, balanced, max, archival, none, or a zstd level from -7 to 22
    #[arg(long, value_name = "HOW", default_value_t, allow_hyphen_values = true)]
    compression: Compression,
    /// Bytes a second to read at most, such as 50MiB [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_read: Option<u64>,
    /// Bytes a second to write at most, such as 50MiB [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_write: Option<u64>,
    /// Worker threads [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    threads: usize,
    /// Only say which snapshots would be copied
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl CopyArgs {
    fn options(&self, from: &Repository, monitor: &dyn Monitor) -> Result<CopyOptions, CliError> {
        let filter = self.filter.filter();
        let defaults = CopyOptions::default();
        let selection = match self.snapshots.as_slice() {
            [] => CopySelection::Matching(filter),
            names => {
                let find = |name: &String| Ok(from.find_snapshot(&select::selector(name)?, &filter, monitor)?.id);
                CopySelection::These(names.iter().map(find).collect::<Result<_, CliError>>()?)
            }
        };
        // --host chooses snapshots here
        let host = std::env::var("LAKEBED_HOST").ok().filter(|host| !host.is_empty());
        Ok(CopyOptions {
            selection,
            host: host.unwrap_or(defaults.host),
            compression: self.how.compression,
            threads: self.how.threads,
            read_limit: self.how.limit_read,
            write_limit: self.how.limit_write,
            dry_run: self.how.dry_run,
            ..defaults
        })
    }
}

pub(crate) fn run(ctx: &Context, args: &CopyArgs) -> Result<Exit, CliError> {
    let unnamed =
        "No repository to copy from was named: give --from-repo FOLDER, --from-repo URL or set LAKEBED_FROM_REPO";
    let from = Location::parse(args.from.from_repo.as_deref(), unnamed)?;
    let to = ctx.open(if args.how.dry_run { Access::Read } else { Access::Write })?;
    let from = ctx.open_other(&from, &args.from.secret.places())?;
    let options = args.options(&from, &ctx.question())?;
    let monitor = ctx.monitor()?;
    let visitor = |copied: &CopiedSnapshot| {
        if !ctx.ui.is_json() && !ctx.globals.quiet {
            ctx.ui.line(&line(copied, options.dry_run));
        }
    };
    let result = copy(&from, &to, &options, &visitor, &monitor);
    drop(monitor);
    let report = result?;
    ctx.ui.report(
        || result_json(&report, &from, options.dry_run),
        |out| {
            writeln!(out, "{}", total(&report))?;
            if options.dry_run { writeln!(out, "dry run: nothing was written") } else { Ok(()) }
        },
    )?;
    Ok(if report.is_complete() { Exit::Done } else { Exit::Damage })
}

/// Says what became of a snapshot, or would.
fn line(copied: &CopiedSnapshot, dry_run: bool) -> String {
    let original = &copied.original;
    let copy = copied.copy.map(|id| id.short()).unwrap_or_default();
    let stored = ui::bytes(copied.summary.bytes_stored);
    let what = match copied.outcome {
        CopyOutcome::Copied if dry_run => "would be copied".into(),
        CopyOutcome::Copied => {
            let resumed = if copied.resumed { ", continued from an interrupted run" } else { "" };
            let read = ui::bytes(copied.summary.bytes_read);
            format!("copied as {copy}, {read} read, {stored} stored{resumed}")
        }
        CopyOutcome::Present => format!("there already, as {copy}"),
        CopyOutcome::Healed if dry_run => {
            format!("there already, as {copy}, which lacks something and would be healed")
        }
        CopyOutcome::Healed => format!("healed {copy}, {stored} stored"),
        CopyOutcome::Unreadable => "cannot be read".into(),
    };
    let lacking = match copied.failures.len() as u64 {
        0 => String::new(),
        _ if copied.outcome == CopyOutcome::Unreadable => ", told above".into(),
        count => format!("; {} damaged and left out, told above", ui::counted(count, "entry", "entries")),
    };
    format!("snapshot {} of {}: {what}{lacking}", original.id.short(), ui::local_time(original.snapshot.time))
}

fn total(report: &CopyReport) -> String {
    let count = |outcome| report.snapshots.iter().filter(|copied| copied.outcome == outcome).count() as u64;
    let mut parts = vec![
        format!("{} copied", ui::counted(count(CopyOutcome::Copied), "snapshot", "snapshots")),
        format!("{} there already", ui::count(count(CopyOutcome::Present))),
    ];
    for (outcome, word) in [(CopyOutcome::Healed, "healed"), (CopyOutcome::Unreadable, "unreadable")] {
        if count(outcome) > 0 {
            parts.push(format!("{} {word}", ui::count(count(outcome))));
        }
    }
    parts.join(", ")
}

fn outcome_name(outcome: CopyOutcome) -> &'static str {
    match outcome {
        CopyOutcome::Copied => "copied",
        CopyOutcome::Present => "present",
        CopyOutcome::Healed => "healed",
        CopyOutcome::Unreadable => "unreadable",
    }
}

fn result_json(report: &CopyReport, from: &Repository, dry_run: bool) -> Value {
    let snapshots = report.snapshots.iter().map(|copied| {
        json!({
            "snapshot": copied.original.id,
            "time": copied.original.snapshot.time,
            "copy": copied.copy,
            "outcome": outcome_name(copied.outcome),
            "resumed": copied.resumed,
            "failures": copied.failures,
            "summary": copied.summary,
        })
    });
    let damaged = report.damaged.iter();
    let damaged = damaged.map(|(key, error)| json!({ "object": key.as_str(), "problem": one_line(error) }));
    json!({
        "from": ui::repository_json(&from.info()),
        "dry_run": dry_run,
        "complete": report.is_complete(),
        "snapshots": snapshots.collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
    })
}
