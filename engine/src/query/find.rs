//! Finding a path or pattern in every snapshot: when did it appear, change, go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use lakebed_core::id::{SnapshotId, TreeId};
use lakebed_core::record::tree::Entry;
use lakebed_core::time::Timestamp;

use super::content::is_same_content;
use super::list::join;
use crate::error::{Error, Result};
use crate::repository::{BlobReader, SnapshotInfo};

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// Paths or globs. One with a `/` is matched against whole paths, one without against names. `*` stays within a
    /// name, `**` does not.
    pub patterns: Vec<String>,
    /// Letters match in either case.
    pub ignore_case: bool,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// The first snapshot that has it, or has it again.
    Appeared,
    /// Its content, target or kind differs from the snapshot before.
    Changed,
    /// The first snapshot that does not have it any more.
    Gone,
}

/// What happened to a path, where and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The path.
    pub path: Vec<u8>,
    /// What happened.
    pub occurrence: Occurrence,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its time.
    pub time: Timestamp,
    /// The entry, as it was after what happened, or before it was gone.
    pub entry: Entry,
}

struct Matcher {
    glob: GlobMatcher,
    whole_path: bool,
}

fn matchers(options: &FindOptions) -> Result<Vec<Matcher>> {
    let compile = |pattern: &String| {
        let whole_path = pattern.trim_end_matches('/').contains('/');
        let glob = GlobBuilder::new(pattern.trim_matches('/'))
            .literal_separator(true)
            .case_insensitive(options.ignore_case)
            .build()
            .map_err(|error| Error::Argument {
                what: "The pattern",
                value: pattern.clone(),
                why: error.kind().to_string(),
            })?;
        Ok(Matcher { glob: glob.compile_matcher(), whole_path })
    };
    options.patterns.iter().map(compile).collect()
}

type Found = Arc<Vec<(Vec<u8>, Entry)>>;

/// Searches directories, and remembers those that the snapshot before had as well.
struct Search<'a> {
    reader: &'a BlobReader,
    matchers: Vec<Matcher>,
    before: HashMap<(TreeId, Vec<u8>), Found>,
    now: HashMap<(TreeId, Vec<u8>), Found>,
}

impl Search<'_> {
    /// Returns what matches below a directory, with whole paths.
    fn directory(&mut self, id: TreeId, path: &[u8]) -> Result<Found> {
        let key = (id, path.to_vec());
        if let Some(found) = self.now.get(&key) {
            return Ok(found.clone());
        }
        let mut all = Vec::new();
        match self.before.get(&key) {
            Some(found) => {
                let found = found.clone();
                self.now.insert(key, found.clone());
                return Ok(found);
            }
            None => {
                for entry in self.reader.entries(id) {
                    let entry = entry?;
                    let full = join(path, &entry.name);
                    let below = entry.subtree.map(|subtree| self.directory(subtree, &full)).transpose()?;
                    if self.matches(&full, &entry.name) {
                        all.push((full, entry));
                    }
                    all.extend(below.iter().flat_map(|found| found.iter().cloned()));
                }
            }
        }
        let found = Arc::new(all);
        self.now.insert(key, found.clone());
        Ok(found)
    }

    fn matches(&self, path: &[u8], name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let os = std::ffi::OsStr::from_bytes;
        self.matchers.iter().any(|m| m.glob.is_match(os(if m.whole_path { path } else { name })))
    }
}

/// Searches snapshots, which must come oldest first. Snapshots of different hosts or sources are not compared with each
/// other.
///
/// # Errors
/// A pattern that is none; a tree that is missing or damaged.
pub fn find(reader: &BlobReader, snapshots: &[SnapshotInfo], options: &FindOptions) -> Result<Vec<Finding>> {
    let mut search = Search { reader, matchers: matchers(options)?, before: HashMap::new(), now: HashMap::new() };
    type Group = (String, Vec<String>);
    let mut groups: BTreeMap<Group, Vec<&SnapshotInfo>> = BTreeMap::new();
    for info in snapshots {
        let sources = info.snapshot.sources.iter().map(|source| source.uri.clone()).collect();
        groups.entry((info.snapshot.host.clone(), sources)).or_default().push(info);
    }
    let mut findings = Vec::new();
    for group in groups.values() {
        let mut known: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for info in group {
            let found = search.directory(info.snapshot.root, b"")?;
            search.before = std::mem::take(&mut search.now);
            let now: BTreeMap<Vec<u8>, Entry> = found.iter().cloned().collect();
            let mut note = |path: &[u8], occurrence, entry: &Entry| {
                let (snapshot, time) = (info.id, info.snapshot.time);
                findings.push(Finding { path: path.to_vec(), occurrence, snapshot, time, entry: entry.clone() });
            };
            for (path, entry) in &now {
                match known.get(path) {
                    None => note(path, Occurrence::Appeared, entry),
                    Some(before) if differs(reader, before, entry)? => note(path, Occurrence::Changed, entry),
                    Some(_) => {}
                }
            }
            for (path, entry) in known.iter().filter(|(path, _)| !now.contains_key(*path)) {
                note(path, Occurrence::Gone, entry);
            }
            known = now;
        }
    }
    findings.sort_by(|a, b| (&a.path, a.time).cmp(&(&b.path, b.time)));
    Ok(findings)
}

fn differs(reader: &BlobReader, before: &Entry, after: &Entry) -> Result<bool> {
    // of a directory only its being there is of interest: what it holds is found by itself
    let is_same =
        before.kind == after.kind && before.link_target == after.link_target && is_same_content(reader, before, after)?;
    Ok(!is_same)
}
