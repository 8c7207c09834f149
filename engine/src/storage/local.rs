//! `LocalStorage`: a repository in a folder, on a disk of this machine or one mounted from another.
//!
//! An object is a file; the parts of its key are the folders above it. It is written to `tmp/`, flushed, and renamed to
//! its name by a call that refuses to replace, so under its name it is seen whole or not at all. The name is durable
//! once the folders above it are flushed, which [`Storage::sync`] does for many objects together.
//!
//! What a dead process leaves in `tmp/` is harmless: no key leads there.
//!
//! Links are followed as the system does, so the folder of a repository may be reached through one. A key itself cannot
//! name anything outside the folder.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lakebed_core::storage::{
    Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind,
};
use rustix::io::Errno;

/// Small enough that a run which is cut off loses little, large enough that a flush per pack does not count.
const PACK_TARGET_BYTES: u64 = 32 << 20;

/// How much of a long object is appended before the system is told to begin writing it out.
const WRITEBACK_STEP_BYTES: u64 = 8 << 20;

/// Packs kept open for ranged reads.
const OPEN_PACKS_MAX: usize = 16;

/// How often a folder is made again that others remove, as empty, before we could use it.
const PUBLISH_ATTEMPTS: usize = 64;

const TEMP_FOLDER: &str = "tmp";
const PACKS_PREFIX: &str = "packs/";

/// What a folder may hold already when a repository is created in it: the names of our layout, left by a creation that
/// was cut off, and the folder that a fresh ext4 disk comes with.
const OWN_NAMES: [&str; 15] = [
    TEMP_FOLDER,
    "annotations",
    "contract",
    "forgotten",
    "gc",
    "index",
    "keys",
    "lakebed.json",
    "ledger",
    "lost+found",
    "packs",
    "quarantine",
    "runs",
    "sessions",
    "snapshots",
];

/// Tells apart the temporary files of processes which have one number on different machines.
static PROCESS_TAG: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
static TEMP_COUNT: AtomicU64 = AtomicU64::new(0);

/// A repository in a folder. Clones share it.
#[derive(Clone)]
pub struct LocalStorage {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// Whether `tmp/` was there. It then always is, so where it is missing the disk is not there either.
    has_temp_folder: AtomicBool,
    /// Whether the file system was found to lack a rename that refuses to replace.
    publish_by_link: AtomicBool,
    /// Folders with names that may not be durable yet.
    unsynced: Mutex<BTreeSet<PathBuf>>,
    /// Held by the one who flushes. A second caller of `sync` must not return before the folders of its own objects,
    /// which the first may have taken over, are flushed.
    syncing: Mutex<()>,
    open_packs: Mutex<OpenPacks>,
}

impl LocalStorage {
    /// Creates a repository's folder, which only its owner can enter.
    ///
    /// The folder above must exist: a repository shall not come to lie below the mount point of a missing disk. An
    /// existing folder is taken, with its mode, if it is empty or holds only what an interrupted creation left.
    ///
    /// # Errors
    /// `AlreadyExists` where the folder holds other things, or is no folder; whatever kept it from being made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let root = Self::create_folders(path).map_err(|source| StorageError::new("create", path.display(), source))?;
        Ok(Self::at(root, true))
    }

    /// Opens a repository's folder. Nothing in it is touched.
    ///
    /// # Errors
    /// `NotFound` where there is nothing; `Other` where there is something else than a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let look = || {
            let root = std::path::absolute(path)?;
            if !retry_interrupted(|| fs::metadata(&root))?.is_dir() {
                return Err(Errno::NOTDIR.into());
            }
            let has_temp_folder = folder_exists(&root.join(TEMP_FOLDER))?;
            Ok(Self::at(root, has_temp_folder))
        };
        look().map_err(|source| StorageError::new("open", path.display(), source))
    }

    /// Returns the folder, as an absolute path in which links are not resolved.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    fn at(root: PathBuf, has_temp_folder: bool) -> Self {
        let inner = Inner {
            root,
            has_temp_folder: AtomicBool::new(has_temp_folder),
            publish_by_link: AtomicBool::new(false),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
            open_packs: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn create_folders(path: &Path) -> io::Result<PathBuf> {
        let root = std::path::absolute(path)?;
        if make_folder(&root)? {
            if let Some(above) = root.parent() {
                sync_folder(above)?;
            }
        } else {
            refuse_other_things(&root)?;
        }
        make_folder(&root.join(TEMP_FOLDER))?;
        sync_folder(&root)?;
        Ok(root)
    }
}

