use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use lakebed_core::record::tree::EntryKind;
use lakebed_core::source::SourceErrorKind;
use lakebed_core::time::Timestamp;
use rustix::fs::{FileType, Mode};

use super::attributes::has_no_attributes;
use super::*;
use crate::source::filter::FilterOptions;

fn source_with(path: &Path, tree: &[&str], filter: FilterOptions, options: LocalOptions) -> LocalSource {
    let tree = tree.iter().map(|name| name.as_bytes().to_vec()).collect();
    LocalSource::new(path, tree, Arc::new(Filter::new(&filter).unwrap()), options)
}

fn source(path: &Path) -> LocalSource {
    source_with(path, &["src"], FilterOptions::default(), LocalOptions::default())
}

fn open(source: &LocalSource, path: &[&[u8]], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
    let path: Vec<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
    source.open_dir(&path, expected)
}

fn list(dir: &dyn SourceDir) -> Vec<Entry> {
    dir.list().unwrap().map(|entry| entry.unwrap_or_else(|error| panic!("{error}: {}", error.source))).collect()
}

fn opened_root(source: &LocalSource) -> (Box<dyn SourceDir>, Vec<Entry>) {
    let dir = open(source, &[], &source.root().unwrap()).unwrap();
    let entries = list(&*dir);
    (dir, entries)
}

fn complete_root(source: &LocalSource) -> Entry {
    let mut root = source.root().unwrap();
    source.complete_root(&mut root).unwrap();
    root
}

fn find<'a>(entries: &'a [Entry], name: &[u8]) -> &'a Entry {
    entries.iter().find(|entry| entry.name == name).unwrap()
}

/// All paths below the root as the filter leaves them, directories with a slash, in the order of a walk.
fn walk(source: &LocalSource) -> Vec<String> {
    fn visit(source: &LocalSource, path: &mut Vec<Vec<u8>>, entry: &Entry, found: &mut Vec<String>) {
        let dir = source.open_dir(path, entry).unwrap();
        for entry in list(&*dir) {
            path.push(entry.name.clone());
            let shown = display_path(&path.join(&b'/'));
            match entry.kind {
                EntryKind::Directory => {
                    found.push(shown + "/");
                    visit(source, path, &entry, found);
                }
                _ => found.push(shown),
            }
            path.pop();
        }
    }
    let mut found = Vec::new();
    visit(source, &mut Vec::new(), &source.root().unwrap(), &mut found);
    found
}

