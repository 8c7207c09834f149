//! The structure: every record, every tree, and that every chunk a tree needs lies in a pack that is there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lakebed_core::id::{PackId, SnapshotId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, PackKind};
use lakebed_core::record::tree::{Content, Entry, Extent};
use rayon::prelude::*;

use super::{Affected, Damage, ReadData, VerifyOptions, VerifyReport};
use crate::check::{Copied, REMOTE_READERS, Records, ahead_of_packs, compare_packs};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::query::join;
use crate::repository::{BlobReader, ReadAhead, Repository, Step, TreeCopies, packs_in};
use crate::storage::Survey;

/// What the passes hand to each other.
pub(super) struct Checked {
    pub(super) report: VerifyReport,
    pub(super) reader: BlobReader,
    pub(super) pool: rayon::ThreadPool,
    /// Packs in storage with their sizes.
    pub(super) packs: HashMap<PackId, u64>,
    /// What the other objects say. Snapshots that were condemned are not among them.
    pub(super) records: Records,
    /// Chunks and nodes that are missing or damaged, with the damage that it is.
    pub(super) bad_blobs: HashMap<BlobId, usize>,
    /// Contents whose whole hash is wrong, with the damage that it is.
    pub(super) bad_contents: HashMap<Content, usize>,
    /// All snapshots that damage touches, also where its list of them is cut off.
    pub(super) touched: BTreeSet<SnapshotId>,
    /// Listings that were looked up ahead, for who lists them first.
    ahead: Option<Survey>,
    /// Has begun to read packs ahead.
    pub(super) packs_ahead: Option<ReadAhead>,
    /// Packs that are read whole for walking them.
    pub(super) copied: Copied,
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

/// What is listed once the records are read. Where one request lists all of it, in whatever order, a pack that seems to be
/// missing is asked for by its name.
const LISTED: [&str; 4] = [layout::INDEX, layout::PACKS, layout::FORGOTTEN, layout::SNAPSHOTS];

/// Reads everything but packs, and looks which packs there are.
pub(super) fn begin(repository: &Repository, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<Checked> {
    monitor.phase(Phase::VerifyStructure, None);
    let pool = crate::system::threads(options.threads, "verify")?;
    let objects = repository.store().storage().list("")?;
    // what is going to be read comes in while all else is looked at
    let copied = Copied::default();
    let packs_ahead = match options.read {
        ReadData::All => {
            let mut packs: Vec<(PackId, u64)> = packs_in(&objects).into_iter().collect();
            packs.sort_unstable();
            ahead_of_packs(repository.store(), pool.current_num_threads().min(REMOTE_READERS), &packs, copied.clone())
        }
        _ => None,
    };
    let records = Records::read(repository, &objects, monitor)?;
    drop(objects);
    // in this order, beside a backup that goes on: whatever a snapshot that was seen needs was published before it, and
    // whatever a segment describes was stored before it
    let ahead = repository.store().look_ahead(&LISTED)?;
    let index = Arc::new(repository.index(monitor)?);
    let copies = tree_copies(repository, &index, &copied);
    let mut checked = Checked {
        report: VerifyReport::default(),
        reader: BlobReader::new(repository.store().clone(), index).with_copies(copies),
        pool,
        records,
        bad_blobs: HashMap::new(),
        bad_contents: HashMap::new(),
        touched: BTreeSet::new(),
        packs: HashMap::new(),
        ahead: Some(ahead),
        packs_ahead,
        copied,
    };
    check_records(&mut checked)?;
    if !checked.records.listed.contains(&layout::config()) {
        // it was there when the repository was opened: what else is not listed nobody knows
        checked.damage(layout::CONFIG, "it is not listed, so what storage lists cannot be relied on");
    }
    checked.packs = repository.store().list_packs()?;
    check_packs(repository, &mut checked, monitor)?;
    Ok(checked)
}

/// Prepares to read packs of trees whole, once for walking and for checking them, and says which they are. `None` where a
/// request costs nothing, or there is no room for them.
fn tree_copies(repository: &Repository, index: &Index, copied: &Copied) -> Option<TreeCopies> {
    let (_, bytes) = index.pack_totals(PackKind::Tree);
    let copies = TreeCopies::fresh(repository.store().copies()?, bytes)?;
    let trees = index.packs().into_iter().filter(|pack| pack.kind == PackKind::Tree).map(|pack| pack.id);
    // nobody else says it
    let _ = copied.set(trees.collect());
    Some(copies)
}

/// Tells of the objects that are no packs and cannot be read.
fn check_records(checked: &mut Checked) -> Result<()> {
    for (key, error) in std::mem::take(&mut checked.records.damaged) {
        let number = checked.damage(key.to_string(), problem(error)?);
        if key.as_str().starts_with(layout::SNAPSHOTS)
            && let Ok(snapshot) = layout::last_part(&key).parse()
        {
            checked.report.damage[number].affected.push(Affected { snapshot, path: String::new() });
            checked.touched.insert(snapshot);
        }
    }
    Ok(())
}

/// Compares the packs in storage with those that the index knows.
fn check_packs(repository: &Repository, checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    checked.report.packs = checked.packs.len() as u64;
    checked.report.pack_bytes = checked.packs.values().sum();
    for (pack, problem) in compare_packs(repository, checked.reader.index(), &mut checked.packs, monitor)? {
        checked.damage(layout::pack(pack).to_string(), problem.to_string());
    }
    let index = checked.reader.index();
    index.check_packs(&checked.packs, &HashSet::new());
    let known: HashSet<PackId> = index.packs().into_iter().map(|pack| pack.id).collect();
    checked.report.unreferenced_packs = checked.packs.keys().filter(|id| !known.contains(id)).count() as u64;
    Ok(())
}

/// Leaves out the snapshots that are condemned, or freed, by now: what they need may be gone. Tells whether there were any.
fn leave_out_condemned(repository: &Repository, checked: &mut Checked) -> Result<bool> {
    let forgotten = repository.forgotten()?;
    let listed: HashSet<SnapshotId> = repository.store().list_ids(layout::SNAPSHOTS)?.into_iter().collect();
    let before = checked.records.snapshots.len();
    checked.records.snapshots.retain(|(id, _)| forgotten.get(id) != Some(&true) && listed.contains(id));
    Ok(checked.records.snapshots.len() < before)
}

/// Walks every tree. Where something is missing and snapshots were freed meanwhile, it walks again without them.
pub(super) fn check_trees(repository: &Repository, checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    leave_out_condemned(repository, checked)?;
    checked.ahead = None;
    let damage = checked.report.damage.len();
    loop {
        walk_trees(checked, monitor)?;
        if checked.report.damage.len() == damage || !leave_out_condemned(repository, checked)? {
            return Ok(());
        }
        checked.report.damage.truncate(damage);
        checked.bad_blobs.clear();
    }
}

/// Walks every tree, each node once, and looks every chunk up.
fn walk_trees(checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    checked.report.snapshots = checked.records.snapshots.len() as u64;
    (checked.report.nodes, checked.report.chunks) = (0, 0);
    let mut seen: HashSet<TreeId> = HashSet::new();
    let mut frontier: Vec<TreeId> = Vec::new();
    for (_, snapshot) in &checked.records.snapshots {
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
            checked.pool.install(|| frontier.par_iter().map(|&node| Step::look(reader, node)).collect());
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

/// Finds the snapshots and paths that damage touches.
pub(super) fn locate(checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    if checked.bad_blobs.is_empty() && checked.bad_contents.is_empty() {
        return Ok(());
    }
    let damage = std::mem::take(&mut checked.report.damage);
    let mut found = Found { damage, touched: std::mem::take(&mut checked.touched) };
    for (snapshot, record) in &checked.records.snapshots {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        locate_below(checked, *snapshot, record.root, b"", &mut found);
    }
    (checked.report.damage, checked.touched) = (found.damage, found.touched);
    Ok(())
}

/// Finds live snapshots that were made of those that damage touches and that it does not touch.
pub(super) fn find_repaired(repository: &Repository, checked: &mut Checked) -> Result<()> {
    let Checked { report, records, touched, .. } = checked;
    if touched.is_empty() {
        return Ok(());
    }
    let forgotten = repository.forgotten()?;
    for (id, snapshot) in &records.snapshots {
        if let Some(original) = snapshot.original
            && original.repository == repository.info().id
            && touched.contains(&original.snapshot)
            && !touched.contains(id)
            && !forgotten.contains_key(id)
        {
            report.repaired.insert(original.snapshot, *id);
        }
    }
    Ok(())
}

/// What damage touches, while it is looked for.
struct Found {
    damage: Vec<Damage>,
    touched: BTreeSet<SnapshotId>,
}

impl Found {
    fn touch(&mut self, number: usize, snapshot: SnapshotId, path: &[u8]) {
        self.touched.insert(snapshot);
        self.damage[number].touch(Affected { snapshot, path: lakebed_core::text::escape_path(path) });
    }
}

fn locate_below(checked: &Checked, snapshot: SnapshotId, root: TreeId, path: &[u8], found: &mut Found) {
    let bad = |node: TreeId| checked.bad_blobs.get(&node.into()).copied();
    if let Some(number) = bad(root) {
        found.touch(number, snapshot, path);
    }
    let mut entries = checked.reader.entries(root);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let full = join(path, &entry.name);
                for number in bad_parts(checked, &entry) {
                    found.touch(number, snapshot, &full);
                }
                if let Some(subtree) = entry.subtree {
                    locate_below(checked, snapshot, subtree, &full, found);
                }
            }
            // the directory lacks what this node held; what lies behind it is looked at all the same
            Err(_) => bad(entries.node()).into_iter().for_each(|number| found.touch(number, snapshot, path)),
        }
    }
}

/// Returns the damages that touch a file's content.
fn bad_parts(checked: &Checked, entry: &Entry) -> BTreeSet<usize> {
    let mut numbers: BTreeSet<usize> = checked.bad_contents.get(&entry.content).copied().into_iter().collect();
    let mut note = |id: BlobId| numbers.extend(checked.bad_blobs.get(&id));
    match &entry.content {
        Content::None => {}
        Content::Chunk(id) => note((*id).into()),
        Content::Extents { extents, .. } => {
            for extent in extents {
                if let Extent::Data { id, .. } = extent {
                    note((*id).into());
                }
            }
        }
        Content::Indirect { root, .. } => {
            // node by node: what lies behind a damaged one is looked at all the same
            let mut seen = HashSet::from([*root]);
            let mut nodes = vec![*root];
            while let Some(id) = nodes.pop() {
                note(id.into());
                if let Ok(node) = checked.reader.node(id) {
                    let below = |node| nodes.extend(Some(node).filter(|node| seen.insert(*node)));
                    node.references(below, |chunk, _| note(chunk.into()));
                }
            }
        }
    }
    numbers
}
