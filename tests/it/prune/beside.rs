//! Backups, readers and other prunes beside a prune, between any two of its steps, and prunes that stop there.

use super::*;

const STEPS: [PruneStep; 12] = [
    PruneStep::ClaimGeneration,
    PruneStep::CondemnTombstones,
    PruneStep::ChoosePacks,
    PruneStep::PublishCondemned,
    PruneStep::ListSessions,
    PruneStep::AwaitSessions,
    PruneStep::ListSnapshotsAgain,
    PruneStep::CopyLive,
    PruneStep::PublishRemovals,
    PruneStep::DeletePacks,
    PruneStep::DeleteSnapshots,
    PruneStep::MarkDone,
];

/// A whole backup happens between two steps of a prune: one that finds again what was just forgotten, and needs it.
#[test]
fn a_backup_between_any_two_steps_keeps_what_it_found() {
    for step in STEPS {
        let mut nights = Nights::new(Place::local());
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let other = nights.place.path("another-cache");
        let open = OpenOptions { cache_dir: Some(other), ..nights.place.open.clone() };
        let beside = Repository::open(nights.place.storage.clone(), &secret(), &open).unwrap();
        let source = nights.source.clone();
        let made = Mutex::new(None);
        {
            let nights = &nights;
            let made = &made;
            let at = At::new(step, move || {
                nights.change(0);
                let report = backup(&beside, std::slice::from_ref(&source));
                *made.lock().unwrap() = Some((report.snapshot.unwrap(), snapshot_of(&source)));
            });
            nights.repository.prune(&all(), &at).unwrap();
        }
        let made = made.into_inner().unwrap().unwrap_or_else(|| panic!("{step:?} was not announced"));
        nights.kept.push(made);
        nights.check();
        prune(&nights.place.reopen());
        nights.check();
    }
}

