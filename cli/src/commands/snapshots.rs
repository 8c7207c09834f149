//! `snapshots`: list snapshots.

use clap::{Args, Subcommand};
use lakebed_engine::core::record::gc::Tombstone;
use lakebed_engine::core::storage::ObjectKey;
use lakebed_engine::forget::{ForgottenCatalogue, ForgottenSnapshot};
use lakebed_engine::join::{JoinOptions, JoinReport};
use lakebed_engine::repository::{Catalogue, SnapshotFilter, SnapshotInfo};
use lakebed_engine::{Error, Repository};
use serde_json::{Value, json};

use super::select::FilterArgs;
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui::{self, Table, Text};

const EXAMPLES: &str = "\
A snapshot that is marked `partial` lacks something that could not be read; `--json` lists what. A record that is damaged \
is told of and does not hide the others; the exit code is then 4.

Examples:
  lakebed snapshots --repo /mnt/backup/lake
  lakebed snapshots --repo /mnt/backup/lake --since 2026-11-01 --tag nightly
  lakebed snapshots --repo /mnt/backup/lake --latest 5 --json
  lakebed snapshots --repo /mnt/backup/lake --forgotten";

/// List snapshots, the newest last
///
/// Shows what there is to restore: when each snapshot was made, where, of what, and how much is in it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct SnapshotsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only so many of the newest [default: all]
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// List the forgotten ones instead that `lakebed forget --undo` can bring back
    #[arg(long)]
    forgotten: bool,
    /// Also list parts that `lakebed backup --shard` has made and that are not joined yet
    #[arg(long)]
    shards: bool,
    #[command(subcommand)]
    command: Option<SnapshotsCommand>,
}

impl SnapshotsArgs {
    /// Returns the command's name, as JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            None => "snapshots",
            Some(SnapshotsCommand::Join(_)) => "snapshots join",
        }
    }
}

#[derive(Debug, Subcommand)]
enum SnapshotsCommand {
    Join(JoinArgs),
}

const JOIN_EXAMPLES: &str = "\
The last part joins a run by itself. This is for runs of which a part will not come, or was cut off after it had committed. \
Parts that were joined completely are forgotten.

Examples:
  lakebed snapshots join --repo s3://bucket/lake 2026-12-01
  lakebed snapshots join --repo s3://bucket/lake 2026-12-01 --partial";

/// Join the parts of a run that several machines have taken
///
/// Makes one snapshot of what `lakebed backup --shard` has made on each of them.
#[derive(Debug, Args)]
#[command(after_help = JOIN_EXAMPLES)]
struct JoinArgs {
    /// The run, as `--shard-run` has named it
    #[arg(value_name = "RUN")]
    run: String,
    /// Join what there is, though parts are missing; the snapshot is marked `partial`
    #[arg(long)]
    partial: bool,
}

/// What is listed.
struct Listing {
    snapshots: Vec<Listed>,
    damaged: Vec<(ObjectKey, Error)>,
}

/// A snapshot, and when and why it was forgotten, as far as that is known.
struct Listed {
    info: SnapshotInfo,
    tombstone: Option<Tombstone>,
}

impl Listing {
    fn read(repository: &Repository, forgotten: bool) -> Result<Self, CliError> {
        if forgotten {
            let ForgottenCatalogue { snapshots, damaged } = repository.forgotten_snapshots()?;
            let listed = |ForgottenSnapshot { info, tombstone }| Listed { info, tombstone };
            return Ok(Self { snapshots: snapshots.into_iter().map(listed).collect(), damaged });
        }
        let Catalogue { snapshots, damaged, .. } = repository.catalogue()?;
        let listed = |info| Listed { info, tombstone: None };
        Ok(Self { snapshots: snapshots.into_iter().map(listed).collect(), damaged })
    }
}

pub(crate) fn run(ctx: &Context, args: &SnapshotsArgs) -> Result<Exit, CliError> {
    if let Some(SnapshotsCommand::Join(args)) = &args.command {
        return join(ctx, args);
    }
    let repository = ctx.open(Access::Read)?;
    let Listing { mut snapshots, damaged } = Listing::read(&repository, args.forgotten)?;
    let filter = SnapshotFilter { shards: args.shards, ..args.filter.filter() };
    snapshots.retain(|listed| filter.matches(&listed.info.snapshot));
    let skipped = args.latest.map_or(0, |latest| snapshots.len().saturating_sub(latest));
    snapshots.drain(..skipped);
    for (_, error) in &damaged {
        ctx.ui.warn(&one_line(error));
    }
    if !damaged.is_empty() {
        ctx.ui.warn("`lakebed repair` shows what can be put right");
    }
    ctx.ui.answer(
        || {
            let damaged = damaged.iter();
            let damaged = damaged.map(|(key, error)| json!({ "object": key.as_str(), "problem": one_line(error) }));
            json!({
                "snapshots": snapshots.iter().map(|listed| listed_json(listed, args.forgotten)).collect::<Vec<_>>(),
                "damaged": damaged.collect::<Vec<_>>(),
            })
        },
        |out| print(out, &snapshots, args.forgotten),
    )?;
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::Damage })
}

