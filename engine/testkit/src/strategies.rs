//! Random trees and random changes, for proptest. What fails shrinks to fewer, smaller and plainer entries.

use std::collections::BTreeMap;
use std::ops::Range;

use lakebed_core::time::{NANOS_PER_SEC, Timestamp};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use crate::tree::{Action, Bytes, Change, Content, Item, ItemKind, LinkTo, TreeSpec};

/// Sizes around which chunkers and readers do something else.
const SIZES: [u64; 11] = [
    0,
    1,
    4095,
    4096,
    256 * 1024 - 1,
    256 * 1024,
    256 * 1024 + 1,
    1024 * 1024 - 1,
    1024 * 1024,
    1024 * 1024 + 1,
    5 * 1024 * 1024 + 3,
];

/// Names that careless code stumbles over.
const ODD_NAMES: [&[u8]; 32] = [
    b" ",
    b"...",
    b"..a",
    b".hidden",
    b"-rf",
    b"--help",
    b"new\nline",
    b"tab\there",
    b"back\\slash",
    b"\"quoted\"",
    b"'single'",
    b"$HOME",
    b"`id`",
    b"~",
    b"*",
    b"?",
    b"[a]",
    b"{a,b}",
    b"!a",
    b"#a",
    b"%2e%2e",
    b"a:b",
    b"CON",
    b"trailing.",
    b"trailing ",
    b"\x1b[31mred",
    b"\x7f",
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    "e\u{301}".as_bytes(),
    "\u{e9}".as_bytes(),
];

/// How large random trees are and what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeParams {
    /// About how many entries there are at most.
    pub max_items: u32,
    /// How many directories lie in each other at most, up to 10: names of 255 bytes make long paths.
    pub max_depth: u32,
    /// No file is longer.
    pub max_file_bytes: u64,
    /// Whether there are names that are long, not UTF-8, or look like something else.
    pub odd_names: bool,
    /// Whether there are symbolic links.
    pub symlinks: bool,
    /// Whether there are files with several names.
    pub hard_links: bool,
    /// Whether there are named pipes and sockets.
    pub special_files: bool,
    /// Whether there are files with holes.
    pub sparse_files: bool,
    /// Whether there are attributes `user.*`.
    pub xattrs: bool,
    /// Whether there are modes that keep the owner from reading. Only root can back such a tree up.
    pub closed_modes: bool,
}

impl Default for TreeParams {
    /// A few entries of every kind, seldom more than a few MiB: some milliseconds to make.
    fn default() -> Self {
        Self {
            max_items: 24,
            max_depth: 4,
            max_file_bytes: 6 * 1024 * 1024,
            odd_names: true,
            symlinks: true,
            hard_links: true,
            special_files: true,
            sparse_files: true,
            xattrs: true,
            closed_modes: false,
        }
    }
}

/// Which random changes there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeParams {
    /// How many there are.
    pub count: Range<usize>,
    /// No piece of content is longer.
    pub max_file_bytes: u64,
    /// Whether there are odd names, as in [`TreeParams`].
    pub odd_names: bool,
    /// Whether attributes `user.*` are changed.
    pub xattrs: bool,
    /// Whether some changes put the old times back, see [`Change::mtime`].
    pub keep_mtimes: bool,
    /// Whether pipes and sockets are added.
    pub special_files: bool,
}

impl Default for ChangeParams {
    /// A few changes of every kind, all of which show in some time or size.
    fn default() -> Self {
        Self {
            count: 0..12,
            max_file_bytes: 300 * 1024,
            odd_names: true,
            xattrs: true,
            keep_mtimes: false,
            special_files: true,
        }
    }
}

/// Makes small trees.
pub fn arb_tree() -> impl Strategy<Value = TreeSpec> {
    arb_tree_with(TreeParams::default())
}

/// Makes trees as told.
pub fn arb_tree_with(params: TreeParams) -> impl Strategy<Value = TreeSpec> {
    assert!(params.max_depth <= 10, "paths would be longer than the system allows");
    let leaf = arb_leaf(&params).prop_map(Node::Leaf).boxed();
    let root = arb_directory(&params);
    let name = arb_name(params.odd_names).boxed();
    let branch = 8;
    let inner = leaf.prop_recursive(params.max_depth, params.max_items, branch, {
        let (name, directory) = (name.clone(), root.clone());
        move |inner| {
            (directory.clone(), btree_map(name.clone(), inner, 0..branch as usize))
                .prop_map(|(item, holds)| Node::Directory(item, holds))
        }
    });
    (root, btree_map(name, inner, 0..branch as usize)).prop_map(|(item, holds)| {
        let mut spec = TreeSpec::new();
        Node::Directory(item, holds).add_to(&mut spec, Vec::new());
        spec
    })
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Item),
    Directory(Item, BTreeMap<Bytes, Node>),
}

