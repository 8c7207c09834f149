//! `man`: the manual.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::context::Context;
use crate::error::{CliError, Exit};

const EXAMPLES: &str = "\
Examples:
  lakebed man | man -l -
  lakebed man /usr/local/share/man/man1";

/// Print the manual page, or write one page for each command
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArgs {
    /// Folder to write a page for each command into [default: print the main page]
    folder: Option<PathBuf>,
}

pub(crate) fn run(ctx: &Context, args: &ManArgs) -> Result<Exit, CliError> {
    if ctx.ui.is_json() {
        return Err(CliError::usage("`man` prints a manual page: it cannot print JSON"));
    }
    match &args.folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
            CliError::failed(format!("Cannot write manual pages to `{}`", folder.display())).caused_by(error)
        })?,
        None => {
            ctx.ui.write(|out| clap_mangen::Man::new(Cli::command()).render(&mut *out).map_err(CliError::output))?
        }
    }
    Ok(Exit::Done)
}
