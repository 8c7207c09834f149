//! Joining: one snapshot of the parts that several machines have taken.
//!
//! Each machine backs a shard up ([`crate::backup::BackupOptions::shard`]) and commits it as a snapshot of its own, which
//! says of which run it is a part. Until they are joined, parts are no snapshots to anybody: nothing is compared with
//! them, no rule keeps or forgets them. Whoever finds all parts of a run joins them: the directories of all are laid over
//! each other, and what comes of it is what one machine alone would have committed. Then the parts are forgotten.
//!
//! Nobody coordinates. Two machines may both believe to be the last one, and join: each looks after its commit, and of
//! several snapshots that were joined from the same parts the one with the smallest id stays, whoever it was that looked.
//! Nothing is forgotten that has a part which the one that stays lacks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use lakebed_core::codec::compress::Compression;
use lakebed_core::id::{SessionId, SnapshotId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::protocol::WriterStep;
use lakebed_core::record::session::Outcome;
use lakebed_core::record::snapshot::{Failure, Joined, Shard, Snapshot, SourceRecord, Summary};
use lakebed_core::record::tree::{DirectoryWriter, Entry, EntryKind};
use lakebed_core::text::unescape_path;
use lakebed_core::time::Timestamp;

use crate::derive::{Author, Ended, in_session};
use crate::error::{Error, Result};
use crate::repository::{BlobReader, ChunkStore, Repository, SessionHandle, SnapshotInfo};
use crate::source::Divisions;

/// How parts are joined.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JoinOptions {
    /// Join what there is, though parts are missing. The snapshot is partial, and the parts stay, so that they can be
    /// joined again once the others are there.
    pub allow_missing: bool,
    /// Host, for the record.
    pub host: String,
    /// Name and version of the tool, for the record.
    pub tool: String,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            allow_missing: false,
            host: crate::system::host_name(),
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What joining came to.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinReport {
    /// The snapshot.
    pub snapshot: SnapshotInfo,
    /// It was there already: the parts were joined before.
    pub was_there: bool,
    /// Numbers of parts that are missing.
    pub missing: Vec<u32>,
}

/// What the parts of one run have in common, beside its name: the same name may have been given elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    host: String,
    sources: Vec<SourceRecord>,
}

impl Whole {
    fn of(snapshot: &Snapshot) -> Self {
        Self { host: snapshot.host.clone(), sources: snapshot.sources.clone() }
    }
}

/// The parts of a run, and what was joined from it.
#[derive(Debug, Default)]
struct Run {
    whole: Option<Whole>,
    /// The newest snapshot of each part.
    parts: BTreeMap<u32, SnapshotInfo>,
    /// Older ones of the same parts: they were run again.
    superseded: Vec<SnapshotInfo>,
    /// What was joined, oldest first. What was made of such a snapshot by a repair, say, is not among them.
    joined: Vec<(SnapshotInfo, Joined)>,
    count: u32,
}

impl Run {
    fn missing(&self) -> Vec<u32> {
        (0..self.count).filter(|index| !self.parts.contains_key(index)).collect()
    }

    fn is_complete(&self) -> bool {
        self.count > 0 && self.missing().is_empty()
    }

    /// Returns what has all parts.
    fn whole_one(&self) -> Option<&(SnapshotInfo, Joined)> {
        self.joined.iter().find(|(_, joined)| joined.is_whole())
    }

    /// Of what was joined from at least these parts, returns that which stays: with the most parts, and of equals the one
    /// with the smallest id. Whoever looks comes to the same.
    fn stays(&self, joined: &Joined) -> Option<&(SnapshotInfo, Joined)> {
        let covering = self.joined.iter().filter(|(_, other)| other.covers(joined));
        covering.max_by_key(|(info, other)| (other.shards.len(), Reverse(info.id)))
    }
}

impl Repository {
    /// Refuses to take a part of a run that is joined already: its name was given before.
    ///
    /// # Errors
    /// `RunJoined`; storage.
    pub(crate) fn refuse_joined_run(&self, run: &str, host: &str, sources: &[SourceRecord]) -> Result<()> {
        let whole = Whole { host: host.into(), sources: sources.to_vec() };
        match self.look_at_run(run, Some(&whole))?.whole_one() {
            Some((info, _)) => Err(Error::RunJoined { run: run.into(), snapshot: info.id }),
            None => Ok(()),
        }
    }

