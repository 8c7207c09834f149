//! Harm done to the objects of a repository folder, behind the back of whoever uses it, and undone afterwards.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use lakebed_core::time::Timestamp;

use crate::access::{mtime_of, set_mode, set_mtime, with_unlocked};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One byte gets another value.
    FlipByte {
        /// Where, counted from the start; what is at or after the end means the last byte.
        offset: u64,
        /// Which bits change. Not 0.
        mask: u8,
    },
    /// The end is missing.
    Truncate {
        /// The length that is left; it must be less than there was.
        length: u64,
    },
    /// All bytes are missing, the name is there.
    Empty,
    /// The object is gone.
    Delete,
}

impl Damage {
    /// Returns one of each for an object of that length: first, middle and last byte, cut short a bit and by half, ...
    pub fn typical(length: u64) -> Vec<Self> {
        let mut all = Vec::new();
        if length > 0 {
            let mut offsets = vec![0, length / 2, length - 1];
            offsets.dedup();
            all.extend(offsets.into_iter().map(|offset| Self::FlipByte { offset, mask: 0x40 }));
            let mut lengths = vec![length - 1, length / 2];
            lengths.retain(|&length| length > 0);
            lengths.dedup();
            all.extend(lengths.into_iter().map(|length| Self::Truncate { length }));
            all.push(Self::Empty);
        }
        all.push(Self::Delete);
        all
    }
}

/// Returns the regular files below a folder, sorted by path, without the reserve of a repository, which holds nothing.
///
/// # Panics
/// A folder that cannot be listed.
pub fn object_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("list {}: {e}", folder.display())) {
            let entry = entry.unwrap_or_else(|e| panic!("list {}: {e}", folder.display()));
            match entry.file_type().unwrap_or_else(|e| panic!("look at {}: {e}", entry.path().display())) {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() && entry.file_name() != "reserve" => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Damages an object in place and returns what undoes it.
///
/// # Panics
/// The object is not there, or cannot be damaged so: an empty one has no byte to flip.
pub fn damage(path: &Path, how: Damage) -> Undo {
    let undo = Undo::of(&[path]);
    let length = fs::metadata(path).unwrap_or_else(|e| panic!("look at {}: {e}", path.display())).len();
    match how {
        Damage::FlipByte { offset, mask } => {
            assert!(length > 0 && mask != 0, "{}: no byte, or no bit of it, to flip", path.display());
            let offset = offset.min(length - 1);
            in_place(path, |file| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset)?;
                file.write_all_at(&[byte[0] ^ mask], offset)
            });
        }
        Damage::Truncate { length: left } => {
            assert!(left < length, "{}: {left} of {length} bytes is no damage", path.display());
            in_place(path, |file| file.set_len(left));
        }
        Damage::Empty => in_place(path, |file| file.set_len(0)),
        Damage::Delete => remove(path),
    }
    undo
}

/// Gives each of two objects the bytes of the other and returns what undoes it.
///
/// # Panics
/// One is not there, or they are equal.
pub fn swap(a: &Path, b: &Path) -> Undo {
    let undo = Undo::of(&[a, b]);
    let (of_a, of_b) = (read(a), read(b));
    assert!(of_a != of_b, "{} and {} are equal", a.display(), b.display());
    overwrite(a, &of_b);
    overwrite(b, &of_a);
    undo
}

/// Gives an object other bytes, or makes one that should not be there, and returns what undoes it.
///
/// # Panics
/// The object cannot be written.
pub fn plant(path: &Path, bytes: &[u8]) -> Undo {
    let undo = Undo::of(&[path]);
    overwrite(path, bytes);
    undo
}

/// Gives objects back the bytes that they had, when it is dropped.
#[derive(Debug)]
#[must_use = "the damage is undone as soon as this is dropped"]
pub struct Undo(Vec<(PathBuf, Option<Original>)>);

#[derive(Debug)]
struct Original {
    bytes: Vec<u8>,
    mode: u32,
    mtime: Timestamp,
}

impl Undo {
    fn of(paths: &[&Path]) -> Self {
        Self(paths.iter().map(|path| (path.to_path_buf(), Original::of(path))).collect())
    }

    /// Leaves the damage as it is.
    pub fn keep(mut self) {
        self.0.clear();
    }

    /// Undoes the damage now.
    pub fn restore(self) {}
}

