//! A network as bad as it can be, between the engine and a real server: whatever goes wrong with whichever request,
//! nothing that was committed is lost, and what failed says so. `LAKEBED_SOAK=1` tries every fault at every request.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::restore::{RestoreOptions, restore};
use lakebed_engine::source::FilterOptions;
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::chance::is_soak;
use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use lakebed_testkit::proxy::{Fault, Network, Part, Proxy, nothing, nth};
use lakebed_testkit::tree::{Content, TreeSpec};
use tempfile::TempDir;

use crate::common::*;
use crate::servers::Server;

const FAULTS: [Fault; 11] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::ResetBefore,
    Fault::LostAnswer,
    Fault::CutBody(Part::Percent(50)),
    Fault::ShortBody,
    Fault::LongBody,
    Fault::WrongByte,
    Fault::Duplicate,
    Fault::TruncatedListing,
    Fault::StaleListing,
];

/// A repository with two snapshots on a server, and what they hold.
struct World<'s> {
    server: &'s Server,
    prefix: String,
    folder: TempDir,
    snapshots: Vec<(SnapshotInfo, Observation)>,
}

impl<'s> World<'s> {
    fn new(server: &'s Server, name: String) -> Self {
        let folder = TempDir::new().unwrap();
        let source = folder.path().join("source");
        let tree =
            (0..5).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}/notebook.py"), Content::random(n, 900)));
        tree.file("large", Content::random(99, 300_000)).write(&source);
        let mut world = Self { server, prefix: name, folder, snapshots: Vec::new() };
        let init = init_options(Encryption::Aes256Gcm);
        let repository = Repository::init(world.direct(), &secret(), &init, &OpenOptions::default()).unwrap();
        for night in 0..2 {
            std::fs::write(source.join("0/notebook.py"), format!("night {night}")).unwrap();
            let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
            world.snapshots.push((info, snapshot_of(&source)));
        }
        std::fs::write(source.join("1/notebook.py"), "tonight").unwrap();
        world
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn direct(&self) -> Arc<dyn Storage> {
        Arc::new(self.server.storage(&self.prefix))
    }

    fn through(&self, proxy: &Proxy) -> Arc<dyn Storage> {
        Arc::new(self.server.storage_at(proxy.address(), &self.prefix))
    }

