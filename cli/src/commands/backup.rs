//! `backup`: make a snapshot.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use lakebed_connectors::databricks::{
    Include, NotebookFormat, Workspace, WorkspaceOptions, WorkspaceSource, WorkspaceUri,
};
use lakebed_engine::backup::{BackupOptions, BackupReport, ParentChoice};
use lakebed_engine::core::codec::compress::Compression;
use lakebed_engine::core::record::snapshot::{Shard, Snapshot};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::join::{JoinOptions, JoinReport};
use lakebed_engine::source::{
    Filter, FilterOptions, FilteredSource, Finish, LocalOptions, Mount, ReaderSource, local_mounts, parse_path_list,
    tree_path,
};
use lakebed_engine::{Error, Monitor, Repository, Silent};
use serde_json::{Value, json};

use super::{select, snapshots};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::size::{parse_duration, parse_rate, parse_share, parse_size};
use crate::time::parse_first;
use crate::ui::{self, cancel_flag};
use crate::workspace::{WorkspaceArgs, traffic_json, traffic_line};

const EXAMPLES: &str = "\
A path is stored under the name that it is given by: `src` as src/..., `/data/lake` as data/lake/..., `.` as what is in it. \
Patterns are those of .gitignore, matched against paths as they are in the snapshot. What cannot be read is told, listed \
in the snapshot and skipped; the exit code is then 3.

Examples:
  lakebed backup --repo /mnt/backup/lake /data/lake --exclude '*.tmp' --tag nightly
  lakebed backup --repo /mnt/backup/lake . --exclude-caches --one-file-system --dry-run
  lakebed backup --repo /mnt/backup/lake --command base.dump -- pg_dump -Fc base
  lakebed backup --repo /mnt/backup/lake databricks:///Clients --exclude-git-folders";

/// Make a snapshot of folders and files
///
/// Reads what has changed since the last snapshot of the same paths, stores what the repository does not have, and
/// commits a snapshot. A run that was interrupted is continued by the next one. Other backups, restores and
/// verifications may run at the same time.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lakebed backup [OPTIONS] PATH...\n       lakebed backup [OPTIONS] --stdin NAME\n       \
    lakebed backup [OPTIONS] --command NAME -- PROGRAM [ARGS...]")]
