//! Packs and index segments that are damaged or missing: what of them is saved, and what heals them.

use super::*;

#[test]
fn what_can_be_read_of_a_damaged_pack_is_saved() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let pack =
        packs(&repository, FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let pack_bytes = storage.get(&pack).unwrap();
    let known = repository.store().list_packs().unwrap();
    flip(&*storage, &pack, pack_bytes.len() / 2);
    let snapshots = live(&repository);
    let (planned, report) = repair(&storage);
    assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Salvage { .. })), "{planned:#?}");
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(!salvage.affected.is_empty() && salvage.problem.contains("damaged at offset"), "{salvage:#?}");
    assert!(report.salvaged > 0);
    assert!(storage.get(&key(&format!("quarantine/{pack}"))).unwrap() != pack_bytes);
    assert!(storage.size(&pack).is_err());
    // what was saved is stored as it was: many chunks in a frame
    let repository = open(&storage);
    let all = repository.index(&Silent).unwrap().all().unwrap();
    let saved: Vec<_> = all.into_iter().filter(|(_, place)| !known.contains_key(&place.pack)).collect();
    let frames: BTreeSet<_> = saved.iter().map(|(_, place)| (place.pack, place.frame_offset)).collect();
    assert!(saved.len() as u64 >= report.salvaged && frames.len() * 4 < saved.len(), "{} frames", frames.len());
    // one frame is lost, so less than the whole
    for (original, made) in &report.snapshots {
        let old = snapshots.iter().find(|info| info.id == *original).unwrap();
        let lost = made.snapshot.failures.len() as u64;
        // a frame holds a megabyte at most: so many of these files
        assert!((1..=30).contains(&lost), "{made:#?}");
        assert_eq!(made.snapshot.summary.files, old.snapshot.summary.files - lost);
        let reference = Original { repository: repository.info().id, snapshot: *original };
        assert_eq!(made.snapshot.original, Some(reference));
        let failure = &made.snapshot.failures[0];
        assert!(failure.reason.starts_with("lost in the repository: The chunk"), "{failure:?}");
    }
    assert_eq!(report.snapshots.len(), snapshots.iter().filter(|info| info.snapshot.summary.files > 5).count());
    assert_eq!(report.remaining.losses.len(), report.snapshots.len());

    // the source still has everything: with the next backup the old snapshots are whole again
    backup(&repository, std::slice::from_ref(&base.source));
    let restored = restore_to(&repository, &latest(&repository), &base.place.path("out"), &base.source);
    assert_same_tree(&base.source, &restored, &CompareOptions::default());
    let repository = open(&storage);
    assert!(plan(&repository, &read_all(), &Silent).unwrap().is_good());
    assert_good(&repository);
}

/// Of a pack that much is lost with, the plan names some of it and counts the rest.
#[test]
fn a_plan_says_how_much_is_lost_with_each_pack() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let files = AFFECTED_MAX + 7;
    (0..files)
        .fold(TreeSpec::new(), |tree, file| tree.file(format!("{file:03}"), Content::random(file as u64, 100)))
        .write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let [pack] = &packs(&repository, FrameKind::Chunks)[..] else { panic!("one pack holds them all") };
    place.storage.delete(pack).unwrap();
    let planned = plan(&open(&place.storage), &read_all(), &Silent).unwrap();
    let [drop, derive] = &planned.actions[..] else { panic!("{planned:#?}") };
    assert_eq!((drop.affected.len(), drop.affected_more), (AFFECTED_MAX, 7));
    assert_eq!(derive.problem, format!("it lacks something at {files} paths"));
    assert_eq!((planned.losses.len(), planned.losses[0].paths.len()), (1, files));
}

#[test]
fn a_pack_that_is_missing_leaves_the_index_and_the_next_backup_stores_it_again() {
    let base = Base::new();
    for kind in [FrameKind::Chunks, FrameKind::Nodes] {
        let storage = base.storage();
        for pack in packs(&open(&storage), kind) {
            storage.delete(&pack).unwrap();
        }
        let (planned, report) = repair(&storage);
        assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Drop(_))), "{planned:#?}");
        assert!(report.remaining.losses.iter().all(|loss| loss.is_total == (kind == FrameKind::Nodes)));
        let repository = open(&storage);
        assert!(
            repository.index(&Silent).unwrap().packs().iter().all(|pack| storage.size(&layout::pack(pack.id)).is_ok())
        );
        let report = backup(&repository, std::slice::from_ref(&base.source));
        assert!(report.parent.is_some());
        let target = base.place.path(&format!("out{}", kind.code()));
        let restored = restore_to(&repository, &latest(&repository), &target, &base.source);
        assert_same_tree(&base.source, &restored, &CompareOptions::default());
    }
}

