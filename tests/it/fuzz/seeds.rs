//! What the corpora began with: whole things of every kind, most of them from the frozen repository of format 1.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::frame::{
    FRAME_HEADER_LEN, FrameHeader, FrameKind, FrameName, FrameScratch, OpenFrame, open_frame, open_record,
};
use lakebed_engine::core::codec::seal::{Encryption, RepositoryKeys};
use lakebed_engine::core::id::{ChunkId, ContentId, PackId, RepositoryId, SegmentId, SessionId, TreeId};
use lakebed_engine::core::pack::{Removal, TRAILER_LEN, Trailer, encode_removal};
use lakebed_engine::core::record::catalogue::{CatalogueEntry, encode_catalogue};
use lakebed_engine::core::record::config::{Config, FORMAT_VERSION};
use lakebed_engine::core::record::gc::Awaited;
use lakebed_engine::core::record::storage_probe::StorageProbe;
use lakebed_engine::core::record::tree::{Content, Entry, EntryKind, Extent, IndexItem, Node, Xattr};
use lakebed_engine::core::record::{RECORD_VERSION, Record};
use lakebed_engine::core::storage::Storage;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::storage::{LocalStorage, ReadOnlyStorage};
use lakebed_engine::{OpenOptions, Repository};

use super::fuzz_folder;

/// Seeds by target, each with its name.
type Seeds = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

