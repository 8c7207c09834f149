//! Restoring into a folder that is not empty, or in which a restore was interrupted: what is there is replaced, kept or
//! deleted as the options say, and nothing is there by halves.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{PackId, SegmentId};
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::pack::{BlobId, BlobInfo, FrameInfo, PackDirectory, PackInfo, PackKind};
use lakebed_engine::core::record::snapshot::Failure;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::restore::{Action, Overwrite, PathFilter, RestoreOptions, RestoreReport, restore};
use lakebed_engine::{Error, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::damage::{Damage, damage, object_files};
use lakebed_testkit::disk::{Disk, with_mounts};
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use crate::common::*;

/// What happened to which path of the target.
type Actions = BTreeMap<String, Action>;

/// A snapshot of a source, and a target to restore it into.
struct Story {
    place: Place,
    repository: Repository,
    source: PathBuf,
    info: SnapshotInfo,
}

impl Story {
    fn of(tree: &TreeSpec) -> Self {
        let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
        let source = place.path("source");
        tree.write(&source);
        let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
        Self { place, repository, source, info }
    }

    /// Where a path of the source lies when it is restored.
    fn out(&self, path: &str) -> PathBuf {
        self.out_root().join(path)
    }

    fn out_root(&self) -> PathBuf {
        self.place.path("out").join(self.source.strip_prefix("/").unwrap())
    }

    fn options(&self, overwrite: Overwrite) -> RestoreOptions {
        RestoreOptions { target: self.place.path("out"), overwrite, threads: 2, ..RestoreOptions::default() }
    }

    fn try_with(
        &self,
        options: &RestoreOptions,
        monitor: &dyn Monitor,
    ) -> lakebed_engine::Result<(RestoreReport, Actions)> {
        let reader = self.repository.reader(&Silent).unwrap();
        let actions = Mutex::new(Actions::new());
        let note = |action: Action, path: &Path| {
            let path =
                path.strip_prefix(self.out_root()).map_or_else(|_| String::new(), |path| path.display().to_string());
            actions.lock().unwrap().insert(path, action);
        };
        let report = restore(&reader, &self.info, options, &note, monitor)?;
        let actions = actions.into_inner().unwrap();
        Ok((report, actions.into_iter().filter(|(path, _)| !path.is_empty()).collect()))
    }

    fn with(&self, options: &RestoreOptions) -> (RestoreReport, Actions) {
        self.try_with(options, &Silent).unwrap()
    }

    /// Restores and expects no failure.
    fn restored(&self, overwrite: Overwrite) -> Actions {
        let (report, actions) = self.with(&self.options(overwrite));
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        actions
    }

    fn assert_is_source(&self) {
        assert_same_tree(&self.source, &self.out_root(), &CompareOptions::default());
        assert!(!self.place.path("out/.lakebed-restore").exists());
    }

    /// Paths in the snapshot, as a filter takes them.
    fn paths(&self, names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| self.source.join(name).display().to_string().into_bytes()).collect()
    }
}

