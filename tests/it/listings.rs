//! Listings that lie: cut short, empty, old, doubled, or failing. A prune believes none of them to anybody's loss.

use std::sync::{Arc, Mutex};

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::forward_storage;
use lakebed_engine::core::storage::{ObjectInfo, Storage, StorageError, StorageErrorKind};
use lakebed_engine::{Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

/// What is wrong with a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// The second half is missing.
    Short,
    /// Everything is missing.
    Empty,
    /// It is as old as this night: of a time when there was less.
    Old(u64),
    /// Every object comes twice.
    Double,
    /// It fails, as what may work another time.
    Failing,
}

/// After the night 2 there is a prune, whose done mark says what there is by then; the night 4 is the last one.
const LIES: [Lie; 6] = [Lie::Short, Lie::Empty, Lie::Old(1), Lie::Old(3), Lie::Double, Lie::Failing];

/// A storage that lies about what lies under one prefix.
#[derive(Debug)]
struct Liar {
    inner: Arc<dyn Storage>,
    prefix: &'static str,
    lie: Lie,
    /// What was there when it began to lie.
    old: Vec<ObjectInfo>,
    told: Mutex<u32>,
}

impl Storage for Liar {
    forward_storage!(inner: location, capabilities, put, writer, get, get_range, size, delete, sync);

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let mut listed = self.inner.list(prefix)?;
        if !prefix.starts_with(self.prefix) {
            return Ok(listed);
        }
        *self.told.lock().unwrap() += 1;
        match self.lie {
            Lie::Short => listed.truncate(listed.len() / 2),
            Lie::Empty => listed.clear(),
            Lie::Old(_) => listed.retain(|object| self.old.contains(object)),
            Lie::Double => listed = listed.into_iter().flat_map(|object| [object.clone(), object]).collect(),
            Lie::Failing => {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(StorageError {
                    kind: StorageErrorKind::Transient,
                    ..StorageError::new("list", prefix, source)
                });
            }
        }
        Ok(listed)
    }
}

#[test]
fn a_prune_that_is_lied_to_loses_nothing() {
    for prefix in ["snapshots/", "packs/", "index/", "forgotten/", "gc/", "runs/", "sessions/"] {
        for lie in LIES {
            let (place, repository) = Place::memory(Encryption::Aes256Gcm);
            let source = place.path("source");
            let mut nights = Vec::new();
            let mut old = Vec::new();
            for night in 0..5u64 {
                let mut tree = TreeSpec::new().file("always", "the same");
                for file in 0..6 {
                    tree = tree.file(format!("{file}"), Content::random(night / 2 * 10 + file, 3000));
                }
                if source.exists() {
                    lakebed_testkit::remove_all(&source);
                }
                tree.write(&source);
                let report = backup(&repository, std::slice::from_ref(&source));
                nights.push((report.snapshot.unwrap(), snapshot_of(&source)));
                if lie == Lie::Old(night) {
                    old = place.storage.list(prefix).unwrap();
                }
                if night == 2 {
                    forget(&repository, vec![nights[0].0.id]);
                    repository.prune(&prune_all(), &Silent).unwrap();
                }
            }
            nights.remove(0);
            forget(&repository, vec![nights.remove(0).0.id]);
            let liar = Arc::new(Liar { inner: place.storage.clone(), prefix, lie, old, told: Mutex::new(0) });
            let beside = Repository::open(liar.clone(), &secret(), &place.open).unwrap();
            let pruned = beside.prune(&prune_all(), &Silent);
            println!("{prefix} {lie:?}: {pruned:?}");
            assert!(*liar.told.lock().unwrap() > 0 || prefix == "runs/", "{prefix} was not listed");
            if lie == Lie::Double {
                pruned.unwrap();
            }
            // whatever it did, an honest storage has all that was not forgotten
            let honest = place.reopen();
            for (info, observed) in &nights {
                let target = tempfile::TempDir::new().unwrap();
                let restored = restore_to(&honest, info, target.path(), &source);
                assert_tree_is(observed, &restored, &CompareOptions::default());
            }
            assert_good(&honest);
            honest.prune(&prune_all(), &Silent).unwrap();
            assert_good(&honest);
        }
    }
}