/// Puts the seeds where they are missing. What fuzzers found stands beside them and stays.
#[test]
#[ignore = "it writes into the checkout"]
fn make_seeds() {
    for (target, seeds) in all_seeds() {
        let folder = fuzz_folder().join("corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            std::fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}

fn all_seeds() -> Seeds {
    let mut seeds = Seeds::new();
    from_repository(&mut seeds);
    add(&mut seeds, "repository_config", "small-chunks", small_chunks());
    let removal = Removal { packs: vec![PackId::new([1; 32])], replaced: vec![SegmentId::new([2; 32])] };
    add(&mut seeds, "removal_segment", "both-lists", encode_removal(&removal));
    for (name, node) in nodes() {
        add(&mut seeds, "tree_node", name, node.encode());
    }
    add(&mut seeds, "awaited", "two-sessions", awaited());
    add(&mut seeds, "storage_probe", "a-strict-store", storage_probe());
    add(&mut seeds, "catalogue", "both-kinds", catalogue());
    for (target, name, text) in TEXTS {
        add(&mut seeds, target, *name, text.to_vec());
    }
    for (name, bytes) in COMMANDS {
        add(&mut seeds, "commands", *name, bytes.to_vec());
    }
    seeds
}

fn add(seeds: &mut Seeds, target: &'static str, name: impl Into<String>, bytes: Vec<u8>) {
    seeds.entry(target).or_default().insert(name.into(), bytes);
}

/// Takes the plain bytes of everything in the frozen repository.
fn from_repository(seeds: &mut Seeds) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1");
    let storage = LocalStorage::open(fixture.join("repo")).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(ReadOnlyStorage::new(Arc::new(storage)));
    let key = std::fs::read(fixture.join("key")).unwrap();
    let secret = lakebed_engine::core::record::key_slot::Secret::KeyFile(key.into());
    let repository = Repository::open(storage.clone(), &secret, &OpenOptions::default()).unwrap();
    let keys = repository.store().keys();
    for object in storage.list("").unwrap() {
        let key = object.key.as_str();
        let (folder, rest) = key.split_once('/').unwrap_or((key, "1"));
        let name = rest.replace('/', "-").chars().take(8).collect::<String>();
        let bytes = storage.get(&object.key).unwrap();
        add(seeds, "identifier", name.clone(), key.into());
        match folder {
            "lakebed.json" => add(seeds, "repository_config", name, bytes),
            "keys" => add(seeds, "key_slot", name, bytes),
            "packs" => from_pack(seeds, keys, &bytes),
            _ => {
                let context = if ["index", "ledger"].contains(&folder) { format!("{folder}/") } else { key.into() };
                let mut scratch = FrameScratch::new().unwrap();
                let (kind, plain) = open_record(keys, FrameKind::ALL, &context, &bytes, &mut scratch).unwrap();
                add(seeds, "frame_header", kind.as_str().replace(' ', "-"), bytes[..FRAME_HEADER_LEN].to_vec());
                add(seeds, target_of(kind), name, plain);
            }
        }
    }
}

fn target_of(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Segment => "index_segment",
        FrameKind::RemovalSegment => "removal_segment",
        FrameKind::Snapshot => "snapshot",
        FrameKind::Expiry => "expiry",
        FrameKind::Annotation => "annotation",
        FrameKind::Tombstone => "tombstone",
        FrameKind::Resolution => "resolution",
        FrameKind::Session => "session",
        FrameKind::Run => "run",
        FrameKind::Claim => "claim",
        FrameKind::Condemnation => "condemnation",
        FrameKind::Awaited => "awaited",
        FrameKind::Done => "done",
        FrameKind::Ledger => "ledger",
        FrameKind::StorageProbe => "storage_probe",
        FrameKind::Catalogue => "catalogue",
        other => panic!("{other:?} is no record of its own"),
    }
}

/// Takes a pack apart: trailer, directory, frames, and the nodes in them.
fn from_pack(seeds: &mut Seeds, keys: &RepositoryKeys, bytes: &[u8]) {
    let (rest, end) = bytes.split_at(bytes.len() - TRAILER_LEN);
    let trailer = Trailer::decode(end).unwrap();
    let (frames, sealed) = rest.split_at(rest.len() - trailer.directory_len as usize);
    let mut scratch = FrameScratch::new().unwrap();
    let directory = trailer.open_directory(keys, sealed, &mut scratch).unwrap();
    let name = lakebed_engine::core::id::to_hex(&trailer.salt[..4]);
    add(seeds, "pack_trailer", &name, end.to_vec());
    add(seeds, "pack_directory", &name, directory.encode());
    for (offset, info) in directory.frames_at() {
        let bytes = &frames[offset as usize..][..info.frame_len as usize];
        let header = FrameHeader::decode(bytes).unwrap();
        let sealer = keys.object_key(&header.salt);
        let kind = directory.kind.frame_kind();
        let frame_name = FrameName { kind, salt: &header.salt, number: info.number, context: b"" };
        let mut frame = OpenFrame::default();
        open_frame(&sealer, frame_name, bytes, &mut scratch, &mut frame).unwrap();
        if kind == FrameKind::Nodes {
            frame.chunks().zip(0..).for_each(|(node, number)| {
                add(seeds, "tree_node", format!("{name}-{}-{number}", info.number), node.to_vec());
            });
        }
        // the payload as it stands before sealing, where it is small
        let mut payload = vec![u8::from(header.compressed)];
        let mut plain = Vec::new();
        sealer.open(info.number, &bytes[..FRAME_HEADER_LEN], b"", &bytes[FRAME_HEADER_LEN..], &mut plain).unwrap();
        payload.extend_from_slice(&plain);
        if payload.len() < 2000 {
            add(seeds, "frame", format!("{name}-{}", info.number), payload);
        }
    }
}

fn small_chunks() -> Vec<u8> {
    let chunker = ChunkerParameters {
        small_file_bytes: 0,
        min_bytes: 64,
        average_bytes: 256,
        max_bytes: 1024,
        normalization: 0,
        ..ChunkerParameters::default()
    };
    let config = Config {
        version: FORMAT_VERSION,
        repository_id: RepositoryId::new([1; 32]),
        created: Timestamp::default(),
        encryption: Encryption::None,
        chunker,
        features: Default::default(),
    };
    config.encode()
}

fn nodes() -> Vec<(&'static str, Node)> {
    let id = TreeId::new([9; 32]);
    let data = Extent::Data { id: ChunkId::new([8; 32]), length: 5 };
    let mut file = Entry::new("file", EntryKind::File);
    (file.mode, file.size, file.inode) = (0o644, 12, 7);
    (file.mtime, file.ctime) = (Timestamp { secs: -1, nanos: 999_999_999 }, Timestamp { secs: 3, nanos: 1 });
    file.content = Content::Extents { hash: ContentId::new([7; 32]), extents: vec![data, Extent::Hole { length: 7 }] };
    file.hard_link_device = Some(1);
    file.xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![0xff] }];
    file.attributes = vec![("etag".into(), b"1".to_vec())];
    file.inconsistent = true;
    file.unknown = vec![(11, b"later".to_vec())];
    let mut long = Entry::new("long", EntryKind::File);
    long.size = 1 << 40;
    long.content = Content::Indirect { hash: ContentId::new([6; 32]), root: id };
    let mut link = Entry::new(b"name\xff".to_vec(), EntryKind::Symlink);
    link.link_target = b"to".to_vec();
    let mut device = Entry::new("null", EntryKind::CharDevice);
    device.device = 0x103;
    let mut directory = Entry::new("sub", EntryKind::Directory);
    directory.subtree = Some(id);
    let index = |name: &str| IndexItem { first_name: name.into(), node: id };
    vec![
        ("entries", Node::Entries(vec![file, long, link, device, directory])),
        ("empty", Node::Entries(Vec::new())),
        ("entry-index", Node::EntryIndex(vec![index("a"), index("b")])),
        ("extents", Node::Extents(vec![data, Extent::Hole { length: 1 << 40 }, data])),
        ("extent-index", Node::ExtentIndex(vec![id, id])),
    ]
}

