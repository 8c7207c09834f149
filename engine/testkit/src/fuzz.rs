//! What fuzzers and ordinary tests do with bytes that nobody can be trusted to have written.
//!
//! There is one function for each decoder of `lakebed-core`, listed in [`DECODERS`]. It panics if the decoder does, and
//! if what was decoded does not come back: binary things have one encoding, so the very bytes are expected again; JSON
//! may be spelled in many ways, so it must become an equal value, and from then on the same bytes.
//!
//! `tests/fuzz` has a target for each of them. `tests/it/fuzz.rs` runs the same functions over the corpora kept there,
//! over random bytes, and over damaged members of the corpora.

use std::fmt::Debug;

use jiff::tz::TimeZone;
use lakebed_core::chunker::Chunker;
use lakebed_core::codec::frame::{
    FRAME_HEADER_LEN, FRAME_PLAIN_MAX, FrameHeader, FrameKind, FrameName, FrameScratch, OpenFrame, open_frame,
    open_record, seal_frame,
};
use lakebed_core::codec::seal::{DataKey, Encryption, RepositoryKeys, SEAL_LEN, Salt};
use lakebed_core::id::{PackId, RepositoryId, SnapshotId, TreeId, from_hex, to_hex};
use lakebed_core::layout;
use lakebed_core::pack::{
    PackDirectory, TRAILER_LEN, Trailer, decode_removal, decode_segment, encode_removal, encode_segment,
};
use lakebed_core::record::Record;
use lakebed_core::record::catalogue::{decode_catalogue, encode_catalogue};
use lakebed_core::record::config::Config;
use lakebed_core::record::gc::{Awaited, Claim, Condemnation, Done, Resolution, Tombstone};
use lakebed_core::record::key_slot::{KeySlot, Secret, Unlock};
use lakebed_core::record::ledger::Ledger;
use lakebed_core::record::session::{Expiry, Run, Session};
use lakebed_core::record::snapshot::{Annotation, Snapshot, SnapshotOrder};
use lakebed_core::record::storage_probe::StorageProbe;
use lakebed_core::record::tree::{Node, NodeSink, write_directory, write_extents};
use lakebed_core::retention::{Candidate, Count, Policy, Within, decide};
use lakebed_core::storage::ObjectKey;
use lakebed_core::text::{escape_path, file_uri_path, unescape_path};
use lakebed_core::time::Timestamp;

/// Looks at bytes, and panics where something is wrong with what reads them.
pub type Check = fn(&[u8]);

macro_rules! decoders {
    ($($(#[$doc:meta])* $name:ident = $check:expr;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(bytes: &[u8]) {
                $check(bytes);
            }
        )*

        /// Every decoder by the name of its fuzz target.
        pub const DECODERS: &[(&str, Check)] = &[$((stringify!($name), $name)),*];
    };
}

decoders! {
    /// `lakebed.json`.
    repository_config = check_config;
    /// A key slot, stored under the hash of the bytes.
    key_slot = check_key_slot;
    /// The header of a frame.
    frame_header = check_frame_header;
    /// A frame whose seal holds, whatever is in it: the first byte chooses the codec, the rest is the payload.
    frame = check_frame;
    /// The end of a pack.
    pack_trailer = check_pack_trailer;
    /// The directory of a pack.
    pack_directory = check_pack_directory;
    /// An index segment.
    index_segment = check_index_segment;
    /// A removal segment.
    removal_segment = check_removal_segment;
    /// Records of many sessions in one object.
    catalogue = check_catalogue;
    /// A node of a directory or of a content list.
    tree_node = check_tree_node;
    /// A snapshot.
    snapshot = check_record::<Snapshot>;
    /// A session's registration, heartbeat or checkpoint.
    session = check_record::<Session>;
    /// The end of a session that committed nothing.
    expiry = check_record::<Expiry>;
    /// Tags and description.
    annotation = check_record::<Annotation>;
    /// That a snapshot was forgotten.
    tombstone = check_record::<Tombstone>;
    /// What became of a tombstone.
    resolution = check_record::<Resolution>;
    /// How a run ended.
    run = check_record::<Run>;
    /// That a prune took a generation.
    claim = check_record::<Claim>;
    /// Packs that are condemned.
    condemnation = check_record::<Condemnation>;
    /// The sessions that a prune waits for.
    awaited = check_record::<Awaited>;
    /// That a prune is done.
    done = check_record::<Done>;
    /// When packs were verified.
    ledger = check_record::<Ledger>;
    /// What a medium was found to do.
    storage_probe = check_record::<StorageProbe>;
    /// Paths as text, both ways.
    escaped_path = check_escaped_path;
    /// Ids and names of objects as text.
    identifier = check_identifier;
    /// What a policy is made of as text, and what it decides; see `Rules` for the lines.
    retention_rules = check_retention_rules;
}