impl fmt::Debug for LocalStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStorage").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::strict(PACK_TARGET_BYTES)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        let write = || {
            let mut temp = self.inner.temp_file()?;
            temp.file.write_all(bytes)?;
            self.inner.publish(temp, key)
        };
        write().map_err(|source| write_error(key, source))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        let temp = self.inner.temp_file().map_err(|source| write_error(self.location(), source))?;
        let inner = Arc::clone(&self.inner);
        Ok(Box::new(LocalWriter { inner, temp, written_bytes: 0, handed_over_bytes: 0, failed: false }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        let read = || {
            let OpenObject { file, size_bytes } = self.inner.open_object(key)?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(to_length(size_bytes)?)?;
            file.take(size_bytes).read_to_end(&mut bytes)?;
            if (bytes.len() as u64) < size_bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
        };
        read().map_err(|source| StorageError::new("read", key, source))
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let read = self.inner.read_range(key, offset, length, buffer);
        read.map_err(|source| {
            buffer.clear();
            StorageError::new("read", key, source)
        })
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        let stat = || {
            let path = self.inner.path_of(key).ok_or(Errno::NOENT)?;
            let metadata = retry_interrupted(|| fs::metadata(&path));
            object_size(&metadata.map_err(|error| self.inner.explain_absence(error))?)
        };
        stat().map_err(|source| StorageError::new("read", key, source))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let subject = || if prefix.is_empty() { self.location() } else { prefix.to_owned() };
        self.inner.list(prefix).map_err(|source| StorageError::new("list", subject(), source))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(key).map_err(|source| StorageError::new("delete", key, source))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync().map_err(|(folder, source)| StorageError::new("sync", folder.display(), source))
    }
}

impl Inner {
    /// Returns the path of an object, or nothing for a key that no object can have here.
    ///
    /// The parts of a key are plain names, none of them `..`, so the path stays below the root.
    fn path_of(&self, key: &ObjectKey) -> Option<PathBuf> {
        let first = key.as_str().split('/').next();
        (first != Some(TEMP_FOLDER)).then(|| self.root.join(key.as_str()))
    }

    /// Tells whether the folder of the repository is where it was.
    ///
    /// When a disk is unmounted under us, its mount point is often still there, as an empty folder. A backup must not
    /// take that for a repository without objects.
    fn is_in_place(&self) -> bool {
        let landmark =
            if self.has_temp_folder.load(Ordering::Acquire) { &self.root.join(TEMP_FOLDER) } else { &self.root };
        retry_interrupted(|| fs::metadata(landmark)).is_ok_and(|metadata| metadata.is_dir())
    }

    /// Keeps "there is no such object" apart from "there is no repository any more".
    fn explain_absence(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::NotFound && !self.is_in_place() { self.gone() } else { error }
    }

    fn gone(&self) -> io::Error {
        let root = self.root.display();
        io::Error::other(format!(
            "the repository is no longer at `{root}`; was its disk unmounted, or the folder moved?"
        ))
    }

