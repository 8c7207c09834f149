//! `diff`: what differs between two snapshots.

use std::ffi::OsString;

use clap::Args;
use lakebed_engine::Error;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::query::{Change, ChangeKind, DiffOptions, diff, entry_at, unified_patch};
use lakebed_engine::repository::{BlobReader, SnapshotInfo};
use serde_json::{Value, json};

use super::select::{self, snapshot_path};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
SNAPSHOTs are `latest`, the beginning of an id, or `@TIME`. Signs: `+` only in the second, `-` only in the first, `M` content \
differs, `U` only mode, owner, times or attributes differ, `T` another kind of thing. The exit code is 0 either way.

Examples:
  lakebed diff --repo /mnt/backup/lake 3f9a latest
  lakebed diff --repo /mnt/backup/lake @2026-11-16 @2026-11-17 data/lake --no-metadata
  lakebed diff --repo /mnt/backup/lake 3f9a latest data/lake/etl.py --patch";

/// Show what differs between two snapshots
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// The first snapshot
    #[arg(value_name = "SNAPSHOT")]
    before: String,
    /// The second snapshot
    #[arg(value_name = "SNAPSHOT")]
    after: String,
    /// Compare only this path, with all that is in it [default: everything]
    path: Option<OsString>,
    /// Show how text files differ, up to 8 MiB
    #[arg(long)]
    patch: bool,
    /// Leave out what differs in mode, owner, times and attributes only
    #[arg(long)]
    no_metadata: bool,
    /// Show only the numbers
    #[arg(long, conflicts_with = "patch")]
    stat: bool,
}

/// How much differs.
#[derive(Debug, Default)]
struct Totals {
    added: u64,
    removed: u64,
    modified: u64,
    metadata: u64,
    kind: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

impl Totals {
    fn count(&mut self, change: &Change) {
        let (before, after) =
            (change.before.as_ref().map_or(0, |e| e.size), change.after.as_ref().map_or(0, |e| e.size));
        let number = match change.kind {
            ChangeKind::Added => &mut self.added,
            ChangeKind::Removed => &mut self.removed,
            ChangeKind::Modified => &mut self.modified,
            ChangeKind::Metadata => &mut self.metadata,
            ChangeKind::Type => &mut self.kind,
        };
        *number += 1;
        self.bytes_added += after.saturating_sub(before);
        self.bytes_removed += before.saturating_sub(after);
    }

    fn json(&self) -> Value {
        json!({
            "added": self.added,
            "removed": self.removed,
            "modified": self.modified,
            "metadata": self.metadata,
            "type": self.kind,
            "bytes_added": self.bytes_added,
            "bytes_removed": self.bytes_removed,
        })
    }

