//! What a real file tree looks like, found without any code of the engine, and how two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use lakebed_core::record::tree::EntryKind;
use lakebed_core::time::Timestamp;

use crate::access::{is_root, mtime_of};
use crate::tree::Bytes;

/// How many differences a failed comparison shows.
const DIFFERENCES_SHOWN: usize = 20;
/// What a copy of a file with holes may occupy more than the original: holes smaller than this need not be kept.
const HOLE_SLACK_BYTES: u64 = 64 * 1024;

/// A tree as it was found: entries by path below the root. The root itself has the empty path.
pub type Observation = BTreeMap<Vec<u8>, Observed>;

/// An entry as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content was changed.
    pub mtime: Timestamp,
    /// Size in bytes, of a file; 0 else.
    pub size: u64,
    /// Plain BLAKE3 of the bytes, of a file.
    pub content: Option<blake3::Hash>,
    /// Target, of a symbolic link.
    pub link_target: Option<Bytes>,
    /// Extended attributes `user.*` and access control lists, by full name.
    pub xattrs: BTreeMap<Bytes, Bytes>,
    /// All paths of the tree that are this very entry, its own included; empty where it is the only one.
    pub hard_links: BTreeSet<Bytes>,
    /// Device number, of a device; 0 else.
    pub rdev: u64,
    /// How many bytes are allocated to a file; 0 else.
    pub allocated_bytes: u64,
}

/// Observes a tree. Nothing in it is changed but times of access.
///
/// # Panics
/// Whatever cannot be looked at or read.
pub fn snapshot_of(root: &Path) -> Observation {
    let mut walk = Walk::default();
    walk.visit(root.to_owned(), Vec::new());
    for names in walk.names.into_values().filter(|names| names.len() > 1) {
        for name in &names {
            let observed = walk.found.get_mut(&name.0).expect("it was found under that name");
            observed.hard_links = names.clone();
        }
    }
    walk.found
}

#[derive(Default)]
struct Walk {
    found: Observation,
    /// Names by device and inode, of everything but directories.
    names: BTreeMap<(u64, u64), BTreeSet<Bytes>>,
}

impl Walk {
    fn visit(&mut self, path: PathBuf, name: Vec<u8>) {
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("look at {}: {e}", path.display()));
        self.found.insert(name.clone(), observe(&path, &metadata));
        if !metadata.is_dir() {
            self.names.entry((metadata.dev(), metadata.ino())).or_default().insert(Bytes(name));
            return;
        }
        for entry in fs::read_dir(&path).unwrap_or_else(|e| panic!("list {}: {e}", path.display())) {
            let entry = entry.unwrap_or_else(|e| panic!("list {}: {e}", path.display()));
            let file_name = entry.file_name().into_vec();
            let below = if name.is_empty() { file_name } else { [&name[..], &file_name].join(&b'/') };
            self.visit(entry.path(), below);
        }
    }
}

fn observe(path: &Path, metadata: &Metadata) -> Observed {
    let told = |e: std::io::Error| -> ! { panic!("read {}: {e}", path.display()) };
    let kind = kind_of(metadata);
    let content = (kind == EntryKind::File).then(|| {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).unwrap_or_else(|e| told(e));
        hasher.update_reader(file).unwrap_or_else(|e| told(e)).finalize()
    });
    let link_target = (kind == EntryKind::Symlink)
        .then(|| Bytes(fs::read_link(path).unwrap_or_else(|e| told(e)).into_os_string().into_vec()));
    let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
    let of_file = |number: u64| if kind == EntryKind::File { number } else { 0 };
    Observed {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: mtime_of(metadata),
        size: of_file(metadata.len()),
        content,
        link_target,
        xattrs: xattrs_of(path),
        hard_links: BTreeSet::new(),
        rdev: if is_device { metadata.rdev() } else { 0 },
        allocated_bytes: of_file(metadata.blocks() * 512),
    }
}

fn kind_of(metadata: &Metadata) -> EntryKind {
    let kind = metadata.file_type();
    if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_symlink() {
        EntryKind::Symlink
    } else if kind.is_fifo() {
        EntryKind::Fifo
    } else if kind.is_socket() {
        EntryKind::Socket
    } else if kind.is_char_device() {
        EntryKind::CharDevice
    } else {
        assert!(kind.is_block_device(), "a kind of file that no system is known to have");
        EntryKind::BlockDevice
    }
}

