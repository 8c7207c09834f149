//! `rewrite`: take paths out of snapshots.

use std::path::PathBuf;

use clap::Args;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::rewrite::{RewriteOptions, RewriteReport, Rewritten};
use lakebed_engine::source::{Filter, FilterOptions};
use lakebed_engine::{Monitor, Repository};
use serde_json::{Value, json};

use super::select::{self, FilterArgs};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
Each snapshot in which a pattern matches is made anew without what matches, and the old one is forgotten. Patterns are those \
of .gitignore, matched against paths as they are in the snapshot. The new snapshot has another id and the same time, host, \
tags and description. The data are freed by the next `lakebed prune --max-unused 0`, unless a snapshot that was not named \
needs them; copies of the repository elsewhere still have them, and so has the source.

Examples:
  lakebed rewrite --repo /mnt/backup/lake --all --exclude 'secrets.env' --dry-run
  lakebed rewrite --repo /mnt/backup/lake --all --exclude 'secrets.env'
  lakebed rewrite --repo /mnt/backup/lake 3f9a latest --exclude '/data/lake/tmp/' --keep-original";

/// Take paths out of snapshots
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RewriteArgs {
    /// Snapshots: `latest`, the beginning of an id, or `@TIME`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// All snapshots, or all that the options below choose
    #[arg(long, conflicts_with = "snapshots")]
    all: bool,
    #[command(flatten)]
    patterns: PatternArgs,
    /// Do not forget the snapshots that were rewritten
    #[arg(long)]
    keep_original: bool,
    /// Only say what would be left out
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// What is left out.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct PatternArgs {
    /// Leave out what matches this pattern; `!` takes back in
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    exclude: Vec<String>,
    /// The same, upper and lower case taken as one
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    iexclude: Vec<String>,
    /// Leave out what matches the patterns in this file, one a line
    #[arg(long, value_name = "FILE", help_heading = "What is left out")]
    exclude_file: Vec<PathBuf>,
}

impl PatternArgs {
    fn filter(&self) -> Result<Filter, CliError> {
        select::left_out(&FilterOptions {
            exclude: self.exclude.clone(),
            iexclude: self.iexclude.clone(),
            exclude_files: self.exclude_file.clone(),
            ..FilterOptions::default()
        })
    }
}

impl RewriteArgs {
    /// Returns the snapshots that are meant, oldest first.
    fn chosen(&self, repository: &Repository, monitor: &dyn Monitor) -> Result<Vec<SnapshotInfo>, CliError> {
        if self.snapshots.is_empty() {
            if !self.all && !self.filter.is_given() {
                let message = "No snapshots were named: give SNAPSHOT, --all, or options such as --host and --tag";
                return Err(CliError::usage(message));
            }
            return Ok(repository.snapshots(&self.filter.filter())?);
        }
        if self.filter.is_given() {
            return Err(CliError::usage("Give names of snapshots or options that choose among all, not both"));
        }
        let mut chosen = Vec::new();
        for name in &self.snapshots {
            let info = select::find(repository, name, monitor)?;
            if !chosen.contains(&info) {
                chosen.push(info);
            }
        }
        Ok(chosen)
    }
}

pub(crate) fn run(ctx: &Context, args: &RewriteArgs) -> Result<Exit, CliError> {
    let filter = args.patterns.filter()?;
    let repository = ctx.open(if args.dry_run { Access::Read } else { Access::Write })?;
    let monitor = ctx.monitor()?;
    let chosen = args.chosen(&repository, &monitor)?;
    let options =
        RewriteOptions { keep_original: args.keep_original, dry_run: args.dry_run, ..RewriteOptions::default() };
    let result = repository.rewrite(&chosen, &filter, &options, &monitor);
    drop(monitor);
    let report = result?;
    ctx.ui.report(|| result_json(&report, &options), |out| print(out, &report, &options, ctx.ui.is_verbose()))?;
    Ok(Exit::Done)
}

/// So many paths of a snapshot are shown, unless all are asked for.
const PATHS_SHOWN: usize = 20;

fn print(out: Text<'_>, report: &RewriteReport, options: &RewriteOptions, all: bool) -> std::io::Result<()> {
    for rewritten in &report.rewritten {
        print_snapshot(out, rewritten, options)?;
        let shown = if all { rewritten.left_out.len() } else { PATHS_SHOWN };
        for left_out in rewritten.left_out.iter().take(shown) {
            let slash = if left_out.kind == EntryKind::Directory { "/" } else { "" };
            writeln!(out, "- {}{slash}", escape_path(&left_out.path))?;
        }
        let more = rewritten.left_out.len().saturating_sub(shown) as u64;
        if more > 0 {
            writeln!(out, "  and {}; --verbose lists all", ui::counted(more, "more path", "more paths"))?;
        }
    }
    let unchanged = report.unchanged.len() as u64;
    if unchanged > 0 {
        writeln!(out, "nothing matches in {}", ui::counted(unchanged, "snapshot", "snapshots"))?;
    }
    if !options.dry_run && !report.rewritten.is_empty() {
        match options.keep_original {
            true => writeln!(out, "the data stay: the originals were kept and still need them")?,
            false => writeln!(out, "the data go with the next `lakebed prune --max-unused 0`")?,
        }
        writeln!(
            out,
            "snapshots that were not named, copies of the repository elsewhere and the source still have them"
        )?;
    }
    Ok(())
}

fn print_snapshot(out: Text<'_>, rewritten: &Rewritten, options: &RewriteOptions) -> std::io::Result<()> {
    let id = rewritten.original.id.short();
    let files = ui::counted(rewritten.files, "file", "files");
    let bytes = ui::bytes(rewritten.bytes);
    match &rewritten.snapshot {
        None if options.dry_run => writeln!(out, "snapshot {id} would lose {files} ({bytes})"),
        None => writeln!(out, "snapshot {id} stays as it is"),
        Some(new) => {
            let kept = if rewritten.forgotten { "forgotten" } else { "kept" };
            writeln!(out, "snapshot {id} ({kept}) is now {} without {files} ({bytes})", new.id.short())
        }
    }
}

fn result_json(report: &RewriteReport, options: &RewriteOptions) -> Value {
    let rewritten = report.rewritten.iter().map(|rewritten| {
        let left_out = rewritten.left_out.iter();
        let left_out = left_out.map(|one| json!({ "path": escape_path(&one.path), "kind": one.kind.as_str() }));
        json!({
            "original": rewritten.original.id,
            "snapshot": rewritten.snapshot.as_ref().map(|info| info.id),
            "time": rewritten.original.snapshot.time,
            "forgotten": rewritten.forgotten,
            "left_out": left_out.collect::<Vec<_>>(),
            "files": rewritten.files,
            "bytes": rewritten.bytes,
        })
    });
    json!({
        "dry_run": options.dry_run,
        "rewritten": rewritten.collect::<Vec<_>>(),
        "unchanged": report.unchanged,
    })
}