fn write_with_mtime(path: &Path, content: &[u8], secs: u64) {
    std::fs::write(path, content).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

const OLD: i64 = 1_700_000_000;

/// Files of one time, of one size.
fn three_files() -> TreeSpec {
    ["changed", "newer", "same"]
        .into_iter()
        .fold(TreeSpec::new(), |tree, name| tree.with(name, Item::file(b"as it was".to_vec()).mtime(OLD, 0)))
}

#[test]
fn what_is_there_is_replaced_where_the_options_say_so() {
    use Action::{Created, Kept, Replaced};
    let story = Story::of(&three_files().with("gone", Item::file(b"as it was".to_vec()).mtime(OLD, 0)));
    let cases = [
        (Overwrite::Never, [Kept, Created, Kept, Kept]),
        (Overwrite::IfChanged, [Replaced, Created, Replaced, Kept]),
        (Overwrite::IfNewer, [Replaced, Created, Kept, Kept]),
        // equal byte for byte: not written again
        (Overwrite::Always, [Replaced, Created, Replaced, Kept]),
    ];
    for (overwrite, expected) in cases {
        story.restored(Overwrite::Always);
        story.assert_is_source();
        write_with_mtime(&story.out("changed"), b"longer than it was", OLD as u64 - 10);
        std::fs::remove_file(story.out("gone")).unwrap();
        write_with_mtime(&story.out("newer"), b"edited it", OLD as u64 + 10);
        let same = inode(&story.out("same"));
        let dry = RestoreOptions { dry_run: true, ..story.options(overwrite) };
        let (planned, _) = story.with(&dry);
        assert_eq!(std::fs::read(story.out("newer")).unwrap(), b"edited it");
        assert!(!story.out("gone").exists());

        let (report, actions) = story.with(&story.options(overwrite));
        let expected: Actions =
            ["changed", "gone", "newer", "same"].map(str::to_owned).into_iter().zip(expected).collect();
        assert_eq!(actions, expected, "{overwrite:?}");
        let count = |wanted| expected.values().filter(|action| **action == wanted).count() as u64;
        assert_eq!((report.created, report.replaced, report.deleted), (count(Created), count(Replaced), 0));
        assert_eq!(report.bytes, 9 * (count(Created) + count(Replaced)), "{overwrite:?}");
        if overwrite != Overwrite::Always {
            // a dry run compares no bytes
            assert_eq!((planned.created, planned.replaced), (report.created, report.replaced), "{overwrite:?}");
            assert_eq!(planned.bytes, report.bytes);
        }
        assert_eq!(inode(&story.out("same")), same);
        let newer = std::fs::read(story.out("newer")).unwrap();
        assert_eq!(newer == b"as it was", expected["newer"] == Replaced, "{overwrite:?}");
    }
}

#[test]
fn delete_takes_what_the_snapshot_does_not_have_and_was_asked_for() {
    let story = Story::of(&three_files().file("kept/inside", b"1".to_vec()));
    let extra = || {
        std::fs::create_dir_all(story.out("extra/deep")).unwrap();
        for name in ["extra/deep/file", "extra/file", "kept/other", "loose"] {
            std::fs::write(story.out(name), "not in the snapshot").unwrap();
        }
        std::fs::write(story.place.path("out/beside"), "not in the snapshot").unwrap();
    };
    story.restored(Overwrite::Never);
    extra();
    let delete = RestoreOptions { delete: true, ..story.options(Overwrite::IfChanged) };
    let (planned, _) = story.with(&RestoreOptions { dry_run: true, ..delete.clone() });
    assert!(story.out("extra/deep/file").exists() && story.out("loose").exists());
    let (report, _) = story.with(&delete);
    // extra, deep, its file, the other file, other, loose
    assert_eq!((report.deleted, planned.deleted), (6, 6), "{report:?}");
    // what lies beside the source was never looked at
    assert!(story.place.path("out/beside").exists());
    story.assert_is_source();

    // only in what was asked for
    extra();
    let filter = PathFilter::new(&story.paths(&["kept"]), &[], &[]).unwrap();
    let (report, _) = story.with(&RestoreOptions { filter, ..delete.clone() });
    assert_eq!(report.deleted, 1);
    assert!(!story.out("kept/other").exists() && story.out("loose").exists());
    // what is spared keeps the folders that it lies in
    let filter = PathFilter::new(&[], &[], &["file".into()]).unwrap();
    let (report, _) = story.with(&RestoreOptions { filter, ..delete });
    assert_eq!((report.deleted, report.failures.len()), (1, 0), "{report:?}");
    assert!(story.out("extra/deep/file").exists() && story.out("extra/file").exists());
    assert!(!story.out("loose").exists());
}

/// The repository may lie in the folder that was backed up, which leaves it out.
#[test]
fn delete_spares_the_repository() {
    let story = Story::of(&three_files());
    story.restored(Overwrite::Never);
    for name in ["deep/repo/packs/1", "deep/other", "loose/file"] {
        std::fs::create_dir_all(story.out(name).parent().unwrap()).unwrap();
        std::fs::write(story.out(name), "not in the snapshot").unwrap();
    }
    let metadata = std::fs::metadata(story.out("deep/repo")).unwrap();
    let delete = RestoreOptions {
        delete: true,
        never_delete: vec![(metadata.dev(), metadata.ino())],
        ..story.options(Overwrite::Always)
    };
    let (planned, _) = story.with(&RestoreOptions { dry_run: true, ..delete.clone() });
    let (report, actions) = story.with(&delete);
    assert!(story.out("deep/repo/packs/1").exists(), "{actions:?}");
    assert!(!story.out("deep/other").exists() && !story.out("loose").exists());
    assert_eq!((report.deleted, report.spared, report.failures.len()), (3, 1, 0), "{actions:?}");
    assert_eq!((planned.deleted, planned.spared), (3, 1));
}

/// The snapshot may have the folder that the repository lies in by now, with other things in it.
#[test]
fn delete_spares_the_repository_where_the_snapshot_has_something_else() {
    let story = Story::of(&three_files().file("place/packs/file", b"1".to_vec()).file("turned/file", b"2".to_vec()));
    story.restored(Overwrite::Never);
    for name in ["place/lakebed.json", "place/packs/1", "place/other"] {
        std::fs::write(story.out(name), "not in the snapshot").unwrap();
    }
    let metadata = std::fs::metadata(story.out("place")).unwrap();
    let delete = RestoreOptions {
        delete: true,
        never_delete: vec![(metadata.dev(), metadata.ino())],
        ..story.options(Overwrite::Always)
    };
    for dry_run in [true, false] {
        let (report, actions) = story.with(&RestoreOptions { dry_run, ..delete.clone() });
        assert_eq!((report.deleted, report.spared, report.failures.len()), (0, 3, 0), "{actions:?}");
    }
    for name in ["place/lakebed.json", "place/packs/1", "place/other", "place/packs/file"] {
        assert!(story.out(name).exists(), "{name}");
    }

    // nor is anything deleted where all of the target lies in it
    let metadata = std::fs::metadata(story.place.path("out").parent().unwrap()).unwrap();
    let within = RestoreOptions { never_delete: vec![(metadata.dev(), metadata.ino())], ..delete };
    assert!(matches!(story.try_with(&within, &Silent), Err(Error::Local { .. })));
    assert!(story.out("place/packs/1").exists());
}

/// A backup of one file system has the folder that another one is mounted over, and nothing of what is in it.
#[test]
fn delete_spares_other_file_systems_within_a_source_and_not_the_source_itself() {
    with_mounts(|mounts| {
        let tree = three_files().directory("disk/deep").file("disk/turned", b"1".to_vec());
        let story = Story::of(&tree);
        // a source may be a disk of its own
        std::fs::create_dir_all(story.out_root()).unwrap();
        let outer = mounts.disk(&story.out_root(), 4 << 20);
        let inner = mounts.disk(&story.out("disk"), 1 << 20);
        let names = ["disk/file", "disk/deep/file", "disk/other/file", "disk/turned/file", "loose"];
        for name in names {
            std::fs::create_dir_all(story.out(name).parent().unwrap()).unwrap();
            std::fs::write(story.out(name), "not in the snapshot").unwrap();
        }
        let delete = RestoreOptions { delete: true, ..story.options(Overwrite::Always) };
        for dry_run in [true, false] {
            let (report, actions) = story.with(&RestoreOptions { dry_run, ..delete.clone() });
            assert_eq!((report.deleted, report.spared, report.failures.len()), (1, 3, 1), "{actions:?}");
            assert!(report.failures[0].path.ends_with("disk/turned"));
        }
        for name in names {
            assert_eq!(story.out(name).exists(), name != "loose", "{name}");
        }
        inner.unmount();
        outer.unmount();
    });
}

/// It is of the same device, and what is in it is somewhere else.
#[test]
fn delete_spares_a_folder_of_the_same_file_system_that_is_mounted_within_a_source() {
    with_mounts(|mounts| {
        let story = Story::of(&three_files().directory("known"));
        let elsewhere = story.place.path("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("file"), "precious").unwrap();
        let bound = ["known", "unknown/deep"].map(|name| mounts.bind(&elsewhere, &story.out(name)));
        let delete = RestoreOptions { delete: true, ..story.options(Overwrite::Always) };
        for dry_run in [true, false] {
            let (report, actions) = story.with(&RestoreOptions { dry_run, ..delete.clone() });
            assert_eq!((report.deleted, report.spared, report.failures.len()), (0, 2, 0), "{actions:?}");
        }
        assert!(elsewhere.join("file").exists());
        bound.into_iter().for_each(Disk::unmount);
    });
}

/// What a dry run says of a directory that stands in the place of something else is what happens.
#[test]
fn a_dry_run_says_what_becomes_of_directories_in_the_way() {
    let story = Story::of(&TreeSpec::new().file("full", b"1".to_vec()).symlink("empty", "2").symlink("link", "3"));
    let fill = || {
        let _ = std::fs::remove_dir_all(story.place.path("out"));
        std::fs::create_dir_all(story.out("empty")).unwrap();
        for name in ["full/deep/file", "link/file"] {
            std::fs::create_dir_all(story.out(name).parent().unwrap()).unwrap();
            std::fs::write(story.out(name), "not in the snapshot").unwrap();
        }
    };
    for (delete, deleted, replaced, failures) in [(false, 0, 1, 2), (true, 3, 3, 0)] {
        fill();
        let options = RestoreOptions { delete, ..story.options(Overwrite::Always) };
        let (planned, planned_actions) = story.with(&RestoreOptions { dry_run: true, ..options.clone() });
        assert!(story.out("full/deep/file").exists() && story.out("link/file").exists());
        let (report, actions) = story.with(&options);
        assert_eq!(
            (report.deleted, report.replaced, report.failures.len()),
            (deleted, replaced, failures),
            "{actions:?}"
        );
        assert_eq!(planned_actions, actions);
        assert_eq!(planned.failures.len(), failures);
    }
}

#[test]
fn a_directory_in_the_way_keeps_what_was_not_asked_for() {
    let story = Story::of(&three_files().file("in-the-way", b"1".to_vec()).file("emptied", b"2".to_vec()));
    for name in ["in-the-way/secret", "in-the-way/deep/file", "emptied/file"] {
        std::fs::create_dir_all(story.out(name).parent().unwrap()).unwrap();
        std::fs::write(story.out(name), "not in the snapshot").unwrap();
    }
    let filter = PathFilter::new(&[], &[], &["secret".into()]).unwrap();
    let options = RestoreOptions { delete: true, filter, ..story.options(Overwrite::Always) };
    let (report, actions) = story.with(&options);
    assert_eq!(std::fs::read(story.out("in-the-way/secret")).unwrap(), b"not in the snapshot");
    assert_eq!(report.failures.len(), 1, "{actions:?}");
    assert!(report.failures[0].path.ends_with("in-the-way"));
    assert_eq!(std::fs::read(story.out("emptied")).unwrap(), b"2");
    assert_eq!(actions.get("emptied/file"), Some(&Action::Deleted), "{actions:?}");
    // what cannot go whole is not emptied
    assert!(story.out("in-the-way/deep/file").exists());
}

/// Somebody writes a file while others are being restored.
#[test]
fn what_appears_while_a_restore_runs_is_not_replaced() {
    let names = ["one", "two"];
    let story = Story::of(&names.iter().fold(TreeSpec::new(), |tree, name| tree.file(*name, b"restored".to_vec())));
    std::fs::create_dir_all(story.out_root()).unwrap();
    std::fs::write(story.out("beside"), "so that the target is not empty").unwrap();
    let appear = |action: Action, path: &Path| {
        let other = names.iter().map(|name| story.out(name)).find(|other| other != path && !other.exists());
        if let (Action::Created, Some(other)) = (action, other) {
            std::fs::write(other, "mine").unwrap();
        }
    };
    let reader = story.repository.reader(&Silent).unwrap();
    let options = RestoreOptions { threads: 1, ..story.options(Overwrite::Never) };
    let report = restore(&reader, &story.info, &options, &appear, &Silent).unwrap();
    let mut found = names.map(|name| std::fs::read(story.out(name)).unwrap());
    found.sort();
    assert_eq!(found, [b"mine".to_vec(), b"restored".to_vec()]);
    assert_eq!((report.created, report.failures.len()), (1, 1), "{report:?}");
    assert_eq!(std::fs::read_dir(story.out_root()).unwrap().count(), 3, "nothing unfinished is left");
}

/// Neither is anything restored through it, nor are the metadata of the directory set on where it leads.
#[test]
fn a_link_in_the_place_of_a_directory_on_the_way_is_a_failure() {
    let story = Story::of(&TreeSpec::new().file("way/inner/file", b"1".to_vec()));
    let elsewhere = story.place.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o700)).unwrap();
    let filter = PathFilter::new(&story.paths(&["way/inner"]), &[], &[]).unwrap();
    let options = RestoreOptions { filter, ..story.options(Overwrite::Always) };
    struct Never;
    impl Monitor for Never {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    for is_continued in [false, true] {
        if is_continued {
            std::fs::remove_dir_all(story.place.path("out")).unwrap();
            assert!(matches!(story.try_with(&options, &Never), Err(Error::Interrupted)));
        }
        std::fs::create_dir_all(story.out_root()).unwrap();
        std::os::unix::fs::symlink(&elsewhere, story.out("way")).unwrap();
        let (report, _) = story.with(&options);
        assert_eq!(report.continued, is_continued);
        assert!(report.failures.iter().any(|failure| failure.error.to_string().contains("make the directory")));
        assert_eq!(std::fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn attributes_of_what_is_kept_become_those_of_the_snapshot() {
    let tree = TreeSpec::new().with("file", Item::file(b"1".to_vec()).xattr("user.note", &b"as it was"[..]));
    let story = Story::of(&tree.directory("folder"));
    if !lakebed_testkit::user_xattrs_work(story.place.folder.path()) {
        return;
    }
    story.restored(Overwrite::Never);
    xattr::set(story.out("file"), "user.note", b"edited").unwrap();
    for name in ["file", "folder"] {
        xattr::set(story.out(name), "user.more", b"it had none").unwrap();
    }
    let actions = story.restored(Overwrite::Always);
    assert_eq!(actions["file"], Action::Kept);
    story.assert_is_source();
}

/// What the backup could not read may have been there: a restore over the original must not take it away.
#[test]
fn delete_spares_what_the_backup_could_not_read() {
    let mut story = Story::of(&three_files().directory("closed").file("kept/inside", b"1".to_vec()));
    let survivors = ["closed/deep/file", "closed/file", "kept/odd\n\\name", "mount/below/file", "secret"];
    for name in ["closed", "kept/odd\n\\name", "mount/below", "secret"] {
        let path = story.paths(&[name]).remove(0);
        let path = escape_path(path.strip_prefix(b"/").unwrap());
        story.info.snapshot.failures.push(Failure { path, reason: "Permission denied".into() });
    }
    story.restored(Overwrite::Never);
    let others = ["loose", "kept/other", "secret-not", "extra/file"];
    for name in survivors.iter().chain(&others) {
        std::fs::create_dir_all(story.out(name).parent().unwrap()).unwrap();
        std::fs::write(story.out(name), "not in the snapshot").unwrap();
    }
    let delete = RestoreOptions { delete: true, ..story.options(Overwrite::IfChanged) };
    let (planned, _) = story.with(&RestoreOptions { dry_run: true, ..delete.clone() });
    let (report, actions) = story.with(&delete);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    // each of the others, and the folder of the last one
    assert_eq!((report.deleted, planned.deleted), (5, 5), "{actions:?}");
    for name in survivors {
        assert_eq!(std::fs::read(story.out(name)).unwrap(), b"not in the snapshot", "{name}");
    }
    assert!(others.iter().all(|name| !story.out(name).exists()));
    // what is spared is told of, a folder as one thing
    let spared = ["closed/deep", "closed/file", "kept/odd\n\\name", "mount", "secret"];
    assert_eq!((report.spared, planned.spared), (5, 5), "{actions:?}");
    assert!(spared.iter().all(|name| actions[*name] == Action::Kept), "{actions:?}");
}

#[test]
fn a_part_of_a_snapshot_comes_with_the_folders_above_it() {
    let tree = three_files()
        .with("a", Item::directory().mode(0o750).mtime(OLD, 0))
        .with("a/b", Item::directory().mode(0o700).mtime(OLD + 1, 0))
        .file("a/b/wanted", b"1".to_vec())
        .file("a/b/more/below", b"2".to_vec())
        .file("a/other", b"3".to_vec());
    let story = Story::of(&tree);
    let filter = PathFilter::new(&story.paths(&["a/b"]), &[], &[]).unwrap();
    assert_eq!(filter.paths().len(), 1);
    story.with(&RestoreOptions { filter, ..story.options(Overwrite::Never) });
    assert_eq!(std::fs::read(story.out("a/b/wanted")).unwrap(), b"1");
    assert_eq!(std::fs::read(story.out("a/b/more/below")).unwrap(), b"2");
    assert!(!story.out("a/other").exists() && !story.out("same").exists());
    // and once more, where they are
    std::fs::remove_file(story.out("a/b/wanted")).unwrap();
    let filter = PathFilter::new(&story.paths(&["a/b"]), &[], &[]).unwrap();
    let (report, _) = story.with(&RestoreOptions { filter, ..story.options(Overwrite::IfChanged) });
    assert_eq!((report.created, report.failures.len()), (1, 0), "{report:?}");
    for (path, mode, mtime) in [("a", 0o750, OLD), ("a/b", 0o700, OLD + 1)] {
        let metadata = std::fs::metadata(story.out(path)).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.mtime()), (mode, mtime), "{path}");
    }
    // a name that only begins like it is another one
    let filter = PathFilter::new(&story.paths(&["a/b/want"]), &[], &[]).unwrap();
    let other = RestoreOptions { filter, target: story.place.path("other"), ..story.options(Overwrite::Never) };
    assert!(matches!(story.try_with(&other, &Silent), Err(Error::NoPath { .. })));
}

/// What a set-group-id folder gives to new files is not theirs, whoever restores them.
#[test]
fn files_get_their_group_back_in_a_folder_that_gives_its_own() {
    let tree = three_files().file("folder/inside", b"1".to_vec()).file("folder/deep/below", b"2".to_vec());
    let story = Story::of(&tree);
    if !lakebed_testkit::is_root() {
        // only root sets owners
        return;
    }
    let set_group_id = |path: &Path| {
        std::fs::create_dir_all(path).unwrap();
        std::os::unix::fs::chown(path, None, Some(4242)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2755)).unwrap();
    };
    let group = |path: &Path| std::fs::symlink_metadata(path).unwrap().gid();
    let names = ["changed", "folder/inside", "folder/deep/below", "folder/deep", "folder"];
    // an empty target, and one whose folders are there
    for existing in [story.place.path("out"), story.out("folder")] {
        set_group_id(&existing);
        story.restored(Overwrite::IfChanged);
        for name in names.iter().filter(|name| story.out(name) != existing) {
            assert_eq!(group(&story.out(name)), group(&story.source.join(name)), "{name}");
        }
        lakebed_testkit::remove_all(&story.place.path("out"));
    }
    // what is another one's is set too
    std::os::unix::fs::chown(story.source.join("changed"), Some(4343), Some(4242)).unwrap();
    let again = backup(&story.place.reopen_later(&story.repository), std::slice::from_ref(&story.source));
    let story = Story { info: again.snapshot.unwrap(), ..story };
    set_group_id(&story.place.path("out"));
    story.restored(Overwrite::Never);
    for (name, owner) in [("changed", (4343, 4242)), ("same", (0, group(&story.source.join("same"))))] {
        let metadata = std::fs::metadata(story.out(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner, "{name}");
    }
}

#[test]
fn names_of_one_file_are_one_file_again() {
    let tree = three_files().hard_link("twin", "same").hard_link("zwilling", "same").symlink("link", "same");
    let story = Story::of(&tree);
    let (planned, _) = story.with(&RestoreOptions { dry_run: true, ..story.options(Overwrite::Never) });
    assert!(!story.place.path("out").exists(), "a dry run makes nothing");
    let (report, _) = story.with(&story.options(Overwrite::Never));
    assert_eq!(planned.created, report.created);
    story.assert_is_source();
    assert_eq!(inode(&story.out("twin")), inode(&story.out("same")));
    // one name was lost, one is another file now
    std::fs::remove_file(story.out("twin")).unwrap();
    std::fs::remove_file(story.out("zwilling")).unwrap();
    write_with_mtime(&story.out("zwilling"), b"another file", OLD as u64);
    story.restored(Overwrite::Always);
    assert_eq!(std::fs::read(story.out("zwilling")).unwrap(), b"as it was");
    assert_eq!(std::fs::read(story.out("twin")).unwrap(), b"as it was");
    // what was there before is kept, and is no file of the snapshot for all that it looks like one
    std::fs::remove_file(story.out("twin")).unwrap();
    write_with_mtime(&story.out("same"), b"not it at", OLD as u64);
    assert_eq!(story.restored(Overwrite::Never)["same"], Action::Kept);
    assert_eq!(std::fs::read(story.out("twin")).unwrap(), b"as it was");
}

/// A hole is as good as the zeros that it reads as, and a file whose bytes are right is not written again.
#[test]
fn a_large_file_is_replaced_only_if_a_byte_differs() {
    let mut content = vec![7u8; 700_000];
    content[300_000..500_000].fill(0);
    let sparse = Content::hole(900_000);
    let tree = TreeSpec::new()
        .with("large", Item::file(content.clone()).mtime(OLD, 0))
        .with("sparse", Item::file(sparse).mtime(OLD, 0));
    let story = Story::of(&tree);
    story.restored(Overwrite::Never);
    story.assert_is_source();
    for name in ["large", "sparse"] {
        let path = story.out(name);
        let as_it_was = std::fs::read(&path).unwrap();
        let restored = |content: &[u8]| {
            write_with_mtime(&path, content, OLD as u64 + 5);
            let before = inode(&path);
            let actions = story.restored(Overwrite::Always);
            story.assert_is_source();
            assert_eq!(inode(&path) == before, actions[name] == Action::Kept);
            actions[name]
        };
        assert_eq!(restored(&as_it_was), Action::Kept, "{name}");
        for at in [0, 400_000, as_it_was.len() - 1] {
            let mut changed = as_it_was.clone();
            changed[at] ^= 1;
            assert_eq!(restored(&changed), Action::Replaced, "{name} at {at}");
        }
        assert_eq!(restored(&as_it_was[..as_it_was.len() - 1]), Action::Replaced, "{name}");
        assert_eq!(restored(&[&as_it_was[..], b"0"].concat()), Action::Replaced, "{name}");
    }
}

/// What is equal in the file that is replaced need not be read from the repository.
#[test]
fn a_damaged_pack_does_no_harm_where_the_target_has_the_bytes() {
    let content = Content::random(1, 3_000_000).bytes();
    let story = Story::of(&TreeSpec::new().with("large", Item::file(content.clone()).mtime(OLD, 0)));
    story.restored(Overwrite::Never);
    let whole = std::fs::read(story.out("large")).unwrap();
    let undo: Vec<_> = object_files(&story.place.path("repo/packs"))
        .into_iter()
        .filter(|pack| std::fs::metadata(pack).unwrap().len() > 100_000)
        .map(|pack| damage(&pack, Damage::FlipByte { offset: 50_000, mask: 1 }))
        .collect();
    assert!(!undo.is_empty());
    // longer than it was: not equal as a whole, though every chunk of it is there
    write_with_mtime(&story.out("large"), &[&whole[..], b"more"].concat(), OLD as u64 + 5);
    assert_eq!(story.restored(Overwrite::Always)["large"], Action::Replaced);
    assert_eq!(std::fs::read(story.out("large")).unwrap(), content);
}

/// An index may say that a chunk lies where it does not. As long as one of its places is right, it is restored.
#[test]
fn a_small_file_comes_from_another_place_where_one_is_wrong() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("one", b"one thing".to_vec()).file("other", b"the other".to_vec()).write(&source);
    // the place that comes first is the one that the index learns of first, so it is opened while there is none
    let readers = [(); 3].map(|()| repository.reader(&Silent).unwrap());
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let id = BlobId::from(repository.store().keys().chunk_id(b"one thing"));
    let index = repository.index(&Silent).unwrap();
    let right = index.lookup(&id).unwrap().unwrap();
    let mut places = index.all().unwrap();
    places.retain(|(_, place)| place.pack == right.pack);
    places.sort_by_key(|(_, place)| place.offset);
    let true_blobs: Vec<_> = places.iter().map(|(id, place)| BlobInfo { id: *id, length: place.length }).collect();
    assert_eq!((true_blobs.len(), right.frame_offset), (2, 0));
    // an equal pack, told of wrongly
    let copy = PackId::from_slice(&[7; 32]).unwrap();
    let bytes = place.storage.get(&layout::pack(right.pack)).unwrap();
    place.storage.put(&layout::pack(copy), &bytes).unwrap();
    let segment = SegmentId::from_slice(&[7; 32]).unwrap();
    place.storage.put(&layout::segment(segment), b"known to each index already").unwrap();
    let exchanged = true_blobs.iter().rev().copied().collect();
    let shorter = true_blobs.iter().map(|blob| BlobInfo { length: blob.length - 1, ..*blob }).collect();
    let nowhere = BlobInfo { id: BlobId::from(repository.store().keys().chunk_id(b"")), length: u32::MAX - 20 };
    let outside = [&[nowhere], &true_blobs[..]].concat();
    for (number, (reader, blobs)) in readers.iter().zip([exchanged, shorter, outside]).enumerate() {
        let frame = FrameInfo { number: 0, frame_len: right.frame_len, blobs };
        let (session, salt) = (info.snapshot.session, [0; 32]);
        let directory = PackDirectory { kind: PackKind::Data, session, salt, frames: vec![frame] };
        let wrong = PackInfo { id: copy, size_bytes: bytes.len() as u64, directory };
        reader.index().apply(segment, &[wrong]);
        assert!(reader.index().fold_new(reader.store(), &Silent).is_ok());
        assert_eq!(reader.index().lookup(&id).unwrap().unwrap().pack, copy);
        let target = place.path(&format!("out-{number}"));
        let options = RestoreOptions { target: target.clone(), ..RestoreOptions::default() };
        let report = restore(reader, &info, &options, &|_, _| {}, &Silent).unwrap();
        assert!(report.failures.is_empty(), "{number}: {:?}", report.failures);
        let restored = target.join(source.strip_prefix("/").unwrap());
        assert_same_tree(&source, &restored, &CompareOptions::default());
    }
}

#[test]
fn what_cannot_be_restored_is_named_and_leaves_nothing_by_halves() {
    let tree = TreeSpec::new()
        .file("large", Content::random(1, 3_000_000))
        .hard_link("large-too", "large")
        .file("small", b"small".to_vec());
    let story = Story::of(&tree);
    for pack in object_files(&story.place.path("repo/packs")) {
        let length = std::fs::metadata(&pack).unwrap().len();
        if length > 1_000_000 {
            damage(&pack, Damage::FlipByte { offset: length - 200_000, mask: 1 }).keep();
        }
    }
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        let (report, _) = story.with(&story.options(overwrite));
        let failed: Vec<_> = report.failures.iter().map(|failure| (failure.path.clone(), failure.damage)).collect();
        assert_eq!(failed, [(story.out("large"), true), (story.out("large-too"), true)], "{:?}", report.failures);
        let left: Vec<_> =
            std::fs::read_dir(story.out_root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["small"], "{overwrite:?}");
    }
    // what was there before stays, and the target is at fault where it is
    write_with_mtime(&story.out("large"), b"mine", OLD as u64);
    std::fs::remove_file(story.out("small")).unwrap();
    std::fs::create_dir(story.out("small")).unwrap();
    std::fs::write(story.out("small/inside"), "a folder where a file should be").unwrap();
    let (report, _) = story.with(&story.options(Overwrite::Always));
    let failed: BTreeMap<_, _> = report.failures.iter().map(|failure| (failure.path.clone(), failure.damage)).collect();
    assert!(!failed[&story.out("small")]);
    assert_eq!(std::fs::read(story.out("large")).unwrap(), b"mine");
}