pub(crate) struct BackupArgs {
    /// Folders and files to back up, or databricks://HOST/PATH of a workspace
    #[arg(value_name = "PATH|URI")]
    paths: Vec<PathBuf>,
    /// The program whose output is stored, and its arguments, with --command
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
    /// Store standard input as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "program", "files_from", "files_from0", "command"])]
    stdin: Option<OsString>,
    /// Store what PROGRAM prints as a file of this name; when it fails there is no snapshot
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "files_from", "files_from0"], requires = "program")]
    command: Option<OsString>,
    /// Also back up the paths in this file, one a line, `#` for comments; `-` is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// The same, with paths that end in a NUL byte, as from `find -print0`
    #[arg(long, value_name = "FILE")]
    files_from0: Vec<PathBuf>,

    /// Leave out what matches this pattern; `!` takes back in
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    exclude: Vec<String>,
    /// The same, upper and lower case taken as one
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    iexclude: Vec<String>,
    /// Leave out what matches the patterns in this file, one a line
    #[arg(long, value_name = "FILE", help_heading = "What is left out")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what is in folders that hold a file of this name (that begins with HEADER)
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = "What is left out")]
    exclude_if_present: Vec<String>,
    /// Leave out what is in folders that a CACHEDIR.TAG marks as caches
    #[arg(long, help_heading = "What is left out")]
    exclude_caches: bool,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "What is left out")]
    exclude_larger_than: Option<u64>,
    /// Do not enter other file systems than that of each PATH
    #[arg(short = 'x', long, help_heading = "What is left out")]
    one_file_system: bool,

    /// Tags, separated by commas
    #[arg(long, value_name = "TAG,...", help_heading = "The snapshot")]
    tag: Vec<String>,
    /// Free text about the snapshot
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "The snapshot")]
    description: String,
    /// Host that the snapshot is filed under [default: this machine's name]
    #[arg(long, env = "LAKEBED_HOST", value_name = "HOST", help_heading = "The snapshot")]
    host: Option<String>,
    /// The moment that the snapshot stands for [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_first, help_heading = "The snapshot")]
    time: Option<Timestamp>,
    /// More failures than this, and there is no snapshot [default: however many there are]
    #[arg(long, value_name = "N", help_heading = "The snapshot")]
    max_failures: Option<u64>,
    /// Where more than this share of the files of the last snapshot is gone, there is no snapshot [default: 20% of a
    /// workspace, which says of what may not be seen that it is not there; else 100%]
    #[arg(long, value_name = "SHARE", value_parser = parse_shrink, conflicts_with = "shard")]
    #[arg(help_heading = "The snapshot")]
    max_shrink: Option<f64>,
    /// Make no snapshot where nothing has changed
    #[arg(long, conflicts_with = "shard", help_heading = "The snapshot")]
    skip_if_unchanged: bool,

    /// Take only this part of so many, from 0: `3/8`. Other machines take the others; whoever is last joins them
    #[arg(long, value_name = "I/N", value_parser = parse_shard, requires = "shard_run", requires = "host")]
    #[arg(conflicts_with_all = ["stdin", "command"], help_heading = "One snapshot by many machines")]
    shard: Option<(u32, u32)>,
    /// What the parts of one snapshot have in common: a name that no other run has
    #[arg(long, env = "LAKEBED_SHARD_RUN", value_name = "RUN", help_heading = "One snapshot by many machines")]
    shard_run: Option<String>,
    /// Folders so many levels below a source go to one part with all that is in them: the same for all parts
    #[arg(long, value_name = "LEVELS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(requires = "shard", help_heading = "One snapshot by many machines")]
    shard_depth: u32,

    /// Snapshot to compare with [default: the newest of this host and these paths]
    #[arg(long, value_name = "SNAPSHOT", help_heading = "How it is made")]
    parent: Option<String>,
    /// Compare with nothing: read every file
    #[arg(long, conflicts_with = "parent", help_heading = "How it is made")]
    force: bool,
    /// Read everything, compare it with the last snapshot, and tell what was not as it looked
    #[arg(long, conflicts_with = "force", help_heading = "How it is made")]
    full: bool,
    /// The same, where the last snapshot for which that was done is older than this, such as 7d
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "force", help_heading = "How it is made")]
    full_every: Option<Duration>,
    /// Keep what was done for a next run after so long, and then after twice as long each time, up to five minutes, or one
    /// minute of a workspace
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "How it is made")]
    #[arg(default_value = "15s")]
    checkpoint_interval: Duration,
    /// Do not go on from an interrupted run of the same sources: read what it has read again
    #[arg(long, help_heading = "How it is made")]
    no_resume: bool,
    /// Do not read files of which only the change time differs
    #[arg(long, help_heading = "How it is made")]
    ignore_ctime: bool,
    /// Do not read files of which only the number differs, for network file systems
    #[arg(long, help_heading = "How it is made")]
    ignore_inode: bool,
    /// fastest, fast, balanced, max, archival, none, or a zstd level from -7 to 22
    #[arg(long, value_name = "HOW", default_value_t, allow_hyphen_values = true, help_heading = "How it is made")]
    compression: Compression,
    /// Bytes a second to read at most, such as 50MiB [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = "How it is made")]
    limit_read: Option<u64>,
    /// Bytes a second to write at most, such as 50MiB [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = "How it is made")]
    limit_write: Option<u64>,
    /// Worker threads [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true, help_heading = "How it is made")]
    threads: usize,
    /// Read and compare everything, write nothing
    #[arg(short = 'n', long, help_heading = "How it is made")]
    dry_run: bool,

    #[command(flatten)]
    workspace: WorkspaceArgs,
    /// What is taken besides: volumes, jobs, pipelines, catalogs, dashboards, permissions, secret-scopes
    #[arg(long, value_parser = parse_include, value_delimiter = ',', value_name = "WHAT,...")]
    #[arg(help_heading = "Workspaces")]
    include: Vec<Include>,
    /// As what notebooks are taken
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Workspaces")]
    notebook_format: FormatArg,
    /// Leave out what users have thrown away
    #[arg(long, help_heading = "Workspaces")]
    exclude_trash: bool,
    /// Leave out Git folders
    #[arg(long, help_heading = "Workspaces")]
    exclude_git_folders: bool,
}

