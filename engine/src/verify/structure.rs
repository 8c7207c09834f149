//! The structure: every record, every tree, and that every chunk a tree needs lies in a pack that is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{ContentId, KeySlotId, LedgerId, PackId, SegmentId, SnapshotId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, decode_removal, decode_segment};
use lakebed_core::record::Record;
use lakebed_core::record::gc::{Claim, Condemnation, Done, Resolution, Tombstone};
use lakebed_core::record::key_slot::KeySlot;
use lakebed_core::record::ledger::Ledger;
use lakebed_core::record::session::{Expiry, Run, Session};
use lakebed_core::record::snapshot::{Annotation, Snapshot};
use lakebed_core::record::tree::{Content, Entry, Extent, Node};
use lakebed_core::storage::ObjectKey;
use rayon::prelude::*;

use super::{AFFECTED_MAX, Affected, Damage, VerifyOptions, VerifyReport};
use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::{BlobReader, Repository};

/// What the passes hand to each other.
pub(super) struct Checked {
    pub(super) report: VerifyReport,
    pub(super) reader: BlobReader,
    pub(super) pool: rayon::ThreadPool,
    /// Packs in storage with their sizes.
    pub(super) packs: HashMap<PackId, u64>,
    /// Hash of the directory of each pack as the segments have it.
    pub(super) described: HashMap<PackId, [u8; 32]>,
    pub(super) snapshots: Vec<(SnapshotId, Snapshot)>,
    /// Joined from every ledger that can be read.
    pub(super) ledger: Ledger,
    pub(super) ledger_objects: Vec<ObjectKey>,
    /// Chunks and nodes that are missing or damaged, with the damage that it is.
    pub(super) bad_blobs: HashMap<BlobId, usize>,
    /// Contents whose whole hash is wrong, with the damage that it is.
    pub(super) bad_contents: HashMap<ContentId, usize>,
}

impl Checked {
    /// Notes a damage and returns its number.
    pub(super) fn damage(&mut self, subject: impl Into<String>, problem: impl Into<String>) -> usize {
        let damage =
            Damage { subject: subject.into(), problem: problem.into(), affected: Vec::new(), affected_more: 0 };
        self.report.damage.push(damage);
        self.report.damage.len() - 1
    }
}

/// Keeps failures that end the verification apart from what is damage.
pub(super) fn problem(error: Error) -> Result<String> {
    if error.keeps_from_looking() { Err(error) } else { Ok(crate::error_chain(&error)) }
}