fn content(mut file: Box<dyn SourceFile>) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 7]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return bytes,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mkfifo(path: &Path) {
    #[cfg(target_os = "linux")]
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    #[cfg(not(target_os = "linux"))]
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn every_kind_is_listed_with_what_comparing_needs() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::write(root.join("file"), b"hello").unwrap();
    std::fs::set_permissions(root.join("file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::create_dir(root.join("dir")).unwrap();
    symlink("to/nowhere", root.join("link")).unwrap();
    std::fs::write(root.join("one"), b"").unwrap();
    std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
    mkfifo(&root.join("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_nanos(1_500_000_001);
    File::options().write(true).open(root.join("file")).unwrap().set_modified(old).unwrap();

    let (dir, entries) = opened_root(&source(root));
    let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [b"dir".as_slice(), b"fifo", b"file", b"link", b"one", b"socket", b"two"]);

    let file = find(&entries, b"file");
    let meta = std::fs::metadata(root.join("file")).unwrap();
    assert_eq!((file.kind, file.mode, file.size), (EntryKind::File, 0o4751, 5));
    assert_eq!((file.uid, file.gid, file.inode), (meta.uid(), meta.gid(), meta.ino()));
    assert_eq!(file.mtime, Timestamp { secs: -2, nanos: 499_999_999 });
    assert_eq!((file.ctime.secs, i64::from(file.ctime.nanos)), (meta.ctime(), meta.ctime_nsec()));
    assert_eq!((file.hard_link_device, file.device, file.subtree), (None, 0, None));
    assert_eq!(content(dir.open(file).unwrap()), b"hello");

    for (name, kind) in [("dir", EntryKind::Directory), ("fifo", EntryKind::Fifo), ("socket", EntryKind::Socket)] {
        let entry = find(&entries, name.as_bytes());
        assert_eq!((entry.kind, entry.size, entry.hard_link_device), (kind, 0, None), "{name}");
        let mut completed = entry.clone();
        dir.complete(&mut completed).unwrap();
        assert_eq!(completed.link_target, b"");
    }
    let mut link = find(&entries, b"link").clone();
    assert_eq!((link.kind, link.size, link.link_target.as_slice()), (EntryKind::Symlink, 0, b"".as_slice()));
    dir.complete(&mut link).unwrap();
    assert_eq!(link.link_target, b"to/nowhere");

    let (one, two) = (find(&entries, b"one"), find(&entries, b"two"));
    assert_eq!(one.hard_link_device, Some(meta.dev()));
    assert_eq!((one.hard_link_device, one.inode), (two.hard_link_device, two.inode));
}

#[test]
#[cfg(target_os = "linux")]
fn devices_have_their_number() {
    let source = source(Path::new("/dev"));
    let (_, entries) = opened_root(&source);
    let null = find(&entries, b"null");
    assert_eq!((null.kind, null.size), (EntryKind::CharDevice, 0));
    assert_eq!(null.device, std::fs::metadata("/dev/null").unwrap().rdev());
}

#[test]
fn a_directory_can_be_listed_again() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("a"), b"").unwrap();
    let (dir, entries) = opened_root(&source(temp.path()));
    std::fs::write(temp.path().join("b"), b"").unwrap();
    assert_eq!((entries.len(), list(&*dir).len()), (1, 2));
}

#[test]
fn a_large_directory_is_listed_whole_and_sorted() {
    let temp = tempfile::tempdir().unwrap();
    for index in 0..3_000 {
        File::create(temp.path().join(format!("a_rather_long_name_of_a_file_{}", index * 7919 % 3_000))).unwrap();
    }
    let (_, entries) = opened_root(&source(temp.path()));
    assert_eq!(entries.len(), 3_000);
    assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
}

#[test]
fn the_root_may_be_a_file_or_a_link() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    std::fs::write(&path, b"content").unwrap();
    let file = source(&path);
    let entry = file.root().unwrap();
    assert_eq!((entry.kind, entry.size, entry.name.as_slice()), (EntryKind::File, 7, b"file".as_slice()));
    assert_eq!(content(file.open_root().unwrap()), b"content");

    std::fs::write(temp.path().join("new"), b"other").unwrap();
    std::fs::rename(temp.path().join("new"), &path).unwrap();
    let error = file.open_root().err().unwrap();
    assert_eq!((error.kind, error.to_string()), (SourceErrorKind::Replaced, "Cannot open `src`".to_owned()));

    std::fs::create_dir(temp.path().join("dir")).unwrap();
    std::fs::write(temp.path().join("dir/inside"), b"").unwrap();
    symlink("dir", temp.path().join("link")).unwrap();
    let link = complete_root(&source(&temp.path().join("link")));
    assert_eq!((link.kind, link.link_target.as_slice()), (EntryKind::Symlink, b"dir".as_slice()));
    // with a slash it is the folder behind the link
    let followed = source(&temp.path().join("link/"));
    assert_eq!(walk(&followed), ["inside"]);

    let missing = source(&temp.path().join("missing")).root().unwrap_err();
    assert_eq!(missing.kind, SourceErrorKind::Vanished);
    assert_eq!(missing.to_string(), "Cannot read the attributes of `src`");
}

#[test]
fn the_uri_is_absolute_and_encoded() {
    let uri = |path: &[u8]| source(Path::new(OsStr::from_bytes(path))).uri();
    assert_eq!(uri(b"/"), "file:///");
    assert_eq!(uri(b"/srv/My Data/\xff%a~b-c_d.e/"), "file:///srv/My%20Data/%FF%25a~b-c_d.e");
    let here = file_uri(&std::env::current_dir().unwrap());
    assert_eq!(uri(b"."), here);
    assert_eq!(uri(b"./x"), format!("{here}/x"));
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    symlink("a/b", root.join("link")).unwrap();
    assert_eq!(file_uri(&root.join("link/../x")), file_uri(&root.join("a/x")));
    assert_eq!(file_uri(&root.join("link")), format!("{}/link", file_uri(&root)));
}

