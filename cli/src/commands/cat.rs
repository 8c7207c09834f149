//! `cat`: write a file, or a folder as an archive, to standard output.

use std::ffi::OsString;

use clap::Args;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::query::{ArchiveFormat, entry_at, write_archive, write_content};

use super::select::{ChoiceArgs, snapshot_path};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};

const EXAMPLES: &str = "\
SNAPSHOT is `latest`, the beginning of an id, or `@TIME`; with --at it is left out. \
Every byte is checked before it is written. Where the exit code is not 0, what came out is not whole.

Examples:
  lakebed cat --repo /mnt/backup/lake latest data/lake/etl.py
  lakebed cat --repo /mnt/backup/lake --at 2026-11-17 data/lake/etl.py | diff - etl.py
  lakebed cat --repo /mnt/backup/lake latest data/lake --archive zip > lake.zip";

/// Write a file of a snapshot to standard output, or a folder as an archive
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lakebed cat [OPTIONS] SNAPSHOT PATH\n       lakebed cat [OPTIONS] --at TIME PATH")]
pub(crate) struct CatArgs {
    /// The snapshot, unless --at is given, and the path in it
    #[arg(value_name = "SNAPSHOT PATH", num_args = 1..=2, required = true)]
    what: Vec<OsString>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Write an archive [default: tar for folders]
    #[arg(long, value_enum, value_name = "KIND", help_heading = None)]
    archive: Option<Archive>,
}

/// The kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Archive {
    /// Tar: keeps names, contents, links, devices, owners by number, modes, and times from 1970 on to the second; no
    /// extended attributes, access control lists or sockets
    Tar,
    /// Zip: for other systems; keeps names, contents, symbolic links, times and modes
    Zip,
}

pub(crate) fn run(ctx: &Context, args: &CatArgs) -> Result<Exit, CliError> {
    if ctx.ui.is_json() {
        return Err(CliError::usage("`cat` writes the bytes themselves: it cannot write JSON"));
    }
    let (snapshot, path) = match (args.what.as_slice(), args.choice.has_time()) {
        ([snapshot, path], false) => (Some(snapshot.to_string_lossy()), path),
        ([path], true) => (None, path),
        ([_], false) => return Err(CliError::usage("Give SNAPSHOT and PATH, such as `latest data/etl.py`")),
        _ => return Err(CliError::usage("Give only PATH with --at: the time stands in the place of SNAPSHOT")),
    };
    let path = snapshot_path(path)?;
    let repository = ctx.open(Access::Read)?;
    let info = args.choice.find(&repository, snapshot.as_deref(), &ctx.question())?;
    let reader = repository.reader(&ctx.question())?;
    let entry = entry_at(&reader, &info, &path)?;
    let archive = match args.archive {
        Some(Archive::Tar) => Some(ArchiveFormat::Tar),
        Some(Archive::Zip) => Some(ArchiveFormat::Zip),
        None => (entry.kind == EntryKind::Directory).then_some(ArchiveFormat::Tar),
    };
    match archive {
        Some(_) if ctx.ui.is_terminal() => {
            return Err(CliError::failed("An archive makes no sense on a terminal")
                .hint("send it to a file or a program: `> folder.tar` or `| tar -x`"));
        }
        Some(format) => ctx.ui.write(|out| Ok(write_archive(&reader, &entry, format, out)?))?,
        None => ctx.ui.write(|out| Ok(write_content(&reader, &entry, &escape_path(&path.join(&b'/')), out)?))?,
    }
    Ok(Exit::Done)
}
