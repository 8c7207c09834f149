//! Forgetting snapshots: first a plan, which says of each snapshot what becomes of it and why, then tombstones.
//!
//! A forgotten snapshot is hidden, and nothing of it is deleted: it can be brought back until a prune has condemned it.
//! To carry out a plan twice, or two of them at once, forgets what one of them forgets.
//!
//! What cannot be read is not forgotten by any rule: neither a snapshot whose record is damaged, nor one whose annotation
//! is, since its tags may be what it is kept for. Neither has a place in the counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use jiff::tz::TimeZone;
use lakebed_core::id::SnapshotId;
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::gc::{Tombstone, Verdict};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::retention::{Candidate, Policy, Reason, decide};
use lakebed_core::storage::ObjectKey;
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;

use crate::error::{Error, Result};
use crate::repository::{Repository, SnapshotFilter, SnapshotInfo, TombstoneState, parallel};

/// What snapshots have in common that a policy decides over together. Nothing: all are one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// Where their entries came from: all URIs of their sources.
    pub source: bool,
    /// All their tags.
    pub tags: bool,
}

impl Default for GroupBy {
    /// Host and source, so that each machine and each of its folders has a history of its own.
    fn default() -> Self {
        Self { host: true, source: true, tags: false }
    }
}

/// What the snapshots of a group have in common; `None` where it was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The host.
    pub host: Option<String>,
    /// The URIs of the sources, sorted, each once.
    pub sources: Option<Vec<String>>,
    /// The tags, sorted.
    pub tags: Option<Vec<String>>,
}

impl GroupKey {
    fn of(snapshot: &Snapshot, group_by: GroupBy) -> Self {
        let sources = || {
            let mut uris: Vec<_> = snapshot.sources.iter().map(|source| source.uri.clone()).collect();
            uris.sort();
            uris.dedup();
            uris
        };
        Self {
            host: group_by.host.then(|| snapshot.host.clone()),
            sources: group_by.source.then(sources),
            tags: group_by.tags.then(|| snapshot.tags.clone()),
        }
    }
}

impl fmt::Display for GroupKey {
    /// Writes `host db1, file:///data/lake, tags nightly`, as escaped text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.host.iter().map(|host| format!("host {host}")).collect();
        parts.extend(self.sources.iter().flatten().cloned());
        parts.extend(self.tags.iter().map(|tags| match tags.is_empty() {
            true => "no tags".into(),
            false => format!("tags {}", tags.join(",")),
        }));
        if parts.is_empty() {
            f.write_str("the repository")
        } else {
            f.write_str(&escape_path(parts.join(", ").as_bytes()))
        }
    }
}

/// Which snapshots are to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each plan")]
pub enum Choice {
    /// Those that a policy does not keep, of those that match.
    Policy {
        /// What is kept.
        policy: Policy,
        /// Which snapshots it decides over. All others stay.
        filter: SnapshotFilter,
    },
    /// These.
    Snapshots(BTreeSet<SnapshotId>),
}

impl Choice {
    fn concerns(&self, info: &SnapshotInfo) -> bool {
        match self {
            Self::Policy { filter, .. } => filter.matches(&info.snapshot),
            Self::Snapshots(ids) => ids.contains(&info.id),
        }
    }
}

/// How a plan is made.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    /// Which snapshots.
    pub choice: Choice,
    /// What is decided over together, and must not be left without any snapshot.
    pub group_by: GroupBy,
    /// Groups may be left without any snapshot, and a policy without any rule is one.
    pub allow_empty: bool,
    /// Whose hours, days, ... are meant: the local ones.
    pub zone: TimeZone,
}

impl ForgetOptions {
    /// Makes options for a choice, with everything else as it is by default.
    pub fn new(choice: Choice) -> Self {
        Self { choice, group_by: GroupBy::default(), allow_empty: false, zone: TimeZone::system() }
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It stays: these rules keep it.
    Keep(Vec<Reason>),
    /// It stays: its annotation is damaged, so nobody knows its tags.
    KeepUnread,
    /// It is forgotten: no rule keeps it.
    ForgetByPolicy,
    /// It is forgotten: it was named.
    ForgetById,
}

impl Decision {
    /// Tells whether the snapshot is forgotten.
    pub fn forgets(&self) -> bool {
        matches!(self, Self::ForgetByPolicy | Self::ForgetById)
    }

