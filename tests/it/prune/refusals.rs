//! What stops a prune before it does harm: brakes, damage, no right to delete; and what it does with little room.

use std::collections::BTreeMap;

use super::*;

#[test]
fn brakes_stop_a_prune_before_it_condemns_anything() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    let objects = |nights: &Nights| nights.place.storage.list("").unwrap();
    // a snapshot is gone that nobody has forgotten
    let record = |night: usize| {
        let id = nights.kept[night].0.id.to_string();
        nights.place.path("repo/snapshots").join(id)
    };
    for done in [false, true] {
        let (path, bytes) = (record(1), std::fs::read(record(1)).unwrap());
        std::fs::remove_file(&path).unwrap();
        let before = objects(&nights);
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(&error, Error::SnapshotsVanished { snapshots } if snapshots.len() == 1), "{error:?}");
        assert_eq!(objects(&nights), before);
        // one that cannot be read
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let before = objects(&nights);
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(error, Error::UnreadableSnapshots { .. }), "{error:?}");
        assert_eq!(objects(&nights), before);
        std::fs::write(&path, bytes).unwrap();
        if !done {
            // from now on a done mark says which there were
            forget(&nights.repository, vec![nights.kept[3].0.id]);
            prune(&nights.repository);
        }
    }
    nights.kept.remove(3);
    nights.check();
    // too much at once
    forget(&nights.repository, nights.kept.iter().map(|(info, _)| info.id).collect());
    let mut options = all();
    options.max_delete = 0.9;
    let error = nights.repository.prune(&options, &Silent).unwrap_err();
    assert!(matches!(error, Error::TooMuchToDelete { what: "snapshots", share: 100, limit: 90 }), "{error:?}");
    nights.repository.undo_forget(&nights.kept.iter().map(|(info, _)| info.id).collect::<Vec<_>>()).unwrap();
    nights.check();
}

/// A medium with little room.
#[derive(Debug)]
struct Room {
    /// Bytes that are left, and the lengths of the objects that are there.
    state: Mutex<(u64, BTreeMap<String, u64>)>,
    refused: Arc<AtomicU64>,
}

impl Hook for Room {
    type Ticket = ();

    fn keeps_content(&self) -> bool {
        true
    }

    fn before(&self, call: &Call<'_>) -> Result<(), StorageError> {
        let Some(content) = call.content else { return Ok(()) };
        if content.len() as u64 <= self.state.lock().unwrap().0 {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(StorageError::new("write", call.key, std::io::ErrorKind::StorageFull.into()))
    }

    fn after(&self, call: &Call<'_>, (): (), done: Option<u64>) -> Result<(), StorageError> {
        let (left, lengths) = &mut *self.state.lock().unwrap();
        match (call.content, done) {
            (Some(content), Some(_)) => {
                *left -= content.len() as u64;
                lengths.insert(call.key.to_owned(), content.len() as u64);
            }
            (None, Some(_)) if call.operation == Operation::Delete => *left += lengths.remove(call.key).unwrap_or(0),
            _ => {}
        }
        Ok(())
    }
}

/// What fits of the copies is kept, and what it makes superfluous goes and makes room for the rest.
#[test]
fn copies_that_do_not_fit_at_once_are_made_in_parts() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new().with_pack_target(60_000));
    let open = OpenOptions::default();
    let repository = Repository::init(storage.clone(), &secret(), &init_options(Encryption::Aes256Gcm), &open).unwrap();
    let place = Place { folder: tempfile::TempDir::new().unwrap(), storage, open };
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    // each night leaves a pack of which a file stays and one goes
    let mut snapshots = Vec::new();
    for night in 0..6 {
        std::fs::write(source.join(format!("stays-{night}")), Content::random(night, 30_000).bytes()).unwrap();
        std::fs::write(source.join("goes"), Content::random(100 + night, 60_000 + night).bytes()).unwrap();
        snapshots.push(backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().id);
    }
    std::fs::remove_file(source.join("goes")).unwrap();
    let last = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    forget(&repository, snapshots);
    let refused = Arc::new(AtomicU64::new(0));
    let objects = place.storage.list("").unwrap().into_iter();
    let lengths = objects.map(|object| (object.key.to_string(), object.size_bytes)).collect();
    // less than has to be copied, and more than any one pack needs
    let room = Room { state: Mutex::new((70_000, lengths)), refused: refused.clone() };
    let small = Arc::new(Hooked::with_hook(place.storage.clone(), room));
    let report = Repository::open(small, &secret(), &place.open).unwrap().prune(&all(), &Silent).unwrap();
    assert!(refused.load(Ordering::Relaxed) > 0, "there was room for all at once: {report:?}");
    assert!(report.written.bytes > 150_000 && report.unfinished.is_none(), "{report:?}");
    let restored = restore_to(&place.reopen(), &last, &place.path("out"), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
    assert_good(&place.reopen());
    assert_eq!(prune(&place.reopen()).plan.unused_bytes, 0);
}

/// Whoever may not delete must not condemn: nobody could bring back what was forgotten, and nothing would be freed.
#[test]
fn where_nothing_may_be_deleted_nothing_is_condemned() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    let first = nights.kept[0].0.id;
    forget(&nights.repository, vec![first]);
    let kept = FaultStorage::new(nights.place.storage.clone());
    kept.inject(Fault::os(1).on(Operation::Delete).sticky());
    let pruning = Repository::open(Arc::new(kept), &secret(), &nights.place.open).unwrap();
    let error = pruning.prune(&all(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Storage(error) if error.kind == StorageErrorKind::PermissionDenied), "{error:?}");
    let left = nights.place.storage.list(layout::GC).unwrap();
    assert!(left.iter().all(|object| object.key.as_str().ends_with("/claim")), "{left:?}");
    nights.repository.undo_forget(&[first]).unwrap();
    nights.check();
    prune(&nights.repository);
    nights.check();
}

