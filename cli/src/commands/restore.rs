//! `restore`: write a snapshot, or a part of it, to a folder.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use lakebed_connectors::databricks::{WorkspaceTarget, WorkspaceTargetOptions, WorkspaceUri};
use lakebed_engine::core::target::Target;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::query::entry_at;
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::restore::{Action, Overwrite, PathFilter, RestoreOptions, RestoreReport, restore, restore_into};
use lakebed_engine::{Error, Monitor, Repository, Silent};
use serde_json::{Value, json};

use super::select::{ChoiceArgs, snapshot_path};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui;
use crate::workspace::{WorkspaceArgs, traffic_json, traffic_line};

const EXAMPLES: &str = "\
SNAPSHOT is `latest`, the beginning of an id, or `@TIME`: the newest snapshot at or before that time. \
What is written is checked first. A file that exists is only ever replaced by a whole new one; a restore that was \
interrupted goes on where it stopped when it is run again. Exit code 3: something could not be written; 4: something in \
the repository is damaged.

Examples:
  lakebed restore --repo /mnt/backup/lake latest --target /tmp/out
  lakebed restore --repo /mnt/backup/lake --at '2026-11-17 02:00' --target /tmp/out --path data/lake/sales
  lakebed restore --repo /mnt/backup/lake latest --target / --overwrite if-changed --dry-run
  lakebed restore --repo /mnt/backup/lake latest --target databricks:/// --path Clients/2024/ENG-101";

/// Write a snapshot, or a part of it, to a folder
///
/// Paths below the target are those in the snapshot. By default nothing that exists is changed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The snapshot: `latest`, the beginning of an id, or `@TIME`
    #[arg(value_name = "SNAPSHOT", conflicts_with = "at")]
    snapshot: Option<String>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Folder to restore into, which is made if need be; or databricks://HOST/PATH of a workspace
    #[arg(short, long, value_name = "FOLDER|URI", help_heading = None)]
    target: PathBuf,
    /// Restore only this path of the snapshot, with all that is in it
    #[arg(long, value_name = "PATH", help_heading = "What is restored")]
    path: Vec<OsString>,
    /// Restore only what matches this glob; without a slash it is matched against names
    #[arg(long, value_name = "GLOB", help_heading = "What is restored")]
    include: Vec<String>,
    /// Leave out what matches this glob
    #[arg(long, value_name = "GLOB", help_heading = "What is restored")]
    exclude: Vec<String>,
    /// What to do with files that exist
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", help_heading = "How it is written")]
    overwrite: OverwriteArg,
    /// Delete what the snapshot does not have, in the folders that are restored, without asking. What its backup excluded
    /// goes too, unless --exclude names it; spared are folders above those that were backed up, what could not be read,
    /// the repository, and what is mounted within them
    #[arg(long, help_heading = "How it is written")]
    delete: bool,
    /// Change nothing, list what would be done
    #[arg(short = 'n', long, help_heading = "How it is written")]
    dry_run: bool,
    /// Do not set owners and groups [default: set them as root only]
    #[arg(long, help_heading = "How it is written")]
    no_owner: bool,
    /// Return only when everything is durable on disk
    #[arg(long, help_heading = "How it is written")]
    sync: bool,
    /// Worker threads [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true, help_heading = "How it is written")]
    threads: usize,

    #[command(flatten)]
    workspace: WorkspaceArgs,
    /// Also say who may do what with what is restored, as far as the snapshot has it
    #[arg(long, help_heading = "Workspaces")]
    with_permissions: bool,
}

/// What to do with files that exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum OverwriteArg {
    /// Leave them
    #[default]
    Never,
    /// Replace them where size or modification time differ
    IfChanged,
    /// Replace them where the snapshot's are newer
    IfNewer,
    /// Replace them; what is equal is not written again
    Always,
}

impl From<OverwriteArg> for Overwrite {
    fn from(arg: OverwriteArg) -> Self {
        match arg {
            OverwriteArg::Never => Self::Never,
            OverwriteArg::IfChanged => Self::IfChanged,
            OverwriteArg::IfNewer => Self::IfNewer,
            OverwriteArg::Always => Self::Always,
        }
    }
}