/// Reads what is taken besides notebooks and files.
fn parse_include(text: &str) -> Result<Include, String> {
    let known = || Include::ALL.map(Include::as_str).join(", ");
    let found = Include::ALL.into_iter().find(|include| include.as_str() == text);
    found.ok_or_else(|| format!("expected one of {}", known()))
}

/// As what notebooks are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// The text of their cells
    #[default]
    Source,
    /// Jupyter documents, with what their cells have printed
    Jupyter,
    /// Archives of Databricks
    Dbc,
    /// All of these
    All,
}

impl FormatArg {
    fn formats(self) -> Vec<NotebookFormat> {
        match self {
            Self::Source => vec![NotebookFormat::Source],
            Self::Jupyter => vec![NotebookFormat::Jupyter],
            Self::Dbc => vec![NotebookFormat::Dbc],
            Self::All => NotebookFormat::ALL.to_vec(),
        }
    }
}

/// Of a workspace that much may be gone since the last snapshot, unless the user says otherwise.
const WORKSPACE_MAX_SHRINK: f64 = 0.2;

/// Reads a share, which may also be none at all.
fn parse_shrink(text: &str) -> Result<f64, String> {
    if text.trim() == "0%" { Ok(0.0) } else { parse_share(text) }
}

/// Reads which part of how many, such as `3/8`.
fn parse_shard(text: &str) -> Result<(u32, u32), String> {
    let (index, count) = text.split_once('/').ok_or("expected a part of so many, such as 3/8")?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("`{text}` is no number"));
    match (number(index)?, number(count)?) {
        (index, count) if index < count => Ok((index, count)),
        (_, 0) => Err("there must be a part at least".into()),
        (_, count) => Err(format!("the parts of {count} are 0 to {}", count - 1)),
    }
}

impl BackupArgs {
    fn options(&self, repository: &Repository, workspace: Option<&Workspace>) -> Result<BackupOptions, CliError> {
        let defaults = BackupOptions::default();
        let parent = match (&self.parent, self.force) {
            (_, true) => ParentChoice::None,
            (Some(name), false) => ParentChoice::Snapshot(select::find(repository, name, &Silent)?.id),
            (None, false) => ParentChoice::Newest,
        };
        Ok(BackupOptions {
            // a workspace is the same from wherever it is backed up, a cluster that is new every night say
            host: self
                .host
                .clone()
                .filter(|host| !host.is_empty())
                .or_else(|| workspace.map(|workspace| workspace.host().to_owned()))
                .unwrap_or(defaults.host),
            tags: self.tag.iter().flat_map(|tags| select::split_tags(tags)).collect(),
            description: self.description.clone(),
            time: self.time,
            parent,
            ignore_ctime: self.ignore_ctime,
            ignore_inode: self.ignore_inode,
            read_all: self.full,
            full_every: self.full_every,
            resume: !self.no_resume,
            checkpoint_interval: self.checkpoint_interval,
            skip_if_unchanged: self.skip_if_unchanged,
            max_failures: self.max_failures,
            max_shrink: self.max_shrink.or_else(|| workspace.map(|_| WORKSPACE_MAX_SHRINK)),
            shard: self.shard.zip(self.shard_run.clone()).map(|((index, count), run)| Shard {
                run,
                index,
                count,
                depth: Some(self.shard_depth),
            }),
            dry_run: self.dry_run,
            compression: self.compression,
            threads: self.threads,
            read_limit: self.limit_read,
            write_limit: self.limit_write,
            ..defaults
        })
    }