/// A pack whose end is gone, and with it what says what it holds, in a repository without segments.
#[test]
fn frames_are_found_without_any_list_of_them() {
    let base = Base::new();
    let storage = base.storage();
    for segment in keys_under(&*storage, layout::INDEX) {
        storage.delete(&segment).unwrap();
    }
    let mut lost = 0;
    for pack in keys_under(&*storage, layout::PACKS) {
        let bytes = storage.get(&pack).unwrap();
        // garbage before, and the directory cut off
        let middle = [&b"garbage LBF\x01\x01 and more garbage"[..], &bytes[..bytes.len() - 200]].concat();
        overwrite(&*storage, &pack, &middle);
        lost += 1;
    }
    let (planned, report) = repair(&storage);
    let salvaged = planned.actions.iter().filter(|action| matches!(action.remedy, Remedy::Salvage { .. })).count();
    assert_eq!(salvaged, lost);
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    let repository = open(&storage);
    assert_good(&repository);
    assert_eq!(all_contents(&repository), all_contents(&open(&base.place.storage)));
}

#[test]
fn lost_segments_are_written_anew() {
    let base = Base::new();
    for harm in [Harm::Delete, Harm::Flip] {
        let storage = base.storage();
        for segment in keys_under(&*storage, layout::INDEX) {
            harm.do_to(&*storage, &segment);
        }
        let (planned, report) = repair_with(&storage, &secret(), &RepairOptions::default());
        assert!(matches!(planned.actions[0].remedy, Remedy::Describe { .. }), "{planned:#?}");
        assert_eq!(planned.actions.len(), 1);
        assert!(report.remaining.is_good());
        assert_good(&open(&storage));
        assert_eq!(all_contents(&open(&storage)), all_contents(&open(&base.place.storage)));
    }
}

/// An index in RocksDB that was folded before its segments were damaged knows more than storage: it is not believed.
#[test]
fn an_index_that_knows_more_than_storage_is_made_anew() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a", b"a".to_vec()).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    drop(repository);
    for segment in keys_under(&*place.storage, layout::INDEX) {
        flip(&*place.storage, &segment, 60);
    }
    let repository = place.reopen();
    let planned = plan(&repository, &RepairOptions::default(), &Silent).unwrap();
    assert!(matches!(planned.actions[0].remedy, Remedy::Describe { packs: 2, .. }), "{planned:#?}");
    let report = apply(&repository, &planned, &RepairOptions::default(), &Silent).unwrap();
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_good(&place.reopen());
}

/// A directory in several nodes, some of which are lost: it keeps what the others hold.
#[test]
fn a_directory_keeps_what_its_other_nodes_hold() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("first"), "content").unwrap();
    for number in 0..5000 {
        std::os::unix::fs::symlink("first", source.join(format!("notebook-{number:06}.py"))).unwrap();
    }
    backup(&repository, std::slice::from_ref(&source));
    let first = packs(&repository, FrameKind::Nodes);
    std::fs::write(source.join("notebook-002500x.py"), "added").unwrap();
    let second = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    for pack in first {
        place.storage.delete(&pack).unwrap();
    }
    let (_, report) = repair(&place.storage);
    let repository = place.reopen();
    let made = &report.snapshots.iter().find(|(original, _)| *original == second.id).unwrap().1;
    let kept = contents(&repository, made);
    assert!(kept.len() > 30 && kept.len() < 4500, "{}", kept.len());
    assert!(kept.keys().any(|path| path.ends_with("notebook-002500x.py")));
    let shown = source.strip_prefix("/").unwrap().display().to_string();
    assert!(made.snapshot.failures.iter().all(|failure| failure.path == shown), "{:?}", made.snapshot.failures);
    assert!(report.remaining.losses.iter().any(|loss| loss.is_total && loss.snapshot != second.id));
    assert!(report.remaining.actions.is_empty());
}

#[test]
fn a_pack_that_comes_back_after_a_repair_heals_what_it_can() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let bytes = storage.get(&pack).unwrap();
    storage.delete(&pack).unwrap();
    let (_, report) = repair(&storage);
    assert!(!report.remaining.losses.is_empty());
    // somebody finds the disk that it was on
    storage.put(&pack, &bytes).unwrap();
    let (planned, report) = repair(&storage);
    assert!(matches!(planned.actions[0].remedy, Remedy::Salvage { .. }), "{planned:#?}");
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert!(storage.size(&pack).is_err());
    assert_eq!(all_contents(&open(&base.place.storage)).len() + 3, all_contents(&open(&storage)).len());
    assert_good(&open(&storage));
}

/// Reading a pack fails, and does not when it is tried again.
#[test]
fn a_disk_that_fails_once_costs_nothing() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let fault = FaultStorage::new(storage.clone());
    let faulty: Arc<dyn Storage> = Arc::new(fault.clone());
    let repository = open(&faulty);
    fault.inject(Fault::os(5).on(Operation::GetRange).under(pack.as_str()));
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(salvage.problem.contains("os error 5"), "{salvage:#?}");
    // what was read at the second try is not lost
    assert!(planned.losses.is_empty(), "{:#?}", planned.losses);
    let report = apply(&repository, &planned, &read_all(), &Silent).unwrap();
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_good(&repository);
    // it was read again and found whole, so it stays
    assert!(storage.size(&pack).is_ok());
}