/// The salt of everything that is sealed here.
const SALT: Salt = [7; 32];

fn keys(encryption: Encryption) -> RepositoryKeys {
    RepositoryKeys::derive(RepositoryId::new([1; 32]), encryption, DataKey::new([2; 32]))
}

fn check_config(bytes: &[u8]) {
    let Ok(config) = Config::decode(bytes) else { return };
    let again = config.encode();
    assert_eq!(Config::decode(&again).unwrap(), config);
    assert_eq!(Config::decode(&again).unwrap().encode(), again);
    let _ = (config.check_writable(), config.check_prunable());
    // parameters that are accepted cut anything, and lose nothing of it
    let chunker = Chunker::new(&config.chunker, &[3; 32]).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = chunker.cut(rest);
        assert!((1..=rest.len()).contains(&length), "a chunk of {length} bytes out of {}", rest.len());
        rest = &rest[length..];
    }
}

fn check_key_slot(bytes: &[u8]) {
    let Ok(slot) = KeySlot::decode(KeySlot::id(bytes), bytes) else { return };
    let again = slot.encode();
    assert_eq!(KeySlot::decode(KeySlot::id(&again), &again).unwrap(), slot);
    for encryption in [Encryption::Aes256Gcm, Encryption::None] {
        let _ = slot.open_label(&keys(encryption));
        for secret in
            [Secret::None, Secret::KeyFile(vec![42; 32].into()), Secret::Passphrase(b"golden".to_vec().into())]
        {
            if is_cheap(&slot.unlock) {
                let _ = slot.open(RepositoryId::new([1; 32]), encryption, &[5; 32], &secret);
            }
        }
    }
}

/// Costs are the slot's to ask for, up to a limit that takes a machine minutes.
fn is_cheap(unlock: &Unlock) -> bool {
    match *unlock {
        Unlock::Passphrase { memory_kib, passes, lanes } => memory_kib <= 256 && passes <= 2 && lanes <= 4,
        Unlock::KeyFile | Unlock::Clear => true,
    }
}

fn check_frame_header(bytes: &[u8]) {
    let Ok(header) = FrameHeader::decode(bytes) else { return };
    assert_eq!(header.encode(), bytes[..FRAME_HEADER_LEN]);
    // a seal is not guessed: whatever the header says, the rest does not open
    let mut scratch = FrameScratch::new().unwrap();
    for encryption in [Encryption::Aes256Gcm, Encryption::None] {
        let keys = keys(encryption);
        let name = FrameName { kind: header.kind, salt: &header.salt, number: header.number, context: b"context" };
        let sealer = keys.object_key(&header.salt);
        assert!(open_frame(&sealer, name, bytes, &mut scratch, &mut OpenFrame::default()).is_err());
        assert!(open_record(&keys, FrameKind::ALL, "context", bytes, &mut scratch).is_err());
    }
}

fn check_frame(bytes: &[u8]) {
    let Some((&codec, payload)) = bytes.split_first() else { return };
    let compressed = codec & 1 == 1;
    let mut scratch = FrameScratch::new().unwrap();
    for encryption in [Encryption::Aes256Gcm, Encryption::None] {
        let keys = keys(encryption);
        let sealer = keys.object_key(&SALT);
        let sealed = |kind: FrameKind| {
            let sealed_len = (payload.len() + SEAL_LEN) as u32;
            let mut out = FrameHeader { kind, compressed, salt: SALT, number: 0, sealed_len }.encode().to_vec();
            let header = out.clone();
            out.extend_from_slice(payload);
            sealer.seal(0, &header, b"context", &mut out, FRAME_HEADER_LEN).unwrap();
            out
        };
        let name = FrameName { kind: FrameKind::Chunks, salt: &SALT, number: 0, context: b"context" };
        let chunks = sealed(FrameKind::Chunks);
        let mut frame = OpenFrame::default();
        let opened = open_frame(&sealer, name, &chunks, &mut scratch, &mut frame);
        let record = open_record(&keys, &[FrameKind::Snapshot], "context", &sealed(FrameKind::Snapshot), &mut scratch);
        assert_eq!(record.is_ok(), opened.is_ok() && frame.lengths.len() == 1, "a record is a frame of one piece");
        if opened.is_err() {
            continue;
        }
        assert!(frame.plain.len() <= FRAME_PLAIN_MAX);
        assert_eq!(frame.chunks().map(<[u8]>::len).sum::<usize>(), frame.plain.len());
        let level = compressed.then_some(1);
        let mut again = Vec::new();
        let packed = scratch.compress(&frame.plain, level).unwrap();
        seal_frame(&sealer, name, &frame.lengths, packed, &mut again).unwrap();
        let mut back = OpenFrame::default();
        open_frame(&sealer, name, &again, &mut scratch, &mut back).unwrap();
        assert!(back.lengths == frame.lengths && back.plain == frame.plain, "it came back different");
        // compressed bytes have many spellings, stored ones have one
        assert!(compressed || again == chunks, "it was written in another way");
    }
}

