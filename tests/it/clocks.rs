//! Clocks are wrong, jump and differ: times order snapshots for people, and nothing that keeps data depends on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lakebed_engine::backup::{BackupOptions, BackupReport};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::monitor::{Monitor, Progress};
use lakebed_engine::core::retention::{Count, Policy};
use lakebed_engine::core::time::{Clock, Timestamp};
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::repository::{SnapshotFilter, SnapshotSelector};
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A repository, a source, and what the source was at each snapshot.
struct Story {
    place: Place,
    taken: Vec<(SnapshotId, Observation)>,
    /// The time of this machine, which stamps the source's files.
    now: Timestamp,
}

impl Story {
    fn new() -> Self {
        let (place, repository) = Place::memory(Encryption::Aes256Gcm);
        let mut tree = TreeSpec::new().file("big", Content::random(1, 600_000));
        for number in 0..40u64 {
            tree = tree.file(format!("d{}/{number}", number % 3), Content::random(number, 3_000));
        }
        tree.write(&place.path("source"));
        Self { place, taken: Vec::new(), now: repository.clock().now() }
    }

    fn source(&self) -> PathBuf {
        self.place.path("source")
    }

    fn time(&self, offset: i64) -> Timestamp {
        Timestamp { secs: self.now.secs + offset, nanos: 0 }
    }

    fn open(&self, clock: &FakeClock) -> Repository {
        let open = OpenOptions { clock: Arc::new(clock.clone()), ..self.place.open.clone() };
        Repository::open(self.place.storage.clone(), &secret(), &open).unwrap()
    }

    /// Opens with a clock that is so many seconds off.
    fn open_at(&self, offset: i64) -> Repository {
        self.open(&FakeClock::new(self.time(offset)))
    }

    fn change(&self, text: &str) {
        std::fs::write(self.source().join("d0/0"), text).unwrap();
    }

    fn backup(&mut self, repository: &Repository) -> BackupReport {
        let report = backup(repository, &[self.source()]);
        self.taken.push((report.snapshot.as_ref().unwrap().id, snapshot_of(&self.source())));
        report
    }

    /// Every snapshot comes back as it was taken, all is whole, and the next backup of any clock works.
    fn assert_whole(&self) {
        let repository = self.open_at(0);
        for (id, expected) in &self.taken {
            self.assert_selects(&repository, &SnapshotSelector::Id(id.to_string()), *id, expected);
        }
        assert_good(&repository);
    }

    fn assert_selects(&self, repository: &Repository, by: &SnapshotSelector, id: SnapshotId, expected: &Observation) {
        let found = repository.find_snapshot(by, &SnapshotFilter::default(), &Silent).unwrap();
        assert_eq!(found.id, id, "{by}");
        let target = tempfile::tempdir().unwrap();
        let restored = restore_to(repository, &found, target.path(), &self.source());
        assert_tree_is(expected, &restored, &CompareOptions::default());
    }
}

#[test]
fn a_clock_that_was_a_year_off_for_one_run_costs_no_data() {
    for offset in [YEAR, -YEAR] {
        let mut story = Story::new();
        for (offset, text) in [(HOUR, "before"), (offset, "while it was off"), (2 * HOUR, "after"), (3 * HOUR, "later")]
        {
            story.change(text);
            let repository = story.open_at(offset);
            let report = story.backup(&repository);
            assert!(report.failures.is_empty(), "{:?}", report.failures);
        }
        story.assert_whole();
        // at any time that a person names, the newest by the times that were recorded
        let repository = story.open_at(4 * HOUR);
        let mut by_time = [(HOUR, 0), (offset, 1), (2 * HOUR, 2), (3 * HOUR, 3)];
        by_time.sort_unstable();
        for (time, number) in by_time {
            let (id, expected) = &story.taken[number];
            story.assert_selects(&repository, &SnapshotSelector::At(story.time(time)), *id, expected);
            story.assert_selects(&repository, &SnapshotSelector::At(story.time(time + 1)), *id, expected);
        }
        let nothing = SnapshotSelector::At(story.time(by_time[0].0 - 1));
        assert!(repository.find_snapshot(&nothing, &SnapshotFilter::default(), &Silent).is_err());
        let (id, expected) = &story.taken[by_time[3].1];
        story.assert_selects(&repository, &SnapshotSelector::Latest, *id, expected);
    }
}