    fn temp_file(&self) -> io::Result<TempFile> {
        let folder = self.root.join(TEMP_FOLDER);
        loop {
            let count = TEMP_COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{:016x}-{count}", std::process::id(), *PROCESS_TAG));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(TempFile { path, file, remove: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.restore_temp_folder()?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `tmp/` in a repository that came without it, as copies do which leave out empty folders.
    fn restore_temp_folder(&self) -> io::Result<()> {
        if self.has_temp_folder.load(Ordering::Acquire) || !self.is_in_place() {
            return Err(self.gone());
        }
        make_folder(&self.root.join(TEMP_FOLDER))?;
        self.has_temp_folder.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the content durable and moves it to its name.
    ///
    /// Nothing is lost by an error of the close that follows: all bytes were flushed before.
    fn publish(&self, mut temp: TempFile, key: &ObjectKey) -> io::Result<()> {
        let Some(target) = self.path_of(key) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "names below `tmp/` are reserved"));
        };
        flush_content(&temp.file)?;
        // The folder is nearly always there; asking first would cost a call for every object.
        for _ in 0..PUBLISH_ATTEMPTS {
            match self.move_without_replacing(&mut temp, &target) {
                Ok(()) => {
                    self.remember_folder_of(&target);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_folders_of(key)?,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the temporary file or the folder is removed again and again"))
    }

    fn move_without_replacing(&self, temp: &mut TempFile, target: &Path) -> io::Result<()> {
        if !self.publish_by_link.load(Ordering::Relaxed) {
            match rename_without_replacing(&temp.path, target) {
                Err(error) if is_unsupported(&error) => self.publish_by_link.store(true, Ordering::Relaxed),
                result => {
                    temp.remove = result.is_err();
                    return result;
                }
            }
        }
        let linked = retry_interrupted(|| fs::hard_link(&temp.path, target));
        // NFS may do the work, lose the answer, and report on the second try that the name exists. Nobody but us knows
        // the temporary file, so its second name is the one we asked for. Its first one goes when it is dropped.
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && temp.file.metadata()?.nlink() > 1 => Ok(()),
            result => result,
        }
    }

    fn make_folders_of(&self, key: &ObjectKey) -> io::Result<()> {
        if !self.is_in_place() {
            return Err(self.gone());
        }
        let mut folder = self.root.clone();
        let mut parts = key.as_str().split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                break;
            }
            folder.push(part);
            match make_folder(&folder) {
                // Somebody removed the folder above as empty; the caller tries again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => result?,
            };
        }
        Ok(())
    }

    fn remember_folder_of(&self, path: &Path) {
        if let Some(folder) = path.parent() {
            let mut unsynced = lock(&self.unsynced);
            if !unsynced.contains(folder) {
                unsynced.insert(folder.to_owned());
            }
        }
    }

    /// Flushes each folder with new names once, and those above it: another process may have made one of them without
    /// having flushed it yet.
    fn sync(&self) -> Result<(), (PathBuf, io::Error)> {
        let _one_at_a_time = lock(&self.syncing);
        let unsynced = std::mem::take(&mut *lock(&self.unsynced));
        let mut folders = BTreeSet::new();
        for folder in &unsynced {
            folders.extend(folder.ancestors().take_while(|folder| folder.starts_with(&self.root)));
        }
        let synced = folders.into_iter().try_for_each(|folder| match sync_folder(folder) {
            // Its last object was deleted and then the folder as empty, which the folder above tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_in_place() => Ok(()),
            Err(error) => Err((folder.to_owned(), self.explain_absence(error))),
            Ok(()) => Ok(()),
        });
        if synced.is_err() {
            lock(&self.unsynced).extend(unsynced);
        }
        synced
    }

    fn open_object(&self, key: &ObjectKey) -> io::Result<OpenObject> {
        let path = self.path_of(key).ok_or(Errno::NOENT)?;
        let file = File::open(path).map_err(|error| self.explain_absence(error))?;
        let size_bytes = object_size(&file.metadata()?)?;
        Ok(OpenObject { file, size_bytes })
    }

