//! `repair`: put right what can be put right.

use clap::Args;
use lakebed_engine::core::layout;
use lakebed_engine::repair::{Action, Loss, Remedy, RepairOptions, RepairPlan, RepairReport, apply, plan};
use serde_json::{Value, json};

use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
Without --apply only the plan is shown. Nothing is ever deleted: what is damaged is moved to quarantine/ in the repository. \
What can be read of damaged packs is stored again. Of snapshots that lack something, which are kept, others are made that \
hold all that is left and list what is missing; the next backup stores again what its source still has. A repair that was \
cut off is completed by the next one.

Exit code 4: something is wrong that was not put right yet, or is lost.

Examples:
  lakebed repair --repo /mnt/backup/lake
  lakebed repair --repo /mnt/backup/lake --read-data --apply";

/// Put right what can be put right
///
/// Looks for damage and says what can be done about it: index segments and packs that are missing or damaged, records
/// that cannot be read, snapshots that lack something.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RepairArgs {
    /// Carry the plan out
    #[arg(long, conflicts_with = "dry_run")]
    apply: bool,
    /// Only show the plan, as without --apply
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read all packs, to find bits that have flipped
    #[arg(long)]
    read_data: bool,
    /// Also put aside what a prune that may still run, or a newer lakebed, may need
    #[arg(long)]
    force: bool,
    /// Threads that read packs [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    threads: usize,
}

pub(crate) fn run(ctx: &Context, args: &RepairArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(if args.apply { Access::Write } else { Access::Read })?;
    let options = RepairOptions {
        read_data: args.read_data,
        force: args.force,
        threads: args.threads,
        ..RepairOptions::default()
    };
    let monitor = ctx.monitor()?;
    let planned = plan(&repository, &options, &monitor)?;
    let report = match args.apply && !planned.actions.is_empty() {
        true => Some(apply(&repository, &planned, &options, &monitor)?),
        false => None,
    };
    drop(monitor);
    ctx.ui.report(
        || result_json(&planned, report.as_ref(), args.apply),
        |out| print(out, &planned, report.as_ref(), ctx.ui.is_verbose()),
    )?;
    let left = report.as_ref().map_or(&planned, |report| &report.remaining);
    Ok(if left.is_good() { Exit::Done } else { Exit::Damage })
}

/// So many paths of each are shown, unless all are asked for.
const PATHS_SHOWN: usize = 20;

fn print(out: Text<'_>, planned: &RepairPlan, report: Option<&RepairReport>, all: bool) -> std::io::Result<()> {
    let shown = if all { usize::MAX } else { PATHS_SHOWN };
    for action in &planned.actions {
        print_action(out, action, report.is_some(), shown)?;
    }
    if let Some(report) = report {
        print_done(out, report)?;
    }
    let left = report.map_or(planned, |report| &report.remaining);
    for held_back in &left.held_back {
        writeln!(out, "left:     {}: {}", held_back.object, ui::plain(&held_back.problem))?;
        writeln!(out, "          {}", held_back.advice)?;
    }
    for loss in &left.losses {
        print_loss(out, loss, shown)?;
    }
    let next = next_steps(planned, left, report.is_some());
    match left.is_good() {
        true if report.is_some() => writeln!(out, "everything that was wrong is put right")?,
        true => writeln!(out, "nothing is wrong, as far as was looked")?,
        false => {}
    }
    next.iter().try_for_each(|step| writeln!(out, "next:     {step}"))
}

fn print_action(out: Text<'_>, action: &Action, done: bool, shown: usize) -> std::io::Result<()> {
    let (subject, doing) = remedy_text(&action.remedy);
    let when = if done { "done:" } else { "to do:" };
    writeln!(out, "{when:<9} {subject}: {}: {doing}", ui::plain(&action.problem))?;
    for affected in action.affected.iter().take(shown) {
        let path = if affected.path.is_empty() { "all of it" } else { &affected.path };
        writeln!(out, "          lost in snapshot {}: {path}", affected.snapshot.short())?;
    }
    let more = action.affected_more + action.affected.len().saturating_sub(shown) as u64;
    if more > 0 {
        writeln!(out, "          and {}", ui::counted(more, "more path", "more paths"))?;
    }
    Ok(())
}

