//! Snapshots of one repository in another: the same in everything, whatever keys and chunkers the two have.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::backup::{BackupOptions, ParentChoice};
use lakebed_engine::copy::{CopiedSnapshot, CopyOptions, CopyOutcome, CopyReport, CopySelection, copy};
use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::frame::FrameKind;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{PackId, TreeId};
use lakebed_engine::core::layout;
use lakebed_engine::core::pack::{PackKind, Removal, encode_removal};
use lakebed_engine::core::record::session::{Outcome, Run};
use lakebed_engine::core::record::snapshot::Original;
use lakebed_engine::core::record::tree::{Content as Bytes, Entry, EntryKind, Xattr};
use lakebed_engine::core::source::{Fingerprint, Listing, Source, SourceDir, SourceError, SourceFile};
use lakebed_engine::core::storage::{Storage, StorageErrorKind};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::query::{Listed, entry_at, walk, write_content};
use lakebed_engine::repository::{SnapshotFilter, SnapshotInfo};
use lakebed_engine::source::Mount;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::{Error, InitOptions, OpenOptions, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::storage::{CountingStorage, Fault, FaultStorage, Operation};
use lakebed_testkit::strategies::{arb_changes, arb_tree};
use lakebed_testkit::tree::{Content, Item, ItemKind, TreeSpec, apply_changes};
use proptest::prelude::*;

use crate::common::*;

/// So small that a file of 100,000 bytes has a content list of several nodes.
fn tiny_chunks() -> ChunkerParameters {
    ChunkerParameters {
        small_file_bytes: 128,
        min_bytes: 64,
        average_bytes: 256,
        max_bytes: 512,
        ..ChunkerParameters::default()
    }
}

/// A repository in memory, its storage at hand.
struct Side {
    storage: Arc<dyn Storage>,
    repository: Repository,
}

impl Side {
    fn new(encryption: Encryption, chunker: ChunkerParameters) -> Self {
        Self::over(Arc::new(MemoryStorage::new()), encryption, chunker)
    }

    fn over(storage: Arc<dyn Storage>, encryption: Encryption, chunker: ChunkerParameters) -> Self {
        let init = InitOptions { chunker, ..init_options(encryption) };
        let repository = Repository::init(storage.clone(), &secret(), &init, &OpenOptions::default()).unwrap();
        Self { storage, repository }
    }

    fn encrypted() -> Self {
        Self::new(Encryption::Aes256Gcm, ChunkerParameters::default())
    }

    fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.repository.catalogue().unwrap().snapshots
    }

    /// Takes packs away, as a broken disk does.
    fn lose_packs(&self, kind: Option<PackKind>) -> Vec<PackId> {
        let packs = self.repository.index(&Silent).unwrap().packs();
        let lost: Vec<_> = packs.iter().filter(|pack| kind.is_none_or(|kind| kind == pack.kind)).collect();
        lost.iter().for_each(|pack| self.storage.delete(&layout::pack(pack.id)).unwrap());
        lost.iter().map(|pack| pack.id).collect()
    }

    /// Notes that packs are gone, as a repair does: the index knows nothing of them any more.
    fn give_up(&self, packs: &[PackId]) {
        let store = self.repository.store();
        let random = self.repository.random();
        let removal = encode_removal(&Removal { packs: packs.to_vec(), replaced: Vec::new() });
        store.put_hashed(FrameKind::RemovalSegment, layout::INDEX, &removal, random).unwrap();
    }
}

fn copy_options() -> CopyOptions {
    CopyOptions { host: "copier".into(), threads: 2, ..CopyOptions::default() }
}

fn try_copy(from: &Side, to: &Side, options: &CopyOptions) -> lakebed_engine::Result<CopyReport> {
    copy(&from.repository, &to.repository, options, &|_| {}, &Silent)
}

/// Copies everything and returns what became of each snapshot.
fn copy_all(from: &Side, to: &Side) -> Vec<CopiedSnapshot> {
    let report = try_copy(from, to, &copy_options()).unwrap();
    assert!(report.damaged.is_empty());
    report.snapshots
}