/// Does something once, right before a call to storage or right after it.
struct Around {
    before: Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>,
    after: Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Around {
    fn before(is_it: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static, act: impl FnOnce() + Send + 'static) -> Self {
        Self { before: Box::new(is_it), after: Box::new(|_| false), act: Mutex::new(Some(Box::new(act))) }
    }

    fn after(is_it: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static, act: impl FnOnce() + Send + 'static) -> Self {
        Self { before: Box::new(|_| false), after: Box::new(is_it), act: Mutex::new(Some(Box::new(act))) }
    }

    fn act_if(&self, is_now: bool) {
        if is_now && let Some(act) = self.act.lock().unwrap().take() {
            act();
        }
    }
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

impl Hook for Around {
    type Ticket = ();

    fn before(&self, call: &Call<'_>) -> Result<(), StorageError> {
        self.act_if((self.before)(call));
        Ok(())
    }

    fn after(&self, call: &Call<'_>, (): (), _: Option<u64>) -> Result<(), StorageError> {
        self.act_if((self.after)(call));
        Ok(())
    }
}

/// Opens the repository over a storage with such hooks.
fn open_around(place: &Place, hooks: impl IntoIterator<Item = Around>) -> Repository {
    let storage = hooks.into_iter().fold(place.storage.clone(), |storage, hook| -> Arc<dyn Storage> {
        Arc::new(Hooked::with_hook(storage, hook))
    });
    Repository::open(storage, &secret(), &place.open).unwrap()
}

/// What is committed after packs were listed, and before snapshots are, lies in packs that this listing lacks: that is no
/// damage.
#[test]
fn a_backup_that_commits_between_two_listings_is_not_taken_for_damage() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    nights.forget(&[0]);
    nights.change(7);
    let (beside, source) = (nights.place.reopen(), nights.source.clone());
    let made = Arc::new(Mutex::new(None));
    let committed = made.clone();
    let act = move || {
        let report = backup(&beside, std::slice::from_ref(&source));
        *committed.lock().unwrap() = Some((report.snapshot.unwrap(), snapshot_of(&source)));
    };
    let hook = Around::after(|call| (call.operation, call.key) == (Operation::List, layout::PACKS), act);
    let pruning = open_around(&nights.place, [hook]);
    let report = prune(&pruning);
    assert!(report.deleted.packs > 0, "{report:?}");
    nights.kept.push(made.lock().unwrap().take().unwrap());
    nights.check();
}

/// Each generation has the lists of one prune: whoever finishes it could not tell those of two apart.
#[test]
fn prunes_that_claim_one_generation_have_one_each() {
    // the other one goes on, stops while it waits, or is done by the time that this one claims
    for stop in [Some(PruneStep::CondemnTombstones), Some(PruneStep::ListSessions), None] {
        let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let beside = nights.place.reopen();
        let act = move || match stop {
            Some(step) => drop(beside.prune(&all(), &StopAt::new(step)).unwrap_err()),
            None => assert_eq!(prune(&beside).generation, Some(1)),
        };
        let hook = Around::before(|call| call.operation == Operation::Put && call.key.ends_with("/claim"), act);
        let pruning = open_around(&nights.place, [hook]);
        assert_eq!(prune(&pruning).generation, Some(2), "{stop:?}");
        nights.check();
        assert_eq!(prune(&nights.repository).unfinished, None, "{stop:?}");
        nights.check();
    }
}

/// A backup that began before anything was condemned ends at any later time; the prune must not delete what it counts on.
#[test]
fn a_backup_that_runs_all_along_keeps_what_it_found() {
    use lakebed_engine::core::protocol::WriterStep;

    /// Runs a prune right before a step of the writer, and once more at the end.
    struct Beside<'a> {
        step: WriterStep,
        repository: &'a Repository,
        report: Mutex<Option<PruneReport>>,
    }
    impl Monitor for Beside<'_> {
        fn step(&self, step: Step) {
            if step == Step::Writer(self.step) {
                *self.report.lock().unwrap() = Some(prune(self.repository));
            }
        }
    }
    for step in [
        WriterStep::Register,
        WriterStep::ReadCondemned,
        WriterStep::FoldSegments,
        WriterStep::ChooseParent,
        WriterStep::StorePacks,
        WriterStep::PublishSegments,
        WriterStep::Commit,
    ] {
        let mut nights = Nights::new(Place::local());
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        nights.change(0);
        let pruning = nights.place.reopen();
        let beside = Beside { step, repository: &pruning, report: Mutex::new(None) };
        let filter = Arc::new(lakebed_engine::source::Filter::new(&Default::default()).unwrap());
        let mounts =
            lakebed_engine::source::local_mounts(std::slice::from_ref(&nights.source), &filter, &Default::default())
                .unwrap();
        let report = nights.repository.backup(mounts, &options(), &beside).unwrap();
        let first = beside.report.into_inner().unwrap().unwrap();
        if step != WriterStep::Register {
            assert!(matches!(first.unfinished, Some(Unfinished::Waiting(_))), "{step:?}: {first:?}");
            assert_eq!(first.deleted.packs, 0, "{step:?}");
        }
        let observed = snapshot_of(&nights.source);
        nights.kept.push((report.snapshot.unwrap(), observed));
        nights.check();
        // the next one finishes what the first had to leave
        let second = prune(&nights.place.reopen());
        assert_eq!(second.unfinished, None);
        if step != WriterStep::Register {
            assert_eq!(second.taken_over.len(), 1, "{step:?}: {second:?}");
        }
        nights.check();
    }
}

/// A restore that has planned before the packs are rewritten and reads after that finds everything.
#[test]
fn a_reader_finds_what_a_prune_has_moved() {
    let mut nights = Nights::new(Place::local());
    for _ in 0..5 {
        nights.night();
    }
    nights.forget(&[0, 1, 3]);
    let before = nights.place.reopen();
    let reader = before.reader(&Silent).unwrap();
    prune(&nights.repository);
    for (number, (info, observed)) in nights.kept.iter().enumerate() {
        let target = nights.place.path(&format!("out-{number}"));
        let options = lakebed_engine::restore::RestoreOptions { target: target.clone(), ..Default::default() };
        let report = lakebed_engine::restore::restore(&reader, info, &options, &|_, _| {}, &Silent).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_tree_is(observed, &target.join(nights.source.strip_prefix("/").unwrap()), &CompareOptions::default());
    }
}

