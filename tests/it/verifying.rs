//! A verification of a remote medium: it asks for little twice, and says what lies there, not what this machine remembers.

use std::path::PathBuf;
use std::sync::Arc;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::PackId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::{Monitor, Progress};
use lakebed_engine::core::pack::PackKind;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::verify::{ReadData, VerifyOptions, VerifyReport};
use lakebed_engine::{OpenOptions, Repository, Silent};
use lakebed_testkit::lax::{Faults, LaxStorage};
use lakebed_testkit::storage::CountingStorage;
use lakebed_testkit::tree::{Content, TreeSpec};
use tempfile::TempDir;

use crate::common::*;

/// A repository on a remote medium, with a machine that has written and knows all of it.
struct Remote {
    folder: TempDir,
    memory: MemoryStorage,
    storage: CountingStorage,
}

impl Remote {
    fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        let memory = MemoryStorage::new();
        let lax = LaxStorage::new(Arc::new(memory.clone()), "here", Faults::default());
        let remote = Self { folder, memory, storage: CountingStorage::new(Arc::new(lax)) };
        let init = init_options(Encryption::Aes256Gcm);
        let storage = Arc::new(remote.storage.clone());
        let repository = Repository::init(storage, &secret(), &init, &remote.options(u64::MAX)).unwrap();
        let tree = (0..3000).fold(TreeSpec::new(), |tree, n| {
            tree.file(format!("{}/{}/notebook-{n}.py", n % 7, n % 300), Content::random(n, 3000))
        });
        let source = remote.folder.path().join("source");
        tree.write(&source);
        backup(&repository, &[source]);
        remote.storage.take();
        remote
    }

    fn options(&self, copies_bytes: u64) -> OpenOptions {
        OpenOptions { cache_dir: Some(self.folder.path().join("cache")), copies_bytes, ..OpenOptions::default() }
    }

    fn open(&self, copies_bytes: u64) -> Repository {
        Repository::open(Arc::new(self.storage.clone()), &secret(), &self.options(copies_bytes)).unwrap()
    }

    fn verify(&self, read: ReadData, copies_bytes: u64) -> VerifyReport {
        let repository = self.open(copies_bytes);
        self.storage.take();
        repository.verify(&VerifyOptions { read, whole_files: false, threads: 2 }, &Silent).unwrap()
    }

    /// Returns the packs of a kind with their sizes.
    fn packs(&self, kind: PackKind) -> Vec<(PackId, u64)> {
        let packs = self.open(0).index(&Silent).unwrap().packs();
        packs.into_iter().filter(|pack| pack.kind == kind).map(|pack| (pack.id, pack.size_bytes)).collect()
    }

    fn pack_bytes(&self, kind: PackKind) -> u64 {
        self.packs(kind).iter().map(|(_, size)| size).sum()
    }

    /// Exchanges one byte of a pack.
    fn damage(&self, pack: PackId, at: usize) {
        let key = layout::pack(pack);
        let mut bytes = self.memory.get(&key).unwrap();
        bytes[at] ^= 1;
        self.memory.delete(&key).unwrap();
        self.memory.put(&key, &bytes).unwrap();
    }
}

#[test]
fn each_pack_is_asked_for_once_though_trees_are_walked_and_checked() {
    let remote = Remote::begin();
    let (trees, data) = (remote.pack_bytes(PackKind::Tree), remote.pack_bytes(PackKind::Data));
    assert!(trees > 100_000 && data > 5_000_000, "{trees} and {data} bytes");
    let report = remote.verify(ReadData::All, u64::MAX);
    assert!(report.is_good() && report.bytes_read == trees + data && report.nodes > 300, "{report:#?}");
    assert_eq!(remote.storage.take().read(layout::PACKS).bytes, trees + data);

    // so it is where only trees are walked, or some of the data read
    remote.verify(ReadData::None, u64::MAX);
    let read = remote.storage.take().read(layout::PACKS);
    assert_eq!((read.bytes, read.calls), (trees, remote.packs(PackKind::Tree).len() as u64));
    let budget = ReadData::Budget { time: None, bytes: Some(u64::MAX) };
    assert_eq!(remote.verify(budget, u64::MAX).bytes_read, trees + data);
    assert_eq!(remote.storage.take().read(layout::PACKS).bytes, trees + data);
}

#[test]
fn without_room_for_copies_it_is_verified_all_the_same() {
    let remote = Remote::begin();
    let bytes = remote.pack_bytes(PackKind::Tree) + remote.pack_bytes(PackKind::Data);
    let report = remote.verify(ReadData::All, 1000);
    assert!(report.is_good() && report.bytes_read == bytes, "{report:#?}");
    assert!(remote.storage.take().read(layout::PACKS).bytes > bytes);
}

/// This machine has copies of all trees, and they are good.
#[test]
fn a_tree_that_is_damaged_there_is_found_though_there_is_a_copy_here() {
    for read in [ReadData::All, ReadData::None] {
        let remote = Remote::begin();
        let (pack, size) = remote.packs(PackKind::Tree)[0];
        remote.damage(pack, size as usize / 2);
        let report = remote.verify(read.clone(), u64::MAX);
        let subjects: Vec<&str> = report.damage.iter().map(|damage| damage.subject.as_str()).collect();
        assert!(!report.is_good() && report.damage.iter().any(|damage| !damage.affected.is_empty()), "{subjects:?}");
        let names_it = subjects.contains(&layout::pack(pack).as_str());
        assert_eq!(names_it, read == ReadData::All, "{subjects:?}");
    }
}

#[test]
fn a_pack_of_trees_that_is_gone_is_damage() {
    let remote = Remote::begin();
    let (pack, _) = remote.packs(PackKind::Tree)[0];
    remote.memory.delete(&layout::pack(pack)).unwrap();
    let report = remote.verify(ReadData::All, u64::MAX);
    assert!(report.damage.iter().any(|damage| damage.subject == layout::pack(pack).as_str()), "{:#?}", report.damage);
}

/// Damages every copy that there is, again and again.
struct Spoil(PathBuf);

impl Monitor for Spoil {
    fn advance(&self, _: Progress) {
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if let Ok(mut bytes) = std::fs::read(entry.path())
                    && !bytes.is_empty()
                {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    let _ = std::fs::write(entry.path(), bytes);
                }
            }
        }
    }
}

/// What lies in the cache folder may be damaged too, before and while it is used, and says nothing of the repository.
#[test]
fn copies_that_are_damaged_here_harm_nothing() {
    let remote = Remote::begin();
    let repository = remote.open(u64::MAX);
    let objects = remote.folder.path().join("cache").join(repository.info().id.to_string()).join("objects");
    assert!(objects.join("packs").is_dir());
    let spoil = Spoil(objects.join("packs"));
    spoil.advance(Progress::default());
    let options = VerifyOptions { read: ReadData::All, whole_files: false, threads: 2 };
    let report = repository.verify(&options, &spoil).unwrap();
    assert!(report.is_good(), "{report:#?}");
}