#[test]
fn a_folder_in_the_way_goes_if_it_is_empty_or_may_be_deleted() {
    let story = Story::of(&three_files().symlink("link", "same").file("folder/file", b"1".to_vec()));
    story.restored(Overwrite::Never);
    for name in ["changed", "link"] {
        std::fs::remove_file(story.out(name)).unwrap();
        std::fs::create_dir(story.out(name)).unwrap();
    }
    // and a file where a folder should be
    std::fs::remove_dir_all(story.out("folder")).unwrap();
    std::fs::write(story.out("folder"), "in the way").unwrap();
    let actions = story.restored(Overwrite::Always);
    assert_eq!(actions["folder"], Action::Replaced);
    story.assert_is_source();

    std::fs::remove_file(story.out("changed")).unwrap();
    std::fs::create_dir_all(story.out("changed/deep")).unwrap();
    std::fs::write(story.out("changed/deep/file"), "in the way").unwrap();
    let (report, _) = story.with(&story.options(Overwrite::Always));
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert!(story.out("changed/deep/file").exists());
    let (report, _) = story.with(&RestoreOptions { delete: true, ..story.options(Overwrite::Always) });
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    story.assert_is_source();
}

/// What stands in the place of a folder keeps out everything in it: that is no file that was kept.
#[test]
fn a_folder_whose_place_is_taken_is_a_failure_where_nothing_is_replaced() {
    let story =
        Story::of(&three_files().with("data", Item::directory().mtime(OLD, 0)).file("data/deep/file", b"1".to_vec()));
    story.restored(Overwrite::Never);
    std::fs::remove_dir_all(story.out("data")).unwrap();
    let elsewhere = story.place.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let put_link = || std::os::unix::fs::symlink(&elsewhere, story.out("data")).unwrap();
    let put_file = || std::fs::write(story.out("data"), "in the way").unwrap();
    for (put, words) in [(&put_link as &dyn Fn(), "a symbolic link"), (&put_file, "a file")] {
        put();
        for (overwrite, dry_run) in [(Overwrite::Never, false), (Overwrite::Never, true), (Overwrite::IfNewer, false)] {
            let (report, actions) = story.with(&RestoreOptions { dry_run, ..story.options(overwrite) });
            let [failure] = &report.failures[..] else { panic!("{report:?}") };
            assert_eq!((&failure.path, failure.damage), (&story.out("data"), false));
            let Error::Local { source, .. } = &failure.error else { panic!("{failure:?}") };
            assert!(source.to_string().starts_with(words), "{source}");
            assert!(!actions.contains_key("data"), "{actions:?}");
            assert_eq!((report.created, report.replaced), (0, 0), "{actions:?}");
        }
        std::fs::remove_file(story.out("data")).unwrap();
    }
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    put_link();
    assert_eq!(story.restored(Overwrite::Always)["data"], Action::Replaced);
    story.assert_is_source();
}