    /// Returns why, each reason as the name of its rule and in words; never empty.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Keep(reasons) => reasons.iter().map(|reason| (reason.rule(), reason.to_string())).collect(),
            Self::KeepUnread => vec![("unread", "its tags cannot be read".into())],
            Self::ForgetByPolicy => vec![("none", "no rule keeps it".into())],
            Self::ForgetById => vec![("id", BY_ID.into())],
        }
    }
}

const BY_ID: &str = "by id";

/// A snapshot that a plan decides over.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedSnapshot {
    /// The snapshot.
    pub info: SnapshotInfo,
    /// What becomes of it.
    pub decision: Decision,
    /// By this machine's clock it lies in the future.
    pub is_in_future: bool,
}

/// Snapshots that are decided over together.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgetGroup {
    /// What they have in common.
    pub key: GroupKey,
    /// Those that the plan decides over, oldest first.
    pub snapshots: Vec<PlannedSnapshot>,
    /// How many snapshots of the group the plan does not concern: they stay.
    pub others: usize,
}

impl ForgetGroup {
    /// Returns how many are forgotten.
    pub fn forgotten(&self) -> usize {
        self.snapshots.iter().filter(|planned| planned.decision.forgets()).count()
    }

    fn is_emptied(&self) -> bool {
        self.others == 0 && self.forgotten() == self.snapshots.len()
    }
}

/// What is to be forgotten, and why.
#[derive(Debug)]
pub struct ForgetPlan {
    /// The rule, for people: `keep last 3, daily 7`, or `by id`.
    pub rule: String,
    /// The groups that it concerns, sorted.
    pub groups: Vec<ForgetGroup>,
    /// Records that cannot be read, with what is wrong. They stay, whatever they are.
    pub damaged: Vec<(ObjectKey, Error)>,
}

impl ForgetPlan {
    /// Returns the snapshots that are to be forgotten, group by group, oldest first.
    pub fn forgotten(&self) -> impl Iterator<Item = &SnapshotInfo> {
        let all = self.groups.iter().flat_map(|group| &group.snapshots);
        all.filter(|planned| planned.decision.forgets()).map(|planned| &planned.info)
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForgetReport {
    /// Snapshots that are forgotten now.
    pub forgotten: Vec<SnapshotId>,
    /// Snapshots of the plan that somebody else had forgotten by then.
    pub forgotten_before: Vec<SnapshotId>,
}

/// A forgotten snapshot that can be brought back.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgottenSnapshot {
    /// The snapshot.
    pub info: SnapshotInfo,
    /// When it was forgotten and why; `None` where that cannot be read.
    pub tombstone: Option<Tombstone>,
}

/// The forgotten snapshots that can be brought back, oldest first, and the records that cannot be read.
#[derive(Debug, Default)]
pub struct ForgottenCatalogue {
    /// Snapshots, oldest first.
    pub snapshots: Vec<ForgottenSnapshot>,
    /// Records that are damaged, with what is wrong.
    pub damaged: Vec<(ObjectKey, Error)>,
}

impl Repository {
    /// Decides what is to be forgotten. Nothing is changed.
    ///
    /// # Errors
    /// `NothingToKeep` and `EmptiesGroup`, unless the options allow it; `NoSnapshot` where a snapshot that is named is not
    /// there; storage.
    pub fn plan_forget(&self, options: &ForgetOptions) -> Result<ForgetPlan> {
        let rule = match &options.choice {
            Choice::Policy { policy, .. } if policy.is_empty() && !options.allow_empty => {
                return Err(Error::NothingToKeep);
            }
            Choice::Policy { policy, .. } => format!("keep {policy}"),
            Choice::Snapshots(_) => BY_ID.into(),
        };
        let catalogue = self.catalogue()?;
        if let Choice::Snapshots(ids) = &options.choice {
            let known: HashSet<_> = catalogue.snapshots.iter().map(|info| info.id).collect();
            if let Some(unknown) = ids.iter().find(|id| !known.contains(id)) {
                return Err(Error::NoSnapshot { selector: unknown.to_string() });
            }
        }
        let now = self.clock().now();
        let unread: HashSet<_> = catalogue.damaged.iter().filter_map(|(key, _)| annotated_snapshot(key)).collect();
        let mut by_key: BTreeMap<GroupKey, Vec<SnapshotInfo>> = BTreeMap::new();
        for info in catalogue.snapshots {
            by_key.entry(GroupKey::of(&info.snapshot, options.group_by)).or_default().push(info);
        }
        let mut groups = Vec::new();
        for (key, all) in by_key {
            let (concerned, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|info| options.choice.concerns(info));
            if concerned.is_empty() {
                continue;
            }
            let others: Vec<_> = others.into_iter().filter(|info| info.snapshot.shard.is_none()).collect();
            let snapshots = decide_group(concerned, options, &unread, now);
            let group = ForgetGroup { key, snapshots, others: others.len() };
            if group.is_emptied() && !options.allow_empty {
                return Err(Error::EmptiesGroup { group: group.key.to_string(), forgotten: group.forgotten() });
            }
            groups.push(group);
        }
        Ok(ForgetPlan { rule, groups, damaged: catalogue.damaged })
    }