    /// Everything that was committed is whole, as a machine sees it that comes later by a good network.
    fn check(&self, what: &str) {
        let repository = open(self.direct()).unwrap();
        assert_good(&repository);
        for (info, observed) in &self.snapshots {
            let out = self.folder.path().join("out");
            let restored = restore_to(&repository, info, &out, &self.source());
            assert_tree_is(observed, &restored, &CompareOptions::default());
            std::fs::remove_dir_all(&out).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

/// Opens the repository as a machine does that was never there.
fn open(storage: Arc<dyn Storage>) -> Result<Repository, Error> {
    Repository::open(storage, &secret(), &OpenOptions::default())
}

/// Opens it as the machine does whose cache folder lies in the world.
fn open_here(world: &World<'_>, storage: Arc<dyn Storage>) -> Result<Repository, Error> {
    let cache_dir = Some(world.folder.path().join("cache"));
    Repository::open(storage, &secret(), &OpenOptions { cache_dir, ..OpenOptions::default() })
}

/// Does something over a network in which one request meets a fault, for each request; `check` sees what came of it.
fn at_every_request(
    name: &str,
    run: impl Fn(&World<'_>, Arc<dyn Storage>) -> Result<Option<SnapshotId>, Error>,
    check: impl Fn(&mut World<'_>, &Result<Option<SnapshotId>, Error>, &str),
) {
    let Some(server) = Server::moto() else { return };
    let good = {
        let world = World::new(&server, format!("{name}/good"));
        let proxy = Proxy::start(server.address(), Network::default(), nothing()).unwrap();
        let result = run(&world, world.through(&proxy));
        assert!(matches!((&result, name), (Ok(Some(_)), _) | (Ok(None), "prune")), "{result:?}");
        proxy.requests()
    };
    let mut cases = Vec::new();
    for number in 0..good {
        // each request meets one of them, and each fault many requests
        let few = if is_soak() { FAULTS.len() } else { 1 };
        cases.extend((0..few).map(|turn| (number, FAULTS[(number as usize + turn) % FAULTS.len()].clone())));
    }
    let only = std::env::var("LAKEBED_TEST_REQUEST").ok().and_then(|number| number.parse::<u64>().ok());
    for (number, fault) in cases {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let what = format!("{name}: {fault:?} at request {number} of {good}");
        let mut world =
            World::new(&server, format!("{name}/{number}-{fault:?}").to_lowercase().replace(['(', ')'], "-"));
        let proxy = Proxy::start(server.address(), Network::default(), nth(number, fault)).unwrap();
        let result = run(&world, world.through(&proxy));
        if let Err(error) = &result {
            let told = format!("{what}: {error:?}");
            assert!(!matches!(error, Error::Poisoned { .. }), "{told}");
        }
        let met = proxy.log().into_iter().nth(number as usize);
        let what = format!("{what}: {}", met.map(|seen| seen.target).unwrap_or_default());
        drop(proxy);
        check(&mut world, &result, &what);
        world.check(&what);
    }
}

#[test]
fn a_backup_over_a_bad_network_loses_nothing_and_is_run_again() {
    let run = |world: &World<'_>, storage: Arc<dyn Storage>| {
        let repository = open_here(world, storage)?;
        let report = try_backup(&repository, &[world.source()], &options(), &FilterOptions::default())?;
        Ok(report.snapshot.map(|info| info.id))
    };
    let check = |world: &mut World<'_>, result: &Result<Option<SnapshotId>, Error>, _: &str| {
        let repository = open_here(world, world.direct()).unwrap();
        let observed = snapshot_of(&world.source());
        if let Ok(Some(id)) = result {
            let snapshots = repository.snapshots(&Default::default()).unwrap();
            let info = snapshots.into_iter().find(|info| info.id == *id).expect("what was committed");
            world.snapshots.push((info, observed.clone()));
        }
        let info = backup(&repository, &[world.source()]).snapshot.unwrap();
        world.snapshots.push((info, observed));
    };
    at_every_request("backup", run, check);
}

#[test]
fn forgetting_and_pruning_over_a_bad_network_loses_nothing() {
    let run = |world: &World<'_>, storage: Arc<dyn Storage>| {
        let repository = open_here(world, storage)?;
        let choice = Choice::Snapshots([world.snapshots[0].0.id].into());
        let plan = repository.plan_forget(&ForgetOptions::new(choice))?;
        repository.apply_forget(&plan, &Silent)?;
        repository.prune(&prune_all(), &Silent)?;
        Ok(None)
    };
    let check = |world: &mut World<'_>, result: &Result<Option<SnapshotId>, Error>, what: &str| {
        // it may be forgotten by now, or not
        world.snapshots.remove(0);
        let repository = open_here(world, world.direct()).unwrap();
        let next = repository.prune(&prune_all(), &Silent);
        next.unwrap_or_else(|error| panic!("{what}: {error:?} after {result:?}"));
    };
    at_every_request("prune", run, check);
}

#[test]
fn a_restore_over_a_bad_network_writes_nothing_that_is_wrong() {
    let run = |world: &World<'_>, storage: Arc<dyn Storage>| {
        let repository = open_here(world, storage)?;
        let (info, observed) = &world.snapshots[1];
        let out = world.folder.path().join("restored");
        let reader = repository.reader(&Silent)?;
        let options = RestoreOptions { target: out.clone(), ..RestoreOptions::default() };
        let report = restore(&reader, info, &options, &|_, _| {}, &Silent)?;
        let restored = report.failures.is_empty().then_some(info.id);
        if restored.is_some() {
            assert_tree_is(observed, &below(&out, &world.source()), &CompareOptions::default());
        }
        Ok(restored)
    };
    at_every_request("restore", run, |_, _, _| {});
}

/// Returns where a source lies in a folder that it was restored into.
fn below(out: &Path, source: &Path) -> PathBuf {
    out.join(source.strip_prefix("/").unwrap())
}