fn outcomes(copied: &[CopiedSnapshot]) -> Vec<CopyOutcome> {
    copied.iter().map(|copied| copied.outcome).collect()
}

fn copy_of(to: &Side, copied: &CopiedSnapshot) -> SnapshotInfo {
    to.snapshots().into_iter().find(|info| Some(info.id) == copied.copy).unwrap()
}

/// A tree as it is, without the names that each repository has for the parts.
fn tree_of(side: &Side, root: TreeId) -> BTreeMap<Vec<u8>, (Entry, String)> {
    tree_without(side, root, None)
}

/// The same but for one path, which need not be readable.
fn tree_without(side: &Side, root: TreeId, left_out: Option<&str>) -> BTreeMap<Vec<u8>, (Entry, String)> {
    let reader = side.repository.reader(&Silent).unwrap();
    let mut tree = BTreeMap::new();
    walk(&reader, root, b"", &mut |path, entry| {
        if left_out.is_some_and(|left_out| left_out.as_bytes() == path) {
            return Ok(Listed::Descend);
        }
        let mut content = Vec::new();
        if entry.kind == EntryKind::File {
            write_content(&reader, entry, "x", &mut content)?;
        }
        let hash = lakebed_engine::core::hash::object_hash(&content).to_hex().to_string();
        let bare = Entry { content: Bytes::None, subtree: None, ..entry.clone() };
        tree.insert(path.to_vec(), (bare, hash));
        Ok(Listed::Descend)
    })
    .unwrap();
    tree
}

#[track_caller]
fn assert_same(from: &Side, original: &SnapshotInfo, to: &Side, copy: &SnapshotInfo) {
    assert_eq!(tree_of(from, original.snapshot.root), tree_of(to, copy.snapshot.root));
}

/// One of everything that a file system can hold.
fn everything() -> TreeSpec {
    TreeSpec::new()
        .file("empty", b"".to_vec())
        .with("script", Item::file(b"#!/bin/sh\n".to_vec()).mode(0o4755).mtime(-7, 999_999_999))
        .with("noted", Item::file(b"x".to_vec()).xattr("user.note", &b"\x00\xff"[..]))
        .file(&b"odd \xff\n name"[..], b"y".to_vec())
        .file("many chunks", Content::random(1, 100_000))
        .file("large", Content::Generated { seed: 2, length: 3 << 20, compressibility: 60 })
        .file("hole", Content::hole(3 << 20))
        .file(
            "holes",
            Content::Sparse { seed: 3, length: 5 << 20, data: vec![1 << 20..(1 << 20) + 70_000, 4 << 20..5 << 20] },
        )
        .file("ends in a hole", Content::Sparse { seed: 4, length: 2 << 20, data: vec![0..5000, 900_000..900_001] })
        .file("a/b/c/deep", b"deep".to_vec())
        .directory("nothing")
        .with("pipe", Item::new(ItemKind::Fifo))
        .symlink("link", "a/b")
        .hard_link("same", "large")
        .hard_link("a/same", "large")
}