impl Node {
    fn add_to(self, spec: &mut TreeSpec, path: Vec<u8>) {
        match self {
            Self::Leaf(item) => spec.insert(path, item),
            Self::Directory(item, holds) => {
                spec.insert(&path, item);
                for (name, node) in holds {
                    let below = if path.is_empty() { name.0 } else { [&path[..], &name.0].join(&b'/') };
                    node.add_to(spec, below);
                }
            }
        }
    }
}

/// Makes names: mostly short ones that often meet again.
pub fn arb_name(odd: bool) -> impl Strategy<Value = Bytes> {
    let plain = "[a-dA-D][a-z0-9]{0,2}(\\.txt)?".prop_map(|name| Bytes(name.into_bytes())).boxed();
    if !odd {
        return plain;
    }
    let one = select(ODD_NAMES.as_slice()).prop_map(Bytes::from);
    let any_bytes = vec(prop_oneof![1u8..b'/', b'0'..=255], 1..=255usize)
        .prop_filter_map("a name", |name| (name != b"." && name != b"..").then_some(Bytes(name)));
    let long = select(b"abc".as_slice()).prop_map(|letter| Bytes(vec![letter; 255]));
    prop_oneof![6 => plain, 2 => one, 1 => any_bytes, 1 => long].boxed()
}