    /// Carries a plan out: puts a tombstone for each snapshot that is to be forgotten. When it returns, they are durable.
    /// A plan that was cut off half way may be carried out again.
    ///
    /// # Errors
    /// Storage; the repository needs a newer lakebed to be written; `Interrupted`.
    pub fn apply_forget(&self, plan: &ForgetPlan, monitor: &dyn Monitor) -> Result<ForgetReport> {
        self.config().check_writable().map_err(Error::Config)?;
        let standing = self.tombstones()?;
        let mut report = ForgetReport::default();
        let mut result = Ok(());
        let ids: Vec<SnapshotId> = plan.forgotten().map(|info| info.id).collect();
        for together in ids.chunks(parallel::at_once(&self.store)) {
            if monitor.is_cancelled() {
                result = Err(Error::Interrupted);
                break;
            }
            let forget = |&id: &SnapshotId| match standing.get(&id) {
                None => self.put_tombstone(id, 0, &plan.rule),
                Some(tombstone) if tombstone.hides() => Ok(false),
                Some(tombstone) => self.put_tombstone(id, tombstone.next(id)?, &plan.rule),
            };
            for (id, is_new) in together.iter().zip(parallel::each(&self.store, together, forget)) {
                match is_new? {
                    true => report.forgotten.push(*id),
                    // who put it before, or at the same time, forgot it as well as we would have
                    false => report.forgotten_before.push(*id),
                }
            }
        }
        self.store.storage().sync()?;
        result.map(|()| report)
    }

    /// Returns the forgotten snapshots that can still be brought back. One that is damaged does not hide the others.
    ///
    /// # Errors
    /// Storage, as far as it concerns more than one record.
    pub fn forgotten_snapshots(&self) -> Result<ForgottenCatalogue> {
        let mut open = self.tombstones()?;
        open.retain(|_, tombstone| tombstone.state == TombstoneState::Open);
        let catalogue = self.catalogue_of(|id| open.contains_key(&id))?;
        let mut forgotten = ForgottenCatalogue { damaged: catalogue.damaged, ..ForgottenCatalogue::default() };
        for info in catalogue.snapshots {
            let Some(number) = open.get(&info.id).map(|tombstone| tombstone.number) else { continue };
            let tombstone = match self.read_tombstone(info.id, number) {
                Ok(tombstone) => Some(tombstone),
                // freed since it was listed
                Err(Error::Storage(error)) if error.is_not_found() => continue,
                Err(Error::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    forgotten.damaged.push((layout::tombstone(info.id, number), error));
                    None
                }
            };
            forgotten.snapshots.push(ForgottenSnapshot { info, tombstone });
        }
        Ok(forgotten)
    }

