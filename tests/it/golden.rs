//! Format 1, frozen: a repository with every kind of object, made once and never edited.
//!
//! `fixtures/format-1/repo` opens with the key file `fixtures/format-1/key` and with the passphrase `golden`;
//! `fixtures/format-1/tree.txt` says what its newest snapshot holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::frame::{FrameKind, FrameScratch};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{CatalogueId, PackId, RepositoryId, SegmentId, SessionId};
use lakebed_engine::core::layout;
use lakebed_engine::core::pack::{
    PackDirectory, Removal, decode_removal, decode_segment, encode_removal, encode_segment,
};
use lakebed_engine::core::record::catalogue::{CatalogueEntry, decode_catalogue, encode_catalogue};
use lakebed_engine::core::record::config::Config;
use lakebed_engine::core::record::gc::{Awaited, Claim, Condemnation, Done, Resolution, Tombstone, Verdict};
use lakebed_engine::core::record::key_slot::{KeySlot, Secret, Unlock};
use lakebed_engine::core::record::ledger::Ledger;
use lakebed_engine::core::record::session::{Checkpoint, Expiry, Process, Run, Session};
use lakebed_engine::core::record::snapshot::{Annotation, Original, Snapshot};
use lakebed_engine::core::record::storage_probe::StorageProbe;
use lakebed_engine::core::record::tree::{Entry, EntryKind, Node};
use lakebed_engine::core::record::{RECORD_VERSION, Record};
use lakebed_engine::core::storage::{ObjectKey, Storage};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::core::wire::DecodeError;
use lakebed_engine::query::walk;
use lakebed_engine::storage::{LocalStorage, MemoryStorage, ReadOnlyStorage};
use lakebed_engine::{OpenOptions, Repository, Silent};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use crate::common::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1").join(name)
}

fn key_file() -> Secret {
    Secret::KeyFile(std::fs::read(fixture("key")).unwrap().into())
}

fn open(secret: &Secret) -> Repository {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(fixture("repo")).unwrap());
    Repository::open(Arc::new(ReadOnlyStorage::new(storage)), secret, &OpenOptions::default()).unwrap()
}

/// Describes a tree without what depends on the machine that restores it.
fn describe(repository: &Repository) -> String {
    let info = latest(repository);
    let reader = repository.reader(&Silent).unwrap();
    let mut text = String::new();
    walk(&reader, info.snapshot.root, b"", &mut |path, entry| {
        let mut content = Vec::new();
        if entry.kind == EntryKind::File {
            lakebed_engine::query::write_content(&reader, entry, "x", &mut content).unwrap();
        }
        let hash = lakebed_engine::core::hash::object_hash(&content);
        let path = lakebed_engine::core::text::escape_path(path);
        let target = lakebed_engine::core::text::escape_path(&entry.link_target);
        // the folders above the source have the times of the day when it was made
        text.push_str(&format!(
            "{path} {} {:o} {} {} {} {target} {}\n",
            entry.kind.as_str(),
            entry.mode,
            entry.mtime,
            entry.size,
            hash.to_hex(),
            entry.xattrs.len(),
        ));
        Ok(lakebed_engine::query::Listed::Descend)
    })
    .unwrap();
    text
}

#[test]
fn format_1_is_read() {
    for secret in [key_file(), Secret::Passphrase(b"golden".to_vec().into())] {
        let repository = open(&secret);
        assert_eq!(repository.list_keys().unwrap().len(), 2);
        let catalogue = repository.catalogue().unwrap();
        assert!(catalogue.damaged.is_empty(), "{:?}", catalogue.damaged);
        assert_eq!(catalogue.snapshots.len(), 3);
        assert_eq!(catalogue.snapshots[2].snapshot.tags, ["golden", "kept"]);
        assert_eq!(describe(&repository), std::fs::read_to_string(fixture("tree.txt")).unwrap());
        assert_good(&repository);
    }
}

