//! Finding snapshots.

use std::collections::HashMap;

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::SnapshotId;
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::Record;
use lakebed_core::record::snapshot::{Annotation, Snapshot};
use lakebed_core::storage::ObjectKey;
use lakebed_core::text::file_uri_path;
use lakebed_core::time::Timestamp;
use lakebed_core::wire::DecodeError;

use super::Repository;
use super::outcomes::{Joined, Outcome};
use crate::error::{Error, Result};

/// A snapshot and its id. Tags and description are those that count now.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotInfo {
    /// Its id: the session's that committed it.
    pub id: SnapshotId,
    /// Its record.
    pub snapshot: Snapshot,
}

/// What snapshots are asked for. An empty list or `None` asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Made by one of these hosts.
    pub hosts: Vec<String>,
    /// With all tags of at least one of these groups.
    pub tags: Vec<Vec<String>>,
    /// With all of these among their sources: a URI, an absolute path, or a path in the snapshot.
    pub paths: Vec<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Also parts of snapshots that are not joined yet.
    pub shards: bool,
}

impl SnapshotFilter {
    /// Tells whether a snapshot is asked for.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let any_host = self.hosts.is_empty() || self.hosts.contains(&snapshot.host);
        let has_tags = |group: &Vec<String>| group.iter().all(|tag| snapshot.tags.contains(tag));
        let any_tags = self.tags.is_empty() || self.tags.iter().any(has_tags);
        let has_path = |path: &String| {
            let path = path.trim_end_matches('/');
            snapshot.sources.iter().any(|source| {
                let local = file_uri_path(&source.uri);
                source.uri == path || source.path == path || local.is_some_and(|local| local == path.as_bytes())
            })
        };
        any_host
            && any_tags
            && (self.shards || snapshot.shard.is_none())
            && self.paths.iter().all(has_path)
            && self.since.is_none_or(|since| snapshot.time >= since)
            && self.until.is_none_or(|until| snapshot.time <= until)
    }
}

/// Which one snapshot is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotSelector {
    /// The newest.
    Latest,
    /// The newest at or before a time.
    At(Timestamp),
    /// The one whose id begins so.
    Id(String),
}

impl std::fmt::Display for SnapshotSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::At(time) => write!(f, "at or before {time}"),
            Self::Id(prefix) => f.write_str(prefix),
        }
    }
}

/// Every live snapshot, oldest first, and the records that cannot be read.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Records under `snapshots/` that are damaged, with what is wrong.
    pub damaged: Vec<(ObjectKey, Error)>,
    pub(crate) joined: Joined,
}

impl Catalogue {
    /// Finds the one snapshot that is selected among those that match.
    fn find(&mut self, selector: &SnapshotSelector, filter: &SnapshotFilter) -> Result<SnapshotInfo> {
        // whoever names a part by its id means it
        let by_id = matches!(selector, SnapshotSelector::Id(_));
        let filter = &SnapshotFilter { shards: filter.shards || by_id, ..filter.clone() };
        let mut matching = self.snapshots.iter().filter(|info| filter.matches(&info.snapshot));
        let none = || Error::NoSnapshot { selector: selector.to_string() };
        match selector {
            SnapshotSelector::Latest => matching.next_back().cloned().ok_or_else(none),
            SnapshotSelector::At(time) => matching.rfind(|info| info.snapshot.time <= *time).cloned().ok_or_else(none),
            SnapshotSelector::Id(prefix) => {
                let prefix = prefix.to_ascii_lowercase();
                let found: Vec<_> = matching.filter(|info| info.id.to_string().starts_with(&prefix)).collect();
                match found[..] {
                    [info] => Ok(info.clone()),
                    [] => {
                        // say what is wrong with the record that was meant, if it is the record
                        let is_meant =
                            |key: &ObjectKey| layout::last_part(key).starts_with(&prefix) && !prefix.is_empty();
                        let meant = self.damaged.iter().position(|(key, _)| is_meant(key));
                        Err(meant.map_or_else(none, |at| self.damaged.swap_remove(at).1))
                    }
                    _ => Err(Error::AmbiguousSnapshot { selector: selector.to_string(), count: found.len() }),
                }
            }
        }
    }
}

/// Reads a snapshot's record, which must be that of the session that it is named after.
fn decode_snapshot(id: SnapshotId, plain: &[u8]) -> Result<Snapshot> {
    let failed = |source| Error::Record { key: layout::snapshot(id), source };
    let snapshot = Snapshot::decode(plain).map_err(failed)?;
    if snapshot.session != id {
        return Err(failed(DecodeError::invalid("snapshot", "it is another session's")));
    }
    Ok(snapshot)
}

/// Returns the snapshot that a session ended with, or `None` where it was expired.
pub(crate) fn snapshot_of(id: SnapshotId, (kind, plain): &Outcome) -> Result<Option<Snapshot>> {
    match kind {
        FrameKind::Snapshot => decode_snapshot(id, plain).map(Some),
        _ => Ok(None),
    }
}

impl Repository {
    /// Reads every snapshot that is not forgotten. One that is damaged does not hide the others.
    ///
    /// # Errors
    /// Storage, as far as it concerns more than one record.
    pub fn catalogue(&self) -> Result<Catalogue> {
        let forgotten = self.forgotten()?;
        self.catalogue_of(|id| !forgotten.contains_key(&id))
    }