    /// Returns the one forgotten snapshot whose id begins so, whether or not it can still be brought back.
    ///
    /// # Errors
    /// `NotForgotten` where only a live snapshot matches; `NoSnapshot`; `AmbiguousSnapshot`; storage.
    pub fn find_forgotten(&self, prefix: &str) -> Result<SnapshotId> {
        let wanted = prefix.to_ascii_lowercase();
        let matches = |id: &SnapshotId| id.to_string().starts_with(&wanted);
        let found: Vec<_> = self.forgotten()?.into_keys().filter(matches).collect();
        match found[..] {
            [id] => Ok(id),
            [] => {
                let live = self.store.list_ids::<SnapshotId>(layout::SNAPSHOTS)?.into_iter().filter(matches);
                // the id of a session that was expired names no snapshot
                let live = live.filter(|id| !matches!(self.read_snapshot(*id), Ok(None))).collect::<Vec<_>>();
                Err(match live[..] {
                    [snapshot] => Error::NotForgotten { snapshot },
                    _ => Error::NoSnapshot { selector: prefix.into() },
                })
            }
            _ => Err(Error::AmbiguousSnapshot { selector: prefix.into(), count: found.len() }),
        }
    }

    /// Brings forgotten snapshots back. Those that are not forgotten stay as they are. When it returns, it is durable.
    ///
    /// # Errors
    /// `Condemned` where a prune was first, `NoSnapshot` where nothing is left of it by now: if that is known at the
    /// beginning, nothing is changed. Storage; the repository needs a newer lakebed to be written.
    pub fn undo_forget(&self, ids: &[SnapshotId]) -> Result<()> {
        self.config().check_writable().map_err(Error::Config)?;
        let standing = self.tombstones()?;
        let mut open = Vec::new();
        for &id in ids {
            let Some(tombstone) = standing.get(&id).filter(|tombstone| tombstone.hides()) else {
                // a prune that is through with it has left nothing of it, not even a tombstone
                match self.has_snapshot(id)? {
                    true => continue,
                    false => return Err(Error::NoSnapshot { selector: id.to_string() }),
                }
            };
            // what a prune leaves when it is cut off may be a tombstone alone
            if tombstone.state == TombstoneState::Condemned || !self.has_snapshot(id)? {
                return Err(Error::Condemned { snapshot: id });
            }
            open.push((id, tombstone.number));
        }
        for &(id, number) in &open {
            if self.resolve_tombstone(id, number, Verdict::Undone, None)? == Verdict::Condemned {
                return Err(Error::Condemned { snapshot: id });
            }
        }
        self.store.storage().sync()?;
        for (id, number) in open {
            // a prune that condemned it and deleted everything since has deleted its verdict too, after the snapshot
            if !self.has_snapshot(id)? {
                // nothing refers to what was put: it may stay as well
                let _ = self.store.storage().delete(&layout::resolution(id, number));
                return Err(Error::Condemned { snapshot: id });
            }
        }
        Ok(())
    }

    fn has_snapshot(&self, id: SnapshotId) -> Result<bool> {
        match self.store.storage().size(&layout::snapshot(id)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Decides over the snapshots of one group.
fn decide_group(
    infos: Vec<SnapshotInfo>,
    options: &ForgetOptions,
    unread: &HashSet<SnapshotId>,
    now: Timestamp,
) -> Vec<PlannedSnapshot> {
    let mut by_policy = BTreeMap::new();
    if let Choice::Policy { policy, .. } = &options.choice {
        let readable: Vec<_> = infos.iter().filter(|info| !unread.contains(&info.id)).map(candidate).collect();
        let decisions = decide(&readable, policy, &options.zone, now);
        by_policy.extend(readable.iter().map(|candidate| candidate.order.id).zip(decisions));
    }
    let mut decision = |id| match (&options.choice, by_policy.remove(&id)) {
        (Choice::Snapshots(_), _) => Decision::ForgetById,
        (_, None) => Decision::KeepUnread,
        (_, Some(decision)) if decision.is_kept() => Decision::Keep(decision.reasons),
        (_, Some(_)) => Decision::ForgetByPolicy,
    };
    let planned = |info: SnapshotInfo| PlannedSnapshot {
        decision: decision(info.id),
        is_in_future: info.snapshot.time > now,
        info,
    };
    infos.into_iter().map(planned).collect()
}

fn candidate(info: &SnapshotInfo) -> Candidate<'_> {
    let snapshot = &info.snapshot;
    Candidate { order: snapshot.order(info.id), tags: &snapshot.tags, is_complete: snapshot.is_complete() }
}

/// Returns the snapshot whose annotation a key names.
fn annotated_snapshot(key: &ObjectKey) -> Option<SnapshotId> {
    key.as_str().strip_prefix(layout::ANNOTATIONS)?.split('/').next()?.parse().ok()
}