pub(super) fn check(repository: &Repository, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<Checked> {
    monitor.phase(Phase::VerifyStructure, None);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .thread_name(|number| format!("lakebed-verify-{number}"))
        .build()
        .map_err(|error| Error::Machine { operation: "start threads", source: std::io::Error::other(error) })?;
    let index = Arc::new(repository.index(monitor)?);
    let mut checked = Checked {
        report: VerifyReport::default(),
        reader: BlobReader::new(repository.store().clone(), index.clone()),
        pool,
        described: HashMap::new(),
        snapshots: Vec::new(),
        ledger: Ledger {
            version: lakebed_core::record::RECORD_VERSION,
            packs: BTreeMap::new(),
            unknown: Default::default(),
        },
        ledger_objects: Vec::new(),
        bad_blobs: HashMap::new(),
        bad_contents: HashMap::new(),
        packs: HashMap::new(),
    };
    check_records(repository, &mut checked, monitor)?;
    // in this order, beside a backup that goes on: whatever a snapshot that was seen needs was published before it, and
    // whatever a segment describes was stored before it
    index.fold_new(repository.store(), monitor)?;
    checked.packs = repository.store().list_packs()?;
    check_packs_listed(repository, &mut checked)?;
    check_trees(&mut checked, monitor)?;
    Ok(checked)
}

/// Reads every object that is no pack.
fn check_records(repository: &Repository, checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    let store = repository.store();
    for object in store.storage().list("")? {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let key = &object.key;
        let folder = key.as_str().split_inclusive('/').next().unwrap_or_default();
        let result = match folder {
            layout::KEYS => check_key_slot(repository, key),
            layout::INDEX => check_segment(repository, key, checked),
            layout::SNAPSHOTS => check_snapshot(repository, key, checked),
            layout::ANNOTATIONS => store.read_record::<Annotation>(key).map(drop),
            layout::SESSIONS => store.read_record::<Session>(key).map(drop),
            layout::RUNS => store.read_record::<Run>(key).map(drop),
            layout::FORGOTTEN => match layout::last_part(key) {
                "tombstone" => store.read_record::<Tombstone>(key).map(drop),
                _ => store.read_record::<Resolution>(key).map(drop),
            },
            layout::GC => match layout::last_part(key) {
                "claim" => store.read_record::<Claim>(key).map(drop),
                "done" => store.read_record::<Done>(key).map(drop),
                _ => store.read_record::<Condemnation>(key).map(drop),
            },
            layout::LEDGER => check_ledger(repository, key, checked),
            _ if key.as_str() == layout::CONFIG => repository.check_config(),
            // packs are looked at by themselves; what else lies here is none of ours
            _ => continue,
        };
        match result {
            Ok(()) => {}
            // it went while we looked: a session ended, a snapshot was freed
            Err(Error::Storage(error)) if error.is_not_found() => {}
            Err(error) => {
                let whole_snapshot =
                    (folder == layout::SNAPSHOTS).then(|| layout::last_part(key).parse().ok()).flatten();
                let number = checked.damage(key.to_string(), problem(error)?);
                if let Some(snapshot) = whole_snapshot {
                    checked.report.damage[number].affected.push(Affected { snapshot, path: String::new() });
                }
            }
        }
        monitor.advance(Progress { entries: 1, bytes: object.size_bytes });
    }
    Ok(())
}

fn check_key_slot(repository: &Repository, key: &ObjectKey) -> Result<()> {
    let invalid = |why: &str| lakebed_core::wire::DecodeError::invalid("key slot", why);
    let record = |source| Error::Record { key: key.clone(), source };
    let id: KeySlotId = layout::last_part(key).parse().map_err(|_| record(invalid("its name is no id")))?;
    let slot = KeySlot::decode(id, &repository.store().storage().get(key)?).map_err(record)?;
    slot.open_label(repository.store().keys()).map(drop).map_err(record)
}

fn check_segment(repository: &Repository, key: &ObjectKey, checked: &mut Checked) -> Result<()> {
    let Ok(id) = layout::last_part(key).parse::<SegmentId>() else { return Ok(()) };
    let store = repository.store();
    let kinds = [FrameKind::Segment, FrameKind::RemovalSegment];
    let (kind, plain) =
        store.with_scratch(|scratch| store.read_hashed(key, id.as_bytes(), &kinds, layout::INDEX, scratch))?;
    let record = |source| Error::Record { key: key.clone(), source };
    if kind == FrameKind::RemovalSegment {
        return decode_removal(&plain).map(drop).map_err(record);
    }
    for pack in decode_segment(&plain).map_err(record)? {
        let hash = *lakebed_core::hash::object_hash(&pack.directory.encode()).as_bytes();
        checked.described.insert(pack.id, hash);
    }
    Ok(())
}

fn check_snapshot(repository: &Repository, key: &ObjectKey, checked: &mut Checked) -> Result<()> {
    let Ok(id) = layout::last_part(key).parse::<SnapshotId>() else { return Ok(()) };
    match repository.store().read_kinds(key, &[FrameKind::Snapshot, FrameKind::Expiry])? {
        (FrameKind::Snapshot, plain) => {
            let snapshot = Snapshot::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })?;
            if snapshot.session != id {
                let source = lakebed_core::wire::DecodeError::invalid("snapshot", "it is another session's");
                return Err(Error::Record { key: key.clone(), source });
            }
            checked.snapshots.push((id, snapshot));
        }
        (_, plain) => {
            Expiry::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })?;
        }
    }
    Ok(())
}