fn join(ctx: &Context, args: &JoinArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Write)?;
    let mut options = JoinOptions::default();
    options.allow_missing = args.partial;
    let report = repository.join(&args.run, &options, &ctx.monitor()?)?;
    ctx.ui.report(|| joined_json(&report), |out| writeln!(out, "{}", joined(&report)))?;
    Ok(if report.snapshot.snapshot.is_complete() { Exit::Done } else { Exit::Partial })
}

/// Says what joining came to.
pub(super) fn joined(report: &JoinReport) -> String {
    let JoinReport { snapshot: SnapshotInfo { id, snapshot }, was_there, missing } = report;
    let parts = snapshot.joined.as_ref().map_or(0, |joined| joined.shards.len()) as u64;
    let parts = ui::counted(parts, "part", "parts");
    let how = if *was_there { "was joined before from" } else { "joined from" };
    let lacks = match missing.len() as u64 {
        0 => String::new(),
        count => format!("; {} missing", ui::counted(count, "part is", "parts are")),
    };
    let files = ui::counted(snapshot.summary.files, "file", "files");
    format!("snapshot {} {how} {parts}: {files}{lacks}", id.short())
}

/// Returns what joining came to as JSON has it.
pub(super) fn joined_json(report: &JoinReport) -> Value {
    json!({
        "snapshot": report.snapshot.id,
        "time": report.snapshot.snapshot.time,
        "was_there": report.was_there,
        "missing": report.missing,
        "complete": report.snapshot.snapshot.is_complete(),
        "summary": report.snapshot.snapshot.summary,
    })
}

fn print(out: Text<'_>, snapshots: &[Listed], forgotten: bool) -> std::io::Result<()> {
    let kind = if forgotten { "forgotten " } else { "" };
    if snapshots.is_empty() {
        return writeln!(out, "no {kind}snapshots");
    }
    let headings = ["ID", "Time", "Host", "Tags", "Paths", ">Files", ">Size", "", "Forgotten", "Because of"];
    let shown = if forgotten { headings.len() } else { headings.len() - 2 };
    let mut table = Table::new(&headings[..shown]);
    for listed in snapshots {
        let mut row = row(&listed.info);
        if forgotten {
            row.extend(match &listed.tombstone {
                Some(tombstone) => [ui::local_time(tombstone.time), ui::plain(&tombstone.reason)],
                None => ["?".into(), "?".into()],
            });
        }
        table.row(row);
    }
    table.write(out)?;
    let (one, many) = (format!("{kind}snapshot"), format!("{kind}snapshots"));
    writeln!(out, "{}", ui::counted(snapshots.len() as u64, &one, &many))
}

fn row(info: &SnapshotInfo) -> Vec<String> {
    let snapshot = &info.snapshot;
    let paths: Vec<String> = snapshot.sources.iter().map(|source| ui::source_path(&source.uri)).collect();
    vec![
        info.id.short(),
        ui::local_time(snapshot.time),
        ui::plain(&snapshot.host),
        ui::plain(&snapshot.tags.join(",")),
        paths.join(" "),
        ui::count(snapshot.summary.files),
        ui::bytes(snapshot.summary.bytes),
        match &snapshot.shard {
            Some(shard) => format!("part {}", ui::plain(&shard.to_string())),
            None if snapshot.is_complete() => String::new(),
            None => "partial".into(),
        },
    ]
}

fn listed_json(listed: &Listed, forgotten: bool) -> Value {
    let mut value = snapshot_json(&listed.info);
    if let (true, Some(map)) = (forgotten, value.as_object_mut()) {
        let tombstone = listed.tombstone.as_ref();
        let tombstone = tombstone.map(|tombstone| json!({ "time": tombstone.time, "rule": tombstone.reason }));
        map.insert("forgotten".into(), tombstone.into());
    }
    value
}

/// Returns a snapshot as JSON has it.
fn snapshot_json(info: &SnapshotInfo) -> Value {
    let snapshot = &info.snapshot;
    json!({
        "id": info.id,
        "time": snapshot.time,
        "host": snapshot.host,
        "user": snapshot.user,
        "tags": snapshot.tags,
        "description": snapshot.description,
        "sources": snapshot.sources,
        "parent": snapshot.parent,
        "original": snapshot.original,
        "shard": snapshot.shard,
        "joined": snapshot.joined,
        "complete": snapshot.is_complete(),
        "failures": snapshot.failures,
        "summary": snapshot.summary,
        "tool": snapshot.tool,
    })
}