    fn print(&self, out: Text<'_>) -> std::io::Result<()> {
        let count = ui::count;
        writeln!(
            out,
            "{} added, {} removed, {} modified, {} metadata only, {} of another kind; +{} -{}",
            count(self.added),
            count(self.removed),
            count(self.modified),
            count(self.metadata),
            count(self.kind),
            ui::bytes(self.bytes_added),
            ui::bytes(self.bytes_removed)
        )
    }
}

pub(crate) fn run(ctx: &Context, args: &DiffArgs) -> Result<Exit, CliError> {
    let path = args.path.as_deref().map(snapshot_path).transpose()?.unwrap_or_default();
    let repository = ctx.open(Access::Read)?;
    let before = select::find(&repository, &args.before, &ctx.question())?;
    let after = select::find(&repository, &args.after, &ctx.question())?;
    let reader = repository.reader(&ctx.question())?;
    let mut totals = Totals::default();
    if ctx.ui.is_json() {
        let mut changes = Vec::new();
        each(&reader, [&before, &after], &path, args.no_metadata, &mut |change| {
            totals.count(&change);
            if !args.stat {
                changes.push(change_json(&reader, &change, args.patch)?);
            }
            Ok(())
        })?;
        let result = json!({ "before": before.id, "after": after.id, "changes": changes, "totals": totals.json() });
        ctx.ui.answer(|| result, |_| Ok(()))?;
    } else {
        ctx.ui.write(|out| {
            each(&reader, [&before, &after], &path, args.no_metadata, &mut |change| {
                totals.count(&change);
                if args.stat { Ok(()) } else { print(out, &reader, &change, args.patch) }
            })?;
            totals.print(out).map_err(CliError::output)
        })?;
    }
    Ok(Exit::Done)
}

/// Visits every difference at and below a path.
fn each(
    reader: &BlobReader,
    snapshots: [&SnapshotInfo; 2],
    path: &[Vec<u8>],
    ignore_metadata: bool,
    visit: &mut dyn FnMut(Change) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let [before, after] = snapshots;
    let at = |info: &SnapshotInfo, path: &[Vec<u8>]| match entry_at(reader, info, path) {
        Ok(entry) => Ok(Some(entry)),
        Err(Error::NoPath { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let wanted = path.join(&b'/');
    let (old, new) = (at(before, path)?, at(after, path)?);
    if old.is_none() && new.is_none() {
        // neither has it: say so as for any other path
        entry_at(reader, after, path)?;
    }
    let is_directory = |entry: &Option<_>| {
        entry
            .as_ref()
            .is_some_and(|entry: &lakebed_engine::core::record::tree::Entry| entry.kind == EntryKind::Directory)
    };
    // below the path itself, or, where it is no folder on both sides, among its neighbours
    let (top, only) = match (is_directory(&old) && is_directory(&new), path.split_last()) {
        (false, Some((_, above))) => (above, true),
        _ => (path, false),
    };
    let subtree = |info| at(info, top).map(|entry| entry.and_then(|entry| entry.subtree));
    let (old, new) = (subtree(before)?, subtree(after)?);
    let mut failed = None;
    let inside = |found: &[u8]| {
        found == wanted || found.strip_prefix(wanted.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let options = DiffOptions { ignore_metadata };
    let result = diff(reader, old, new, &top.join(&b'/'), &options, &mut |change| {
        if only && !inside(&change.path) {
            return Ok(());
        }
        visit(change).map_err(|error| {
            failed = Some(error);
            Error::Interrupted
        })
    });
    // the visitor's own failure goes around the engine, which knows nothing of output
    match failed {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

fn sign(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Modified => 'M',
        ChangeKind::Metadata => 'U',
        ChangeKind::Type => 'T',
    }
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Modified => "modified",
        ChangeKind::Metadata => "metadata",
        ChangeKind::Type => "type",
    }
}

/// Returns the patch of a change whose content differs.
fn patch_of(reader: &BlobReader, change: &Change) -> Result<Option<String>, CliError> {
    match change.kind {
        ChangeKind::Metadata => Ok(None),
        _ => Ok(unified_patch(reader, change)?),
    }
}

fn print(out: Text<'_>, reader: &BlobReader, change: &Change, patch: bool) -> Result<(), CliError> {
    if let Some(entry) = change.after.as_ref().or(change.before.as_ref()) {
        writeln!(out, "{} {}", sign(change.kind), ui::text_of(&change.path, entry)).map_err(CliError::output)?;
    }
    if patch && let Some(patch) = patch_of(reader, change)? {
        out.write_all(patch.as_bytes()).map_err(CliError::output)?;
    }
    Ok(())
}

fn change_json(reader: &BlobReader, change: &Change, patch: bool) -> Result<Value, CliError> {
    let entry = |entry: &Option<_>| entry.as_ref().map(|entry| ui::entry_json(&change.path, entry));
    let mut value = json!({
        "path": lakebed_engine::core::text::escape_path(&change.path),
        "change": word(change.kind),
        "before": entry(&change.before),
        "after": entry(&change.after),
    });
    if let (true, Some(map)) = (patch, value.as_object_mut()) {
        map.insert("patch".into(), patch_of(reader, change)?.into());
    }
    Ok(value)
}
