//! Files that change or go while they are read: found out, tried again, and flagged where that does not help.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::monitor::Silent;
use lakebed_engine::core::record::tree::{Entry, EntryKind, Xattr};
use lakebed_engine::core::source::{Fingerprint, Listing, Source, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::source::Mount;

use crate::common::*;

/// A folder with one file, of which each reading finds another version, until `changes` are used up.
#[derive(Clone)]
struct Restless {
    length: usize,
    changes: Arc<AtomicU64>,
    version: Arc<AtomicU64>,
    /// What becomes of opening it for the n-th time, counted from 1.
    refuses: fn(u64) -> Option<SourceErrorKind>,
    /// What becomes of asking for its attributes for the n-th time, counted from 1.
    hides: fn(u64) -> Option<SourceErrorKind>,
    asked: Arc<AtomicU64>,
    /// An attribute of the folder itself cannot be read.
    root_is_closed: bool,
    opened: Arc<Mutex<u64>>,
}

impl Restless {
    fn new(length: usize, changes: u64) -> Self {
        Self {
            length,
            changes: Arc::new(AtomicU64::new(changes)),
            version: Arc::default(),
            refuses: |_| None,
            hides: |_| None,
            asked: Arc::default(),
            root_is_closed: false,
            opened: Arc::default(),
        }
    }

    fn mount(&self) -> Mount {
        let source = Arc::new(self.clone());
        Mount::new(vec![b"top".to_vec()], source)
    }

    fn print(&self) -> Fingerprint {
        let time = Timestamp { secs: self.version.load(Ordering::Relaxed) as i64, nanos: 0 };
        Fingerprint { size: self.length as u64, mtime: time, ctime: time, inode: 7 }
    }

    fn content(&self) -> Vec<u8> {
        vec![b'a' + self.version.load(Ordering::Relaxed) as u8; self.length]
    }

    fn entry(&self) -> Entry {
        let mut entry = Entry::new("file", EntryKind::File);
        let print = self.print();
        (entry.size, entry.mtime, entry.ctime, entry.inode) = (print.size, print.mtime, print.ctime, print.inode);
        entry
    }
}

impl Source for Restless {
    fn uri(&self) -> String {
        "test:restless".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(Entry::new("root", EntryKind::Directory))
    }

    fn complete_root(&self, entry: &mut Entry) -> Result<(), SourceError> {
        entry.xattrs = vec![Xattr { name: b"user.open".to_vec(), value: b"read".to_vec() }];
        match self.root_is_closed {
            true => Err(SourceError::new("read the attributes of", "top", std::io::ErrorKind::PermissionDenied.into())),
            false => Ok(()),
        }
    }

    fn open_dir(&self, _: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        Ok(Box::new(self.clone()))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "root", std::io::ErrorKind::IsADirectory.into()))
    }
}

impl SourceDir for Restless {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        Ok(Box::new(std::iter::once(Ok(self.entry()))))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let error = SourceError::new("read the attributes of", "file", std::io::Error::other("it is not what it was"));
        (self.hides)(asked).map_or(Ok(()), |kind| Err(SourceError { kind, ..error }))
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let mut opened = self.opened.lock().unwrap();
        *opened += 1;
        if let Some(kind) = (self.refuses)(*opened) {
            let error = SourceError::new("open", "file", std::io::Error::other("it is not what it was"));
            return Err(SourceError { kind, ..error });
        }
        Ok(Box::new(Reading { source: self.clone(), content: self.content(), at: 0 }))
    }
}

struct Reading {
    source: Restless,
    content: Vec<u8>,
    at: usize,
}

impl SourceFile for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let count = buffer.len().min(self.content.len() - self.at);
        buffer[..count].copy_from_slice(&self.content[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        let end = self.content.len() as u64;
        Ok((offset < end).then_some(offset..end))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let used = self.source.changes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if used.is_ok() {
            self.source.version.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.source.print())
    }
}

fn run(source: &Restless) -> (lakebed_engine::backup::BackupReport, Option<Entry>, Vec<u8>) {
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let report = repository.backup(vec![source.mount()], &options(), &Silent).unwrap();
    let reader = repository.reader(&Silent).unwrap();
    let info = report.snapshot.clone().unwrap();
    let entry = lakebed_engine::query::entry_at(&reader, &info, &[b"top".to_vec(), b"file".to_vec()]).ok();
    let mut content = Vec::new();
    if let Some(entry) = &entry {
        lakebed_engine::query::write_content(&reader, entry, "file", &mut content).unwrap();
    }
    (report, entry, content)
}

/// Sizes of a file that is one chunk, and of one that is many.
const LENGTHS: [usize; 2] = [1000, 3 << 20];

#[test]
fn a_file_that_changes_once_is_read_again_and_is_of_one_moment() {
    for length in LENGTHS {
        let source = Restless::new(length, 1);
        let (report, entry, content) = run(&source);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert!(!entry.unwrap().inconsistent);
        assert_eq!(*source.opened.lock().unwrap(), 2);
        assert!(content == vec![b'b'; length], "the bytes are not those of the last version");
    }
}

#[test]
fn a_file_that_never_rests_is_kept_flagged_and_reported() {
    for length in LENGTHS {
        let source = Restless::new(length, u64::MAX);
        let (report, entry, content) = run(&source);
        assert_eq!(report.failures.len(), 1);
        assert!(report.failures[0].path == "top/file" && report.failures[0].reason.contains("changing"));
        assert!(!report.snapshot.unwrap().snapshot.is_complete());
        assert!(entry.unwrap().inconsistent);
        assert_eq!(content.len(), length);
    }
}