    fn filter(&self) -> Result<Filter, CliError> {
        select::left_out(&FilterOptions {
            exclude: self.exclude.clone(),
            iexclude: self.iexclude.clone(),
            exclude_files: self.exclude_file.clone(),
            exclude_if_present: self.exclude_if_present.clone(),
            exclude_caches: self.exclude_caches,
            exclude_larger_than: self.exclude_larger_than,
            one_file_system: self.one_file_system,
        })
    }

    /// Returns the workspace that paths name, and what is wanted of it; `None` where they are folders and files.
    fn workspace(&self, ctx: &Context, paths: &[PathBuf]) -> Result<Option<WorkspaceSource>, CliError> {
        let text = |path: &PathBuf| path.to_str().filter(|text| WorkspaceUri::looks_like_one(text)).map(str::to_owned);
        let uris: Vec<String> = paths.iter().filter_map(text).collect();
        if uris.is_empty() {
            return Ok(None);
        }
        if uris.len() < paths.len() {
            return Err(CliError::usage("A workspace and folders of this machine go into snapshots of their own"));
        }
        if self.one_file_system || self.exclude_caches || !self.exclude_if_present.is_empty() {
            let only = "--one-file-system, --exclude-caches and --exclude-if-present are for folders of this machine";
            return Err(CliError::usage(only));
        }
        let uris = uris.iter().map(|uri| WorkspaceUri::parse(uri)).collect::<Result<Vec<_>, _>>()?;
        let [first, others @ ..] = &uris[..] else { return Ok(None) };
        if others.iter().any(|other| (&other.host, &other.profile) != (&first.host, &first.profile)) {
            return Err(CliError::usage("Several workspaces go into snapshots of their own"));
        }
        let options = WorkspaceOptions {
            roots: uris.iter().map(|uri| uri.path.clone()).collect(),
            formats: self.notebook_format.formats(),
            without_trash: self.exclude_trash,
            without_git_folders: self.exclude_git_folders,
            include: self.include.clone(),
        };
        Ok(Some(WorkspaceSource::new(self.workspace.connect(ctx, first)?, options)?))
    }

    /// Returns the paths of the arguments and of the lists.
    fn all_paths(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut paths = self.paths.clone();
        // without --command there is no program, and what stands after `--` are paths
        paths.extend(self.program.iter().map(PathBuf::from));
        for (files, separator) in [(&self.files_from, b'\n'), (&self.files_from0, 0)] {
            for file in files {
                paths.extend(parse_path_list(&read_list(file)?, separator));
            }
        }
        if paths.is_empty() {
            let message = match self.files_from.is_empty() && self.files_from0.is_empty() {
                true => "Nothing was named to back up: give a PATH, --files-from, --stdin or --command",
                false => "The given lists name nothing to back up",
            };
            return Err(CliError::usage(message));
        }
        Ok(paths)
    }
}

fn read_list(file: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let result = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ()),
        false => std::fs::read(file).map(|content| bytes = content),
    };
    result.map_err(|error| {
        CliError::failed(format!("Cannot read the list of paths `{}`", file.display())).caused_by(error)
    })?;
    Ok(bytes)
}

