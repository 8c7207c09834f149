//! `forget`: drop snapshots by rules or by name, and bring them back.

use clap::Args;
use jiff::tz::TimeZone;
use lakebed_engine::Repository;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::retention::{Count, Policy, Within};
use lakebed_engine::forget::{Choice, ForgetGroup, ForgetOptions, ForgetPlan, ForgetReport, GroupBy, PlannedSnapshot};
use serde_json::{Value, json};

use super::prune::{self, FreeArgs};
use super::select::{self, FilterArgs, groups};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui::{self, Table, Text};

const EXAMPLES: &str = "\
A snapshot stays if any rule keeps it. Days, weeks, ... are counted if they have a snapshot; the newest of each is kept. \
Where there are fewer than a rule may keep, the oldest snapshot stays too. --keep-within counts back from the newest \
snapshot of a group, not from today. A partial snapshot counts like any other, but never pushes out the newest complete one.

A forgotten snapshot is hidden and frees no space yet. --undo brings it back until a prune has run; \
`lakebed snapshots --forgotten` lists what can be brought back.

Examples:
  lakebed forget --repo /mnt/backup/lake --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly all --dry-run
  lakebed forget --repo /mnt/backup/lake --keep-within 30d --keep-tag gold --host node7
  lakebed forget --repo /mnt/backup/lake 3f9a 77b0
  lakebed forget --repo /mnt/backup/lake --undo 3f9a";

/// Drop snapshots by rules or by name
///
/// Decides over each group of snapshots by itself, says of each snapshot what becomes of it and why, and hides those that
/// are forgotten.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ForgetArgs {
    /// Forget these, whatever the rules: `latest`, the beginning of an id, or `@TIME`; with --undo what to bring back
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["KeepArgs", "FilterArgs"])]
    snapshots: Vec<String>,
    /// What is decided over together, and never left without a snapshot: host, source, tags, separated by commas, or none
    #[arg(long, value_name = "BY,...", default_value = "host,source", value_parser = parse_group_by)]
    group_by: GroupBy,
    /// Let groups be left without any snapshot; without a rule forget all that match
    #[arg(long)]
    allow_empty: bool,
    /// Say what would be forgotten and forget nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Bring forgotten snapshots back: those that are named by their ids, or `all`
    #[arg(long, requires = "snapshots", conflicts_with_all = ["allow_empty", "dry_run", "prune"])]
    undo: bool,
    /// Free space afterwards, as `lakebed prune` does: what was forgotten is gone for ever then
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    free: FreeArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// What is kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is kept (N is a number, or `all`)")]
struct KeepArgs {
    /// The newest N
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<Count>,
    /// The newest of each of N hours
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// The newest of each of N days
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<Count>,
    /// The newest of each of N weeks
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// The newest of each of N months
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// The newest of each of N quarters of a year
    #[arg(long, value_name = "N")]
    keep_quarterly: Option<Count>,
    /// The newest of each of N years
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// All that are not older than this, beside the newest: years, months, weeks, days, hours, such as 30d or 1y6m
    #[arg(long, value_name = "AGE")]
    keep_within: Option<Within>,
    /// All with all of these tags, separated by commas (repeat for others)
    #[arg(long, value_name = "TAG,...")]
    keep_tag: Vec<String>,
}

impl KeepArgs {
    fn policy(&self) -> Result<Policy, CliError> {
        let tags = groups(&self.keep_tag);
        if tags.iter().any(Vec::is_empty) {
            return Err(CliError::usage("--keep-tag names no tag"));
        }
        Ok(Policy {
            last: self.keep_last.unwrap_or_default(),
            hourly: self.keep_hourly.unwrap_or_default(),
            daily: self.keep_daily.unwrap_or_default(),
            weekly: self.keep_weekly.unwrap_or_default(),
            monthly: self.keep_monthly.unwrap_or_default(),
            quarterly: self.keep_quarterly.unwrap_or_default(),
            yearly: self.keep_yearly.unwrap_or_default(),
            within: self.keep_within,
            tags,
        })
    }
}

fn parse_group_by(text: &str) -> Result<GroupBy, String> {
    let mut by = GroupBy { host: false, source: false, tags: false };
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "none") {
        match part {
            "host" => by.host = true,
            "source" | "sources" => by.source = true,
            "tag" | "tags" => by.tags = true,
            other => return Err(format!("expected `host`, `source`, `tags` or `none`, found `{other}`")),
        }
    }
    Ok(by)
}