    /// Reads every snapshot that is wanted, forgotten or not.
    pub(crate) fn catalogue_of(&self, is_wanted: impl Fn(SnapshotId) -> bool) -> Result<Catalogue> {
        let mut annotations = self.annotations()?;
        let mut catalogue = Catalogue::default();
        let (outcomes, joined) = self.store.outcomes(is_wanted)?;
        catalogue.joined = joined;
        for (id, outcome) in outcomes {
            match outcome.and_then(|outcome| snapshot_of(id, &outcome)) {
                Ok(None) => {}
                Ok(Some(mut snapshot)) => {
                    if let Some(number) = annotations.remove(&id) {
                        match self.store.read_listed_record::<Annotation>(&layout::annotation(id, number)) {
                            Ok(annotation) => {
                                snapshot.tags = annotation.tags;
                                snapshot.description = annotation.description;
                            }
                            Err(error) => catalogue.damaged.push((layout::annotation(id, number), error)),
                        }
                    }
                    catalogue.snapshots.push(SnapshotInfo { id, snapshot });
                }
                // forgotten and freed since it was listed
                Err(Error::Storage(error)) if error.is_not_found() => {}
                Err(error) => catalogue.damaged.push((layout::snapshot(id), error)),
            }
        }
        catalogue.snapshots.sort_by_key(|info| info.snapshot.order(info.id));
        Ok(catalogue)
    }

    /// Returns the snapshots that match, oldest first. A record that is damaged is an error.
    ///
    /// # Errors
    /// Storage, a damaged record.
    pub fn snapshots(&self, filter: &SnapshotFilter) -> Result<Vec<SnapshotInfo>> {
        let Catalogue { snapshots, damaged, .. } = self.catalogue()?;
        if let Some((_, error)) = damaged.into_iter().next() {
            return Err(error);
        }
        Ok(snapshots.into_iter().filter(|info| filter.matches(&info.snapshot)).collect())
    }

    /// Returns the one snapshot that is selected among those that match. The monitor is warned of records that cannot be
    /// read: one of them may be the one that was meant.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find_snapshot(
        &self,
        selector: &SnapshotSelector,
        filter: &SnapshotFilter,
        monitor: &dyn Monitor,
    ) -> Result<SnapshotInfo> {
        self.catalogue_for(std::slice::from_ref(selector), monitor)?.find(selector, filter)
    }

    /// Returns the snapshots that are selected, each as by [`Repository::find_snapshot`].
    ///
    /// # Errors
    /// For one of them there is none, or more than one.
    pub fn find_snapshots(
        &self,
        selectors: &[SnapshotSelector],
        filter: &SnapshotFilter,
        monitor: &dyn Monitor,
    ) -> Result<Vec<SnapshotInfo>> {
        let mut catalogue = self.catalogue_for(selectors, monitor)?;
        selectors.iter().map(|selector| catalogue.find(selector, filter)).collect()
    }

    /// Reads the snapshots among which those that are selected are. Where all are selected by their ids it needs no others.
    fn catalogue_for(&self, selectors: &[SnapshotSelector], monitor: &dyn Monitor) -> Result<Catalogue> {
        let may_be = |id: SnapshotId, selector: &SnapshotSelector| match selector {
            SnapshotSelector::Id(prefix) => id.to_string().starts_with(&prefix.to_ascii_lowercase()),
            SnapshotSelector::Latest | SnapshotSelector::At(_) => true,
        };
        let forgotten = self.forgotten()?;
        let catalogue = self
            .catalogue_of(|id| !forgotten.contains_key(&id) && selectors.iter().any(|selector| may_be(id, selector)))?;
        for (key, error) in &catalogue.damaged {
            monitor.warn(&format!("passed over `{key}`: {}", crate::error_chain(error)));
        }
        Ok(catalogue)
    }

    /// Reads what stands under a session's key: its snapshot, or `None` where the session was expired.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub fn read_snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>> {
        let outcome = self.store.read_kinds(&layout::snapshot(id), &[FrameKind::Snapshot, FrameKind::Expiry])?;
        snapshot_of(id, &outcome)
    }

    /// Gives a snapshot other tags or another description. The record stays; an annotation is put beside it.
    ///
    /// # Errors
    /// Storage; `NoNumberLeft`.
    pub fn annotate(&self, info: &SnapshotInfo, tags: Vec<String>, description: String) -> Result<()> {
        let number = match self.annotations()?.get(&info.id) {
            Some(&newest) => {
                let next = newest.checked_add(1).filter(|&next| next < u32::MAX);
                next.ok_or_else(|| Error::NoNumberLeft { key: layout::annotation(info.id, newest) })?
            }
            None => 0,
        };
        let annotation = Annotation {
            version: lakebed_core::record::RECORD_VERSION,
            time: self.clock().now(),
            tags,
            description,
            unknown: Default::default(),
        };
        self.store.put_record(&layout::annotation(info.id, number), &annotation, self.random())?;
        self.store.storage().sync()?;
        Ok(())
    }

    /// Returns the number of the newest annotation of each snapshot that has one. The highest number of all is passed over:
    /// above each that counts there is room for another one.
    fn annotations(&self) -> Result<HashMap<SnapshotId, u32>> {
        let mut newest = HashMap::new();
        for object in self.store.storage().list(layout::ANNOTATIONS)? {
            let mut parts = object.key.as_str().split('/').skip(1);
            let id = parts.next().and_then(|id| id.parse().ok());
            let number = parts.next().and_then(|number| u32::from_str_radix(number, 16).ok());
            let number = number.filter(|&number| number < u32::MAX);
            if let (Some(id), Some(number)) = (id, number) {
                let known = newest.entry(id).or_insert(number);
                *known = number.max(*known);
            }
        }
        Ok(newest)
    }
}