fn xattrs_of(path: &Path) -> BTreeMap<Bytes, Bytes> {
    let told = |e: std::io::Error| -> ! { panic!("read the attributes of {}: {e}", path.display()) };
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => return BTreeMap::new(),
        Err(e) => told(e),
    };
    let is_kept = |name: &OsStr| {
        let name = name.as_bytes();
        name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
    };
    names
        .filter(|name| is_kept(name))
        .map(|name| {
            let value = xattr::get(path, &name).unwrap_or_else(|e| told(e)).expect("a listed attribute is there");
            (Bytes(name.into_vec()), Bytes(value))
        })
        .collect()
}

/// What counts as the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareOptions {
    /// Owners and groups may differ. By default they may unless this process is root's: only root can give files away.
    pub ignore_owner: bool,
    /// The times of directories may differ.
    pub ignore_directory_mtimes: bool,
    /// Which names are one file may differ.
    pub ignore_hard_links: bool,
    /// Sockets may be missing on either side.
    pub ignore_sockets: bool,
    /// The attributes of the two roots may differ; what they hold may not.
    pub ignore_root: bool,
    /// A file that has holes on the left must have about as many on the right.
    pub check_holes: bool,
}

impl Default for CompareOptions {
    /// Everything counts that this process can set, all but holes.
    fn default() -> Self {
        Self {
            ignore_owner: !is_root(),
            ignore_directory_mtimes: false,
            ignore_hard_links: false,
            ignore_sockets: false,
            ignore_root: false,
            check_holes: false,
        }
    }
}

/// Returns how `right` differs from `left`, a line each, in the order of the paths.
pub fn differences(left: &Observation, right: &Observation, options: &CompareOptions) -> Vec<String> {
    let paths: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let counts = |entry: &&Observed| !(options.ignore_sockets && entry.kind == EntryKind::Socket);
    let mut found = Vec::new();
    for path in paths {
        let shown = if path.is_empty() { "(root)".to_owned() } else { path.escape_ascii().to_string() };
        let (left, right) = (left.get(path).filter(counts), right.get(path).filter(counts));
        match (left, right) {
            (Some(one), None) => found.push(format!("{shown}: missing on the right ({})", one.kind.as_str())),
            (None, Some(one)) => found.push(format!("{shown}: only on the right ({})", one.kind.as_str())),
            (Some(left), Some(right)) if left.kind != right.kind => {
                found.push(format!("{shown}: kind: {} became {}", left.kind.as_str(), right.kind.as_str()));
            }
            (Some(_), Some(_)) if path.is_empty() && options.ignore_root => {}
            (Some(left), Some(right)) => compare_entry(left, right, options, |field, was, is| {
                found.push(format!("{shown}: {field}: {was} became {is}"));
            }),
            (None, None) => {}
        }
    }
    found
}

fn compare_entry(
    left: &Observed,
    right: &Observed,
    options: &CompareOptions,
    mut report: impl FnMut(&str, String, String),
) {
    let mut check = |field: &str, same: bool, show: &dyn Fn(&Observed) -> String| {
        if !same {
            report(field, show(left), show(right));
        }
    };
    let is_directory = left.kind == EntryKind::Directory;
    check("mode", left.mode == right.mode, &|one| format!("{:04o}", one.mode));
    let same_owner = options.ignore_owner || (left.uid, left.gid) == (right.uid, right.gid);
    check("owner", same_owner, &|one| format!("{}:{}", one.uid, one.gid));
    let same_mtime = (options.ignore_directory_mtimes && is_directory) || left.mtime == right.mtime;
    check("mtime", same_mtime, &|one| format!("{}.{:09}", one.mtime.secs, one.mtime.nanos));
    check("size", left.size == right.size, &|one| one.size.to_string());
    check("content", left.content == right.content, &|one| {
        one.content.map_or("none".to_owned(), |hash| hash.to_hex()[..16].to_owned())
    });
    check("target", left.link_target == right.link_target, &|one| {
        one.link_target.as_ref().map_or("none".to_owned(), |target| format!("{target:?}"))
    });
    check("attributes", left.xattrs == right.xattrs, &|one| format!("{:?}", one.xattrs));
    let same_links = options.ignore_hard_links || left.hard_links == right.hard_links;
    check("names of the same file", same_links, &|one| format!("{:?}", one.hard_links));
    check("device", left.rdev == right.rdev, &|one| format!("{:#x}", one.rdev));
    let has_holes = left.allocated_bytes + HOLE_SLACK_BYTES < left.size;
    let same_holes = !(options.check_holes && has_holes)
        || right.allocated_bytes <= left.allocated_bytes.saturating_add(HOLE_SLACK_BYTES);
    check("allocated bytes", same_holes, &|one| one.allocated_bytes.to_string());
}

