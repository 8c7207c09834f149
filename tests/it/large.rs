//! Large folders and large files: what is shared among workers, what goes into nodes early, how finely it is cut.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use lakebed_engine::backup::{BackupOptions, BackupReport, ParentChoice};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::TreeId;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::record::tree::{Content as Stored, Entry, EntryKind};
use lakebed_engine::core::source::{Fingerprint, Listing, Source, SourceDir, SourceError, SourceFile};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::query::{Listed, entry_at, walk};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::{FilterOptions, Mount};
use lakebed_engine::{Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::Content;

use crate::common::*;

fn several_workers() -> BackupOptions {
    BackupOptions { threads: 3, ..options() }
}

/// Makes a snapshot and returns the source's node in it: what lies above the source has times of its own.
fn tree(place: &Place, source: &Path, options: &BackupOptions) -> TreeId {
    let repository = place.reopen();
    let report = backup_with(&repository, &[source.to_path_buf()], options, &FilterOptions::default());
    node_of(&repository, &report.snapshot.unwrap(), source)
}

fn node_of(repository: &Repository, info: &SnapshotInfo, source: &Path) -> TreeId {
    let names: Vec<Vec<u8>> =
        source.components().skip(1).map(|name| name.as_os_str().as_encoded_bytes().to_vec()).collect();
    entry_at(&repository.reader(&Silent).unwrap(), info, &names).unwrap().subtree.unwrap()
}

/// Large files are handed to workers that have nothing else to do, and the folder waits for them.
#[test]
fn a_folder_of_large_files_is_shared_and_comes_back() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let write = |name: String, content: Content| std::fs::write(source.join(name), content.bytes()).unwrap();
    for file in 0..6 {
        write(format!("large-{file}"), Content::Generated { seed: file, length: 5_000_000, compressibility: 40 });
        write(format!("small-{file}"), Content::random(100 + file, 3000));
    }
    for night in 0..3 {
        let options = BackupOptions { checkpoint_bytes: 4 << 20, ..several_workers() };
        let info = backup_with(&repository, std::slice::from_ref(&source), &options, &FilterOptions::default())
            .snapshot
            .unwrap();
        let observed = snapshot_of(&source);
        let target = tempfile::TempDir::new().unwrap();
        let restored = restore_to(&repository, &info, target.path(), &source);
        assert_tree_is(&observed, &restored, &CompareOptions::default());
        // the order of work leaves no trace in the tree
        let anew = BackupOptions { threads: 1, parent: ParentChoice::None, ..options };
        assert_eq!(tree(&place, &source, &anew), node_of(&repository, &info, &source), "night {night}");
        write(format!("large-{night}"), Content::random(200 + night, 6_000_000));
    }
    assert_good(&repository);
}

/// A folder whose entries do not fit into what is held: those at the front are in nodes while the rest is worked on, and
/// what equals the parent is not held at all.
#[test]
fn a_folder_of_many_files_has_the_same_tree_however_it_came_about() {
    let (place, _) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    for file in 0..25_000 {
        std::fs::write(source.join(format!("file-{file:05}")), b"").unwrap();
    }
    // directories in between are finished later than what lies behind them
    for name in ["a", "file-12345.d", "z"] {
        std::fs::create_dir(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("below"), name).unwrap();
    }
    let anew = BackupOptions { parent: ParentChoice::None, ..several_workers() };
    let first = tree(&place, &source, &anew);
    assert_eq!(tree(&place, &source, &several_workers()), first);

    let changes: [&dyn Fn(); 5] = [
        &|| std::fs::write(source.join("file-20000"), b"changed").unwrap(),
        &|| std::fs::remove_file(source.join("file-00000")).unwrap(),
        &|| std::fs::write(source.join("file-24000-more"), b"added").unwrap(),
        &|| std::fs::write(source.join("file-12345.d/below"), b"changed").unwrap(),
        &|| {
            (0..25_000)
                .step_by(3)
                .skip(1)
                .for_each(|file| std::fs::write(source.join(format!("file-{file:05}")), b"x").unwrap())
        },
    ];
    let mut before = first;
    for (number, change) in changes.into_iter().enumerate() {
        change();
        let beside_parent = tree(&place, &source, &several_workers());
        assert_ne!(beside_parent, before, "change {number}");
        assert_eq!(tree(&place, &source, &anew), beside_parent, "change {number}");
        // a run that makes checkpoints all the time publishes halves of the folder
        let restless = BackupOptions { checkpoint_interval: Duration::ZERO, checkpoint_bytes: 1, ..anew.clone() };
        if number % 2 == 0 {
            assert_eq!(tree(&place, &source, &restless), beside_parent, "change {number}");
        }
        before = beside_parent;
    }
    let repository = place.reopen();
    assert_good(&repository);
    let target = tempfile::TempDir::new().unwrap();
    let restored = restore_to(&repository, &latest(&repository), target.path(), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
}

/// What is compressed already is cut coarsely, from its first bytes on; text is cut finely.
#[test]
fn compressed_files_have_larger_chunks() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let noise = Content::random(1, 3_000_000).bytes();
    std::fs::write(source.join("noise"), &noise).unwrap();
    std::fs::write(source.join("table.parquet"), [b"PAR1", &noise[..]].concat()).unwrap();
    let root = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().snapshot.root;
    let reader = repository.reader(&Silent).unwrap();
    let mut chunks = Vec::new();
    walk(&reader, root, b"", &mut |_, entry| {
        if entry.kind == EntryKind::File {
            assert!(!matches!(entry.content, Stored::Chunk(_)));
            chunks.push(reader.extents(entry).unwrap().len());
        }
        Ok(Listed::Descend)
    })
    .unwrap();
    // 20 KB and 80 KB on average, since none is smaller than half of what was asked for
    assert!((120..200).contains(&chunks[0]), "{chunks:?}");
    assert!((28..50).contains(&chunks[1]), "{chunks:?}");
}