/// What was read is written again with the same bytes: the encodings are canonical and have not changed.
#[test]
fn format_1_is_written_as_it_was() {
    let repository = open(&key_file());
    let store = repository.store();
    let mut kinds = std::collections::BTreeSet::new();
    for object in store.storage().list("").unwrap() {
        let key = &object.key;
        let folder = key.as_str().split('/').next().unwrap();
        if key.as_str() == layout::CONFIG {
            let bytes = store.storage().get(key).unwrap();
            assert_eq!(Config::decode(&bytes).unwrap().encode(), bytes);
            continue;
        }
        if folder == "keys" {
            let bytes = store.storage().get(key).unwrap();
            assert_eq!(KeySlot::decode(KeySlot::id(&bytes), &bytes).unwrap().encode(), bytes);
            continue;
        }
        if folder == "packs" {
            continue;
        }
        // records named after their bytes are bound to their folder, all others to their whole name
        let named_by_bytes = folder == "index" || folder == "ledger";
        let context = if named_by_bytes { format!("{folder}/") } else { key.to_string() };
        let mut scratch = lakebed_engine::core::codec::frame::FrameScratch::new().unwrap();
        let bytes = store.storage().get(key).unwrap();
        let (kind, plain) = lakebed_engine::core::codec::frame::open_record(
            store.keys(),
            FrameKind::ALL,
            &context,
            &bytes,
            &mut scratch,
        )
        .unwrap();
        kinds.insert(kind.code());
        fn again<R: Record>(plain: &[u8]) -> Vec<u8> {
            R::decode(plain).unwrap().encode()
        }
        let encoded = match kind {
            FrameKind::Segment => encode_segment(&decode_segment(&plain).unwrap()),
            FrameKind::RemovalSegment => encode_removal(&decode_removal(&plain).unwrap()),
            FrameKind::Snapshot => again::<Snapshot>(&plain),
            FrameKind::Expiry => again::<Expiry>(&plain),
            FrameKind::Annotation => again::<Annotation>(&plain),
            FrameKind::Tombstone => again::<Tombstone>(&plain),
            FrameKind::Resolution => again::<Resolution>(&plain),
            FrameKind::Session => again::<Session>(&plain),
            FrameKind::Run => again::<Run>(&plain),
            FrameKind::Claim => again::<Claim>(&plain),
            FrameKind::Condemnation => again::<Condemnation>(&plain),
            FrameKind::Done => again::<Done>(&plain),
            FrameKind::Awaited => again::<Awaited>(&plain),
            FrameKind::Ledger => again::<Ledger>(&plain),
            other => panic!("{key} is a {other:?}"),
        };
        assert_eq!(String::from_utf8_lossy(&encoded), String::from_utf8_lossy(&plain), "{key}");
    }
    // every kind of record is there; a key label lies in its slot
    assert_eq!(kinds, (4..=16).chain([18]).collect());
    let reader = repository.reader(&Silent).unwrap();
    for info in repository.catalogue().unwrap().snapshots {
        let node = reader.node(info.snapshot.root).unwrap();
        assert_eq!(store.keys().tree_id(&node.encode()), info.snapshot.root);
    }
}