/// What a run says it has made is missed also if that was after the last prune; and once that was accepted it is no more.
#[test]
fn a_snapshot_that_vanishes_is_missed_until_that_is_accepted() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    nights.forget(&[0]);
    assert_eq!(prune(&nights.repository).snapshots_deleted, 1);
    // the run of what was freed went with it: nobody misses that
    assert_eq!(nights.place.storage.list(layout::RUNS).unwrap().len(), 3, "two backups and a prune");
    nights.night();
    let lost = nights.kept.pop().unwrap().0.id;
    nights.place.storage.delete(&layout::snapshot(lost)).unwrap();
    for _ in 0..2 {
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(&error, Error::SnapshotsVanished { snapshots } if *snapshots == [lost]), "{error:?}");
    }
    let mut options = all();
    options.accept_vanished = true;
    assert!(nights.repository.prune(&options, &Silent).unwrap().deleted.packs > 0);
    prune(&nights.repository);
    nights.check();
    // and where nothing but the record is gone, there is nothing to free, and it is written off all the same
    let first = nights.kept.remove(0).0.id;
    nights.place.storage.delete(&layout::snapshot(first)).unwrap();
    options.max_unused = Unused::Unlimited;
    nights.repository.prune(&options, &Silent).unwrap();
    prune(&nights.repository);
    nights.check();
}

/// What is needed is missing: nothing may be deleted on the strength of what is left.
#[test]
fn a_missing_pack_stops_a_prune() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    for pack in object_files(&nights.place.path("repo/packs")) {
        let undo = damage(&pack, Damage::Delete);
        assert!(nights.repository.prune(&all(), &Silent).is_err(), "{}", pack.display());
        undo.restore();
    }
    nights.forget(&[0]);
    prune(&nights.repository);
    nights.check();
}

/// What a run that was killed has left is freed; what a checkpoint holds is not.
#[test]
fn left_over_packs_go_and_checkpoints_stay() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    nights.night();
    let packs = || nights.place.storage.list("packs/").unwrap().len();
    let before = packs();
    let orphan = Path::new("packs/00").join("00".repeat(31) + "01");
    plant(&nights.place.path("repo").join(orphan), b"cut off").keep();
    assert_eq!(packs(), before + 1);
    let report = prune(&nights.repository);
    assert_eq!((report.deleted.packs, packs()), (1, before));

    nights.change(7);
    stop_after(&nights.repository, &nights.source, &options(), 15);
    let with_checkpoint = packs();
    assert!(with_checkpoint > before);
    prune(&nights.repository);
    assert_eq!(packs(), with_checkpoint);

    // whoever ended its session was killed before the session's records were deleted
    let storage = &nights.place.storage;
    let records = storage.list(layout::SESSIONS).unwrap().into_iter();
    let records: Vec<_> = records.map(|object| (storage.get(&object.key).unwrap(), object.key)).collect();
    let session = nights.repository.sessions().unwrap().remove(0).id;
    assert!(nights.repository.expire_session(session, SessionId::new([1; 32]), "by hand").unwrap());
    for (bytes, key) in &records {
        storage.put(key, bytes).unwrap();
    }
    prune(&nights.repository);
    assert_eq!(packs(), before);
    nights.check();
}

/// A segment that was cut off is damage, as it is to every other command.
#[test]
fn a_segment_that_was_cut_off_is_called_damaged() {
    let mut nights = Nights::new(Place::local());
    nights.night();
    for segment in object_files(&nights.place.path("repo/index")) {
        let undo = damage(&segment, Damage::Truncate { length: 20 });
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        // the trees cannot be read without it either, unless the index has it already
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        undo.restore();
    }
    nights.check();
}

/// Anybody who may write to the storage can plant a name.
#[test]
fn the_highest_number_is_passed_over_and_none_follows_the_one_before_it() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    let plant = |key: String| nights.place.storage.put(&ObjectKey::new(key).unwrap(), b"planted").unwrap();
    let info = nights.kept[2].0.clone();
    plant(format!("annotations/{}/ffffffff", info.id));
    plant("gc/ffffffffffffffff/claim".into());
    nights.repository.annotate(&info, vec!["tagged".into()], String::new()).unwrap();
    assert_eq!(latest(&nights.repository).snapshot.tags, ["tagged"]);
    forget(&nights.repository, vec![nights.kept[0].0.id]);
    assert_eq!(prune(&nights.repository).generation, Some(1));

    plant(format!("annotations/{}/fffffffe", info.id));
    plant("gc/fffffffffffffffe/claim".into());
    forget(&nights.repository, vec![nights.kept[1].0.id]);
    let tagged = nights.repository.annotate(&info, Vec::new(), String::new());
    let pruned = nights.repository.prune(&all(), &Silent).map(drop);
    for (result, key) in [(tagged, "annotations/"), (pruned, "gc/fffffffffffffffe/claim")] {
        let is_named = |found: &ObjectKey| found.as_str().starts_with(key);
        assert!(matches!(&result, Err(Error::NoNumberLeft { key }) if is_named(key)), "{result:?}");
    }
}