/// What a directory replaces is still there in a dry run, and nothing can be found in it.
#[test]
fn a_dry_run_fails_nowhere_that_the_restore_does_not() {
    let tree = three_files().file("folder/deep/file", b"1".to_vec()).file("folder/file", b"2".to_vec());
    let story = Story::of(&tree.symlink("folder/link", "file").file("linked/file", b"3".to_vec()));
    story.restored(Overwrite::Never);
    for name in ["folder", "linked"] {
        std::fs::remove_dir_all(story.out(name)).unwrap();
    }
    std::fs::write(story.out("folder"), "in the way").unwrap();
    std::os::unix::fs::symlink(".", story.out("linked")).unwrap();
    let options = story.options(Overwrite::IfChanged);
    let (planned, planned_actions) = story.with(&RestoreOptions { dry_run: true, ..options.clone() });
    assert!(planned.failures.is_empty(), "{:?}", planned.failures);
    assert_eq!(std::fs::read(story.out("folder")).unwrap(), b"in the way");
    let (report, actions) = story.with(&options);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(planned_actions, actions);
    assert_eq!((planned.created, planned.replaced), (report.created, report.replaced));
    story.assert_is_source();
}

/// Wherever a restore is cut off, the same one again completes it, and another one does not build upon it.
#[test]
fn a_restore_that_was_cut_off_is_continued() {
    let mut tree =
        three_files().hard_link("twin", "same").symlink("link", "same").file("large", Content::random(3, 900_000));
    for number in 0..40u64 {
        tree = tree.file(format!("d{}/file-{number}", number % 4), Content::random(number, 5000));
    }
    let mut story = Story::of(&tree);
    let other = story.info.clone();
    std::fs::write(story.source.join("later"), "another snapshot").unwrap();
    let first = backup(&story.repository, std::slice::from_ref(&story.source)).snapshot.unwrap();
    story.info = first.clone();
    let mut cuts = 0;
    for entries in 1..60 {
        let cut = StopAfter::new(entries);
        let options = RestoreOptions { threads: 1, ..story.options(Overwrite::Never) };
        if story.try_with(&options, &cut).is_ok() {
            break;
        }
        cuts += 1;
        assert!(story.place.path("out/.lakebed-restore").exists());
        story.info = other.clone();
        let error = story.try_with(&options, &Silent).unwrap_err();
        assert!(matches!(error, Error::Argument { what: "The target", .. }), "{error:?}");
        story.info = first.clone();
        let (report, _) = story.with(&options);
        assert!(report.continued && report.failures.is_empty(), "{report:?}");
        story.assert_is_source();
        assert_eq!(inode(&story.out("twin")), inode(&story.out("same")), "after {entries}");
        lakebed_testkit::remove_all(&story.place.path("out"));
    }
    assert!(cuts > 5, "{cuts}");
}