/// Returns what it is about, and what is done.
fn remedy_text(remedy: &Remedy) -> (String, String) {
    match remedy {
        Remedy::PutAside(key) => (key.to_string(), "moved to quarantine".into()),
        Remedy::Close(id) => {
            (layout::snapshot(*id).to_string(), "moved to quarantine; what it said is lost, or in a copy".into())
        }
        Remedy::Expire(key) => (key.to_string(), "its session is expired, the record moved to quarantine".into()),
        Remedy::Show(key) => {
            (key.to_string(), "moved to quarantine with its tombstone; the snapshot is shown again".into())
        }
        Remedy::Describe { packs, segments } => {
            let packs = ui::counted(*packs, "pack", "packs");
            let subject = match segments.len() as u64 {
                0 => packs.clone(),
                1 => segments[0].to_string(),
                many => ui::counted(many, "index segment", "index segments"),
            };
            let aside = if segments.is_empty() { "" } else { "; what is damaged is moved to quarantine" };
            (subject, format!("{packs} described anew in the index{aside}"))
        }
        Remedy::Salvage { pack, readable } => {
            let readable = ui::counted(*readable, "chunk or node", "chunks and nodes");
            (
                layout::pack(*pack).to_string(),
                format!("{readable} can be read and are stored again, it moves to quarantine"),
            )
        }
        Remedy::Drop(pack) => (layout::pack(*pack).to_string(), "taken out of the index".into()),
        Remedy::Derive { snapshot, .. } => {
            let subject = format!("snapshot {}", snapshot.short());
            (subject, "another one is made without what is lost; this one stays".into())
        }
    }
}

fn print_done(out: Text<'_>, report: &RepairReport) -> std::io::Result<()> {
    if report.salvaged > 0 {
        let blobs = ui::counted(report.salvaged, "chunk or node", "chunks and nodes");
        writeln!(out, "saved:    {blobs} stored again ({})", ui::bytes(report.salvaged_bytes))?;
    }
    for (original, info) in &report.snapshots {
        let (new, old) = (info.id.short(), original.short());
        writeln!(out, "made:     snapshot {new}: what is left of {old} ({})", ui::local_time(info.snapshot.time))?;
    }
    Ok(())
}

fn print_loss(out: Text<'_>, loss: &Loss, shown: usize) -> std::io::Result<()> {
    let id = loss.snapshot.short();
    let paths = ui::counted(loss.paths.len() as u64, "path", "paths");
    let extent = if loss.is_total { "nothing of it is left".into() } else { format!("{paths} lost") };
    write!(out, "lost:     snapshot {id} ({}): {extent}", ui::local_time(loss.time))?;
    match loss.repaired {
        _ if loss.is_forgotten => writeln!(out, "; it is forgotten, the next `lakebed prune` frees it")?,
        Some(repaired) => writeln!(out, "; a repaired snapshot {} exists", repaired.short())?,
        None => writeln!(out)?,
    }
    for lost in loss.paths.iter().take(shown) {
        let path = if lost.path.is_empty() { "(top)" } else { &lost.path };
        writeln!(out, "          {path}: {}", ui::plain(&lost.reason))?;
    }
    let more = loss.paths.len().saturating_sub(shown) as u64;
    if more > 0 {
        writeln!(out, "          and {}; --verbose lists all", ui::counted(more, "more path", "more paths"))?;
    }
    Ok(())
}