fn check_pack_trailer(bytes: &[u8]) {
    let Ok(trailer) = Trailer::decode(bytes) else { return };
    assert_eq!(trailer.encode(), bytes);
    let mut scratch = FrameScratch::new().unwrap();
    assert!(trailer.open_directory(&keys(Encryption::None), bytes, &mut scratch).is_err());
}

fn check_pack_directory(bytes: &[u8]) {
    let Ok(directory) = PackDirectory::decode(bytes) else { return };
    assert_eq!(directory.encode(), bytes);
    let last = directory.frames_at().last().map_or(0, |(offset, frame)| offset + u64::from(frame.frame_len));
    assert_eq!(last, directory.frames_len());
    let (keys, mut scratch) = (keys(Encryption::None), FrameScratch::new().unwrap());
    let tail = directory.seal_tail(&keys.object_key(&directory.salt), &mut scratch).unwrap();
    let (sealed, trailer) = tail.split_at(tail.len() - TRAILER_LEN);
    assert_eq!(Trailer::decode(trailer).unwrap().open_directory(&keys, sealed, &mut scratch).unwrap(), directory);
}

fn check_index_segment(bytes: &[u8]) {
    let Ok(packs) = decode_segment(bytes) else { return };
    assert_eq!(encode_segment(&packs), bytes);
}

fn check_removal_segment(bytes: &[u8]) {
    let Ok(removal) = decode_removal(bytes) else { return };
    assert_eq!(encode_removal(&removal), bytes);
}

fn check_catalogue(bytes: &[u8]) {
    let Ok(entries) = decode_catalogue(bytes) else { return };
    assert_eq!(encode_catalogue(&entries), bytes);
}

/// Nodes that are named and read again, and not kept.
struct ReadBack;

impl NodeSink for ReadBack {
    type Error = std::convert::Infallible;

    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Self::Error> {
        assert_eq!(Node::decode(&bytes).unwrap().encode(), bytes);
        Ok(keys(Encryption::None).tree_id(&bytes))
    }
}

fn check_tree_node(bytes: &[u8]) {
    let Ok(node) = Node::decode(bytes) else { return };
    assert_eq!(node.encode(), bytes);
    node.references(|_| {}, |_, length| assert!(length > 0));
    // what can be read can be written as a tree of its own
    match node {
        Node::Entries(entries) => drop(write_directory(entries, &mut ReadBack)),
        Node::Extents(extents) => drop(write_extents(extents, &mut ReadBack)),
        Node::EntryIndex(_) | Node::ExtentIndex(_) => {}
    }
}

fn check_record<R: Record + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(record) = R::decode(bytes) else { return };
    let encoded = record.encode();
    let again = R::decode(&encoded).unwrap();
    assert_eq!(again, record);
    assert_eq!(again.encode(), encoded);
}

fn check_escaped_path(bytes: &[u8]) {
    let text = escape_path(bytes);
    assert_eq!(unescape_path(&text).as_deref(), Some(bytes));
    assert!(!text.chars().any(char::is_control));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(path) = unescape_path(text) {
        assert_eq!(unescape_path(&escape_path(&path)), Some(path));
    }
    let _ = file_uri_path(text);
    // nothing in a path is taken for an escape once it is encoded
    let encoded: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(file_uri_path(&format!("file://{encoded}")).as_deref(), Some(bytes));
}

