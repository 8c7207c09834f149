//! Sessions: that a writer is at work, how far it has come, and how it ended.

use serde::{Deserialize, Serialize};

use super::snapshot::{Shard, SourceRecord, Summary};
use super::{Record, Unknown};
use crate::codec::frame::FrameKind;
use crate::id::{SessionId, SnapshotId, TreeId};
use crate::time::Timestamp;

/// One record of a running writer. Number 0 registers it; later ones show that it lives and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Version of the record.
    pub version: u32,
    /// Its number within the session.
    pub number: u32,
    /// When it was written, by the writer's clock. For people only.
    pub time: Timestamp,
    /// The newest generation that the writer knew of when it registered.
    pub base_generation: u64,
    /// The process that writes.
    pub process: Process,
    /// What is being backed up.
    pub sources: Vec<SourceRecord>,
    /// The snapshot that is compared with.
    pub parent: Option<SnapshotId>,
    /// How far it has come, in records that are checkpoints.
    pub checkpoint: Option<Checkpoint>,
    /// What it was doing when the record was written. For people only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<SessionProgress>,
    /// The part that it takes of a snapshot that several machines take together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Session {
    const KIND: FrameKind = FrameKind::Session;
}

/// What a session is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProgress {
    /// The phase: `backup`, `commit`.
    pub phase: String,
    /// Counts and bytes so far.
    pub summary: Summary,
    /// Entries that could not be stored as they should be, so far.
    pub failures: u64,
    /// Files that the snapshot has which is compared with: about as many will it be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_files: Option<u64>,
}

/// A process, told apart from every other one, also across reboots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Name of the host, as the snapshot will have it.
    pub host: String,
    /// What `pid` is counted in: the boot and the name space of processes (Linux: `/proc/sys/kernel/random/boot_id`, a
    /// space, and where `/proc/self/ns/pid` leads); empty where there is none.
    pub boot_id: String,
    /// Number of the process.
    pub pid: u32,
    /// When it started, in clock ticks since boot (Linux: field 22 of `/proc/<pid>/stat`); 0 where unknown.
    pub start_ticks: u64,
}

/// An incomplete tree whose content is durable and published in segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The tree: what is finished, and nothing else.
    pub root: TreeId,
    /// Counts and bytes so far.
    pub summary: Summary,
    /// Everything is read for it, also what looks untouched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_all: bool,
}

/// The end of a session that committed nothing, put under the key of its snapshot so that it never can.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expiry {
    /// Version of the record.
    pub version: u32,
    /// When it was written.
    pub time: Timestamp,
    /// Why: `its process is dead`, `its run failed`, ...
    pub reason: String,
    /// The session that wrote it.
    pub by: SessionId,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Expiry {
    const KIND: FrameKind = FrameKind::Expiry;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// A snapshot was committed that lacks some entries.
    Partial,
    /// Nothing had changed and no snapshot was asked for then.
    Unchanged,
    /// It was interrupted.
    Interrupted,
    /// It failed.
    Failed,
}

/// The audit record of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Version of the record.
    pub version: u32,
    /// The verb: `backup`, ...
    pub command: String,
    /// The process that ran.
    pub process: Process,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// Counts and bytes.
    pub summary: Summary,
    /// Entries that could not be stored as they should be.
    #[serde(default, skip_serializing_if = "crate::record::is_zero")]
    pub failures: u64,
    /// Name and version of the tool.
    pub tool: String,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Run {
    const KIND: FrameKind = FrameKind::Run;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_is_doing_is_written_as_specified_and_read_back() {
        let progress = SessionProgress {
            phase: "backup".into(),
            summary: Summary { files: 3, files_unseen: 2, ..Summary::default() },
            failures: 1,
            expected_files: Some(10),
        };
        let text = serde_json::to_string(&progress).unwrap();
        let written = "{\"phase\":\"backup\",\"summary\":{\"started\":\"1970-01-01T00:00:00Z\",\
            \"finished\":\"1970-01-01T00:00:00Z\",\"files\":3,\"directories\":0,\"others\":0,\"files_new\":0,\
            \"files_changed\":0,\"files_unmodified\":0,\"files_unseen\":2,\"bytes\":0,\"bytes_read\":0,\"bytes_new\":0,\
            \"bytes_deduplicated\":0,\"bytes_stored\":0},\"failures\":1,\"expected_files\":10}";
        assert_eq!(text, written);
        assert_eq!(serde_json::from_str::<SessionProgress>(written).unwrap(), progress);
        // older records know neither
        let older = written.replace("\"files_unseen\":2,", "").replace(",\"expected_files\":10", "");
        let read: SessionProgress = serde_json::from_str(&older).unwrap();
        assert_eq!((read.summary.files_unseen, read.expected_files), (0, None));
    }
}
