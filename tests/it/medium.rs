//! Repositories on mediums of which only who tries knows what they do.

use std::sync::Arc;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::layout;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::prune::PruneOptions;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::storage::probe::probe;
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::SeededRandom;
use lakebed_testkit::lax::{Faults, LaxStorage};
use lakebed_testkit::tree::TreeSpec;

use crate::common::*;

const REPLACES: Faults = Faults { replaces: true, lists_nothing: false, cuts: false, keeps: false };

fn lax(memory: &MemoryStorage, place: &'static str, faults: Faults) -> Arc<LaxStorage> {
    Arc::new(LaxStorage::new(Arc::new(memory.clone()), place, faults))
}

fn init(storage: Arc<LaxStorage>) -> Result<Repository, Error> {
    Repository::init(storage, &secret(), &init_options(Encryption::Aes256Gcm), &OpenOptions::default())
}

fn open(storage: Arc<LaxStorage>) -> Repository {
    Repository::open(storage, &secret(), &OpenOptions::default()).unwrap()
}

#[test]
fn what_a_medium_does_is_seen_from_what_it_did() {
    for (faults, expected) in [
        (Faults::default(), [true, true, true, true, true]),
        (REPLACES, [false, true, true, true, true]),
        (Faults { lists_nothing: true, ..Faults::default() }, [true, true, false, true, true]),
        (Faults { cuts: true, ..Faults::default() }, [false, false, false, true, true]),
        (Faults { keeps: true, ..Faults::default() }, [true, true, true, true, false]),
    ] {
        let memory = MemoryStorage::new();
        let found = probe(&*lax(&memory, "here", faults), &SeededRandom::new(1)).unwrap();
        let seen =
            [found.put_if_absent, found.read_after_write, found.listing_after_write, found.ranges, found.deletions];
        assert_eq!(seen, expected, "{faults:?}");
        assert_eq!(memory.list("").unwrap().is_empty(), found.deletions, "{faults:?}");
    }
}

#[test]
fn a_medium_that_loses_bytes_or_lists_late_gets_no_repository() {
    let memory = MemoryStorage::new();
    let late = Faults { lists_nothing: true, ..Faults::default() };
    for faults in [Faults { cuts: true, ..Faults::default() }, late] {
        let error = init(lax(&memory, "here", faults)).unwrap_err();
        assert!(matches!(error, Error::UnfitStorage { .. }), "{error}");
        assert!(memory.list("").unwrap().is_empty());
    }
    // and none that was made elsewhere is written there
    init(lax(&memory, "here", Faults::default())).unwrap();
    let moved = Repository::open(lax(&memory, "there", late), &secret(), &OpenOptions::default());
    assert!(moved.is_err());
}

#[test]
fn what_was_found_is_recorded_for_one_place_and_found_out_anew_at_another() {
    let memory = MemoryStorage::new();
    init(lax(&memory, "here", Faults::default())).unwrap();
    let records = || memory.list(layout::STORAGE).unwrap().len();
    assert_eq!(records(), 1);

    let again = lax(&memory, "here", Faults::default());
    let repository = open(again.clone());
    assert_eq!((again.puts(), records()), (0, 1));
    repository.prune(&PruneOptions::default(), &Silent).unwrap();

    // the same objects, where names do not keep what they have
    let elsewhere = lax(&memory, "elsewhere", REPLACES);
    let repository = open(elsewhere.clone());
    assert_eq!(records(), 2);
    assert!(elsewhere.puts() > 0);
    let error = repository.prune(&PruneOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, Error::NeedsExclusive { .. }), "{error}");
    assert_good(&repository);

    // what it did is found out again when somebody asks
    let mended = open(lax(&memory, "elsewhere", Faults::default()));
    assert!(mended.prune(&PruneOptions::default(), &Silent).is_err());
    assert!(mended.probe_medium(true).unwrap().0.put_if_absent);
    let worse = open(lax(&memory, "elsewhere", REPLACES));
    assert!(!worse.probe_medium(false).unwrap().0.put_if_absent);
    // whoever opened it before hears of that
    assert!(mended.prune(&PruneOptions::default(), &Silent).is_err());
    let mended = open(lax(&memory, "elsewhere", Faults::default()));
    assert!(mended.probe_medium(false).unwrap().0.put_if_absent);
    mended.prune(&PruneOptions::default(), &Silent).unwrap();
}

#[test]
fn where_names_do_not_keep_what_they_have_nothing_is_replaced_and_pruning_needs_the_repository_for_itself() {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    TreeSpec::new().file("notebook.py", b"print('a')".to_vec()).write(&source);
    let memory = MemoryStorage::new();
    let repository = init(lax(&memory, "here", REPLACES)).unwrap();
    let first = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    std::fs::write(source.join("notebook.py"), "print('b')").unwrap();
    let second = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();

    let key = layout::snapshot(first.id);
    let before = memory.get(&key).unwrap();
    let storage = repository.store().storage();
    assert!(storage.put(&key, b"something else").is_err());
    let mut writer = storage.writer().unwrap();
    writer.append(b"something else").unwrap();
    assert!(writer.finish(&key).is_err());
    assert_eq!(memory.get(&key).unwrap(), before);
    // nobody can end by mistake what has committed
    assert!(!repository.expire_session(first.id, second.id, "a test").unwrap());
    assert_eq!(memory.get(&key).unwrap(), before);

    forget(&repository, vec![first.id]);
    let refused = repository.prune(&PruneOptions::default(), &Silent).unwrap_err();
    assert!(matches!(refused, Error::NeedsExclusive { .. }), "{refused}");
    let mut options = PruneOptions::default();
    options.dry_run = true;
    assert_eq!(repository.prune(&options, &Silent).unwrap().plan.snapshots_forgotten, [first.id]);
    options.dry_run = false;
    options.exclusive = true;
    assert_eq!(repository.prune(&options, &Silent).unwrap().snapshots_deleted, 1);
    assert_good(&repository);
}