/// Returns what is to be done now.
fn next_steps(planned: &RepairPlan, left: &RepairPlan, done: bool) -> Vec<String> {
    let mut steps = Vec::new();
    if !done && !planned.actions.is_empty() {
        steps.push("`lakebed repair --apply` with the same options carries this out".into());
    }
    if done && !left.actions.is_empty() {
        steps.push("more was found meanwhile: run `lakebed repair` again".into());
    }
    if !left.losses.is_empty() {
        steps.push("`lakebed backup` stores again what the sources still have".into());
        steps.push("`lakebed copy` from a replica of this repository brings back the rest, if there is one".into());
        let repaired = left.losses.iter().filter(|loss| loss.repaired.is_some());
        let ids: Vec<String> = repaired.map(|loss| loss.snapshot.short()).collect();
        if !ids.is_empty() {
            let ids = ids.join(" ");
            steps.push(format!("snapshots that lack something can be forgotten once nobody needs them: {ids}"));
        }
    }
    steps
}

fn result_json(planned: &RepairPlan, report: Option<&RepairReport>, applied: bool) -> Value {
    let left = report.map_or(planned, |report| &report.remaining);
    let actions = planned.actions.iter().map(|action| {
        let affected = action.affected.iter();
        let affected = affected.map(|affected| json!({ "snapshot": affected.snapshot, "path": affected.path }));
        let mut value = remedy_json(&action.remedy);
        if let Some(map) = value.as_object_mut() {
            map.insert("problem".into(), action.problem.clone().into());
            map.insert("affected".into(), affected.collect::<Vec<_>>().into());
            map.insert("affected_more".into(), action.affected_more.into());
        }
        value
    });
    let held_back = left.held_back.iter().map(|held_back| {
        json!({ "object": held_back.object.as_str(), "problem": held_back.problem, "advice": held_back.advice })
    });
    let losses = left.losses.iter().map(|loss| {
        let paths = loss.paths.iter().map(|lost| json!({ "path": lost.path, "reason": lost.reason }));
        json!({
            "snapshot": loss.snapshot,
            "time": loss.time,
            "forgotten": loss.is_forgotten,
            "total": loss.is_total,
            "repaired": loss.repaired,
            "paths": paths.collect::<Vec<_>>(),
        })
    });
    let snapshots = report.iter().flat_map(|report| &report.snapshots);
    let snapshots = snapshots.map(|(original, info)| json!({ "original": original, "snapshot": info.id }));
    json!({
        "applied": applied,
        "good": left.is_good(),
        "actions": actions.collect::<Vec<_>>(),
        "salvaged": report.map_or(0, |report| report.salvaged),
        "salvaged_bytes": report.map_or(0, |report| report.salvaged_bytes),
        "snapshots": snapshots.collect::<Vec<_>>(),
        "held_back": held_back.collect::<Vec<_>>(),
        "losses": losses.collect::<Vec<_>>(),
        "next": next_steps(planned, left, report.is_some()),
    })
}

fn remedy_json(remedy: &Remedy) -> Value {
    match remedy {
        Remedy::PutAside(key) => json!({ "action": "put-aside", "object": key.as_str() }),
        Remedy::Close(id) => json!({ "action": "close", "object": layout::snapshot(*id).as_str() }),
        Remedy::Expire(key) => json!({ "action": "expire", "object": key.as_str() }),
        Remedy::Show(key) => json!({ "action": "show", "object": key.as_str() }),
        Remedy::Describe { packs, segments } => {
            let segments = segments.iter().map(|key| key.as_str()).collect::<Vec<_>>();
            json!({ "action": "describe", "object": null, "packs": packs, "segments": segments })
        }
        Remedy::Salvage { pack, readable } => {
            json!({ "action": "salvage", "object": layout::pack(*pack).as_str(), "readable": readable })
        }
        Remedy::Drop(pack) => json!({ "action": "drop", "object": layout::pack(*pack).as_str() }),
        Remedy::Derive { snapshot, paths } => {
            json!({ "action": "derive", "object": layout::snapshot(*snapshot).as_str(), "paths": paths })
        }
    }
}
