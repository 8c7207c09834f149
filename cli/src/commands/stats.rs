//! `stats`: how much there is, and how much it takes.

use clap::Args;
use lakebed_engine::query::{RepositoryStats, SnapshotStats, repository_stats, snapshot_stats};
use lakebed_engine::repository::SnapshotInfo;
use serde_json::{Value, json};

use super::select::{self, FilterArgs};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
Logical bytes are what a restore writes; unique bytes are those of different pieces; stored bytes are what the repository \
takes, compressed, with all that is needed beside the content.

Examples:
  lakebed stats --repo /mnt/backup/lake
  lakebed stats --repo /mnt/backup/lake latest
  lakebed stats --repo /mnt/backup/lake --host node7 --json";

/// Show how much there is, and how much it takes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatsArgs {
    /// One snapshot: `latest`, the beginning of an id, or `@TIME` [default: the repository]
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["host", "tag", "path", "since", "until"])]
    snapshot: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(ctx: &Context, args: &StatsArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Read)?;
    let monitor = ctx.question();
    if let Some(name) = &args.snapshot {
        let info = select::find(&repository, name, &ctx.question())?;
        let reader = repository.reader(&monitor)?;
        let stats = snapshot_stats(&reader, &info, &monitor)?;
        ctx.ui.answer(|| snapshot_json(&info, &stats), |out| print_snapshot(out, &info, &stats))?;
        return Ok(Exit::Done);
    }
    let catalogue = repository.catalogue()?;
    for (_, error) in &catalogue.damaged {
        ctx.ui.warn(&one_line(error));
    }
    let filter = args.filter.filter();
    let snapshots: Vec<_> = catalogue.snapshots.into_iter().filter(|info| filter.matches(&info.snapshot)).collect();
    let stats = repository_stats(&repository, &snapshots, &monitor)?;
    ctx.ui.answer(|| repository_json(&stats), |out| print_repository(out, &stats))?;
    Ok(if catalogue.damaged.is_empty() { Exit::Done } else { Exit::Damage })
}

fn print_snapshot(out: Text<'_>, info: &SnapshotInfo, stats: &SnapshotStats) -> std::io::Result<()> {
    let (count, bytes) = (ui::count, ui::bytes);
    writeln!(out, "snapshot {} of {}", info.id.short(), ui::local_time(info.snapshot.time))?;
    let (files, directories, others) = (count(stats.files), count(stats.directories), count(stats.others));
    writeln!(out, "entries:  {files} files, {directories} directories, {others} others")?;
    writeln!(out, "logical:  {}", bytes(stats.logical_bytes))?;
    let ratio = ui::ratio(stats.logical_bytes, stats.unique_bytes);
    writeln!(out, "unique:   {} in {} chunks ({ratio})", bytes(stats.unique_bytes), count(stats.chunks))
}

fn print_repository(out: Text<'_>, stats: &RepositoryStats) -> std::io::Result<()> {
    let (count, bytes) = (ui::count, ui::bytes);
    writeln!(out, "snapshots: {}", count(stats.snapshots))?;
    writeln!(out, "logical:   {}", bytes(stats.logical_bytes))?;
    let ratio = ui::ratio(stats.logical_bytes, stats.unique_bytes);
    let chunks = count(stats.chunks);
    writeln!(out, "unique:    {} in {chunks} chunks (deduplication {ratio})", bytes(stats.unique_bytes))?;
    let ratio = ui::ratio(stats.unique_bytes, stats.data_packs.1);
    let packs = ui::counted(stats.data_packs.0, "pack", "packs");
    writeln!(out, "content:   {} in {packs} (compression {ratio})", bytes(stats.data_packs.1))?;
    let packs = ui::counted(stats.tree_packs.0, "pack", "packs");
    writeln!(out, "trees:     {} in {packs}", bytes(stats.tree_packs.1))?;
    let ratio = ui::ratio(stats.logical_bytes, stats.stored_bytes);
    let objects = count(stats.objects);
    writeln!(out, "stored:    {} in {objects} objects (in all {ratio})", bytes(stats.stored_bytes))?;
    writeln!(
        out,
        "index:     {} entries, {} on disk, {} in memory",
        count(stats.index.blobs),
        bytes(stats.index.disk_bytes),
        bytes(stats.index.memory_bytes)
    )
}

fn snapshot_json(info: &SnapshotInfo, stats: &SnapshotStats) -> Value {
    json!({
        "snapshot": info.id,
        "time": info.snapshot.time,
        "files": stats.files,
        "directories": stats.directories,
        "others": stats.others,
        "logical_bytes": stats.logical_bytes,
        "unique_bytes": stats.unique_bytes,
        "chunks": stats.chunks,
    })
}

fn repository_json(stats: &RepositoryStats) -> Value {
    let packs = |(packs, bytes): (u64, u64)| json!({ "packs": packs, "bytes": bytes });
    json!({
        "snapshots": stats.snapshots,
        "logical_bytes": stats.logical_bytes,
        "unique_bytes": stats.unique_bytes,
        "chunks": stats.chunks,
        "stored_bytes": stats.stored_bytes,
        "objects": stats.objects,
        "data_packs": packs(stats.data_packs),
        "tree_packs": packs(stats.tree_packs),
        "index": {
            "packs": stats.index.packs,
            "entries": stats.index.blobs,
            "disk_bytes": stats.index.disk_bytes,
            "memory_bytes": stats.index.memory_bytes,
        },
    })
}
