//! Damage of every kind, in every object: found, located, and never restored silently.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::layout;
use lakebed_engine::core::pack::PackKind;
use lakebed_engine::core::record::key_slot::{Secret, Unlock};
use lakebed_engine::core::storage::{ObjectKey, Storage};
use lakebed_engine::rewrite::RewriteOptions;
use lakebed_engine::source::{Filter, FilterOptions};
use lakebed_engine::storage::{LocalStorage, ReadOnlyStorage};
use lakebed_engine::verify::VerifyReport;
use lakebed_engine::{InitOptions, OpenOptions, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, differences, snapshot_of};
use lakebed_testkit::damage::{Damage, damage, object_files, swap};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

/// Chunks so small that a file of 3,000 bytes has several: every byte of such a repository can be tried.
fn tiny_chunks() -> ChunkerParameters {
    ChunkerParameters {
        small_file_bytes: 256,
        min_bytes: 128,
        average_bytes: 256,
        max_bytes: 512,
        ..ChunkerParameters::default()
    }
}

/// A small repository in a folder, with an index in memory, two snapshots, an annotation and a ledger.
struct Small {
    folder: tempfile::TempDir,
    source: PathBuf,
    secret: Secret,
}

impl Small {
    fn new(encryption: Encryption) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let source = folder.path().join("source");
        TreeSpec::new()
            .file("a/notebook.py", b"print(1)\n".to_vec())
            .file("a/other.py", b"print(2)\n".to_vec())
            .file("big", Content::random(1, 3000))
            .write(&source);
        let storage = Arc::new(LocalStorage::create(folder.path().join("repo")).unwrap());
        let init = InitOptions { chunker: tiny_chunks(), ..init_options(encryption) };
        let repository = Repository::init(storage, &secret(), &init, &OpenOptions::default()).unwrap();
        backup(&repository, std::slice::from_ref(&source));
        std::fs::write(source.join("a/new.py"), "print(3)\n").unwrap();
        backup(&repository, std::slice::from_ref(&source));
        repository.annotate(&latest(&repository), vec!["kept".into()], String::new()).unwrap();
        assert_good(&repository);
        let secret = if encryption == Encryption::None { Secret::None } else { secret() };
        Self { folder, source, secret }
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn open(&self) -> lakebed_engine::Result<Repository> {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(self.repo()).unwrap());
        Repository::open(storage, &self.secret, &OpenOptions::default())
    }

    /// Verifies everything, without entering it in the ledger; `None` where the repository cannot even be opened, which
    /// is found as well.
    fn verify(&self) -> Option<VerifyReport> {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(self.repo()).unwrap());
        let storage = Arc::new(ReadOnlyStorage::new(storage));
        let repository = Repository::open(storage, &self.secret, &OpenOptions::default()).ok()?;
        Some(verify_all(&repository))
    }

    /// Restores whatever can be and checks that no file came back with other bytes than it had.
    fn restores_no_lie(&self, name: &str) {
        let Ok(repository) = self.open() else { return };
        let Ok(catalogue) = repository.catalogue() else { return };
        let Some(info) = catalogue.snapshots.last() else { return };
        let Ok(reader) = repository.reader(&lakebed_engine::Silent) else { return };
        let target = self.folder.path().join(name);
        let options = lakebed_engine::restore::RestoreOptions { target: target.clone(), ..Default::default() };
        let _ = lakebed_engine::restore::restore(&reader, info, &options, &|_, _| {}, &lakebed_engine::Silent);
        let restored = target.join(self.source.strip_prefix("/").unwrap());
        if restored.exists() {
            let (before, after) = (snapshot_of(&self.source), snapshot_of(&restored));
            for (path, entry) in &after {
                let original = before.get(path).or_else(|| before.get(&b"a/new.py"[..])).unwrap();
                assert_eq!(entry.content, original.content, "{}", String::from_utf8_lossy(path));
            }
        }
        lakebed_testkit::remove_all(&target);
    }
}

fn relative(small: &Small, file: &Path) -> String {
    file.strip_prefix(small.repo()).unwrap().display().to_string()
}

#[test]
fn every_flipped_byte_is_found() {
    for encryption in [Encryption::Aes256Gcm, Encryption::None] {
        let small = Small::new(encryption);
        let mut flipped = 0;
        for file in object_files(&small.repo()) {
            for offset in 0..std::fs::metadata(&file).unwrap().len() {
                let undo = damage(&file, Damage::FlipByte { offset, mask: 1 << (offset % 8) });
                let found = small.verify().is_none_or(|report| !report.is_good());
                assert!(found, "{} at {offset}", relative(&small, &file));
                undo.restore();
                flipped += 1;
            }
        }
        assert!(flipped > 8000, "{flipped}");
        assert!(small.verify().unwrap().is_good());
    }
}

