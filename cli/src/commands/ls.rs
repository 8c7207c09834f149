//! `ls`: list a folder of a snapshot.

use std::ffi::OsString;

use clap::Args;
use lakebed_engine::core::record::snapshot::Owners;
use lakebed_engine::core::record::tree::{Entry, EntryKind};
use lakebed_engine::core::text::escape_path;
use lakebed_engine::query::{Listed, entry_at, walk};
use lakebed_engine::repository::{BlobReader, SnapshotInfo};
use serde_json::json;

use super::select::{ChoiceArgs, snapshot_path};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
SNAPSHOT is `latest`, the beginning of an id, or `@TIME`; with --at it is left out. Paths are shown as `cat`, `restore --path` \
and `diff` take them, folders with a slash at their end.

Examples:
  lakebed ls --repo /mnt/backup/lake latest
  lakebed ls --repo /mnt/backup/lake latest data/lake --long
  lakebed ls --repo /mnt/backup/lake --at 2026-11-17 data/lake --recursive";

/// List a folder of a snapshot
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lakebed ls [OPTIONS] SNAPSHOT [PATH]...\n       lakebed ls [OPTIONS] --at TIME [PATH]...")]
pub(crate) struct LsArgs {
    /// The snapshot, unless --at is given, then the paths in it [default: all of it]
    #[arg(value_name = "SNAPSHOT PATH")]
    what: Vec<OsString>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Show kind and mode, owner, group, size and modification time as well
    #[arg(short, long, help_heading = None)]
    long: bool,
    /// List what is in folders as well
    #[arg(short = 'R', long, help_heading = None)]
    recursive: bool,
}

pub(crate) fn run(ctx: &Context, args: &LsArgs) -> Result<Exit, CliError> {
    let (snapshot, paths) = match (args.choice.has_time(), args.what.split_first()) {
        (false, Some((snapshot, paths))) => (Some(snapshot.to_string_lossy()), paths),
        _ => (None, args.what.as_slice()),
    };
    let mut paths = paths.iter().map(|path| snapshot_path(path)).collect::<Result<Vec<_>, _>>()?;
    if paths.is_empty() {
        paths.push(Vec::new());
    }
    let repository = ctx.open(Access::Read)?;
    let info = args.choice.find(&repository, snapshot.as_deref(), &ctx.question())?;
    let reader = repository.reader(&ctx.question())?;
    if ctx.ui.is_json() {
        let mut entries = Vec::new();
        each(&reader, &info, &paths, args.recursive, &mut |path, entry| {
            entries.push(ui::entry_json(path, entry));
            Ok(())
        })?;
        ctx.ui.answer(|| json!({ "snapshot": info.id, "time": info.snapshot.time, "entries": entries }), |_| Ok(()))?;
    } else {
        ctx.ui.write(|out| {
            each(&reader, &info, &paths, args.recursive, &mut |path, entry| {
                print(out, path, entry, args.long, &info.snapshot.owners).map_err(CliError::output)
            })
        })?;
    }
    Ok(Exit::Done)
}

/// Told of each entry, with its whole path.
type Visit<'a> = &'a mut dyn FnMut(&[u8], &Entry) -> Result<(), CliError>;

/// Visits what is to be listed: what is in a folder, or the thing itself.
fn each(
    reader: &BlobReader,
    info: &SnapshotInfo,
    paths: &[Vec<Vec<u8>>],
    recursive: bool,
    visit: Visit<'_>,
) -> Result<(), CliError> {
    let next = if recursive { Listed::Descend } else { Listed::Skip };
    for path in paths {
        let entry = entry_at(reader, info, path)?;
        let path = path.join(&b'/');
        let Some(directory) = entry.subtree else {
            visit(&path, &entry)?;
            continue;
        };
        // the visitor's own failure goes around the engine, which knows nothing of output
        let mut failed = None;
        let walked = walk(reader, directory, &path, &mut |path, entry| match visit(path, entry) {
            Ok(()) => Ok(next),
            Err(error) => {
                failed = Some(error);
                Err(lakebed_engine::Error::Interrupted)
            }
        });
        match failed {
            Some(error) => return Err(error),
            None => walked?,
        }
    }
    Ok(())
}

fn print(out: Text<'_>, path: &[u8], entry: &Entry, long: bool, owners: &Owners) -> std::io::Result<()> {
    let name = ui::text_of(path, entry);
    if !long {
        return writeln!(out, "{name}");
    }
    let owner = owners.users.get(&entry.uid).map_or_else(|| entry.uid.to_string(), |name| ui::plain(name));
    let group = owners.groups.get(&entry.gid).map_or_else(|| entry.gid.to_string(), |name| ui::plain(name));
    write!(
        out,
        "{} {owner:<8} {group:<8} {:>14} {} {name}",
        ui::mode(entry),
        ui::count(entry.size),
        ui::local_time(entry.mtime)
    )?;
    if entry.kind == EntryKind::Symlink {
        write!(out, " -> {}", escape_path(&entry.link_target))?;
    }
    if entry.inconsistent {
        write!(out, "  (changed while it was read)")?;
    }
    writeln!(out)
}