#[test]
fn everything_comes_over_whatever_keys_and_chunkers_the_two_have() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    everything().write(&source);
    let expected = snapshot_of(&source);
    let kinds = [Encryption::Aes256Gcm, Encryption::None];
    for (number, (from, to)) in kinds.iter().flat_map(|from| kinds.iter().map(move |to| (from, to))).enumerate() {
        let chunkers = [ChunkerParameters::default(), tiny_chunks()];
        let (one, other) = (&chunkers[number % 2], &chunkers[(number / 2 + 1) % 2]);
        let (a, b) = (Side::new(*from, one.clone()), Side::new(*to, other.clone()));
        backup(&a.repository, std::slice::from_ref(&source));
        let copied = copy_all(&a, &b);
        assert_eq!(outcomes(&copied), [CopyOutcome::Copied]);
        let copy = copy_of(&b, &copied[0]);
        assert_same(&a, &a.snapshots()[0], &b, &copy);
        assert_good(&b.repository);
        let restored = restore_to(&b.repository, &copy, &folder.path().join(format!("out{number}")), &source);
        assert_tree_is(&expected, &restored, &CompareOptions { check_holes: true, ..CompareOptions::default() });
        // and from there to a third, which has the first one's chunks
        let c = Side::new(*from, one.clone());
        let third = copy_of(&c, &copy_all(&b, &c)[0]);
        assert_same(&a, &a.snapshots()[0], &c, &third);
        lakebed_testkit::remove_all(&folder.path().join(format!("out{number}")));
    }
    lakebed_testkit::remove_all(folder.path());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Three nights of random changes, copied after each night or all at once: every copy is its original.
    #[test]
    fn every_night_is_copied(tree in arb_tree(), first in arb_changes(), second in arb_changes(), nightly: bool) {
        let folder = tempfile::TempDir::new().unwrap();
        let source = folder.path().join("source");
        let (a, b) = (Side::new(Encryption::Aes256Gcm, tiny_chunks()), Side::encrypted());
        tree.write(&source);
        for changes in [Vec::new(), first, second] {
            apply_changes(&source, &changes);
            backup(&a.repository, std::slice::from_ref(&source));
            if nightly {
                copy_all(&a, &b);
            }
        }
        let copied = copy_all(&a, &b);
        for copied in &copied {
            assert_same(&a, &copied.original, &b, &copy_of(&b, copied));
        }
        prop_assert_eq!(b.snapshots().len(), 3);
        assert_good(&b.repository);
        lakebed_testkit::remove_all(folder.path());
    }
}

#[test]
fn the_record_of_a_copy_is_that_of_its_original_and_says_whose_copy_it_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let (a, b) = (Side::encrypted(), Side::encrypted());
    let source = folder.path().join("source");
    TreeSpec::new().file("a", b"a".to_vec()).write(&source);
    let options = BackupOptions {
        time: Some(Timestamp { secs: 1_700_000_000, nanos: 5 }),
        tags: vec!["nightly".into()],
        tool: "another tool 7".into(),
        ..options()
    };
    backup_with(&a.repository, &[source, folder.path().join("missing")], &options, &Default::default());
    a.repository.annotate(&a.snapshots()[0], vec!["kept".into()], "before the move".into()).unwrap();
    let original = a.snapshots().remove(0);
    assert_eq!(original.snapshot.failures.len(), 1);
    let copied = copy_all(&a, &b).remove(0);
    // what the original lacks is no failure of the copy
    assert!(copied.failures.is_empty());
    let copy = copy_of(&b, &copied);
    let a_id = a.repository.config().repository_id;
    assert_eq!(copy.snapshot.original, Some(Original { repository: a_id, snapshot: original.id }));
    assert_eq!(copy.snapshot.session, copy.id);
    assert_eq!(
        (copy.snapshot.tags.clone(), copy.snapshot.description.as_str()),
        (vec!["kept".to_owned()], "before the move")
    );
    let mut expected = original.snapshot.clone();
    expected.original = copy.snapshot.original;
    expected.session = copy.id;
    expected.root = copy.snapshot.root;
    for snapshot in [&mut expected, &mut copy.snapshot.clone()] {
        assert!(snapshot.summary.bytes_stored > 0);
    }
    expected.summary.bytes_stored = copy.snapshot.summary.bytes_stored;
    assert_eq!(copy.snapshot, expected);
    let run: Run = b.repository.store().read_record(&layout::run(copy.id)).unwrap();
    assert_eq!((run.command.as_str(), run.outcome, run.process.host.as_str()), ("copy", Outcome::Done, "copier"));
    // a backup that goes on in the copy's repository has the copy as its parent
    assert_eq!(outcomes(&copy_all(&a, &b)), [CopyOutcome::Present]);
    let folder_id = |side: &Side| side.snapshots()[0].snapshot.summary.started;
    assert_eq!(folder_id(&a), folder_id(&b));
}

