//! The commands that are cut off. A new one gets a line in [`SCENARIOS`] and, where it needs more than one call, a
//! function below.

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::layout;
use lakebed_engine::core::protocol::PruneStep;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::gc::{Resolution, Tombstone, Verdict};
use lakebed_engine::core::record::key_slot::Unlock;
use lakebed_engine::core::record::session::{Process, Session};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::repository::SessionHandle;
use lakebed_engine::{Repository, Silent};
use lakebed_testkit::tree::{Content, TreeSpec};

use super::world::{FIRST_KEY, World, key_file, one_thread};
use crate::common::*;

/// What is to be done first after a crash, where the command was to mend a repository that was damaged.
pub type Mend = fn(&Repository) -> lakebed_engine::Result<()>;

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

pub const SCENARIOS: &[Scenario] = &[
    scenario("init", |_| {}, World::init),
    scenario("init where another one was cut off", leftover_slot, World::init),
    scenario("first backup", World::init, first_night),
    scenario("second backup", one_night, next_night),
    scenario("backup with checkpoints", one_night, large_night),
    scenario("backup that is interrupted and resumed", one_night, interrupted_night),
    scenario("backup that expires a dead session", dead_session, next_night),
    scenario("tag", two_nights, tag_twice),
    scenario("tombstone that is undone", two_nights, forget_and_undo),
    scenario("forget", three_nights, forget_first),
    scenario("prune", forgotten_nights, prune),
    scenario("prune that another one has left", cut_off_prune, prune),
    scenario("key add", one_night, add_key),
    scenario("key passwd", one_night, change_secret),
    scenario("key remove", second_key, remove_key),
    scenario("verify", verified_night, verify),
    Scenario {
        mend: Some(rebuild),
        ..scenario("index rebuild", lost_segments, |world| rebuild(&world.open()).unwrap())
    },
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
    let mut tree = TreeSpec::new();
    for number in 0..12 {
        tree = tree.file(format!("{}/{number}", number / 4), Content::random(number, 700));
    }
    tree.write(&world.source().join("more"));
    for entries in [4, 8] {
        stop_after(&world.open(), &world.source(), &one_thread(), entries);
    }
    world.backup();
}

fn dead_session(world: &mut World) {
    one_night(world);
    let me = world.open().processes().this("host");
    let session = Session {
        version: RECORD_VERSION,
        number: 0,
        time: Timestamp::default(),
        base_generation: 0,
        process: Process { pid: me.pid + 100, ..me },
        sources: Vec::new(),
        parent: None,
        checkpoint: None,
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

/// The newest snapshot is forgotten, and comes back.
fn forget_and_undo(world: &mut World) {
    let repository = world.open();
    let (store, random) = (repository.store(), repository.random());
    let id = latest(&repository).id;
    let tombstone =
        Tombstone { version: RECORD_VERSION, time: world.now(), reason: "by id".into(), unknown: Default::default() };
    let undone = Resolution {
        version: RECORD_VERSION,
        time: world.now(),
        verdict: Verdict::Undone,
        generation: None,
        unknown: Default::default(),
    };
    world.may_go(id);
    store.put_record(&layout::tombstone(id, 0), &tombstone, random).unwrap();
    store.storage().sync().unwrap();
    store.put_record(&layout::resolution(id, 0), &undone, random).unwrap();
    store.storage().sync().unwrap();
    world.keeps_again(id);
}

fn three_nights(world: &mut World) {
    two_nights(world);
    let source = world.source();
    std::fs::write(source.join("table.csv"), Content::random(3, 30_000).bytes()).unwrap();
    std::fs::write(source.join("notebooks/b.py"), "print('b changed')\n").unwrap();
    world.backup();
}

fn forget_first(world: &mut World) {
    let first = world.open().catalogue().unwrap().snapshots[0].id;
    world.forget(&[first]);
}

fn forgotten_nights(world: &mut World) {
    three_nights(world);
    forget_first(world);
}

/// Few large batches would be one crash point each: everything is rewritten, and segments are compacted.
fn prune(world: &mut World) {
    let mut options = prune_all();
    options.threads = 1;
    options.repack_small = true;
    world.open().prune(&options, &Silent).unwrap();
}

/// A prune that has condemned, and nothing more.
fn cut_off_prune(world: &mut World) {
    forgotten_nights(world);
    let mut options = prune_all();
    options.threads = 1;
    world.open().prune(&options, &StopAt::new(PruneStep::ListSessions)).unwrap_err();
    world.processes = world.processes.after_kill();
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

fn rebuild(repository: &Repository) -> lakebed_engine::Result<()> {
    repository.rebuild_index(true, &Silent).map(drop)
}