/// Checks that two real trees are the same.
///
/// # Panics
/// They are not; the message shows the first differences.
#[track_caller]
pub fn assert_same_tree(a: &Path, b: &Path, options: &CompareOptions) {
    assert_same_observation(&snapshot_of(a), &snapshot_of(b), options);
}

/// Checks that a real tree is as one was when it was observed.
///
/// # Panics
/// It is not; the message shows the first differences.
#[track_caller]
pub fn assert_tree_is(expected: &Observation, tree: &Path, options: &CompareOptions) {
    assert_same_observation(expected, &snapshot_of(tree), options);
}

/// Checks that two observed trees are the same.
///
/// # Panics
/// They are not; the message shows the first differences.
#[track_caller]
pub fn assert_same_observation(left: &Observation, right: &Observation, options: &CompareOptions) {
    let found = differences(left, right, options);
    if !found.is_empty() {
        let more = found.len().saturating_sub(DIFFERENCES_SHOWN);
        let shown = found[..found.len() - more].join("\n  ");
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        panic!("the trees differ:\n  {shown}{more}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Item, ItemKind, TreeSpec};

    fn observed(spec: &TreeSpec) -> Observation {
        let temp = tempfile::tempdir().unwrap();
        spec.write(&temp.path().join("tree"));
        snapshot_of(&temp.path().join("tree"))
    }

    fn base() -> TreeSpec {
        TreeSpec::new().file("d/f", "abc").symlink("l", "t").with("s", Item::new(ItemKind::Socket))
    }

    #[test]
    fn every_difference_is_named() {
        let options = CompareOptions::default();
        let left = observed(&base());
        assert_eq!(differences(&left, &observed(&base()), &options), [""; 0]);
        for (changed, expected) in [
            (base().file("d/f", "abd"), "d/f: content: 6437b3ac38465133 became "),
            (base().file("d/f", "abcd"), "d/f: size: 3 became 4"),
            (base().with("d/f", Item::file("abc").mode(0o600)), "d/f: mode: 0644 became 0600"),
            (base().with("d", Item::directory().mtime(-5, 1)), "d: mtime: 1600000000.123456789 became -5.000000001"),
            (base().symlink("l", "u"), "l: target: b\"t\" became b\"u\""),
            (base().directory("l"), "l: kind: symlink became directory"),
            (base().file(b"\xff", ""), "\\xff: only on the right (file)"),
            (base().hard_link("x", "d/f"), "d/f: names of the same file: {} became {b\"d/f\", b\"x\"}"),
        ] {
            let found = differences(&left, &observed(&changed), &options);
            assert!(found[0].starts_with(expected), "{found:?}");
        }
    }

    #[test]
    fn what_is_to_be_ignored_is() {
        let left = observed(&base().hard_link("x", "d/f"));
        let right = observed(
            &TreeSpec::new()
                .with("", Item::directory().mode(0o700))
                .file("d/f", "abc")
                .with("d", Item::directory().mtime(1, 1))
                .symlink("l", "t")
                .file("x", "abc"),
        );
        let lax = CompareOptions {
            ignore_directory_mtimes: true,
            ignore_hard_links: true,
            ignore_sockets: true,
            ignore_root: true,
            ..CompareOptions::default()
        };
        assert_eq!(differences(&left, &right, &lax), [""; 0]);
        assert_eq!(differences(&left, &right, &CompareOptions::default()).len(), 5);
    }

    #[test]
    fn filled_holes_are_noticed() {
        let left = observed(&TreeSpec::new().file("f", Content::hole(1 << 20)));
        let right = observed(&TreeSpec::new().file("f", vec![0; 1 << 20]));
        assert_eq!(differences(&left, &right, &CompareOptions::default()), [""; 0]);
        let strict = CompareOptions { check_holes: true, ..CompareOptions::default() };
        assert_eq!(differences(&left, &right, &strict).len(), 1);
        assert_eq!(differences(&right, &left, &strict), [""; 0], "more holes are no harm");
    }

    #[test]
    #[should_panic(expected = "and 5 more")]
    fn a_long_list_of_differences_is_cut() {
        let many = (0..25).fold(TreeSpec::new(), |tree, number| tree.file(format!("{number}"), ""));
        assert_same_observation(&observed(&TreeSpec::new()), &observed(&many), &CompareOptions::default());
    }
}
