//! `index`: the local index.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui;

const EXAMPLES: &str = "\
The index lies in the cache folder of this machine and can always be made anew. lakebed does that by itself where it has to; \
this command is for the day when something seems wrong with it, or when index segments in the repository were lost.

Examples:
  lakebed index rebuild --repo /mnt/backup/lake
  lakebed index rebuild --repo /mnt/backup/lake --read-packs";

/// Manage the local index
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

impl IndexArgs {
    /// Returns the command's name, as JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            IndexCommand::Rebuild { .. } => "index rebuild",
        }
    }
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Throw the local index away and make it anew
    Rebuild {
        /// Also read the packs themselves, and describe those that no index segment knows
        #[arg(long)]
        read_packs: bool,
    },
}

pub(crate) fn run(ctx: &Context, args: &IndexArgs) -> Result<Exit, CliError> {
    let IndexCommand::Rebuild { read_packs } = args.command;
    let repository = ctx.open(if read_packs { Access::Write } else { Access::Read })?;
    let monitor = ctx.monitor()?;
    let result = repository.rebuild_index(read_packs, &monitor);
    drop(monitor);
    let stats = result?.stats();
    ctx.ui.report(
        || {
            json!({
                "packs": stats.packs,
                "entries": stats.blobs,
                "disk_bytes": stats.disk_bytes,
                "memory_bytes": stats.memory_bytes,
            })
        },
        |out| {
            let (entries, packs) = (ui::count(stats.blobs), ui::counted(stats.packs, "pack", "packs"));
            writeln!(out, "index made anew: {entries} entries of {packs}, {}", ui::bytes(stats.disk_bytes))
        },
    )?;
    Ok(Exit::Done)
}
