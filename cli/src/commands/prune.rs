//! `prune`: free the space of what no snapshot needs.

use std::time::Duration;

use clap::Args;
use lakebed_engine::Repository;
use lakebed_engine::core::codec::compress::Compression;
use lakebed_engine::core::id::{SessionId, SnapshotId};
use lakebed_engine::prune::{PruneOptions, PruneReport, Tally, TooMuch, Unfinished, Unused};
use serde_json::{Value, json};

use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::size::{parse_duration, parse_share, parse_size};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
Forgotten snapshots are gone for ever after this. Backups, restores and other prunes may run at the same time. Nothing is \
deleted before every backup has ended that was running when it was condemned: the prune waits for them (--wait), and what \
is left then is freed by the next one. A prune that is interrupted is continued by the next one, too.

Examples:
  lakebed prune --repo /mnt/backup/lake --dry-run
  lakebed prune --repo /mnt/backup/lake --max-unused 10% --max-repack 50GiB --max-time 1h
  lakebed prune --repo /mnt/backup/lake --max-unused 0 --repack-small";

/// Free the space of what no snapshot needs
///
/// Deletes packs in which nothing is needed any more, and writes anew what is needed of those that hold much that is not.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    free: FreeArgs,
    /// Say what would be freed and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// How space is freed: also after `forget --prune`.
#[derive(Debug, Args)]
#[command(next_help_heading = "How space is freed")]
pub(crate) struct FreeArgs {
    /// How much may stay unused in packs that hold other things: 5%, 5GiB, 0 or `unlimited` [default: 10%]
    #[arg(long, value_name = "SHARE|SIZE", value_parser = parse_unused)]
    max_unused: Option<Unused>,
    /// Join packs that are much smaller than they should be
    #[arg(long)]
    repack_small: bool,
    /// Write no more than so much anew [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_repack: Option<u64>,
    /// Begin to read and rewrite nothing more after this time; the next prune goes on [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// Wait so long for backups that are running; the next prune frees what is left then [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Refuse to delete more than this share of the snapshots or of the bytes at once [default: 90%]
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    max_delete: Option<f64>,
    /// Go on although snapshots are gone that nobody has forgotten
    #[arg(long)]
    accept_vanished: bool,
    /// Nothing else works with the repository meanwhile: needed on object stores that do not keep writers of one name
    /// apart
    #[arg(long)]
    exclusive: bool,
    /// How hard what is written anew is compressed, as in `backup`
    #[arg(long, value_name = "HOW", default_value_t, allow_hyphen_values = true, hide_default_value = true)]
    recompress: Compression,
}

/// Reads a share such as `10%`, a size, or `unlimited`.
fn parse_unused(text: &str) -> Result<Unused, String> {
    match text.trim() {
        "unlimited" => Ok(Unused::Unlimited),
        "0%" => Ok(Unused::Share(0.0)),
        share if share.ends_with('%') => parse_share(share).map(Unused::Share),
        size => parse_size(size)
            .map(Unused::Bytes)
            .map_err(|error| format!("{error}; a share such as 5%, or `unlimited`, would do as well")),
    }
}

impl FreeArgs {
    /// Tells whether any of it was given.
    pub(crate) fn is_given(&self) -> bool {
        let Self {
            max_unused,
            repack_small,
            max_repack,
            max_time,
            wait,
            max_delete,
            accept_vanished,
            exclusive,
            recompress,
        } = self;
        max_unused.is_some()
            || *repack_small
            || max_repack.is_some()
            || max_time.is_some()
            || wait.is_some()
            || max_delete.is_some()
            || *accept_vanished
            || *exclusive
            || *recompress != Compression::default()
    }

    /// Prunes, or plans it: then as if these snapshots were forgotten.
    pub(crate) fn prune(
        &self,
        ctx: &Context,
        repository: &Repository,
        dry_run: bool,
        assume_forgotten: Vec<SnapshotId>,
    ) -> Result<PruneReport, CliError> {
        let mut options = PruneOptions::default();
        options.max_unused = self.max_unused.unwrap_or(options.max_unused);
        options.repack_small = self.repack_small;
        options.max_repack = self.max_repack;
        options.max_time = self.max_time;
        options.wait = self.wait.unwrap_or(options.wait);
        options.max_delete = self.max_delete.unwrap_or(options.max_delete);
        options.accept_vanished = self.accept_vanished;
        options.exclusive = self.exclusive;
        options.compression = self.recompress;
        options.dry_run = dry_run;
        options.assume_forgotten = assume_forgotten;
        Ok(repository.prune(&options, &ctx.monitor()?)?)
    }
}