fn awaited() -> Vec<u8> {
    let awaited = Awaited {
        version: RECORD_VERSION,
        generation: 4,
        time: Timestamp { secs: 1_790_000_000, nanos: 500_000_000 },
        lists: vec![0],
        sessions: vec![SessionId::new([1; 32]), SessionId::new([2; 32])],
        snapshots: vec![SessionId::new([3; 32])],
        unknown: serde_json::from_str(r#"{"later":[1,-2.5e-7,{"a":null}]}"#).unwrap(),
    };
    awaited.encode()
}

fn storage_probe() -> Vec<u8> {
    let probe = StorageProbe {
        version: RECORD_VERSION,
        time: Timestamp { secs: 1_790_000_000, nanos: 500_000_000 },
        place: "s3://bucket/lake".into(),
        put_if_absent: true,
        listing_after_write: true,
        tool: "lakebed 0.1.0".into(),
        unknown: serde_json::Map::new(),
    };
    probe.encode()
}

fn catalogue() -> Vec<u8> {
    let entry =
        |id, kind, record: &[u8]| CatalogueEntry { id: SessionId::new([id; 32]), kind, record: record.to_vec() };
    encode_catalogue(&[entry(1, FrameKind::Snapshot, b"{\"version\":1}"), entry(2, FrameKind::Expiry, b"{}")])
}

const TEXTS: &[(&str, &str, &[u8])] = &[
    ("escaped_path", "plain", "notebooks/Über uns.py".as_bytes()),
    ("escaped_path", "escapes", b"a\\x0ab\\xff\\\\"),
    ("escaped_path", "bytes", b"a\nb\xff\\\xc2\x85"),
    ("escaped_path", "uri", b"file:///data/my%20lake%zz%"),
    ("identifier", "gc", b"gc/0000000000000004/condemned/0000000a"),
    ("identifier", "id", b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
    (
        "retention_rules",
        "counts",
        b"3\n24\n7\nall\n0\nunlimited\n10\n=1790000000\n@1789990000\n@1789980000?\n@1700000000\n@0",
    ),
    ("retention_rules", "within", b"2y5m7d3h\n=1700000000\n@1700000000\n@1799999999\n@1600000000\n@-1"),
    ("retention_rules", "tags", b"+keep nightly\n1\n@1790000000\n+other\n@1790000001?\n@9223372036854775807"),
];

/// Sequences of commands, as `lakebed_tests::commands` reads them.
#[rustfmt::skip]
const COMMANDS: &[(&str, &[u8])] = &[
    // files, a backup, another file, a backup; the first is forgotten, pruned, and all is looked at
    ("nights", &[
        0, 0x00, 1, 50,  0, 0x40, 2, 120,  0, 0x80, 3, 200,  4, 0x00,  14, 60,  0, 0x00, 9, 90,  4, 0x00,
        4, 0x05, 0,  4, 0x39,  4, 0x0e,  4, 0x1c,  4, 0x0f, 0,
    ]),
    // other kinds of entries; a snapshot is brought back and tagged
    ("kinds", &[
        0, 0x00, 1, 255,  0, 0x0c, 40,  0, 0x15, 3,  0, 0x1e, 0,  4, 0x00,  0, 0x07,  4, 0x20,  4, 0x05, 0,
        4, 0x08, 0,  4, 0x3b, 0,  4, 0x0f, 0,  4, 0x0f, 1,
    ]),
    // a backup is killed half way and another one resumes it; then the machine is started anew
    ("killed", &[
        0, 0x00, 1, 250,  0, 0x40, 2, 250,  0, 0x80, 3, 250,  8, 9, 0x40,  4, 0x00,  8, 14, 0x39,  13, 1,  4, 0x39,
    ]),
    // a prune beside a backup that relies on what was just forgotten, and a backup beside a prune
    ("beside", &[
        0, 0x00, 1, 90,  0, 0x40, 2, 90,  4, 0x00,  0, 0x01, 5, 90,  4, 0x00,  4, 0x05, 1,  0, 0x01, 1, 90,
        11, 0x03, 0x00, 0x39,  4, 0x05, 0,  11, 0x86, 0x39, 0x00,  11, 0x07, 0x39, 0x08, 0,  4, 0x19,
    ]),
    // a pack is lost, and the next backup stores again what was in it
    ("lost", &[
        0, 0x00, 1, 90,  0, 0x40, 2, 90,  4, 0x00,  0, 0x01, 5, 90,  4, 0x00,  15, 5,  4, 0x10,  4, 0x1c,  4, 0x39,
        4, 0x0e,
    ]),
];
