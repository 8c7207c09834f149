//! `sessions`: who is writing, and ending sessions whose writers are gone.

use clap::{Args, Subcommand};
use lakebed_engine::Repository;
use lakebed_engine::core::id::SessionId;
use lakebed_engine::core::record::session::{Outcome, Run};
use lakebed_engine::core::record::snapshot::Summary;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::repository::{SessionInfo, SessionState};
use serde_json::{Value, json};

use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::ui::{self, Table, Text};

const EXAMPLES: &str = "\
Each run that writes is registered as a session until it has committed. One that was killed, or that was interrupted after a \
checkpoint, stays, so that the next run can go on from there; that run then ends it. A prune waits for sessions that began \
before it. Expire a session if its writer is gone for ever and nobody will continue it.

Nothing can be lost by it: whoever is expired while it still runs fails with a message, makes no snapshot, and finds what it \
has stored when it is run again.

Examples:
  lakebed sessions list --repo /mnt/backup/lake --all
  lakebed sessions expire --repo /mnt/backup/lake 3f9a
  lakebed sessions expire --repo /mnt/backup/lake --dead";

/// List and end sessions of writers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    command: SessionsCommand,
}

impl SessionsArgs {
    /// Returns the command's name, as JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            SessionsCommand::List { .. } => "sessions list",
            SessionsCommand::Show { .. } => "sessions show",
            SessionsCommand::Expire(_) => "sessions expire",
        }
    }
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// List the sessions that have not ended, the oldest first
    List {
        /// Also those that have ended, as far as they are on record
        #[arg(short, long)]
        all: bool,
    },
    /// Show all that is known of one session, also of one that has ended
    Show {
        /// The session: the beginning of its id
        #[arg(value_name = "SESSION")]
        id: String,
    },
    /// End sessions, so that they can never commit
    Expire(ExpireArgs),
}

#[derive(Debug, Args)]
struct ExpireArgs {
    /// Sessions: the beginnings of their ids
    #[arg(value_name = "SESSION", required_unless_present = "dead")]
    ids: Vec<String>,
    /// All sessions whose process is certainly dead or whose run has ended; their checkpoints serve nobody then
    #[arg(long, conflicts_with_all = ["ids", "force"])]
    dead: bool,
    /// Also a session whose process is alive on this machine: that run fails and makes no snapshot
    #[arg(long)]
    force: bool,
    /// Nothing else works with the repository meanwhile: needed on object stores that do not keep writers of one name
    /// apart, for a session that may still be running
    #[arg(long)]
    exclusive: bool,
}

/// A session and who is at it.
struct Found {
    info: SessionInfo,
    state: SessionState,
}

impl Found {
    fn new(repository: &Repository, info: SessionInfo) -> Result<Self, CliError> {
        let state = repository.session_state(&info)?;
        Ok(Self { info, state })
    }

    fn all(repository: &Repository) -> Result<Vec<Self>, CliError> {
        let mut all = repository.sessions()?;
        all.sort_by_key(|info| (info.started, info.id));
        all.into_iter().map(|info| Self::new(repository, info)).collect()
    }