#[test]
fn truncated_empty_and_missing_objects_are_found_and_never_restored() {
    let small = Small::new(Encryption::Aes256Gcm);
    for file in object_files(&small.repo()) {
        let name = relative(&small, &file);
        let length = std::fs::metadata(&file).unwrap().len();
        // a run's audit record, a ledger or an annotation may go without anybody missing it
        let may_go = ["runs/", "ledger/", "annotations/"].iter().any(|prefix| name.starts_with(prefix));
        // nobody can miss a whole snapshot but by its number
        let may_go = may_go || name.starts_with("snapshots/");
        for kind in [Damage::Truncate { length: length / 2 }, Damage::Truncate { length: length - 1 }, Damage::Empty] {
            let undo = damage(&file, kind);
            assert!(small.verify().is_none_or(|report| !report.is_good()), "{name} {kind:?}");
            small.restores_no_lie("out");
            undo.restore();
        }
        let undo = damage(&file, Damage::Delete);
        let found = small.verify().is_none_or(|report| !report.is_good());
        assert!(found || may_go, "{name} missing");
        small.restores_no_lie("out");
        undo.restore();
    }
    assert!(small.verify().unwrap().is_good());
}

#[test]
fn exchanged_objects_and_those_of_another_repository_are_found() {
    let small = Small::new(Encryption::Aes256Gcm);
    let other = Small::new(Encryption::Aes256Gcm);
    let files = object_files(&small.repo());
    for (a, b) in files.iter().zip(files.iter().skip(1)) {
        let undo = swap(a, b);
        let found = small.verify().is_none_or(|report| !report.is_good());
        assert!(found, "{} and {}", relative(&small, a), relative(&small, b));
        undo.restore();
    }
    let foreign = object_files(&other.repo());
    for prefix in ["snapshots/", "index/", "packs/", "keys/", "lakebed.json", "annotations/", "runs/", "ledger/"] {
        let of = |all: &[PathBuf], of: &Small| {
            all.iter().find(|file| relative(of, file).starts_with(prefix)).cloned().unwrap()
        };
        let (mine, theirs) = (of(&files, &small), of(&foreign, &other));
        let kept = std::fs::read(&mine).unwrap();
        std::fs::copy(&theirs, &mine).unwrap();
        assert!(small.verify().is_none_or(|report| !report.is_good()), "{prefix}");
        std::fs::write(&mine, kept).unwrap();
    }
    assert!(small.verify().unwrap().is_good());
}

#[test]
fn damage_names_the_snapshots_and_paths_that_it_touches() {
    let small = Small::new(Encryption::Aes256Gcm);
    let repository = small.open().unwrap();
    let shown = small.source.strip_prefix("/").unwrap().display().to_string();
    // the pack with the incompressible file is the largest object
    let pack =
        object_files(&small.repo()).into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let undo = damage(&pack, Damage::FlipByte { offset: 1500, mask: 1 });
    let report = verify_all(&repository);
    let affected: Vec<_> = report.damage.iter().flat_map(|damage| &damage.affected).collect();
    assert!(affected.iter().any(|affected| affected.path == format!("{shown}/big")), "{:#?}", report.damage);
    assert!(!affected.iter().any(|affected| affected.path.ends_with("new.py")), "{:#?}", report.damage);
    let snapshots: std::collections::BTreeSet<_> = affected.iter().map(|affected| affected.snapshot).collect();
    assert_eq!(snapshots.len(), 2);
    // the restore says so too, and leaves nothing under the file's name
    let target = small.folder.path().join("out");
    let report = try_restore(&repository, &latest(&repository), &target);
    assert!(report.failures.iter().any(|failure| failure.damage && failure.path.ends_with("big")));
    assert!(!target.join(&shown).join("big").exists());
    assert!(target.join(&shown).join("a/new.py").exists());
    undo.restore();
}