impl Original {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let mode = metadata.mode() & 0o7777;
        Some(Self { bytes: with_unlocked(path, || read(path)), mode, mtime: mtime_of(&metadata) })
    }
}

impl Drop for Undo {
    /// Also what was repaired, replaced or removed meanwhile becomes what it was.
    fn drop(&mut self) {
        for (path, original) in self.0.drain(..) {
            match original {
                Some(Original { bytes, mode, mtime }) => {
                    overwrite(&path, &bytes);
                    set_mode(&path, mode);
                    set_mtime(&path, mtime);
                }
                None if path.exists() => remove(&path),
                None => {}
            }
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().expect("an object lies in a folder")
}

fn read(path: &Path) -> Vec<u8> {
    with_unlocked(path, || fs::read(path)).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn remove(path: &Path) {
    with_unlocked(parent_of(path), || fs::remove_file(path))
        .unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
}

fn in_place(path: &Path, change: impl FnOnce(&fs::File) -> std::io::Result<()>) {
    with_unlocked(path, || OpenOptions::new().read(true).write(true).open(path).and_then(|file| change(&file)))
        .unwrap_or_else(|e| panic!("damage {}: {e}", path.display()));
}

/// Writes the bytes of an object, which need not be there.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(parent_of(path)).unwrap_or_else(|e| panic!("make the folder of {}: {e}", path.display()));
    with_unlocked(parent_of(path), || with_unlocked(path, || fs::write(path, bytes)))
        .unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{CompareOptions, assert_tree_is, snapshot_of};
    use crate::tree::{Content, Item, TreeSpec};

    fn repository() -> (tempfile::TempDir, Vec<PathBuf>) {
        let temp = tempfile::tempdir().unwrap();
        let content = |seed| Item::file(Content::random(seed, 1000)).mode(0o444);
        TreeSpec::new().with("packs/0a/x", content(1)).with("packs/0b/y", content(2)).write(temp.path());
        let objects = object_files(temp.path());
        (temp, objects)
    }

    fn lax() -> CompareOptions {
        CompareOptions { ignore_directory_mtimes: true, ..CompareOptions::default() }
    }

    #[test]
    fn every_damage_is_done_and_undone() {
        let (temp, objects) = repository();
        assert_eq!(objects, ["packs/0a/x", "packs/0b/y"].map(|name| temp.path().join(name)));
        let before = snapshot_of(temp.path());
        let original = fs::read(&objects[0]).unwrap();
        assert_eq!(Damage::typical(1000).len(), 7);
        for how in Damage::typical(1000) {
            let undo = damage(&objects[0], how);
            let now = fs::read(&objects[0]).ok();
            match how {
                Damage::FlipByte { offset, mask } => {
                    let mut expected = original.clone();
                    expected[offset as usize] ^= mask;
                    assert_eq!(now, Some(expected));
                }
                Damage::Truncate { length } => assert_eq!(now.as_deref(), Some(&original[..length as usize])),
                Damage::Empty => assert_eq!(now, Some(Vec::new())),
                Damage::Delete => assert_eq!(now, None),
            }
            undo.restore();
            assert_tree_is(&before, temp.path(), &lax());
        }
    }

    #[test]
    fn small_objects_have_fewer_ways_to_be_damaged() {
        assert_eq!(Damage::typical(0), [Damage::Delete]);
        let flip = Damage::FlipByte { offset: 0, mask: 0x40 };
        assert_eq!(Damage::typical(1), [flip, Damage::Empty, Damage::Delete]);
    }

    #[test]
    fn swapped_and_planted_objects_are_put_right_again() {
        let (temp, objects) = repository();
        let before = snapshot_of(temp.path());
        let (x, y) = (fs::read(&objects[0]).unwrap(), fs::read(&objects[1]).unwrap());
        let undo = swap(&objects[0], &objects[1]);
        assert_eq!((fs::read(&objects[0]).unwrap(), fs::read(&objects[1]).unwrap()), (y, x));
        drop(undo);
        let foreign = temp.path().join("packs/0b/foreign");
        let undo = plant(&foreign, b"what is this");
        assert_eq!(object_files(temp.path()).len(), 3);
        drop(undo);
        assert_tree_is(&before, temp.path(), &lax());
    }

    #[test]
    fn damage_can_be_kept() {
        let (_temp, objects) = repository();
        damage(&objects[0], Damage::Delete).keep();
        assert!(!objects[0].exists());
    }
}