/// A directory that lists directories, and then pipes, and is watched while it does.
#[derive(Clone)]
struct Wide {
    directories: usize,
    pipes: usize,
    /// Directories that were listed and not entered yet, most of them at a time, and pipes when the last was entered.
    seen: Arc<Mutex<(usize, usize, usize)>>,
    pipes_listed: Arc<AtomicUsize>,
}

impl Wide {
    fn mount(&self) -> Mount {
        let source = Arc::new(self.clone());
        Mount::new(vec![b"top".to_vec()], source)
    }
}

impl Source for Wide {
    fn uri(&self) -> String {
        "test:wide".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(Entry::new("root", EntryKind::Directory))
    }

    fn open_dir(&self, path: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        if path.is_empty() {
            return Ok(Box::new(self.clone()));
        }
        let mut seen = self.seen.lock().unwrap();
        seen.0 -= 1;
        seen.2 = self.pipes_listed.load(Ordering::Relaxed);
        Ok(Box::new(Self { directories: 0, pipes: 0, ..self.clone() }))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "root", std::io::ErrorKind::IsADirectory.into()))
    }
}

impl SourceDir for Wide {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let directories = (0..self.directories).map(|number| {
            let mut seen = self.seen.lock().unwrap();
            seen.0 += 1;
            seen.1 = seen.1.max(seen.0);
            Ok(Entry::new(format!("d{number:06}"), EntryKind::Directory))
        });
        let pipes = (0..self.pipes).map(|number| {
            self.pipes_listed.fetch_add(1, Ordering::Relaxed);
            Ok(Entry::new(format!("f{number:06}"), EntryKind::Fifo))
        });
        Ok(Box::new(directories.chain(pipes)))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "file", std::io::ErrorKind::NotFound.into()))
    }
}

/// What waits takes memory: a listing goes on when little of it waits.
#[test]
fn a_folder_of_many_folders_does_not_have_them_all_wait() {
    let source = Wide { directories: 20_000, pipes: 0, seen: Arc::default(), pipes_listed: Arc::default() };
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    for threads in [1, 3] {
        let report = repository.backup(vec![source.mount()], &BackupOptions { threads, ..options() }, &Silent).unwrap();
        assert_eq!((report.failures.len(), report.summary.directories), (0, 20_001));
        let (waiting, most, _) = *source.seen.lock().unwrap();
        assert!(waiting == 0 && most < 5_000, "{most} waited");
    }
    assert_good(&repository);
}

/// With one worker nobody else finishes the folder that all others wait behind.
#[test]
fn what_waits_behind_a_folder_does_not_wait_for_the_end_of_the_listing() {
    let source = Wide { directories: 1, pipes: 60_000, seen: Arc::default(), pipes_listed: Arc::default() };
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let report = repository.backup(vec![source.mount()], &BackupOptions { threads: 1, ..options() }, &Silent).unwrap();
    assert_eq!(report.summary.directories, 2);
    let (_, _, listed) = *source.seen.lock().unwrap();
    assert!(listed < 30_000, "{listed} entries were held before the folder was entered");
}

/// A directory that lists a large file, and then pipes. The file does not come to its end before whoever lists the
/// directory waits for it.
#[derive(Clone, Default)]
struct Behind(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    lister: Option<ThreadId>,
    pipes_listed: usize,
    /// How often the lister looked whether it should stop since it listed something.
    looks: usize,
    /// The file goes on; how many pipes were listed by then.
    released: Option<usize>,
}

impl Behind {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }
}

const PIPES: usize = 60_000;

impl Source for Behind {
    fn uri(&self) -> String {
        "test:behind".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(Entry::new("root", EntryKind::Directory))
    }

    fn open_dir(&self, _: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        Ok(Box::new(self.clone()))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "root", std::io::ErrorKind::IsADirectory.into()))
    }
}

