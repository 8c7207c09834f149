//! What a command ends with: exit codes, and errors with their causes and hints.

use std::error::Error as StdError;

use lakebed_engine::Error;
use lakebed_engine::core::record::config::ConfigError;
use lakebed_engine::core::record::key_slot::KeySlotError;
use lakebed_engine::core::storage::StorageErrorKind;
use lakebed_engine::core::wire::DecodeError;

/// How a command that did not fail has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All done.
    Done,
    /// Done, but not with everything.
    Partial,
    /// Damage was found.
    Damage,
    /// What was tried does not do what it should.
    Unfit,
}

impl Exit {
    /// Returns the exit code of the process.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Partial => 3,
            Self::Damage => code::DAMAGE,
            Self::Unfit => code::FAILED,
        }
    }
}

/// Exit codes of failures.
pub(crate) mod code {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const DAMAGE: u8 = 4;
    pub(crate) const NO_REPOSITORY: u8 = 10;
    pub(crate) const LOCKED: u8 = 11;
    pub(crate) const WRONG_KEY: u8 = 12;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The engine says so.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{message}")]
    Failed {
        /// What could not be done.
        message: String,
        /// Why.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
        /// What to do next.
        hint: Option<String>,
    },
    /// It failed when a part of the work was done.
    #[error("{error}")]
    After {
        /// What was done.
        done: String,
        /// What failed then.
        #[source]
        error: Box<Self>,
    },
    /// Whoever reads our output has seen enough.
    #[error("The output was closed")]
    ClosedPipe,
}

impl CliError {
    /// Builds an error of the command line itself.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), source: None, hint: None }
    }

    /// Builds an error about how the command was called.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Adds a cause.
    pub(crate) fn caused_by(self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        match self {
            Self::Failed { message, hint, .. } => Self::Failed { message, source: Some(cause.into()), hint },
            other => other,
        }
    }

    /// Adds a hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Failed { message, source, .. } => Self::Failed { message, source, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// Says what was done before.
    pub(crate) fn after(self, done: impl Into<String>) -> Self {
        Self::After { done: done.into(), error: Box::new(self) }
    }

    /// Builds the error for output that could not be written.
    pub(crate) fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::failed("Cannot write the output").caused_by(error),
        }
    }

    /// Tells whether all that happened is that our reader went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        match self {
            Self::ClosedPipe => true,
            Self::Engine(Error::Machine { source, .. }) => source.kind() == std::io::ErrorKind::BrokenPipe,
            Self::After { error, .. } => error.is_closed_pipe(),
            _ => false,
        }
    }

    /// Returns the causes, the nearest first.
    pub(crate) fn causes(&self) -> Vec<String> {
        causes(self)
    }

    /// Returns the exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Engine(error) => engine_code(error),
            Self::Usage(_) => code::USAGE,
            Self::Failed { .. } => code::FAILED,
            Self::After { error, .. } => error.exit_code(),
            Self::ClosedPipe => 0,
        }
    }

    /// Returns what to do next, where it is known.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Engine(error) => engine_hint(error),
            Self::Failed { hint, .. } => hint.clone(),
            Self::After { done, error } => {
                Some([Some(done.clone()), error.advice()].into_iter().flatten().collect::<Vec<_>>().join("; "))
            }
            Self::Usage(_) | Self::ClosedPipe => None,
        }
    }
}

/// Returns the causes of an error, each told once.
pub(crate) fn causes(error: &dyn StdError) -> Vec<String> {
    let mut told = error.to_string();
    let mut all = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if text != told {
            all.push(text.clone());
        }
        told = text;
        cause = error.source();
    }
    all
}

/// Returns an error and its causes in one line.
pub(crate) fn one_line(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    for cause in causes(error) {
        line.push_str(": ");
        line.push_str(&cause);
    }
    line
}