impl RestoreArgs {
    /// Returns the workspace that is restored into, if it is one.
    fn workspace_target(&self, ctx: &Context) -> Result<Option<WorkspaceTarget>, CliError> {
        let Some(uri) = self.target.to_str().filter(|text| WorkspaceUri::looks_like_one(text)) else {
            return match self.with_permissions {
                true => Err(CliError::usage("--with-permissions is for workspaces: --target databricks://HOST/PATH")),
                false => Ok(None),
            };
        };
        if self.delete || self.sync || self.no_owner || self.threads != 0 {
            let only = "--delete, --sync, --no-owner and --threads are for folders of this machine";
            return Err(CliError::usage(only));
        }
        let uri = WorkspaceUri::parse(uri)?;
        let options = WorkspaceTargetOptions {
            path: uri.path.clone(),
            overwrite: self.overwrite.into(),
            permissions: self.with_permissions,
            dry_run: self.dry_run,
        };
        Ok(Some(WorkspaceTarget::new(self.workspace.connect(ctx, &uri)?, options)?))
    }
}

/// Says so where a snapshot has nothing of what is asked for.
fn refuse_without_permissions(repository: &Repository, info: &SnapshotInfo) -> Result<(), CliError> {
    let path = [b".databricks".to_vec(), b"permissions".to_vec()];
    match entry_at(&repository.reader(&Silent)?, info, &path) {
        Err(Error::NoPath { .. }) => Err(CliError::failed("The snapshot does not say who may do what")
            .hint("it was taken without --include permissions")),
        found => Ok(found.map(drop)?),
    }
}

pub(crate) fn run(ctx: &Context, args: &RestoreArgs) -> Result<Exit, CliError> {
    let paths =
        args.path.iter().map(|path| Ok(snapshot_path(path)?.join(&b'/'))).collect::<Result<Vec<_>, CliError>>()?;
    let filter = PathFilter::new(&paths, &args.include, &args.exclude)?;
    let workspace = args.workspace_target(ctx)?;
    let repository = ctx.open(Access::Read)?;
    let info = args.choice.find(&repository, args.snapshot.as_deref(), &ctx.question())?;
    if args.with_permissions {
        refuse_without_permissions(&repository, &info)?;
    }
    let mut options = RestoreOptions {
        target: args.target.clone(),
        filter,
        overwrite: args.overwrite.into(),
        delete: args.delete,
        never_delete: if args.delete { ctx.never_delete()? } else { Vec::new() },
        dry_run: args.dry_run,
        sync: args.sync,
        threads: args.threads,
        ..RestoreOptions::default()
    };
    if args.no_owner {
        options.owners = false;
    }
    let monitor = ctx.monitor()?;
    if !info.snapshot.is_complete() {
        let lacks = ui::counted(info.snapshot.failures.len() as u64, "path", "paths");
        monitor.warn(&format!("snapshot {} is partial: {lacks} could not be stored, or not whole", info.id.short()));
    }
    let reader = repository.reader(&monitor)?;
    // a dry run is made for its list; else the list is for those who ask for more
    let planned = Mutex::new(Vec::new());
    let visitor = |action: Action, path: &Path| {
        let wanted = ctx.ui.is_verbose() || (args.dry_run && action != Action::Kept);
        if ctx.ui.is_json() {
            if args.dry_run && action != Action::Kept {
                planned.lock().unwrap_or_else(PoisonError::into_inner).push((action, path.to_path_buf()));
            }
        } else if wanted {
            ctx.ui.line(&format!("{} {}", ui::action_sign(action), shown(path)));
        }
    };
    let result = match &workspace {
        Some(target) => restore_into(&reader, &info, target, &options.filter, &visitor, &monitor),
        None => restore(&reader, &info, &options, &visitor, &monitor),
    };
    drop(monitor);
    let report = result?;
    for failure in &report.failures {
        ctx.ui.warn(&format!("cannot restore `{}`: {}", shown(&failure.path), one_line(&failure.error)));
    }
    let planned = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
    print(ctx, args, &info, &report, workspace.as_ref(), planned)?;
    Ok(match report.failures.iter().any(|failure| failure.damage) {
        true => Exit::Damage,
        false if report.failures.is_empty() => Exit::Done,
        false => Exit::Partial,
    })
}