    /// Returns the word for the state, as JSON has it.
    fn state_word(&self) -> &'static str {
        match &self.state {
            SessionState::Alive => "running",
            SessionState::Dead => "dead",
            SessionState::Elsewhere => "elsewhere",
            SessionState::Ended(Some(run)) if run.outcome == Outcome::Interrupted => "interrupted",
            SessionState::Ended(Some(run)) if run.outcome == Outcome::Failed => "failed",
            SessionState::Ended(_) => "ended",
        }
    }

    fn error(&self) -> Option<&str> {
        match &self.state {
            SessionState::Ended(Some(run)) => run.error.as_deref(),
            _ => None,
        }
    }

    /// Returns how long ago the newest record was written, as far as the writer's clock and ours agree.
    fn heartbeat_age(&self, now: Timestamp) -> String {
        match now.seconds_since(self.info.newest.time) {
            seconds @ 0.. => format!("{} ago", ui::duration(seconds as f64)),
            ahead => format!("{} ahead of our clock", ui::duration(ahead.unsigned_abs() as f64)),
        }
    }

    /// Returns how far the session had come when it said so last.
    fn summary(&self) -> Option<&Summary> {
        let checkpoint = self.info.checkpoint.as_ref().map(|checkpoint| &checkpoint.summary);
        self.info.newest.progress.as_ref().map(|progress| &progress.summary).or(checkpoint)
    }

    /// Returns how many seconds the session will still take, where it runs and it is known about how much there is to do.
    fn seconds_left(&self, now: Timestamp) -> Option<f64> {
        let (SessionState::Alive | SessionState::Elsewhere) = self.state else { return None };
        let progress = self.info.newest.progress.as_ref()?;
        let (done, expected) = (progress.summary.files as f64, progress.expected_files? as f64);
        let took = progress.summary.finished.seconds_since(progress.summary.started) as f64;
        let since = now.seconds_since(progress.summary.finished).max(0) as f64;
        (done > 0.0).then(|| ((expected - done).max(0.0) * took / done - since).max(0.0))
    }

    fn sources(&self) -> Vec<String> {
        self.info.newest.sources.iter().map(|source| ui::source_path(&source.uri)).collect()
    }
}

pub(crate) fn run(ctx: &Context, args: &SessionsArgs) -> Result<Exit, CliError> {
    match &args.command {
        SessionsCommand::List { all } => list(ctx, *all)?,
        SessionsCommand::Show { id } => show(ctx, id)?,
        SessionsCommand::Expire(args) => expire(ctx, args)?,
    }
    Ok(Exit::Done)
}

fn list(ctx: &Context, with_ended: bool) -> Result<(), CliError> {
    let repository = ctx.open(Access::Read)?;
    let now = repository.clock().now();
    let all = Found::all(&repository)?;
    let mut runs = if with_ended { repository.runs()? } else { Vec::new() };
    // those that left a checkpoint are among the others
    runs.retain(|(id, _)| all.iter().all(|found| found.info.id != *id));
    ctx.ui.answer(
        || {
            let runs = runs.iter().map(|(id, run)| run_json(*id, run));
            json!({ "sessions": all.iter().map(|found| session_json(found, now)).chain(runs).collect::<Vec<_>>() })
        },
        |out| {
            if !runs.is_empty() {
                let headings =
                    ["ID", "Host", ">PID", "Command", "Started", "Took", ">Files", ">Size", ">Failures", "State"];
                let mut table = Table::new(&headings);
                runs.iter().for_each(|(id, run)| table.row(run_row(*id, run)));
                table.write(out)?;
                writeln!(out, "{}", ui::counted(runs.len() as u64, "run that ended", "runs that ended"))?;
            }
            if all.is_empty() {
                return writeln!(out, "no sessions");
            }
            let headings = ["ID", "Host", ">PID", "Started", "Heartbeat", "Sources", ">Files", ">Size", "State"];
            let mut table = Table::new(&headings);
            all.iter().for_each(|found| table.row(row(found, now)));
            table.write(out)?;
            writeln!(out, "{}", ui::counted(all.len() as u64, "session", "sessions"))
        },
    )
}

fn row(found: &Found, now: Timestamp) -> Vec<String> {
    let Found { info, .. } = found;
    let summary = found.summary();
    vec![
        info.id.short(),
        ui::plain(&info.newest.process.host),
        info.newest.process.pid.to_string(),
        ui::local_time(info.started),
        format!("{}, {}", info.newest.number, found.heartbeat_age(now)),
        found.sources().join(" "),
        summary.map_or("-".into(), |summary| ui::count(summary.files)),
        summary.map_or("-".into(), |summary| ui::bytes(summary.bytes)),
        found.state_word().into(),
    ]
}

