//! Sessions, claims, tombstones, key slots and the configuration: what is put aside, and what is left alone.

use super::*;

#[test]
fn what_a_killed_run_left_behind_is_no_damage() {
    let base = Base::new();
    let storage = base.storage();
    let fault = FaultStorage::new(storage.clone());
    let repository = open(&(Arc::new(fault.clone()) as Arc<dyn Storage>));
    let source = base.place.path("more");
    TreeSpec::new().file("more", Content::random(7, 300_000)).write(&source);
    // packs are there, their segment is not
    fault.inject(Fault::os(5).on(Operation::Put).under(layout::INDEX));
    try_backup(&repository, &[source], &options(), &Default::default()).unwrap_err();
    let repository = open(&storage);
    assert!(repository.verify(&Default::default(), &Silent).unwrap().unreferenced_packs > 0);
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    assert!(planned.is_good(), "{planned:#?}");
}

fn dead_process() -> Process {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    Process { pid, start_ticks: 1, ..SystemProcesses.this("host") }
}

#[test]
fn what_a_prune_may_still_need_is_put_aside_only_when_it_is_certainly_over() {
    let base = Base::new();
    let process = |process: Process| {
        let storage = base.storage();
        storage.delete(&layout::done(1)).unwrap();
        storage.delete(&layout::claim(1)).unwrap();
        let repository = open(&storage);
        let claim = Claim {
            version: RECORD_VERSION,
            generation: 1,
            time: Timestamp::default(),
            session: SessionId::new([0xdd; 32]),
            process,
            unknown: Default::default(),
        };
        repository.store().put_record(&layout::claim(1), &claim, &SeededRandom::new(5)).unwrap();
        flip(&*storage, &layout::condemnation(1, 0), 60);
        // something else is wrong too
        let data = packs(&repository, FrameKind::Chunks).remove(0);
        storage.delete(&data).unwrap();
        storage
    };
    let elsewhere = Process { host: "elsewhere".into(), boot_id: "boot".into(), pid: 1, start_ticks: 2 };
    let storage = process(elsewhere);
    let planned = plan(&open(&storage), &read_all(), &Silent).unwrap();
    assert_eq!(planned.held_back.len(), 1);
    assert!(planned.held_back[0].advice.contains("lakebed prune"), "{planned:#?}");
    assert!(planned.actions.is_empty(), "{planned:#?}");
    let forced = RepairOptions { force: true, ..read_all() };
    let (planned, report) = repair_with(&storage, &secret(), &forced);
    assert!(planned.actions.contains(&planned.actions[0]) && report.remaining.actions.is_empty());
    backup(&open(&storage), std::slice::from_ref(&base.source));

    let storage = process(dead_process());
    let (planned, report) = repair(&storage);
    assert!(planned.held_back.is_empty() && report.remaining.actions.is_empty(), "{planned:#?}");
    backup(&open(&storage), std::slice::from_ref(&base.source));
}

#[test]
fn a_session_of_which_nothing_can_be_read_is_expired_and_a_snapshot_key_stays_taken() {
    let base = Base::new();
    let storage = base.storage();
    let running = SessionId::new([0xbb; 32]);
    flip(&*storage, &layout::session(running, 0), 60);
    let lost = live(&open(&storage))[0].id;
    flip(&*storage, &layout::snapshot(lost), 60);
    let (planned, report) = repair(&storage);
    assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Expire(_))), "{planned:#?}");
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_eq!(report.lost, [lost]);
    let repository = open(&storage);
    for id in [running, lost] {
        // an expiry: nobody commits under this key any more
        assert_eq!(repository.read_snapshot(id).unwrap(), None);
        let expiry: Expiry = repository.store().read_record(&layout::snapshot(id)).unwrap();
        assert_eq!(expiry.reason, "its record was damaged");
    }
    assert!(repository.sessions().unwrap().is_empty());
    assert!(storage.size(&key(&format!("quarantine/snapshots/{lost}"))).is_ok());
    // damaged once more: the first one in quarantine stays what it is
    let first = storage.get(&key(&format!("quarantine/snapshots/{lost}"))).unwrap();
    flip(&*storage, &layout::snapshot(lost), 60);
    repair(&storage);
    assert_eq!(storage.get(&key(&format!("quarantine/snapshots/{lost}"))).unwrap(), first);
    assert!(storage.size(&key(&format!("quarantine/snapshots/{lost}.1"))).is_ok());
}

#[test]
fn a_snapshot_is_rather_shown_than_hidden() {
    let base = Base::new();
    for what in ["tombstone", "resolution"] {
        let storage = base.storage();
        let forgotten: BTreeSet<SnapshotId> = {
            let repository = open(&storage);
            let shown: BTreeSet<SnapshotId> = live(&repository).into_iter().map(|info| info.id).collect();
            let all = repository.store().list_ids::<SnapshotId>(layout::SNAPSHOTS).unwrap();
            all.into_iter().filter(|id| !shown.contains(id)).collect()
        };
        for key in keys_under(&*storage, layout::FORGOTTEN) {
            if layout::last_part(&key) == what {
                flip(&*storage, &key, 60);
            }
        }
        let (_, report) = repair(&storage);
        assert!(report.remaining.is_good());
        let shown = live(&open(&storage)).len();
        let before = live(&open(&base.place.storage)).len();
        // the expired session is not a snapshot
        let hidden = forgotten.len() - 1;
        assert_eq!(shown, before + if what == "tombstone" { hidden } else { 0 }, "{what}");
    }
}

#[test]
fn what_a_newer_lakebed_seems_to_have_written_is_left_alone() {
    let base = Base::new();
    let storage = base.storage();
    let run = keys_under(&*storage, layout::RUNS).remove(0);
    let mut bytes = storage.get(&run).unwrap();
    bytes[3] = 2;
    overwrite(&*storage, &run, &bytes);
    let planned = plan(&open(&storage), &read_all(), &Silent).unwrap();
    assert!(planned.actions.is_empty() && planned.held_back[0].advice.contains("update lakebed"), "{planned:#?}");
    let forced = RepairOptions { force: true, ..read_all() };
    let (_, report) = repair_with(&storage, &secret(), &forced);
    assert!(report.remaining.is_good());
}

/// The only slot is never taken away, and a configuration can only come from a copy.
#[test]
fn the_last_slot_and_the_configuration_are_told_of_and_left() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let (mine, other) = (base.slot_of(&secret()), base.slot_of(&base.other_secret));
    storage.delete(&other).unwrap();
    flip(&*storage, &mine, 40);
    flip(&*storage, &layout::config(), 40);
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    assert!(planned.actions.is_empty(), "{planned:#?}");
    let held_back: Vec<&str> = planned.held_back.iter().map(|held_back| held_back.object.as_str()).collect();
    assert_eq!(held_back, [mine.as_str(), layout::CONFIG]);
    assert!(planned.held_back.iter().all(|held_back| held_back.advice.contains("copy")), "{planned:#?}");
}
