//! The commands that are cut off. A new one gets a line in [`SCENARIOS`] and, where it needs more than one call, a
//! function below.

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::copy::{CopyOptions, CopyReport, copy};
use lakebed_engine::core::layout;
use lakebed_engine::core::protocol::PruneStep;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::key_slot::Unlock;
use lakebed_engine::core::record::session::{Process, Session};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::repair::{self, RepairOptions};
use lakebed_engine::repository::SessionHandle;
use lakebed_engine::rewrite::{RewriteOptions, RewriteReport};
use lakebed_engine::source::{Filter, FilterOptions};
use lakebed_engine::{Error, Repository, Silent};
use lakebed_testkit::tree::{Content, TreeSpec};

use super::world::{FIRST_KEY, World, key_file, one_thread, prune_options};
use crate::common::*;

/// What is to be done first after a crash: the command is run again.
pub type Mend = fn(&World, &Repository) -> lakebed_engine::Result<()>;

/// A command that is cut off.
pub struct Scenario {
    pub name: &'static str,
    /// What was there before.
    pub before: fn(&mut World),
    /// What is cut off.
    pub run: fn(&mut World),
    pub mend: Option<Mend>,
}

const fn scenario(name: &'static str, before: fn(&mut World), run: fn(&mut World)) -> Scenario {
    Scenario { name, before, run, mend: None }
}

const fn mended(scenario: Scenario, mend: Mend) -> Scenario {
    Scenario { mend: Some(mend), ..scenario }
}

pub const SCENARIOS: &[Scenario] = &[
    scenario("init", |_| {}, World::init),
    scenario("init where another one was cut off", leftover_slot, World::init),
    scenario("first backup", World::init, first_night),
    scenario("second backup", one_night, next_night),
    scenario("backup with checkpoints", one_night, large_night),
    scenario("backup that is interrupted and resumed", one_night, interrupted_night),
    scenario("backup that expires a dead session", dead_session, next_night),
    scenario("tag", two_nights, tag_twice),
    scenario("forget and undo", three_nights, forget_and_undo),
    scenario("prune", forgotten, prune),
    scenario("prune of nearly everything", forgotten_again, prune),
    scenario("prune beside a checkpoint", forgotten_and_interrupted, prune),
    scenario("prune that another one finishes", forgotten, prune_in_two),
    mended(scenario("copy", two_repositories, copy_all), |world, to| copy_from(world, to).map(drop)),
    scenario("key add", one_night, add_key),
    scenario("key passwd", one_night, change_secret),
    scenario("key remove", second_key, remove_key),
    scenario("verify", verified_night, verify),
    mended(scenario("rewrite", to_be_rewritten, rewrite), |_, repository| rewrite_in(repository).map(drop)),
    mended(scenario("repair", short_packs, |world| repair_in(&world.open()).unwrap()), |_, repository| {
        repair_in(repository)
    }),
    mended(scenario("index rebuild", lost_segments, rebuild), |_, repository| rebuild_in(repository)),
];

fn leftover_slot(world: &mut World) {
    world.init();
    world.storage().delete(&layout::config()).unwrap();
    world.forget_promises();
}

fn first_night(world: &mut World) {
    world.backup();
}

fn one_night(world: &mut World) {
    world.init();
    world.backup();
}

fn two_nights(world: &mut World) {
    one_night(world);
    next_night(world);
}

/// Something is new, something changed, something went.
fn next_night(world: &mut World) {
    let source = world.source();
    std::fs::write(source.join("notebooks/new.py"), "print('new')\n").unwrap();
    std::fs::write(source.join("notebooks/a.py"), "print('a changed')\n").unwrap();
    std::fs::remove_file(source.join("notebooks/old/c.py")).unwrap();
    std::fs::write(source.join("table.csv"), Content::random(2, 30_000).bytes()).unwrap();
    world.backup();
}

