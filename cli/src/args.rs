//! The command line as a whole: global options, and which commands there are.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lakebed_engine::core::record::key_slot::KdfCost;

use crate::commands;
use crate::location::NetworkArgs;
use crate::secret::SecretArgs;
use crate::size::parse_size;

const AFTER_HELP: &str = "\
Passwords are never arguments: without --password-file, --password-command and --key-file (or their variables) \
LAKEBED_PASSWORD is used, and without that the terminal is asked.

Times are RFC 3339 (2026-11-17T02:00:00Z) or local (2026-11-17, '2026-11-17 02:00'). What is written names a stretch: \
--at and --until mean its end, --since its beginning.

Sizes are bytes, or 512KiB, 20GiB (in 1024s; also 512K, 20G), or 512kB, 20GB (in 1000s).

Exit codes:
  0  done                      10  there is no repository
  1  failed                    11  another process has the local index locked
  2  wrong usage               12  wrong password or key file
  3  done, but partial        130  interrupted
  4  damage was found

First steps:
  lakebed init --repo /mnt/backup/lake          make a repository
  lakebed backup --repo /mnt/backup/lake data   take a snapshot
  lakebed restore --repo /mnt/backup/lake latest --target /tmp/out";

/// The backup engine for lakehouses
///
/// Keeps deduplicated, compressed and encrypted snapshots of folders in a repository, restores them as they were at any
/// time, and proves that they are still whole.
#[derive(Debug, Parser)]
#[command(name = "lakebed", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The repository: a folder, or a place on an object store: s3://, abfss://, az://, gs://, s3:https://host/bucket
    #[arg(short, long, global = true, env = "LAKEBED_REPO", value_name = "FOLDER|URL")]
    pub(crate) repo: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Folder for local indexes, and what tells that a repository was exchanged; deleting it loses no data [default:
    /// $XDG_CACHE_HOME/lakebed, then ~/.cache/lakebed]
    #[arg(long, global = true, env = "LAKEBED_CACHE_DIR", value_name = "FOLDER")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Copies of trees and records from object stores take so much of that folder at most [default: 1GiB]
    #[arg(long, global = true, env = "LAKEBED_CACHE_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cache_limit: Option<u64>,
    /// Memory for the index [default: 128MiB]
    #[arg(long, global = true, env = "LAKEBED_MEMORY", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print neither progress nor reports, only answers, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: what happened to each entry, where a command can tell
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(commands::init::InitArgs),
    Backup(Box<commands::backup::BackupArgs>),
    Snapshots(commands::snapshots::SnapshotsArgs),
    Ls(commands::ls::LsArgs),
    Find(commands::find::FindArgs),
    Diff(commands::diff::DiffArgs),
    Cat(commands::cat::CatArgs),
    Restore(commands::restore::RestoreArgs),
    Copy(Box<commands::copy::CopyArgs>),
    Verify(commands::verify::VerifyArgs),
    Stats(commands::stats::StatsArgs),
    Tag(commands::tag::TagArgs),
    Prune(commands::prune::PruneArgs),
    Forget(Box<commands::forget::ForgetArgs>),
    Sessions(commands::sessions::SessionsArgs),
    Rewrite(commands::rewrite::RewriteArgs),
    Repair(commands::repair::RepairArgs),
    Key(commands::key::KeyArgs),
    Index(commands::index::IndexArgs),
    Doctor(commands::doctor::DoctorArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}

impl Command {
    /// Returns the command's name, as JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Backup(_) => "backup",
            Self::Snapshots(args) => args.name(),
            Self::Ls(_) => "ls",
            Self::Find(_) => "find",
            Self::Diff(_) => "diff",
            Self::Cat(_) => "cat",
            Self::Restore(_) => "restore",
            Self::Copy(_) => "copy",
            Self::Verify(_) => "verify",
            Self::Stats(_) => "stats",
            Self::Tag(_) => "tag",
            Self::Prune(_) => "prune",
            Self::Forget(_) => "forget",
            Self::Sessions(args) => args.name(),
            Self::Rewrite(_) => "rewrite",
            Self::Repair(_) => "repair",
            Self::Key(args) => args.name(),
            Self::Index(args) => args.name(),
            Self::Doctor(_) => "doctor",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}

/// How costly it is to guess a password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kdf {
    /// 19 MiB of memory, about 30 ms: OWASP's recommendation
    #[default]
    Standard,
    /// 256 MiB of memory, about a second
    Strong,
}