fn shown(path: &Path) -> String {
    escape_path(path.as_os_str().as_bytes())
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Created => "create",
        Action::Replaced => "replace",
        Action::Kept => "keep",
        Action::Deleted => "delete",
    }
}

fn print(
    ctx: &Context,
    args: &RestoreArgs,
    info: &SnapshotInfo,
    report: &RestoreReport,
    workspace: Option<&WorkspaceTarget>,
    planned: Vec<(Action, PathBuf)>,
) -> Result<(), CliError> {
    ctx.ui.report(
        || result_json(args, info, report, workspace, &planned),
        |out| {
            let what = if args.dry_run { "would restore" } else { "restored" };
            writeln!(
                out,
                "{what} snapshot {} of {} to {}",
                info.id.short(),
                ui::local_time(info.snapshot.time),
                workspace.map_or_else(|| args.target.display().to_string(), Target::location)
            )?;
            if report.continued {
                writeln!(out, "continued a restore that had been interrupted")?;
            }
            let count = ui::count;
            writeln!(
                out,
                "entries: {} created, {} replaced, {} kept, {} deleted; {}",
                count(report.created),
                count(report.replaced),
                count(report.kept),
                count(report.deleted),
                ui::bytes(report.bytes)
            )?;
            if report.left_out > 0 {
                let left_out = ui::counted(report.left_out, "entry", "entries");
                writeln!(
                    out,
                    "left out: {left_out} that a workspace has no place for, or that came in another format"
                )?;
            }
            if let Some(workspace) = workspace {
                writeln!(out, "{}", traffic_line(workspace.workspace()))?;
            }
            if !report.failures.is_empty() {
                let failed = ui::counted(report.failures.len() as u64, "entry", "entries");
                writeln!(out, "failed:  {failed}, told above")?;
            }
            if report.spared > 0 {
                let spared = ui::counted(report.spared, "entry was", "entries were");
                let why = "the backup did not or could not look there, or it is another file system or the repository";
                writeln!(out, "{spared} not deleted: {why}")?;
            }
            if report.kept > report.spared && args.overwrite == OverwriteArg::Never {
                writeln!(out, "what existed was kept; --overwrite replaces it")?;
            }
            if args.dry_run { writeln!(out, "dry run: nothing was changed") } else { Ok(()) }
        },
    )
}

fn result_json(
    args: &RestoreArgs,
    info: &SnapshotInfo,
    report: &RestoreReport,
    workspace: Option<&WorkspaceTarget>,
    planned: &[(Action, PathBuf)],
) -> Value {
    let failures = report.failures.iter();
    let failures = failures.map(
        |failure| json!({ "path": shown(&failure.path), "reason": one_line(&failure.error), "damage": failure.damage }),
    );
    let mut result = json!({
        "snapshot": info.id,
        "time": info.snapshot.time,
        "target": workspace.map_or_else(|| shown(&args.target), Target::location),
        "workspace": workspace.map(|workspace| traffic_json(workspace.workspace())),
        "left_out": report.left_out,
        "dry_run": args.dry_run,
        "continued": report.continued,
        "created": report.created,
        "replaced": report.replaced,
        "kept": report.kept,
        "spared": report.spared,
        "deleted": report.deleted,
        "bytes": report.bytes,
        "failures": failures.collect::<Vec<_>>(),
    });
    if let (true, Some(map)) = (args.dry_run, result.as_object_mut()) {
        let actions = planned.iter();
        let actions = actions.map(|(action, path)| json!({ "action": action_name(*action), "path": shown(path) }));
        map.insert("actions".into(), actions.collect());
    }
    result
}
