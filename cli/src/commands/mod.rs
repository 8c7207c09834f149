//! The commands: each reads its arguments, calls the engine, and prints what came of it.

pub(crate) mod backup;
pub(crate) mod cat;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod index;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod prune;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod rewrite;
mod select;
pub(crate) mod sessions;
pub(crate) mod snapshots;
pub(crate) mod stats;
pub(crate) mod tag;
pub(crate) mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::ui::{self, Ui};

/// Runs the command that the process was called with.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let all = Cli::command();
            let names: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
            return ui::usage(&error, &names).into();
        }
    };
    let globals = cli.globals;
    let (prices, wrong) = match globals.network.prices() {
        Ok(prices) => (prices, None),
        Err(error) => (None, Some(error)),
    };
    let ui = Ui::new(cli.command.name(), globals.json, globals.quiet, globals.verbose, prices);
    let ctx = Context { globals, ui };
    let result = wrong.map_or_else(|| run(&ctx, &cli.command), Err);
    ctx.ui.finish(result).into()
}

fn run(ctx: &Context, command: &Command) -> Result<Exit, CliError> {
    match command {
        Command::Init(args) => init::run(ctx, args),
        Command::Backup(args) => backup::run(ctx, args),
        Command::Snapshots(args) => snapshots::run(ctx, args),
        Command::Ls(args) => ls::run(ctx, args),
        Command::Find(args) => find::run(ctx, args),
        Command::Diff(args) => diff::run(ctx, args),
        Command::Cat(args) => cat::run(ctx, args),
        Command::Restore(args) => restore::run(ctx, args),
        Command::Copy(args) => copy::run(ctx, args),
        Command::Verify(args) => verify::run(ctx, args),
        Command::Stats(args) => stats::run(ctx, args),
        Command::Tag(args) => tag::run(ctx, args),
        Command::Prune(args) => prune::run(ctx, args),
        Command::Forget(args) => forget::run(ctx, args),
        Command::Sessions(args) => sessions::run(ctx, args),
        Command::Repair(args) => repair::run(ctx, args),
        Command::Rewrite(args) => rewrite::run(ctx, args),
        Command::Key(args) => key::run(ctx, args),
        Command::Index(args) => index::run(ctx, args),
        Command::Doctor(args) => doctor::run(ctx, args),
        Command::Completions(args) => completions::run(ctx, args),
        Command::Man(args) => man::run(ctx, args),
    }
}
