//! Repositories on object stores: the contract of storage, and a repository's life, on a store in memory and on real
//! servers.

use std::sync::Arc;

use lakebed_connectors::object_storage::{ConnectOptions, ObjectStorage, Store};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageErrorKind};
use lakebed_engine::storage::contract;
use lakebed_engine::{Error, OpenOptions, Repository};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
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
    let content = Content::random(1, 40 << 20).bytes();
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
    // another machine
    let reopened = Repository::open(storage, &secret(), &open).unwrap();
    assert_good(&reopened);
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
    let prefixes = ["a/", "b/", "c/none/", "b/1", "b/none", "z/"];
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
                let expected = match prefix.ends_with('/') {
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
