//! Benchmarks of the binary, as a user runs it.
//!
//! `compare` takes lakebed, and the peers that are on `PATH`, through the nights of one source, phase by phase in turn.
//! `growth` shows how time, memory and stored bytes grow with what is there and with what changed. Both make their own
//! sources, the same ones each time. `cold` shows what a machine that comes new to a bucket has to do, `workspace` what nights
//! of a workspace take beside what its limits allow. Only ratios of one run mean anything.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod cold;
mod compare;
mod growth;
mod measure;
mod place;
mod report;
mod source;
mod tools;
mod workspace;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// What went wrong, for a person.
type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(about = "Benchmarks of lakebed", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// lakebed beside its peers and beside plain floors
    Compare(compare::CompareArgs),
    /// Many files, many snapshots, a sparse file
    Growth(growth::GrowthArgs),
    /// A machine that has never seen a repository in a bucket
    Cold(cold::ColdArgs),
    /// Nights of a workspace, beside the floor that its limits set
    Workspace(workspace::WorkspaceArgs),
    /// Run a command line and print what it took
    #[command(hide = true)]
    Run {
        /// Where the figures go
        figures: PathBuf,
        /// For the shell
        line: String,
    },
}

fn main() -> Result<(), Failure> {
    match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Growth(arguments) => growth::run(&arguments),
        Command::Cold(arguments) => cold::run(&arguments),
        Command::Workspace(arguments) => workspace::run(&arguments),
        Command::Run { figures, line } => measure::run_here(&figures, &line),
    }
}