#[test]
fn a_second_copy_reads_only_what_changed() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    let mut tree = TreeSpec::new();
    for number in 0..400u64 {
        tree = tree.file(format!("d{:02}/{number}", number / 20), Content::random(number, 10_000));
    }
    tree.write(&source);
    let counting = CountingStorage::new(Arc::new(MemoryStorage::new()));
    let a = Side::over(Arc::new(counting.clone()), Encryption::Aes256Gcm, ChunkerParameters::default());
    let b = Side::encrypted();
    backup(&a.repository, std::slice::from_ref(&source));
    copy_all(&a, &b);
    std::fs::write(source.join("d07/new"), "new").unwrap();
    std::fs::remove_file(source.join("d09/180")).unwrap();
    backup(&a.repository, std::slice::from_ref(&source));
    counting.take();
    let copied = copy_all(&a, &b);
    assert_eq!(outcomes(&copied), [CopyOutcome::Present, CopyOutcome::Copied]);
    let copy = copy_of(&b, &copied[1]);
    assert_eq!(copy.snapshot.parent, copied[0].copy);
    assert_eq!((copied[1].summary.bytes_read, copied[1].summary.bytes_new), (3, 3));
    // one frame of data, and the nodes of the folders that differ
    let read = counting.take().read("packs/");
    assert!(read.calls < 12 && read.bytes < 200_000, "{read:?}");
    // counts are those of the original, also of folders that were taken over whole
    assert_eq!(copy.snapshot.summary.files, 400);
    assert_same(&a, &a.snapshots()[1], &b, &copy);

    // and a snapshot in which nothing changed costs a few nodes
    backup(&a.repository, std::slice::from_ref(&source));
    counting.take();
    let copied = copy_all(&a, &b);
    assert_eq!((outcomes(&copied)[2], copied[2].summary.bytes_read), (CopyOutcome::Copied, 0));
    assert!(counting.take().read("packs/").calls < 6);
    assert_same(&a, &a.snapshots()[2], &b, &copy_of(&b, &copied[2]));
    assert_good(&b.repository);
}

/// A folder of files that all say the same of themselves, whatever is in them.
#[derive(Clone)]
struct Masked {
    files: BTreeMap<&'static str, &'static str>,
    /// What each entry has beside its name.
    mask: Entry,
}

impl Masked {
    fn new(files: &[(&'static str, &'static str)]) -> Self {
        let mut mask = Entry::new("x", EntryKind::File);
        (mask.mode, mask.uid, mask.gid, mask.inode, mask.size) = (0o640, 70_000, 80_000, 99, 4);
        (mask.mtime, mask.ctime) = (Timestamp { secs: 1000, nanos: 1 }, Timestamp { secs: 1001, nanos: 2 });
        Self { files: files.iter().copied().collect(), mask }
    }

    fn save(&self, side: &Side, options: &BackupOptions) {
        let mount = Mount::new(vec![b"top".to_vec()], Arc::new(self.clone()));
        side.repository.backup(vec![mount], options, &Silent).unwrap();
    }
}

impl Source for Masked {
    fn uri(&self) -> String {
        "test:masked".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        let mut entry = Entry::new("root", EntryKind::Directory);
        entry.attributes = vec![("table".into(), b"gold".to_vec())];
        Ok(entry)
    }

    fn open_dir(&self, _: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        Ok(Box::new(self.clone()))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "root", std::io::ErrorKind::IsADirectory.into()))
    }
}

impl SourceDir for Masked {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let entry = |name: &&'static str| Ok(Entry { name: name.as_bytes().to_vec(), ..self.mask.clone() });
        Ok(Box::new(self.files.keys().map(entry)))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let name = std::str::from_utf8(&entry.name).unwrap();
        let print = Fingerprint { size: 4, mtime: entry.mtime, ctime: entry.ctime, inode: entry.inode };
        Ok(Box::new(Unmasked { content: self.files[name].as_bytes(), print }))
    }
}

struct Unmasked {
    content: &'static [u8],
    print: Fingerprint,
}

impl SourceFile for Unmasked {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        Ok(std::io::Read::read(&mut self.content, buffer).unwrap())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        Ok((offset < 4).then_some(offset..4))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        Ok(self.print)
    }
}

fn content_of(side: &Side, info: &SnapshotInfo, name: &str) -> String {
    let reader = side.repository.reader(&Silent).unwrap();
    let entry = entry_at(&reader, info, &[b"top".to_vec(), name.as_bytes().to_vec()]).unwrap();
    let mut content = Vec::new();
    write_content(&reader, &entry, name, &mut content).unwrap();
    String::from_utf8(content).unwrap()
}