fn engine_code(error: &Error) -> u8 {
    match error {
        Error::NoRepository { .. } => code::NO_REPOSITORY,
        Error::IndexLocked { .. } => code::LOCKED,
        Error::WrongKey { .. } => code::WRONG_KEY,
        Error::Interrupted => code::INTERRUPTED,
        Error::Argument { .. } | Error::NothingToKeep | Error::SameRepository { .. } => code::USAGE,
        error if is_damage(error) => code::DAMAGE,
        _ => code::FAILED,
    }
}

/// Tells whether something in the repository is not what was written there.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Damaged { .. }
        | Error::WrongHash { .. }
        | Error::DamagedFrame { .. }
        | Error::WrongBlob { .. }
        | Error::Missing { .. }
        | Error::UnreadableSnapshots { .. }
        | Error::SnapshotsVanished { .. }
        | Error::NeededMissing { .. }
        | Error::ConfigLost { .. }
        | Error::WrongContent { .. } => true,
        Error::Record { source, .. } | Error::TreeNode { source, .. } => !is_newer(source),
        Error::Config(ConfigError::Decode(source)) => !is_newer(source),
        Error::KeySlot { source: KeySlotError::Decode(source), .. } => !is_newer(source),
        Error::KeySlot { source: KeySlotError::OtherConfig, .. } => true,
        _ => false,
    }
}

fn is_newer(error: &DecodeError) -> bool {
    matches!(error, DecodeError::NewerVersion { .. })
}

const UPDATE: &str = "a newer lakebed wrote this: update lakebed on this machine";