fn show(ctx: &Context, id: &str) -> Result<(), CliError> {
    let repository = ctx.open(Access::Read)?;
    let now = repository.clock().now();
    let found = match repository.find_session(id) {
        Ok(info) => Found::new(&repository, info)?,
        Err(error) => {
            // one that has ended may be meant
            let wanted = id.to_ascii_lowercase();
            let mut runs = repository.runs()?;
            runs.retain(|(id, _)| id.to_string().starts_with(&wanted));
            let [(id, run)] = &runs[..] else { return Err(error.into()) };
            return ctx.ui.answer(|| json!({ "session": run_json(*id, run) }), |out| print_run(out, *id, run));
        }
    };
    ctx.ui.answer(|| json!({ "session": session_json(&found, now) }), |out| print(out, &found, now))
}

fn print_run(out: Text<'_>, id: SessionId, run: &Run) -> std::io::Result<()> {
    writeln!(out, "session {id}")?;
    writeln!(out, "writer:     process {} on host {}", run.process.pid, ui::plain(&run.process.host))?;
    writeln!(out, "command:    {}", ui::plain(&run.command))?;
    match &run.error {
        Some(error) => writeln!(out, "state:      {}: {}", run_word(run), ui::plain(error))?,
        None => writeln!(out, "state:      {}", run_word(run))?,
    }
    writeln!(out, "started:    {}", ui::local_time(run.summary.started))?;
    writeln!(out, "ended:      {}", ui::local_time(run.summary.finished))?;
    let files = ui::counted(run.summary.files, "file", "files");
    writeln!(out, "done:       {files}, {}", ui::bytes(run.summary.bytes))?;
    writeln!(out, "failures:   {}", ui::count(run.failures))
}

/// Returns the word for how a run ended, as JSON has it.
fn run_word(run: &Run) -> &'static str {
    match run.outcome {
        Outcome::Done => "done",
        Outcome::Partial => "partial",
        Outcome::Unchanged => "unchanged",
        Outcome::Interrupted => "interrupted",
        Outcome::Failed => "failed",
    }
}

fn run_row(id: SessionId, run: &Run) -> Vec<String> {
    let Summary { started, finished, files, bytes, .. } = run.summary;
    vec![
        id.short(),
        ui::plain(&run.process.host),
        run.process.pid.to_string(),
        ui::plain(&run.command),
        ui::local_time(started),
        ui::duration(finished.seconds_since(started) as f64),
        ui::count(files),
        ui::bytes(bytes),
        ui::count(run.failures),
        run_word(run).into(),
    ]
}

fn run_json(id: SessionId, run: &Run) -> Value {
    json!({
        "id": id,
        "host": run.process.host,
        "pid": run.process.pid,
        "command": run.command,
        "state": run_word(run),
        "error": run.error,
        "started": run.summary.started,
        "ended": run.summary.finished,
        "summary": run.summary,
        "failures": run.failures,
    })
}

fn print(out: Text<'_>, found: &Found, now: Timestamp) -> std::io::Result<()> {
    let Found { info, .. } = found;
    let process = &info.newest.process;
    writeln!(out, "session {}", info.id)?;
    writeln!(out, "writer:     process {} on host {}", process.pid, ui::plain(&process.host))?;
    writeln!(out, "state:      {}", state_text(found))?;
    writeln!(out, "started:    {}", ui::local_time(info.started))?;
    let (number, age) = (info.newest.number, found.heartbeat_age(now));
    writeln!(out, "heartbeat:  {number}, {age} ({} by the writer's clock)", ui::local_time(info.newest.time))?;
    writeln!(out, "sources:    {}", found.sources().join(" "))?;
    match info.newest.parent {
        Some(parent) => writeln!(out, "parent:     snapshot {}", parent.short())?,
        None => writeln!(out, "parent:     none")?,
    }
    if let Some(progress) = &info.newest.progress {
        let files = ui::counted(progress.summary.files, "file", "files");
        let of = progress.expected_files.map(|files| format!(" of about {}", ui::count(files))).unwrap_or_default();
        let failures = ui::counted(progress.failures, "failure", "failures");
        writeln!(out, "phase:      {}", ui::plain(&progress.phase))?;
        writeln!(out, "done:       {files}{of}, {}, {failures}", ui::bytes(progress.summary.bytes))?;
    }
    if let Some(seconds) = found.seconds_left(now) {
        writeln!(out, "left:       about {}", ui::duration(seconds))?;
    }
    match &info.checkpoint {
        Some(checkpoint) => {
            let files = ui::counted(checkpoint.summary.files, "file", "files");
            writeln!(out, "checkpoint: {files}, {}", ui::bytes(checkpoint.summary.bytes))
        }
        None => writeln!(out, "checkpoint: none"),
    }
}