/// A file whose content changed and whose size, times and number did not: a forced backup finds out, and so must a copy.
#[test]
fn equal_fingerprints_are_not_taken_for_equal_content() {
    let (a, b) = (Side::encrypted(), Side::encrypted());
    let forced = BackupOptions { parent: ParentChoice::None, ..options() };
    Masked::new(&[("a", "one."), ("b", "same")]).save(&a, &forced);
    Masked::new(&[("a", "two."), ("b", "same")]).save(&a, &forced);
    let [first, second] = a.snapshots().try_into().unwrap();
    assert_eq!((content_of(&a, &first, "a"), content_of(&a, &second, "a")), ("one.".into(), "two.".into()));
    let copied = copy_all(&a, &b);
    for (copied, expected) in copied.iter().zip(["one.", "two."]) {
        let copy = copy_of(&b, copied);
        assert_eq!(content_of(&b, &copy, "a"), expected);
        assert_same(&a, &copied.original, &b, &copy);
    }
    assert_eq!((copied[1].summary.bytes_read, copied[1].summary.files_unmodified), (4, 1));
}

/// Attributes of the source, doubtful entries, fields of a newer version: what a backup of local files never has.
#[test]
fn metadata_is_taken_from_the_original_even_where_nothing_seems_to_have_changed() {
    let (a, b) = (Side::encrypted(), Side::encrypted());
    let forced = BackupOptions { parent: ParentChoice::None, ..options() };
    let mut source = Masked::new(&[("a", "one.")]);
    source.mask.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"1".to_vec() }];
    source.mask.attributes = vec![("etag".into(), b"\xff".to_vec())];
    source.mask.unknown = vec![(9, b"newer".to_vec())];
    source.save(&a, &forced);
    source.mask.xattrs[0].value = b"2".to_vec();
    source.mask.inconsistent = true;
    source.save(&a, &forced);
    source.mask.xattrs.clear();
    source.save(&a, &forced);
    let copied = copy_all(&a, &b);
    for copied in &copied {
        assert_same(&a, &copied.original, &b, &copy_of(&b, copied));
    }
    // the same content each time, doubtful or not
    assert_eq!((copied[1].summary.bytes_read, copied[2].summary.bytes_read), (0, 0));
}

/// Two names of one file, of which one was read before it changed unseen.
#[test]
fn names_of_one_file_may_differ_in_content() {
    let (a, b) = (Side::encrypted(), Side::encrypted());
    let mut source = Masked::new(&[("a", "one.")]);
    source.mask.hard_link_device = Some(5);
    source.save(&a, &options());
    source.files.insert("b", "two.");
    source.save(&a, &options());
    let second = a.snapshots().remove(1);
    assert_eq!((content_of(&a, &second, "a"), content_of(&a, &second, "b")), ("one.".into(), "two.".into()));
    let options = CopyOptions { selection: CopySelection::These(vec![second.id]), ..copy_options() };
    let copied = try_copy(&a, &b, &options).unwrap().snapshots.remove(0);
    assert_same(&a, &second, &b, &copy_of(&b, &copied));
}

#[test]
fn a_copy_that_was_interrupted_is_continued() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    let mut tree = TreeSpec::new();
    for number in 0..600u64 {
        tree = tree.file(format!("d{:02}/{number}", number / 30), Content::random(number, 10_000));
    }
    tree.write(&source);
    let (a, b) = (Side::encrypted(), Side::encrypted());
    backup(&a.repository, std::slice::from_ref(&source));
    let stop = StopAfter::new(400);
    let error = copy(&a.repository, &b.repository, &copy_options(), &|_| {}, &stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error:?}");
    assert!(b.snapshots().is_empty());
    let session = b.repository.sessions().unwrap().remove(0);
    let (id, original) = (a.repository.config().repository_id, &a.snapshots()[0]);
    assert_eq!(session.newest.sources[0].uri, format!("lakebed:{id}/{}", original.id));
    let copied = copy_all(&a, &b).remove(0);
    assert!(copied.resumed);
    assert!(copied.summary.bytes_read < 300 * 10_000, "{:?}", copied.summary);
    assert_same(&a, original, &b, &copy_of(&b, &copied));
    assert!(b.repository.sessions().unwrap().is_empty());
    assert_good(&b.repository);
}

