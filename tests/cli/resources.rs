//! What a user meets where something is missing: room, permission, open files, memory.

use std::os::unix::process::CommandExt;
use std::path::Path;

use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::disk::with_mounts;
use lakebed_testkit::is_root;

use crate::kit::{Kit, Said, said};

/// Number of the user `nobody`.
const NOBODY: u32 = 65534;

/// Makes many small files, so that the index is larger than a small disk.
fn many_files(kit: &Kit, below: &str, folders: usize, files: usize) {
    for folder in 0..folders {
        for file in 0..files {
            kit.file(&format!("{below}/{folder:03}/{file:03}"), &format!("{below} {folder} {file}"));
        }
    }
}

/// Every command that only reads, and a restore that is compared with the source.
fn assert_readable(kit: &Kit, target: &str, run: &dyn Fn(&[&str]) -> Said) {
    run(&["snapshots"]).exits(0);
    run(&["ls", "latest"]).exits(0);
    run(&["verify"]).exits(0);
    run(&["verify", "--read-data"]).exits(0);
    run(&["restore", "latest", "--path", "src", "--target", target]).exits(0);
    assert_same_tree(&kit.path("src"), &Path::new(target).join("src"), &CompareOptions::default());
}

fn out(kit: &Kit, name: &str) -> String {
    kit.path(name).display().to_string()
}

#[test]
fn an_empty_cache_on_a_full_disk_leads_to_memory() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let cache = mounts.disk(&kit.path("cache"), 1 << 20);
        cache.fill();
        kit.run(&["init"]).exits(0);
        kit.run(&["backup", "src"]).exits(0).says("kept in memory");
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0);
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
        kit.run(&["index", "rebuild"]).exits(1).says("free space where").says("cache");
        cache.empty();
        let said = kit.run(&["backup", "src"]).exits(0);
        assert!(!said.err.contains("index"), "{said:#?}");
        kit.run(&["index", "rebuild"]).exits(0);
    });
}

#[test]
fn an_index_whose_disk_is_full_is_read_as_it_is() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let cache = mounts.disk(&kit.path("cache"), 2 << 20);
        kit.run(&["init"]).exits(0);
        kit.run(&["backup", "src"]).exits(0);
        cache.fill();
        let before = names_below(&kit.path("cache"));
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0).says("not written");
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
        // it was neither thrown away nor made anew
        assert_eq!(folders(&before), folders(&names_below(&kit.path("cache"))));
        cache.empty();
        let said = kit.run(&["backup", "src"]).exits(0);
        assert!(!said.err.contains("index"), "{said:#?}");
        assert_eq!(folders(&before), folders(&names_below(&kit.path("cache"))));
    });
}

fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(names_below(&path));
        }
    }
    names.sort();
    names
}

fn folders(names: &[String]) -> Vec<&String> {
    names.iter().filter(|name| name.contains("rocks-") && !name.contains("rocks-1/")).collect()
}

/// The disk of the cache is full as soon as the index is begun, while it is written, or when it is to be kept.
#[test]
fn a_cache_disk_that_fills_up_while_the_index_is_written_costs_nothing() {
    let kit = Kit::new();
    kit.run(&["init"]).exits(0);
    // several segments, each of which alone nearly fills the buffer that RocksDB has with so little memory
    for part in ["a", "b", "c"] {
        many_files(&kit, &format!("src/{part}"), 80, 100);
        kit.run(&["backup", "src"]).exits(0);
    }
    for kib in [16, 64, 256, 600, 1000, 1400] {
        with_mounts(|mounts| {
            let small = kit.path(&format!("small-{kib}"));
            mounts.disk(&small, kib << 10);
            let run = |arguments: &[&str]| {
                let mut command = kit.command(arguments);
                said(command.env("LAKEBED_CACHE_DIR", &small).env("LAKEBED_MEMORY", "1MiB").output().unwrap())
            };
            let target = out(&kit, &format!("out-{kib}"));
            run(&["verify"]).exits(0).says("the local index").says("No space left on device");
            run(&["backup", "src"]).exits(0).says("0 B new");
            run(&["restore", "latest", "--path", "src/b/007", "--target", &target]).exits(0);
            assert_same_tree(&kit.path("src/b/007"), &Path::new(&target).join("src/b/007"), &CompareOptions::default());
        });
    }
    assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
}

#[test]
fn a_cache_that_may_only_be_read_is_read() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    with_mounts(|mounts| {
        mounts.make_read_only(&kit.path("cache"));
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0).says("not written").says("Read-only file system");
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
    });
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn a_cache_that_may_not_even_be_looked_at_is_not_used() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    let run = as_nobody(&kit, &["repo", "src"]);
    let forbidden = kit.path("forbidden");
    std::fs::create_dir(&forbidden).unwrap();
    set_mode(&forbidden, if is_root() { 0o700 } else { 0 });
    let cache = forbidden.join("cache");
    let run = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--cache-dir", cache.to_str().unwrap()]);
        run(&arguments)
    };
    std::fs::create_dir(kit.path("out")).unwrap();
    set_mode(&kit.path("out"), 0o777);
    assert_readable(&kit, &out(&kit, "out/1"), &run);
    kit.file("src/b", "b");
    give(&kit.path("src/b"));
    run(&["backup", "src"]).exits(0).says("Permission denied");
    assert_readable(&kit, &out(&kit, "out/2"), &run);
    set_mode(&forbidden, 0o700);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives a file or folder to the user `nobody`, where we may.
fn give(path: &Path) {
    if is_root() {
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
        }
    }
}

/// Runs commands as a user whom permissions hold back, who owns the given folders of the kit.
fn as_nobody<'a>(kit: &'a Kit, owns: &[&str]) -> impl Fn(&[&str]) -> Said + use<'a> {
    set_mode(kit.folder.path(), 0o755);
    owns.iter().for_each(|name| give(&kit.path(name)));
    |arguments| {
        let mut command = kit.command(arguments);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        said(command.output().unwrap())
    }
}
