//! Repositories on object stores: the contract of storage, and a repository's life, on a store in memory and on real
//! servers.

use std::sync::Arc;

use lakebed_connectors::object_storage::{ConnectOptions, ObjectStorage, Store};
use lakebed_engine::copy::{CopyOptions, copy};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::PackId;
use lakebed_engine::core::layout;
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageError, StorageErrorKind};
use lakebed_engine::repository::SnapshotFilter;
use lakebed_engine::storage::contract;
use lakebed_engine::{Error, LookAhead, OpenOptions, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::proxy::{Network, Proxy, nothing};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;
use crate::servers::Server;

fn in_memory(prefix: &str) -> ObjectStorage {
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()));
    ObjectStorage::over(store, prefix.into(), "memory".into(), &ConnectOptions::default()).unwrap()
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    for prefix in ["", "some/where"] {
        contract::check(&in_memory(prefix)).unwrap();
    }
}

#[test]
fn an_s3_server_keeps_the_contract() {
    let Some(server) = Server::moto() else { return };
    for prefix in ["", "some/where"] {
        contract::check(&server.storage(prefix)).unwrap();
    }
}

#[test]
fn an_azure_server_keeps_the_contract() {
    let Some(server) = Server::azurite() else { return };
    for prefix in ["", "some/where"] {
        contract::check(&server.storage(prefix)).unwrap();
    }
}

/// Sent in parts, and not to be seen before the last one.
fn puts_in_parts(storage: &ObjectStorage) {
    let key = ObjectKey::new("packs/aa/1").unwrap();
    let content = Content::random(1, 44 << 20).bytes();
    let mut writer = storage.writer().unwrap();
    for part in content.chunks(3_000_001) {
        writer.append(part).unwrap();
    }
    assert!(storage.list("").unwrap().is_empty());
    writer.finish(&key).unwrap();
    assert_eq!(storage.size(&key).unwrap(), content.len() as u64);
    assert!(storage.get(&key).unwrap() == content);
    let mut again = storage.writer().unwrap();
    again.append(&content).unwrap();
    assert_eq!(again.finish(&key).unwrap_err().kind, StorageErrorKind::AlreadyExists);
}

#[test]
fn a_long_object_is_put_in_parts() {
    for server in [Server::moto(), Server::azurite()].into_iter().flatten() {
        puts_in_parts(&server.storage("parts"));
    }
}

fn lives(storage: Arc<dyn Storage>) {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    let tree = (0..50).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}/notebook.py"), Content::random(n, 3000)));
    tree.file("large", Content::random(99, 3_000_000)).write(&source);
    let open = OpenOptions::default();
    let repository = Repository::init(storage.clone(), &secret(), &init_options(Encryption::Aes256Gcm), &open).unwrap();
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let observed = snapshot_of(&source);
    std::fs::write(source.join("0/notebook.py"), "edited").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    // another machine, however far it looks ahead
    for look_ahead in [LookAhead::Opening, LookAhead::Reading, LookAhead::Everything] {
        let open = OpenOptions { look_ahead, ..open.clone() };
        let report = verify_all(&Repository::open(storage.clone(), &secret(), &open).unwrap());
        assert!(report.is_good(), "{look_ahead:?}: {:?}", report.damage);
        assert_eq!(report.snapshots, 2, "{look_ahead:?}");
    }
    let reopened = Repository::open(storage, &secret(), &open).unwrap();
    let restored = restore_to(&reopened, &info, &folder.path().join("out"), &source);
    assert_tree_is(&observed, &restored, &CompareOptions::default());
}

#[test]
fn a_repository_lives_on_an_object_store() {
    lives(Arc::new(in_memory("lake")));
    for server in [Server::moto(), Server::azurite()].into_iter().flatten() {
        lives(Arc::new(server.storage("repositories/one")));
    }
}

#[test]
fn a_place_that_is_not_there_is_an_error_and_no_empty_repository() {
    for server in [Server::moto(), Server::azurite()].into_iter().flatten() {
        let storage = server.storage_of("no-such-bucket", "lake");
        let key = ObjectKey::new("lakebed.json").unwrap();
        let error = storage.put(&key, b"content").unwrap_err();
        assert!(error.to_string().contains("lakebed.json"), "{error}");
        assert!(storage.list("").is_err());
        let (init, open) = (init_options(Encryption::Aes256Gcm), OpenOptions::default());
        let error = Repository::init(Arc::new(storage), &secret(), &init, &open).unwrap_err();
        assert!(matches!(error, Error::NoPlace { .. }), "{error}");
    }
}

/// One look at everything says the same as a listing of each.
#[test]
fn a_survey_says_what_listings_say() {
    let prefixes = ["a/", "", "b/", "c/none/", "b/1", "b/none", "z/"];
    for server in [Server::moto(), Server::azurite()].into_iter().flatten() {
        let storage = server.storage("survey");
        let look = || storage.survey(&prefixes).unwrap().expect("a store that lists by pages");
        assert!(look().iter().all(Vec::is_empty));
        let put = |name: String| storage.put(&ObjectKey::new(name).unwrap(), b"content").unwrap();
        // more than a page of S3, so that something of what is asked for lies behind the first
        for count in [3, 1200] {
            (0..count).for_each(|number| drop(storage.put(&ObjectKey::new(format!("a/{number}")).unwrap(), b"x")));
            if count == 3 {
                ["b/1", "b/2", "z/1"].into_iter().for_each(|name| put(name.into()));
            }
            let seen = look();
            for (prefix, seen) in prefixes.iter().zip(seen) {
                let expected = match prefix.is_empty() || prefix.ends_with('/') {
                    true => storage.list(prefix).unwrap(),
                    false => {
                        storage.list("b/").unwrap().into_iter().filter(|info| info.key.as_str() == *prefix).collect()
                    }
                };
                assert_eq!(seen, expected, "{prefix} of {count}");
            }
        }
    }
}