    /// Opens a pack, or finds it open. Other objects are seldom read in parts, and a pack is named by its content: one
    /// that another process deletes and writes again under the same name is the same.
    fn open_for_ranges(&self, key: &ObjectKey) -> io::Result<Arc<OpenObject>> {
        if !key.as_str().starts_with(PACKS_PREFIX) {
            return self.open_object(key).map(Arc::new);
        }
        let deletions = {
            let mut packs = lock(&self.open_packs);
            if let Some(pack) = packs.find(key) {
                return Ok(pack);
            }
            packs.deletions
        };
        let pack = Arc::new(self.open_object(key)?);
        lock(&self.open_packs).keep(key, &pack, deletions);
        Ok(pack)
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let object = self.open_for_ranges(key)?;
        // Checked before memory is taken: the length may come from a damaged record.
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > object.size_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What the buffer held is overwritten, so only the part that grows is filled with zeros first.
        buffer.try_reserve_exact(length.saturating_sub(buffer.len()))?;
        buffer.resize(length, 0);
        object.file.read_exact_at(buffer, offset)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() && prefix.strip_suffix('/').and_then(ObjectKey::new).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a prefix is empty or a key followed by `/`"));
        }
        if prefix.split('/').next() == Some(TEMP_FOLDER) {
            return Ok(Vec::new());
        }
        let mut objects = Vec::new();
        let mut folders = vec![prefix.to_owned()];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, &mut folders, &mut objects)?;
        }
        if objects.is_empty() && !self.is_in_place() {
            return Err(self.gone());
        }
        // A folder that changes while it is read may name a file twice.
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|a, b| a.key == b.key);
        Ok(objects)
    }

    fn list_folder(&self, prefix: &str, folders: &mut Vec<String>, objects: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let within = |error: io::Error| match self.explain_absence(error) {
            error if prefix.is_empty() => error,
            error => io::Error::new(error.kind(), FolderError { folder: prefix.to_owned(), error }),
        };
        let entries = match fs::read_dir(self.root.join(prefix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_in_place() => return Ok(()),
            entries => entries.map_err(within)?,
        };
        for entry in entries {
            let entry = entry.map_err(within)?;
            // What has no name that we would give is not ours.
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| ObjectKey::new(format!("{prefix}{name}"))) else { continue };
            if key.as_str() == TEMP_FOLDER {
                continue;
            }
            match retry_interrupted(|| look_at(&entry)) {
                Ok(Seen::Folder) => folders.push(format!("{key}/")),
                Ok(Seen::Object { size_bytes }) => objects.push(ObjectInfo { key, size_bytes }),
                Ok(Seen::Other) => {}
                // It was deleted since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(within(error)),
            }
        }
        Ok(())
    }

    fn delete(&self, key: &ObjectKey) -> io::Result<()> {
        let path = self.path_of(key).ok_or(Errno::NOENT)?;
        let removed = retry_interrupted(|| fs::remove_file(&path));
        lock(&self.open_packs).forget(key);
        match removed {
            Ok(()) => {}
            // Linux says EISDIR and others EPERM, but a folder is no object.
            Err(_) if folder_exists(&path).unwrap_or(false) => return Err(Errno::NOENT.into()),
            Err(error) => return Err(self.explain_absence(error)),
        }
        self.remember_folder_of(&path);
        self.remove_empty_folders_of(&path);
        Ok(())
    }

    /// Removes the folders that a deletion left empty, so that finished sessions do not pile up as folders which every
    /// listing must read.
    ///
    /// Whatever keeps one from being removed, mostly that it is not empty, does no harm.
    fn remove_empty_folders_of(&self, path: &Path) {
        let above = path.ancestors().skip(1).take_while(|folder| **folder != *self.root);
        for folder in above {
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

/// An object being written to a file that has no name yet in the repository.
struct LocalWriter {
    inner: Arc<Inner>,
    temp: TempFile,
    written_bytes: u64,
    handed_over_bytes: u64,
    failed: bool,
}

impl LocalWriter {
    /// Lets the disk work while the next bytes are made, so that the flush at the end finds little left to do.
    fn begin_writeback(&mut self) {
        let pending_bytes = self.written_bytes - self.handed_over_bytes;
        if pending_bytes >= WRITEBACK_STEP_BYTES {
            advise_written(&self.temp.file, self.handed_over_bytes, pending_bytes);
            self.handed_over_bytes = self.written_bytes;
        }
    }
}

impl ObjectWriter for LocalWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.temp.file.write_all(bytes);
        self.failed |= written.is_err();
        written.map_err(|source| write_error(self.temp.path.display(), source))?;
        self.written_bytes += bytes.len() as u64;
        self.begin_writeback();
        Ok(())
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<(), StorageError> {
        // Part of what could not be appended may be in the file.
        if self.failed {
            return Err(write_error(key, io::Error::other("an earlier write to this object failed")));
        }
        let Self { inner, temp, .. } = *self;
        inner.publish(temp, key).map_err(|source| write_error(key, source))
    }
}

/// A file in `tmp/`. It is removed when dropped, unless it was given its name.
struct TempFile {
    path: PathBuf,
    file: File,
    remove: bool,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // One that stays behind takes space and does no other harm.
        if self.remove {
            drop(fs::remove_file(&self.path));
        }
    }
}

struct OpenObject {
    file: File,
    /// The size when it was opened. Objects do not change.
    size_bytes: u64,
}

/// The packs read last, oldest first. They are few, so a search through all of them is cheap.
#[derive(Default)]
struct OpenPacks {
    packs: Vec<(ObjectKey, Arc<OpenObject>)>,
    /// Counts deletions, so that a pack opened just before it was deleted is not kept.
    deletions: u64,
}