impl From<Kdf> for KdfCost {
    fn from(kdf: Kdf) -> Self {
        match kdf {
            Kdf::Standard => Self::Standard,
            Kdf::Strong => Self::Strong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_and_command_says_what_it_does() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no help");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {} has no help", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn names_in_json_are_those_of_the_command_line() {
        let names: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for line in [&["lakebed", "snapshots"][..], &["lakebed", "backup", "x"], &["lakebed", "verify"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.command.name(), line[1]);
            assert!(names.contains(&line[1].to_owned()));
        }
    }

    #[test]
    fn command_lines_that_scripts_use_are_understood() {
        for line in [
            "lakebed init --repo r",
            "lakebed init -r r --no-encryption",
            "lakebed init -r s3://bucket/lake --from-repo /mnt/lake --new-key-file k",
            "lakebed backup --repo r src",
            "lakebed backup -r r -x --exclude *.tmp --tag a,b --tag c -n src other",
            "lakebed backup -r r --stdin dump.sql",
            "lakebed backup -r r --command dump.sql -- pg_dump -Fc base",
            "lakebed restore --repo r latest --target out",
            "lakebed restore --repo r --at 2026-11-17 --target out --delete",
            "lakebed cat --repo r latest src/file",
            "lakebed cat --repo r --at 2026-11-17 src/file",
            "lakebed verify --repo r --read-data",
            "lakebed verify --repo r --sample 5%",
            "lakebed verify --repo r --budget 10m --budget 20GiB",
            "lakebed snapshots --json --latest 3 --tag a,b",
            "lakebed ls latest src -lR",
            "lakebed find -i *.PY",
            "lakebed diff a b src --patch",
            "lakebed copy --from-repo a --repo b",
            "lakebed copy -r b --from-repo a --from-key-file k --host x latest 3f9a -n",
            "lakebed tag latest --add x --remove y",
            "lakebed forget --keep-last 3 -d 7 -w all --keep-quarterly 4 --keep-within 1y6m --keep-tag a,b --keep-tag c -n",
            "lakebed forget --keep-daily 7 --group-by host,source,tags --host h --tag a --path /p --until 2026-11-17",
            "lakebed forget 3f9a 77b0 --allow-empty",
            "lakebed forget --undo all",
            "lakebed snapshots --forgotten --host h",
            "lakebed sessions list",
            "lakebed sessions show 3f9a",
            "lakebed sessions expire 3f9a 77b0 --force",
            "lakebed sessions expire --dead",
            "lakebed repair",
            "lakebed repair --read-data --apply --force",
            "lakebed rewrite latest 3f9a --exclude *.key --keep-original",
            "lakebed rewrite --all --iexclude *.KEY -n",
            "lakebed rewrite --host h --since 2026-11-01 --exclude-file f",
            "lakebed key add --new-key-file f",
            "lakebed index rebuild --read-packs",
            "lakebed doctor --storage --thorough",
            "lakebed snapshots --shards",
            "lakebed snapshots join 2026-12-01 --partial",
            "lakebed backup --shard 0/8 --shard-run 2026-12-01 --host lake src",
            "lakebed backup -r s3://bucket/lake --allow-http --limit-upload 5MiB src",
            "lakebed restore -r s3:http://h/b --allow-http=false --limit-download 5M latest --target out",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "lakebed verify --read-data --sample 5%",
            "lakebed verify --sample 5",
            "lakebed verify --budget 10M",
            "lakebed backup --stdin a b",
            "lakebed restore latest",
            "lakebed repair --apply --dry-run",
            "lakebed rewrite latest",
            "lakebed rewrite latest --all --exclude x",
            "lakebed backup --compression best x",
            "lakebed snapshots -q -v",
            "lakebed copy --from-repo a --from-key-file k --from-password-file p",
            "lakebed forget --keep-last few",
            "lakebed forget --keep-within 30",
            "lakebed forget --group-by paths",
            "lakebed forget 3f9a --keep-last 3",
            "lakebed forget 3f9a --host h",
            "lakebed forget --undo",
            "lakebed forget --undo all --dry-run",
            "lakebed sessions expire",
            "lakebed sessions expire 3f9a --dead",
            "lakebed doctor",
            "lakebed backup --shard 8/8 --shard-run x --host lake src",
            "lakebed backup --shard 0/8 --host lake src",
            "lakebed backup --shard 0/8 --shard-run x --stdin dump",
            "lakebed snapshots join",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line} was accepted");
        }
    }
}