/// Makes times from 1906 to 2106, often those where counting is easily wrong.
pub fn arb_mtime() -> impl Strategy<Value = Timestamp> {
    let secs = prop_oneof![
        4 => 0i64..2_000_000_000,
        1 => -2_000_000_000i64..0,
        1 => 2_147_483_646i64..4_294_967_296,
        1 => select([-1i64, 0, 1, 2_147_483_647, 2_147_483_648].as_slice()),
    ];
    let nanos = prop_oneof![3 => 0..NANOS_PER_SEC, 1 => select([0, 1, NANOS_PER_SEC - 1].as_slice())];
    (secs, nanos).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

/// Makes content up to a length.
pub fn arb_content(max_bytes: u64, sparse: bool) -> impl Strategy<Value = Content> {
    let edges: Vec<u64> = SIZES.into_iter().filter(|&size| size <= max_bytes).collect();
    let length = prop_oneof![
        10 => 0..=max_bytes.min(4096),
        2 => 0..=max_bytes.min(100_000),
        2 => select(edges),
    ];
    let compressibility = select([0u8, 0, 50, 95, 100].as_slice());
    // few seeds, so that equal content comes up
    let generated = (0u64..6, length, compressibility).prop_map(|(seed, length, compressibility)| Content::Generated {
        seed,
        length,
        compressibility,
    });
    let exact = vec(any::<u8>(), 0..=max_bytes.min(40) as usize).prop_map(Content::Exact);
    let mut all = vec![(6, generated.boxed()), (2, exact.boxed())];
    if sparse {
        all.push((1, arb_sparse(max_bytes).boxed()));
    }
    Union::new_weighted(all)
}

fn arb_sparse(max_bytes: u64) -> impl Strategy<Value = Content> {
    const PAGE: u64 = 4096;
    let pages = max_bytes / PAGE;
    let data = vec((0..=pages, 1u64..20), 0..4);
    (0u64..6, 0..=max_bytes, data).prop_map(|(seed, length, data)| Content::Sparse {
        seed,
        length,
        data: data.into_iter().map(|(start, count)| start * PAGE..(start + count) * PAGE).collect(),
    })
}

fn arb_xattr() -> impl Strategy<Value = (Bytes, Bytes)> {
    let name = prop_oneof![
        4 => "user\\.[a-c]".prop_map(String::into_bytes),
        1 => Just("user.\u{e9} and a space".as_bytes().to_vec()),
        1 => Just(b"user.\xff".to_vec()),
    ];
    // file systems keep little: ext4 has room for one block in all
    let value = prop_oneof![4 => vec(any::<u8>(), 0..20usize), 1 => vec(any::<u8>(), 500..=500usize)];
    (name.prop_map(Bytes), value.prop_map(Bytes))
}

fn arb_xattrs(wanted: bool) -> BoxedStrategy<BTreeMap<Bytes, Bytes>> {
    if !wanted {
        return Just(BTreeMap::new()).boxed();
    }
    let some = vec(arb_xattr(), 1..3).prop_map(|xattrs| xattrs.into_iter().collect());
    prop_oneof![3 => Just(BTreeMap::new()), 1 => some].boxed()
}

/// Makes modes: usual ones, and any in which the bits `least` are set. Set-id bits are the system's to take away, so
/// there are none but on demand of a test.
fn arb_mode(usual: &'static [u32], least: u32) -> impl Strategy<Value = u32> {
    prop_oneof![3 => select(usual), 1 => (0..=0o777u32).prop_map(move |mode| mode | least)]
}

fn arb_directory(params: &TreeParams) -> BoxedStrategy<Item> {
    let least = if params.closed_modes { 0 } else { 0o500 };
    let mode = arb_mode(&[0o755, 0o700, 0o775, 0o1777, 0o555], least);
    item_of(Just(ItemKind::Directory), mode, arb_xattrs(params.xattrs))
}

fn item_of(
    kind: impl Strategy<Value = ItemKind> + 'static,
    mode: impl Strategy<Value = u32> + 'static,
    xattrs: BoxedStrategy<BTreeMap<Bytes, Bytes>>,
) -> BoxedStrategy<Item> {
    (kind, mode, arb_mtime(), xattrs).prop_map(|(kind, mode, mtime, xattrs)| Item { kind, mode, mtime, xattrs }).boxed()
}

fn arb_leaf(params: &TreeParams) -> BoxedStrategy<Item> {
    let least = if params.closed_modes { 0 } else { 0o400 };
    let mode = || arb_mode(&[0o644, 0o600, 0o755, 0o444], least);
    let content = arb_content(params.max_file_bytes, params.sparse_files).prop_map(ItemKind::File);
    let no_xattrs = || arb_xattrs(false);
    let mut all = vec![(12, item_of(content, mode(), arb_xattrs(params.xattrs)))];
    if params.symlinks {
        let kind = arb_target(params.odd_names).prop_map(ItemKind::Symlink);
        all.push((2, item_of(kind, Just(0o777), no_xattrs())));
    }
    if params.hard_links {
        let kind = any::<u32>().prop_map(|number| ItemKind::HardLink(LinkTo::Nth(number)));
        all.push((2, item_of(kind, Just(0), no_xattrs())));
    }
    if params.special_files {
        let kind = select([ItemKind::Fifo, ItemKind::Socket].as_slice());
        all.push((1, item_of(kind, mode(), no_xattrs())));
    }
    Union::new_weighted(all).boxed()
}

/// Makes targets of symbolic links: names that may be there, loops, ways out, nothing at all.
fn arb_target(odd: bool) -> impl Strategy<Value = Bytes> {
    let name = arb_name(odd);
    let far =
        select(["..", ".", "../..", "/", "/dev/null", "/nonexistent/x", "a/b/c"].as_slice()).prop_map(Bytes::from);
    let long = Just(Bytes(b"long/".repeat(200)));
    prop_oneof![6 => name, 3 => far, 1 => long]
}

/// Makes a few changes.
pub fn arb_changes() -> impl Strategy<Value = Vec<Change>> {
    arb_changes_with(ChangeParams::default())
}

/// Makes changes as told.
pub fn arb_changes_with(params: ChangeParams) -> impl Strategy<Value = Vec<Change>> {
    let count = params.count.clone();
    let mtime = arb_mtime().prop_map(Some);
    let mtime = if params.keep_mtimes { prop_oneof![4 => mtime, 1 => Just(None)].boxed() } else { mtime.boxed() };
    let change = (any::<u32>(), arb_action(&params), mtime)
        .prop_map(|(pick, action, mtime)| Change { pick, action, mtime })
        .boxed();
    vec(change, count)
}

fn arb_action(params: &ChangeParams) -> BoxedStrategy<Action> {
    let of_tree = TreeParams {
        max_file_bytes: params.max_file_bytes,
        odd_names: params.odd_names,
        xattrs: params.xattrs,
        special_files: params.special_files,
        ..TreeParams::default()
    };
    let content = || arb_content(params.max_file_bytes, false);
    let item = prop_oneof![4 => arb_leaf(&of_tree), 1 => arb_directory(&of_tree)];
    let name = || arb_name(params.odd_names);
    let max_length = u32::try_from(params.max_file_bytes).unwrap_or(u32::MAX).max(1);
    let mut all = vec![
        (4, (name(), item).prop_map(|(name, item)| Action::Add { name, item }).boxed()),
        (2, Just(Action::Remove).boxed()),
        (
            3,
            (0u16..=1000, 1..=max_length, any::<u64>())
                .prop_map(|(at_permille, length, seed)| Action::Overwrite { at_permille, length, seed })
                .boxed(),
        ),
        (2, content().prop_map(Action::Append).boxed()),
        (1, (0u16..=1500).prop_map(|to_permille| Action::Truncate { to_permille }).boxed()),
        (2, content().prop_map(Action::Replace).boxed()),
        (1, Just(Action::Touch).boxed()),
        (1, arb_mode(&[0o755, 0o700], 0o500).prop_map(|mode| Action::Chmod { mode }).boxed()),
        (2, (any::<u32>(), name()).prop_map(|(to, name)| Action::Rename { to, name }).boxed()),
        (1, content().prop_map(|inner| Action::FileToDirectory { inner }).boxed()),
        (1, content().prop_map(Action::DirectoryToFile).boxed()),
        (1, arb_target(params.odd_names).prop_map(Action::Retarget).boxed()),
    ];
    if params.xattrs {
        all.push((1, arb_xattr().prop_map(|(name, value)| Action::SetXattr { name, value }).boxed()));
        all.push((1, Just(Action::RemoveXattr).boxed()));
    }
    Union::new_weighted(all).boxed()
}
