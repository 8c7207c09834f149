//! `completions`: what shells need to complete our command lines.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::error::{CliError, Exit};

const EXAMPLES: &str = "\
Examples:
  lakebed completions bash > /etc/bash_completion.d/lakebed
  lakebed completions zsh > ~/.zfunc/_lakebed
  lakebed completions fish > ~/.config/fish/completions/lakebed.fish";

/// Print a script that completes command lines in a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(ctx: &Context, args: &CompletionsArgs) -> Result<Exit, CliError> {
    if ctx.ui.is_json() {
        return Err(CliError::usage("`completions` prints a script: it cannot print JSON"));
    }
    // made in memory, since the generator takes any failure to write for a bug
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lakebed", &mut script);
    ctx.ui.write(|out| out.write_all(&script).map_err(CliError::output))?;
    Ok(Exit::Done)
}