#[test]
fn a_snapshot_goes_from_a_folder_to_one_cloud_and_from_there_to_another() {
    let (Some(s3), Some(azure)) = (Server::moto(), Server::azurite()) else { return };
    let (place, local) = Place::local();
    let source = place.path("source");
    let tree = TreeSpec::new().file("notebook.py", b"print('a')".to_vec());
    tree.file("large", Content::random(7, 2_000_000)).write(&source);
    let info = backup(&local, std::slice::from_ref(&source)).snapshot.unwrap();
    let observed = snapshot_of(&source);
    let mut from = local;
    for storage in [s3.storage("copy"), azure.storage("copy")] {
        let (init, open) = (init_options(Encryption::Aes256Gcm), OpenOptions::default());
        let to = Repository::init(Arc::new(storage), &secret(), &init, &open).unwrap();
        let report = copy(&from, &to, &CopyOptions::default(), &|_| {}, &Silent).unwrap();
        assert_eq!(report.snapshots.len(), 1);
        assert_good(&to);
        from = to;
    }
    let copied = latest(&from);
    assert_eq!(copied.snapshot.time, info.snapshot.time);
    let restored = restore_to(&from, &copied, &place.path("out"), &source);
    assert_tree_is(&observed, &restored, &CompareOptions::default());
}

#[test]
fn who_may_not_delete_backs_up_and_restores_and_is_told_what_he_may_not() {
    let Some(server) = Server::azurite() else { return };
    let keeping: Arc<dyn Storage> = Arc::new(server.storage_without_deleting(server.address(), "kept"));
    let key = ObjectKey::new("probes/1").unwrap();
    keeping.put(&key, b"content").unwrap();
    assert_eq!(keeping.delete(&key).unwrap_err().kind, StorageErrorKind::PermissionDenied);
    lives(keeping.clone());
    let repository = Repository::open(keeping, &secret(), &OpenOptions::default()).unwrap();
    let ids = repository.snapshots(&SnapshotFilter::default()).unwrap();
    forget(&repository, vec![ids[0].id]);
    let error = repository.prune(&prune_all(), &Silent).unwrap_err();
    let denied = |error: &StorageError| error.kind == StorageErrorKind::PermissionDenied;
    assert!(matches!(&error, Error::Storage(error) if denied(error)), "{error}");
    // nothing was condemned
    let owner = Repository::open(Arc::new(server.storage("kept")), &secret(), &OpenOptions::default()).unwrap();
    assert_eq!(owner.prune(&prune_all(), &Silent).unwrap().snapshots_deleted, 1);
    assert_good(&owner);
}

/// OneLake knows no batches.
#[test]
fn azure_deletes_without_a_batch() {
    let Some(server) = Server::azurite() else { return };
    let proxy = Proxy::start(server.address(), Network::default(), nothing()).unwrap();
    let storage = server.storage_at(proxy.address(), "lake house/ü");
    let key = ObjectKey::new("a/b").unwrap();
    storage.put(&key, b"content").unwrap();
    storage.delete(&key).unwrap();
    assert!(storage.size(&key).unwrap_err().is_not_found());
    // what is not there is no failure, or said to be not there: both are right
    assert!(storage.delete(&key).map_or_else(|error| error.is_not_found(), |()| true));
    let log = proxy.log();
    assert!(
        log.iter().any(|seen| seen.method == "DELETE") && !log.iter().any(|seen| seen.target.contains("comp=batch"))
    );
}

/// moto says of every upload that it was begun in 2010.
#[test]
fn uploads_that_were_cut_off_long_ago_are_swept_away_below_the_own_prefix() {
    let Some(server) = Server::moto() else { return };
    let ask = |method: &str, target: &str| {
        let host = "Host: localhost\r\nContent-Length: 0\r\nConnection: close";
        server.ask(&format!("{method} {target} HTTP/1.1\r\n{host}\r\n\r\n"))
    };
    let pack = |number| layout::pack(PackId::new([number; 32])).to_string();
    let ours = [1, 2].map(|number| format!("lake/one/{}", pack(number)));
    let others = [format!("lake/other/{}", pack(1)), "lake/one/video.mp4".into(), "lake/one-more".into()];
    for key in ours.iter().chain(&others) {
        assert!(ask("POST", &format!("/lake/{key}?uploads")).contains("<UploadId>"));
    }
    assert_eq!(server.storage("lake/one").sweep().unwrap(), 0);
    let left = ask("GET", "/lake?uploads");
    assert!(ours.iter().all(|key| !left.contains(key)), "{left}");
    assert!(others.iter().all(|key| left.contains(key)), "{left}");
}
