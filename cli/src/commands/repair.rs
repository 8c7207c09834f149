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
    /// Also put aside what a prune that may still run may need, and what damage may have made look like a newer lakebed's
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
    let is_good = match &report {
        Some(report) => report.remaining.is_good() && report.lost.is_empty(),
        None => planned.is_good(),
    };
    Ok(if is_good { Exit::Done } else { Exit::Damage })
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
    for id in report.iter().flat_map(|report| &report.lost) {
        writeln!(out, "lost:     snapshot {}: its record; a copy of the repository may have it", id.short())?;
    }
    for held_back in &left.held_back {
        writeln!(out, "left:     {}: {}", held_back.object, ui::plain(&held_back.problem))?;
        writeln!(out, "          {}", held_back.advice)?;
    }
    for loss in &left.losses {
        print_loss(out, loss, shown)?;
    }
    let next = next_steps(planned, left, report.is_some());
    match left.is_good() {
        true if report.is_some_and(|report| !report.lost.is_empty()) => {
            writeln!(out, "nothing else is wrong any more")?
        }
        true if report.is_some() => writeln!(out, "everything that was wrong is put right")?,
        true => writeln!(out, "nothing is wrong, as far as was looked")?,
        false => {}
    }
    next.iter().try_for_each(|step| writeln!(out, "next:     {step}"))
}

fn print_action(out: Text<'_>, action: &Action, done: bool, shown: usize) -> std::io::Result<()> {
    let when = if done { "done:" } else { "to do:" };
    writeln!(out, "{when:<9} {}: {}", remedy_text(&action.remedy), ui::plain(&action.problem))?;
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

/// Says what is done, without saying when.
fn remedy_text(remedy: &Remedy) -> String {
    match remedy {
        Remedy::PutAside(key) => format!("move {key} to quarantine"),
        Remedy::Close(id) => format!("move {} to quarantine and close its session", layout::snapshot(*id)),
        Remedy::Expire(key) => format!("expire the session of {key} and move it to quarantine"),
        Remedy::Show(key) => format!("show a snapshot again: move {key} and its tombstone to quarantine"),
        Remedy::Describe { packs, segments } => {
            let packs = ui::counted(*packs, "pack", "packs");
            let aside = match segments.as_slice() {
                [] => String::new(),
                [segment] => format!(" and move {segment} to quarantine"),
                many => format!(" and move {} damaged segments to quarantine", ui::count(many.len() as u64)),
            };
            format!("describe {packs} anew in the index{aside}")
        }
        Remedy::Salvage { pack, readable } => {
            let readable = ui::counted(*readable, "chunk or node", "chunks and nodes");
            let pack = layout::pack(*pack);
            format!("store again what can be read of {pack} ({readable}) and move it to quarantine")
        }
        Remedy::Drop(pack) => format!("take {} out of the index", layout::pack(*pack)),
        Remedy::Derive { snapshot, .. } => {
            format!("make another snapshot of {} without what is lost; it stays itself", snapshot.short())
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
            steps.push(format!("`lakebed forget {ids}` drops the damaged ones, if the repaired ones will do"));
        }
    }
    if done {
        let step = "`lakebed verify --read-data` checks everything; when all is good, quarantine/ may be deleted";
        steps.push(step.into());
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
        "lost": report.map_or_else(Vec::new, |report| report.lost.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use lakebed_engine::core::id::{PackId, SessionId};
    use lakebed_engine::core::time::Timestamp;
    use lakebed_engine::repair::{Affected, HeldBack, LostPath};

    fn text(planned: &RepairPlan, report: Option<&RepairReport>) -> String {
        let mut out = Vec::new();
        print(&mut out, planned, report, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn planned() -> RepairPlan {
        let snapshot = SessionId::new([0xab; 32]);
        let salvage = Remedy::Salvage { pack: PackId::new([0x77; 32]), readable: 1234 };
        let affected = vec![Affected { snapshot, path: "src/a".into() }; 30];
        let action = |remedy, affected| Action { remedy, problem: "x".into(), affected, affected_more: 5 };
        let paths = vec![LostPath { path: "src/a".into(), reason: "The chunk 12 is nowhere".into() }; 25];
        RepairPlan {
            actions: vec![
                action(salvage, affected),
                action(Remedy::Describe { packs: 3, segments: Vec::new() }, Vec::new()),
            ],
            held_back: vec![HeldBack { object: layout::config(), problem: "y".into(), advice: "do z".into() }],
            losses: vec![Loss {
                snapshot,
                time: Timestamp::default(),
                paths,
                is_forgotten: false,
                is_total: false,
                repaired: None,
            }],
        }
    }

    #[test]
    fn a_plan_says_what_to_do_what_is_lost_and_what_comes_next() {
        let text = text(&planned(), None);
        let pack = layout::pack(PackId::new([0x77; 32]));
        let salvage = format!("to do:    store again what can be read of {pack} (1,234 chunks and nodes) and move it");
        assert!(text.contains(&salvage), "{text}");
        assert!(text.contains("          lost in snapshot abababab: src/a\n"), "{text}");
        assert!(text.contains("          and 15 more paths\n"), "{text}");
        assert!(text.contains("to do:    describe 3 packs anew in the index: x\n"), "{text}");
        assert!(text.contains("left:     lakebed.json: y\n          do z\n"), "{text}");
        assert!(text.contains("lost:     snapshot abababab (1970-01-01"), "{text}");
        assert!(text.contains("          and 5 more paths; --verbose lists all\n"), "{text}");
        assert!(text.contains("next:     `lakebed repair --apply` with the same options carries this out\n"), "{text}");
    }

    #[test]
    fn what_was_done_is_told_with_what_is_left() {
        let remaining = RepairPlan::default();
        let (lost, snapshots) = (Vec::new(), Vec::new());
        let report = RepairReport { salvaged: 7, salvaged_bytes: 2048, lost, snapshots, remaining };
        let text = text(&planned(), Some(&report));
        assert!(text.contains("done:     describe 3 packs anew"), "{text}");
        assert!(text.contains("saved:    7 chunks and nodes stored again (2.00 KiB)"), "{text}");
        assert!(text.contains("everything that was wrong is put right"), "{text}");
        assert!(!text.contains("lost:") && !text.contains("left:"), "{text}");
    }
}