fn check_ledger(repository: &Repository, key: &ObjectKey, checked: &mut Checked) -> Result<()> {
    let Ok(id) = layout::last_part(key).parse::<LedgerId>() else { return Ok(()) };
    // one that is damaged is replaced by the next ledger too
    checked.ledger_objects.push(key.clone());
    let store = repository.store();
    let (_, plain) = store
        .with_scratch(|scratch| store.read_hashed(key, id.as_bytes(), &[FrameKind::Ledger], layout::LEDGER, scratch))?;
    checked.ledger.join(&Ledger::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })?);
    Ok(())
}

/// Compares the packs in storage with those that the index knows.
fn check_packs_listed(repository: &Repository, checked: &mut Checked) -> Result<()> {
    let known = checked.reader.index().packs();
    let forgotten = repository.forgotten()?;
    checked.snapshots.retain(|(id, _)| forgotten.get(id) != Some(&true));
    checked.report.packs = checked.packs.len() as u64;
    checked.report.pack_bytes = checked.packs.values().sum();
    checked.reader.index().check_packs(&checked.packs, &HashSet::new());
    for pack in &known {
        let expected = pack.size_bytes;
        let problem = match checked.packs.get(&pack.id) {
            Some(&found) if found == expected => continue,
            Some(found) => format!("expected {expected} bytes, found {found}"),
            // it may have been freed since the index was folded
            None => match repository.store().storage().size(&layout::pack(pack.id)) {
                Ok(_) => continue,
                Err(error) if error.is_not_found() => "it is missing".into(),
                Err(error) => return Err(error.into()),
            },
        };
        checked.damage(layout::pack(pack.id).to_string(), problem);
    }
    let known: HashSet<PackId> = known.into_iter().map(|pack| pack.id).collect();
    checked.report.unreferenced_packs = checked.packs.keys().filter(|id| !known.contains(id)).count() as u64;
    Ok(())
}

/// What one node leads to.
struct Step {
    node: TreeId,
    below: Vec<TreeId>,
    missing: Vec<BlobId>,
    chunks: u64,
    failed: Option<Error>,
}

/// Walks every tree, each node once, and looks every chunk up.
fn check_trees(checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    checked.report.snapshots = checked.snapshots.len() as u64;
    let mut seen: HashSet<TreeId> = HashSet::new();
    let mut frontier: Vec<TreeId> = Vec::new();
    for (_, snapshot) in &checked.snapshots {
        if seen.insert(snapshot.root) {
            frontier.push(snapshot.root);
        }
    }
    while !frontier.is_empty() {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let reader = &checked.reader;
        let steps: Vec<Result<Step>> =
            checked.pool.install(|| frontier.par_iter().map(|&node| step(reader, node)).collect());
        frontier = Vec::new();
        for step in steps {
            let Step { node, below, missing, chunks, failed } = step?;
            checked.report.nodes += 1;
            checked.report.chunks += chunks;
            frontier.extend(below.into_iter().filter(|node| seen.insert(*node)));
            if let Some(error) = failed {
                let number = checked.damage(format!("tree node {node}"), problem(error)?);
                checked.bad_blobs.insert(node.into(), number);
            }
            for id in missing {
                if !checked.bad_blobs.contains_key(&id) {
                    let number = checked.damage(format!("chunk {id}"), "it is in no pack that is there");
                    checked.bad_blobs.insert(id, number);
                }
            }
        }
        monitor.advance(Progress { entries: 0, bytes: 0 });
    }
    Ok(())
}