#[test]
fn names_of_any_bytes_and_of_full_length_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let strange = OsStr::from_bytes(b"\xff\xfe dir\n");
    let long = "n".repeat(255);
    let inside = temp.path().join(strange);
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join(&long), b"x").unwrap();
    let source = source(temp.path());
    let (dir, entries) = opened_root(&source);
    assert_eq!(entries[0].name, strange.as_bytes());
    dir.complete(&mut entries[0].clone()).unwrap();
    let below = open(&source, &[strange.as_bytes()], &entries[0]).unwrap();
    let files = list(&*below);
    assert_eq!(files[0].name, long.as_bytes());
    assert_eq!(content(below.open(&files[0]).unwrap()), b"x");

    std::fs::remove_file(inside.join(&long)).unwrap();
    let error = below.open(&files[0]).err().unwrap();
    assert_eq!(error.kind, SourceErrorKind::Vanished);
    assert_eq!(error.to_string(), format!("Cannot open `src/\\xff\\xfe dir\\x0a/{long}`"));
}

#[test]
fn paths_longer_than_the_system_takes_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let name = vec![b'd'; 200];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(CWD, temp.path(), flags, Mode::empty()).unwrap();
    let mut path = Vec::new();
    for _ in 0..30 {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
        path.push(name.clone());
    }
    let created =
        rustix::fs::openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    rustix::io::write(created.unwrap(), b"deep").unwrap();
    rustix::fs::symlinkat("target", &dir, "link").unwrap();

    let source = source(temp.path());
    let mut expected = source.root().unwrap();
    for depth in 0..path.len() {
        expected = list(&*source.open_dir(&path[..depth], &expected).unwrap()).remove(0);
    }
    let deep = source.open_dir(&path, &expected).unwrap();
    let mut entries = list(&*deep);
    assert_eq!(entries.len(), 2);
    for entry in &mut entries {
        deep.complete(entry).unwrap();
    }
    assert_eq!(content(deep.open(&entries[0]).unwrap()), b"deep");
    assert_eq!(entries[1].link_target, b"target");
}

#[test]
fn excludes_apply_to_paths_in_the_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    for path in ["a/keep.o", "a/x.o", "a/build/y", "build/z", "c.txt"] {
        std::fs::create_dir_all(temp.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(temp.path().join(path), b"0123456789").unwrap();
    }
    let walk_with = |exclude: &[&str], larger: Option<u64>| {
        let exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
        let filter = FilterOptions { exclude, exclude_larger_than: larger, ..Default::default() };
        walk(&source_with(temp.path(), &["home", "src"], filter, LocalOptions::default()))
    };
    let everything = ["a/", "a/build/", "a/build/y", "a/keep.o", "a/x.o", "build/", "build/z", "c.txt"];
    assert_eq!(walk_with(&[], None), everything);
    assert_eq!(walk_with(&["nothing"], Some(10)), everything);
    assert_eq!(
        walk_with(&["*.o", "!keep.o"], None),
        ["a/", "a/build/", "a/build/y", "a/keep.o", "build/", "build/z", "c.txt"]
    );
    assert_eq!(walk_with(&["build/"], None), ["a/", "a/keep.o", "a/x.o", "c.txt"]);
    assert_eq!(walk_with(&["/home/src/build"], None), ["a/", "a/build/", "a/build/y", "a/keep.o", "a/x.o", "c.txt"]);
    assert_eq!(walk_with(&["/build", "/src", "/a"], None), everything);
    assert_eq!(walk_with(&["/home/src/*", "!/home/src/a"], None), &everything[..5]);
    assert_eq!(walk_with(&[], Some(9)), ["a/", "a/build/", "build/"]);
}