/// Files of several frames, so that there is something to publish before the end.
fn large_night(world: &mut World) {
    let part = |seed| Content::Generated { seed, length: 1_300_000, compressibility: 97 };
    let tree = TreeSpec::new().file("1", part(1)).file("2", part(2)).file("small", "small");
    tree.write(&world.source().join("large"));
    world.backup_with(&BackupOptions { checkpoint_bytes: 1, ..one_thread() });
}

/// Cut off twice by the user, then left to end.
fn interrupted_night(world: &mut World) {
    add_files(world);
    for entries in [4, 8] {
        stop_after(&world.open(), &world.source(), &one_thread(), entries);
    }
    world.backup();
}

fn add_files(world: &World) {
    let mut tree = TreeSpec::new();
    for number in 0..12 {
        tree = tree.file(format!("{}/{number}", number / 4), Content::random(number, 700));
    }
    tree.write(&world.source().join("more"));
}

fn dead_session(world: &mut World) {
    one_night(world);
    let session = Session {
        version: RECORD_VERSION,
        number: 0,
        time: Timestamp::default(),
        base_generation: 0,
        process: Process { host: "host".into(), boot_id: "boot 1".into(), pid: 99, start_ticks: 1 },
        sources: Vec::new(),
        parent: None,
        checkpoint: None,
        progress: None,
        shard: None,
        unknown: Default::default(),
    };
    SessionHandle::register(&world.open(), session).unwrap();
}

fn tag_twice(world: &mut World) {
    let repository = world.open();
    let newest = latest(&repository);
    repository.annotate(&newest, vec!["one".into()], String::new()).unwrap();
    repository.annotate(&newest, vec!["one".into(), "two".into()], "described".into()).unwrap();
}

/// The two older ones of three snapshots are forgotten, and one of them comes back.
fn forget_and_undo(world: &mut World) {
    let repository = world.open();
    let snapshots = repository.catalogue().unwrap().snapshots;
    let ids = vec![snapshots[0].id, snapshots[1].id];
    ids.iter().for_each(|&id| world.may_go(id));
    forget(&repository, ids.clone());
    repository.undo_forget(&ids[..1]).unwrap();
    world.keeps_again(ids[0]);
}

fn three_nights(world: &mut World) {
    two_nights(world);
    last_night(world);
}

/// Much stays as it was, so that there are packs of which a part is needed.
fn last_night(world: &mut World) {
    std::fs::write(world.source().join("notebooks/third.py"), "print('third')\n").unwrap();
    std::fs::write(world.source().join("notebooks/b.py"), "print('b changed')\n").unwrap();
    world.backup();
}

fn forgotten(world: &mut World) {
    three_nights(world);
    forget_oldest(world, 1);
}

fn forget_oldest(world: &mut World, count: usize) {
    let repository = world.open();
    let snapshots = repository.catalogue().unwrap().snapshots;
    let ids: Vec<_> = snapshots.iter().take(count).map(|info| info.id).collect();
    ids.iter().for_each(|&id| world.may_go(id));
    forget(&repository, ids);
}

/// There was a prune already, and what it left; and most of what there is may go.
fn forgotten_again(world: &mut World) {
    forgotten(world);
    prune(world);
    std::fs::write(world.source().join("table.csv"), Content::random(3, 35_000).bytes()).unwrap();
    world.backup();
    forget_oldest(world, 2);
}

fn prune(world: &mut World) {
    let report = world.open().prune(&prune_options(), &Silent).unwrap();
    assert_eq!(report.unfinished, None);
    assert!(report.deleted.packs > 0, "{report:?}");
}

/// A run that was cut off has left a checkpoint.
fn forgotten_and_interrupted(world: &mut World) {
    forgotten(world);
    add_files(world);
    stop_after(&world.open(), &world.source(), &one_thread(), 8);
}

/// The first prune gets as far as the copies, the second one finishes what it left.
fn prune_in_two(world: &mut World) {
    let stop = StopAt::new(PruneStep::CopyLive);
    assert!(matches!(world.open().prune(&prune_options(), &stop), Err(Error::Interrupted)));
    prune(world);
}

fn two_repositories(world: &mut World) {
    two_nights(world);
    world.put_aside();
    world.init();
}