impl SourceDir for Behind {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        self.change(|state| state.lister = Some(std::thread::current().id()));
        let mut file = Entry::new("a", EntryKind::File);
        file.size = 8 << 20;
        let pipes = (1..=PIPES).map(|number| {
            self.change(|state| {
                (state.pipes_listed, state.looks) = (number, 0);
                state.released = state.released.or((number == PIPES).then_some(number));
            });
            Ok(Entry::new(format!("f{number:06}"), EntryKind::Fifo))
        });
        Ok(Box::new(std::iter::once(Ok(file)).chain(pipes)))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        Ok(Box::new(self.clone()))
    }
}

impl SourceFile for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        if state.lister == Some(std::thread::current().id()) {
            state.released = state.released.or(Some(state.pipes_listed));
        }
        while state.released.is_none() {
            state = changed.wait(state).unwrap();
        }
        buffer.fill(0);
        Ok(buffer.len())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<std::ops::Range<u64>>, SourceError> {
        Ok((offset < 8 << 20).then_some(offset..8 << 20))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let time = Timestamp::default();
        Ok(Fingerprint { size: 8 << 20, mtime: time, ctime: time, inode: 0 })
    }
}

impl Monitor for Behind {
    fn is_cancelled(&self) -> bool {
        self.change(|state| {
            if state.lister == Some(std::thread::current().id()) {
                state.looks += 1;
                state.released = state.released.or((state.looks > 3).then_some(state.pipes_listed));
            }
        });
        false
    }
}

/// Another worker reads the file for as long as it takes.
#[test]
fn what_waits_behind_a_large_file_waits_for_it_before_it_is_too_much() {
    let source = Behind::default();
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let mount = Mount::new(vec![b"top".to_vec()], Arc::new(source.clone()));
    let report = repository.backup(vec![mount], &BackupOptions { threads: 2, ..options() }, &source).unwrap();
    assert_eq!((report.failures.len(), report.summary.others), (0, PIPES as u64));
    let released = source.0.0.lock().unwrap().released.unwrap();
    assert!(released < 30_000, "{released} entries were held before the file came to its end");
}

/// Each directory holds the next one, down to a file that takes long enough for checkpoints.
#[derive(Clone)]
struct Deep(usize);

impl Source for Deep {
    fn uri(&self) -> String {
        "test:deep".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(Entry::new("root", EntryKind::Directory))
    }

    fn open_dir(&self, path: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        Ok(Box::new(Self(self.0 - path.len())))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "root", std::io::ErrorKind::IsADirectory.into()))
    }
}

/// Bytes of the file at the bottom.
const BOTTOM_BYTES: u64 = 3 << 20;

impl SourceDir for Deep {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let kind = if self.0 == 0 { EntryKind::File } else { EntryKind::Directory };
        let mut entry = Entry::new("below", kind);
        entry.size = if self.0 == 0 { BOTTOM_BYTES } else { 0 };
        Ok(Box::new(std::iter::once(Ok(entry))))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let content = Content::random(1, BOTTOM_BYTES).bytes();
        Ok(Box::new(Bottom(std::io::Cursor::new(content))))
    }
}

struct Bottom(std::io::Cursor<Vec<u8>>);

impl SourceFile for Bottom {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        Ok(std::io::Read::read(&mut self.0, buffer).unwrap())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<std::ops::Range<u64>>, SourceError> {
        Ok((offset < BOTTOM_BYTES).then_some(offset..BOTTOM_BYTES))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let time = Timestamp::default();
        Ok(Fingerprint { size: BOTTOM_BYTES, mtime: time, ctime: time, inode: 0 })
    }
}

#[test]
fn a_checkpoint_of_a_very_deep_tree_needs_no_deep_stack() {
    const DEPTH: usize = 5_000;
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = Arc::new(Deep(DEPTH));
    let mount = || Mount::new(vec![b"top".to_vec()], source.clone());
    let restless = BackupOptions { checkpoint_bytes: 1, threads: 1, ..options() };
    let with_checkpoints = repository.backup(vec![mount()], &restless, &Silent).unwrap();
    assert_eq!(with_checkpoints.summary.directories, DEPTH as u64 + 1);
    let anew = BackupOptions { parent: ParentChoice::None, ..options() };
    let without = repository.backup(vec![mount()], &anew, &Silent).unwrap();
    let root = |report: &BackupReport| report.snapshot.as_ref().unwrap().snapshot.root;
    assert_eq!(root(&with_checkpoints), root(&without));
}

/// A dry run publishes nothing, so it has nothing to make checkpoints of, and counts nothing for them.
#[test]
fn a_dry_run_counts_as_much_however_often_checkpoints_are_made() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    for file in 0..40u64 {
        std::fs::write(source.join(format!("{file}")), Content::random(file, 100_000).bytes()).unwrap();
    }
    let stored = |checkpoint_bytes| {
        let options = BackupOptions { checkpoint_bytes, dry_run: true, threads: 1, ..options() };
        let paths = std::slice::from_ref(&source);
        backup_with(&repository, paths, &options, &FilterOptions::default()).summary.bytes_stored
    };
    // the folders above the source have times of their own, which compress more or less well
    let (with, without): (u64, u64) = (stored(1), stored(u64::MAX));
    assert!(with.abs_diff(without) < 200, "{with} and {without} bytes");
}