#[test]
fn markers_leave_out_what_lies_beside_them() {
    let temp = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        std::fs::create_dir_all(temp.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(temp.path().join(path), bytes).unwrap();
    };
    write("cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# made by nobody\n");
    write("cache/data/x", b"");
    write("notcache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc5");
    write("notcache/x", b"");
    write("skip/.nobackup", b"");
    write("skip/x", b"");
    write("tagged/tag", b"no: really");
    write("tagged/x", b"");
    write("untagged/tag", b"yes");
    write("untagged/x", b"");
    std::fs::create_dir_all(temp.path().join("dirtag/.nobackup")).unwrap();

    let filter = FilterOptions {
        exclude_if_present: vec![".nobackup".into(), "tag:no: ".into()],
        exclude_caches: true,
        ..Default::default()
    };
    #[rustfmt::skip]
    assert_eq!(walk(&source_with(temp.path(), &[], filter.clone(), LocalOptions::default())), [
        "cache/", "cache/CACHEDIR.TAG",
        "dirtag/", "dirtag/.nobackup/",
        "notcache/", "notcache/CACHEDIR.TAG", "notcache/x",
        "skip/", "skip/.nobackup",
        "tagged/", "tagged/tag",
        "untagged/", "untagged/tag", "untagged/x",
    ]);
    // the root as well
    let cache = source_with(&temp.path().join("cache"), &[], filter, LocalOptions::default());
    assert_eq!(walk(&cache), ["CACHEDIR.TAG"]);
    assert_eq!(walk(&source(&temp.path().join("cache"))), ["CACHEDIR.TAG", "data/", "data/x"]);
}

#[test]
fn the_repository_is_never_entered() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temp.path().join("a/repo/packs")).unwrap();
    std::fs::write(temp.path().join("a/file"), b"").unwrap();
    symlink("repo", temp.path().join("a/link")).unwrap();
    // found through a link as well
    let repository = directory_identity(&temp.path().join("a/link")).unwrap();
    let options = LocalOptions { never_enter: vec![repository], ..Default::default() };
    let with = |path: &Path| source_with(path, &[], FilterOptions::default(), options.clone());
    assert_eq!(walk(&with(temp.path())), ["a/", "a/file", "a/link"]);

    let itself = with(&temp.path().join("a/repo"));
    let error = itself.root().unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Other);
    let expected = source(&temp.path().join("a/repo")).root().unwrap();
    assert!(open(&itself, &[], &expected).is_err());
}

#[test]
#[cfg(target_os = "linux")]
fn other_file_systems_are_kept_as_empty_directories() {
    let root = Path::new("/");
    let device = |path: &str| std::fs::metadata(path).unwrap().dev();
    if device("/") == device("/proc") {
        return;
    }
    for one_file_system in [true, false] {
        let source =
            source_with(root, &[], FilterOptions { one_file_system, ..Default::default() }, LocalOptions::default());
        let (_, entries) = opened_root(&source);
        let dir = open(&source, &[b"proc"], find(&entries, b"proc")).unwrap();
        assert_eq!(dir.list().unwrap().next().is_none(), one_file_system);
    }
}

#[test]
fn a_directory_that_became_another_thing_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for name in ["link", "dir", "file", "gone"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::create_dir(root.join("elsewhere")).unwrap();
    let source = source(root);
    let (_, entries) = opened_root(&source);
    // the old ones keep their inodes, so that new ones cannot get them
    for name in ["link", "dir", "file", "gone"] {
        std::fs::rename(root.join(name), root.join(format!("old-{name}"))).unwrap();
    }
    symlink("elsewhere", root.join("link")).unwrap();
    std::fs::create_dir(root.join("dir")).unwrap();
    std::fs::write(root.join("file"), b"").unwrap();
    for name in ["link", "dir", "file"] {
        let error = open(&source, &[name.as_bytes()], find(&entries, name.as_bytes())).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Replaced, "{name}: {}", error.source);
        assert_eq!(error.to_string(), format!("Cannot list `src/{name}`"));
    }
    let error = open(&source, &[b"gone"], find(&entries, b"gone")).err().unwrap();
    assert_eq!(error.kind, SourceErrorKind::Vanished);
}

