//! `tag`: change tags and description of snapshots.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::select::{self, split_tags};
use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui;

const EXAMPLES: &str = "\
The snapshots keep their ids: what is noted about them lies beside their records.

Examples:
  lakebed tag --repo /mnt/backup/lake latest --add before-migration
  lakebed tag --repo /mnt/backup/lake 3f9a 77b0 --remove nightly --add keep
  lakebed tag --repo /mnt/backup/lake 3f9a --set keep --description 'last one before the move'";

/// Change tags and description of snapshots
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TagArgs {
    /// Snapshots: `latest`, the beginning of an id, or `@TIME`
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What is changed.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// Add these tags, separated by commas
    #[arg(long, value_name = "TAG,...")]
    add: Vec<String>,
    /// Remove these tags, separated by commas
    #[arg(long, value_name = "TAG,...")]
    remove: Vec<String>,
    /// Begin with these tags instead of those that the snapshot has, separated by commas; empty for none
    #[arg(long, value_name = "TAG,...")]
    set: Vec<String>,
    /// Replace the description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl ChangeArgs {
    /// Returns the tags that take the place of `tags`, sorted, each once.
    fn apply(&self, tags: &[String]) -> Vec<String> {
        let split = |tags: &[String]| tags.iter().flat_map(|tags| split_tags(tags)).collect::<BTreeSet<_>>();
        let mut new = if self.set.is_empty() { tags.iter().cloned().collect() } else { split(&self.set) };
        new.extend(split(&self.add));
        let removed = split(&self.remove);
        new.into_iter().filter(|tag| !removed.contains(tag)).collect()
    }
}

pub(crate) fn run(ctx: &Context, args: &TagArgs) -> Result<Exit, CliError> {
    let repository = ctx.open(Access::Write)?;
    // all are found before any is changed
    let found = select::find_all(&repository, &args.snapshots, &ctx.question())?;
    let mut changed = Vec::new();
    for info in &found {
        let tags = args.change.apply(&info.snapshot.tags);
        let description = args.change.description.clone().unwrap_or_else(|| info.snapshot.description.clone());
        repository.annotate(info, tags.clone(), description.clone())?;
        changed.push((info.id, tags, description));
    }
    ctx.ui.report(
        || {
            let changed = changed.iter();
            let changed = changed.map(|(id, tags, text)| json!({ "id": id, "tags": tags, "description": text }));
            json!({ "snapshots": changed.collect::<Vec<_>>() })
        },
        |out| {
            for (id, tags, description) in &changed {
                let tags = if tags.is_empty() { "no tags".into() } else { ui::plain(&tags.join(",")) };
                write!(out, "snapshot {}: {tags}", id.short())?;
                match description.is_empty() {
                    true => writeln!(out)?,
                    false => writeln!(out, "; {}", ui::plain(description))?,
                }
            }
            Ok(())
        },
    )?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_set_then_added_then_removed() {
        let strings = |all: &[&str]| all.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let change = |set: &[&str], add: &[&str], remove: &[&str]| {
            let change =
                ChangeArgs { set: strings(set), add: strings(add), remove: strings(remove), description: None };
            change.apply(&strings(&["old", "nightly"])).join(" ")
        };
        assert_eq!(change(&[], &["keep"], &["nightly"]), "keep old");
        assert_eq!(change(&["a,b"], &["c,a"], &["b"]), "a c");
        assert_eq!(change(&[""], &[], &[]), "");
    }
}