impl OpenPacks {
    fn find(&mut self, key: &ObjectKey) -> Option<Arc<OpenObject>> {
        let at = self.packs.iter().position(|(open, _)| open == key)?;
        self.packs[at..].rotate_left(1);
        self.packs.last().map(|(_, pack)| Arc::clone(pack))
    }

    fn keep(&mut self, key: &ObjectKey, pack: &Arc<OpenObject>, deletions: u64) {
        if deletions != self.deletions || self.packs.iter().any(|(open, _)| open == key) {
            return;
        }
        if self.packs.len() >= OPEN_PACKS_MAX {
            self.packs.remove(0);
        }
        self.packs.push((key.clone(), Arc::clone(pack)));
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.deletions += 1;
        self.packs.retain(|(open, _)| open != key);
    }
}

/// Says which folder below the listed prefix could not be read.
#[derive(Debug, thiserror::Error)]
#[error("in folder `{folder}`")]
struct FolderError {
    folder: String,
    #[source]
    error: io::Error,
}

/// What these mutexes guard is whole between any two of our statements, so a panic elsewhere left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds the error of a write. What is missing then is a folder or a file of ours, which must not read as "there is no
/// such object".
fn write_error(subject: impl fmt::Display, source: io::Error) -> StorageError {
    let mut error = StorageError::new("write", subject, source);
    if error.kind == StorageErrorKind::NotFound {
        error.kind = StorageErrorKind::Other;
    }
    error
}