impl ForgetArgs {
    fn options(&self, ctx: &Context, repository: &Repository) -> Result<ForgetOptions, CliError> {
        let choice = if self.snapshots.is_empty() {
            Choice::Policy { policy: self.keep.policy()?, filter: self.filter.filter() }
        } else {
            let found = select::find_all(repository, &self.snapshots, &ctx.question())?;
            Choice::Snapshots(found.into_iter().map(|info| info.id).collect())
        };
        let (group_by, allow_empty) = (self.group_by, self.allow_empty);
        Ok(ForgetOptions { choice, group_by, allow_empty, zone: TimeZone::system() })
    }
}

pub(crate) fn run(ctx: &Context, args: &ForgetArgs) -> Result<Exit, CliError> {
    if args.free.is_given() && !args.prune {
        return Err(CliError::usage("How space is freed was said, but not that it should be: give --prune too"));
    }
    if args.undo {
        return undo(ctx, &args.snapshots);
    }
    let repository = ctx.open(if args.dry_run { Access::Read } else { Access::Free })?;
    let plan = repository.plan_forget(&args.options(ctx, &repository)?)?;
    for (_, error) in &plan.damaged {
        ctx.ui.warn(&one_line(error));
    }
    let report = match args.dry_run {
        true => None,
        false => Some(repository.apply_forget(&plan, &ctx.monitor()?)?),
    };
    let pruned = args.prune.then(|| {
        let assumed = plan.forgotten().map(|info| info.id).collect();
        args.free.prune(ctx, &repository, args.dry_run, assumed)
    });
    let pruned = match pruned.transpose() {
        Ok(pruned) => pruned,
        Err(error) => {
            // what was decided is done, or would be, whatever becomes of the space
            if !ctx.ui.is_json() {
                ctx.ui.report(|| Value::Null, |out| print(out, &plan, report.as_ref(), false))?;
            }
            let forgotten = report.as_ref().map_or(0, |report| report.forgotten.len());
            let done = match forgotten {
                0 => "this run forgot no snapshot".into(),
                many => {
                    format!("{} forgotten all the same", ui::counted(many as u64, "snapshot was", "snapshots were"))
                }
            };
            return Err(error.after(done));
        }
    };
    let json = || {
        let mut json = plan_json(&plan, args.dry_run);
        json["prune"] = pruned.as_ref().map_or(Value::Null, |pruned| prune::report_json(pruned, args.dry_run));
        json
    };
    let text = |out: Text<'_>| {
        print(out, &plan, report.as_ref(), args.prune)?;
        pruned.as_ref().map_or(Ok(()), |pruned| prune::print(out, pruned, args.dry_run))
    };
    // a dry run answers a question
    if report.is_none() { ctx.ui.answer(json, text) } else { ctx.ui.report(json, text) }?;
    Ok(if plan.damaged.is_empty() { Exit::Done } else { Exit::Damage })
}

fn undo(ctx: &Context, names: &[String]) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Write)?;
    let ids = match names {
        [all] if all == "all" => {
            let forgotten = repository.forgotten_snapshots()?;
            for (_, error) in &forgotten.damaged {
                ctx.ui.warn(&one_line(error));
            }
            forgotten.snapshots.iter().map(|forgotten| forgotten.info.id).collect()
        }
        names => names.iter().map(|name| find_forgotten(&repository, name)).collect::<Result<Vec<_>, _>>()?,
    };
    repository.undo_forget(&ids)?;
    ctx.ui.report(
        || json!({ "undone": ids }),
        |out| {
            for id in &ids {
                writeln!(out, "snapshot {} is back", id.short())?;
            }
            if ids.is_empty() { writeln!(out, "no forgotten snapshots") } else { Ok(()) }
        },
    )?;
    Ok(Exit::Done)
}

fn find_forgotten(repository: &Repository, name: &str) -> Result<SnapshotId, CliError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let message = format!("`{name}` names no forgotten snapshot: give the beginning of an id, or `all` alone");
        return Err(CliError::usage(message));
    }
    Ok(repository.find_forgotten(name)?)
}

