//! The index against a plain map of what it should say.

use std::collections::{BTreeMap, BTreeSet};

use lakebed_core::id::{RepositoryId, SessionId};
use lakebed_core::pack::{BlobInfo, PackDirectory};
use proptest::prelude::*;

use super::*;

const REPOSITORY: [u8; 32] = [1; 32];

fn open(folder: &Path) -> Index {
    let Ok(rocks) = Rocks::open(folder, RepositoryId::new(REPOSITORY), 8 << 20, false) else { panic!("no RocksDB") };
    let Ok(index) = Index::load(rocks) else { panic!("it cannot be read") };
    index
}

fn blob(number: u8) -> BlobId {
    BlobId::new([number; 32])
}

/// A pack of frames of chunks, each chunk by its number.
fn pack(number: u8, frames: &[Vec<u8>]) -> PackInfo {
    let frame = |(at, chunks): (usize, &Vec<u8>)| FrameInfo {
        number: at as u32,
        frame_len: 100 + u32::from(number) + at as u32,
        blobs: chunks.iter().map(|&chunk| BlobInfo { id: blob(chunk), length: 10 + u32::from(chunk) }).collect(),
    };
    let directory = PackDirectory {
        kind: if number.is_multiple_of(3) { PackKind::Tree } else { PackKind::Data },
        session: SessionId::new([9; 32]),
        salt: [number; 32],
        frames: frames.iter().enumerate().map(frame).collect(),
    };
    PackInfo { id: PackId::new([number; 32]), size_bytes: 1000 + u64::from(number), directory }
}

/// What is there, said plainly: packs by name, and those that were removed.
#[derive(Default)]
struct Plain {
    packs: BTreeMap<PackId, PackInfo>,
    removed: BTreeSet<PackId>,
}

impl Plain {
    fn places(&self, id: BlobId) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        for pack in self.packs.values() {
            let mut frame_offset = 0;
            for frame in &pack.directory.frames {
                let mut offset = 0;
                for chunk in &frame.blobs {
                    if chunk.id == id {
                        let (pack, frame_len, length) = (pack.id, frame.frame_len, chunk.length);
                        let place = Location { pack, frame_offset, frame_len, offset, length };
                        places.insert(format!("{place:?}"));
                    }
                    offset += chunk.length;
                }
                frame_offset += frame.frame_len;
            }
        }
        places
    }

    fn assert_says(&self, index: &Index) {
        for id in (0..20).map(blob) {
            let found = index.lookup_all(&id).unwrap();
            let all: BTreeSet<String> = found.iter().map(|place| format!("{place:?}")).collect();
            assert_eq!(all, self.places(id), "{id}");
            assert_eq!(index.lookup(&id).unwrap().is_some(), !all.is_empty());
            let packs: BTreeSet<PackId> = index.packs_with(&id).unwrap().into_iter().collect();
            assert_eq!(packs, found.iter().map(|place| place.pack).collect());
        }
        let known: BTreeSet<PackId> = index.packs().into_iter().map(|entry| entry.id).collect();
        assert_eq!(known, self.packs.keys().copied().collect());
        assert!(self.removed.iter().all(|id| index.is_removed(id)));
    }
}

#[derive(Debug, Clone)]
enum Change {
    /// A segment describes these packs.
    Add(Vec<u8>),
    /// A segment removes these.
    Remove(Vec<u8>),
    /// The process ends, and another one opens the index.
    Reopen,
}

fn any_change() -> impl Strategy<Value = Change> {
    let numbers = || prop::collection::vec(1u8..12, 1..5);
    prop_oneof![
        6 => numbers().prop_map(Change::Add),
        2 => numbers().prop_map(Change::Remove),
        1 => Just(Change::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Packs come and go in any order, described more than once and after they were removed.
    #[test]
    fn an_index_says_what_a_plain_map_says(
        contents in prop::collection::vec(prop::collection::vec(prop::collection::vec(0u8..20, 1..4), 0..4), 12),
        changes in prop::collection::vec(any_change(), 1..14),
    ) {
        let folder = tempfile::TempDir::new().unwrap();
        let Ok(memory) = Index::load(None) else { panic!("nothing to load") };
        let mut rocks = open(folder.path());
        let mut plain = Plain::default();
        for (segment, change) in (1u8..).zip(changes) {
            let segment = SegmentId::new([segment; 32]);
            match change {
                Change::Add(numbers) => {
                    let packs: Vec<PackInfo> =
                        numbers.iter().map(|&number| pack(number, &contents[usize::from(number)])).collect();
                    for pack in &packs {
                        if !plain.removed.contains(&pack.id) {
                            plain.packs.insert(pack.id, pack.clone());
                        }
                    }
                    [&memory, &rocks].into_iter().for_each(|index| index.apply(segment, &packs));
                }
                Change::Remove(numbers) => {
                    let packs: Vec<PackId> = numbers.iter().map(|&number| PackId::new([number; 32])).collect();
                    plain.packs.retain(|id, _| !packs.contains(id));
                    plain.removed.extend(&packs);
                    let removal = Removal { packs, replaced: Vec::new() };
                    [&memory, &rocks].into_iter().for_each(|index| index.apply_removal(segment, &removal));
                }
                Change::Reopen => {
                    rocks.flush().unwrap();
                    drop(rocks);
                    rocks = open(folder.path());
                }
            }
        }
        plain.assert_says(&memory);
        plain.assert_says(&rocks);
        rocks.flush().unwrap();
        drop(rocks);
        plain.assert_says(&open(folder.path()));
    }
}

/// Each night adds a little, and the index is closed before RocksDB has joined anything beside.
#[test]
fn many_short_runs_leave_few_files() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut plain = Plain::default();
    for night in 1..=60 {
        let rocks = open(folder.path());
        let pack = pack(night, &[vec![night]]);
        rocks.apply(SegmentId::new([night; 32]), std::slice::from_ref(&pack));
        rocks.flush().unwrap();
        plain.packs.insert(pack.id, pack);
    }
    plain.assert_says(&open(folder.path()));
    let files = walk(folder.path()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "sst")).count();
    assert!(files < 60, "{files}: as many as there were nights, or more");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