fn small_tree(folder: &Path) -> PathBuf {
    let source = folder.join("source");
    let mut tree = TreeSpec::new().file("large", Content::random(77, 2 << 20));
    for number in 0..40u64 {
        tree = tree.file(format!("d{}/{number}", number % 4), Content::random(number, 3000));
    }
    tree.write(&source);
    source
}

/// Whatever is lost on either side comes back from the other, under the old snapshots.
#[test]
fn each_side_heals_the_other() {
    for chunker in [ChunkerParameters::default(), tiny_chunks()] {
        for kind in [Some(PackKind::Data), Some(PackKind::Tree), None] {
            for noticed in [false, true] {
                let folder = tempfile::TempDir::new().unwrap();
                let source = small_tree(folder.path());
                let a = Side::new(Encryption::Aes256Gcm, chunker.clone());
                let b = Side::new(Encryption::None, ChunkerParameters::default());
                backup(&a.repository, std::slice::from_ref(&source));
                std::fs::write(source.join("d1/new"), "new").unwrap();
                backup(&a.repository, std::slice::from_ref(&source));
                copy_all(&a, &b);
                let trees: Vec<_> = a.snapshots().iter().map(|info| tree_of(&a, info.snapshot.root)).collect();
                for (broken, other) in [(&b, &a), (&a, &b)] {
                    let before = broken.snapshots();
                    let lost = broken.lose_packs(kind);
                    if noticed {
                        broken.give_up(&lost);
                    }
                    assert!(!verify_all(&broken.repository).is_good());
                    let copied = copy_all(other, broken);
                    assert_eq!(outcomes(&copied)[0], CopyOutcome::Healed, "{kind:?}");
                    assert!(copied.iter().all(|copied| copied.failures.is_empty()));
                    // no snapshot came or went
                    assert_eq!(broken.snapshots(), before);
                    broken.give_up(&lost);
                    assert_good(&broken.repository);
                    for (info, tree) in before.iter().zip(&trees) {
                        assert_eq!(&tree_of(broken, info.snapshot.root), tree);
                    }
                    assert_eq!(outcomes(&copy_all(other, broken)), [CopyOutcome::Present; 2]);
                }
            }
        }
    }
}