#[test]
fn what_did_not_change_is_found_whatever_the_clock_of_the_parent_said() {
    let mut story = Story::new();
    let first = story.open_at(YEAR);
    story.backup(&first);
    // the parent is a year ahead of the run that is compared with it
    let second = story.open_at(HOUR);
    let report = story.backup(&second);
    assert_eq!(report.parent, Some(story.taken[0].0));
    assert_eq!((report.summary.files_unmodified, report.summary.bytes_read), (41, 0));
    // the size stays, and so does the time of the content: the change time tells
    let file = story.source().join("d1/1");
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    std::fs::write(&file, Content::random(99, 3_000).bytes()).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let third = story.open_at(-YEAR);
    let report = story.backup(&third);
    assert_eq!((report.summary.files_changed, report.summary.bytes_read), (1, 3_000));
    story.assert_whole();
}

/// Sets the wall clock back a little with each entry.
struct Backwards {
    clock: FakeClock,
    entries: AtomicU64,
    stop_after: u64,
}

impl Monitor for Backwards {
    fn advance(&self, step: Progress) {
        self.entries.fetch_add(step.entries, Ordering::Relaxed);
        let now = self.clock.now();
        self.clock.set(Timestamp { secs: now.secs - HOUR, nanos: now.nanos });
    }

    fn is_cancelled(&self) -> bool {
        self.entries.load(Ordering::Relaxed) >= self.stop_after
    }
}

fn backup_backwards(story: &Story, clock: &FakeClock, stop_after: u64) -> lakebed_engine::Result<BackupReport> {
    let monitor = Backwards { clock: clock.clone(), entries: AtomicU64::new(0), stop_after };
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let mounts = local_mounts(&[story.source()], &filter, &LocalOptions::default()).unwrap();
    let options = BackupOptions { checkpoint_bytes: 1, ..options() };
    story.open(clock).backup(mounts, &options, &monitor)
}

#[test]
fn a_clock_that_goes_back_while_a_run_is_under_way_costs_no_data() {
    let mut story = Story::new();
    let clock = FakeClock::new(story.time(DAY));
    for text in ["first", "second", "third"] {
        story.change(text);
        let report = backup_backwards(&story, &clock, u64::MAX).unwrap();
        assert!(report.summary.finished < report.summary.started);
        story.taken.push((report.snapshot.unwrap().id, snapshot_of(&story.source())));
    }
    story.assert_whole();
    let verified =
        story.open(&clock).verify(&VerifyOptions { read: ReadData::All, whole_files: true, threads: 2 }, &Silent);
    assert!(verified.unwrap().is_good());
}

#[test]
fn a_run_that_is_cut_off_is_continued_or_begun_anew_whatever_the_clocks_say() {
    for (cut_off, next) in [(YEAR, 0), (-YEAR, 0), (0, YEAR), (0, -YEAR)] {
        let mut story = Story::new();
        let clock = FakeClock::new(story.time(cut_off));
        let error = backup_backwards(&story, &clock, 20).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error:?}");
        let repository = story.open_at(next);
        let report = story.backup(&repository);
        assert!(report.resumed, "nothing was saved before it, so the checkpoint is of use");
        story.change("changed");
        let repository = story.open_at(next + HOUR);
        story.backup(&repository);
        story.assert_whole();
    }
}

#[test]
fn two_writers_whose_clocks_are_a_day_apart_do_not_disturb_each_other() {
    let mut story = Story::new();
    for round in 0..4 {
        story.change(&format!("round {round}"));
        let (ahead, behind) = (story.open_at(DAY + round * HOUR), story.open_at(round * HOUR));
        let source = story.source();
        let run = |repository: &Repository, host: &str| {
            let options = BackupOptions { host: host.into(), ..options() };
            backup_with(repository, std::slice::from_ref(&source), &options, &FilterOptions::default())
        };
        let reports = std::thread::scope(|scope| {
            let one = scope.spawn(|| run(&ahead, "ahead"));
            let other = scope.spawn(|| run(&behind, "behind"));
            [one.join().unwrap(), other.join().unwrap()]
        });
        for (report, host) in reports.into_iter().zip(["ahead", "behind"]) {
            let info = report.snapshot.unwrap();
            assert_eq!(info.snapshot.host, host);
            let own = story.taken.iter().rev().take(2).map(|(id, _)| *id).collect::<Vec<_>>();
            // each compares with its own snapshots, not with whichever is newer by the clock of the other
            assert!(round == 0 || own.contains(&report.parent.unwrap()), "{host} in round {round}");
            story.taken.push((info.id, snapshot_of(&source)));
        }
        assert!(story.open_at(0).sessions().unwrap().is_empty());
    }
    story.assert_whole();
    let repository = story.open_at(2 * DAY);
    let (id, expected) = &story.taken[7];
    story.assert_selects(&repository, &SnapshotSelector::At(story.time(4 * HOUR)), *id, expected);
    let (id, expected) = &story.taken[6];
    story.assert_selects(&repository, &SnapshotSelector::Latest, *id, expected);
}

