//! Local storage on disks that are full: what was put stays whole, and the reserve lets a little more be written.

use std::path::Path;
use std::sync::Arc;

use lakebed_engine::core::storage::{ObjectKey, ObjectWriter, Storage, StorageErrorKind};
use lakebed_engine::storage::{LocalStorage, WithReserve, contract};
use lakebed_testkit::disk::{Disk, with_mounts};
use lakebed_testkit::tree::Content;

const DISK_BYTES: u64 = 24 << 20;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

/// Runs a test on every kind of disk that this machine can make.
fn on_small_disks(test: impl Fn(&Disk) + Sync) {
    let folder = tempfile::tempdir().unwrap();
    with_mounts(|mounts| {
        test(&mounts.disk(&folder.path().join("memory"), DISK_BYTES));
        if let Some(disk) = mounts.ext4_disk(&folder.path().join("ext4"), DISK_BYTES) {
            test(&disk);
        }
    });
}

fn create(disk: &Disk) -> LocalStorage {
    LocalStorage::create(disk.path().join("repo")).unwrap()
}

fn leftovers(disk: &Disk) -> usize {
    std::fs::read_dir(disk.path().join("repo/tmp")).unwrap().count()
}

fn reserve_blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path.join("repo/reserve")).map_or(0, |metadata| metadata.blocks())
}

/// Appends parts until the disk is full, and returns what was appended.
fn append_until_full(writer: &mut dyn ObjectWriter, parts: &mut impl Iterator<Item = Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let mut written = Vec::new();
    loop {
        let part = parts.next().unwrap();
        match writer.append(&part) {
            Ok(()) => written.extend(&part),
            Err(error) => {
                assert_eq!(error.kind, StorageErrorKind::NoSpace);
                return (written, part);
            }
        }
    }
}

/// Parts of odd lengths, so that what fits of the last one ends anywhere.
fn parts() -> impl Iterator<Item = Vec<u8>> {
    (0..).map(|n| Content::random(n, 50_000 + n * 77).bytes())
}

#[test]
fn the_reserve_is_there_when_nothing_else_is() {
    on_small_disks(|disk| {
        let storage = create(disk);
        assert!(reserve_blocks(disk.path()) * 512 >= 4 << 20);
        storage.put(&key("keys/1"), b"before").unwrap();
        disk.fill();
        let record = vec![7; 20_000];
        assert_eq!(storage.put(&key("gc/1/claim"), &record).unwrap_err().kind, StorageErrorKind::NoSpace);
        assert_eq!(leftovers(disk), 0);

        let with_reserve = WithReserve::new(Arc::new(storage.clone()));
        with_reserve.put(&key("gc/1/claim"), &record).unwrap();
        let mut writer = with_reserve.writer().unwrap();
        for part in parts().take(20) {
            writer.append(&part).unwrap();
        }
        writer.finish(&key("packs/aa/1")).unwrap();
        drop(writer);
        assert_eq!(reserve_blocks(disk.path()), 0);
        assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), parts().take(20).flatten().collect::<Vec<_>>());
        assert_eq!(storage.get(&key("gc/1/claim")).unwrap(), record);
        assert_eq!(storage.get(&key("keys/1")).unwrap(), b"before");

        // where there is no room for all of it there is a smaller one
        with_reserve.restore_reserve().unwrap();
        assert!((256 << 10..4 << 20).contains(&(reserve_blocks(disk.path()) * 512)));
        // and it is no failure that there is room for none
        assert!(with_reserve.release_reserve().unwrap());
        disk.fill();
        with_reserve.restore_reserve().unwrap();
        assert_eq!(reserve_blocks(disk.path()), 0);
        disk.empty();
        drop(with_reserve);
        assert!(reserve_blocks(disk.path()) * 512 >= 4 << 20);
        contract::check(&storage).unwrap();
    });
}

#[test]
fn an_append_that_found_no_room_leaves_nothing_in_the_middle() {
    on_small_disks(|disk| {
        let storage = create(disk);
        disk.fill_up_to(300_000);
        let mut writer = storage.writer().unwrap();
        let mut parts = parts();
        let (mut expected, refused) = append_until_full(&mut *writer, &mut parts);
        assert!(!expected.is_empty());
        // a smaller one may still fit, or not: the object holds exactly what was taken
        let small = Content::random(99, 333).bytes();
        if writer.append(&small).is_ok() {
            expected.extend(&small);
        }
        disk.empty();
        for part in [refused, parts.next().unwrap()] {
            writer.append(&part).unwrap();
            expected.extend(&part);
        }
        writer.finish(&key("packs/aa/1")).unwrap();
        assert!(writer.append(b"more").is_err());
        drop(writer);
        assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), expected);
        assert_eq!(leftovers(disk), 0);
    });
}

#[test]
fn an_append_that_finds_no_room_goes_on_in_the_reserve() {
    on_small_disks(|disk| {
        let storage = WithReserve::new(Arc::new(create(disk)));
        disk.fill_up_to(300_000);
        let mut writer = storage.writer().unwrap();
        let mut parts = parts();
        let (written, _) = append_until_full(&mut *writer, &mut parts);
        assert!(written.len() > 4 << 20, "only {} bytes were taken", written.len());
        disk.empty();
        writer.finish(&key("packs/aa/1")).unwrap();
        assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), written);
    });
}

/// Names and the folders that they are in need room too, on a disk whose file system keeps them in blocks.
#[test]
fn a_name_that_finds_no_room_is_given_in_the_reserve() {
    on_small_disks(|disk| {
        let storage = create(disk);
        let with_reserve = WithReserve::new(Arc::new(storage.clone()));
        let mut writers: Vec<_> = (0..200).map(|_| with_reserve.writer().unwrap()).collect();
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.append(format!("content {n}").as_bytes()).unwrap();
        }
        disk.fill();
        let name = |n: usize| key(&format!("packs/{n:02x}/{}", "0123456789abcdef".repeat(4)));
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.finish(&name(n)).unwrap();
        }
        drop(writers);
        for n in 0..200 {
            assert_eq!(storage.get(&name(n)).unwrap(), format!("content {n}").as_bytes());
        }
        assert_eq!(leftovers(disk), 0);
    });
}

#[test]
fn what_the_dead_left_is_swept_from_a_full_disk() {
    on_small_disks(|disk| {
        let storage = create(disk);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = disk.path().join(format!("repo/tmp/{}-0123456789abcdef-0", child.id()));
        std::fs::write(&dead, vec![1; 2 << 20]).unwrap();
        let file = std::fs::File::options().write(true).open(&dead).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        drop(file);
        disk.fill();
        let freed = WithReserve::new(Arc::new(storage.clone())).sweep().unwrap();
        assert!(freed >= 2 << 20);
        storage.put(&key("keys/1"), &[7; 100_000]).unwrap();
    });
}
