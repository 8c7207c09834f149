//! What a status says, in the same types on every system, and the entry that it makes.
#![allow(clippy::unnecessary_cast, reason = "the widths of the fields differ from system to system")]

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::time::Timestamp;
use rustix::fs::{FileType, Stat};

pub(super) fn device(stat: &Stat) -> u64 {
    stat.st_dev as u64
}

pub(super) fn inode(stat: &Stat) -> u64 {
    stat.st_ino as u64
}

pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (device(stat), inode(stat))
}

pub(super) fn special_device(stat: &Stat) -> u64 {
    stat.st_rdev as u64
}

pub(super) fn mode(stat: &Stat) -> u32 {
    stat.st_mode as u32 & 0o7777
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub(super) fn mtime(stat: &Stat) -> Timestamp {
    time(stat.st_mtime as i64, stat.st_mtime_nsec as i64)
}

pub(super) fn ctime(stat: &Stat) -> Timestamp {
    time(stat.st_ctime as i64, stat.st_ctime_nsec as i64)
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    // a file system that gives impossible nanoseconds is taken by its seconds
    let nanos = u32::try_from(nanos).unwrap_or(0);
    Timestamp::new(secs, nanos).unwrap_or(Timestamp { secs, nanos: 0 })
}

fn entry_kind(kind: FileType) -> Option<EntryKind> {
    Some(match kind {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// Builds an entry without what only [`SourceDir::complete`] finds out; `None` for a kind that nobody knows.
pub(super) fn entry_of(name: &[u8], stat: &Stat) -> Option<Entry> {
    let mut entry = Entry::new(name, entry_kind(FileType::from_raw_mode(stat.st_mode))?);
    entry.mode = mode(stat);
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.mtime = mtime(stat);
    entry.ctime = ctime(stat);
    entry.inode = inode(stat);
    if entry.kind == EntryKind::File {
        entry.size = size(stat);
    }
    if stat.st_nlink > 1 && entry.kind != EntryKind::Directory {
        entry.hard_link_device = Some(device(stat));
    }
    if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        entry.device = special_device(stat);
    }
    Some(entry)
}

/// Tells whether what was opened is what was listed.
pub(super) fn is_same(stat: &Stat, expected: &Entry) -> bool {
    inode(stat) == expected.inode && entry_kind(FileType::from_raw_mode(stat.st_mode)) == Some(expected.kind)
}
