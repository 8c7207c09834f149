//! `snapshots`: list snapshots.

use clap::Args;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::repository::SnapshotInfo;
use serde_json::{Value, json};

use super::select::FilterArgs;
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui::{self, Table};

const EXAMPLES: &str = "\
A snapshot that is marked `partial` lacks something that could not be read; `--json` lists what. A record that is damaged \
is told of and does not hide the others; the exit code is then 4.

Examples:
  lakebed snapshots --repo /mnt/backup/lake
  lakebed snapshots --repo /mnt/backup/lake --since 2026-11-01 --tag nightly
  lakebed snapshots --repo /mnt/backup/lake --latest 5 --json";

/// List snapshots, the newest last
///
/// Shows what there is to restore: when each snapshot was made, where, of what, and how much is in it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SnapshotsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only so many of the newest [default: all]
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
}

pub(crate) fn run(ctx: &Context, args: &SnapshotsArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Read)?;
    let catalogue = repository.catalogue()?;
    let filter = args.filter.filter();
    let mut snapshots: Vec<_> = catalogue.snapshots.iter().filter(|info| filter.matches(&info.snapshot)).collect();
    let skipped = args.latest.map_or(0, |latest| snapshots.len().saturating_sub(latest));
    snapshots.drain(..skipped);
    for (_, error) in &catalogue.damaged {
        ctx.ui.warn(&one_line(error));
    }
    if !catalogue.damaged.is_empty() {
        ctx.ui.warn("`lakebed repair` shows what can be put right");
    }
    ctx.ui.answer(
        || {
            let damaged = catalogue.damaged.iter();
            let damaged = damaged.map(|(key, error)| json!({ "object": key.as_str(), "problem": one_line(error) }));
            json!({
                "snapshots": snapshots.iter().map(|info| snapshot_json(info)).collect::<Vec<_>>(),
                "damaged": damaged.collect::<Vec<_>>(),
            })
        },
        |out| {
            if snapshots.is_empty() {
                return writeln!(out, "no snapshots");
            }
            let mut table = Table::new(&["ID", "Time", "Host", "Tags", "Paths", ">Files", ">Size", ""]);
            for info in &snapshots {
                table.row(row(info));
            }
            table.write(out)?;
            writeln!(out, "{}", ui::counted(snapshots.len() as u64, "snapshot", "snapshots"))
        },
    )?;
    Ok(if catalogue.damaged.is_empty() { Exit::Done } else { Exit::Damage })
}

fn row(info: &SnapshotInfo) -> Vec<String> {
    let snapshot = &info.snapshot;
    let paths: Vec<String> = snapshot.sources.iter().map(|source| source_path(&source.uri)).collect();
    vec![
        info.id.short(),
        ui::local_time(snapshot.time),
        ui::plain(&snapshot.host),
        ui::plain(&snapshot.tags.join(",")),
        paths.join(" "),
        ui::count(snapshot.summary.files),
        ui::bytes(snapshot.summary.bytes),
        if snapshot.is_complete() { String::new() } else { "partial".into() },
    ]
}

/// Shows a local folder as a path; others keep their URI.
fn source_path(uri: &str) -> String {
    let Some(encoded) = uri.strip_prefix("file://") else { return ui::plain(uri) };
    let mut path = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                path.push(decoded);
                rest = &after[2..];
            }
            None => {
                path.push(byte);
                rest = after;
            }
        }
    }
    escape_path(&path)
}

/// Returns a snapshot as JSON has it.
pub(crate) fn snapshot_json(info: &SnapshotInfo) -> Value {
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
        "complete": snapshot.is_complete(),
        "failures": snapshot.failures,
        "summary": snapshot.summary,
        "tool": snapshot.tool,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_shown_as_paths() {
        assert_eq!(source_path("file:///data/my%20lake"), "/data/my lake");
        assert_eq!(source_path("file:///a%ff%0a%"), "/a\\xff\\x0a%");
        assert_eq!(source_path("stdin:dump.sql"), "stdin:dump.sql");
    }
}
