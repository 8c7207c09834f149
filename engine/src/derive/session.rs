//! A session around a piece of work, from its registration to its end.

use lakebed_core::monitor::Monitor;
use lakebed_core::protocol::WriterStep;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::session::{Outcome, Run, Session};
use lakebed_core::record::snapshot::{Shard, SourceRecord, Summary};
use lakebed_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::repository::{Repository, SessionHandle};

/// Who works, for the records of sessions and runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    /// The verb.
    pub(crate) command: &'static str,
    /// Host that the session is registered under.
    pub(crate) host: &'a str,
    /// Name and version of the tool.
    pub(crate) tool: &'a str,
    /// The run whose parts it joins, and the sources of the whole.
    pub(crate) joining: Option<(&'a Shard, &'a [SourceRecord])>,
}

/// How a session's work ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) summary: Summary,
}

/// Registers a session, lets `work` do its work in it, and records how it ended. A session whose work failed is expired.
/// Returns with what came of it whether its records could be deleted: not everybody may.
pub(crate) fn in_session<T>(
    repository: &Repository,
    author: Author<'_>,
    monitor: &dyn Monitor,
    work: impl FnOnce(&SessionHandle) -> Result<(T, Ended)>,
) -> Result<(T, bool)> {
    repository.config().check_writable().map_err(Error::Config)?;
    monitor.step(WriterStep::Register.into());
    let record = Session {
        version: RECORD_VERSION,
        number: 0,
        time: Timestamp::default(),
        base_generation: 0,
        process: repository.processes().this(author.host),
        sources: author.joining.map_or_else(Vec::new, |(_, sources)| sources.to_vec()),
        parent: None,
        checkpoint: None,
        progress: None,
        shard: author.joining.map(|(shard, _)| shard.clone()),
        unknown: Default::default(),
    };
    let session = SessionHandle::register(repository, record)?;
    let result = work(&session);
    let (outcome, error, summary) = match &result {
        Ok((_, Ended { outcome, summary })) => (*outcome, None, *summary),
        Err(Error::Interrupted) => (Outcome::Interrupted, None, Summary::default()),
        Err(error) => (Outcome::Failed, Some(crate::error_chain(error)), Summary::default()),
    };
    let run = Run {
        version: RECORD_VERSION,
        command: author.command.into(),
        process: session.process().clone(),
        outcome,
        error,
        summary,
        failures: 0,
        tool: author.tool.into(),
        unknown: Default::default(),
    };
    let may_delete = session.end(&run, result.is_ok()).unwrap_or_else(|error| {
        monitor.warn(&format!("the session's end was not recorded: {}", crate::error_chain(&error)));
        false
    });
    result.map(|(value, _)| (value, may_delete))
}