#[test]
fn a_file_that_is_gone_is_left_out_and_reported() {
    let source = Restless { refuses: |_| Some(SourceErrorKind::Vanished), ..Restless::new(1000, 0) };
    let (report, entry, _) = run(&source);
    assert!(entry.is_none());
    assert_eq!(report.failures.len(), 1);
}

/// A log that is rotated away: what was read of it is worth more than nothing.
#[test]
fn a_file_that_is_gone_after_it_was_read_is_kept_flagged_and_reported() {
    for length in LENGTHS {
        for gone in
            [|at| (at > 1).then_some(SourceErrorKind::Vanished), |at| (at > 1).then_some(SourceErrorKind::Other)]
        {
            let source = Restless { refuses: gone, ..Restless::new(length, 1) };
            let (report, entry, content) = run(&source);
            assert_eq!(report.failures.len(), 1);
            assert!(entry.unwrap().inconsistent);
            assert!(content == vec![b'a'; length], "the bytes are not those that were read");
        }
    }
}

/// Editors write another file and rename it to the name, where a file of that name always was.
#[test]
fn a_file_that_another_one_was_renamed_to_is_read_under_its_name() {
    let source = Restless { refuses: |at| (at < 3).then_some(SourceErrorKind::Replaced), ..Restless::new(1000, 0) };
    let (report, entry, content) = run(&source);
    assert!(report.failures.is_empty() && !entry.unwrap().inconsistent);
    assert_eq!(content, [b'a'; 1000]);
    let source = Restless { refuses: |_| Some(SourceErrorKind::Replaced), ..Restless::new(1000, 0) };
    let (report, entry, _) = run(&source);
    assert!(entry.is_none() && report.failures.len() == 1);
}

/// Where files have attributes, those are what first tells of it.
#[test]
fn a_file_that_another_one_was_renamed_to_before_its_attributes_were_read_is_read_under_its_name() {
    let source = Restless { hides: |at| (at < 3).then_some(SourceErrorKind::Replaced), ..Restless::new(1000, 0) };
    let (report, entry, content) = run(&source);
    assert!(report.failures.is_empty() && !entry.unwrap().inconsistent);
    assert_eq!(content, [b'a'; 1000]);
    let source = Restless { hides: |_| Some(SourceErrorKind::Replaced), ..Restless::new(1000, 0) };
    let (report, entry, _) = run(&source);
    assert!(entry.is_none() && report.failures.len() == 1);
}

#[test]
fn one_that_would_not_have_been_read_is_kept_too() {
    let source = Restless { hides: |at| (at == 2).then_some(SourceErrorKind::Replaced), ..Restless::new(1000, 0) };
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    repository.backup(vec![source.mount()], &options(), &Silent).unwrap();
    let repository = place.reopen_later(&repository);
    let again = BackupOptions { ignore_ctime: true, ..options() };
    let report = repository.backup(vec![source.mount()], &again, &Silent).unwrap();
    assert_eq!((report.failures.len(), report.summary.files), (0, 1));
    assert!(source.asked.load(Ordering::Relaxed) > 2, "its attributes were asked for once more");
}

#[test]
fn a_source_whose_own_attributes_cannot_be_read_is_kept_flagged_and_reported() {
    let source = Restless { root_is_closed: true, ..Restless::new(1000, 0) };
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let report = repository.backup(vec![source.mount()], &options(), &Silent).unwrap();
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].path, "top");
    let reader = place.reopen().reader(&Silent).unwrap();
    let info = report.snapshot.unwrap();
    let top = lakebed_engine::query::entry_at(&reader, &info, &[b"top".to_vec()]).unwrap();
    assert!(top.inconsistent && top.xattrs.len() == 1, "what could be read of it is there");
    assert!(lakebed_engine::query::entry_at(&reader, &info, &[b"top".to_vec(), b"file".to_vec()]).is_ok());
}

/// A directory that lists these names, in this order.
#[derive(Clone)]
struct Lists(Vec<&'static str>);

impl Source for Lists {
    fn uri(&self) -> String {
        "test:lists".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(Entry::new("", EntryKind::Directory))
    }

    fn open_dir(&self, _: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        Ok(Box::new(self.clone()))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        unreachable!()
    }
}

impl SourceDir for Lists {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        Ok(Box::new(self.0.iter().map(|name| Ok(Entry::new(*name, EntryKind::Fifo)))))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        unreachable!()
    }
}

/// What a node cannot hold must not take its neighbours with it.
#[test]
fn a_name_that_is_listed_twice_or_is_none_spoils_no_other() {
    for names in [vec!["a", "b", "b", "c"], vec!["", "a", "b", "c"], vec!["a", "b/x", "b", "c"], vec!["a", "c", "b"]] {
        let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
        let mount = Mount::new(vec![b"lists".to_vec()], Arc::new(Lists(names.clone())));
        let report = repository.backup(vec![mount], &options(), &Silent).unwrap();
        assert_eq!(report.failures.len(), 1, "{names:?}: {:?}", report.failures);
        assert!(!report.snapshot.unwrap().snapshot.is_complete());
        assert_good(&repository);
        assert_eq!(latest(&repository).snapshot.summary.others, names.len() as u64 - 1);
    }
}