#[test]
fn a_link_above_a_directory_leads_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::create_dir_all(root.join("other/b")).unwrap();
    let source = source(root);
    let (_, entries) = opened_root(&source);
    let below = list(&*open(&source, &[b"a"], find(&entries, b"a")).unwrap());
    std::fs::rename(root.join("a"), root.join("old")).unwrap();
    symlink("other", root.join("a")).unwrap();
    let error = open(&source, &[b"a", b"b"], &below[0]).err().unwrap();
    assert_eq!(error.kind, SourceErrorKind::Replaced);
}

#[test]
fn a_file_that_became_another_thing_is_replaced_or_vanished() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    let names = ["file", "link", "fifo", "dir", "socket"];
    for name in names.into_iter().chain(["gone"]) {
        std::fs::write(root.join(name), b"secret").unwrap();
    }
    let (dir, entries) = opened_root(&source(root));
    for name in names.into_iter().chain(["gone"]) {
        std::fs::rename(root.join(name), root.join(format!("old-{name}"))).unwrap();
    }
    std::fs::write(root.join("file"), b"other").unwrap();
    symlink("old-file", root.join("link")).unwrap();
    mkfifo(&root.join("fifo"));
    std::fs::create_dir(root.join("dir")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for name in names {
        let error = dir.open(find(&entries, name.as_bytes())).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Replaced, "{name}: {}", error.source);
    }
    let mut gone = find(&entries, b"gone").clone();
    assert_eq!(dir.open(&gone).err().unwrap().kind, SourceErrorKind::Vanished);
    let error = dir.complete(&mut gone).unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Vanished);
    assert_eq!(error.to_string(), "Cannot read the attributes of `src/gone`");
}

#[test]
fn what_may_not_be_read_is_told_apart() {
    if is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("file"), b"").unwrap();
    std::fs::create_dir(temp.path().join("dir")).unwrap();
    for name in ["file", "dir"] {
        std::fs::set_permissions(temp.path().join(name), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let source = source(temp.path());
    let (dir, entries) = opened_root(&source);
    assert_eq!(dir.open(&entries[1]).err().unwrap().kind, SourceErrorKind::PermissionDenied);
    assert_eq!(open(&source, &[b"dir"], &entries[0]).err().unwrap().kind, SourceErrorKind::PermissionDenied);
    dir.complete(&mut entries[1].clone()).unwrap();
}

#[test]
fn extended_attributes_are_read_sorted() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("file"), b"").unwrap();
    std::fs::create_dir(temp.path().join("dir")).unwrap();
    std::fs::write(temp.path().join("plain"), b"").unwrap();
    let large = vec![7; 2_000];
    for name in ["file", "dir"] {
        let path = temp.path().join(name);
        match xattr::set(&path, "user.zz", b"last") {
            // not every file system has them
            Err(error) if has_no_attributes(&error) => return,
            result => result.unwrap(),
        }
        xattr::set(&path, "user.large", &large).unwrap();
        xattr::set(&path, "user.empty", b"").unwrap();
    }
    let (dir, entries) = opened_root(&source(temp.path()));
    for name in ["file", "dir"] {
        let mut entry = find(&entries, name.as_bytes()).clone();
        assert_eq!(entry.xattrs, []);
        dir.complete(&mut entry).unwrap();
        let user: Vec<_> = entry.xattrs.iter().filter(|xattr| xattr.name.starts_with(b"user.")).collect();
        let user: Vec<_> = user.iter().map(|xattr| (xattr.name.as_slice(), xattr.value.as_slice())).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"user.empty", b""), (b"user.large", &large), (b"user.zz", b"last")];
        assert_eq!(user, expected, "{name}");
        assert!(entry.xattrs.is_sorted());
    }
    let mut plain = find(&entries, b"plain").clone();
    dir.complete(&mut plain).unwrap();
    assert!(!plain.xattrs.iter().any(|xattr| xattr.name.starts_with(b"user.")));

    // a file of the same name that is another one does not lend its attributes
    std::fs::rename(temp.path().join("file"), temp.path().join("old")).unwrap();
    std::fs::write(temp.path().join("file"), b"").unwrap();
    xattr::set(temp.path().join("file"), "user.foreign", b"x").unwrap();
    let error = dir.complete(&mut find(&entries, b"file").clone()).unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Replaced);

    let root = complete_root(&source(&temp.path().join("dir")));
    assert!(root.xattrs.iter().any(|xattr| xattr.name == b"user.zz"));
}

