//! A distributed engine with three nodes, which `scripts/distributed` starts: several machines, each speaking to another
//! node, while nodes stop and go.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lakebed_connectors::object_storage::{ConnectOptions, ObjectStorage, Target};
use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::repository::SnapshotFilter;
use lakebed_engine::source::FilterOptions;
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, TreeSpec};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::*;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: scripts/distributed does that"))
}

/// The repository, as a machine reaches it that speaks to one of the nodes.
fn through(endpoint: &str) -> Arc<dyn Storage> {
    let url = format!("s3:{endpoint}/{}/lakes/one", variable("LAKEBED_TEST_S3_BUCKET"));
    let retry_for = Some(Duration::from_secs(120));
    let options = ConnectOptions { allow_http: true, retry_for, ..ConnectOptions::default() };
    Arc::new(ObjectStorage::connect(&Target::parse(&url).unwrap(), &options).unwrap())
}

fn open(endpoint: &str) -> Repository {
    Repository::open(through(endpoint), &secret(), &OpenOptions::default()).unwrap()
}

#[test]
#[ignore = "scripts/distributed starts the nodes that it needs"]
fn a_distributed_engine_keeps_a_repository_while_nodes_stop_and_go() {
    let endpoints: Vec<String> = variable("LAKEBED_TEST_S3_ENDPOINTS").split(',').map(str::to_owned).collect();
    let pids = variable("LAKEBED_TEST_GARAGE_PIDS");
    let node = |at: usize| Pid::from_raw(pids.split_whitespace().nth(at).unwrap().parse().unwrap()).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let sources: Vec<PathBuf> = (0..endpoints.len()).map(|machine| folder.path().join(machine.to_string())).collect();
    for (machine, source) in sources.iter().enumerate() {
        let tree = (0..30).fold(TreeSpec::new(), |tree, n| {
            tree.file(format!("{n}/notebook.py"), Content::random(n + machine as u64 * 100, 3000))
        });
        tree.file("large", Content::random(machine as u64, 20 << 20)).write(source);
    }
    Repository::init(through(&endpoints[0]), &secret(), &init_options(Encryption::Aes256Gcm), &OpenOptions::default())
        .unwrap();
    let night = |machines: &[usize]| {
        std::thread::scope(|scope| {
            for &machine in machines {
                let (source, endpoint) = (&sources[machine], &endpoints[machine]);
                scope.spawn(move || {
                    let options = BackupOptions { host: format!("machine {machine}"), ..options() };
                    let repository = open(endpoint);
                    backup_with(&repository, std::slice::from_ref(source), &options, &FilterOptions::default());
                });
            }
        });
    };
    let check = |endpoint: &str, count: usize| {
        let repository = open(endpoint);
        let snapshots = repository.snapshots(&SnapshotFilter::default()).unwrap();
        assert_eq!(snapshots.len(), count);
        assert_good(&repository);
        for info in snapshots.iter().rev().take(1) {
            let machine: usize = info.snapshot.host.rsplit(' ').next().unwrap().parse().unwrap();
            let out = folder.path().join(format!("out-{count}"));
            let restored = restore_to(&repository, info, &out, &sources[machine]);
            assert_tree_is(&snapshot_of(&sources[machine]), &restored, &CompareOptions::default());
        }
    };
    night(&[0, 1, 2]);
    check(&endpoints[1], 3);

    // names do not keep what they have there, so a prune wants to be alone
    let repository = open(&endpoints[0]);
    let first = repository.snapshots(&SnapshotFilter::default()).unwrap()[0].id;
    forget(&repository, vec![first]);
    assert!(matches!(repository.prune(&prune_all(), &Silent), Err(Error::NeedsExclusive { .. })));
    let mut alone = prune_all();
    alone.exclusive = true;
    repository.prune(&alone, &Silent).unwrap();
    check(&endpoints[2], 2);

    // a node that stands still, then one that is gone
    kill_process(node(2), Signal::STOP).unwrap();
    night(&[0, 1]);
    kill_process(node(2), Signal::CONT).unwrap();
    check(&endpoints[0], 4);
    kill_process(node(2), Signal::KILL).unwrap();
    night(&[0, 1]);
    check(&endpoints[1], 6);
}