fn copy_all(world: &mut World) {
    let report = copy_from(world, &world.open()).unwrap();
    for copied in report.snapshots {
        world.keeps_again(copied.copy.unwrap());
    }
}

fn copy_from(world: &World, to: &Repository) -> lakebed_engine::Result<CopyReport> {
    let options = CopyOptions { host: "host".into(), threads: 1, ..CopyOptions::default() };
    let report = copy(world.from.as_ref().unwrap(), to, &options, &|_| {}, &Silent)?;
    assert!(report.is_complete(), "{report:?}");
    Ok(report)
}

/// What is taken out of the snapshots.
const PURGED: &str = "notebooks/b.py";

fn to_be_rewritten(world: &mut World) {
    two_nights(world);
    world.purged = Some(PURGED);
}

fn rewrite(world: &mut World) {
    let repository = world.open();
    for rewritten in rewrite_in(&repository).unwrap().rewritten {
        world.keeps_again(rewritten.snapshot.unwrap().id);
    }
}

fn rewrite_in(repository: &Repository) -> lakebed_engine::Result<RewriteReport> {
    let filter = Filter::new(&FilterOptions { exclude: vec!["b.py".into()], ..FilterOptions::default() }).unwrap();
    let options = RewriteOptions { host: "host".into(), ..RewriteOptions::default() };
    repository.rewrite(&repository.catalogue()?.snapshots, &filter, &options, &Silent)
}

/// Packs that lost their ends: all that they held can be read, and must be stored again.
fn short_packs(world: &mut World) {
    two_nights(world);
    for pack in world.storage().list(layout::PACKS).unwrap() {
        let bytes = world.storage().get(&pack.key).unwrap();
        world.storage().delete(&pack.key).unwrap();
        world.storage().put(&pack.key, &bytes[..bytes.len() - 1]).unwrap();
    }
}

pub fn repair_in(repository: &Repository) -> lakebed_engine::Result<()> {
    let options =
        RepairOptions { read_data: true, force: true, threads: 1, host: "host".into(), ..RepairOptions::default() };
    let plan = repair::plan(repository, &options, &Silent)?;
    let report = repair::apply(repository, &plan, &options, &Silent)?;
    assert!(report.remaining.is_good(), "{:?}", report.remaining);
    Ok(())
}

const OTHER_KEY: u8 = 8;

fn add_key(world: &mut World) {
    world.open().add_key(Unlock::KeyFile, &key_file(OTHER_KEY), "other").unwrap();
    world.opens(OTHER_KEY);
}

fn change_secret(world: &mut World) {
    world.may_open(OTHER_KEY);
    world.may_close(FIRST_KEY);
    world.open().change_secret(Unlock::KeyFile, &key_file(OTHER_KEY)).unwrap();
    world.opens(OTHER_KEY);
}

fn second_key(world: &mut World) {
    one_night(world);
    add_key(world);
}

fn remove_key(world: &mut World) {
    let repository = world.open();
    let own = repository.list_keys().unwrap().into_iter().find(|key| key.current).unwrap();
    world.may_close(FIRST_KEY);
    repository.remove_key(&own.id.to_string()).unwrap();
}

fn verified_night(world: &mut World) {
    one_night(world);
    verify(world);
    next_night(world);
}

fn verify(world: &mut World) {
    assert_good(&world.open());
}

/// Of two segments one is lost and one is damaged: the first packs are in none, and nobody can tell what is in the others.
fn lost_segments(world: &mut World) {
    two_nights(world);
    let segments = world.storage().list(layout::INDEX).unwrap();
    let bytes = world.storage().get(&segments[1].key).unwrap();
    for segment in &segments {
        world.storage().delete(&segment.key).unwrap();
    }
    world.storage().put(&segments[1].key, &bytes[..bytes.len() / 2]).unwrap();
}

fn rebuild(world: &mut World) {
    rebuild_in(&world.open()).unwrap();
}

fn rebuild_in(repository: &Repository) -> lakebed_engine::Result<()> {
    repository.rebuild_index(true, &Silent).map(drop)
}