#[test]
fn attributes_are_read_where_the_folder_was_renamed() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("a")).unwrap();
    std::fs::write(temp.path().join("a/file"), b"").unwrap();
    symlink("x", temp.path().join("a/link")).unwrap();
    if xattr::set(temp.path().join("a/file"), "user.k", b"v").is_err() {
        return;
    }
    let source = source(temp.path());
    let (_, entries) = opened_root(&source);
    let dir = open(&source, &[b"a"], &entries[0]).unwrap();
    let mut below = list(&*dir);
    std::fs::rename(temp.path().join("a"), temp.path().join("b")).unwrap();
    dir.complete(&mut below[0]).unwrap();
    assert!(below[0].xattrs.iter().any(|xattr| xattr.name == b"user.k"));
}

#[test]
fn holes_are_found() {
    use std::os::unix::fs::FileExt as _;
    const MIB: u64 = 1 << 20;
    let temp = tempfile::tempdir().unwrap();
    let file = File::create(temp.path().join("sparse")).unwrap();
    file.write_all_at(&[1; 65536], MIB).unwrap();
    file.write_all_at(&[2; 65536], 3 * MIB).unwrap();
    file.set_len(5 * MIB).unwrap();
    std::fs::write(temp.path().join("dense"), vec![3; 300_000]).unwrap();
    std::fs::write(temp.path().join("empty"), b"").unwrap();
    let (dir, entries) = opened_root(&source(temp.path()));

    let mut sparse = dir.open(find(&entries, b"sparse")).unwrap();
    let (mut offset, mut bytes) = (0, vec![0u8; 5 * MIB as usize]);
    let mut data = 0;
    while let Some(range) = sparse.next_data(offset).unwrap() {
        assert!(range.start >= offset && range.end > range.start && range.end <= 5 * MIB);
        let mut at = range.start as usize;
        while at < range.end as usize {
            at += sparse.read(&mut bytes[at..range.end as usize]).unwrap();
        }
        data += range.end - range.start;
        offset = range.end;
    }
    assert_eq!(bytes, std::fs::read(temp.path().join("sparse")).unwrap());
    let metadata = file.metadata().unwrap();
    // file systems without holes give it back as data
    assert!(data == 2 * 65536 || metadata.blocks() * 512 >= 5 * MIB, "{data} bytes of data");

    let mut dense = dir.open(find(&entries, b"dense")).unwrap();
    assert_eq!(dense.next_data(0).unwrap(), Some(0..300_000));
    assert_eq!(dense.next_data(100).unwrap(), Some(100..300_000));
    assert_eq!(dense.next_data(300_000).unwrap(), None);
    let mut empty = dir.open(find(&entries, b"empty")).unwrap();
    assert_eq!(empty.next_data(0).unwrap(), None);
    assert_eq!(empty.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_file_that_changes_has_another_fingerprint() {
    use std::io::Write;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    std::fs::write(&path, b"12345").unwrap();
    let (dir, entries) = opened_root(&source(temp.path()));
    let mut file = dir.open(&entries[0]).unwrap();
    let before = file.fingerprint().unwrap();
    let listed = &entries[0];
    assert_eq!(
        (before.size, before.mtime, before.ctime, before.inode),
        (listed.size, listed.mtime, listed.ctime, listed.inode)
    );
    File::options().append(true).open(&path).unwrap().write_all(b"6").unwrap();
    let after = file.fingerprint().unwrap();
    assert_ne!(before, after);
    assert_eq!(after.size, 6);
}