fn step(reader: &BlobReader, id: TreeId) -> Result<Step> {
    let mut step = Step { node: id, below: Vec::new(), missing: Vec::new(), chunks: 0, failed: None };
    let node = match reader.node(id) {
        Ok(node) => node,
        Err(error) => {
            step.failed = Some(error);
            return Ok(step);
        }
    };
    let mut extents: Vec<Extent> = Vec::new();
    match node {
        Node::Entries(entries) => {
            for entry in entries {
                step.below.extend(entry.subtree);
                match entry.content {
                    Content::None => {}
                    Content::Chunk(id) => extents.push(Extent::Data { id, length: entry.size }),
                    Content::Extents { extents: more, .. } => extents.extend(more),
                    Content::Indirect { root, .. } => step.below.push(root),
                }
            }
        }
        Node::EntryIndex(items) => step.below.extend(items.into_iter().map(|item| item.node)),
        Node::ExtentIndex(nodes) => step.below.extend(nodes),
        Node::Extents(more) => extents = more,
    }
    for extent in extents {
        if let Extent::Data { id, length } = extent {
            step.chunks += 1;
            match reader.index().lookup(&id.into())? {
                Some(place) if u64::from(place.length) == length => {}
                _ => step.missing.push(id.into()),
            }
        }
    }
    Ok(step)
}

/// Finds the snapshots and paths that damage touches.
pub(super) fn locate(checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    if checked.bad_blobs.is_empty() && checked.bad_contents.is_empty() {
        return Ok(());
    }
    let mut touched: Vec<(usize, Affected)> = Vec::new();
    for (snapshot, record) in &checked.snapshots {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        locate_below(checked, *snapshot, record.root, b"", &mut touched);
    }
    for (number, affected) in touched {
        let damage = &mut checked.report.damage[number];
        if damage.affected.last() == Some(&affected) {
            continue;
        }
        if damage.affected.len() < AFFECTED_MAX {
            damage.affected.push(affected);
        } else {
            damage.affected_more += 1;
        }
    }
    Ok(())
}

fn locate_below(
    checked: &Checked,
    snapshot: SnapshotId,
    root: TreeId,
    path: &[u8],
    touched: &mut Vec<(usize, Affected)>,
) {
    let bad = |id: BlobId| checked.bad_blobs.get(&id).copied();
    let touch = |touched: &mut Vec<(usize, Affected)>, number: usize, path: &[u8]| {
        let path = lakebed_core::text::escape_path(path);
        touched.push((number, Affected { snapshot, path }));
    };
    if let Some(number) = bad(root.into()) {
        touch(touched, number, path);
    }
    for entry in checked.reader.entries(root) {
        match entry {
            Ok(entry) => {
                let full = join(path, &entry.name);
                for number in bad_parts(checked, &entry) {
                    touch(touched, number, &full);
                }
                if let Some(subtree) = entry.subtree {
                    locate_below(checked, snapshot, subtree, &full, touched);
                }
            }
            // the directory lacks what this node held; what lies behind it is looked at all the same
            Err(Error::TreeNode { node, .. }) => bad(node.into()).into_iter().for_each(|n| touch(touched, n, path)),
            Err(Error::Missing { blob, .. } | Error::WrongBlob { blob, .. }) => {
                bad(blob).into_iter().for_each(|number| touch(touched, number, path));
            }
            Err(_) => {}
        }
    }
}

/// Returns the damages that touch a file's content.
fn bad_parts(checked: &Checked, entry: &Entry) -> Vec<usize> {
    let mut numbers: Vec<usize> = Vec::new();
    if let Some(hash) = entry.content.hash() {
        numbers.extend(checked.bad_contents.get(&hash));
    }
    if let Content::Indirect { root, .. } = &entry.content {
        numbers.extend(checked.bad_blobs.get(&BlobId::from(*root)));
    }
    for extent in checked.reader.extents(entry).into_iter().flatten() {
        if let Extent::Data { id, .. } = extent {
            numbers.extend(checked.bad_blobs.get(&BlobId::from(id)));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