/// Without reading all packs a repair reads the trees: what it cannot read of them leads to the pack, and what it may not
/// read to an error.
#[test]
fn a_pack_of_trees_that_cannot_be_read_is_found_by_reading_trees() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("a", b"1".to_vec()).file("d/b", b"2".to_vec()).write(&source);
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let [pack] = &packs(&repository, FrameKind::Nodes)[..] else { panic!("one pack holds them all") };
    let options = RepairOptions { threads: 2, ..RepairOptions::default() };
    assert!(!options.read_data);
    let planned = |storage: Arc<dyn Storage>| plan(&open(&storage), &options, &Silent);
    let fault = |fault: Fault| -> Arc<dyn Storage> {
        let faulty = FaultStorage::new(place.storage.clone());
        faulty.inject(fault.on(Operation::GetRange).under(pack.as_str()).sticky());
        Arc::new(faulty)
    };
    assert!(planned(place.storage.clone()).unwrap().actions.is_empty());

    let refused = planned(fault(Fault::kind(StorageErrorKind::PermissionDenied))).unwrap_err();
    assert!(matches!(refused, Error::Storage(_)), "{refused:?}");
    let flipped = copy_of(&*place.storage);
    flip(&*flipped, pack, 100);
    // a disk that fails, one that gives less than it says, a bit
    for storage in [fault(Fault::os(5)), fault(Fault::kind(StorageErrorKind::TooShort)), flipped] {
        let planned = planned(storage).unwrap();
        let lost: Vec<_> = planned.losses.iter().map(|loss| (loss.snapshot, loss.is_total)).collect();
        assert_eq!(lost, [(info.id, true)], "{planned:#?}");
        let id = layout::last_part(pack).parse().unwrap();
        let is_salvage = |action: &Action| matches!(action.remedy, Remedy::Salvage { pack, .. } if pack == id);
        assert!(planned.actions.iter().any(is_salvage), "{planned:#?}");
    }
}

/// A storage on a disk that fails to read one block of one object.
#[derive(Debug)]
struct BadSector {
    inner: Arc<dyn Storage>,
    key: ObjectKey,
    block: Range<u64>,
}

impl BadSector {
    fn fails(&self, key: &ObjectKey, range: Range<u64>) -> Result<(), StorageError> {
        let is_hit = *key == self.key && range.start < self.block.end && self.block.start < range.end;
        let error = || StorageError::new("read", key, std::io::Error::from_raw_os_error(5));
        if is_hit { Err(error()) } else { Ok(()) }
    }
}

impl Storage for BadSector {
    forward_storage!(inner: location, capabilities, put, writer, size, list, delete, sync);

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        self.fails(key, 0..u64::MAX)?;
        self.inner.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        self.fails(key, offset..offset + length as u64)?;
        self.inner.get_range(key, offset, length, buffer)
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_one_frame() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let bytes = storage.get(&pack).unwrap();
    let at = bytes.len() as u64 / 2 / 4096 * 4096;
    let block = at..at + 4096;
    let bad: Arc<dyn Storage> = Arc::new(BadSector { inner: storage.clone(), key: pack.clone(), block: block.clone() });
    let (planned, report) = repair(&bad);
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(salvage.problem.contains("os error 5"), "{salvage:#?}");
    assert!(report.remaining.actions.is_empty(), "{:#?}", report.remaining);
    // a frame holds a megabyte at most: so many of these files
    assert!(report.remaining.losses.iter().all(|loss| loss.paths.len() <= 30), "{:#?}", report.remaining.losses);
    let aside = storage.get(&key(&format!("quarantine/{pack}"))).unwrap();
    assert_eq!(aside.len(), bytes.len());
    for (position, (found, was)) in aside.iter().zip(&bytes).enumerate() {
        let expected = if block.contains(&(position as u64)) { 0 } else { *was };
        assert_eq!(*found, expected, "at {position}");
    }
    backup(&open(&bad), std::slice::from_ref(&base.source));
    assert!(plan(&open(&storage), &read_all(), &Silent).unwrap().is_good());
}

/// Two packs hold the same chunk, and one says so although it is damaged there: what can be read of the other is kept.
#[test]
fn a_copy_counts_only_if_it_can_be_read() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let first = packs(&repository, FrameKind::Chunks);
    let pack = first.iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap().clone();
    let whole = storage.get(&pack).unwrap();
    // a repair stores what is in it again, elsewhere
    flip(&*storage, &pack, 1000);
    repair(&storage);
    // the old pack is put back whole, the copy is damaged without anybody having noticed
    storage.put(&pack, &whole).unwrap();
    let copy = packs(&open(&storage), FrameKind::Chunks)
        .into_iter()
        .filter(|other| !first.contains(other))
        .max_by_key(|pack| storage.size(pack).unwrap())
        .unwrap();
    flip(&*storage, &copy, 1000);
    let (_, report) = repair_with(&storage, &secret(), &RepairOptions::default());
    assert!(report.remaining.losses.is_empty(), "{:#?}", report.remaining);
    let (_, report) = repair(&storage);
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    let before = all_contents(&open(&base.place.storage));
    let after = all_contents(&open(&storage));
    assert!(before.iter().all(|(id, contents)| after[id] == *contents));
}
