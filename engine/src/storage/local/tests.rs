//! Tests of [`LocalStorage`] that look into its folder.

use std::os::unix::fs::{PermissionsExt, symlink};

use std::sync::atomic::AtomicU64;

use super::super::contract;
use super::open_packs::OPEN_PACKS_MAX;
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
    let names = fs::read_dir(storage.root()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<_> = names.filter(|name| name != "reserve").collect();
    assert_eq!(names, BTreeSet::from(["tmp".into()]));
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
fn the_reserve_is_no_object() {
    let (_folder, storage) = fixture();
    storage.restore_reserve().unwrap();
    let file = storage.root().join("reserve");
    assert!(storage.list("").unwrap().is_empty());
    assert!(storage.list("reserve/").unwrap().is_empty());
    for hidden in [key("reserve"), key("reserve/1")] {
        assert!(storage.get(&hidden).unwrap_err().is_not_found());
        assert!(storage.size(&hidden).unwrap_err().is_not_found());
        assert!(storage.delete(&hidden).unwrap_err().is_not_found());
        assert_ne!(storage.put(&hidden, b"x").unwrap_err().kind, StorageErrorKind::AlreadyExists);
    }
    if let Ok(metadata) = fs::metadata(&file) {
        assert_eq!(metadata.len(), 0);
        assert_eq!(metadata.mode() & 0o777, 0o600);
    }
}

#[test]
fn the_reserve_is_held_released_and_held_again() {
    let (_folder, storage) = fixture();
    let file = storage.root().join("reserve");
    let Ok(metadata) = fs::metadata(&file) else {
        eprintln!("skipped: {} cannot hold blocks back", file.display());
        return;
    };
    assert!(metadata.blocks() * 512 >= 4 << 20);
    assert!(storage.release_reserve().unwrap());
    assert!(!file.exists());
    assert!(!storage.release_reserve().unwrap());
    storage.restore_reserve().unwrap();
    // A copy of a repository has the name without the blocks.
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"").unwrap();
    assert!(!storage.release_reserve().unwrap());
    fs::write(&file, b"").unwrap();
    storage.restore_reserve().unwrap();
    storage.restore_reserve().unwrap();
    assert!(storage.release_reserve().unwrap());
}

/// Sets the time of a temporary file back, as the clock of the medium has it.
fn age(path: &Path, secs: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: fs::metadata(path).unwrap().mtime() - secs, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
}

#[test]
fn what_the_dead_left_is_swept_and_nothing_else() {
    let (_folder, storage) = fixture();
    let folder = storage.root().join("tmp");
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let own = std::process::id();
    let hours = |n: i64| n * 3600;
    let swept = [
        (format!("{dead}-0123456789abcdef-0"), hours(25)),
        (format!("{dead}-0123456789abcdef-1"), hours(24 * 365)),
        // Our number, but another time that it was given.
        (format!("{own}-0123456789abcdef-0"), hours(25)),
    ];
    let kept = [
        (format!("{dead}-0123456789abcdef-2"), hours(23)),
        (format!("{dead}-0123456789abcdef-3"), hours(-1000)),
        ("1-0123456789abcdef-0".to_owned(), hours(1000)),
        ("holiday.jpg".to_owned(), hours(1000)),
        (format!("{dead}-0123456789abcdef"), hours(1000)),
        (format!("{dead}-xyz-0"), hours(1000)),
        ("0-0123456789abcdef-0".to_owned(), hours(1000)),
    ];
    for (name, secs) in swept.iter().chain(&kept) {
        fs::write(folder.join(name), [7; 10_000]).unwrap();
        age(&folder.join(name), *secs);
    }
    let mut writer = storage.writer().unwrap();
    writer.append(b"content").unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !swept.iter().chain(&kept).any(|(name, _)| path.ends_with(name)) {
            age(&path, hours(1000));
        }
    }
    // A second name of an object frees nothing.
    storage.put(&key("keys/1"), b"slot").unwrap();
    let linked = folder.join(format!("{dead}-0123456789abcdef-4"));
    fs::hard_link(storage.root().join("keys/1"), &linked).unwrap();
    age(&linked, hours(25));

    assert!((3 * 10_000..3 * 20_000).contains(&storage.sweep().unwrap()));
    assert!(swept.iter().all(|(name, _)| !folder.join(name).exists()));
    assert!(kept.iter().all(|(name, _)| folder.join(name).exists()));
    assert!(!linked.exists());
    assert_eq!(storage.sweep().unwrap(), 0);
    writer.finish(&key("packs/aa/1")).unwrap();
    assert_eq!(storage.get(&key("packs/aa/1")).unwrap(), b"content");
    assert_eq!(storage.get(&key("keys/1")).unwrap(), b"slot");
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
    let mut writer = storage.writer().unwrap();
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
            storage.restore_reserve(),
            storage.sweep().map(drop),
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
    storage.get_range(&pack, 50, 50, &mut Vec::new()).unwrap();
    File::options().write(true).open(storage.root().join("packs/aa/1")).unwrap().set_len(60).unwrap();
    for room in [0, 1000] {
        let mut buffer = Vec::with_capacity(room);
        let error = storage.get_range(&pack, 50, 50, &mut buffer).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::TooShort);
        assert!(buffer.is_empty());
    }
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
    let mut writer = LocalWriter::new(Arc::clone(&storage.inner), temp);
    writer.append(b"content").unwrap_err();
    writer.append(b"").unwrap_err();
    writer.finish(&key("packs/aa/1")).unwrap_err();
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