/// Folders that are only on the way to what is wanted are cleared of what a killed restore left in them, too.
#[test]
fn nothing_temporary_is_left_on_the_way_to_what_is_wanted() {
    let story = Story::of(&three_files().file("way/more/wanted", b"1".to_vec()).file("way/other", b"2".to_vec()));
    let filters = [
        PathFilter::new(&story.paths(&["way/more/wanted"]), &[], &[]).unwrap(),
        PathFilter::new(&[], &["wanted".into()], &[]).unwrap(),
    ];
    for filter in filters {
        let options = RestoreOptions { filter, threads: 1, ..story.options(Overwrite::Never) };
        assert!(story.try_with(&options, &StopAfter::new(0)).is_err());
        let left = ["", "way", "way/more"].map(|folder| story.out(folder).join(".lakebed-restore-1-2"));
        for path in &left {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "was to be renamed").unwrap();
        }
        let dry = RestoreOptions { dry_run: true, ..options.clone() };
        assert!(story.with(&dry).0.failures.is_empty());
        assert!(left.iter().all(|path| path.exists()));
        let (report, _) = story.with(&options);
        assert!(report.continued && report.failures.is_empty(), "{report:?}");
        assert!(!left.iter().any(|path| path.exists()));
        assert_eq!(std::fs::read(story.out("way/more/wanted")).unwrap(), b"1");
        assert!(!story.out("way/other").exists());
        lakebed_testkit::remove_all(&story.place.path("out"));
    }
}

