//! `lakebed`, the command line of the backup engine: it parses, calls the engine, and prints.

mod args;
mod commands;
mod context;
mod error;
mod location;
mod secret;
mod size;
mod time;
mod ui;
mod workspace;

fn main() -> std::process::ExitCode {
    commands::main()
}