    /// Joins the run that a part is of, if every part is there and nobody else is joining it: for whoever has taken it.
    ///
    /// # Errors
    /// As [`Repository::join`].
    pub fn join_if_complete(
        &self,
        part: &Snapshot,
        options: &JoinOptions,
        monitor: &dyn Monitor,
    ) -> Result<Option<JoinReport>> {
        let Some(shard) = &part.shard else { return Ok(None) };
        let whole = Whole::of(part);
        let found = self.look_at_run(&shard.run, Some(&whole))?;
        // what was joined without waiting for this one, which was run twice at the same time, has it from the other
        let is_complete = found.is_complete() || found.whole_one().is_some();
        if !is_complete || self.is_joined_by_another(&shard.run, &whole, None)? {
            return Ok(None);
        }
        // a number that no part has
        let joining = Shard { index: shard.count, ..shard.clone() };
        self.join_whole(&shard.run, Some(&whole), Some(&joining), options, monitor)
    }

    /// Tells whether somebody else is joining a run, of whom nobody knows that he is dead; where `own` is given, one who
    /// says that he began before. Of several one is enough, and whoever looks comes to the same.
    fn is_joined_by_another(&self, run: &str, whole: &Whole, own: Option<(Timestamp, SessionId)>) -> Result<bool> {
        for session in self.sessions()? {
            let newest = &session.newest;
            let joins = newest.shard.as_ref().is_some_and(|shard| shard.run == run && shard.index >= shard.count);
            let is_other = own.is_none_or(|own| (session.started, session.id) < own);
            if joins
                && is_other
                && newest.sources == whole.sources
                && newest.process.host == whole.host
                && !self.is_over(session.id, &newest.process)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Joins the parts of a run to one snapshot, and forgets them. When it returns, the snapshot is durable.
    ///
    /// # Errors
    /// `NoShards` where there is no part of the run; `ShardsMissing`; `ShardsDiffer` where parts are not of one whole;
    /// storage.
    pub fn join(&self, run: &str, options: &JoinOptions, monitor: &dyn Monitor) -> Result<JoinReport> {
        let joined = self.join_whole(run, None, None, options, monitor)?;
        joined.ok_or_else(|| Error::NoShards { run: run.into() })
    }

    fn join_whole(
        &self,
        run: &str,
        whole: Option<&Whole>,
        part: Option<&Shard>,
        options: &JoinOptions,
        monitor: &dyn Monitor,
    ) -> Result<Option<JoinReport>> {
        let host = whole.filter(|_| part.is_some()).map_or(&options.host, |whole| &whole.host);
        let joining = part.zip(whole).map(|(shard, whole)| (shard, &whole.sources[..]));
        let author = Author { command: "join", host, tool: &options.tool, joining };
        let (report, may_delete) = in_session(self, author, monitor, |session| {
            let own = (session.registered(), session.id());
            if let (Some(_), Some(whole)) = (part, whole)
                && self.is_joined_by_another(run, whole, Some(own))?
            {
                return Ok((None, Ended { outcome: Outcome::Unchanged, summary: Summary::default() }));
            }
            let report = self.join_in(session, run, whole, options, monitor)?;
            let outcome = match &report {
                JoinReport { was_there: true, .. } => Outcome::Unchanged,
                report if report.snapshot.snapshot.is_complete() => Outcome::Done,
                _ => Outcome::Partial,
            };
            let summary = if report.was_there { Summary::default() } else { report.snapshot.snapshot.summary };
            Ok((Some(report), Ended { outcome, summary }))
        })?;
        // what all machines have put is joined by this one
        if let Some(JoinReport { was_there: false, .. }) = &report
            && may_delete
            && let Err(error) = self.join_small(monitor)
        {
            monitor.warn(&format!("small objects were not joined: {}", crate::error_chain(&error)));
        }
        Ok(report)
    }

    fn join_small(&self, monitor: &dyn Monitor) -> Result<()> {
        self.join_outcomes()?;
        self.join_segments(&self.index(monitor)?)
    }

    fn join_in(
        &self,
        session: &SessionHandle,
        run: &str,
        whole: Option<&Whole>,
        options: &JoinOptions,
        monitor: &dyn Monitor,
    ) -> Result<JoinReport> {
        // the order of a writer: what is condemned, then the index, then what is built upon
        monitor.step(WriterStep::ReadCondemned.into());
        let condemned = self.condemned_packs()?;
        monitor.step(WriterStep::FoldSegments.into());
        let reader = self.bare_reader(monitor)?;
        let index = reader.shared_index();
        index.check_packs(&self.store.list_packs()?, &HashSet::new());
        monitor.step(WriterStep::ChooseParent.into());
        let found = self.run_of(run, whole)?;
        index.fold_new(&self.store, monitor).map_err(Error::from)?;
        let missing = found.missing();
        let ids: Vec<SnapshotId> = found.parts.values().map(|info| info.id).collect();
        let is_there = |joined: &Joined| found.parts.is_empty() || joined.is_whole() || joined.shards == ids;
        if let Some((info, joined)) = found.joined.iter().rfind(|(_, joined)| is_there(joined)) {
            let missing = if joined.is_whole() { Vec::new() } else { missing };
            let (stays, joined) = found.stays(joined).cloned().unwrap_or((info.clone(), joined.clone()));
            self.settle(&found, &joined, stays.id, monitor);
            return Ok(JoinReport { snapshot: stays, was_there: true, missing });
        }
        let Some(first) = found.parts.values().next() else { return Err(Error::NoShards { run: run.into() }) };
        if !missing.is_empty() && !options.allow_missing {
            let count = found.count;
            return Err(Error::ShardsMissing { run: run.into(), missing, count });
        }
        monitor.step(WriterStep::StorePacks.into());
        let compression = Compression::default();
        let chunks = ChunkStore::new(self, index.clone(), Some(session.id()), compression, None)?.without(condemned);
        let parts: Vec<&Snapshot> = found.parts.values().map(|info| &info.snapshot).collect();
        let divisions: Vec<Divisions> = parts.iter().filter_map(|part| divisions_of(part)).collect();
        let roots: Vec<(&Divisions, TreeId)> =
            divisions.iter().zip(&parts).map(|(divisions, part)| (divisions, part.root)).collect();
        let mut overlay = Overlay { reader: &reader, chunks: &chunks, monitor, counts: total(&parts) };
        let root = overlay.directory(&roots, &mut Vec::new())?;
        let counts = overlay.counts;
        monitor.step(WriterStep::PublishSegments.into());
        chunks.publish()?;
        let stored = chunks.counts.stored.load(std::sync::atomic::Ordering::Relaxed);
        let joined = Joined { run: run.into(), shards: ids, count: found.count };
        let snapshot = record(session, &found, first, root, &joined, &counts, stored, options);
        monitor.step(WriterStep::Commit.into());
        session.commit(&snapshot)?;
        if let Err(error) = index.flush() {
            monitor.warn(&format!("the local index was not kept: {}", crate::error_chain(&error)));
        }
        // somebody else may have joined them at the same time, or with more parts
        let found = self.run_of(run, Some(&Whole::of(&snapshot)))?;
        let own = (SnapshotInfo { id: session.id(), snapshot }, joined);
        let (stays, joined) = found.stays(&own.1).cloned().unwrap_or(own);
        let missing = if joined.is_whole() { Vec::new() } else { missing };
        self.settle(&found, &joined, stays.id, monitor);
        Ok(JoinReport { snapshot: stays, was_there: false, missing })
    }

    /// As [`Repository::run_of`], in one look where the medium allows that. Nothing may be built upon what is found.
    fn look_at_run(&self, run: &str, whole: Option<&Whole>) -> Result<Run> {
        let listed = [layout::FORGOTTEN, layout::ANNOTATIONS, layout::CATALOGUE, layout::SNAPSHOTS];
        let _ahead = self.store.look_ahead(&listed)?;
        self.run_of(run, whole)
    }

    /// Looks for the parts of a run and for what was joined from it. Without `whole` there may be one of that name only.
    fn run_of(&self, run: &str, whole: Option<&Whole>) -> Result<Run> {
        let mut found = Run { whole: whole.cloned(), ..Run::default() };
        let differs = |what: &'static str| Error::ShardsDiffer { run: run.into(), what };
        // oldest first
        for info in self.catalogue()?.snapshots {
            let is_part = info.snapshot.shard.as_ref().is_some_and(|shard| shard.run == run);
            let joined = info.snapshot.joined.clone().filter(|joined| joined.run == run);
            if info.snapshot.original.is_some() || (!is_part && joined.is_none()) {
                continue;
            }
            let of = Whole::of(&info.snapshot);
            match (&found.whole, whole) {
                (None, _) => found.whole = Some(of),
                (Some(known), None) if *known != of => return Err(differs("host or sources")),
                (Some(known), Some(_)) if *known != of => continue,
                _ => {}
            }
            if let Some(joined) = joined {
                found.joined.push((info, joined));
            } else if let Some(shard) = info.snapshot.shard.clone() {
                if found.count != 0 && found.count != shard.count {
                    return Err(differs("number of parts"));
                }
                if found
                    .parts
                    .values()
                    .any(|part| part.snapshot.shard.as_ref().map(|part| part.depth) != Some(shard.depth))
                {
                    return Err(differs("depth at which folders are divided"));
                }
                found.count = shard.count;
                found.superseded.extend(found.parts.insert(shard.index, info));
            }
        }
        Ok(found)
    }

    /// Forgets what is superseded by the joined snapshot that stays: others that have no part that it lacks, and, if it is
    /// whole, all parts. It stands whatever becomes of that: whoever joins the run again finds it and goes on.
    fn settle(&self, found: &Run, joined: &Joined, stays: SnapshotId, monitor: &dyn Monitor) {
        let others = found.joined.iter().filter(|(info, other)| info.id != stays && joined.covers(other));
        let mut go: Vec<SnapshotId> = others.map(|(info, _)| info.id).collect();
        if joined.is_whole() {
            go.extend(found.parts.values().chain(&found.superseded).map(|info| info.id));
        }
        if let Err(error) = self.forget_all(&go, &format!("joined: {}", joined.run)) {
            monitor.warn(&format!("parts of the snapshot were not forgotten: {}", crate::error_chain(&error)));
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "each is another part of the record")]
fn record(
    session: &SessionHandle,
    found: &Run,
    first: &SnapshotInfo,
    root: TreeId,
    joined: &Joined,
    counts: &Summary,
    stored: u64,
    options: &JoinOptions,
) -> Snapshot {
    let parts: Vec<&Snapshot> = found.parts.values().map(|info| &info.snapshot).collect();
    let sum = |of: fn(&Summary) -> u64| parts.iter().map(|part| of(&part.summary)).sum::<u64>();
    let mut failures: BTreeMap<String, Failure> = BTreeMap::new();
    for failure in parts.iter().flat_map(|part| &part.failures) {
        failures.entry(failure.path.clone()).or_insert_with(|| failure.clone());
    }
    let missing = found
        .missing()
        .into_iter()
        .map(|index| Failure { path: String::new(), reason: format!("part {index} of {} is missing", found.count) });
    let failures: Vec<Failure> = missing.chain(failures.into_values()).collect();
    let mut owners = first.snapshot.owners.clone();
    for part in &parts {
        owners.users.extend(part.owners.users.clone());
        owners.groups.extend(part.owners.groups.clone());
    }
    let tags: BTreeSet<String> = parts.iter().flat_map(|part| part.tags.iter().cloned()).collect();
    Snapshot {
        // the moment that the first one began
        time: parts.iter().map(|part| part.time).min().unwrap_or(first.snapshot.time),
        root,
        parent: first.snapshot.parent.filter(|parent| parts.iter().all(|part| part.parent == Some(*parent))),
        tags: tags.into_iter().collect(),
        summary: Summary {
            started: parts.iter().map(|part| part.summary.started).min().unwrap_or_default(),
            finished: parts.iter().map(|part| part.summary.finished).max().unwrap_or_default(),
            files_new: sum(|summary| summary.files_new),
            files_changed: sum(|summary| summary.files_changed),
            files_unmodified: sum(|summary| summary.files_unmodified),
            bytes_read: sum(|summary| summary.bytes_read),
            bytes_new: sum(|summary| summary.bytes_new),
            bytes_deduplicated: sum(|summary| summary.bytes_deduplicated),
            bytes_stored: sum(|summary| summary.bytes_stored) + stored,
            ..*counts
        },
        failures,
        owners,
        shard: None,
        joined: Some(joined.clone()),
        read_all: found.parts.values().all(|part| part.snapshot.read_all),
        session: session.id(),
        base_generation: session.base_generation(),
        tool: options.tool.clone(),
        ..first.snapshot.clone()
    }
}

/// Returns how many entries, and how many bytes, parts have together: what several have counts as often.
fn total(parts: &[&Snapshot]) -> Summary {
    let sum = |of: fn(&Summary) -> u64| parts.iter().map(|part| of(&part.summary)).sum();
    Summary {
        files: sum(|summary| summary.files),
        directories: sum(|summary| summary.directories),
        others: sum(|summary| summary.others),
        bytes: sum(|summary| summary.bytes),
        ..Summary::default()
    }
}

/// Returns how the tree of a part was divided; `None` for what is no part.
fn divisions_of(part: &Snapshot) -> Option<Divisions> {
    let base = |source: &SourceRecord| -> Option<Vec<Vec<u8>>> {
        let path = unescape_path(&source.path)?;
        Some(path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    };
    Some(Divisions::new(part.sources.iter().filter_map(base), part.shard.as_ref()?))
}

/// Lays trees over each other.
struct Overlay<'a> {
    reader: &'a BlobReader,
    chunks: &'a ChunkStore,
    monitor: &'a dyn Monitor,
    /// Files, directories, others and bytes: those of all parts, less what several have.
    counts: Summary,
}

impl Overlay<'_> {
    /// Lays the nodes over each other that the parts have of one directory, and returns the node that comes of it. A
    /// directory that only one part has is taken as it is.
    fn directory(&mut self, parts: &[(&Divisions, TreeId)], path: &mut Vec<Vec<u8>>) -> Result<TreeId> {
        if self.monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        // the one whose directory it is knows best what is in it
        let mut parts: Vec<(&Divisions, TreeId)> = parts.to_vec();
        parts.sort_by_key(|(divisions, _)| !divisions.owns(path));
        let mut names: BTreeMap<Vec<u8>, Vec<(&Divisions, Entry)>> = BTreeMap::new();
        for (divisions, node) in parts {
            for entry in self.reader.entries(node) {
                let entry = entry?;
                names.entry(entry.name.clone()).or_default().push((divisions, entry));
            }
        }
        let mut writer = DirectoryWriter::default();
        for (name, mut found) in names {
            path.push(name.clone());
            self.leave_to_owner(&mut found, path)?;
            path.pop();
            let Some(((_, first), others)) = found.split_first() else { continue };
            let mut entry = first.clone();
            entry.inconsistent |= others.iter().any(|(_, other)| other.inconsistent);
            let is_directory = entry.kind == EntryKind::Directory;
            for (_, other) in others {
                self.leave_out(other, !is_directory)?;
            }
            let below: Vec<(&Divisions, TreeId)> =
                found.iter().filter_map(|(divisions, entry)| Some((*divisions, entry.subtree?))).collect();
            if is_directory && below.len() > 1 {
                path.push(name);
                entry.subtree = Some(self.directory(&below, path)?);
                path.pop();
            } else if is_directory {
                entry.subtree = below.first().map(|(_, node)| *node);
            }
            writer.push(entry, &mut self.chunks.node_sink())?;
        }
        writer.finish(&mut self.chunks.node_sink())
    }

    /// Leaves a directory that is one part's with all that is in it to that part, where it has it: what another one has of
    /// it, it has not seen.
    fn leave_to_owner(&mut self, found: &mut Vec<(&Divisions, Entry)>, path: &[Vec<u8>]) -> Result<()> {
        let owns = |divisions: &Divisions| divisions.is_whole(path) && divisions.owns(path);
        let Some(owner) = found.iter().position(|(divisions, _)| owns(divisions)) else { return Ok(()) };
        let mut others = std::mem::take(found);
        found.push(others.swap_remove(owner));
        others.iter().try_for_each(|(_, other)| self.leave_out(other, true))
    }

    /// Takes an entry that another part has as well out of the counts; `with_below` also what is in it.
    fn leave_out(&mut self, entry: &Entry, with_below: bool) -> Result<()> {
        let less = |count: &mut u64, by: u64| *count = count.saturating_sub(by);
        match entry.kind {
            EntryKind::Directory => less(&mut self.counts.directories, 1),
            EntryKind::File => {
                less(&mut self.counts.files, 1);
                less(&mut self.counts.bytes, entry.size);
            }
            _ => less(&mut self.counts.others, 1),
        }
        let mut below = entry.subtree.filter(|_| with_below).map(|node| self.reader.entries(node));
        while let Some(entry) = below.as_mut().and_then(Iterator::next) {
            self.leave_out(&entry?, true)?;
        }
        Ok(())
    }
}
