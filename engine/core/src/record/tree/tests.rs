use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::time::NANOS_PER_SEC;

fn arb_time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..NANOS_PER_SEC).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn arb_id() -> impl Strategy<Value = [u8; 32]> {
    prop::array::uniform32(1u8..)
}

fn arb_content() -> impl Strategy<Value = (u64, Content)> {
    let extent = prop_oneof![
        (arb_id(), 1u64..1 << 30).prop_map(|(id, length)| Extent::Data { id: ChunkId::new(id), length }),
        (1u64..1 << 40).prop_map(|length| Extent::Hole { length }),
    ];
    prop_oneof![
        Just((0, Content::None)),
        (1u64.., arb_id()).prop_map(|(size, id)| (size, Content::Chunk(ChunkId::new(id)))),
        (prop::collection::vec(extent, 1..5), arb_id()).prop_map(|(extents, hash)| {
            let size = extents.iter().map(Extent::length).sum();
            (size, Content::Extents { hash: ContentId::new(hash), extents })
        }),
        (1u64.., arb_id(), arb_id()).prop_map(|(size, hash, root)| {
            (size, Content::Indirect { hash: ContentId::new(hash), root: TreeId::new(root) })
        }),
    ]
}

prop_compose! {
    fn arb_entry()(
        name in prop::collection::vec(any::<u8>(), 1..40),
        kind in prop::sample::select(&EntryKind::ALL[..]),
        mode in 0u32..=0o7777,
        owner: (u32, u32),
        times in (arb_time(), arb_time()),
        inode: u64,
        hard_link_device: Option<u64>,
        device: u64,
        link_target: Vec<u8>,
        xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
        attributes: BTreeMap<String, Vec<u8>>,
        inconsistent: bool,
        content in arb_content(),
        subtree in arb_id(),
        unknown: BTreeMap<u64, Vec<u8>>,
    ) -> Entry {
        let mut entry = Entry::new(name, kind);
        (entry.mode, entry.uid, entry.gid) = (mode, owner.0, owner.1);
        (entry.mtime, entry.ctime, entry.inode) = (times.0, times.1, inode);
        (entry.hard_link_device, entry.device, entry.link_target) = (hard_link_device, device, link_target);
        entry.xattrs = xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
        entry.attributes = attributes.into_iter().collect();
        entry.unknown = unknown.into_iter().collect();
        entry.inconsistent = inconsistent;
        if kind == EntryKind::File {
            (entry.size, entry.content) = content;
        }
        entry.subtree = (kind == EntryKind::Directory).then(|| TreeId::new(subtree));
        entry
    }
}

fn arb_entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(arb_entry(), 0..most).prop_map(|entries| {
        let valid = entries.into_iter().filter(|entry| Entry::name_is_valid(&entry.name));
        let sorted: BTreeMap<Vec<u8>, Entry> = valid.map(|entry| (entry.name.clone(), entry)).collect();
        sorted.into_values().collect()
    })
}

/// Nodes in memory.
#[derive(Default)]
struct Nodes(BTreeMap<TreeId, Vec<u8>>);

impl NodeSink for Nodes {
    type Error = Infallible;

    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Infallible> {
        let id = TreeId::new(*blake3::hash(&bytes).as_bytes());
        self.0.insert(id, bytes);
        Ok(id)
    }
}