pub(crate) fn run(ctx: &Context, args: &BackupArgs) -> Result<Exit, CliError> {
    let stream = args.stdin.as_deref().or(args.command.as_deref());
    let paths = if stream.is_none() { args.all_paths()? } else { Vec::new() };
    let filter = Arc::new(args.filter()?);
    let workspace = args.workspace(ctx, &paths)?;
    let repository = ctx.open(if args.dry_run { Access::Read } else { Access::Write })?;
    let options = args.options(&repository, workspace.as_ref().map(WorkspaceSource::workspace))?;
    let never_enter = ctx.never_enter()?;
    let monitor = ctx.monitor()?;
    let mut child = None;
    let mounts = match (stream, &workspace) {
        (None, Some(workspace)) => {
            let filtered = FilteredSource::new(Arc::new(workspace.clone()), filter, Vec::new());
            vec![Mount::new(Vec::new(), Arc::new(filtered))]
        }
        (None, None) => {
            let local = LocalOptions { never_enter, one_file_system: args.one_file_system };
            local_mounts(&paths, &filter, &local)?
        }
        (Some(name), _) => {
            let (reader, finish): (Box<dyn Read + Send>, Finish) = match args.command {
                None => (Box::new(std::io::stdin()), stop_if_cancelled(cancel_flag()?)),
                Some(_) => {
                    let (running, output) = Running::start(&args.program)?;
                    let finish = running.finish(cancel_flag()?);
                    child = Some(running);
                    (Box::new(output), finish)
                }
            };
            let kind = if args.stdin.is_some() { "stdin" } else { "command" };
            let time = options.time.unwrap_or_else(|| repository.clock().now());
            vec![stream_mount(kind, name, time, reader, finish)?]
        }
    };
    let result = repository.backup(mounts, &options, &monitor);
    let interrupted = monitor.is_cancelled();
    drop(monitor);
    // a program that still runs has nobody to write to
    drop(child);
    let report = match result {
        Err(Error::NothingRead) if stream.is_some() && interrupted => return Err(Error::Interrupted.into()),
        Err(Error::NothingRead) if stream.is_some() => {
            return Err(CliError::failed("What was to be stored did not come whole; no snapshot was made"));
        }
        result => result?,
    };
    if stream.is_some() && !report.failures.is_empty() {
        return Err(stream_failed(&report));
    }
    let joined = match &report.snapshot {
        Some(info) => join(ctx, &repository, &info.snapshot)?,
        None => None,
    };
    print(ctx, &report, joined.as_ref(), workspace.as_ref(), args)?;
    let is_whole = joined.is_none_or(|joined| joined.snapshot.snapshot.is_complete());
    Ok(if is_whole && report.failures.is_empty() { Exit::Done } else { Exit::Partial })
}

/// Joins the run that this is a part of, if it was the last one.
fn join(ctx: &Context, repository: &Repository, part: &Snapshot) -> Result<Option<JoinReport>, CliError> {
    let mut options = JoinOptions::default();
    options.host.clone_from(&part.host);
    let joined = repository.join_if_complete(part, &options, &ctx.monitor()?).map_err(CliError::from);
    // the part stands; joining can be done again
    joined.map_err(|error| error.after("this part was saved; `lakebed snapshots join RUN` joins them"))
}

/// Makes a source of a stream.
fn stream_mount(
    kind: &str,
    name: &OsStr,
    time: Timestamp,
    reader: Box<dyn Read + Send>,
    finish: Finish,
) -> Result<Mount, CliError> {
    let names = tree_path(Path::new(name));
    let Some(last) = names.last().cloned() else {
        return Err(CliError::usage(format!("`{}` is no name for a file in the snapshot", name.display())));
    };
    let shown = lakebed_engine::core::text::escape_path(name.as_bytes());
    let source = ReaderSource::new(format!("{kind}:{shown}"), last, time, reader, Some(finish));
    Ok(Mount::new(names, Arc::new(source)))
}

fn stream_failed(report: &BackupReport) -> CliError {
    let reasons: Vec<&str> = report.failures.iter().map(|failure| failure.reason.as_str()).collect();
    let error = CliError::failed("What was to be stored did not come whole").caused_by(reasons.join("; "));
    match &report.snapshot {
        Some(info) => error.hint(format!("snapshot {} was made without it and is marked `partial`", info.id.short())),
        None => error,
    }
}