/// What a reader has not found makes it no more ready to believe that other packs are lost too.
#[test]
fn a_reader_that_lacks_much_finds_what_a_prune_has_moved() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    let source = place.path("source");
    let back_up = || backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    (0..100).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}"), Content::random(n, 2000))).write(&source);
    let lacking = back_up();
    let packs = place.storage.list(layout::PACKS).unwrap();
    lakebed_testkit::remove_all(&source);
    TreeSpec::new().file("goes", Content::random(200, 3000)).file("stays", Content::random(201, 3000)).write(&source);
    let goes = back_up();
    std::fs::remove_file(source.join("goes")).unwrap();
    let stays = back_up();

    let reader = place.reopen().reader(&Silent).unwrap();
    let options =
        |name: &str| lakebed_engine::restore::RestoreOptions { target: place.path(name), ..Default::default() };
    let restore = |info: &SnapshotInfo, name: &str| {
        lakebed_engine::restore::restore(&reader, info, &options(name), &|_, _| {}, &Silent).unwrap()
    };
    let data = reader.index().packs().into_iter().filter(|pack| pack.kind == PackKind::Data).map(|pack| pack.id);
    let data: Vec<_> = data.map(layout::pack).filter(|key| packs.iter().any(|pack| pack.key == *key)).collect();
    data.iter().for_each(|key| place.storage.delete(key).unwrap());
    assert_eq!(restore(&lacking, "lacking").failures.len(), 100);
    forget(&repository, vec![lacking.id, goes.id]);
    assert!(prune(&place.reopen()).written.packs > 0);
    let report = restore(&stays, "stays");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

/// Two prunes at once, one of them begun between two steps of the other.
#[test]
fn two_prunes_do_not_harm_each_other() {
    for step in STEPS {
        let mut nights = Nights::new(Place::local());
        for _ in 0..6 {
            nights.night();
        }
        nights.forget(&[0, 2]);
        let other = nights.place.reopen();
        let second = nights.kept[0].0.id;
        let at = At::new(step, || {
            forget(&other, vec![second]);
            prune(&other);
        });
        let result = nights.repository.prune(&all(), &at);
        result.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
        nights.kept.remove(0);
        nights.check();
        prune(&nights.place.reopen());
        nights.check();
        assert_eq!(prune(&nights.place.reopen()).plan.unused_bytes, 0, "{step:?}");
    }
}

/// A prune that stops anywhere is finished by the next one.
#[test]
fn a_prune_that_was_cut_off_is_taken_over() {
    for step in STEPS {
        let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let _ = nights.repository.prune(&all(), &StopAt::new(step));
        nights.check();
        nights.night();
        nights.check();
        let report = prune(&nights.repository);
        assert_eq!(report.unfinished, None);
        nights.check();
        assert_eq!(prune(&nights.repository).plan.unused_bytes, 0, "{step:?}");
    }
}

/// Another prune frees a snapshot while this one looks which there are: nobody has lost it.
#[test]
fn what_another_prune_frees_meanwhile_has_not_vanished() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    nights.forget(&[0]);
    assert_eq!(prune(&nights.repository).generation, Some(1));
    let first = nights.kept.remove(0).0.id;
    // it gets as far as the snapshot's record before this one lists the snapshots, and ends before this one lists what is
    // forgotten
    let frees = FaultStorage::new(nights.place.storage.clone());
    frees.inject(Fault::kind(StorageErrorKind::Other).under(layout::done(2).as_str()).on(Operation::Put));
    let freeing = Repository::open(Arc::new(frees), &secret(), &nights.place.open).unwrap();
    let has_begun = Arc::new(AtomicBool::new(false));
    let begins = has_begun.clone();
    let begin = Around::after(
        |call| (call.operation, call.key) == (Operation::List, layout::PACKS),
        move || {
            forget(&freeing, vec![first]);
            let error = freeing.prune(&all(), &Silent).unwrap_err();
            assert!(matches!(error, Error::Storage(_)), "{error:?}");
            begins.store(true, Ordering::Relaxed);
        },
    );
    let finishing = nights.place.reopen();
    let end = Around::before(
        move |call| {
            has_begun.load(Ordering::Relaxed) && (call.operation, call.key) == (Operation::List, layout::FORGOTTEN)
        },
        move || assert!(prune(&finishing).unfinished.is_none()),
    );
    prune(&open_around(&nights.place, [begin, end]));
    assert!(nights.place.storage.list(layout::FORGOTTEN).unwrap().is_empty());
    nights.check();
}

/// A snapshot that was listed is gone when it is read: the listing begins anew.
#[test]
fn a_snapshot_that_goes_while_snapshots_are_listed_is_no_failure() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    nights.forget(&[2]);
    let first = nights.kept.remove(0).0.id;
    let beside = nights.place.reopen();
    let act = move || {
        forget(&beside, vec![first]);
        assert_eq!(prune(&beside).snapshots_deleted, 2);
    };
    let hook = Around::after(|call| (call.operation, call.key) == (Operation::List, layout::SNAPSHOTS), act);
    assert_eq!(prune(&open_around(&nights.place, [hook])).unfinished, None);
    nights.check();
}