/// A restore that is killed leaves a marker, and files that show that they are not whole.
#[test]
fn what_a_killed_restore_left_is_completed_or_cleared_away() {
    let story = Story::of(&three_files().file("d/inside", b"1".to_vec()));
    let boot = || {
        let cut = RestoreOptions { threads: 1, ..story.options(Overwrite::Never) };
        assert!(story.try_with(&cut, &StopAfter::new(1)).is_err());
        let marker = std::fs::read_to_string(story.place.path("out/.lakebed-restore")).unwrap();
        lakebed_testkit::remove_all(&story.place.path("out"));
        marker
    };
    let marker = boot();
    let (id, _) = marker.split_once(' ').unwrap();
    for (marker, is_same_boot) in [(marker.clone(), true), (format!("{id} another boot"), false)] {
        story.restored(Overwrite::Never);
        std::fs::write(story.place.path("out/.lakebed-restore"), marker).unwrap();
        std::fs::write(story.out("changed"), "as").unwrap();
        std::fs::set_permissions(story.out("changed"), std::fs::Permissions::from_mode(0o200)).unwrap();
        // its bytes were never written out, but its time was
        write_with_mtime(&story.out("same"), &[0; 9], OLD as u64);
        // somebody has edited it since
        write_with_mtime(&story.out("newer"), b"edited", OLD as u64 + 99);
        std::fs::write(story.out("d/.lakebed-restore-1-2"), "was to be renamed").unwrap();
        let dry = RestoreOptions { dry_run: true, ..story.options(Overwrite::Never) };
        story.with(&dry);
        assert!(story.out("d/.lakebed-restore-1-2").exists());
        let (report, actions) = story.with(&story.options(Overwrite::Never));
        assert!(report.continued && report.failures.is_empty(), "{report:?}");
        assert!(!story.out("d/.lakebed-restore-1-2").exists());
        assert_eq!(actions["changed"], Action::Replaced);
        assert_eq!(std::fs::read(story.out("changed")).unwrap(), b"as it was");
        assert_eq!(std::fs::read(story.out("newer")).unwrap(), b"edited");
        let same = if is_same_boot { &[0; 9] } else { b"as it was" };
        assert_eq!(std::fs::read(story.out("same")).unwrap(), same);
        lakebed_testkit::remove_all(&story.place.path("out"));
    }
}