fn check_identifier(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(bytes) = from_hex(text) {
        assert_eq!(to_hex(&bytes), text);
    }
    if let Ok(id) = text.parse::<PackId>() {
        assert_eq!(id.to_string(), text);
        assert_eq!(layout::last_part(&layout::pack(id)), text);
    }
    if let Some(key) = ObjectKey::new(text) {
        assert_eq!(key.as_str(), text);
        assert!(text.ends_with(layout::last_part(&key)));
        if let Some((generation, _)) = layout::parse_gc(&key) {
            assert!(text.contains(&format!("{generation:016x}")));
        }
    }
}

/// A policy and what it decides over, as lines of text. What makes no sense is passed over.
///
/// * `@` and a number: a snapshot of that second; it is partial if `?` follows;
/// * `+` and words: tags of the snapshots from here on, and a rule that keeps them if there are several;
/// * `=` and a number: the second in which the decision is made;
/// * a length of time: what `within` keeps;
/// * a count: what the next rule keeps, from `last` to `yearly`.
#[derive(Default)]
struct Rules {
    policy: Policy,
    counts: usize,
    tags: Vec<String>,
    snapshots: Vec<(Timestamp, bool, Vec<String>)>,
    now: Timestamp,
}

impl Rules {
    fn read(&mut self, line: &str) {
        let seconds = |text: &str| text.parse().map(|secs| Timestamp { secs, nanos: 0 });
        if let Some(text) = line.strip_prefix('@') {
            if let Ok(time) = seconds(text.trim_end_matches('?')) {
                self.snapshots.push((time, !text.ends_with('?'), self.tags.clone()));
            }
        } else if let Some(text) = line.strip_prefix('+') {
            self.tags = text.split(' ').map(String::from).collect();
            if self.tags.len() > 1 {
                self.policy.tags.push(self.tags.clone());
            }
        } else if let Some(text) = line.strip_prefix('=') {
            self.now = seconds(text).unwrap_or_default();
        } else if let Ok(within) = line.parse::<Within>() {
            assert_eq!(within.to_string().parse(), Ok(within));
            self.policy.within = Some(within);
        } else if let Ok(count) = line.parse::<Count>() {
            assert_eq!(count.to_string().parse(), Ok(count));
            let policy = &mut self.policy;
            let counts = [
                &mut policy.last,
                &mut policy.hourly,
                &mut policy.daily,
                &mut policy.weekly,
                &mut policy.monthly,
                &mut policy.quarterly,
                &mut policy.yearly,
            ];
            let rule = self.counts % counts.len();
            *counts.into_iter().nth(rule).unwrap() = count;
            self.counts += 1;
        }
    }
}

fn check_retention_rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut rules = Rules::default();
    text.lines().for_each(|line| rules.read(line));
    let Rules { policy, snapshots, now, .. } = rules;
    let candidates: Vec<_> = (1u64..)
        .zip(&snapshots)
        .map(|(number, (time, is_complete, tags))| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let order =
                SnapshotOrder { time: *time, is_made_of_another: false, finished: *time, id: SnapshotId::new(id) };
            Candidate { order, tags, is_complete: *is_complete }
        })
        .collect();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let decisions = decide(&candidates, &policy, &zone, now);
    assert_eq!(decisions.len(), candidates.len());
    let kept: Vec<_> = candidates.iter().zip(&decisions).filter(|(_, decision)| decision.is_kept()).collect();
    assert!(!policy.is_empty() || kept.is_empty());
    assert!(policy.last != Count::All || kept.len() == candidates.len());
    if let Count::AtMost(last) = policy.last {
        assert!(kept.len() >= candidates.len().min(last as usize));
    }
    // partial snapshots, and those of the future, do not push out the newest one that is neither
    let age = |one: &Candidate<'_>| one.order;
    for is_past in [|_: Timestamp, _: Timestamp| true, |time, now| time <= now] {
        let whole = candidates.iter().filter(|one| one.is_complete && is_past(one.order.time, now));
        if let Some(newest) = whole.map(age).max() {
            let kept_is = |wanted: &dyn Fn(SnapshotOrder) -> bool| kept.iter().any(|(one, _)| wanted(age(one)));
            assert!(!kept_is(&|one| one > newest) || kept_is(&|one| one == newest));
        }
    }
    for decision in &decisions {
        decision.reasons.iter().for_each(|reason| drop(reason.to_string()));
    }
    let _ = policy.to_string();
}