fn state_text(found: &Found) -> String {
    let ended = |how: &str| match found.error() {
        Some(error) => format!("{how}: {}", ui::plain(error)),
        None => how.into(),
    };
    match &found.state {
        SessionState::Alive => "running: its process lives on this machine".into(),
        SessionState::Dead => "dead: its process is gone".into(),
        SessionState::Elsewhere => {
            "elsewhere: its process is of another machine, boot or container, and nobody here can tell whether it lives"
                .into()
        }
        SessionState::Ended(Some(run)) => ended(outcome_text(run)),
        SessionState::Ended(None) => "ended: how cannot be read".into(),
    }
}

fn outcome_text(run: &Run) -> &'static str {
    match run.outcome {
        Outcome::Interrupted => "interrupted; the next run of these sources goes on from its checkpoint",
        Outcome::Failed => "failed; the next run of these sources goes on from its checkpoint",
        _ => "ended",
    }
}

fn expire(ctx: &Context, args: &ExpireArgs) -> Result<(), CliError> {
    let repository = ctx.open(Access::Write)?;
    let chosen = match args.dead {
        true => Found::all(&repository)?.into_iter().filter(|found| found.state.is_over()).collect(),
        // all are found before any is ended
        false => find(&repository, args)?,
    };
    let mut expired = Vec::new();
    let mut committed = Vec::new();
    for found in chosen {
        let id = found.info.id;
        match repository.expire_found(&found.info, args.exclusive, "it was expired by hand")? {
            true => expired.push(found),
            false => committed.push(id),
        }
    }
    ctx.ui.report(
        || json!({ "expired": expired.iter().map(|found| found.info.id).collect::<Vec<_>>(), "committed": committed }),
        |out| {
            for found in &expired {
                writeln!(out, "session {} expired: {}", found.info.id.short(), consequence(&found.state))?;
            }
            for id in &committed {
                writeln!(out, "session {} has committed by now: its snapshot stays", id.short())?;
            }
            if expired.is_empty() && committed.is_empty() { writeln!(out, "no session is dead") } else { Ok(()) }
        },
    )
}

fn find(repository: &Repository, args: &ExpireArgs) -> Result<Vec<Found>, CliError> {
    let mut chosen = Vec::new();
    for id in &args.ids {
        let found = Found::new(repository, repository.find_session(id)?)?;
        if found.state == SessionState::Alive && !args.force {
            let process = &found.info.newest.process;
            let message = format!(
                "Session {} is running: its process {} lives on this machine",
                found.info.id.short(),
                process.pid
            );
            return Err(CliError::failed(message).hint(
                "let it end, or stop it; with --force it is expired while it runs: \
                 it then fails with a message and makes no snapshot",
            ));
        }
        chosen.push(found);
    }
    Ok(chosen)
}

/// Returns what it means that a session was expired.
fn consequence(state: &SessionState) -> &'static str {
    match state {
        SessionState::Alive => "its run fails with a message and makes no snapshot",
        SessionState::Elsewhere => "if it still runs somewhere, it fails with a message and makes no snapshot",
        SessionState::Dead | SessionState::Ended(_) => "nobody can continue it any more",
    }
}

fn session_json(found: &Found, now: Timestamp) -> Value {
    let Found { info, .. } = found;
    let process = &info.newest.process;
    json!({
        "id": info.id,
        "host": process.host,
        "pid": process.pid,
        "state": found.state_word(),
        "error": found.error(),
        "started": info.started,
        "heartbeat": { "number": info.newest.number, "time": info.newest.time },
        "sources": info.newest.sources,
        "parent": info.newest.parent,
        "progress": info.newest.progress,
        "seconds_left": found.seconds_left(now),
        "checkpoint": info.checkpoint.as_ref().map(|checkpoint| checkpoint.summary),
    })
}