fn print(out: Text<'_>, plan: &ForgetPlan, report: Option<&ForgetReport>, is_pruned: bool) -> std::io::Result<()> {
    for group in &plan.groups {
        print_group(out, group)?;
    }
    let all: usize = plan.groups.iter().map(|group| group.snapshots.len()).sum();
    let chosen = plan.forgotten().count();
    let counted = |number: usize| ui::counted(number as u64, "snapshot", "snapshots");
    let Some(report) = report else {
        return writeln!(out, "dry run: {} of {} would be forgotten", ui::count(chosen as u64), counted(all));
    };
    if !report.forgotten_before.is_empty() {
        writeln!(out, "{} had been forgotten by another run meanwhile", counted(report.forgotten_before.len()))?;
    }
    match report.forgotten.len() {
        0 => writeln!(out, "nothing was forgotten, {} kept", counted(all - chosen)),
        many => {
            write!(out, "{} forgotten, {} kept", counted(many), ui::count((all - chosen) as u64))?;
            match is_pruned {
                true => writeln!(out),
                false => writeln!(out, "; `lakebed forget --undo ID` brings back what no prune has condemned"),
            }
        }
    }
}

fn print_group(out: Text<'_>, group: &ForgetGroup) -> std::io::Result<()> {
    let forgotten = group.forgotten();
    let kept = group.snapshots.len() - forgotten;
    write!(out, "{}: {kept} kept, {forgotten} forgotten", group_text(group))?;
    if group.others > 0 {
        write!(out, ", {} not chosen", group.others)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&["", "ID", "Time", "Tags", "Why"]);
    for planned in &group.snapshots {
        let snapshot = &planned.info.snapshot;
        table.row(vec![
            decision_word(planned).into(),
            planned.info.id.short(),
            ui::local_time(snapshot.time),
            ui::plain(&snapshot.tags.join(",")),
            why(planned),
        ]);
    }
    table.write(out)?;
    writeln!(out)
}

fn decision_word(planned: &PlannedSnapshot) -> &'static str {
    if planned.decision.forgets() { "forget" } else { "keep" }
}

/// Returns the reasons, and what is unusual about the snapshot.
fn why(planned: &PlannedSnapshot) -> String {
    let reasons: Vec<String> = planned.decision.reasons().into_iter().map(|(_, text)| text).collect();
    let mut text = ui::plain(&reasons.join(", "));
    if !planned.info.snapshot.is_complete() {
        text.push_str("; partial");
    }
    if planned.is_in_future {
        text.push_str("; lies in the future");
    }
    text
}

fn group_text(group: &ForgetGroup) -> String {
    let key = &group.key;
    let mut parts: Vec<String> = key.host.iter().map(|host| format!("host {}", ui::plain(host))).collect();
    parts.extend(key.sources.iter().flatten().map(|uri| ui::source_path(uri)));
    parts.extend(key.tags.iter().map(|tags| match tags.is_empty() {
        true => "no tags".into(),
        false => format!("tags {}", ui::plain(&tags.join(","))),
    }));
    if parts.is_empty() { "all snapshots".into() } else { parts.join(", ") }
}

fn plan_json(plan: &ForgetPlan, dry_run: bool) -> Value {
    let damaged = plan.damaged.iter();
    let damaged = damaged.map(|(key, error)| json!({ "object": key.as_str(), "problem": one_line(error) }));
    json!({
        "dry_run": dry_run,
        "rule": plan.rule,
        "groups": plan.groups.iter().map(group_json).collect::<Vec<_>>(),
        "forgotten": plan.forgotten().map(|info| info.id).collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
    })
}

fn group_json(group: &ForgetGroup) -> Value {
    let snapshots = group.snapshots.iter().map(|planned| {
        let reasons = planned.decision.reasons().into_iter();
        let reasons = reasons.map(|(rule, text)| json!({ "rule": rule, "text": text }));
        json!({
            "id": planned.info.id,
            "time": planned.info.snapshot.time,
            "tags": planned.info.snapshot.tags,
            "complete": planned.info.snapshot.is_complete(),
            "in_future": planned.is_in_future,
            "decision": decision_word(planned),
            "reasons": reasons.collect::<Vec<_>>(),
        })
    });
    json!({
        "host": group.key.host,
        "sources": group.key.sources,
        "tags": group.key.tags,
        "snapshots": snapshots.collect::<Vec<_>>(),
        "not_chosen": group.others,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_in_any_order_or_not_at_all() {
        let by = |host, source, tags| Ok(GroupBy { host, source, tags });
        assert_eq!(parse_group_by("host,source"), by(true, true, false));
        assert_eq!(parse_group_by(" tags , host"), by(true, false, true));
        assert_eq!(parse_group_by("none"), by(false, false, false));
        assert_eq!(parse_group_by(""), by(false, false, false));
        assert!(parse_group_by("host,paths").unwrap_err().contains("`paths`"));
    }
}