/// Most nodes of a long directory and of a long list of chunks lie in a pack of the first night, those on the way to what
/// changed in one of the second.
#[test]
fn damage_of_nodes_names_what_it_touches_too() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let wide = (0..500u64).fold(TreeSpec::new(), |tree, n| tree.file(format!("wide/{n}"), Content::random(n, 10)));
    wide.file("big", Content::random(1, 10_000_000)).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let is_tree = |key: &ObjectKey| place.storage.get(key).unwrap()[4] == PackKind::Tree.frame_kind().code();
    let packs = place.storage.list(layout::PACKS).unwrap().into_iter().map(|pack| pack.key);
    let trees: Vec<ObjectKey> = packs.filter(is_tree).collect();
    std::fs::write(source.join("wide/7"), "changed").unwrap();
    std::fs::write(source.join("big"), [Content::random(1, 10_000_000).bytes(), b"more".to_vec()].concat()).unwrap();
    let repository = place.reopen_later(&repository);
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let shown = source.strip_prefix("/").unwrap().display().to_string();
    for is_deleted in [false, true] {
        let storage = copy_of(&*place.storage);
        for key in &trees {
            let mut bytes = storage.get(key).unwrap();
            bytes[60] ^= 1;
            storage.delete(key).unwrap();
            if !is_deleted {
                storage.put(key, &bytes).unwrap();
            }
        }
        let report = verify_all(&Repository::open(storage, &secret(), &OpenOptions::default()).unwrap());
        let nodes = report.damage.iter().filter(|damage| damage.subject.starts_with("tree node"));
        for damage in nodes {
            assert!(!damage.affected.is_empty(), "{damage:#?}");
        }
        let affected = report.damage.iter().flat_map(|damage| &damage.affected);
        let paths: Vec<&str> =
            affected.filter(|it| it.snapshot == info.id).map(|affected| affected.path.as_str()).collect();
        for path in ["wide", "big"] {
            assert!(paths.contains(&format!("{shown}/{path}").as_str()), "{path}: {:#?}", report.damage);
        }
    }
}

#[test]
fn a_snapshot_with_the_same_damage_is_no_repaired_one() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    (0..160u64).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}"), Content::random(n, 100))).write(&source);
    let original = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    // several: which of two snapshots comes first is chance
    for name in 0..8 {
        let filter = FilterOptions { exclude: vec![name.to_string()], ..FilterOptions::default() };
        let rewriting = RewriteOptions { keep_original: true, ..RewriteOptions::default() };
        let report = repository
            .rewrite(std::slice::from_ref(&original), &Filter::new(&filter).unwrap(), &rewriting, &Silent)
            .unwrap();
        assert!(report.rewritten[0].snapshot.is_some());
    }
    let pack = place.storage.list(layout::PACKS).unwrap().into_iter().max_by_key(|pack| pack.size_bytes).unwrap().key;
    let mut bytes = place.storage.get(&pack).unwrap();
    bytes[60] ^= 1;
    place.storage.delete(&pack).unwrap();
    place.storage.put(&pack, &bytes).unwrap();
    let report = verify_all(&place.reopen());
    assert!(report.damage.iter().any(|damage| damage.affected_more > 0), "{:#?}", report.damage);
    assert!(report.repaired.is_empty(), "{:?}", report.repaired);
}

/// The next backup stores again what a missing pack held, as far as the source still has it.
#[test]
fn a_missing_pack_heals_with_the_next_backup() {
    let small = Small::new(Encryption::Aes256Gcm);
    for pack in object_files(&small.repo()).into_iter().filter(|file| relative(&small, file).starts_with("packs/")) {
        std::fs::remove_file(pack).unwrap();
    }
    let repository = small.open().unwrap();
    assert!(!verify_all(&repository).is_good());
    backup(&repository, std::slice::from_ref(&small.source));
    let target = small.folder.path().join("out");
    let restored = restore_to(&repository, &latest(&repository), &target, &small.source);
    let found = differences(&snapshot_of(&small.source), &snapshot_of(&restored), &CompareOptions::default());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_wrong_key_opens_nothing() {
    let small = Small::new(Encryption::Aes256Gcm);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(small.repo()).unwrap());
    let wrong = Secret::KeyFile(zeroize::Zeroizing::new(vec![8; 32]));
    let error = Repository::open(storage, &wrong, &OpenOptions::default()).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::WrongKey { slots: 1, .. }), "{error:?}");
}