fn engine_hint(error: &Error) -> Option<String> {
    let text = match error {
        Error::NoRepository { location } => {
            return Some(format!(
                "make one with `lakebed init --repo {location}`, or check the path (is the disk mounted?)"
            ));
        }
        Error::RepositoryExists { .. } => "use it as it is, or name another place",
        Error::NoPlace { .. } => {
            "make the bucket or container first: lakebed makes none; or check its name and the region"
        }
        Error::WrongKey { .. } => {
            "check --password-file, --password-command, --key-file and the LAKEBED_ variables: \
             which one was meant for this repository?"
        }
        Error::ConfigExchanged { .. } => {
            "somebody may have put another repository there: do not back up into it before you know why; \
             if you did it yourself, empty the cache folder"
        }
        Error::UnexpectedlyOpen { .. } => {
            "somebody may have put another repository there; if it is meant to be without encryption, \
             open it once without a password"
        }
        Error::KeySlotChoice { .. } | Error::LastKeySlot { .. } => {
            "`lakebed key list` shows the key slots, `lakebed key add` adds one"
        }
        Error::IndexLocked { .. } => {
            "wait until the other lakebed process has ended, or give this one another --cache-dir"
        }
        Error::NoSnapshot { .. } => {
            "`lakebed snapshots` lists what there is, `lakebed snapshots --forgotten` what was forgotten"
        }
        Error::NothingToKeep => {
            "give --keep-last, --keep-daily, ..., or name snapshots; \
             --allow-empty forgets every snapshot that matches, and nothing was forgotten now"
        }
        Error::EmptiesGroup { .. } => {
            "nothing was forgotten; if that is meant, say --allow-empty; --dry-run shows what it would forget"
        }
        Error::NotForgotten { .. } => "it is there: `lakebed snapshots` lists it",
        Error::Condemned { .. } => "`lakebed snapshots --forgotten` lists what can still be brought back",
        Error::SessionChoice { .. } => "`lakebed sessions list` lists those that have not ended",
        Error::AmbiguousSnapshot { .. } => "give more digits of the id; `lakebed snapshots` lists them",
        Error::NoPath { .. } => "`lakebed ls SNAPSHOT` lists a snapshot, `lakebed find NAME` looks in all of them",
        Error::NotInArchive { .. } => "a tar archive holds it: `--archive tar`",
        Error::SourceEnded { .. } => {
            "what was read is kept for the next run, which goes on from there: see to it that the source answers, and run \
             the backup again"
        }
        Error::TooManyFailures { .. } => {
            "what was read is kept for the next run; if that many are to be passed over, allow more with --max-failures"
        }
        Error::Shrunk { .. } => {
            "what was read is kept for the next run; may all of it still be seen? If it was deleted, allow more with \
             --max-shrink"
        }
        Error::SamePath { .. } => "name them from a folder above both, or back them up one by one",
        Error::SessionExpired { .. } => "run the backup again: what it stored is found and not stored twice",
        Error::UnreadableSnapshots { .. } | Error::NeededMissing { .. } => {
            "nothing that a snapshot needs was deleted; `lakebed verify` says what is damaged. `lakebed repair` moves it \
             aside and makes snapshots without it: then forget those that lack something, or bring it back with a backup or a copy"
        }
        Error::SnapshotsVanished { .. } => {
            "nothing that a snapshot needs was deleted; was a disk or a copy put back without them? If they are not \
             coming back, prune with --accept-vanished"
        }
        Error::TooMuchToDelete { .. } => {
            "nothing that a snapshot needs was deleted; `lakebed prune --dry-run` shows what would go, and if it is meant, \
             allow more with --max-delete"
        }
        Error::NeedsExclusive { .. } => {
            "see to it that nothing else works with the repository meanwhile, and say --exclusive; \
             `lakebed doctor --storage` tries what the store can do"
        }
        Error::NoShards { .. } => "was another name given to --shard-run? `lakebed snapshots --shards` lists the parts",
        Error::ShardsMissing { .. } => {
            "run `lakebed backup --shard` for them again: whoever is last joins them; `lakebed snapshots join --partial` \
             joins what there is"
        }
        Error::RunJoined { .. } => {
            "if this part was merely late, nothing is left to do; else give this run another name, with the date in it, say"
        }
        Error::ShardsDiffer { .. } => {
            "give all parts of a run the same number of parts, --shard-depth, --host and paths, and each run another name"
        }
        Error::UnfitStorage { .. } => "keep the repository elsewhere",
        Error::CondemnationLost { .. } | Error::Busy { .. } => "try again: what was done so far is whole",
        Error::NoNumberLeft { .. } => "somebody has planted it; once it is deleted, the next number is free again",
        Error::Interrupted => {
            "run the same command again: a backup or copy goes on from its last checkpoint, a restore from what it has \
             written"
        }
        Error::FrameCheck { .. } => "test this machine's memory before the next backup",
        Error::CopyDiffers { .. } => "test this machine's memory, then copy again",
        Error::SameRepository { .. } => "check --repo and --from-repo, and their variables",
        Error::Index { .. } => "`lakebed index rebuild` makes the local index anew; no data are lost",
        Error::Storage(error) => match error.kind {
            StorageErrorKind::NoSpace => {
                "free space where the repository lies, or with `lakebed forget` and `lakebed prune`, which work on a full disk; \
                 everything that was committed is still whole"
            }
            StorageErrorKind::PermissionDenied => {
                "check the owner and mode of the repository's folder, and who you are; on an object store, the credentials \
                 and what they allow"
            }
            StorageErrorKind::ReadOnly => "the repository can only be read from here: is its disk mounted read-only?",
            StorageErrorKind::NotFound => "`lakebed verify` tells whether anything is missing",
            StorageErrorKind::Transient => "try again",
            _ => return None,
        },
        Error::Local { path, source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                return Some(format!("free space where `{}` lies", path.display()));
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                return Some(format!(
                    "check the owner and mode of `{}` and of the folder that it is in",
                    path.display()
                ));
            }
            _ => return None,
        },
        Error::Config(ConfigError::UnknownFeature { .. }) => UPDATE,
        Error::Config(ConfigError::Decode(source))
        | Error::Record { source, .. }
        | Error::TreeNode { source, .. }
        | Error::KeySlot { source: KeySlotError::Decode(source), .. }
            if is_newer(source) =>
        {
            UPDATE
        }
        Error::Config(_) | Error::ConfigLost { .. } => {
            "put back `lakebed.json` from a copy of the repository: it never changes"
        }
        Error::KeySlot { source: KeySlotError::OtherConfig, .. } => {
            "somebody changed `lakebed.json`: put it back from a copy; do not write to this repository until then"
        }
        error if is_damage(error) => {
            "`lakebed verify --read-data` tells what is affected, `lakebed repair --read-data` what can be put right"
        }
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use std::io;

    use lakebed_engine::core::codec::frame::FrameError;
    use lakebed_engine::core::id::{PackId, SessionId, TreeId};
    use lakebed_engine::core::layout;
    use lakebed_engine::core::source::SourceError;
    use lakebed_engine::core::storage::StorageError;

    use super::*;

    fn newer() -> DecodeError {
        DecodeError::NewerVersion { what: "record", found: 9, known: 1 }
    }

    fn storage(kind: io::ErrorKind) -> Error {
        StorageError::new("write", "packs/aa", io::Error::from(kind)).into()
    }

    #[test]
    fn every_error_has_its_exit_code_and_a_hint_where_something_can_be_done() {
        let frame = || FrameError::Decompress { why: "x".into() };
        let decode = || DecodeError::invalid("record", "x");
        let key = layout::config;
        let id = SessionId::new([1; 32]);
        let slot = |source| Error::KeySlot { slot: "ab".into(), source };
        let local = |kind: io::ErrorKind| Error::local("write", "/x", io::Error::from(kind));
        let text = || String::from("x");
        #[rustfmt::skip]
        let cases: Vec<(Error, u8, &str)> = vec![
            (Error::NoRepository { location: "/r".into() },              10, "lakebed init --repo /r"),
            (Error::RepositoryExists { location: text() },               1, "another place"),
            (Error::ConfigLost { location: text() },                     4, "from a copy"),
            (Error::Config(ConfigError::Decode(decode())),               4, "from a copy"),
            (Error::Config(ConfigError::Decode(newer())),                1, "update lakebed"),
            (Error::Config(ConfigError::UnknownFeature { feature: text() }), 1, "update lakebed"),
            (Error::WrongKey { location: text(), slots: 2 },             12, "--password-file"),
            (Error::ConfigExchanged { location: text() },                1, "somebody"),
            (Error::UnexpectedlyOpen { location: text() },               1, "without a password"),
            (slot(KeySlotError::Decode(decode())),                       4, "repair --read-data"),
            (slot(KeySlotError::Decode(newer())),                        1, "update lakebed"),
            (slot(KeySlotError::OtherConfig),                            4, "somebody changed"),
            (slot(KeySlotError::Derivation { why: text() }),             1, ""),
            (Error::KeySlotChoice { prefix: text(), count: 2 },          1, "key list"),
            (Error::LastKeySlot { slot: text() },                        1, "key add"),
            (Error::Damaged { key: key(), source: frame() },             4, "repair --read-data"),
            (Error::WrongHash { key: key(), found: text() },             4, "repair --read-data"),
            (Error::Record { key: key(), source: decode() },             4, "repair --read-data"),
            (Error::Record { key: key(), source: newer() },              1, "update lakebed"),
            (Error::DamagedFrame { pack: PackId::new([1; 32]), offset: 0, source: frame() }, 4, "repair --read-data"),
            (Error::TreeNode { node: TreeId::new([1; 32]), source: decode() }, 4, "repair --read-data"),
            (Error::WrongContent { path: text() },                       4, "repair --read-data"),
            (Error::FrameCheck { source: frame() },                      1, "memory"),
            (Error::CopyDiffers { snapshot: id, path: text(), what: "x" }, 1, "memory"),
            (Error::SameRepository { location: text() },                 2, "--from-repo"),
            (Error::NoSnapshot { selector: text() },                     1, "lakebed snapshots"),
            (Error::AmbiguousSnapshot { selector: text(), count: 2 },    1, "more digits"),
            (Error::NothingToKeep,                                       2, "--keep-last"),
            (Error::EmptiesGroup { group: text(), forgotten: 2 },        1, "--allow-empty"),
            (Error::NotForgotten { snapshot: id },                       1, "lakebed snapshots"),
            (Error::Condemned { snapshot: id },                          1, "lakebed snapshots --forgotten"),
            (Error::SessionChoice { prefix: text(), count: 2 },          1, "lakebed sessions list"),
            (Error::NoPath { path: text(), snapshot: id },               1, "lakebed ls"),
            (Error::NotInArchive { path: text(), why: "x" },             1, "--archive tar"),
            (Error::WrongKind { path: text(), found: "file", expected: "directory" }, 1, ""),
            (local(io::ErrorKind::StorageFull),                          1, "free space"),
            (local(io::ErrorKind::PermissionDenied),                     1, "owner and mode"),
            (local(io::ErrorKind::Other),                                1, ""),
            (Error::Index { path: "/x".into(), message: text() },        1, "index rebuild"),
            (Error::IndexLocked { path: "/x".into() },                   11, "other lakebed process"),
            (Error::SourceEnded { reason: text() },                      1, "goes on from there"),
            (Error::TooManyFailures { max: 3 },                          1, "--max-failures"),
            (Error::Shrunk { files: 1, parent_files: 200 },              1, "--max-shrink"),
            (Error::SamePath { path: text() },                           1, "one by one"),
            (Error::Root { path: text(), source: SourceError::new("read", "x", io::Error::from(io::ErrorKind::NotFound)) }, 1, ""),
            (Error::NothingRead,                                         1, ""),
            (Error::SessionExpired { session: id },                      1, "again"),
            (Error::UnreadableSnapshots { snapshots: vec![id] },         4, "lakebed repair"),
            (Error::NeededMissing { count: 1 },                          4, "lakebed repair"),
            (Error::SnapshotsVanished { snapshots: vec![id] },           4, "--accept-vanished"),
            (Error::TooMuchToDelete { what: "snapshots", share: 95, limit: 90 }, 1, "--max-delete"),
            (Error::CondemnationLost { key: key() },                     1, "try again"),
            (Error::Busy { what: "the snapshots" },                      1, "try again"),
            (Error::NoNumberLeft { key: key() },                         1, "planted"),
            (Error::Interrupted,                                         130, "again"),
            (Error::Machine { operation: "x", source: io::Error::other("x") }, 1, ""),
            (Error::Argument { what: "x", value: text(), why: text() },  2, ""),
            (Error::Poisoned { message: text() },                        1, ""),
            (storage(io::ErrorKind::StorageFull),                        1, "free space"),
            (storage(io::ErrorKind::PermissionDenied),                   1, "owner and mode"),
            (storage(io::ErrorKind::ReadOnlyFilesystem),                 1, "read-only"),
            (storage(io::ErrorKind::NotFound),                           1, "lakebed verify"),
            (storage(io::ErrorKind::TimedOut),                           1, "try again"),
            (storage(io::ErrorKind::Other),                              1, ""),
        ];
        for (error, code, hint) in cases {
            let shown = format!("{error:?}");
            let error = CliError::from(error);
            assert_eq!(error.exit_code(), code, "{shown}");
            match (error.advice(), hint) {
                (None, "") => {}
                (Some(found), hint) if !hint.is_empty() && found.contains(hint) => {}
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }

    #[test]
    fn causes_are_told_once_and_in_order() {
        let error = CliError::from(storage(io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_string(), "Cannot write `packs/aa`");
        assert_eq!(error.causes(), ["permission denied"]);
        assert_eq!(one_line(&error), "Cannot write `packs/aa`: permission denied");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(CliError::output(pipe()).is_closed_pipe());
        assert!(CliError::from(Error::Machine { operation: "write to the output", source: pipe() }).is_closed_pipe());
        assert!(!CliError::output(io::Error::from(io::ErrorKind::StorageFull)).is_closed_pipe());
    }

    #[test]
    fn wrong_usage_is_2() {
        assert_eq!(CliError::usage("x").exit_code(), 2);
        assert_eq!(CliError::failed("x").hint("do y").advice().as_deref(), Some("do y"));
        assert_eq!([Exit::Done, Exit::Partial, Exit::Damage].map(Exit::code), [0, 3, 4]);
    }
}