/// Repeats a call that a signal cut off, which happens on network file systems. The standard library does so for `open`,
/// `read`, `write` and `fsync` only.
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOTTY]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Makes a folder for its owner only. Tells whether it was not there before.
fn make_folder(path: &Path) -> io::Result<bool> {
    match retry_interrupted(|| DirBuilder::new().mode(0o700).create(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn folder_exists(path: &Path) -> io::Result<bool> {
    match retry_interrupted(|| fs::metadata(path)) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a name in a folder of the repository leads to.
enum Seen {
    Folder,
    Object {
        size_bytes: u64,
    },
    /// A pipe, a socket or a device, which are not ours.
    Other,
}

fn look_at(entry: &fs::DirEntry) -> io::Result<Seen> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return Ok(Seen::Folder);
    }
    let metadata = if kind.is_symlink() { fs::metadata(entry.path())? } else { entry.metadata()? };
    Ok(match metadata {
        metadata if metadata.is_file() => Seen::Object { size_bytes: metadata.len() },
        metadata if metadata.is_dir() => Seen::Folder,
        _ => Seen::Other,
    })
}

fn refuse_other_things(root: &Path) -> io::Result<()> {
    if !retry_interrupted(|| fs::metadata(root))?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no folder"));
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !OWN_NAMES.iter().any(|own| name == *own) {
            let message = format!("the folder holds other things (`{}`); choose an empty one", name.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    Ok(())
}

/// Returns the size of a file. A folder is no object, so there it says that there is none.
fn object_size(metadata: &fs::Metadata) -> io::Result<u64> {
    match metadata {
        metadata if metadata.is_file() => Ok(metadata.len()),
        metadata if metadata.is_dir() => Err(Errno::NOENT.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

fn to_length(size_bytes: u64) -> io::Result<usize> {
    usize::try_from(size_bytes).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Makes the bytes of a file durable.
fn flush_content(file: &File) -> io::Result<()> {
    match file.sync_data() {
        // Apple's full flush is not known to network file systems, which have the plain one.
        Err(error) if cfg!(target_vendor = "apple") && is_unsupported(&error) => {
            retry_interrupted(|| Ok(rustix::fs::fsync(file)?))
        }
        result => result,
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems, CIFS among them, have no such call for folders and nothing in its place.
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(rustix::io::retry_on_intr(|| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_without_replacing(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

/// Tells the system that these bytes will not be read soon. Linux then begins to write them out, without waiting, and
/// frees the memory of those that are written. It is a hint: whether it is taken does not matter.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn advise_written(file: &File, offset: u64, length: u64) {
    let length = std::num::NonZeroU64::new(length);
    let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn advise_written(_file: &File, _offset: u64, _length: u64) {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::contract;
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    fn keys(storage: &LocalStorage, prefix: &str) -> Vec<String> {
        storage.list(prefix).unwrap().into_iter().map(|info| info.key.to_string()).collect()
    }

    fn leftovers(storage: &LocalStorage) -> usize {
        fs::read_dir(storage.root().join("tmp")).unwrap().count()
    }

    fn fixture() -> (tempfile::TempDir, LocalStorage) {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::create(folder.path().join("repo")).unwrap();
        (folder, storage)
    }

    #[test]
    fn a_folder_keeps_the_contract() {
        let (_folder, storage) = fixture();
        contract::check(&storage).unwrap();
        assert_eq!(leftovers(&storage), 0);
        let names: Vec<_> = fs::read_dir(storage.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["tmp"]);
    }

    #[test]
    fn a_file_system_without_the_strict_rename_keeps_the_contract() {
        let (_folder, storage) = fixture();
        storage.inner.publish_by_link.store(true, Ordering::Relaxed);
        contract::check(&storage).unwrap();
        assert_eq!(leftovers(&storage), 0);
    }

    #[test]
    fn a_repository_behind_a_link_keeps_the_contract() {
        let (folder, storage) = fixture();
        let link = folder.path().join("link");
        symlink(storage.root(), &link).unwrap();
        let linked = LocalStorage::open(&link).unwrap();
        contract::check(&linked).unwrap();
        assert_eq!(linked.location(), link.display().to_string());
    }

    #[test]
    fn what_was_put_is_found_when_opened_again() {
        let (_folder, storage) = fixture();
        storage.put(&key("packs/aa/1"), b"content").unwrap();
        storage.sync().unwrap();
        let again = LocalStorage::open(storage.root()).unwrap();
        assert_eq!(again.get(&key("packs/aa/1")).unwrap(), b"content");
        let taken = again.put(&key("packs/aa/1"), b"other").unwrap_err();
        assert_eq!(taken.kind, StorageErrorKind::AlreadyExists);
        assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), b"content");
        assert_eq!(leftovers(&storage), 0);
    }

    #[test]
    fn create_takes_empty_and_half_created_folders_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repo");
        let storage = LocalStorage::create(&path).unwrap();
        storage.put(&key("keys/1"), b"slot").unwrap();
        LocalStorage::create(&path).unwrap();

        fs::write(path.join("holiday.jpg"), b"").unwrap();
        let error = LocalStorage::create(&path).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
        assert_eq!(error.to_string(), format!("Cannot create `{}`", path.display()));
        assert_eq!(error.source.to_string(), "the folder holds other things (`holiday.jpg`); choose an empty one");

        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(LocalStorage::create(&file).unwrap_err().kind, StorageErrorKind::AlreadyExists);
        let deep = LocalStorage::create(folder.path().join("missing/repo")).unwrap_err();
        assert_eq!(deep.kind, StorageErrorKind::NotFound);
    }

    #[test]
    fn open_wants_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LocalStorage::open(folder.path().join("missing")).unwrap_err().is_not_found());
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(LocalStorage::open(&file).unwrap_err().kind, StorageErrorKind::Other);
    }

    #[test]
    fn only_the_owner_can_read() {
        let (_folder, storage) = fixture();
        storage.put(&key("packs/aa/1"), b"content").unwrap();
        let mut writer = storage.writer().unwrap();
        writer.append(b"content").unwrap();
        writer.finish(&key("packs/aa/2")).unwrap();
        for name in ["", "tmp", "packs", "packs/aa", "packs/aa/1", "packs/aa/2"] {
            let mode = fs::metadata(storage.root().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
        }
    }

    #[test]
    fn temporary_files_are_never_objects() {
        let (_folder, storage) = fixture();
        fs::write(storage.root().join("tmp/leftover"), b"half").unwrap();
        let mut writer = storage.writer().unwrap();
        writer.append(b"half").unwrap();
        assert_eq!(leftovers(&storage), 2);
        assert!(storage.list("").unwrap().is_empty());
        assert!(storage.list("tmp/").unwrap().is_empty());
        let hidden = key("tmp/leftover");
        assert!(storage.get(&hidden).unwrap_err().is_not_found());
        assert!(storage.get_range(&hidden, 0, 1, &mut Vec::new()).unwrap_err().is_not_found());
        assert!(storage.size(&hidden).unwrap_err().is_not_found());
        assert!(storage.delete(&hidden).unwrap_err().is_not_found());
        assert!(storage.put(&key("tmp/new"), b"x").is_err());
        drop(writer);
        LocalStorage::open(storage.root()).unwrap();
        assert_eq!(leftovers(&storage), 1);
    }

    #[test]
    fn a_copy_without_the_folder_for_temporary_files_can_be_written() {
        let (_folder, storage) = fixture();
        fs::remove_dir(storage.root().join("tmp")).unwrap();
        let copy = LocalStorage::open(storage.root()).unwrap();
        assert!(copy.list("").unwrap().is_empty());
        copy.put(&key("keys/1"), b"slot").unwrap();
    }

    #[test]
    fn foreign_files_are_ignored() {
        let (_folder, storage) = fixture();
        storage.put(&key("packs/aa/1"), b"content").unwrap();
        let root = storage.root();
        for name in [".DS_Store", "Thumbs.db", "packs/aa/.nfs0001", "packs/aa/1 (copy)", "packs/aa/1~"] {
            fs::write(root.join(name), b"foreign").unwrap();
        }
        fs::create_dir(root.join("lost+found")).unwrap();
        fs::write(root.join("lost+found/1"), b"foreign").unwrap();
        symlink("nowhere", root.join("packs/aa/2")).unwrap();
        assert_eq!(keys(&storage, ""), ["packs/aa/1"]);
        assert_eq!(keys(&storage, "packs/"), ["packs/aa/1"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_an_error() {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, storage) = fixture();
        storage.put(&key("packs/aa/1"), b"content").unwrap();
        let packs = storage.root().join("packs/aa");
        fs::set_permissions(&packs, fs::Permissions::from_mode(0o000)).unwrap();
        for prefix in ["", "packs/", "packs/aa/"] {
            assert_eq!(storage.list(prefix).unwrap_err().kind, StorageErrorKind::PermissionDenied, "{prefix}");
        }
        let read = storage.get(&key("packs/aa/1")).unwrap_err();
        assert_eq!(read.kind, StorageErrorKind::PermissionDenied);
        fs::set_permissions(&packs, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_file_in_a_folders_place_is_an_error() {
        let (_folder, storage) = fixture();
        fs::write(storage.root().join("packs"), b"").unwrap();
        assert!(storage.list("packs/").is_err());
        assert!(!storage.get(&key("packs/aa/1")).unwrap_err().is_not_found());
        assert!(storage.put(&key("packs/aa/1"), b"content").is_err());
        assert_eq!(leftovers(&storage), 0);
    }

    #[test]
    fn a_repository_that_vanished_is_not_an_empty_one() {
        let (folder, storage) = fixture();
        storage.put(&key("packs/aa/1"), b"content").unwrap();
        let writer = storage.writer().unwrap();
        let away = folder.path().join("away");
        fs::rename(storage.root(), &away).unwrap();
        let check = |what: &str| {
            let failures = [
                storage.get(&key("packs/aa/1")).map(drop),
                storage.get_range(&key("packs/aa/1"), 0, 1, &mut Vec::new()),
                storage.size(&key("packs/aa/1")).map(drop),
                storage.list("").map(drop),
                storage.list("packs/").map(drop),
                storage.delete(&key("packs/aa/1")),
                storage.put(&key("packs/aa/2"), b"content"),
                storage.writer().map(drop),
                storage.sync(),
            ];
            for (n, failure) in failures.into_iter().enumerate() {
                assert_eq!(failure.unwrap_err().kind, StorageErrorKind::Other, "{what}: {n}");
            }
        };
        check("the folder is gone");
        fs::create_dir(storage.root()).unwrap();
        check("an empty folder is in its place");
        assert_eq!(writer.finish(&key("packs/aa/3")).unwrap_err().kind, StorageErrorKind::Other);
        assert_eq!(fs::read_dir(storage.root()).unwrap().count(), 0);

        fs::remove_dir(storage.root()).unwrap();
        fs::rename(&away, storage.root()).unwrap();
        assert!(!lock(&storage.inner.unsynced).is_empty(), "a failed sync forgot what is to be done");
        storage.sync().unwrap();
        assert!(lock(&storage.inner.unsynced).is_empty());
        assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), b"content");
    }

    #[test]
    fn an_object_cut_short_is_told() {
        let (_folder, storage) = fixture();
        let pack = key("packs/aa/1");
        storage.put(&pack, &[7; 100]).unwrap();
        let mut buffer = vec![1; 200];
        storage.get_range(&pack, 50, 50, &mut buffer).unwrap();
        assert_eq!(buffer, [7; 50]);
        File::options().write(true).open(storage.root().join("packs/aa/1")).unwrap().set_len(60).unwrap();
        let error = storage.get_range(&pack, 50, 50, &mut buffer).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::TooShort);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_senseless_length_takes_no_memory() {
        let (_folder, storage) = fixture();
        let pack = key("packs/aa/1");
        storage.put(&pack, b"content").unwrap();
        let error = storage.get_range(&pack, 0, usize::MAX, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::TooShort);
    }

    #[test]
    fn few_packs_are_kept_open_and_deleted_ones_are_not() {
        let (_folder, storage) = fixture();
        let packs: Vec<_> = (0..OPEN_PACKS_MAX + 4).map(|n| key(&format!("packs/aa/{n}"))).collect();
        let mut buffer = Vec::new();
        for pack in &packs {
            storage.put(pack, pack.as_str().as_bytes()).unwrap();
            for _ in 0..2 {
                storage.get_range(pack, 0, 5, &mut buffer).unwrap();
            }
        }
        let open = || lock(&storage.inner.open_packs).packs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(open(), packs[4..]);
        storage.get_range(&packs[4], 0, 5, &mut buffer).unwrap();
        assert_eq!(open().last(), Some(&packs[4]));

        storage.delete(&packs[4]).unwrap();
        assert!(!open().contains(&packs[4]));
        assert!(storage.get_range(&packs[4], 0, 5, &mut buffer).unwrap_err().is_not_found());

        let deletions = lock(&storage.inner.open_packs).deletions;
        let pack = Arc::new(storage.inner.open_object(&packs[0]).unwrap());
        storage.delete(&packs[0]).unwrap();
        lock(&storage.inner.open_packs).keep(&packs[0], &pack, deletions);
        assert!(!open().contains(&packs[0]), "a pack opened before its deletion was kept after it");
    }

    #[test]
    fn a_writer_that_failed_cannot_finish() {
        let (_folder, storage) = fixture();
        let temp = storage.inner.temp_file().unwrap();
        let read_only = File::open(&temp.path).unwrap();
        let temp = TempFile { path: temp.path.clone(), file: read_only, remove: true };
        let inner = Arc::clone(&storage.inner);
        let mut writer = Box::new(LocalWriter { inner, temp, written_bytes: 0, handed_over_bytes: 0, failed: false });
        writer.append(b"content").unwrap_err();
        writer.finish(&key("packs/aa/1")).unwrap_err();
        assert!(storage.list("").unwrap().is_empty());
    }

    #[test]
    fn folders_vanish_with_their_last_object_and_writers_do_not_mind() {
        let (_folder, storage) = fixture();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let storage = LocalStorage::open(storage.root()).unwrap();
                scope.spawn(move || {
                    for n in 0..50 {
                        let key = key(&format!("sessions/shared/{worker}-{n}"));
                        storage.put(&key, b"heartbeat").unwrap();
                        storage.list("sessions/").unwrap();
                        storage.sync().unwrap();
                        storage.delete(&key).unwrap();
                    }
                });
            }
        });
        assert!(!storage.root().join("sessions").exists());
        assert_eq!(leftovers(&storage), 0);
    }

    #[test]
    fn of_several_processes_one_wins() {
        let (_folder, storage) = fixture();
        let wins = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for worker in 0..8_u8 {
                let storage = LocalStorage::open(storage.root()).unwrap();
                // One half publishes by link, as a machine with an older file system driver would.
                storage.inner.publish_by_link.store(worker.is_multiple_of(2), Ordering::Relaxed);
                let wins = &wins;
                scope.spawn(move || match storage.put(&key("gc/1/done"), &[worker; 1000]) {
                    Ok(()) => _ = wins.fetch_add(1, Ordering::Relaxed),
                    Err(error) => assert_eq!(error.kind, StorageErrorKind::AlreadyExists),
                });
            }
        });
        assert_eq!(wins.load(Ordering::Relaxed), 1);
    }
}