pub(crate) fn run(ctx: &Context, args: &PruneArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(if args.dry_run { Access::Read } else { Access::Free })?;
    let report = args.free.prune(ctx, &repository, args.dry_run, Vec::new())?;
    let (json, text) = (|| report_json(&report, args.dry_run), |out: Text<'_>| print(out, &report, args.dry_run));
    // a dry run answers a question
    if args.dry_run { ctx.ui.answer(json, text) } else { ctx.ui.report(json, text) }?;
    Ok(Exit::Done)
}

/// Prints what was planned and done.
pub(crate) fn print(out: Text<'_>, report: &PruneReport, dry_run: bool) -> std::io::Result<()> {
    let plan = &report.plan;
    let packs = |tally: Tally| format!("{} ({})", ui::counted(tally.packs, "pack", "packs"), ui::bytes(tally.bytes));
    let snapshots = |count| ui::counted(count, "snapshot", "snapshots");
    writeln!(
        out,
        "snapshots: {} kept, {} forgotten",
        ui::count(plan.snapshots_kept),
        ui::count(plan.snapshots_forgotten.len() as u64)
    )?;
    writeln!(out, "packs:     {}, of which nobody needs {}", packs(plan.all), ui::bytes(plan.unused_bytes))?;
    writeln!(out, "  keep     {}, of which nobody needs {}", packs(plan.kept), ui::bytes(plan.unused_after_bytes))?;
    writeln!(out, "  rewrite  {}, of which {} are kept", packs(plan.repacked), ui::bytes(plan.copied_bytes))?;
    writeln!(out, "  delete   {}", packs(plan.deleted))?;
    if plan.condemned_before.packs > 0 {
        writeln!(out, "  left     {} by earlier prunes", packs(plan.condemned_before))?;
    }
    if dry_run {
        writeln!(out, "dry run: about {} would be freed", ui::bytes(plan.freed_bytes()))?;
        return report.too_much.map_or(Ok(()), |TooMuch { what, share, limit }| {
            writeln!(out, "that is {share} % of the {what}, at most {limit} % may go: --max-delete {share}% allows it")
        });
    }
    if !report.taken_over.is_empty() {
        writeln!(out, "finished what {} had left", ui::counted(report.taken_over.len() as u64, "prune", "prunes"))?;
    }
    if !report.finished_by_others.is_empty() {
        writeln!(out, "another prune was faster and finished what this one was at")?;
    }
    if !report.sessions_expired.is_empty() {
        let sessions = ui::counted(report.sessions_expired.len() as u64, "session", "sessions");
        writeln!(out, "expired {sessions} that nobody was at any more")?;
    }
    match &report.unfinished {
        None => {}
        Some(Unfinished::Waiting(sessions)) => {
            // of one on another machine nobody here can tell
            let running = ui::counted(sessions.len() as u64, "backup that began before", "backups that began before");
            let ids: Vec<String> = sessions.iter().map(SessionId::short).collect();
            writeln!(
                out,
                "{running} may still be running ({}): the next prune frees what waits for that; `lakebed sessions show` \
                 tells of one, `lakebed sessions expire` ends one that is dead",
                ids.join(", ")
            )?;
        }
        Some(Unfinished::OutOfTime) => writeln!(out, "its time was up: the next prune goes on")?,
    }
    writeln!(
        out,
        "freed {}: {} deleted, {} written anew, {} gone for ever",
        ui::bytes(report.deleted.bytes.saturating_sub(report.written.bytes)),
        packs(report.deleted),
        packs(report.written),
        snapshots(report.snapshots_deleted)
    )
}

/// Returns what was planned and done as JSON has it.
pub(crate) fn report_json(report: &PruneReport, dry_run: bool) -> Value {
    let tally = |tally: Tally| json!({ "packs": tally.packs, "bytes": tally.bytes });
    let plan = &report.plan;
    let (unfinished, waiting_for) = match &report.unfinished {
        None => (Value::Null, Vec::new()),
        Some(Unfinished::Waiting(sessions)) => (json!("waiting"), sessions.clone()),
        Some(Unfinished::OutOfTime) => (json!("out-of-time"), Vec::new()),
    };
    json!({
        "dry_run": dry_run,
        "plan": {
            "snapshots_kept": plan.snapshots_kept,
            "snapshots_forgotten": plan.snapshots_forgotten,
            "all": tally(plan.all),
            "kept": tally(plan.kept),
            "repacked": tally(plan.repacked),
            "deleted": tally(plan.deleted),
            "condemned_before": tally(plan.condemned_before),
            "copied_bytes": plan.copied_bytes,
            "unused_bytes": plan.unused_bytes,
            "unused_after_bytes": plan.unused_after_bytes,
            "freed_bytes": plan.freed_bytes(),
        },
        "generation": report.generation,
        "taken_over": report.taken_over,
        "finished_by_others": report.finished_by_others,
        "deleted": tally(report.deleted),
        "written": tally(report.written),
        "snapshots_deleted": report.snapshots_deleted,
        "sessions_expired": report.sessions_expired,
        "too_much": report.too_much.map(|TooMuch { what, share, limit }| {
            json!({ "what": what, "share_percent": share, "limit_percent": limit })
        }),
        "unfinished": unfinished,
        "waiting_for": waiting_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stay_unused_is_a_share_or_a_size() {
        assert_eq!(parse_unused("0"), Ok(Unused::Bytes(0)));
        assert_eq!(parse_unused("0%"), Ok(Unused::Share(0.0)));
        assert_eq!(parse_unused("12.5%"), Ok(Unused::Share(0.125)));
        assert_eq!(parse_unused("5GiB"), Ok(Unused::Bytes(5 << 30)));
        assert_eq!(parse_unused("unlimited"), Ok(Unused::Unlimited));
        assert!(parse_unused("120%").is_err() && parse_unused("much").is_err());
        assert!(parse_unused("much").is_err_and(|error| error.contains("5%") && error.contains("unlimited")));
    }
}
