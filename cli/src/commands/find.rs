//! `find`: when did something appear, change, go.

use clap::Args;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::query::{FindOptions, Finding, Occurrence, find};
use serde_json::{Value, json};

use super::select::FilterArgs;
use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui;

const EXAMPLES: &str = "\
A pattern without a slash is matched against names, one with a slash against whole paths; `*` stays within a name, `**` does \
not. For each path it is shown which snapshot has it first, in which it changed, and which does not have it any more.

Examples:
  lakebed find --repo /mnt/backup/lake etl.py
  lakebed find --repo /mnt/backup/lake 'data/**/*.parquet' --since 2026-11-01
  lakebed find --repo /mnt/backup/lake -i 'readme*'";

/// Find files in all snapshots: when they appeared, changed and went
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FindArgs {
    /// Names, paths or globs
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Upper and lower case are taken as one
    #[arg(short, long)]
    ignore_case: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(ctx: &Context, args: &FindArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Read)?;
    let catalogue = repository.catalogue()?;
    for (_, error) in &catalogue.damaged {
        ctx.ui.warn(&one_line(error));
    }
    let filter = args.filter.filter();
    let snapshots: Vec<_> = catalogue.snapshots.into_iter().filter(|info| filter.matches(&info.snapshot)).collect();
    let reader = repository.reader(&ctx.question())?;
    let options = FindOptions { patterns: args.patterns.clone(), ignore_case: args.ignore_case };
    let findings = find(&reader, &snapshots, &options)?;
    ctx.ui.answer(
        || json!({ "snapshots": snapshots.len(), "findings": findings.iter().map(finding_json).collect::<Vec<_>>() }),
        |out| {
            let mut path = None;
            for finding in &findings {
                if path != Some(&finding.path) {
                    writeln!(out, "{}", ui::text_of(&finding.path, &finding.entry))?;
                    path = Some(&finding.path);
                }
                let what = word(finding.occurrence);
                let (id, time) = (finding.snapshot.short(), ui::local_time(finding.time));
                match finding.entry.kind == EntryKind::File && finding.occurrence != Occurrence::Gone {
                    true => writeln!(out, "  {what:<8}  {id}  {time}  {}", ui::bytes(finding.entry.size))?,
                    false => writeln!(out, "  {what:<8}  {id}  {time}")?,
                }
            }
            if findings.is_empty() {
                writeln!(out, "nothing was found in {}", ui::counted(snapshots.len() as u64, "snapshot", "snapshots"))?;
            }
            Ok(())
        },
    )?;
    Ok(if catalogue.damaged.is_empty() { Exit::Done } else { Exit::Damage })
}

fn word(occurrence: Occurrence) -> &'static str {
    match occurrence {
        Occurrence::Appeared => "appeared",
        Occurrence::Changed => "changed",
        Occurrence::Gone => "gone",
    }
}

fn finding_json(finding: &Finding) -> Value {
    let mut value = ui::entry_json(&finding.path, &finding.entry);
    if let Some(map) = value.as_object_mut() {
        map.insert("occurrence".into(), word(finding.occurrence).into());
        map.insert("snapshot".into(), json!(finding.snapshot));
        map.insert("time".into(), json!(finding.time));
    }
    value
}