#[test]
fn what_a_newer_lakebed_wrote_is_refused_or_kept() {
    let newer = |error: DecodeError| assert!(matches!(error, DecodeError::NewerVersion { .. }), "{error:?}");
    newer(Tombstone::decode(br#"{"version":2,"something":"else"}"#).unwrap_err());
    newer(Node::decode(&[2, 0, 0]).unwrap_err());
    newer(PackDirectory::decode(&[2]).unwrap_err());
    newer(decode_segment(&[2]).unwrap_err());
    newer(decode_removal(&[2]).unwrap_err());
    let config = std::fs::read_to_string(fixture("repo/lakebed.json")).unwrap();
    assert!(Config::decode(config.replace("\"version\": 1", "\"version\": 2").as_bytes()).is_err());
    assert!(Config::decode(config.replace("\"read\": []", "\"read\": [\"time-travel\"]").as_bytes()).is_err());
    // a key that was added within the version is kept
    let text = r#"{"version":1,"time":"2026-01-01T00:00:00Z","reason":"x","later":{"a":1}}"#;
    assert_eq!(Tombstone::decode(text.as_bytes()).unwrap().encode(), text.as_bytes());
    // and so is a field of an entry
    let mut entry = Entry::new("x", EntryKind::Fifo);
    entry.unknown = vec![(77, b"later".to_vec())];
    let bytes = Node::Entries(vec![entry]).encode();
    assert_eq!(Node::decode(&bytes).unwrap().encode(), bytes);
}

fn probe_key() -> ObjectKey {
    layout::storage_probe(lakebed_engine::core::hash::object_hash(b"s3://bucket/lake").as_bytes(), 0)
}

/// What a medium was found to do is recorded since after the fixture was made, so it lies beside it.
#[test]
fn a_storage_probe_of_format_1_is_read_and_written_as_it_was() {
    let repository = open(&key_file());
    let memory = Arc::new(MemoryStorage::new());
    memory.put(&probe_key(), &std::fs::read(fixture("storage-probe")).unwrap()).unwrap();
    let store = repository.store().over(memory);
    let (_, plain) = store.read_kinds(&probe_key(), &[FrameKind::StorageProbe]).unwrap();
    let probe = StorageProbe::decode(&plain).unwrap();
    assert_eq!(probe.place, "s3://bucket/lake");
    assert!(probe.put_if_absent && !probe.listing_after_write);
    assert_eq!(String::from_utf8_lossy(&probe.encode()), String::from_utf8_lossy(&plain));
}

/// How that record was made. It is never made again.
#[test]
#[ignore = "it made a record of format 1, which is frozen"]
fn make_storage_probe_of_format_1() {
    assert!(!fixture("storage-probe").exists(), "the fixture exists and is frozen");
    let memory = MemoryStorage::new();
    let store = open(&key_file()).store().over(Arc::new(memory.clone()));
    let probe = StorageProbe {
        version: RECORD_VERSION,
        time: Timestamp { secs: 1_790_400_000, nanos: 5 },
        place: "s3://bucket/lake".into(),
        put_if_absent: true,
        listing_after_write: false,
        tool: "lakebed golden".into(),
        unknown: serde_json::Map::new(),
    };
    store.put_record(&probe_key(), &probe, &SeededRandom::new(3)).unwrap();
    std::fs::write(fixture("storage-probe"), memory.get(&probe_key()).unwrap()).unwrap();
}

/// What stands under the sessions' keys of the frozen repository, by ascending ids.
fn outcomes(repository: &Repository) -> Vec<CatalogueEntry> {
    let store = repository.store();
    let entry = |id: SessionId| {
        let kinds = [FrameKind::Snapshot, FrameKind::Expiry];
        let (kind, record) = store.read_kinds(&layout::snapshot(id), &kinds).unwrap();
        CatalogueEntry { id, kind, record }
    };
    store.list_ids::<SessionId>(layout::SNAPSHOTS).unwrap().into_iter().map(entry).collect()
}

/// Catalogues came after the fixture was made as well.
#[test]
fn a_catalogue_of_format_1_is_read_and_written_as_it_was() {
    let repository = open(&key_file());
    let bytes = std::fs::read(fixture("catalogue")).unwrap();
    let name = *lakebed_engine::core::hash::object_hash(&bytes).as_bytes();
    let key = layout::catalogue(CatalogueId::new(name));
    let memory = Arc::new(MemoryStorage::new());
    memory.put(&key, &bytes).unwrap();
    let store = repository.store().over(memory);
    let mut scratch = FrameScratch::new().unwrap();
    let (_, plain) = store.read_hashed(&key, &name, &[FrameKind::Catalogue], layout::CATALOGUE, &mut scratch).unwrap();
    let entries = decode_catalogue(&plain).unwrap();
    assert!(entries.iter().any(|entry| entry.kind == FrameKind::Expiry));
    assert_eq!(entries, outcomes(&repository));
    assert_eq!(encode_catalogue(&entries), plain);
}

/// How that catalogue was made. It is never made again.
#[test]
#[ignore = "it made a catalogue of format 1, which is frozen"]
fn make_catalogue_of_format_1() {
    assert!(!fixture("catalogue").exists(), "the fixture exists and is frozen");
    let repository = open(&key_file());
    let store = repository.store().over(Arc::new(MemoryStorage::new()));
    let plain = encode_catalogue(&outcomes(&repository));
    let (_, bytes) = store.put_hashed(FrameKind::Catalogue, layout::CATALOGUE, &plain, &SeededRandom::new(4)).unwrap();
    std::fs::write(fixture("catalogue"), bytes).unwrap();
}

/// How the fixture was made. It is never made again: a new format gets a new folder.
#[test]
#[ignore = "it made the fixture of format 1, which is frozen"]
fn make_format_1() {
    assert!(!fixture("repo").exists(), "the fixture exists and is frozen");
    std::fs::create_dir_all(fixture("")).unwrap();
    std::fs::write(fixture("key"), [42; 32]).unwrap();
    let work = tempfile::TempDir::new().unwrap();
    std::env::set_current_dir(work.path()).unwrap();
    let source = PathBuf::from("lake");
    TreeSpec::new()
        .file("notebooks/a.py", b"# Databricks notebook source\nprint('a')\n".to_vec())
        .file("notebooks/b.py", b"# Databricks notebook source\nprint('b')\n".to_vec())
        .file("empty", b"".to_vec())
        .with("script.sh", Item::file(b"#!/bin/sh\n".to_vec()).mode(0o755).mtime(-1, 5))
        .file("table/part-0.parquet", Content::Generated { seed: 1, length: 900_000, compressibility: 95 })
        .file("hole", Content::hole(3 << 20))
        .with("link", Item::symlink("notebooks/a.py"))
        .with("pipe", Item::new(lakebed_testkit::tree::ItemKind::Fifo))
        .hard_link("same.py", "notebooks/a.py")
        .write(&source);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(fixture("repo")).unwrap());
    let clock = FakeClock::at_secs(1_790_000_000);
    let options = OpenOptions {
        clock: Arc::new(clock.clone()),
        random: Arc::new(SeededRandom::new(1)),
        ..OpenOptions::default()
    };
    let init = init_options(Encryption::Aes256Gcm);
    let repository = Repository::init(storage, &key_file(), &init, &options).unwrap();
    let cheap = Unlock::Passphrase { memory_kib: 64, passes: 1, lanes: 1 };
    repository.add_key(cheap, &Secret::Passphrase(b"golden".to_vec().into()), "passphrase").unwrap();
    let backup_options = BackupOptions {
        tags: vec!["golden".into()],
        threads: 1,
        tool: "lakebed golden".into(),
        ..crate::common::options()
    };
    let night = || {
        clock.advance(std::time::Duration::from_secs(86_400));
        let report = backup_with(&repository, std::slice::from_ref(&source), &backup_options, &Default::default());
        report.snapshot.unwrap()
    };
    let first = night();
    std::fs::write(source.join("notebooks/c.py"), "print('c')\n").unwrap();
    let second = night();
    std::fs::write(source.join("notebooks/d.py"), "print('d')\n").unwrap();
    let third = night();
    std::fs::remove_file(source.join("notebooks/d.py")).unwrap();
    let fourth = night();
    repository.annotate(&fourth, vec!["golden".into(), "kept".into()], "the newest".into()).unwrap();
    assert_good(&repository);

    // what only later commands write
    let store = repository.store();
    let (random, time) = (SeededRandom::new(2), Timestamp { secs: 1_790_400_000, nanos: 5 });
    let process = Process { host: "host".into(), boot_id: "boot".into(), pid: 1, start_ticks: 2 };
    let (version, unknown) = (RECORD_VERSION, serde_json::Map::new());
    let nowhere = PackId::new([0xee; 32]);
    let tombstone = Tombstone { version, time, reason: "keep-last 2".into(), unknown: unknown.clone() };
    let resolution = |verdict, generation| Resolution { version, time, verdict, generation, unknown: unknown.clone() };
    store.put_record(&layout::tombstone(first.id, 0), &tombstone, &random).unwrap();
    store.put_record(&layout::resolution(first.id, 0), &resolution(Verdict::Undone, None), &random).unwrap();
    store.put_record(&layout::tombstone(second.id, 0), &tombstone, &random).unwrap();
    store.put_record(&layout::tombstone(third.id, 0), &tombstone, &random).unwrap();
    store.put_record(&layout::resolution(third.id, 0), &resolution(Verdict::Condemned, Some(1)), &random).unwrap();
    let claim = Claim {
        version,
        generation: 1,
        time,
        session: SessionId::new([0xdd; 32]),
        process: process.clone(),
        unknown: unknown.clone(),
    };
    store.put_record(&layout::claim(1), &claim, &random).unwrap();
    let condemnation = Condemnation { version, generation: 1, packs: vec![nowhere], unknown: unknown.clone() };
    store.put_record(&layout::condemnation(1, 0), &condemnation, &random).unwrap();
    let awaited = Awaited {
        version,
        generation: 1,
        time,
        lists: vec![0],
        sessions: vec![SessionId::new([0xcc; 32])],
        snapshots: vec![third.id],
        unknown: unknown.clone(),
    };
    store.put_record(&layout::awaited(1), &awaited, &random).unwrap();
    let mut snapshots = vec![first.id, fourth.id];
    snapshots.sort();
    let done =
        Done { version, generation: 1, time, packs_deleted: 1, bytes_freed: 1000, snapshots, unknown: unknown.clone() };
    store.put_record(&layout::done(1), &done, &random).unwrap();
    store
        .put_hashed(
            FrameKind::RemovalSegment,
            layout::INDEX,
            &encode_removal(&Removal { packs: vec![nowhere], replaced: vec![SegmentId::new([0xef; 32])] }),
            &random,
        )
        .unwrap();
    let copied = SessionId::new([0xaa; 32]);
    let snapshot = Snapshot {
        time: Timestamp { secs: first.snapshot.time.secs - 1, ..first.snapshot.time },
        session: copied,
        original: Some(Original { repository: RepositoryId::new([0x99; 32]), snapshot: SessionId::new([0x88; 32]) }),
        ..first.snapshot.clone()
    };
    store.put_record(&layout::snapshot(copied), &snapshot, &random).unwrap();
    let expired = SessionId::new([0xcc; 32]);
    let expiry =
        Expiry { version, time, reason: "its process is dead".into(), by: fourth.id, unknown: unknown.clone() };
    store.put_record(&layout::snapshot(expired), &expiry, &random).unwrap();
    let running = SessionId::new([0xbb; 32]);
    let checkpoint = Checkpoint { root: fourth.snapshot.root, summary: fourth.snapshot.summary, read_all: false };
    let session = Session {
        version,
        number: 0,
        time,
        base_generation: 1,
        process,
        sources: fourth.snapshot.sources.clone(),
        parent: Some(fourth.id),
        checkpoint: Some(checkpoint),
        progress: None,
        shard: None,
        unknown,
    };
    store.put_record(&layout::session(running, 0), &session, &random).unwrap();
    assert_good(&repository);
    std::fs::write(fixture("tree.txt"), describe(&repository)).unwrap();
}
