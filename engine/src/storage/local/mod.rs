//! `LocalStorage`: a repository in a folder, on a disk of this machine or one mounted from another.
//!
//! An object is a file; the parts of its key are the folders above it. It is written to `tmp/`, flushed, and renamed to
//! its name by a call that refuses to replace, so under its name it is seen whole or not at all. The name is durable
//! once the folders above it are flushed, which [`Storage::sync`] does for many objects together.
//!
//! What a dead process leaves in `tmp/` is harmless: no key leads there, and [`Storage::sweep`] removes it.
//!
//! Links are followed as the system does, so the folder of a repository may be reached through one. A key itself cannot
//! name anything outside the folder.

mod calls;
mod listing;
mod open_packs;
mod reserve;
mod temp;
mod writer;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::storage::{
    Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind,
};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use calls::{
    flush_content, folder_exists, is_unsupported, make_folder, rename_without_replacing, retry_interrupted, sync_folder,
};
use open_packs::{OpenObject, OpenPacks};
use temp::TempFile;
use writer::LocalWriter;

/// Small enough that a run which is cut off loses little, large enough that a flush per pack does not count.
const PACK_TARGET_BYTES: u64 = 32 << 20;

/// How often a folder is made again that others remove, as empty, before we could use it.
const PUBLISH_ATTEMPTS: usize = 64;

const TEMP_FOLDER: &str = "tmp";
const RESERVE_FILE: &str = "reserve";
const PACKS_PREFIX: &str = "packs/";

/// What a folder may hold already when a repository is created in it: the names of our layout, left by a creation that
/// was cut off, and the folder that a fresh ext4 disk comes with.
const OWN_NAMES: [&str; 16] = [
    TEMP_FOLDER,
    RESERVE_FILE,
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
    /// Bytes of the reserve that was released: as many are to be held back again.
    reserve_given_up: AtomicU64,
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
            reserve_given_up: AtomicU64::new(0),
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
        // A repository without a reserve is whole.
        let _ = reserve::take(&root.join(RESERVE_FILE), 0);
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
            flush_content(&temp.file)?;
            self.inner.give_name(&mut temp, key)
        };
        write().map_err(|source| write_error(key, source))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        let temp = self.inner.temp_file().map_err(|source| write_error(self.location(), source))?;
        Ok(Box::new(LocalWriter::new(Arc::clone(&self.inner), temp)))
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
        let kept = buffer.len();
        let read = self.inner.read_range(key, offset, length, buffer);
        read.map_err(|source| {
            buffer.truncate(kept);
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

    fn release_reserve(&self) -> Result<bool, StorageError> {
        let path = self.inner.root.join(RESERVE_FILE);
        let given_up = reserve::give_up(&path).map_err(|source| StorageError::new("delete", path.display(), source))?;
        self.inner.reserve_given_up.fetch_max(given_up, Ordering::Relaxed);
        Ok(given_up > 0)
    }

    fn restore_reserve(&self) -> Result<(), StorageError> {
        let path = self.inner.root.join(RESERVE_FILE);
        let given_up = self.inner.reserve_given_up.load(Ordering::Relaxed);
        let take = || if self.inner.is_in_place() { reserve::take(&path, given_up) } else { Err(self.inner.gone()) };
        take().map_err(|source| write_error(path.display(), source))
    }

    fn sweep(&self) -> Result<u64, StorageError> {
        let folder = self.inner.root.join(TEMP_FOLDER);
        let swept = self.inner.temp_file().and_then(|temp| temp.remove_abandoned_neighbours());
        swept.map_err(|source| StorageError::new("delete what is abandoned in", folder.display(), source))
    }
}

impl Inner {
    /// Returns the path of an object, or nothing for a key that no object can have here.
    ///
    /// The parts of a key are plain names, none of them `..`, so the path stays below the root.
    fn path_of(&self, key: &ObjectKey) -> Option<PathBuf> {
        (!is_reserved(key.as_str())).then(|| self.root.join(key.as_str()))
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
        match TempFile::create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore_temp_folder()?;
                TempFile::create(&folder)
            }
            result => result,
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

    /// Moves a file whose content is durable to its name.
    ///
    /// Nothing is lost by an error of the close that follows: all bytes were flushed before.
    fn give_name(&self, temp: &mut TempFile, key: &ObjectKey) -> io::Result<()> {
        let Some(target) = self.path_of(key) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this name is reserved"));
        };
        // The folder is nearly always there; asking first would cost a call for every object.
        for _ in 0..PUBLISH_ATTEMPTS {
            match self.move_without_replacing(temp, &target) {
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
        buffer.try_reserve_exact(length)?;
        let kept = buffer.len();
        // Into room that is just enough it is read as it is; of more room the kernel would fill more than was asked for.
        let mut done = 0;
        while buffer.capacity() - kept == length && done < length {
            let at = offset + done as u64;
            match retry_interrupted(|| Ok(rustix::io::pread(&object.file, spare_capacity(buffer), at)?))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        buffer.resize(kept + length, 0);
        object.file.read_exact_at(&mut buffer[kept + done..], offset + done as u64)
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

/// What these mutexes guard is whole between any two of our statements, so a panic elsewhere left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells whether a key or prefix leads to what is in the repository's folder and is no object.
fn is_reserved(key: &str) -> bool {
    let first = key.split('/').next();
    [TEMP_FOLDER, RESERVE_FILE].iter().any(|reserved| first == Some(reserved))
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

#[cfg(test)]
mod tests;