impl Nodes {
    fn entries(&self, id: TreeId) -> Vec<Entry> {
        match Node::decode(&self.0[&id]).unwrap() {
            Node::Entries(entries) => entries,
            Node::EntryIndex(items) => items.iter().flat_map(|item| self.entries(item.node)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn extents(&self, id: TreeId) -> Vec<Extent> {
        match Node::decode(&self.0[&id]).unwrap() {
            Node::Extents(extents) => extents,
            Node::ExtentIndex(nodes) => nodes.iter().flat_map(|&node| self.extents(node)).collect(),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn entries_come_back_and_have_one_spelling(entries in arb_entries(12)) {
        let bytes = Node::Entries(entries.clone()).encode();
        let back = Node::decode(&bytes).unwrap();
        prop_assert_eq!(&back, &Node::Entries(entries));
        prop_assert_eq!(back.encode(), bytes);
    }

    #[test]
    fn damaged_nodes_never_panic(entries in arb_entries(6), at: prop::sample::Index, value: u8) {
        let mut bytes = Node::Entries(entries).encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, kind in 0u8..5) {
        let _ = Node::decode(&[&[NODE_VERSION, kind], &bytes[..]].concat());
    }
}

fn many(count: u64) -> Vec<Entry> {
    let entry = |number: u64| {
        let mut entry = Entry::new(format!("notebook-{number:08}.py"), EntryKind::File);
        entry.size = 1;
        entry.content = Content::Chunk(ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()));
        entry
    };
    (0..count).map(entry).collect()
}

#[test]
fn adding_one_file_to_a_large_folder_rewrites_a_few_bounded_nodes() {
    let mut nodes = Nodes::default();
    let mut entries = many(200_000);
    let before = write_directory(entries.clone(), &mut nodes).unwrap();
    assert_eq!(nodes.entries(before), entries);
    assert!(nodes.0.values().all(|bytes| bytes.len() <= NODE_MAX_BYTES));
    let known: Vec<TreeId> = nodes.0.keys().copied().collect();
    let mut added = entries[77_777].clone();
    added.name.push(b'x');
    entries.insert(77_778, added);
    let after = write_directory(entries.clone(), &mut nodes).unwrap();
    assert_eq!(nodes.entries(after), entries);
    let new: Vec<usize> = nodes.0.iter().filter(|(id, _)| !known.contains(id)).map(|(_, b)| b.len()).collect();
    assert!(new.len() <= 6 && new.iter().sum::<usize>() < 300_000, "{new:?}");
}

fn many_extents(count: u64) -> Vec<Extent> {
    let extent = |number: u64| Extent::Data {
        id: ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        length: number + 1,
    };
    (0..count).map(extent).collect()
}

#[test]
fn long_content_lists_come_back_in_order() {
    let mut nodes = Nodes::default();
    let extents = many_extents(50_000);
    let root = write_extents(extents.clone(), &mut nodes).unwrap();
    assert_eq!(nodes.extents(root), extents);
    assert!(nodes.0.values().all(|bytes| bytes.len() <= NODE_MAX_BYTES));
}

const GOLDEN_DIRECTORY: (&str, usize) = ("a35c811a", 3951);
const GOLDEN_LONG_NAMES: (&str, usize) = ("8dc781ab", 1063);
const GOLDEN_EXTENTS: (&str, usize) = ("dc6c44a6", 22953);

/// Where format 1 cuts directories and content lists. It must never change, or equal folders are stored anew.
#[test]
fn golden_nodes() {
    let mut nodes = Nodes::default();
    let root = write_directory(many(200_000), &mut nodes).unwrap();
    assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_DIRECTORY);
    // names so long that the nodes above the leaves are cut as well
    let mut nodes = Nodes::default();
    let entry = |number: u64| Entry { name: format!("{number:01000}").into(), ..many(1).remove(0) };
    let root = write_directory((0..20_000).map(entry).collect(), &mut nodes).unwrap();
    assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_LONG_NAMES);
    let mut nodes = Nodes::default();
    let root = write_extents(many_extents(2_000_000), &mut nodes).unwrap();
    assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_EXTENTS);
}

#[test]
fn a_node_passes_all_that_it_refers_to() {
    let node = |number| TreeId::new([number; 32]);
    let chunk = |number| ChunkId::new([number; 32]);
    let hash = ContentId::new([9; 32]);
    let file = |name: &str, content: Content, size| Entry { content, size, ..Entry::new(name, EntryKind::File) };
    let extents = vec![
        Extent::Data { id: chunk(2), length: 20 },
        Extent::Hole { length: 7 },
        Extent::Data { id: chunk(3), length: 30 },
    ];
    let referred = |holder: &Node| {
        let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
        holder.references(|id| nodes.push(id), |id, length| chunks.push((id, length)));
        (nodes, chunks)
    };
    let entries = Node::Entries(vec![
        file("a", Content::Chunk(chunk(1)), 10),
        file("b", Content::Extents { hash, extents: extents.clone() }, 57),
        file("c", Content::Indirect { hash, root: node(4) }, 100),
        Entry { subtree: Some(node(5)), ..Entry::new("d", EntryKind::Directory) },
        file("e", Content::None, 0),
    ]);
    assert_eq!(referred(&entries), (vec![node(4), node(5)], vec![(chunk(1), 10), (chunk(2), 20), (chunk(3), 30)]));
    let item = |number| IndexItem { first_name: vec![number], node: node(number) };
    assert_eq!(referred(&Node::EntryIndex(vec![item(1), item(2)])), (vec![node(1), node(2)], vec![]));
    assert_eq!(referred(&Node::Extents(extents)), (vec![], vec![(chunk(2), 20), (chunk(3), 30)]));
    assert_eq!(referred(&Node::ExtentIndex(vec![node(6), node(7)])), (vec![node(6), node(7)], vec![]));
}

#[test]
fn content_is_named_and_kinds_have_words() {
    let (chunk, hash) = (ChunkId::new([1; 32]), ContentId::new([2; 32]));
    assert_eq!(Content::None.hash(), None);
    assert_eq!(Content::Chunk(chunk).hash(), Some(ContentId::new([1; 32])));
    assert_eq!(Content::Extents { hash, extents: Vec::new() }.hash(), Some(hash));
    assert_eq!(Content::Indirect { hash, root: TreeId::new([3; 32]) }.hash(), Some(hash));
    assert_eq!([Extent::Hole { length: 8 }, Extent::Data { id: chunk, length: 9 }].map(|e| e.length()), [8, 9]);
    let words = ["file", "directory", "symlink", "fifo", "socket", "char-device", "block-device"];
    assert_eq!(EntryKind::ALL.map(EntryKind::as_str), words);
}

#[test]
fn an_empty_directory_is_one_node() {
    let mut nodes = Nodes::default();
    let id = write_directory(Vec::new(), &mut nodes).unwrap();
    assert_eq!((nodes.entries(id), nodes.0.len()), (Vec::new(), 1));
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    let refused = |change: fn(&mut Entry)| {
        let mut entry = many(1).remove(0);
        change(&mut entry);
        assert!(Node::decode(&Node::Entries(vec![entry]).encode()).is_err());
    };
    refused(|entry| entry.size = 0);
    refused(|entry| entry.content = Content::None);
    refused(|entry| entry.kind = EntryKind::Directory);
    refused(|entry| entry.name = b"..".to_vec());
    refused(|entry| entry.name = b"a/b".to_vec());
    refused(|entry| entry.name = vec![b'a'; NAME_MAX_BYTES + 1]);
    refused(|entry| {
        entry.kind = EntryKind::Symlink;
        entry.content = Content::None;
    });
    refused(|entry| {
        entry.kind = EntryKind::Fifo;
        entry.content = Content::Extents { hash: ContentId::new([1; 32]), extents: vec![Extent::Hole { length: 1 }] };
    });
    refused(|entry| entry.mode = 0o10000);
    let entry = Entry { mode: 0o7777, ..many(1).remove(0) };
    assert!(Node::decode(&Node::Entries(vec![entry]).encode()).is_ok());
    refused(|entry| entry.mtime.nanos = NANOS_PER_SEC);
    let mut twice = many(2);
    twice[1].name = twice[0].name.clone();
    assert!(Node::decode(&Node::Entries(twice).encode()).is_err());
}