/// What the source has lost is listed in the copy, which is completed as soon as the source is whole again.
#[test]
fn damage_in_the_source_makes_the_copy_partial() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    TreeSpec::new()
        .file("broken", Content::random(1, 3 << 20))
        .file("whole", b"whole".to_vec())
        .file("sub/whole", Content::random(2, 400_000))
        .write(&source);
    let (a, b) = (Side::encrypted(), Side::encrypted());
    // packs by what is in them: the large file's is the largest
    backup(&a.repository, std::slice::from_ref(&source));
    let original = a.snapshots().remove(0);
    let reader = a.repository.reader(&Silent).unwrap();
    let mut path: Vec<Vec<u8>> =
        source.strip_prefix("/").unwrap().iter().map(|name| name.as_encoded_bytes().to_vec()).collect();
    path.push(b"broken".to_vec());
    let Bytes::Extents { extents, .. } = entry_at(&reader, &original, &path).unwrap().content else { panic!() };
    let lakebed_engine::core::record::tree::Extent::Data { id, .. } = extents[3] else { panic!() };
    let place = reader.index().lookup(&id.into()).unwrap().unwrap();
    let key = layout::pack(place.pack);
    let good = a.storage.get(&key).unwrap();
    let mut bad = good.clone();
    bad[place.frame_offset as usize + 100] ^= 1;
    let replace = |bytes: &[u8]| {
        a.storage.delete(&key).unwrap();
        a.storage.put(&key, bytes).unwrap();
    };
    replace(&bad);

    let report = try_copy(&a, &b, &copy_options()).unwrap();
    assert!(!report.is_complete());
    let copied = &report.snapshots[0];
    let path = source.strip_prefix("/").unwrap().join("broken").display().to_string();
    let failed: Vec<_> = copied.failures.iter().map(|failure| failure.path.clone()).collect();
    assert_eq!((copied.outcome, failed), (CopyOutcome::Copied, vec![path.clone()]));
    assert!(copied.failures[0].reason.contains("is damaged at offset"), "{:?}", copied.failures);
    let partial = copy_of(&b, copied);
    assert_eq!(partial.snapshot.failures, copied.failures);
    assert_eq!((partial.snapshot.summary.files, partial.snapshot.summary.bytes), (2, 400_005));
    let mut expected = tree_without(&a, original.snapshot.root, Some(&path));
    assert_eq!(tree_of(&b, partial.snapshot.root), expected);
    assert_good(&b.repository);

    // as long as nothing is better, there is no second partial copy
    let again = copy_all(&a, &b).remove(0);
    assert_eq!((again.outcome, again.copy, again.failures.len()), (CopyOutcome::Present, Some(partial.id), 1));
    assert_eq!(b.snapshots().len(), 1);

    // the next night is compared with nothing that is not whole
    std::fs::write(source.join("new"), "new").unwrap();
    replace(&good);
    backup(&a.repository, std::slice::from_ref(&source));
    let copied = copy_all(&a, &b);
    assert_eq!(outcomes(&copied), [CopyOutcome::Copied; 2]);
    assert!(copied.iter().all(|copied| copied.failures.is_empty()));
    // of the first night, only what was missing was read
    assert_eq!(copied[0].summary.bytes_read, 3 << 20);
    expected = tree_of(&a, original.snapshot.root);
    assert_eq!(tree_of(&b, copy_of(&b, &copied[0]).snapshot.root), expected);
    assert_same(&a, &a.snapshots()[1], &b, &copy_of(&b, &copied[1]));
    assert_eq!(outcomes(&copy_all(&a, &b)), [CopyOutcome::Present; 2]);
    assert_good(&b.repository);
}

#[test]
fn a_snapshot_whose_tree_is_lost_does_not_keep_the_others_from_being_copied() {
    let folder = tempfile::TempDir::new().unwrap();
    let (a, b) = (Side::encrypted(), Side::encrypted());
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    TreeSpec::new().file("a", b"a".to_vec()).write(&first);
    TreeSpec::new().file("b", b"b".to_vec()).write(&second);
    backup(&a.repository, &[first]);
    let lost = a.lose_packs(Some(PackKind::Tree));
    a.give_up(&lost);
    backup(&a.repository, &[second]);
    let report = try_copy(&a, &b, &copy_options()).unwrap();
    assert_eq!(outcomes(&report.snapshots), [CopyOutcome::Unreadable, CopyOutcome::Copied]);
    assert!(!report.is_complete());
    assert!(report.snapshots[0].failures[0].reason.contains("in no pack"), "{:?}", report.snapshots[0]);
    assert_eq!(b.snapshots().len(), 1);
    assert_good(&b.repository);
}

/// A disk that cannot be read now says nothing about what is on it: no copy claims that anything is damaged.
#[test]
fn a_source_that_cannot_be_read_any_more_ends_the_copy() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = small_tree(folder.path());
    let packs = |fault: Fault| fault.on(Operation::GetRange).under("packs/").nth(3);
    let forbidden = vec![packs(Fault::kind(StorageErrorKind::PermissionDenied)).sticky()];
    let for_once = vec![packs(Fault::kind(StorageErrorKind::Transient))];
    let unmounted =
        vec![packs(Fault::kind(StorageErrorKind::Other)).sticky(), Fault::os(5).under("lakebed.json").sticky()];
    for faults in [forbidden, for_once, unmounted] {
        let faulty = FaultStorage::new(Arc::new(MemoryStorage::new()));
        let a = Side::over(Arc::new(faulty.clone()), Encryption::Aes256Gcm, ChunkerParameters::default());
        let b = Side::encrypted();
        backup(&a.repository, std::slice::from_ref(&source));
        faults.into_iter().for_each(|fault| faulty.inject(fault));
        let error = try_copy(&a, &b, &copy_options()).unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error:?}");
        assert!(b.snapshots().is_empty());
        faulty.heal();
        let copied = copy_all(&a, &b).remove(0);
        assert_same(&a, &a.snapshots()[0], &b, &copy_of(&b, &copied));
    }
}