/// Whoever can write the storage puts an unencrypted repository in the place of an encrypted one: nobody backs up into it.
#[test]
fn an_exchanged_configuration_is_refused() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a", b"plain".to_vec()).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let (other, _) = Place::over_folder(Encryption::None);
    for name in ["lakebed.json", "keys"] {
        let (mine, theirs) = (place.path("repo").join(name), other.path("repo").join(name));
        if mine.is_dir() {
            std::fs::remove_dir_all(&mine).unwrap();
            std::fs::create_dir(&mine).unwrap();
            for slot in std::fs::read_dir(theirs).unwrap() {
                let slot = slot.unwrap();
                std::fs::copy(slot.path(), mine.join(slot.file_name())).unwrap();
            }
        } else {
            std::fs::copy(theirs, mine).unwrap();
        }
    }
    let open =
        |secret: &Secret, options: &OpenOptions| Repository::open(place.storage.clone(), secret, options).map(drop);
    // a machine that never saw it is warned by the password that it was given
    let elsewhere = OpenOptions { cache_dir: Some(place.path("another-cache")), ..place.open.clone() };
    let error = open(&secret(), &elsewhere).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::UnexpectedlyOpen { .. }), "{error:?}");
    // and one that had the encrypted repository there knows the place
    let error = open(&Secret::None, &place.open).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::ConfigExchanged { .. }), "{error:?}");
    // a forged configuration under the same id is known not to be the one that was there
    let id = repository.info().id.to_string();
    let forged = std::fs::read_to_string(place.path("repo/lakebed.json")).unwrap();
    let theirs = lakebed_engine::core::record::config::Config::decode(forged.as_bytes()).unwrap().repository_id;
    std::fs::write(place.path("repo/lakebed.json"), forged.replace(&theirs.to_string(), &id)).unwrap();
    let error = open(&Secret::None, &place.open).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::ConfigExchanged { .. }), "{error:?}");
}

#[test]
fn the_last_slot_that_opens_cannot_be_removed() {
    let (place, repository) = Place::local();
    let other = Secret::KeyFile(vec![9; 32].into());
    let added = repository.add_key(Unlock::KeyFile, &other, "other").unwrap();
    let file = place.path("repo/keys").join(added.to_string());
    damage(&file, Damage::FlipByte { offset: 40, mask: 1 }).keep();
    let current = object_files(&place.path("repo/keys")).into_iter().find(|slot| *slot != file).unwrap();
    let prefix = current.file_name().unwrap().to_str().unwrap();
    let error = repository.remove_key(prefix).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::LastKeySlot { .. }), "{error:?}");
    assert!(current.exists());
    // the damaged one may go
    repository.remove_key(&added.to_string()).unwrap();
    place.reopen();
}

/// Making a repository there would delete the key slots, and all would be lost that a copy of one small file can bring back.
#[test]
fn a_repository_that_lost_its_configuration_is_no_place_for_another_one() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a", b"a".to_vec()).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let undo = damage(&place.path("repo/lakebed.json"), Damage::Delete);
    let before = object_files(&place.path("repo"));
    let options = init_options(Encryption::Aes256Gcm);
    let made = Repository::init(place.storage.clone(), &secret(), &options, &place.open).map(drop);
    let opened = Repository::open(place.storage.clone(), &secret(), &place.open).map(drop);
    for result in [made, opened] {
        assert!(matches!(result, Err(lakebed_engine::Error::ConfigLost { .. })), "{result:?}");
    }
    assert_eq!(object_files(&place.path("repo")), before);
    undo.restore();
    assert_good(&place.reopen());
}

#[test]
fn a_slot_that_an_attempt_to_make_the_repository_left_does_no_harm() {
    let (place, repository) = Place::local();
    let (other, _) = Place::over_folder(Encryption::Aes256Gcm);
    let left = object_files(&other.path("repo/keys")).remove(0);
    let name = left.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&left, place.path("repo/keys").join(name)).unwrap();
    let repository = place.reopen_later(&repository);
    assert_good(&repository);
    let listed = repository.list_keys().unwrap();
    assert!(listed.len() == 1 && listed[0].current, "{listed:?}");
    assert!(repository.remove_key(&listed[0].id.to_string()).is_err(), "it is the last one");
    repository.remove_key(name).unwrap();
    assert!(!place.path("repo/keys").join(name).exists());
    // one that is damaged is no such slot
    damage(&object_files(&place.path("repo/keys"))[0], Damage::FlipByte { offset: 40, mask: 1 }).keep();
    assert!(!verify_all(&repository).is_good());
}

/// Who has opened a repository knows that it has one: a listing without it has lost more, or is no whole listing.
#[test]
fn a_configuration_that_is_not_listed_is_damage() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    assert_good(&repository);
    place.storage.delete(&layout::config()).unwrap();
    let report = verify_all(&repository);
    let subjects: Vec<&str> = report.damage.iter().map(|damage| damage.subject.as_str()).collect();
    assert_eq!(subjects, ["lakebed.json"]);
}