#[test]
fn a_pack_that_was_verified_in_the_future_is_verified_again() {
    let mut story = Story::new();
    let repository = story.open_at(0);
    story.backup(&repository);
    let all = VerifyOptions { read: ReadData::All, whole_files: false, threads: 2 };
    let ahead = story.open_at(YEAR).verify(&all, &Silent).unwrap();
    assert!(ahead.is_good() && ahead.packs >= 2);
    // each slice takes one pack at least: so many slices read all of them, none twice
    let slice = VerifyOptions { read: ReadData::Budget { time: None, bytes: Some(1) }, ..all };
    for night in 0..ahead.packs {
        let report = story.open_at(night as i64 * DAY).verify(&slice, &Silent).unwrap();
        assert_eq!((report.packs_read, report.is_good()), (1, true));
    }
    let coverage = story.open_at(ahead.packs as i64 * DAY).verify(&slice, &Silent).unwrap().coverage.unwrap();
    assert_eq!(coverage.packs_verified, ahead.packs);
    assert!(coverage.oldest.unwrap() < story.time(YEAR), "a time that has not come was kept");
}

#[test]
fn times_of_day_select_what_a_folder_was() {
    let mut story = Story::new();
    for day in 0..7 {
        story.change(&format!("day {day}"));
        let repository = story.open_at(day * DAY);
        story.backup(&repository);
    }
    let repository = story.open_at(7 * DAY);
    for (day, (id, expected)) in story.taken.iter().enumerate() {
        let evening = SnapshotSelector::At(story.time(day as i64 * DAY + 12 * HOUR));
        story.assert_selects(&repository, &evening, *id, expected);
    }
}

/// Whatever the clocks of those who forget and prune say, what is not forgotten comes back, and by a clock that is right
/// the newest of the snapshots is never forgotten for one of a clock that was ahead.
#[test]
fn forgetting_and_pruning_by_a_wrong_clock_costs_nothing_that_is_kept() {
    for offset in [YEAR, -YEAR, DAY, -DAY] {
        for clock in [4 * HOUR, offset, -offset] {
            let mut story = Story::new();
            for (round, offset) in [HOUR, offset, 2 * HOUR, 3 * HOUR].into_iter().enumerate() {
                story.change(&format!("round {round}"));
                let repository = story.open_at(offset);
                story.backup(&repository);
            }
            let newest = story.taken[3].0;
            let policy = Policy { last: Count::AtMost(1), ..Policy::default() };
            let choice = Choice::Policy { policy, filter: SnapshotFilter::default() };
            let forgetting = story.open_at(clock);
            let plan = forgetting.plan_forget(&ForgetOptions::new(choice)).unwrap();
            let forgotten: Vec<SnapshotId> = plan.forgotten().map(|info| info.id).collect();
            forgetting.apply_forget(&plan, &Silent).unwrap();
            assert!(!forgotten.is_empty() && forgotten.len() < 4, "{offset} {clock}: {forgotten:?}");
            assert!(clock != 4 * HOUR || !forgotten.contains(&newest), "{offset}");
            story.taken.retain(|(id, _)| !forgotten.contains(id));
            let report = story.open_at(-clock).prune(&prune_all(), &Silent).unwrap();
            assert_eq!((report.snapshots_deleted, report.unfinished), (forgotten.len() as u64, None));
            story.assert_whole();
            // and the next night by a clock that is right
            story.change("after");
            let repository = story.open_at(5 * HOUR);
            story.backup(&repository);
            story.assert_whole();
        }
    }
}