#[test]
fn copies_find_their_way_home() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = small_tree(folder.path());
    let (a, b) = (Side::encrypted(), Side::encrypted());
    backup(&a.repository, std::slice::from_ref(&source));
    copy_all(&a, &b);
    assert_eq!(outcomes(&copy_all(&b, &a)), [CopyOutcome::Present]);
    // the replica goes on, and what it has made comes back
    std::fs::write(source.join("d1/new"), "new").unwrap();
    let report = backup(&b.repository, std::slice::from_ref(&source));
    assert_eq!(report.parent, Some(b.snapshots()[0].id));
    let copied = copy_all(&b, &a);
    assert_eq!(outcomes(&copied), [CopyOutcome::Present, CopyOutcome::Copied]);
    assert_eq!(copied[1].summary.bytes_new, 3);
    assert_eq!(outcomes(&copy_all(&a, &b)), [CopyOutcome::Present; 2]);
    assert_good(&a.repository);
}

#[test]
fn a_repository_is_not_copied_into_itself() {
    let a = Side::encrypted();
    let again = Repository::open(a.storage.clone(), &secret(), &OpenOptions::default()).unwrap();
    let error = copy(&a.repository, &again, &copy_options(), &|_| {}, &Silent).unwrap_err();
    assert!(matches!(error, Error::SameRepository { .. }), "{error:?}");
}

#[test]
fn what_is_selected_is_copied_and_a_dry_run_writes_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = small_tree(folder.path());
    let (a, b) = (Side::encrypted(), Side::encrypted());
    for day in 1..=3 {
        let options = BackupOptions {
            time: Some(Timestamp { secs: 1_700_000_000 + day * 86_400, nanos: 0 }),
            tags: if day == 2 { vec!["weekly".into()] } else { Vec::new() },
            ..options()
        };
        backup_with(&a.repository, std::slice::from_ref(&source), &options, &Default::default());
    }
    let snapshots = a.snapshots();
    let select = |selection| CopyOptions { selection, ..copy_options() };
    let weekly = SnapshotFilter { tags: vec![vec!["weekly".into()]], ..SnapshotFilter::default() };
    let before = b.storage.list("").unwrap();
    let dry = CopyOptions { dry_run: true, ..copy_options() };
    let planned = try_copy(&a, &b, &dry).unwrap().snapshots;
    assert_eq!(planned.iter().map(|copied| copied.copy).collect::<Vec<_>>(), [None; 3]);
    assert_eq!(b.storage.list("").unwrap(), before);

    let copied = try_copy(&a, &b, &select(CopySelection::Matching(weekly))).unwrap().snapshots;
    assert_eq!(copied.iter().map(|copied| copied.original.id).collect::<Vec<_>>(), [snapshots[1].id]);
    // in any order, and twice: each once, oldest first. The one that is there already serves both.
    let ids = vec![snapshots[2].id, snapshots[0].id, snapshots[2].id];
    let copied = try_copy(&a, &b, &select(CopySelection::These(ids))).unwrap().snapshots;
    assert_eq!(copied.iter().map(|copied| copied.original.id).collect::<Vec<_>>(), [snapshots[0].id, snapshots[2].id]);
    assert_eq!(copied.iter().map(|copied| copied.summary.bytes_read).sum::<u64>(), 0);
    let planned = try_copy(&a, &b, &dry).unwrap().snapshots;
    assert_eq!(outcomes(&planned), [CopyOutcome::Present; 3]);
    let unknown = lakebed_engine::core::id::SnapshotId::new([1; 32]);
    let error = try_copy(&a, &b, &select(CopySelection::These(vec![unknown]))).unwrap_err();
    assert!(matches!(error, Error::NoSnapshot { .. }), "{error:?}");
}