/// An interrupt often ends whoever writes to us first: what came until then must not pass for everything.
fn stop_if_cancelled(cancelled: Arc<AtomicBool>) -> Finish {
    Box::new(move || match cancelled.load(Ordering::Relaxed) {
        true => Err(std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted")),
        false => Ok(()),
    })
}

/// A program whose output is read. It is ended when this is dropped.
struct Running {
    name: String,
    child: Arc<Mutex<Option<Child>>>,
}

impl Running {
    fn start(program: &[OsString]) -> Result<(Self, std::process::ChildStdout), CliError> {
        let Some((program, args)) = program.split_first() else {
            return Err(CliError::usage("No program was given: write it after `--`"));
        };
        let name = program.display().to_string();
        let failed = |error: std::io::Error| CliError::failed(format!("Cannot start `{name}`")).caused_by(error);
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let Some(output) = child.stdout.take() else {
            return Err(failed(std::io::Error::other("its output cannot be read")));
        };
        Ok((Self { name, child: Arc::new(Mutex::new(Some(child))) }, output))
    }

    /// Returns what is to be asked once the output has ended: whether the program succeeded.
    fn finish(&self, cancelled: Arc<AtomicBool>) -> Finish {
        let (name, child) = (self.name.clone(), self.child.clone());
        let interrupted = stop_if_cancelled(cancelled);
        Box::new(move || {
            let child = child.lock().unwrap_or_else(PoisonError::into_inner).take();
            let status = child.map(|mut child| child.wait()).transpose()?;
            interrupted()?;
            match status {
                Some(status) if !status.success() => Err(std::io::Error::other(format!("`{name}` failed: {status}"))),
                _ => Ok(()),
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // it may have ended by itself; either way it is gone after this
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Tells what of a workspace is in no snapshot because nothing takes it out of there.
fn tell_left_out(ctx: &Context, workspace: &WorkspaceSource) {
    let left_out = workspace.left_out();
    if !left_out.is_empty() {
        let kinds: Vec<String> =
            left_out.iter().map(|(kind, number)| format!("{} {kind}", ui::count(*number))).collect();
        ctx.ui.warn(&format!("not in the snapshot, since no export gives it: {}", kinds.join(", ")));
    }
}

fn print(
    ctx: &Context,
    report: &BackupReport,
    joined: Option<&JoinReport>,
    workspace: Option<&WorkspaceSource>,
    args: &BackupArgs,
) -> Result<(), CliError> {
    workspace.iter().for_each(|workspace| tell_left_out(ctx, workspace));
    if report.mistaken > 0 {
        let files = ui::counted(report.mistaken, "file", "files");
        ctx.ui.warn(&format!("{files} looked untouched and had other content: what is in the snapshot was read now"));
    }
    let summary = &report.summary;
    let seconds = summary.finished.seconds_since(summary.started) as f64
        + (f64::from(summary.finished.nanos) - f64::from(summary.started.nanos)) / 1e9;
    ctx.ui.report(
        || result_json(report, joined, workspace, args.dry_run),
        |out| {
            match report.parent {
                Some(parent) if !args.force => writeln!(out, "compared with snapshot {}", parent.short())?,
                _ => writeln!(out, "compared with no snapshot: everything was read")?,
            }
            if report.read_all && !args.force {
                let mistaken = ui::counted(report.mistaken, "file", "files");
                writeln!(out, "everything was read: {mistaken} had changed and looked untouched")?;
            }
            if report.resumed {
                writeln!(out, "continued from an interrupted run")?;
            }
            let (count, bytes) = (ui::count, ui::bytes);
            writeln!(
                out,
                "files:       {} new, {} changed, {} unmodified",
                count(summary.files_new),
                count(summary.files_changed),
                count(summary.files_unmodified)
            )?;
            if summary.files_unseen > 0 {
                writeln!(out, "unseen:      {} files, kept as in the snapshot before", count(summary.files_unseen))?;
            }
            writeln!(out, "directories: {}", count(summary.directories))?;
            if summary.others > 0 {
                writeln!(out, "others:      {} (links, pipes, devices)", count(summary.others))?;
            }
            writeln!(
                out,
                "bytes:       {} in all, {} read, {} new, {} stored",
                bytes(summary.bytes),
                bytes(summary.bytes_read),
                bytes(summary.bytes_new),
                bytes(summary.bytes_stored)
            )?;
            writeln!(out, "time:        {}, {}", ui::duration(seconds), ui::rate(summary.bytes_read, seconds))?;
            if let Some(workspace) = workspace {
                writeln!(out, "{}", traffic_line(workspace.workspace()))?;
            }
            if !report.failures.is_empty() {
                let failed = ui::counted(report.failures.len() as u64, "entry", "entries");
                let share = success_rate(report) * 100.0;
                writeln!(out, "incomplete:  {failed} missing or doubtful, told above; {share:.2} % went well")?;
            }
            match &report.snapshot {
                Some(info) => match &info.snapshot.shard {
                    None => writeln!(out, "snapshot {} saved", info.id.short()),
                    Some(shard) => {
                        writeln!(out, "part {} saved as {}", ui::plain(&shard.to_string()), info.id.short())?;
                        match joined {
                            Some(joined) => writeln!(out, "{}", snapshots::joined(joined)),
                            None => writeln!(
                                out,
                                "parts are missing, or somebody is joining them now: whoever is last joins them"
                            ),
                        }
                    }
                },
                None if args.dry_run => writeln!(out, "dry run: nothing was written"),
                None => writeln!(out, "nothing has changed: no snapshot was made"),
            }
        },
    )
}

/// Returns the share of entries that are as they should be.
fn success_rate(report: &BackupReport) -> f64 {
    let entries = report.summary.files + report.summary.directories + report.summary.others;
    let failed = report.failures.len() as u64;
    let all = entries.max(failed).max(1);
    (all - failed) as f64 / all as f64
}

fn result_json(
    report: &BackupReport,
    joined: Option<&JoinReport>,
    workspace: Option<&WorkspaceSource>,
    dry_run: bool,
) -> Value {
    json!({
        "snapshot": report.snapshot.as_ref().map(|info| info.id),
        "time": report.snapshot.as_ref().map(|info| info.snapshot.time),
        "parent": report.parent,
        "shard": report.snapshot.as_ref().and_then(|info| info.snapshot.shard.as_ref()),
        "joined": joined.map(snapshots::joined_json),
        "resumed": report.resumed,
        "dry_run": dry_run,
        "complete": report.failures.is_empty(),
        "success_rate": success_rate(report),
        "read_all": report.read_all,
        "mistaken": report.mistaken,
        "workspace": workspace.map(|workspace| traffic_json(workspace.workspace())),
        "left_out": workspace.map(WorkspaceSource::left_out),
        "summary": report.summary,
        "failures": report.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_program(script: &str, cancelled: bool) -> std::io::Result<String> {
        let program = ["sh", "-c", script].map(OsString::from);
        let (running, mut output) = Running::start(&program).unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        running.finish(Arc::new(AtomicBool::new(cancelled)))()?;
        Ok(text)
    }

    #[test]
    fn a_program_must_succeed() {
        assert_eq!(run_program("echo all", false).unwrap(), "all\n");
        assert_eq!(run_program("echo half; exit 3", false).unwrap_err().to_string(), "`sh` failed: exit status: 3");
        assert!(run_program("echo all", true).is_err());
        assert!(Running::start(&["/nowhere/at/all".into()]).is_err());
        assert!(Running::start(&[]).is_err());
    }

    #[test]
    fn a_program_that_is_not_waited_for_is_ended() {
        let (running, _output) = Running::start(&["sleep".into(), "1000".into()]).unwrap();
        drop(running);
    }

    #[test]
    fn a_stream_needs_a_name() {
        let mount = |name: &str| {
            let stream = Box::new(std::io::empty());
            stream_mount("stdin", OsStr::new(name), Timestamp::default(), stream, Box::new(|| Ok(())))
        };
        assert_eq!(mount("db/dump.sql").unwrap().tree_path, [b"db".to_vec(), b"dump.sql".to_vec()]);
        assert_eq!(mount("dump.sql").unwrap().source.uri(), "stdin:dump.sql");
        assert!(mount("").is_err());
        assert!(mount("/").is_err());
    }
}
