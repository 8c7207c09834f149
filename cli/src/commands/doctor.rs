//! `doctor`: try out what lakebed rests on.

use clap::Args;
use lakebed_engine::Error;
use lakebed_engine::core::time::Random;
use lakebed_engine::storage::contract;
use lakebed_engine::storage::probe::{Findings, probe};
use lakebed_engine::system::SystemRandom;
use serde_json::{Value, json};

use crate::context::{Access, Context};
use crate::error::{CliError, Exit, one_line};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
The storage is tried by a handful of requests below `probes/`, which are taken away again; what was found is recorded in the \
repository, if there is one. A store that does not keep writers of one name apart can be used by many machines all the \
same: prunes, and the ending of sessions that may still be running, then ask for --exclusive.

Examples:
  lakebed doctor --storage --repo s3://bucket/lake
  lakebed doctor --storage --thorough --repo s3:https://ceph.example.org/bucket/lake";

/// Try out what lakebed rests on
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Try what the storage can do
    #[arg(long, required = true)]
    storage: bool,
    /// Check every rule that storage must keep, with races of writers: some 16 MiB are written below `contract/`, read,
    /// and deleted
    #[arg(long)]
    thorough: bool,
}

pub(crate) fn run(ctx: &Context, args: &DoctorArgs) -> Result<Exit, CliError> {
    let (findings, broken, recorded) = match ctx.open(Access::Write) {
        Ok(repository) => {
            let (findings, broken) = repository.probe_medium(args.thorough)?;
            (findings, broken, true)
        }
        // a place is tried before a repository is made there
        Err(CliError::Engine(Error::NoRepository { .. })) => {
            let storage = ctx.place(Access::Write)?;
            let random: &dyn Random = &SystemRandom;
            let findings = probe(&*storage, random).map_err(Error::from)?;
            (findings, if args.thorough { contract::check(&*storage).err() } else { None }, false)
        }
        Err(error) => return Err(error),
    };
    let broken = broken.map(|violation| one_line(&violation));
    ctx.ui.answer(
        || {
            let mut result = findings_json(&findings);
            result["recorded"] = json!(recorded);
            if args.thorough {
                result["contract"] = json!({ "kept": broken.is_none(), "broken": broken });
            }
            result
        },
        |out| {
            print(out, &findings)?;
            match (&broken, args.thorough) {
                (Some(broken), _) => writeln!(out, "rules of storage:      broken: {}", ui::plain(broken)),
                (None, true) => writeln!(out, "rules of storage:      kept, every one"),
                (None, false) => Ok(()),
            }
        },
    )?;
    Ok(if findings.can_keep_a_repository() && broken.is_none() { Exit::Done } else { Exit::Unfit })
}

fn print(out: Text<'_>, findings: &Findings) -> std::io::Result<()> {
    let said = |holds: bool, otherwise: &'static str| if holds { "yes" } else { otherwise };
    let replaces = "NO: writers of one name are not kept apart, so prunes ask for --exclusive";
    let cannot = "NO: no repository can be kept here";
    writeln!(out, "puts only what is new: {}", said(findings.put_if_absent, replaces))?;
    writeln!(out, "reads what was put:    {}", said(findings.read_after_write, cannot))?;
    writeln!(out, "lists what was put:    {}", said(findings.listing_after_write, cannot))?;
    writeln!(out, "reads parts:           {}", said(findings.ranges, cannot))?;
    writeln!(out, "deletes:               {}", said(findings.deletions, "not with these credentials"))
}

fn findings_json(findings: &Findings) -> Value {
    json!({
        "put_if_absent": findings.put_if_absent,
        "read_after_write": findings.read_after_write,
        "listing_after_write": findings.listing_after_write,
        "ranges": findings.ranges,
        "deletions": findings.deletions,
    })
}
